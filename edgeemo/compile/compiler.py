"""ONNX file to artifact: import, passes, LLVM, link, checks, archive."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from edgeemo_runtime.abi import COLUMNS
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.manifest import SCHEMA

from edgeemo import __version__
from edgeemo.compile.bisect import first_bad_node, tensor_of
from edgeemo.compile.codegen.assembly import finish
from edgeemo.compile.codegen.functions import build_functions
from edgeemo.compile.codegen.link import assemble, link_shared
from edgeemo.compile.codegen.package import pack_artifact
from edgeemo.compile.codegen.step_function import Step
from edgeemo.compile.codegen.verify import verify_library
from edgeemo.compile.importer import Imported, import_onnx
from edgeemo.compile.ir import KernelTable
from edgeemo.compile.kernels.specs import KernelSpec
from edgeemo.compile.pipeline import Dump, lower, stage
from edgeemo.compile.relax_import import WAY_OUT
from edgeemo.compile.stream_functions.decision_rules import DECIDE
from edgeemo.compile.stream_functions.intake import INTAKE
from edgeemo.compile.unfused import left_products
from edgeemo.isolated import isolated
from edgeemo.onnxlib.load import load_onnx
from edgeemo.onnxlib.metadata import QUANTIZATION, read_metadata
from edgeemo.targets.board import BoardTarget, KernelTarget
from edgeemo.targets.capabilities import FMLA_F16


@dataclass
class Compiled:
    """An artifact's bytes, its manifest, and what the table of `edgeemo compile` shows."""

    archive: bytes
    manifest: dict[str, Any]
    kernels: dict[str, int]  # name -> calls per step
    ours: tuple[str, ...]  # those of them that are no stock operators of TVM
    stock_products: list[str]
    objects: bytes = b""  # the code as an object file, for programs that link it in (codegen/c_library.py)


def compile_onnx(path: str | Path, target: BoardTarget, dump_folder: Path | None = None) -> Compiled:
    """The artifact of a model file for a board, made in a child process (isolated.py); check.py compares it with the model.

    Raises EdgeEmoError naming the file, node or operator that does not compile.
    """
    return isolated(f"{path}: compiling for {target.name}", compile_here, path, target, dump_folder)


def compile_here(path: str | Path, target: BoardTarget, dump_folder: Path | None = None, checked: bool = False) -> Compiled:
    """``compile_onnx`` in this process. ``checked``: what the manifest says of it."""
    model = load_onnx(str(path))
    quantization = _quantization(model, path)
    imported = import_onnx(model, str(path))
    dump = _dumper(dump_folder)
    target = replace(target, kernels=_kernels(target.kernels, quantization))
    table = KernelTable(target.kernels)
    try:
        step, left = lower(imported, table, dump)
        library, objects = _build(step, target, dump)
    except Exception as error:  # TVM raises its own types for what it does not lower
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        said = last if isinstance(error, EdgeEmoError) else f"not lowered ({last[:200]})"
        node = first_bad_node(model, lambda part: not _compiles(part, target))
        where = f"{tensor_of(node)}: " if node else ""
        raise EdgeEmoError(f"{path}: {where}{said}{left_products(model, table)}; {WAY_OUT}") from error
    manifest = _manifest(Path(path), model, imported, step, target) | {"quantization": quantization}
    manifest["checked"] = checked  # against ONNX Runtime
    specs = [table.specs[c] for c in step.calls if c in table.specs]
    manifest["int8_macs_per_step"] = sum(s.int8_macs for s in specs)
    manifest["macs_per_step"] = sum(s.macs for s in specs)
    manifest["estimate"] = _estimate(specs, target)
    ours = tuple(name for name in dict.fromkeys(step.calls) if name in table.specs)
    counts: dict[str, int] = {}
    for name in step.calls:
        counts[name] = counts.get(name, 0) + 1
    return Compiled(pack_artifact(manifest, library, step.weights), manifest, counts, ours, left, objects)


def _quantization(model: onnx.ModelProto, path: str | Path) -> Any:
    """The report of `edgeemo quantize` in the model file, None where there is none."""
    try:
        text = read_metadata(model, QUANTIZATION)
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EdgeEmoError(f"{path}: its {QUANTIZATION} metadata is no JSON ({error}); quantize it again") from error


def _kernels(target: KernelTarget, quantization: Any) -> KernelTarget:
    """The target's kernels, with FP16 arithmetic only in files in which `quantize` kept layers in FP16: half weights of another's
    are how it is stored, and its graph computes in float32."""
    layers = quantization.get("layers") if isinstance(quantization, dict) else None
    if isinstance(layers, list) and any(isinstance(x, dict) and x.get("precision") == "fp16" for x in layers):
        return target
    return replace(target, microkernels=tuple(name for name in target.microkernels if name != FMLA_F16))


