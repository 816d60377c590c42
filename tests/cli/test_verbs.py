"""The verbs as a user types them: what they write, what they print, and what they say to a mistake."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner, Result

from edgeemo.cli.main import main
from edgeemo.compile.pipeline import STAGES, stage
from edgeemo.data.clips import find_clips
from tests.conftest import CALIBRATION

pytestmark = pytest.mark.slow


def edgeemo(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def refused(result: Result, *words: str) -> None:
    """Exit code 1, the message as the last line of stderr (progress may stand before it), nothing on stdout."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    message = result.stderr.splitlines()[-1]
    assert message.startswith("edgeemo: ")
    for word in words:
        assert word in message


@pytest.fixture(scope="module")
def few_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for clip in {c.label: c for c in find_clips(CALIBRATION)}.values():
        (folder / clip.path.name).write_bytes(clip.path.read_bytes())
    return folder


def test_export_prints_sizes_from_code(tmp_path: Path) -> None:
    result = edgeemo("export", "--out", tmp_path / "m.onnx", "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0
    assert 18 < facts["fp32_megabytes"] < 24
    assert facts["macs_per_step"] <= 20.5e6
    assert (tmp_path / "m.onnx").stat().st_size == facts["bytes"]


def test_quantize_compile_eval_chain(files: dict[str, Path], few_clips: Path, tmp_path: Path) -> None:
    quantized, artifact = tmp_path / "q.onnx", tmp_path / "q.edgeemo"
    report = json.loads(edgeemo("quantize", files["float"], "--calib", few_clips, "--out", quantized, "--json").stdout)
    assert report["clips"] == 7
    facts = json.loads(edgeemo("compile", quantized, "--target", "host", "--out", artifact, "--json").stdout)
    assert facts["products_left_to_stock"] == []
    assert facts["bytes"] <= 6.5e6
    scores = {}
    for model in (files["float"], quantized, artifact):
        document = json.loads(edgeemo("eval", model, "--data", CALIBRATION, "--json").stdout)
        keys = ["clips", "macro_f1", "accuracy", "per_class", "per_corpus", "confusion", "labels", "jump_rate", "model", "split"]
        assert set(keys) <= set(document)
        assert document["clips"] == 200 == sum(map(sum, document["confusion"]))
        scores[model.suffix + model.stem] = document["accuracy"]
    assert max(scores.values()) - min(scores.values()) <= 0.08


def test_debug_dump_has_every_stage(files: dict[str, Path], tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    result = edgeemo("compile", files["fp16"], "--out", tmp_path / "a.edgeemo", "--debug-dump", dump)
    assert result.exit_code == 0
    names = sorted(p.name for p in dump.iterdir())
    assert names == [stage(name) for name in STAGES]
    assert names[0] == "00_imported.relax" and "_fuse_linear." in names[3]
    assembly = (dump / names[-1]).read_text()
    for instruction in ("smull\t", "smlal2\t", "sadalp\t", "fmla\t", "fcvtl\t"):
        assert instruction in assembly


def test_an_output_is_not_written_over(files: dict[str, Path], few_clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "precious.onnx"
    out.write_text("precious")
    refused(edgeemo("quantize", files["float"], "--calib", few_clips, "--out", out), "precious.onnx", "--force")
    assert out.read_text() == "precious"


def test_mistakes_about_calibration(files: dict[str, Path], few_clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"

    def quantize(folder: Path) -> Result:
        return edgeemo("quantize", files["float"], "--calib", folder, "--out", out)

    refused(quantize(tmp_path / "nowhere"), "nowhere", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(quantize(tmp_path / "empty"), "no audio in it")
    for name, content, words in (
        ("text", None, "not an audio file"),
        ("none", np.zeros(0, np.float32), "no samples"),
        ("nan", np.array([0, np.nan], np.float32), "NaN"),
        ("silent", np.zeros(8000, np.float32), "silent"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        if content is None:
            (folder / "a.wav").write_text("not audio")
        else:
            soundfile.write(folder / "a.wav", content, 8000, subtype="FLOAT")
        refused(quantize(folder), words)
    assert not out.exists()
    assert not list(tmp_path.glob("*.partial"))


def test_stereo_44100_calibrates(files: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", rng.standard_normal((44100, 2)) * 0.1, 44100)
    assert edgeemo("quantize", files["float"], "--calib", tmp_path, "--out", tmp_path / "q.onnx").exit_code == 0


def test_a_calibration_is_kept_and_used_again(files: dict[str, Path], tmp_path: Path) -> None:
    kept, again = tmp_path / "c.json", tmp_path / "b.onnx"
    base = ("quantize", files["float"], "--calib", CALIBRATION)
    first = edgeemo(*base, "--calib-limit", 5, "--out", tmp_path / "a.onnx", "--save-calibration", kept, "--json")
    assert first.exit_code == 0
    assert [s.split(":")[0] for s in json.loads(first.stdout)["warnings"]] == ["few"]
    assert "edgeemo: warning: few" in first.stderr
    assert edgeemo(*base, "--calib-limit", 5, "--calibration", kept, "--out", again).exit_code == 0
    assert onnx.load(again).graph == onnx.load(tmp_path / "a.onnx").graph
    without = edgeemo("quantize", files["float"], "--calibration", kept, "--out", tmp_path / "n.onnx")
    assert without.exit_code == 0
    assert "warning: rounding: kept ranges" in without.stderr
    nearest = tmp_path / "nearest.toml"
    nearest.write_text('weight_rounding = "nearest"\n')
    assert (
        "rounding"
        not in edgeemo("quantize", files["float"], "--calibration", kept, "--recipe", nearest, "--out", again, "--force").stderr
    )
    assert onnx.load(again).graph == onnx.load(tmp_path / "n.onnx").graph
    refused(edgeemo(*base, "--calib-limit", 6, "--calibration", kept, "--out", tmp_path / "x.onnx"), "c.json", "stale")
    refused(edgeemo(*base, "--calibration", tmp_path / "no.json", "--out", tmp_path / "x.onnx"), "no.json", "--save-calibration")
    refused(edgeemo(*base, "--recipe", "int9", "--out", tmp_path / "x.onnx"), "recipe int9", "int8-kl")
    assert not (tmp_path / "x.onnx").exists()


def test_recipes_are_listed() -> None:
    listed = json.loads(edgeemo("recipes", "--json").stdout)["recipes"]
    assert "int8-kl-fp16-emotion-conv" in [r["name"] for r in listed]


def test_mistakes_about_models(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "a.edgeemo"
    refused(edgeemo("compile", tmp_path / "no.onnx", "--out", out), "no.onnx", "no such file")
    (tmp_path / "text.onnx").write_text("not a model")
    refused(edgeemo("compile", tmp_path / "text.onnx", "--out", out), "text.onnx", "not a valid ONNX model")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:])), tmp_path / "bare.onnx")
    refused(edgeemo("quantize", tmp_path / "bare.onnx", "--out", out), "the model has no MatMul, Gemm or Conv")
    refused(edgeemo("eval", tmp_path / "model.tflite"), ".safetensors, .onnx, .edgeemo")
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/version").exists(), reason="nothing is unwritable")
def test_unwritable_output(files: dict[str, Path]) -> None:
    refused(edgeemo("compile", files["float"], "--out", "/proc/a.edgeemo"), "/proc/a.edgeemo", "cannot be written")
    refused(edgeemo("export", "--out", "/proc"), "/proc", "is a folder")


def test_usage_errors_exit_2() -> None:
    assert edgeemo("quantize", "--calib-limit", "0").exit_code == 2
    assert edgeemo("nonsense").exit_code == 2
    for arguments, words in (
        (("quantize", "--threshold", "entropy"), "not one of 'kl', "),
        (("export", "--model", "mfcc-bilstm", "--checkpoint", "x.safetensors"), "leave --model out"),
        (("export", "--model", "resnet"), "'cosyvoice-tiny', 'cosyvoice-nano', 'whisper-tiny-cls', 'mfcc-bilstm'"),
        (("compile", "--target", "z80"), "not one of 'aarch64-neon', 'host'"),
        (("eval", "x", "--line", "isdn"), "'clean', 'alaw', 'mulaw', 'noise20', 'noise10', 'noise5'"),
        (("eval-calls", "x", "--rules", "loud"), "'call-centre', 'in-car', 'raw'"),
        (("tune",), "--max-f1-drop, --min-sqnr, or both"),
        (("train", "--model", "cosyvoice-nano", "--data", "x", "--unlabelled", "y"), "--teacher"),
        (("train", "--data", "x", "--epochs", "3"), "--updates"),
        (("train", "--data", "x", "--intensity", "--minutes", "3"), "--intensity fits one linear head"),
        (("train", "--data", "x", "--updates", "0", "--device", "cuda"), "only the classifier"),
        (("train", "--model", "mfcc-bilstm", "--data", "x", "--device", "cuda"), "--device"),
        (("train", "--model", "mfcc-bilstm", "--data", "x", "--epochs", "0"), "--epochs 0 is for whisper-tiny-cls"),
    ):
        result = edgeemo(*arguments)
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())


def test_calibration_takes_one_split_and_the_threshold_asked_for(files: dict[str, Path], few_clips: Path, tmp_path: Path) -> None:
    clips = sorted(few_clips.iterdir())
    lines = [f"{c},angry,{'train' if i < 3 else 'test'}" for i, c in enumerate(clips)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label7,split", *lines]))
    kept = {}
    for method in ("kl", "min-max"):
        out = tmp_path / f"{method}.onnx"
        chosen = ("--calib", tmp_path, "--calib-split", "train", "--threshold", method)
        report = json.loads(edgeemo("quantize", files["float"], *chosen, "--out", out, "--json").stdout)
        assert report["clips"] == 3
        assert report["threshold"] == method
        kept[method] = [x["clip_ratio"] for x in report["layers"] if x["clip_ratio"] is not None]
    assert set(kept["min-max"]) == {1.0}
    assert min(kept["kl"]) < 0.9


def test_targets_lists_boards() -> None:
    document = json.loads(edgeemo("targets", "--json").stdout)
    targets = {t["name"]: t for t in document["targets"]}
    assert targets.keys() >= {"aarch64-neon", "host", "pi5"}
    pi4 = targets["aarch64-neon"]
    assert "pi4" in pi4["names"] and (pi4["cores"], pi4["mhz"]) == (4, 1500)
    assert pi4["calls_per_core_modelled"] > 60 and targets["host"]["calls_per_core_modelled"] is None
    assert "dotprod" in targets["pi5"]["needs"]
    assert "pi4" in edgeemo("targets").output


def test_a_board_s_name_is_its_target(files: dict[str, Path]) -> None:
    by_name, by_target = (edgeemo("inspect", files["int8"], "--target", t, "--json") for t in ("pi4", "aarch64-neon"))
    assert by_name.exit_code == 0 and by_name.stdout == by_target.stdout


@pytest.fixture
def deaf(files: dict[str, Path], tmp_path: Path) -> Path:
    """A model whose classifier hears nothing."""
    broken = onnx.load(files["int8"])
    bias = next(i for i in broken.graph.initializer if "head.classifier.bias" in i.name)  # shifted where the weights are rounded
    values = np.zeros(bias.dims[0], dtype=np.float32)
    values[6] = 50.0
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    path = tmp_path / "deaf.onnx"
    onnx.save(broken, path)
    return path


def test_gate_by_exit_code(files: dict[str, Path], deaf: Path, tmp_path: Path) -> None:
    passed = edgeemo("gate", files["float"], files["int8"], "--max-f1-drop", "0.08")
    assert passed.exit_code == 0, passed.output
    assert passed.stdout.startswith("gate passed: macro-F1 ") and "300 clips of 14 speakers in speech" in passed.stdout
    failed = edgeemo("gate", files["float"], deaf, "--json")
    document = json.loads(failed.stdout)
    assert failed.exit_code == 3
    assert not document["passed"] and document["drop"] > 0.1 and document["interval"][0] < document["drop"]
    assert len(document["worst"]) == 10
    refused(edgeemo("gate", files["float"], tmp_path / "none.onnx"), "none.onnx", "no such file")
    refused(edgeemo("gate", files["float"], files["int8"], "--data", tmp_path / "nowhere"), "nowhere")


def test_eval_compares_models_on_the_same_clips(files: dict[str, Path], deaf: Path) -> None:
    document = json.loads(edgeemo("eval", files["int8"], files["int8"], deaf, "--json").stdout)
    same, other = document["compared"][str(files["int8"])], document["compared"][str(deaf)]
    assert same["drop"] == 0 and same["agreement"] == 1
    assert other["reference_f1"] == document["macro_f1"] and other["agreement"] < 0.5
    table = edgeemo("eval", files["int8"], deaf, "--limit", "20").stdout
    assert "95 % interval" in table and "worst clips" in table
