"""A compiled model as a library or program without Python: the C runtime (runtime/c), the model's object code and its weights,
built by the clang and lld in the PyPI package ziglang for any Linux from glibc 2.17 on, or musl.

    folder/include/NAME.h, edgeemo.h, edgeemo.hpp; lib/libNAME.a or .so; lib/pkgconfig; lib/cmake; example.c
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.members import read_members

from edgeemo.files import check_output, write_file

FORMATS = ("artifact", "shared", "static", "exe")
LIBCS = {"gnu": "gnu.2.17", "musl": "musl"}
# In a checkout the C sources stand next to the package; a wheel carries them inside.
SOURCES = (Path(__file__).parents[3] / "runtime" / "c", Path(__file__).parents[2] / "c")
FLAGS = ("-std=c99", "-O2", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections", "-ffp-contract=off")
RAISE, OWN_RAISE = "TVMFFIErrorSetRaisedFromCStrParts", "edgeemo_ffi_raised"
EXPORTED = "__tvm_ffi_"
TYPES = {"float16": "uint16_t", "float32": "float", "float64": "double", "bool": "uint8_t"} | {
    f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def c_name(text: str) -> str:
    """``text`` as a C identifier: "emotion-int8" gives "emotion_int8"."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"


def renamed(objects: bytes, names: dict[str, str]) -> bytes:
    """An ELF64 little-endian object file whose symbols of ``names`` have other names: its string table, longer, at the end."""
    out = bytearray(objects)
    (start,) = struct.unpack_from("<Q", out, 40)
    size, count = struct.unpack_from("<HH", out, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", out, start + i * size) for i in range(count)]
    table = next(s for s in sections if s[1] == 2)  # SHT_SYMTAB
    link = table[6]
    texts = bytearray(out[sections[link][4] : sections[link][4] + sections[link][5]])
    for at in range(table[4], table[4] + table[5], 24):
        (name,) = struct.unpack_from("<I", out, at)
        old = texts[name : texts.index(0, name)].decode()
        if old in names:
            struct.pack_into("<I", out, at, len(texts))
            texts += names[old].encode() + b"\0"
    struct.pack_into("<QQ", out, start + link * size + 24, len(out), len(texts))
    return bytes(out + texts)


def _zig(*arguments: str | Path, what: str) -> None:
    command = [sys.executable, "-m", "ziglang", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeEmoError(f"{what} failed: {done.stderr.strip()[:500] or 'is ziglang installed?'}")


def _source() -> Path:
    for folder in SOURCES:
        if (folder / "include" / "edgeemo.h").is_file():
            return folder
    raise EdgeEmoError(f"{SOURCES[0]}: the C library's sources are not there; install edgeemo from its wheel or a checkout")


def _model_source(name: str, manifest: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """C that tells the library where the model is, and the names its functions get."""
    functions = [manifest["step"]["function"]]
    around = manifest["around"]
    if around is not None:
        functions += [around["intake"], around["decide"]]
    own = {EXPORTED + f: f"edgeemo_model_{name}_{f}" for f in functions}
    calls = [own[EXPORTED + f] for f in functions] + ["NULL"] * (3 - len(functions))
    declared = "".join(f"int {c}(void);\n" for c in own.values())
    return (
        f'#include "edgeemo.h"\n{declared}'
        f"extern const char edgeemo_model_{name}_manifest[], edgeemo_model_{name}_manifest_end[];\n"
        f"extern const unsigned char edgeemo_model_{name}_weights[];\n"
        f"EDGEEMO_API extern const edgeemo_linked_model edgeemo_model_{name};\n"
        f"const edgeemo_linked_model edgeemo_model_{name} = {{sizeof(edgeemo_linked_model), MANIFEST_SIZE,\n"
        f"    edgeemo_model_{name}_manifest, edgeemo_model_{name}_weights, WEIGHTS_SIZE, {', '.join(calls)}}};\n"
    ), {**own, RAISE: OWN_RAISE}


def _data_source(name: str) -> str:
    """Assembly that holds the weights and the manifest."""
    text = '.section .rodata.edgeemo,"a"\n.balign 64\n.zero 64\n'
    for what, file in (("weights", "weights.bin"), ("manifest", "manifest.json")):
        symbol = f"edgeemo_model_{name}_{what}"
        text += f'.globl {symbol}\n.hidden {symbol}\n{symbol}:\n.incbin "{file}"\n.zero 64\n.balign 64\n'
    return text + '.section .note.GNU-stack,"",%progbits\n'


def _field(tensor: dict[str, Any]) -> str:
    shape = " x ".join(map(str, tensor["shape"])) or "one number"
    kind = " of half floats, as bits" if tensor["dtype"] == "float16" else ""
    return f"/* {shape}{kind} */"


def header(name: str, manifest: dict[str, Any]) -> str:
    """The model's own header. A model that is no stream has a struct of its inputs and one of its outputs, by their names."""
    guard = f"EDGEEMO_MODEL_{name.upper()}_H"
    text = f"/* The model {name}, linked in. Written by `edgeemo compile`. */\n"
    text += f"#ifndef {guard}\n#define {guard}\n\n#include <edgeemo.h>\n\n"
    text += f'#ifdef __cplusplus\nextern "C" {{\n#endif\n\nEDGEEMO_API extern const edgeemo_linked_model edgeemo_model_{name};\n'
    if manifest["stream"] is None:
        step = manifest["step"]
        for kind, const in (("inputs", "const "), ("outputs", "")):
            text += f"\n/* Arrays of a whole batch, item by item. */\ntypedef struct {name}_{kind} {{\n  uint32_t struct_size;\n"
            for tensor in step[kind]:
                text += f"  {const}{TYPES[tensor['dtype']]} *{c_name(tensor['name'])}; {_field(tensor)}\n"
            text += f"}} {name}_{kind};\n"
        inputs = ", ".join(f"in->{c_name(t['name'])}" for t in step["inputs"])
        outputs = ", ".join(f"out->{c_name(t['name'])}" for t in step["outputs"])
        text += (
            f"\n/* Runs a function that was created from edgeemo_model_{name}. */\n"
            f"static inline edgeemo_status {name}_run(edgeemo_function *function, int32_t batch, const {name}_inputs *in,\n"
            f"                                        const {name}_outputs *out) {{\n"
            f"  const void *const inputs[] = {{{inputs or 'NULL'}}};\n  void *const outputs[] = {{{outputs}}};\n"
            "  return edgeemo_function_run(function, batch, inputs, outputs);\n}\n"
        )
    return text + "\n#ifdef __cplusplus\n}\n#endif\n#endif\n"


def example(name: str, manifest: dict[str, Any]) -> str:
    """A program that uses the model."""
    text = f'#include "{name}.h"\n#include <stdio.h>\n\n'
    if manifest["stream"] is not None:
        given = (_source() / "examples" / "one_call.c").read_text()
        body = given[given.index("int main") :].replace("int argc, char **argv", "void")
        body = body.replace(
            "argc != 2 || edgeemo_model_load(argv[1], NULL, &model)", f"edgeemo_model_linked(&edgeemo_model_{name}, &model)"
        )
        body = body.replace('argc == 2 ? edgeemo_last_error() : "one_call MODEL.edgeemo < call.s16"', "edgeemo_last_error()")
        return f"/* One call from raw audio on stdin (mono, 16 bit, at the model's rate). */\n{text}{body}"
    lines, step = [], manifest["step"]
    for kind, short in (("inputs", "in"), ("outputs", "out")):
        for tensor in step[kind]:
            size = 1
            for n in tensor["shape"]:
                size *= n
            made = f"{short}_{c_name(tensor['name'])}"
            lines.append(f"  static {TYPES[tensor['dtype']]} {made}[{max(1, size)}];")
            lines.append(f"  {short}.{c_name(tensor['name'])} = {made};")
    declared, set_ = [x for x in lines if "static" in x], [x for x in lines if "static" not in x]
    first = step["outputs"][0]
    return (
        f"/* One item of zeros through the model. */\n{text}int main(void) {{\n"
        "  edgeemo_model *model;\n  edgeemo_function *function;\n"
        f"  {name}_inputs in;\n  {name}_outputs out;\n"
        + "\n".join(declared)
        + "\n  EDGEEMO_INIT(in);\n  EDGEEMO_INIT(out);\n"
        + "\n".join(set_)
        + f"\n  if (edgeemo_model_linked(&edgeemo_model_{name}, &model) != EDGEEMO_OK ||\n"
        "      edgeemo_function_create(model, 1, &function) != EDGEEMO_OK ||\n"
        f"      {name}_run(function, 1, &in, &out) != EDGEEMO_OK) {{\n"
        '    fprintf(stderr, "error: %s\\n", edgeemo_last_error());\n    return 1;\n  }\n'
        f'  printf("{c_name(first["name"])}[0] = %g\\n", (double)out.{c_name(first["name"])}[0]);\n'
        "  edgeemo_function_destroy(function);\n  edgeemo_model_release(model);\n  return 0;\n}\n"
    )


class _Build:
    def __init__(self, name: str, machine: str, libc: str, folder: Path) -> None:
        self.name, self.folder, self.source = name, folder, _source()
        self.target = ["-target", f"{machine}-linux-{LIBCS[libc]}"]

    def compile(self, source: Path, out: str, *flags: str) -> Path:
        made = self.folder / out
        include = ["-I", str(self.source / "include"), "-I", str(self.folder)]
        _zig("cc", *self.target, *FLAGS, *flags, *include, "-c", source, "-o", made, what=f"compiling {source.name}")
        return made

    def objects(self, manifest: dict[str, Any], objects: bytes, members: dict[str, bytes]) -> list[Path]:
        """All of the library, with the model."""
        for member, data in members.items():
            (self.folder / member).write_bytes(data)
        source, names = _model_source(self.name, manifest)
        (self.folder / "model.c").write_text(source)
        (self.folder / "data.s").write_text(_data_source(self.name))
        (self.folder / "step.o").write_bytes(renamed(objects, names))
        sizes = [f"-DMANIFEST_SIZE={len(members['manifest.json'])}", f"-DWEIGHTS_SIZE={len(members['weights.bin'])}"]
        held = self.folder / "data.o"
        _zig("cc", *self.target, "-I", self.folder, "-c", self.folder / "data.s", "-o", held, what="assembling the weights")
        return [
            self.compile(self.source / "src" / "edgeemo.c", "edgeemo.o"),
            self.compile(self.source / "vendor" / "monocypher_edgeemo.c", "monocypher.o"),
            self.compile(self.folder / "model.c", "model.o", *sizes),
            self.folder / "step.o",
            held,
        ]

    def executable(self, objects: list[Path], out: Path) -> None:
        main = self.compile(self.source / "programs" / "live.c", "live.o", f"-DEDGEEMO_MODEL=edgeemo_model_{self.name}")
        _zig("cc", *self.target, "-static", "-s", "-Wl,--gc-sections", *objects, main, "-o", out, what="linking the program")

    def static(self, objects: list[Path], out: Path) -> None:
        _zig("ar", "rcsD", out, *objects, what="packing the library")

    def shared(self, objects: list[Path], out: Path) -> None:
        flags = ["-shared", "-s", f"-Wl,-soname,{out.name}", f"-Wl,--version-script={self.source / 'libedgeemo.map'}"]
        flags += ["-Wl,--gc-sections", "-Wl,-z,relro", "-Wl,-z,now", "-lm"]
        _zig("cc", *self.target, *flags, *objects, "-o", out, what="linking the library")


def _pkg_config(name: str, kind: str) -> str:
    private = "" if kind == "shared" else "Libs.private: -lm\n"
    return (
        "prefix=${pcfiledir}/../..\n\n"
        f"Name: {name}\nDescription: the model {name} and libedgeemo\nVersion: 0.1.0\n"
        f"Libs: -L${{prefix}}/lib -l{name}{' -lm' if kind == 'static' else ''}\n{private}Cflags: -I${{prefix}}/include\n"
    )


def _cmake(name: str, kind: str) -> str:
    return (
        f'get_filename_component(_root "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)\nif(NOT TARGET {name}::{name})\n'
        f"  add_library({name}::{name} {kind.upper()} IMPORTED)\n  set_target_properties({name}::{name} PROPERTIES\n"
        f'    IMPORTED_LOCATION "${{_root}}/lib/lib{name}.{"so" if kind == "shared" else "a"}"\n'
        '    INTERFACE_INCLUDE_DIRECTORIES "${_root}/include"\n'
        "    INTERFACE_LINK_LIBRARIES m)\nendif()\n"
    )


def check_library(kind: str, name: str, out: Path, force: bool) -> Path:
    """Raises EdgeEmoError before any work is done if ``name`` is no C identifier, or ``out`` cannot be written."""
    if c_name(name) != name:
        raise EdgeEmoError(f"--name {name}: is part of C symbols; {c_name(name)} would do")
    if kind != "exe" and out.exists():
        raise EdgeEmoError(f"{out}: is there already, and --format {kind} makes a folder; remove it, or name another with --out")
    return check_output(out, force)


def write_library(kind: str, name: str, machine: str, libc: str, compiled: Any, out: Path, force: bool = False) -> None:
    """``compiled`` (compiler.Compiled) as ``kind`` of FORMATS at ``out``: a folder, or a program.

    Raises EdgeEmoError if the tools fail; nothing is left behind then."""
    with tempfile.TemporaryDirectory(prefix="edgeemo-") as scratch:
        archive = Path(scratch, "a.edgeemo")
        archive.write_bytes(compiled.archive)
        members = read_members(archive)
        build = _Build(name, machine, "musl" if kind == "exe" else libc, Path(scratch))
        parts = {"manifest.json": members.manifest, "weights.bin": members.weights.tobytes()}
        objects = build.objects(compiled.manifest, compiled.objects, parts)
        if kind == "exe":
            made = Path(scratch, "program")
            build.executable(objects, made)
            write_file(out, made.read_bytes(), force, 0o755)
            return
        partial = out.with_name(f"{out.name}.partial")
        try:
            _write_folder(build, kind, name, compiled.manifest, objects, partial)
            partial.rename(out)
        except OSError as error:
            raise EdgeEmoError(f"{out}: cannot be written ({error.strerror})") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write_folder(build: _Build, kind: str, name: str, manifest: dict[str, Any], objects: list[Path], folder: Path) -> None:
    for part in ("include", "lib/pkgconfig", f"lib/cmake/{name}"):
        (folder / part).mkdir(parents=True)
    for file in ("edgeemo.h", "edgeemo.hpp"):
        shutil.copy(build.source / "include" / file, folder / "include")
    (folder / "include" / f"{name}.h").write_text(header(name, manifest))
    (folder / "lib/pkgconfig" / f"{name}.pc").write_text(_pkg_config(name, kind))
    (folder / f"lib/cmake/{name}/{name}-config.cmake").write_text(_cmake(name, kind))
    (folder / "example.c").write_text(example(name, manifest))
    getattr(build, kind)(objects, folder / "lib" / f"lib{name}.{'so' if kind == 'shared' else 'a'}")
