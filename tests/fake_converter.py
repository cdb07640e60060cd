"""A stand-in for NXP's neutron-converter, with its command line: `fake_converter.py HOW WORDS`.

It makes each FULLY_CONNECTED without an activation a custom operator NeutronGraph, which the tests' delegate takes.
HOW: good, or what is to go wrong.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

VERSION = "3.0.0+0X6d41ac8b"


def program(directory: Path, how: str = "good") -> Path:
    """An executable that does as `how` says."""
    path = directory / f"neutron-converter-{how}"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {__file__} {how} \"$@\"\n")
    path.chmod(0o755)
    return path


def convert(content: bytes, how: str) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    (graph,) = model.subgraphs
    product = next(i for i, code in enumerate(model.operatorCodes)
                   if code.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED)  # fmt: skip
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = "NeutronGraph", 1
    model.operatorCodes.append(code)
    for op in graph.operators:
        if how != "nothing" and op.opcodeIndex == product and not op.builtinOptions.fusedActivationFunction:
            op.opcodeIndex = len(model.operatorCodes) - 1
            op.builtinOptions, op.builtinOptionsType = None, 0
    if how == "renamed":
        graph.tensors[graph.outputs[0]].name = "Identity"
    if how == "retyped":
        graph.tensors[graph.inputs[0]].type = schema.TensorType.INT8
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main(argv: list[str]) -> int:
    how, *words = argv
    if words == ["--version"]:
        print("neutron-converter" if how == "nameless" else f"eIQ neutron-converter version {VERSION}")
        return 0
    parser = argparse.ArgumentParser()
    for option in ("--input", "--output", "--target"):
        parser.add_argument(option, required=True)
    parser.add_argument("--optimization_level")
    options = parser.parse_args(words)
    if how == "slow":
        print("x" * 200_000, flush=True)
        subprocess.run(["sleep", "60"], check=False)  # which a time limit ends, too
    if how == "failing":
        print("New shape should not change the number of elements", file=sys.stderr)
        return 3
    if how == "silent":
        return 0
    if how == "huge":
        with open(options.output, "wb") as file:
            file.truncate(1 << 38)
        return 0
    if options.target != "imx95":
        print(f"unknown target {options.target}", file=sys.stderr)
        return 2
    made = b"no model at all" if how == "rubbish" else convert(Path(options.input).read_bytes(), how)
    Path(options.output).write_bytes(made)
    print("Number of operators converted = 3")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
