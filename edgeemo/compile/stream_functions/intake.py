"""Pre-processing of a batch of calls as a compiled function: next step of each ring, without its DC offset.

    intake(slots, taken, rings, mean, begun_at, limits, audio, start)

It does on the same arrays what the runtime's AudioRings.take and Conditioner do in numpy, whose code a step's weights push out of
the cache; tests hold the two to the same bits. No size of a model is in it: sizes come with the arrays.
"""

from __future__ import annotations

from edgeemo_runtime.conditioning import OFFSET_MEMORY
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.stream_functions.builder import FunctionBuilder, rounded

INTAKE = "intake"
LANES = 4  # of the sum of a step's samples


def intake() -> tirx.PrimFunc:
    """The next step of each slot from its ring, without an offset that lasts; a step of ``rings`` lies in one piece."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(INTAKE)
        b = FunctionBuilder()
        slots = b.buffer("slots", "int32", "batch")
        taken = b.buffer("taken", "int64", "slots")
        rings = b.buffer("rings", "float32", "slots", "capacity")
        mean = b.buffer("mean", "float32", "slots")
        begun_at = b.buffer("begun_at", "int64", "slots")
        limits = b.buffer("limits", "float64", 2)  # the largest offset that is let be, and samples a second
        audio = b.buffer("audio", "float32", "batch", "step")
        start = b.buffer("start", "float64", "batch")
        T.func_attr({"tirx.noalias": True})
        step, vectors = b.sizes["step"], tirx.truncdiv(b.sizes["step"], LANES)
        with T.serial(0, b.sizes["batch"]) as i:
            slot = T.Bind(slots[i])
            position = T.Bind(taken[slot])
            at = T.Bind(tirx.truncmod(position, b.sizes["capacity"]))
            sums = b.local("float32", T.float32(0), LANES)
            with T.serial(0, vectors) as v:
                part = T.Bind(rings[slot, T.Ramp(at + v * LANES, 1, LANES)])
                T.buffer_store(audio, part, [i, T.Ramp(v * LANES, 1, LANES)])
                T.buffer_store(sums, sums[T.Ramp(0, 1, LANES)] + part, [T.Ramp(0, 1, LANES)])
            with T.serial(vectors * LANES, step) as rest:
                T.buffer_store(audio, rings[slot, at + rest], [i, rest])
                T.buffer_store(sums, sums[0] + rings[slot, at + rest], [0])
            total = T.Bind((sums[0] + sums[1]) + (sums[2] + sums[3]))
            average = T.Bind(total / T.Cast("float32", step))
            learned = T.Bind(mean[slot] + rounded(T.float32(OFFSET_MEMORY) * (average - mean[slot])))
            T.buffer_store(mean, learned, [slot])
            with T.If(T.Cast("float64", tirx.abs(learned)) > limits[0]), T.Then():
                with T.serial(0, vectors) as v:
                    ramp = T.Ramp(v * LANES, 1, LANES)
                    T.buffer_store(audio, audio[i, ramp] - T.Broadcast(learned, LANES), [i, ramp])
                with T.serial(vectors * LANES, step) as rest:
                    T.buffer_store(audio, audio[i, rest] - learned, [i, rest])
            T.buffer_store(start, T.Cast("float64", begun_at[slot] + position) / limits[1], [i])
            T.buffer_store(taken, position + step, [slot])
    return builder.get()
