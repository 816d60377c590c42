"""Calls that an application gets wrong: NULL, sizes from nowhere, handles of what is gone. Each is a status and a sentence, no
crash; and what worked before works after."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import byref, c_double, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.c.library import (
    Audio,
    Engine,
    Info,
    Library,
    LibraryError,
    LinkedModel,
    LoadOptions,
    ModelStats,
    Options,
    Result,
    Rules,
    Sized,
    Stats,
    Tensor,
)

INVALID, CLOSED, WRONG_THREAD = 1, 7, 10
SIZES = (0, 1, 3, 4, 7, 1 << 17, 0xFFFFFFFF)


def said(library: Library, status: int) -> str:
    """The sentence of a refusal, which must be there and printable."""
    assert status != 0
    text: str = library.c.edgeemo_last_error().decode()
    assert text and text.isprintable()
    return text


def test_null_for_everything(library: Library) -> None:
    """Every function with nothing but NULL and 0."""
    c, none = library.c, None
    calls: dict[str, tuple[Any, ...]] = {
        "model_load": (none, none, none), "model_load_memory": (none, 0, none, 0, none, none), "model_linked": (none, none),
        "model_get_info": (none, none), "model_get_tensor": (none, 0, 0, none), "rules_defaults": (none, none),
        "audio_rules_defaults": (none,), "engine_create": (none, none, none), "engine_create_in": (none, none, none, 0, none),
        "engine_attach": (none,), "engine_swap": (none, none, 0), "engine_start_canary": (none, none, 0.5),
        "engine_end_canary": (none, 0, 0), "engine_get_stats": (none, none), "engine_get_model_stats": (none, 0, none),
        "stream_open": (none, none), "stream_open_for": (none, none, none), "stream_close": (none, 0), "stream_finish": (none, 0),
        "stream_room": (none, 0, none), "stream_waiting": (none, 0, none), "stream_recent": (none, 0, none, 0, none),
        "push": (none, 0, 0, none, 0, 0, 0.0), "step": (none, none, 0, none), "function_create": (none, 0, none),
        "function_run": (none, 0, none, none),
    }  # fmt: skip
    for name, arguments in calls.items():
        assert getattr(c, f"edgeemo_{name}")(*arguments) == INVALID, name
        said(library, INVALID)
    for kind in ("s16", "f32", "ulaw", "alaw"):
        assert getattr(c, f"edgeemo_push_{kind}")(None, c_int64(0), None, c_size_t(0), c_int64(0)) == INVALID
    since = c_double(5)
    assert c.edgeemo_ready(None, byref(since)) == 0 and since.value == float("inf")
    assert c.edgeemo_engine_memory(None, None) == 0
    assert c.edgeemo_model_label(None, 0) is None and c.edgeemo_model_intensity(None, 0) is None
    for name in ("model_release", "model_retain", "engine_destroy", "function_destroy"):
        getattr(c, f"edgeemo_{name}")(None)
    c.edgeemo_clear(None, c_size_t(8))
    assert [c.edgeemo_status_name(n) for n in (-1, 11, 1 << 30)] == [b"?"] * 3
    assert [c.edgeemo_handoff_reason(n) for n in (-1, 4, 1 << 30)] == [b""] * 3


def test_sizes_from_nowhere(library: Library) -> None:
    for size in SIZES:
        for made, name in ((Rules(), "rules_defaults"), (Audio(), "audio_rules_defaults")):
            made.struct_size = size
            arguments = (byref(made), None) if name == "rules_defaults" else (byref(made),)
            assert "use EDGEEMO_INIT" in said(library, getattr(library.c, f"edgeemo_{name}")(*arguments))
        options, linked, model = LoadOptions(), LinkedModel(), c_void_p()
        options.struct_size = linked.struct_size = size
        assert "use EDGEEMO_INIT" in said(library, library.c.edgeemo_model_load(b"x", byref(options), byref(model)))
        assert "use EDGEEMO_INIT" in said(library, library.c.edgeemo_model_linked(byref(linked), byref(model)))
    assert "is NULL" in said(library, library.c.edgeemo_model_linked(byref(LinkedModel(manifest_size=9)), byref(model)))
    assert "is NULL" in said(library, library.c.edgeemo_model_linked(byref(LinkedModel(weights_size=9)), byref(model)))


@pytest.fixture
def loaded(library: Library, host_artifacts: dict[str, Path]) -> Iterator[c_void_p]:
    made = library.load(host_artifacts["int8"])
    yield made
    library.release(made)


@pytest.fixture
def engine(library: Library, loaded: c_void_p) -> Iterator[Engine]:
    made = Engine(library, loaded, 4)
    yield made
    made.destroy()


def test_structs_of_a_wrong_size(library: Library, loaded: c_void_p, engine: Engine) -> None:
    count = c_size_t()
    for size in SIZES:
        gets: list[tuple[str, tuple[Any, ...], Sized]] = [
            ("model_get_info", (loaded,), Info()), ("model_get_tensor", (loaded, 0, 0), Tensor()),
            ("engine_get_stats", (engine.c,), Stats()), ("engine_get_model_stats", (engine.c, 0), ModelStats()),
        ]  # fmt: skip
        for name, arguments, out in gets:
            out.struct_size = size
            assert "use EDGEEMO_INIT" in said(library, getattr(library.c, f"edgeemo_{name}")(*arguments, byref(out))), name
        options, made = Options(), c_void_p()
        options.struct_size = size
        assert "use EDGEEMO_INIT" in said(library, library.c.edgeemo_engine_create(loaded, byref(options), byref(made)))
        results = (Result * 4)()
        results[0].struct_size = size
        assert "use EDGEEMO_INIT" in said(library, library.c.edgeemo_step(engine.c, results, 4, byref(count)))
    larger = type("Larger", (Stats,), {"_fields_": [("more", c_int64 * 4)]})()  # a program of a newer header
    larger.more[:] = [7] * 4
    library.call("engine_get_stats", engine.c, byref(larger))
    assert larger.struct_size == ctypes.sizeof(larger) and list(larger.more) == [7] * 4


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_streams", -1), ("max_streams", 10_001), ("max_streams", (1 << 31) - 1), ("backlog_hops", -1),
        ("backlog_hops", 1001), ("budget_s", -1.0), ("budget_s", float("nan")),
    ],
)  # fmt: skip
def test_options_out_of_range(library: Library, loaded: c_void_p, option: str, value: float) -> None:
    options, made = Options(**{option: value}), c_void_p()
    assert option in said(library, library.c.edgeemo_engine_create(loaded, byref(options), byref(made)))
    assert made.value is None and library.c.edgeemo_engine_memory(loaded, byref(options)) == 0


def test_streams_that_are_gone(library: Library, engine: Engine, sounds: list[np.ndarray]) -> None:
    """A number that was closed is never another's, whoever has its slot now."""
    old = engine.open()
    engine.push(old, sounds[0][:1280])
    engine.close(old)
    new = engine.open()
    assert new != old and new & 0xFFFF == old & 0xFFFF
    count = c_size_t()
    for stream in (old, -1, new + 1, new ^ 1, 1 << 62, -(1 << 63), (1 << 63) - 1):
        for name, arguments in (
            ("stream_close", ()), ("stream_finish", ()), ("stream_room", (byref(count),)), ("stream_waiting", (byref(count),)),
            ("stream_recent", (None, 0, byref(count))), ("push", (0, None, 0, 0, 0.0)),
        ):  # fmt: skip
            assert getattr(library.c, f"edgeemo_{name}")(engine.c, stream, *arguments) == CLOSED, (stream, name)
            said(library, CLOSED)
    engine.push(new, sounds[0][:1280])
    assert len(engine.step()) == 1