def _estimate(specs: list[KernelSpec], target: BoardTarget) -> dict[str, int] | None:
    """Cycles of one step of one stream in a full batch on the target's core, by its modelled rates, and its clock in MHz, for
    `edgeemo-run doctor`; None where the target lacks a rate. Products alone: norms, copies and Python come on top."""
    rates = target.macs_per_cycle
    if not target.mhz or any(s.rate not in rates for s in specs if s.macs):
        return None
    cycles = sum(s.macs / rates[s.rate] for s in specs if s.macs)
    return {"cycles_per_step": round(cycles), "mhz": target.mhz} if cycles else None


def _compiles(model: onnx.ModelProto, target: BoardTarget) -> bool:
    try:
        _build(lower(import_onnx(model, ""), KernelTable(target.kernels), _dumper(None))[0], target, _dumper(None))
    except Exception:  # whatever it is that ended the whole
        return False
    return True


def _dumper(folder: Path | None) -> Dump:
    """Writes each stage as it is made, so that a stage that fails leaves those before it to look at."""
    if folder is None:
        return lambda name, text: None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeEmoError(f"{folder}: cannot be made ({error.strerror}); --debug-dump names a folder") from error

    def write(name: str, text: Callable[[], str]) -> None:
        (folder / name).write_text(text())

    return write


def _build(step: Step, target: BoardTarget, dump: Dump) -> tuple[bytes, bytes]:
    """The shared library, and the object file that it was linked from."""
    with tempfile.TemporaryDirectory(prefix="edgeemo-") as folder:
        objects, library = Path(folder, "step.o"), Path(folder, "step.so")
        with tvm.transform.PassContext(opt_level=2):
            module = build_functions(step.mod, target)
        if target.kernels.neon:
            assembly = finish(module.inspect_source("asm"), target.kernels.prefetch)
            dump(stage("step.s"), lambda: assembly)
            assemble(assembly, objects, target)
        else:
            dump(stage("step.s"), lambda: module.inspect_source("asm"))
            module.write_to_file(str(objects), "o")
        link_shared(objects, library, target)
        verify_library(library, target)
        return library.read_bytes(), objects.read_bytes()


def _manifest(path: Path, model: onnx.ModelProto, imported: Imported, step: Step, target: BoardTarget) -> dict[str, Any]:
    params = {p.name: p for p in imported.mod["main"].params}
    outputs = {o.name: o for o in model.graph.output}
    dtype = onnx.helper.tensor_dtype_to_np_dtype

    def output(name: str) -> dict[str, Any]:
        tensor = outputs[name].type.tensor_type
        return {
            "name": name,
            "shape": [d.dim_value for d in tensor.shape.dim][1:],
            "dtype": str(np.dtype(dtype(tensor.elem_type))),
        }

    contract = imported.contract
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    today = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return {
        "schema": SCHEMA,
        "created": today.strftime("%Y-%m-%d"),
        "model": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "target": {key: getattr(target, key) for key in ("name", "machine", "triple", "cpu", "needs")},
        "tools": {"edgeemo": __version__, "tvm": tvm.__version__, "llvm": tvm.target.codegen.llvm_version_major()},
        "stream": None
        if contract is None
        else {
            "sample_rate": contract.sample_rate,
            "samples_per_step": contract.samples_per_step,
            "ring_frames": contract.ring_frames,
            "ring_samples": contract.ring_samples,
            "labels": list(contract.labels),
            "audio": contract.audio,
            "probabilities": contract.probabilities,
            "intensity": contract.intensity and asdict(contract.intensity),
            "listening": contract.listening and asdict(contract.listening),
            "hears": contract.hears,
        },
        "step": {
            "function": "step",
            "state_words": imported.layout.stride,
            "arena_bytes_per_stream": step.arena_bytes_per_stream,
            "inputs": [
                {"name": n, "shape": [int(d) for d in params[p].ty.shape.values[1:]], "dtype": str(params[p].ty.dtype)}
                for n, p in imported.inputs.items()
            ],
            "outputs": [output(n) for n in imported.outputs],
        },
        "around": None if contract is None else {"intake": INTAKE, "decide": DECIDE, "columns": COLUMNS},
        "states": {
            n: {"offset_words": imported.layout.offset[n] // 4, "shape": list(s)} for n, s in imported.layout.shapes.items()
        },
    }
