from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime import machine
from edgeemo_runtime.errors import EdgeEmoError
from tvm.target import codegen

from edgeemo.compile.compiler import _estimate
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.recipe import load_recipe
from edgeemo.targets import board as targets
from edgeemo.targets.capabilities import FMLA_F16, INT8_MAX, SDOT, WINOGRAD, select_microkernel


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('isa = "neon"', 'isa = "sve"', "neon or portable"),
        ('"qs8_neon_mlal_4x4c16"', '"qs8_sve"', "names 'qs8_sve'; there are qs8_neon_sdot_8x8c4"),
        ('"qs8_portable_4x4c16", ', "", "none that takes any layer of s8 weights"),
        ("f16 = [8, 8]", "f16 = [8, 16]", "f16 is 8 x 16"),
        ("f32 = [4, 16]", "f32 = [3, 16]", "f32 is 3 x 16"),
        ("block_kib = 16", "", "block_kib"),
        ("prefetch_distance_bytes = 512", "prefetch_distance_bytes = 100", "prefetch_distance_bytes is 100"),
        ('prefetch = "load" ', 'order = "random"\nprefetch = "load" ', "kernels.order is 'random', not written or llvm"),
        ("[kernels]", "[kernels", "is not TOML"),
    ],
)
def test_a_bad_target_file_is_named_with_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    text = (targets.FOLDERS[0] / "aarch64-neon.toml").read_text()
    assert old in text
    (tmp_path / "board.toml").write_text(text.replace(old, new))
    monkeypatch.setattr(targets, "FOLDERS", (tmp_path,))
    with pytest.raises(EdgeEmoError, match=said) as error:
        targets.load_target("board")
    assert "board.toml" in str(error.value)


def test_a_board_s_name_is_no_target_s_and_no_other_board_s() -> None:
    boards = [targets.load_target(n) for n in targets.target_names()]
    names = [name for board in boards for name in board.names]
    assert len(names) == len(set(names)) and not set(names) & set(targets.target_names())
    assert targets.load_target("pi4") == targets.load_target("aarch64-neon")
    assert targets.load_target("rk3588").cpu == "cortex-a76"


def test_each_target_s_recipe_is_one_and_uses_what_its_kernels_allow() -> None:
    """A reduced range costs accuracy: it is for targets whose kernels gain by it."""
    for name in targets.target_names():
        board, recipe = targets.load_target(name), load_recipe(targets.target_recipe(name) or DEFAULT_RECIPE)
        if name != "host":
            reduced = recipe.activation_qmax + recipe.weight_qmax <= INT8_MAX
            assert reduced == (WINOGRAD in board.kernels.microkernels), name
    assert targets.target_recipe("cm5") == "int8-mse" and targets.target_recipe("nobody") == ""


@pytest.mark.parametrize(
    ("shape", "largest", "chosen"),
    [
        ((1, 1, 64, 32), 1.0, FMLA_F16),
        ((2, 3, 8, 8), 31.0, FMLA_F16),
        ((1, 1, 64, 32), 32.0, "f16_outer_product"),  # 128 products with a row's peak of 16 could overflow
        ((1, 1, 64, 32), np.nan, "f16_outer_product"),
        ((1, 1, 12, 32), 1.0, "f16_outer_product"),
        ((1, 1, 64, 12), 1.0, "f16_outer_product"),
    ],
)
def test_halves_are_multiplied_where_no_sum_overflows(shape: tuple[int, ...], largest: float, chosen: str) -> None:
    weight = np.full(shape, 0.5, dtype=np.float16)
    weight.flat[-1] = -largest
    assert select_microkernel(targets.load_target("pi5").kernels.microkernels, "f16", weight, INT8_MAX) == chosen
    assert select_microkernel(targets.load_target("pi4").kernels.microkernels, "f16", weight, INT8_MAX) == "f16_outer_product"


def test_an_artifact_s_estimate_is_its_products_by_the_target_s_rates() -> None:
    int8 = Gemm("s8", 4, 1, 32, 32, 32, 128, 64, microkernel=SDOT)
    board = targets.load_target("pi5")
    assert _estimate([int8, int8], board) == {"cycles_per_step": round(2 * 8192 / board.macs_per_cycle["int8"]), "mhz": 2400}
    half = Gemm("f16", 4, 1, 32, 32, 32, 128, 64)
    for spec, rate in ((half, 5.5), (replace(half, microkernel=FMLA_F16), 9.1)):
        both = 8192 / board.macs_per_cycle["int8"] + 8192 / rate
        assert _estimate([int8, spec], board) == {"cycles_per_step": round(both), "mhz": 2400}
    pi4 = targets.load_target("pi4")
    assert _estimate([half], pi4) == {"cycles_per_step": round(8192 / pi4.macs_per_cycle["fp16"]), "mhz": 1500}
    assert _estimate([int8, half], replace(board, macs_per_cycle={"int8": 20.8})) is None  # nobody has modelled FP16 there
    assert _estimate([int8], targets.load_target("pi3")) is None and _estimate([], board) is None


def test_an_unknown_target_lists_those_there_are() -> None:
    with pytest.raises(EdgeEmoError, match=r"there are: aarch64-neon,.* host"):
        targets.load_target("cortex-z1")


def test_the_host_target_has_no_extension_that_the_hypervisor_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma f16c bmi1 avx512_vnni\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(codegen, "llvm_get_system_cpu", lambda: "znver4")
    monkeypatch.setattr(codegen, "llvm_get_system_triple", lambda: "x86_64-unknown-linux-gnu")
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")
    host = targets.load_target("host")
    assert host.needs == ("avx", "avx2", "avx512vnni", "bmi", "f16c", "fma")
    assert {"-avx512f", "-avx512bw", "-gfni", "-bmi2"} <= set(host.features)
    assert not {f"-{name}" for name in host.needs} & set(host.features)
    assert "-avx512f" in [str(a) for a in host.tvm_target().attrs["mattr"]]


@pytest.mark.parametrize("name", [n for n in targets.target_names() if n != "host"])
def test_a_target_names_every_extension_that_its_core_lets_the_compiler_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that a board of ARMv8.0 lacks: AES, SHA and CRC are there as intrinsics only."""
    board = targets.load_target(name)
    monkeypatch.setattr(machine.platform, "machine", lambda: board.machine)
    used = {str(f) for f in codegen.llvm_get_cpu_features(board.tvm_target())} - {f[1:] for f in board.features if f[0] == "-"}
    used = {f for f in used if machine.is_checked(f)} - {"aes", "sha2", "crc"}
    assert used == set(board.needs) - {"crc"}
