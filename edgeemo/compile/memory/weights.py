"""The blob of constants that an artifact carries next to its code."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgeemo.compile.memory.arena import ALIGN, align


@dataclass
class WeightBlob:
    """Constants packed one after another, equal ones once. Kernels load weights ahead, by ``ahead`` bytes and a few vectors:
    ``finish`` leaves them room at the end."""

    ahead: int = 0
    data: bytearray = field(default_factory=bytearray)
    _at: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: np.ndarray) -> int:
        """Byte offset of ``array`` in the blob."""
        raw = array.tobytes()
        key = str(array.dtype).encode() + raw
        if key not in self._at:
            self._at[key] = len(self.data)
            self.data += raw + bytes(align(len(raw)) - len(raw))
        return self._at[key]

    def finish(self) -> bytes:
        return bytes(self.data) + bytes(align(self.ahead) + ALIGN * 2)
