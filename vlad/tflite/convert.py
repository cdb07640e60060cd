"""`vlad convert BUNDLE --converter PROGRAM -o OUT.vlad`: `.tflite` blocks compiled for a Neutron NPU.

The program is NXP's neutron-converter, of the release that the board runs; it is not part of vlad. What it was, its
version and its target go into the manifest, and what it left to the CPU. Nothing is computed here: no PC has this NPU,
so the golden values stay those of the int8 file, and the board proves them at load.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlad import bundle as bundles
from vlad.argument_types import names, seconds
from vlad.build.bundle_directory import copy_files, file_entry, refuse_existing, replacing, write_manifest, writing
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.litert import refuse_external_buffers
from vlad.manifest import Block, Converter, files
from vlad.neutron import CONVERTED, NAME, versions_in
from vlad.servo import now_ns

TARGET = "imx95"
VERSION_S = 60
TAIL = 1500  # characters of what the program said, in an error
SAID_BYTES = 65536  # that are kept of what it said: the newest
MODEL_BYTES = (2 << 30) - 1  # no offset in a flatbuffer reaches further


def parser() -> argparse.ArgumentParser:
    """The argument parser of `vlad convert`."""
    p = argparse.ArgumentParser(
        prog="vlad convert",
        description="Have .tflite blocks of a bundle compiled by NXP's neutron-converter.",
        epilog="exit status: 0 written, 1 refused (the reason is on standard error), 2 usage. See docs/npu.md",
    )
    p.add_argument("bundle", type=Path, help="bundle that `vlad tflite` wrote")
    p.add_argument("--converter", type=program, required=True, metavar="PROGRAM",
                   help="neutron-converter of the eIQ Neutron SDK that matches the board's release")
    p.add_argument("-o", "--output", type=Path, required=True, help="bundle directory to write, NAME.vlad")
    p.add_argument("--blocks", type=names, metavar="A,B,...", help="blocks to compile (default: all in .tflite)")
    p.add_argument("--target", default=TARGET, help=f"what the program compiles for (default {TARGET})")
    p.add_argument("--option", action="append", default=[], metavar="WORD",
                   help="another word for the program's command line; may be repeated")
    p.add_argument("--timeout", type=seconds, default=1800, metavar="SECONDS",
                   help="the most that one block may take (default 1800)")
    p.add_argument("--force", action="store_true", help="replace an existing bundle")
    return p  # fmt: skip


def program(text: str) -> Path:
    """A path, or by its name alone a program that the shell would find. It is run from wherever we are."""
    found = None if "/" in text else shutil.which(text)
    return Path(found or text).absolute()


def main(argv: Sequence[str]) -> int:
    """0 when the bundle was written."""
    args = parser().parse_args(argv)
    refuse_existing(args.output, force=args.force)
    source = bundles.load(args.bundle)
    chosen = args.blocks or [b.name for b in source.manifest.blocks if b.backend == "litert"]
    if not chosen:
        raise BundleError(f"{args.bundle}: has no block in .tflite: `vlad tflite` writes them")
    for name in chosen:
        block = source.block(name)
        if block.tflite is None:
            raise BundleError(f"{args.bundle}: block {name} is no .tflite: `vlad tflite --blocks {name}` writes it")
        if block.tflite.converter is not None:
            raise BundleError(f"{args.bundle}: block {name} was compiled already, by {block.tflite.converter.version}: "
                              "start from the bundle that `vlad tflite` wrote")  # fmt: skip
    converter = Converter(name=NAME, version=version_of(args.converter), target=args.target)
    with writing(args.output), replacing(args.output) as partial:
        compiled = _written(source, partial, chosen, converter, args)
    print(f"{args.output}: by {NAME} {converter.version} for {converter.target}; check it on the board")
    for block in compiled:
        assert block.tflite is not None
        left = ", ".join(f"{n} {kind}" for kind, n in block.tflite.cpu_operators.items())
        print(f"  {block.name:8} {block.tflite.operators[CONVERTED]} {CONVERTED}; on the CPU stay {left or 'none'}")
    return 0


def _written(
    source: Bundle, partial: Path, chosen: Sequence[str], converter: Converter, args: argparse.Namespace
) -> list[Block]:
    """The bundle at `partial`; its blocks that were compiled."""
    copy_files(source, files(source.manifest), partial)
    blocks = {block.name: block for block in source.manifest.blocks}
    for name in chosen:
        before = blocks[name]
        assert before.tflite is not None
        path = partial / before.file.path
        operators = compile_block(args.converter, path, args.target, args.option, args.timeout)
        left = {kind: n for kind, n in operators.items() if kind != CONVERTED}
        blocks[name] = msgspec.structs.replace(
            before, file=file_entry(partial, before.file.path),
            tflite=msgspec.structs.replace(
                before.tflite, operators=operators, cpu_operators=left, converter=converter),
        )  # fmt: skip
    write_manifest(partial, msgspec.structs.replace(source.manifest, blocks=list(blocks.values())))
    return [blocks[name] for name in chosen]


def version_of(program: Path) -> str:
    """What the converter says of itself. Raises BundleError."""
    found = versions_in(_run([str(program), "--version"], VERSION_S).encode())
    if len(found) != 1:
        raise BundleError(f"{program} --version: says {sorted(found) or 'no version'}; one like 3.0.0+0X6d41ac8b is "
                          "expected: is it NXP's neutron-converter?")  # fmt: skip
    return found.pop()


def compile_block(
    program: Path, path: Path, target: str, options: Sequence[str], timeout_s: float
) -> dict[str, int]:
    """Puts what the program makes of the file in its place; its operators, counted. Raises BundleError for a program
    that fails, or compiles nothing, or changes the block's inputs or outputs.
    """
    before = _described(path.read_bytes(), path)
    with tempfile.TemporaryDirectory(prefix="vlad-") as scratch:
        given, made = Path(scratch, "given.tflite"), Path(scratch, "made.tflite")
        shutil.copyfile(path, given)
        words = "--input", str(given), "--output", str(made), "--target", target, *options
        said = _run([str(program), *words], timeout_s)[-TAIL:]
        if not made.is_file():
            raise BundleError(f"{program}: ended well and wrote nothing: {said}")
        if made.stat().st_size > MODEL_BYTES:
            raise BundleError(f"{program}: made {made.stat().st_size} bytes of {path.name}: no .tflite is so large")
        after = _described(made.read_bytes(), made)
        if CONVERTED not in after["operators"]:
            raise BundleError(f"{program}: compiled nothing of {path.name}: all of it would run on the CPU: {said}")
        for what in ("inputs", "outputs"):
            if before[what] != after[what]:
                raise BundleError(f"{program}: changed the {what} of {path.name} from {before[what]} to {after[what]}")
        shutil.copyfile(made, path)
    counted: dict[str, int] = after["operators"]
    return counted


def _run(words: Sequence[str], timeout_s: float) -> str:
    """The newest of what a program said that ended well. Raises BundleError.

    It has a session of its own: at the limit, and when vlad is interrupted, what it has started ends with it.
    """
    said = b""
    deadline_ns = now_ns() + round(timeout_s * 1e9)
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 start_new_session=True)  # fmt: skip
    except OSError as error:
        raise BundleError(f"{words[0]}: cannot be run: {error.strerror}") from None
    with child:
        try:
            assert child.stdout is not None
            while (left_ns := deadline_ns - now_ns()) > 0:
                if not select.select([child.stdout], [], [], left_ns / 1e9)[0]:
                    continue
                if not (more := os.read(child.stdout.fileno(), SAID_BYTES)):
                    break
                said = (said + more)[-SAID_BYTES:]
            status = child.wait(max(0.0, (deadline_ns - now_ns()) / 1e9))
        except subprocess.TimeoutExpired:
            raise BundleError(f"{words[0]}: did not end within {timeout_s:g} s (--timeout)") from None
        finally:
            if child.returncode is None:  # not yet waited for, so its number is still its own
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
    text = said.decode(errors="replace").strip()
    if status:
        raise BundleError(f"{' '.join(words)}: ended with status {status}: {text[-TAIL:]}")
    return text


def _described(content: bytes, path: Path) -> dict[str, Any]:
    """Operators by kind, and inputs and outputs by name: type and shape."""
    from ai_edge_litert import schema_py_generated as schema

    refuse_external_buffers(content, str(path))
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        (graph, *_) = model.subgraphs
        codes = [c.customCode.decode() if c.customCode else kinds[max(c.builtinCode, c.deprecatedBuiltinCode)]
                 for c in model.operatorCodes]  # fmt: skip
        counted = Counter(codes[op.opcodeIndex] for op in graph.operators)
        types = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
        ends = {what: {t.name.decode(): f"{types[t.type]} {[int(n) for n in t.shape]}"
                       for t in (graph.tensors[i] for i in indices)}
                for what, indices in (("inputs", graph.inputs), ("outputs", graph.outputs))}  # fmt: skip
    except Exception as error:  # the schema's own code raises whatever a bad offset leads to
        raise BundleError(f"{path.name}: not a LiteRT model: {error!r}") from None
    return {"operators": dict(sorted(counted.items())), **ends}