def test_counts_that_no_memory_has(library: Library, engine: Engine, sounds: list[np.ndarray]) -> None:
    stream, sound = engine.open(), np.ascontiguousarray(sounds[0][:1280], np.float32)
    for count in (1 << 41, (1 << 64) - 1, 1 << 63):
        for kind in range(4):
            assert library.c.edgeemo_push(engine.c, stream, kind, sound.ctypes.data, count, 0, 0.0) == INVALID
    assert library.c.edgeemo_push(engine.c, stream, 9, sound.ctypes.data, 8, 0, 0.0) == INVALID
    engine.push(stream, sound)
    answered = c_size_t(5)
    library.call("step", engine.c, engine._results, (1 << 64) - 1, byref(answered))  # room for all there can be
    assert answered.value == 1


@pytest.mark.parametrize("kind", ["s16", "f32"])
def test_samples_at_any_address(library: Library, loaded: c_void_p, sounds: list[np.ndarray], kind: str) -> None:
    dtype = np.int16 if kind == "s16" else np.float32
    samples = (sounds[0][: 1280 * 8] * (20000 if kind == "s16" else 1)).astype(dtype)
    odd = np.zeros(samples.nbytes + 1, np.uint8)
    odd[1:] = samples.view(np.uint8)
    engine = Engine(library, loaded, 2, backlog_hops=8)
    streams = [engine.open(), engine.open()]
    for stream, at in zip(streams, (samples.ctypes.data, odd.ctypes.data + 1), strict=True):
        library.call("push", engine.c, stream, 0 if kind == "s16" else 1, at, len(samples), -(1 << 63), float("nan"))
    for _ in range(8):
        a, b = engine.step()
        np.testing.assert_array_equal(*(np.ctypeslib.as_array(r.probabilities, (r.label_count,)) for r in (a, b)))
    engine.destroy()


