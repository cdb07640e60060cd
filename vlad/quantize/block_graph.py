"""The ONNX graph of one block, taken apart into linear layers and put together in other precisions.

Its weights lie in a file of their own beside the graph, read one by one: a candidate is then a small graph that
points there, and a block of any size is judged without another copy of it in memory.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vlad.build.bfloat16 import to_bfloat16
from vlad.build.functions import DOMAIN, TOKEN8, VERSION, function
from vlad.errors import BundleError
from vlad.quantize.schemes import MICROSOFT, SCHEMES, Array, Linear, Range

_OUTSIDE = 4096  # bytes from which a constant lies outside the graph
_PAGE = 4096
_HEADER = 24  # bytes of a tensor in a file besides its name and its values
_MLP = re.compile(r"mlp|fc\d|gate|up_proj|down_proj|linear\d")
_LAYER = re.compile(r"(.*?)(\d+)/(.*)")
_ATTENTION = re.compile(r"attn|attention|[qkvo]_proj|out_proj|in_proj")


def group_of(weight: str) -> str:
    """The group of a linear layer, by the name of its weight: `layer3/self_attn.q_proj.weight` is of
    `layer3/attention`; a layer that is neither attention nor MLP is known by its own name.
    """
    *scope, leaf = weight.removesuffix(".weight").split("/")
    kind = "mlp" if scope and _MLP.search(leaf) else "attention" if scope and _ATTENTION.search(leaf) else leaf
    return "/".join([*scope, kind])


def joined(groups: Sequence[str], most: int) -> dict[str, str]:
    """The group that each of `groups` (in order, each once) becomes a part of, so that there are at most `most`:
    those of the same kind in neighbouring layers go together, as few as will do, `layer0/mlp` and `layer1/mlp`
    as `layer0-1/mlp`. What is outside of layers stays by itself, whatever `most` is.
    """
    found = {name: match for name in groups if (match := _LAYER.fullmatch(name))}
    numbers = {scope: sorted({int(m[2]) for m in found.values() if m[1] == scope}) for scope in
               dict.fromkeys(m[1] for m in found.values())}  # fmt: skip
    made = {name: name for name in groups}
    for span in range(1, len(groups) + 1):
        for name, match in found.items():
            of_scope = numbers[match[1]]
            first = of_scope.index(int(match[2])) // span * span
            layers = of_scope[first : first + span]
            through = f"-{layers[-1]}" if len(layers) > 1 else ""
            made[name] = f"{match[1]}{layers[0]}{through}/{match[3]}"
        if len(set(made.values())) <= most:
            break
    return made


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where a constant lies in a file, and what it is."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, file: Path) -> NDArray[Any]:
        return np.fromfile(file, self.dtype, math.prod(self.shape), offset=self.offset).reshape(self.shape)


class BlockGraph:
    """One block. `scratch` is a directory of its own, where weights and candidates are written. `most`: groups that
    it is divided into at most.

    bytes: of its file. candidate_bytes: what the candidate that was written last would have in one file.
    """

    def __init__(self, name: str, path: Path, scratch: Path, most: int = 4096) -> None:
        self.name = name
        self.bytes = self.candidate_bytes = path.stat().st_size
        self._scratch = scratch
        self._model = onnx.load(str(path))
        self._file = scratch / "weights.bin"
        self._outside = self._move_weights()
        # Parsed anew: what is taken out of a message stays in its memory.
        self._model = onnx.ModelProto.FromString(self._model.SerializeToString())
        linears = self._find_linears()  # none in a block of convolutions
        groups = joined(list(dict.fromkeys(linear.group for linear in linears)), most)
        self.linears = [dataclasses.replace(linear, group=groups[linear.group]) for linear in linears]

    @property
    def groups(self) -> list[str]:
        """In the order of computation."""
        return list(dict.fromkeys(linear.group for linear in self.linears))

    def of_group(self, group: str) -> list[Linear]:
        """The linear layers of a group."""
        return [linear for linear in self.linears if linear.group == group]

    def constant(self, name: str) -> NDArray[Any]:
        """A constant of the graph, read from where it lies outside it."""
        if name in self._outside:
            return self._outside[name].read(self._file)
        return next(numpy_helper.to_array(t) for t in self._model.graph.initializer if t.name == name)

    def constants(self) -> list[str]:
        """Names of all."""
        return [t.name for t in self._model.graph.initializer]

    def weight(self, linear: Linear) -> Array:
        """float32 `[inputs, outputs]`."""
        return self.constant(linear.weight)

    def candidate(self, name: str, choice: Mapping[str, str], ranges: Mapping[str, Range]) -> Path:
        """A graph with the scheme of each group of `choice`, written into the scratch directory."""
        path, model = self._scratch / name, self._rewritten(choice, ranges)
        path.write_bytes(model.SerializeToString())
        outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
        weights = sum(self._outside[t.name].nbytes + len(t.name) + _HEADER - t.ByteSize() for t in outside)
        self.candidate_bytes = model.ByteSize() + weights
        return path

    def capturing(self, values: Sequence[str]) -> Path:
        """A graph that has these inner values as outputs too."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        have = {v.name for v in (*model.graph.input, *model.graph.output)}
        model.graph.output.extend(
            helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in values if v not in have
        )
        path = self._scratch / "capturing.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def write(self, path: Path, choice: Mapping[str, str], ranges: Mapping[str, Range]) -> None:
        """The whole block as one file. Raises BundleError when the model is not a valid one."""
        model = self._rewritten(choice, ranges)
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.CopyFrom(numpy_helper.from_array(self.constant(tensor.name), tensor.name))
        try:
            onnx.checker.check_model(model, full_check=False)
        except onnx.checker.ValidationError as error:
            raise BundleError(f"block {self.name}: the rewritten graph is not valid: {error}") from error
        path.write_bytes(model.SerializeToString())

    def _rewritten(self, choice: Mapping[str, str], ranges: Mapping[str, Range]) -> onnx.ModelProto:
        unknown = set(choice) - set(self.groups)
        if unknown:
            raise BundleError(f"block {self.name}: no group {sorted(unknown)[0]!r}: it has {self.groups}")
        new: dict[str, list[onnx.NodeProto]] = {}
        constants: dict[str, NDArray[Any]] = {}
        gone: set[str] = set()
        rounded = [linear for linear in self.linears if choice.get(linear.group) == "bfloat16"]
        for linear in self.linears:
            if linear.group not in choice:
                continue
            rewrite = SCHEMES[choice[linear.group]].rewrite
            if rewrite is None:
                continue
            made = rewrite(linear, self.weight(linear), ranges.get(linear.x))
            new[linear.weight] = made.nodes
            constants |= made.constants
            if linear.bias is not None:  # the Add went into the replacement
                gone.add(linear.y)
        nodes: list[onnx.NodeProto] = []
        there: set[str] = set()
        for node in self._model.graph.node:
            if node.op_type == "MatMul" and node.input[1] in new:
                nodes += [n for n in new[node.input[1]] if n.output[0] not in there]  # what layers share, once
                there |= {n.output[0] for n in new[node.input[1]]}
            elif node.op_type != "Add" or node.output[0] not in gone:
                nodes.append(node)
        used = {value for node in nodes for value in node.input}
        graph = helper.make_graph(
            nodes, self._model.graph.name, self._model.graph.input, self._model.graph.output,
            [*(t for t in self._model.graph.initializer if t.name in used),
             *(numpy_helper.from_array(values, name) for name, values in constants.items())],
        )  # fmt: skip
        imports = list(self._model.opset_import)
        if all(i.domain != MICROSOFT for i in imports):
            imports.append(helper.make_opsetid(MICROSOFT, 1))
        functions = list(self._model.functions)
        if any(node.op_type == TOKEN8 for node in nodes):
            functions.append(function(TOKEN8, None))
        if (rounded or functions) and all(i.domain != DOMAIN for i in imports):
            imports.append(helper.make_opsetid(DOMAIN, VERSION))
        model = helper.make_model(graph, opset_imports=imports, functions=functions,
                                  ir_version=self._model.ir_version, producer_name="vlad")  # fmt: skip
        if rounded:
            weights, read = {linear.weight for linear in rounded}, {linear.x for linear in rounded}
            names = {n.name for n in nodes if (n.op_type == "MatMul" and n.input[1] in weights)
                     or (n.domain == DOMAIN and n.output[0] in read)}  # fmt: skip
            to_bfloat16(model, names.__contains__, smallest=1, read=lambda tensor: self.constant(tensor.name))
        return model

    def _move_weights(self) -> dict[str, _Place]:
        """Writes the large constants to a file, points the graph there, and says where they are."""
        places: dict[str, _Place] = {}
        with self._file.open("wb") as out:
            for tensor in self._model.graph.initializer:
                values = numpy_helper.to_array(tensor)
                if values.nbytes < _OUTSIDE:
                    continue
                out.write(b"\0" * (-out.tell() % _PAGE))
                places[tensor.name] = _Place(out.tell(), values.dtype, values.shape)
                out.write(values.tobytes())
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", self._file.name), ("offset", str(places[tensor.name].offset)),
                                   ("length", str(values.nbytes))):  # fmt: skip
                    entry = tensor.external_data.add()
                    entry.key, entry.value = key, value
        return places

    def _find_linears(self) -> list[Linear]:
        shapes = {t.name: tuple(t.dims) for t in self._model.graph.initializer}
        uses = Counter(value for node in self._model.graph.node for value in node.input)
        adds = {node.input[0]: node for node in self._model.graph.node if node.op_type == "Add"}
        found = []
        for node in self._model.graph.node:
            if node.op_type != "MatMul" or len(shapes.get(node.input[1], ())) != 2:
                continue
            (x, weight), y, bias = node.input, node.output[0], None
            inputs, outputs = shapes[weight]
            add = adds.get(y)
            if add is not None and uses[y] == 1 and shapes.get(add.input[1]) == (outputs,):
                y, bias = add.output[0], add.input[1]
            if uses[weight] != 1:
                raise BundleError(f"block {self.name}: weight {weight} serves {uses[weight]} nodes; one is supported")
            name = weight.removesuffix(".weight")
            found.append(Linear(name, group_of(weight), x, y, weight, bias, inputs, outputs))
        return found


def operators(path: Path) -> Counter[str]:
    """How many nodes of each kind a model file has."""
    return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)
