"""The ONNX block `prefill` with every dimension fixed: angles and mask become inputs, and there is no past. What that
means to the runtime is in vlad/fixed_prefill.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from vlad.errors import BundleError

_TABLES = {"rope_cos": "cos", "rope_sin": "sin"}


def fixed(model: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    """Of a block that vlad.build.prefill wrote. Raises BundleError for another graph."""
    graph = model.graph
    renamed: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Slice" and node.input[0] in _TABLES:
            renamed[node.output[0]] = _TABLES[node.input[0]]
        elif node.op_type == "Where":
            renamed[node.output[0]] = "mask"
        elif node.op_type == "Concat" and node.input[0].startswith("past_"):
            nodes.append(helper.make_node("Identity", [node.input[1]], list(node.output), name=node.name))
        else:
            nodes.append(node)
    if sorted(renamed.values()) != ["cos", "mask", "sin"]:
        raise BundleError("block prefill: its angles and its mask are not where this vlad writes them: build it again")
    tables = {t.name: t for t in graph.initializer}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.input[:], made.graph.output[:]
    for node in nodes:
        copy = made.graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [renamed.get(name, name) for name in node.input]
    _keep_live(made.graph, [value.name for value in graph.output])
    sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
             for value in (*graph.input, *graph.output)}  # fmt: skip
    half = tables["rope_cos"].dims[1]
    made.graph.input.extend([
        _value("tokens", [rows, sizes["tokens"][1]]), _value("state", sizes["state"]),
        _value("cos", [rows + 1, half]), _value("sin", [rows + 1, half]), _value("mask", [rows + 1, rows + 1]),
    ])  # fmt: skip
    made.graph.output.extend(_value(value.name, [rows + 1, sizes[value.name][1]]) for value in graph.output)
    return made


def _keep_live(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Only what leads to the outputs."""
    wanted, live = set(outputs), []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            live.append(node)
            wanted |= set(node.input)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(live)]
    constants = [t for t in graph.initializer if t.name in wanted]
    kept_constants = [onnx.TensorProto.FromString(t.SerializeToString()) for t in constants]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(kept_constants)


def _value(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
