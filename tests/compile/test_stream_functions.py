"""Stream functions by themselves: steps of any length (tests/runtime/test_compiled_rules.py has whole calls)."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from edgeemo_runtime.conditioning import AudioRules, Conditioner
from edgeemo_runtime.memory import aligned_zeros
from edgeemo_runtime.ring import AudioRings

from edgeemo.compile.stream_functions.intake import INTAKE, intake
from edgeemo.targets.board import load_target


def aligned(array: np.ndarray) -> np.ndarray:
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy


@pytest.mark.parametrize("step", [3, 4, 10, 16])
def test_a_step_of_any_length_is_taken_whole(step: int) -> None:
    built = tvm.tirx.build(tvm.IRModule({INTAKE: intake()}), target=load_target("host").tvm_target())
    rng, slots = np.random.default_rng(step), np.array([2, 0])
    rings, conditioner = AudioRings(3, step, 2 * step, 2), Conditioner(3, step, AudioRules())
    for slot in range(3):  # the second has an offset that lasts
        rings.push(slot, rng.standard_normal(2 * step).astype(np.float32) + np.float32(0.5 * (slot == 0)))
    begun_at, limits = aligned(np.array([5, 6, 7])), aligned(np.array([conditioner.rules.max_offset, 100.0]))
    for _ in range(2):
        taken, mean = aligned(rings.taken_samples), aligned(conditioner.mean)
        audio, start = aligned_zeros((2, step), np.float32), aligned_zeros((2,), np.float64)
        arrays = [aligned(slots.astype(np.int32)), taken, rings.samples, mean, begun_at, limits, audio, start]
        built[INTAKE](*map(tvm_ffi.from_dlpack, arrays))
        wanted = np.empty((2, step), dtype=np.float32)
        np.testing.assert_array_equal(start, (begun_at[slots] + rings.taken_samples[slots]) / 100.0)
        rings.take(slots, wanted)
        conditioner(slots, wanted)
        np.testing.assert_allclose(audio, wanted, atol=1e-6)
        np.testing.assert_allclose(mean, conditioner.mean, atol=1e-6)
        np.testing.assert_array_equal(taken, rings.taken_samples)
