from __future__ import annotations

import re

import onnx

from edgeemo.analyze.parts import find_parts
from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.plan import Plan, plan
from edgeemo.quantize.recipe import Recipe, Rule, load_recipe
from edgeemo.targets.board import load_target


def test_parts_of_the_default_model_have_all_its_int8_macs(float_onnx: onnx.ModelProto) -> None:
    parts = find_parts(plan(float_onnx, "m", Recipe()))
    assert [p.op for p in parts].count("Attention") == 4
    assert len(parts) == 18 + 4
    by_name = {p.name: p for p in parts}
    assert by_name["stem.conv2"].macs == 8 * 384 * 384 * 3  # positions, in, out, taps
    assert by_name["layers.0.ffn.up"].macs == 4 * 384 * 1440
    assert by_name["layers.0.global_path"].macs > 0
    assert [p.name for p in parts][:3] == ["stem.conv1", "stem.conv2", "emotion_conv.conv"]  # the graph's order


def test_a_kept_part_is_a_part_still(float_onnx: onnx.ModelProto) -> None:
    kept = find_parts(plan(float_onnx, "m", load_recipe("int8-kl-fp16-emotion-conv")))
    assert [p.name for p in kept] == [p.name for p in find_parts(plan(float_onnx, "m", Recipe()))]


def test_layers_of_one_weight_are_one_part(planned: Plan) -> None:
    by_name = {p.name: p for p in find_parts(planned)}
    recurrent = by_name["lstm_recurrent"]
    assert len(recurrent.members) == 7
    assert recurrent.bytes("int8") < recurrent.bytes("fp32") / 3


def test_a_pattern_names_its_members_and_nothing_else(planned: Plan) -> None:
    names = [layer.name for layer in planned.layers]
    for part in find_parts(planned):
        if part.layers:
            assert [n for n in names if re.search(part.pattern, n)] == list(part.members)


def test_cycles_follow_the_boards_rates(planned: Plan) -> None:
    part, board = find_parts(planned)[0], load_target("aarch64-neon")
    assert part.cycles("int8", load_recipe("int8-kl"), board) == part.macs / board.macs_per_cycle["int8"]
    assert part.cycles("int8", load_recipe(DEFAULT_RECIPE), board) == part.macs / board.macs_per_cycle["int8_winograd"]
    assert part.cycles("int8", Recipe(), load_target("host")) is None
    assert Rule(part.pattern, "fp16").matches(part.name)
