"""The float attention kernel by itself, against the plain formula, while its rings turn."""

from __future__ import annotations

import numpy as np
import pytest

from edgeemo.compile.kernels.attention.f32 import Attention
from edgeemo.compile.kernels.attention.f32 import build as build_attention
from tests.compile.test_kernels import HOST, build, call


def reference(spec: Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray, extra: dict[str, np.ndarray]) -> np.ndarray:
    """(rows, d) of one stream in float64; q, k, v (tokens, d), oldest token first."""

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), spec.heads, spec.width).swapaxes(0, 1).astype(np.float64)

    scores = split(q) @ split(k).swapaxes(1, 2) * spec.scale + extra["mask"] + extra.get("distance", 0.0)
    p = np.exp(scores - scores.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    if spec.pooled:
        p = (p * extra["pool"][None, :, None]).sum(axis=1, keepdims=True)
    return (p @ split(v)).swapaxes(0, 1).reshape(-1, spec.heads * spec.width)


@pytest.mark.parametrize(("new", "past", "cached", "pooled"), [(3, 3, False, False), (1, 24, False, False), (3, 9, True, True)])
def test_over_a_turning_ring(new: int, past: int, cached: bool, pooled: bool) -> None:
    """Two of three slots, the other one's rings untouched; until every ring has gone round."""
    rng = np.random.default_rng(9)
    heads, width = 2, 12
    d, keys = heads * width, past + new
    stride = past * d + 16
    spec = Attention(
        heads, width, new, past, cached, 3 * d, 0, d, 2 * d, True, not cached, pooled, state_stride=stride, scale=0.3
    )
    queries = spec.queries
    distance = rng.standard_normal((heads, queries, keys)).astype(np.float32)
    slots = np.array([2, 0], np.int32)
    rings = [np.zeros((3, stride), np.float32) for _ in range(3 if cached else 2)]
    history = [np.zeros((keys, 3 * d), np.float32) for _ in slots]
    function, built = build_attention(spec, HOST), None
    for step in range(past // new + 3):
        tokens = rng.standard_normal((2, new, 3 * d)).astype(np.float32)
        clock = np.full((3, stride), step, np.int32)
        mask = np.where(np.arange(keys) >= keys - new * (step + 1), 0.0, -1e4).astype(np.float32)
        pool = rng.dirichlet(np.ones(queries)).astype(np.float32)
        out = np.zeros((2, 1 if pooled else new, d), np.float32)
        arrays = [slots, clock, tokens, *rings, np.stack([mask, mask])]
        arrays += [] if cached else [distance]
        arrays += [np.stack([pool, pool])] if pooled else []
        arrays.append(out)
        built = built or build(function, arrays)
        call(function, 2, arrays, built)
        for n in range(2):
            history[n] = np.concatenate([history[n], tokens[n]])[-keys:]
            seen = history[n]
            extra = {"mask": mask, "pool": pool} | ({} if cached else {"distance": distance})
            q = seen[:, :d] if cached else tokens[n][:, :d]
            expected = reference(spec, q, seen[:, d : 2 * d], seen[:, 2 * d :], extra)
            np.testing.assert_allclose(out[n], expected, rtol=1e-4, atol=1e-5)
    assert not any(ring[1].any() for ring in rings)
