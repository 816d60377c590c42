"""libedgeemo by ctypes: an engine with the Python one's interface. Needs nothing but the runtime and numpy, so that the emulated
board has it as well."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import DecisionRules

NO_CLOCK = -(1 << 63)
STATUS = (
    "OK",
    "INVALID",
    "NO_FILE",
    "DAMAGED",
    "UNFIT",
    "UNTRUSTED",
    "OVERLOAD",
    "CLOSED",
    "NO_MEMORY",
    "BAD_CODE",
    "WRONG_THREAD",
)
FORMATS = {"s16": (0, np.int16), "f32": (1, np.float32), "ulaw": (2, np.uint8), "alaw": (3, np.uint8)}
CLOCK = ctypes.CFUNCTYPE(c_double, c_void_p)


class Sized(ctypes.Structure):
    """A struct of the API, its first member set."""

    def __init__(self, **values: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **values)


def struct(name: str, fields: str) -> type[Sized]:
    """``fields``: "i a, b; d c" (i int32, u uint32, q int64, Q uint64, d double, p pointer, s text, f float array, z size_t)."""
    kinds = {"i": c_int32, "u": c_uint32, "q": c_int64, "Q": c_uint64, "d": c_double, "p": c_void_p, "s": c_char_p,
             "f": POINTER(c_float), "z": c_size_t}  # fmt: skip
    members = [("struct_size", c_uint32)]
    for part in fields.split(";"):
        kind, names = part.strip().split(" ", 1)
        members += [(n.strip(), kinds[kind]) for n in names.split(",")]
    return type(name, (Sized,), {"_fields_": members})


LoadOptions = struct("LoadOptions", "u allow_writable; p keys; z key_count")
LinkedModel = struct("LinkedModel", "u manifest_size; p manifest, weights; Q weights_size; p step, intake, decide")
Info = struct(
    "Info",
    "i is_stream, sample_rate, samples_per_step, ring_samples, label_count, input_count, output_count; s version, target; "
    "q weight_bytes, state_bytes, arena_bytes",
)
Rules = struct(
    "Rules",
    "i consistency, confidence, settle, handoff, intensity, window_steps, settle_decisions, handoff_decisions, reserved; "
    "d alpha, disagreement, min_confidence, jump_s, decision_s",
)
Audio = struct("Audio", "i reset_at_gaps, skip_silence, hangover_steps; d max_fill_s, max_offset, silence_dbfs")
Options = struct(
    "Options",
    "i max_streams, backlog_hops, drop_oldest, spread_phases, reserved; d budget_s; p rules, audio, clock, clock_user",
)
Stats = struct(
    "Stats",
    "i open_streams, models, moving; Q steps, listening, decisions, changes, jumps, low, errors, late, handoff0, handoff1, "
    "handoff2, handoff3, opened, "
    "refused, dropped_hops, gaps, filled_samples, skipped_samples, resets, restarts, duplicate_samples, late_samples, "
    "dropped_samples, skipped_steps",
)
ModelStats = struct(
    "ModelStats",
    "i role, open_streams, reserved; s model; Q steps, listening, decisions, changes, jumps, low, errors, late, "
    "handoff0, handoff1, handoff2, handoff3",
)
Result = struct(
    "Result",
    "i label, intensity, handoff, low, changed, jumped, decision, label_count, reserved; "
    "q stream; d start_s, end_s, waited_s; "
    "f probabilities, smoothed, decided; s model",
)
Tensor = type(
    "Tensor",
    (Sized,),
    {"_fields_": [("struct_size", c_uint32), ("dtype", c_int32), ("name", c_char_p), ("size", c_int64), ("dims", c_int32),
                  ("reserved", c_int32), ("shape", c_int64 * 16)]},
)  # fmt: skip


class LibraryError(Exception):
    """A status that is not OK: its name and sentence."""


class Library:
    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        for name, kind in {
            "last_error": c_char_p, "model_label": c_char_p, "model_intensity": c_char_p, "engine_memory": c_size_t,
            "handoff_reason": c_char_p, "status_name": c_char_p, "version": c_char_p,
        }.items():  # fmt: skip
            getattr(self.c, f"edgeemo_{name}").restype = kind
        self.c.edgeemo_push.argtypes = [c_void_p, c_int64, c_int32, c_void_p, c_size_t, c_int64, c_double]
        for name in ("stream_close", "stream_finish"):
            getattr(self.c, f"edgeemo_{name}").argtypes = [c_void_p, c_int64]
        for name in ("stream_room", "stream_waiting"):
            getattr(self.c, f"edgeemo_{name}").argtypes = [c_void_p, c_int64, POINTER(c_size_t)]
        self.c.edgeemo_stream_recent.argtypes = [c_void_p, c_int64, c_void_p, c_size_t, POINTER(c_size_t)]
        self.c.edgeemo_engine_start_canary.argtypes = [c_void_p, c_void_p, c_double]
        self.c.edgeemo_step.argtypes = [c_void_p, c_void_p, c_size_t, POINTER(c_size_t)]
        self.c.edgeemo_model_load_memory.argtypes = [c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, POINTER(c_void_p)]

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.c, f"edgeemo_{name}")(*arguments)
        if status:
            raise LibraryError(f"{STATUS[status]}: {self.c.edgeemo_last_error().decode()}")

    def load(self, path: Path, keys: tuple[str, ...] = (), allow_writable: bool = False) -> c_void_p:
        options = LoadOptions(allow_writable=allow_writable, key_count=len(keys))
        listed = (c_char_p * max(1, len(keys)))(*(k.encode() for k in keys))
        options.keys = ctypes.cast(listed, c_void_p)
        model = c_void_p()
        self.call("model_load", str(path).encode(), byref(options), byref(model))
        return model

    def release(self, model: c_void_p) -> None:
        self.c.edgeemo_model_release(model)

    def info(self, model: c_void_p) -> Any:
        info = Info()
        self.call("model_get_info", model, byref(info))
        return info


def rules_of(rules: DecisionRules) -> Sized:
    return Rules(**{n: getattr(rules, n) for n, _ in Rules._fields_ if hasattr(rules, n)})


def audio_of(audio: AudioRules) -> Sized:
    return Audio(
        reset_at_gaps=audio.gaps == "reset",
        **{n: getattr(audio, n) for n, _ in Audio._fields_ if hasattr(audio, n)},
    )


class Engine:
    """The C engine, by the names of edgeemo_runtime.Engine."""

    def __init__(
        self,
        library: Library,
        model: c_void_p,
        max_streams: int = 64,
        rules: DecisionRules | None = None,
        audio: AudioRules | None = None,
        overload: str = "refuse",
        backlog_hops: int = 4,
        spread_phases: bool = False,
        clock: Any = None,
        budget_s: float = 0.02,
    ) -> None:
        self.library = library
        kept: list[Any] = [rules_of(rules) if rules else None, audio_of(audio) if audio else None]
        kept.append(CLOCK(lambda _: clock()) if clock else None)
        self._kept = kept
        options = Options(
            max_streams=max_streams, backlog_hops=backlog_hops, drop_oldest=overload == "drop-oldest",
            spread_phases=spread_phases, budget_s=budget_s,
        )  # fmt: skip
        options.rules, options.audio = (ctypes.cast(ctypes.pointer(k), c_void_p) if k else None for k in kept[:2])
        options.clock = ctypes.cast(kept[2], c_void_p) if clock else None
        self.c = c_void_p()
        library.call("engine_create", model, byref(options), byref(self.c))
        self._results = (Result * max_streams)()
        for result in self._results:
            result.struct_size = ctypes.sizeof(Result)

    def open(self, user: str = "") -> int:
        stream = c_int64()
        self.library.call("stream_open_for", self.c, user.encode(), byref(stream))
        return stream.value

    def close(self, stream: int) -> None:
        self.library.call("stream_close", self.c, stream)

    def push(self, stream: int, samples: np.ndarray, at: int | None = None, came: float | None = None, kind: str = "") -> None:
        kind = kind or ("s16" if samples.dtype == np.int16 else "f32")
        number, dtype = FORMATS[kind]
        samples = np.ascontiguousarray(samples, dtype=dtype)
        when = float("nan") if came is None else came
        at = NO_CLOCK if at is None else at
        self.library.call("push", self.c, stream, number, samples.ctypes.data, len(samples), at, when)

    def finish(self, stream: int) -> None:
        self.library.call("stream_finish", self.c, stream)

    def room(self, stream: int) -> int:
        out = c_size_t()
        self.library.call("stream_room", self.c, stream, byref(out))
        return out.value

    def waiting(self, stream: int) -> int:
        out = c_size_t()
        self.library.call("stream_waiting", self.c, stream, byref(out))
        return out.value

    def recent(self, stream: int) -> np.ndarray:
        out, count = np.empty(1 << 16, np.float32), c_size_t()
        self.library.call("stream_recent", self.c, stream, out.ctypes.data, len(out), byref(count))
        return out[: count.value]

    def ready(self) -> tuple[int, float]:
        since = c_double()
        return self.library.c.edgeemo_ready(self.c, byref(since)), since.value

    def step(self, capacity: int | None = None) -> list[Any]:
        capacity = len(self._results) if capacity is None else capacity
        count = c_size_t()
        self.library.call("step", self.c, self._results, capacity, byref(count))
        return [self._results[i] for i in range(count.value)]

    def swap(self, model: c_void_p, carry: str = "replay") -> None:
        self.library.call("engine_swap", self.c, model, int(carry == "replay"))

    def start_canary(self, model: c_void_p, share: float) -> None:
        self.library.call("engine_start_canary", self.c, model, share)

    def end_canary(self, promote: bool, carry: str = "replay") -> None:
        self.library.call("engine_end_canary", self.c, int(promote), int(carry == "replay"))

    def model_stats(self, index: int) -> Any:
        stats = ModelStats()
        self.library.call("engine_get_model_stats", self.c, index, byref(stats))
        return stats

    def stats(self) -> Any:
        stats = Stats()
        self.library.call("engine_get_stats", self.c, byref(stats))
        return stats

    def destroy(self) -> None:
        self.library.c.edgeemo_engine_destroy(self.c)
        self.c = c_void_p()
