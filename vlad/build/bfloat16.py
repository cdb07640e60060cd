"""A block in bfloat16: products with weights and attention, as functions of vlad.build.functions.

Weights take half the space, rounded to nearest even; activations are rounded where they are multiplied, and
travel rounded where nothing else reads them; sums are float32. A residual or a gate is joined to the product
that it meets. Rotations and the small projections of states, actions and times are not touched.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vlad.build.functions import BFLOAT16, DOMAIN, LINEAR, ROUNDED, function, heads_of, tiles

SMALL = 1 << 16
"""Weights of fewer numbers than this stay float32: they cost nothing."""

_SAME_ROWS = ("Add", "Mul", "Sigmoid", "Gelu", "MatMul")
_ROUNDABLE = ("Linear", "LinearGelu", "LinearMul", "AttentionBfloat16", "MaskedAttentionBfloat16")  # as in fused_ops.c


def to_bfloat16(
    model: onnx.ModelProto, wanted: Callable[[str], bool] = lambda node: True, *, smallest: int | None = None,
    read: Callable[[onnx.TensorProto], NDArray[np.float32]] = numpy_helper.to_array,
) -> None:  # fmt: skip
    """Rewrite in place the products with weights and the calls of attention whose node names `wanted` takes.

    smallest: numbers from which a weight is rewritten (SMALL). read: the values of a weight, for those that lie
    outside the model.
    """
    rewriter = _Rewriter(model, wanted, SMALL if smallest is None else smallest, read)
    for node in list(model.graph.node):
        rewriter.rewrite(node)
    rewriter.finish()


def rounded(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of finite float32 `values` as bfloat16, to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    made: NDArray[np.uint16] = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return made


class _Rewriter:
    def __init__(
        self, model: onnx.ModelProto, wanted: Callable[[str], bool], smallest: int,
        read: Callable[[onnx.TensorProto], NDArray[np.float32]],
    ) -> None:  # fmt: skip
        self._model, self._wanted, self._smallest, self._read = model, wanted, smallest, read
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in set(node.input):
                self._readers.setdefault(name, []).append(node)
        self._gone: set[str] = set()  # names of nodes

    def rewrite(self, node: onnx.NodeProto) -> None:
        if node.domain == DOMAIN and node.op_type.endswith("Attention") and self._wanted(node.name):
            node.op_type += BFLOAT16
        elif node.op_type == "MatMul" and self._wanted(node.name):
            weight = self._constants.get(node.input[1])
            if weight is not None and len(weight.dims) == 2 and weight.dims[0] * weight.dims[1] >= self._smallest:
                self._linear(node, weight)

    def _linear(self, node: onnx.NodeProto, weight: onnx.TensorProto) -> None:
        columns = weight.dims[1]
        bias, kind = "", "Linear"
        add = self._only(node, "Add")
        if add is not None:
            other = add.input[1] if add.input[0] == node.output[0] else add.input[0]
            if other in self._constants and list(self._constants[other].dims) == [columns]:
                bias = other
                self._join(node, add)
        gelu = self._only(node, "Gelu")
        if gelu is not None and any(a.name == "approximate" and a.s == b"tanh" for a in gelu.attribute):
            kind = "LinearGelu"
            self._join(node, gelu)
        elif (silu := self._silu(node)) is not None:
            kind = "LinearSilu"
            self._gone.add(silu[0].name)
            self._join(node, silu[1])
        name = f"{weight.name}.bfloat16"
        if name not in self._constants:
            bits = tiles(rounded(self._read(weight)))
            self._put(helper.make_tensor(name, TensorProto.BFLOAT16, bits.shape, bits.tobytes(), raw=True))
        if not bias:
            bias = f"zeros[{columns}]"
            if bias not in self._constants:
                self._put(numpy_helper.from_array(np.zeros(columns, np.float32), bias))
        node.op_type, node.domain = kind, DOMAIN
        node.input[:] = [node.input[0], name, bias]

    def _only(self, node: onnx.NodeProto, kind: str) -> onnx.NodeProto | None:
        """The one reader of a node's output, where it is of this kind."""
        readers = self._readers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None

    def _silu(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """The nodes of x * sigmoid(x), where nothing else reads x."""
        readers = {reader.op_type: reader for reader in self._readers.get(node.output[0], [])}
        if set(readers) != {"Sigmoid", "Mul"} or len(self._readers[node.output[0]]) != 2:
            return None
        sigmoid, product = readers["Sigmoid"], readers["Mul"]
        if self._only(sigmoid, "Mul") is not product:
            return None
        return sigmoid, product

    def _join(self, node: onnx.NodeProto, reader: onnx.NodeProto) -> None:
        """`node` computes what `reader` did."""
        self._gone.add(reader.name)
        node.output[0] = reader.output[0]

    def _put(self, tensor: onnx.TensorProto) -> None:
        self._constants[tensor.name] = tensor
        self._model.graph.initializer.append(tensor)

    def _meet(self, node: onnx.NodeProto, single: set[str]) -> None:
        """Join a Linear to the sum or product whose second operand it is; that has the shape of the result, but
        where it is one row that is added to each of the other's, as the time was in older bundles."""
        reader = self._only(node, "Add") or self._only(node, "Mul")
        if reader is None or reader.input[1] != node.output[0] or reader.input[0] in self._constants:
            return
        if node.output[0] in single and reader.input[0] not in single:
            return
        reader.op_type, reader.domain = f"Linear{reader.op_type}", DOMAIN
        reader.input[:] = [*node.input, reader.input[0]]
        self._gone.add(node.name)

    def _single_rows(self) -> set[str]:
        """Values that are one row, because all that they are computed from is."""
        graph = self._model.graph
        single = {v.name for v in graph.input if [d.dim_value for d in v.type.tensor_type.shape.dim][:1] == [1]}
        for node in graph.node:
            values = [name for name in node.input if name and name not in self._constants]
            if values and single.issuperset(values) and (node.op_type in _SAME_ROWS or node.op_type in LINEAR):
                single.update(node.output)
        return single

    def finish(self) -> None:
        graph = self._model.graph
        single = self._single_rows()
        for node in graph.node:
            if node.domain == DOMAIN and node.op_type == "Linear" and node.name not in self._gone:
                self._meet(node, single)
        kept = [node for node in graph.node if node.name not in self._gone]
        _round(kept)
        del graph.node[:]
        graph.node.extend(kept)
        used = {name for node in kept for name in node.input}
        constants = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        defined = {definition.name: definition for definition in self._model.functions}
        called = {node.op_type for node in kept if node.domain == DOMAIN}
        made = [defined[name] if name in defined else self._define(name, defined) for name in sorted(called)]
        del self._model.functions[:]
        self._model.functions.extend(made)

    def _define(self, name: str, defined: dict[str, onnx.FunctionProto]) -> onnx.FunctionProto:
        plain = defined.get(name.removesuffix(ROUNDED).removesuffix(BFLOAT16))
        return function(name, None if plain is None else heads_of(plain))


def _round(nodes: list[onnx.NodeProto]) -> None:
    """Let those whose every reader rounds what they compute do it themselves."""
    readers: dict[str, list[bool]] = {}
    for node in nodes:
        rounding = 0
        if node.domain == DOMAIN:
            rounding = 1 if node.op_type in LINEAR else 3 if node.op_type.endswith(f"Attention{BFLOAT16}") else 0
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append(place < rounding)
    for node in nodes:
        if not all(readers.get(node.output[0], [False])):
            continue
        if node.domain == DOMAIN and node.op_type in _ROUNDABLE:
            node.op_type += ROUNDED
        elif node.op_type == "LayerNormalization" and len(node.input) == 3:
            node.op_type, node.domain = f"LayerNorm{ROUNDED}", DOMAIN
            epsilon = [attribute for attribute in node.attribute if attribute.name == "epsilon"]
            del node.attribute[:]
            node.attribute.extend(epsilon)
