"""Whisper's encoder made to stream: what is done to its weights before export."""

from __future__ import annotations

import torch

from edgeemo.model.encoder import EncoderLayer, Positions


def test_evened_layers_are_the_same_function_with_like_channels() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(24, 4, 40, (4, 8), 2)
    with torch.no_grad():
        layer.norm.weight.mul_(torch.logspace(-2, 2, 24))  # what one scale for all of a tensor cannot hold
        layer.ffn.norm.weight.mul_(torch.logspace(1, -2, 24))
    x, past = torch.randn(2, 6, 24), [torch.zeros(2, n, 12) for n in (4, 4, 8, 8)]
    masks = [torch.zeros(2 * 3, 1, 1, n + 2) for n in (4, 8)]
    before, _ = layer(x, past, *masks, 3)
    reach = layer.norm.weight.abs()
    layer.equalise()
    after, _ = layer(x, past, *masks, 3)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    evened = layer.norm.weight.abs()
    assert evened.max() / evened.min() < 0.2 * reach.max() / reach.min()


def test_positions_of_a_step_are_the_same_folded() -> None:
    plain, folded = Positions(384, 4), Positions(384, 4)
    folded.fold()
    past = torch.zeros(2, 384)
    for _ in range(5):
        (tokens, after), (same, next_) = plain(past, 1), folded(past, 1)
        assert torch.equal(tokens, same) and torch.equal(after, next_)
        past = after
    assert torch.equal(plain(past, 3)[0], folded(past, 3)[0])