@pytest.mark.parametrize("time", [-5.05, -1e15, float("nan"), float("inf"), -float("inf"), 1e300])
def test_clocks_that_are_wrong(library: Library, loaded: c_void_p, sounds: list[np.ndarray], time: float) -> None:
    """Below zero, or no time at all: phases are spread by it and answers timed, no index comes from it unchecked."""
    engine = Engine(library, loaded, 20, spread_phases=True, clock=lambda: time)
    streams = [engine.open() for _ in range(20)]
    for stream in streams:
        engine.push(stream, sounds[0][:1280])
    assert len(engine.step()) == 20
    engine.destroy()


def test_memory_of_the_caller_s(library: Library, loaded: c_void_p) -> None:
    """Too little is refused; what was destroyed answers with an error, twice destroyed is once."""
    size = library.c.edgeemo_engine_memory(loaded, None)
    memory, made = ctypes.create_string_buffer(size + 64), c_void_p()
    create = library.c.edgeemo_engine_create_in
    assert create(loaded, None, None, c_size_t(size), byref(made)) == INVALID
    assert f"needs {size} bytes" in said(library, create(loaded, None, memory, c_size_t(size - 1), byref(made)))
    odd = ctypes.addressof(memory) + 1
    assert create(loaded, None, c_void_p(odd), c_size_t(size), byref(made)) == 0
    stream = c_int64()
    library.call("stream_open", made, byref(stream))
    library.c.edgeemo_engine_destroy(made)
    assert library.c.edgeemo_stream_open(made, byref(stream)) == WRONG_THREAD
    library.c.edgeemo_engine_destroy(made)


def test_a_model_that_is_let_go_of_serves_on(library: Library, host_artifacts: dict[str, Path], sounds: list[np.ndarray]) -> None:
    """Engines own their models: releasing one while it serves is no mistake."""
    model = library.load(host_artifacts["int8"])
    engine = Engine(library, model, 1)
    library.release(model)
    stream = engine.open()
    engine.push(stream, sounds[0][:1280])
    assert len(engine.step()) == 1
    with pytest.raises(LibraryError, match="INVALID: edgeemo_engine_swap: the model is NULL"):
        engine.swap(c_void_p())
    engine.destroy()


def test_another_thread(library: Library, engine: Engine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def from_there() -> list[int]:
        out, stats = c_int64(), Stats()
        return [
            library.c.edgeemo_stream_open(engine.c, byref(out)),
            library.c.edgeemo_engine_get_stats(engine.c, byref(stats)),
            library.c.edgeemo_engine_end_canary(engine.c, c_int32(0), c_int32(0)),
        ]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(from_there).result() == [WRONG_THREAD] * 3
        assert pool.submit(library.c.edgeemo_engine_attach, engine.c).result() == 0
        assert pool.submit(from_there).result()[:2] == [0, 0]
    engine.library.call("engine_attach", engine.c)
    assert engine.stats().open_streams == 1
