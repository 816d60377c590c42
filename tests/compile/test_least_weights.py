"""Products with weights of -128, whose sums of pairs do not fit int16: exact all the same, on this machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeemo.compile.kernels import gemm, pack
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets import capabilities
from tests.compile.test_kernels import CASES, HOST, Case, call, inputs


def least_products(case: Case, batch: int) -> tuple[Gemm, np.ndarray, np.ndarray, np.ndarray]:
    """As ``inputs`` has it, of weights and activations that are -128 for the most part."""
    rng = np.random.default_rng(4)
    spec, a, w, _ = inputs(case, batch, rng, integer=True)
    for values in (a, w):
        values[rng.random(values.shape) < 0.7] = -128
    windows = [a[:, tap : tap + (case.rows - 1) * case.stride + 1 : case.stride] for tap in range(case.taps)]
    rows = np.stack(windows, axis=2).reshape(batch, case.rows, case.taps, case.groups, -1).astype(np.int64)
    return spec, a, w, np.einsum("brtgk,gtkn->brgn", rows, w.astype(np.int64)).reshape(batch, case.rows, case.n)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_of_minus_128_are_exact(case: Case) -> None:
    spec, a, w, expected = least_products(case, 3)
    spec = replace(spec, microkernel=capabilities.select_microkernel(HOST.microkernels, "s8", w, 127))
    out = np.zeros((3, case.rows, case.n), dtype=np.float32)
    call(gemm.build(spec, HOST), 3, [a, pack.pack_s8(w), pack.pad_columns(np.ones(case.n), case.groups), out])
    np.testing.assert_array_equal(out.astype(np.int64), expected)
