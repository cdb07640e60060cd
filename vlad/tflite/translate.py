"""One ONNX block to one `.tflite`: the operators that vlad.build emits, and no others.

What an accelerator of integers takes is written in int8: convolutions, matrix products with weights, pooling, and
sums of pictures. Everything else stays float32 between DEQUANTIZE and QUANTIZE, because in 8 bits it costs more
accuracy than time: norms, softmax, GELU, the products of attention, and a transformer's residual sums, whose
few outlying channels would leave no steps for all others. Inputs and outputs are float32, as of the ONNX block.

Pictures are `[1, height, width, channels]`, which is how every kernel of this format wants them. A transposition is
not written where it is met: a value has a tensor and the order in which its axes are to be read, and only an
operator that cannot read them so makes it real.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from vlad.errors import BundleError
from vlad.tflite.model import Model, Scale, activation, quantised_weight

Ranges = Mapping[str, tuple[float, float]]
PICTURE = (0, 3, 1, 2)  # axes of `[1, height, width, channels]` as ONNX reads them
RELU, VALID = 1, 1  # ActivationFunctionType, Padding
_ELSEWHERE = frozenset({"TRANSPOSE", "FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL", "QUANTIZE", "DEQUANTIZE",
                        "CONCATENATION", "SLICE", "PAD", "MAX_POOL_2D", "MEAN"})  # fmt: skip
"""Operators whose result is never made in the place of an operand: no kernel of theirs says that it may."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Value:
    """A value of the ONNX graph: axis i of it is axis `order[i]` of the tensor."""

    tensor: int
    order: tuple[int, ...]

    @property
    def plain(self) -> bool:
        return self.order == tuple(range(len(self.order)))


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """With every function in its callers' place and the shape of every value. Raises BundleError for one that is
    not fixed.
    """
    flat = onnx.inliner.inline_local_functions(model)
    made: onnx.ModelProto = onnx.shape_inference.infer_shapes(flat, data_prop=True)
    for value in (*made.graph.input, *made.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                raise BundleError(f"block {made.graph.name}: {value.name} has a dimension that is not fixed, "
                                  f"{dimension.dim_param}; a .tflite for an accelerator has none")  # fmt: skip
    return made


def integer_values(model: onnx.ModelProto) -> list[str]:
    """The values of an inlined model whose ranges `translate` needs, inputs and outputs among them."""
    asked: dict[str, None] = {}
    _Translation(model, lambda name: asked.setdefault(name) or (-1.0, 1.0)).run()
    return list(asked)


def translate(model: onnx.ModelProto, ranges: Ranges | None) -> Model:
    """The `.tflite` of an inlined model. ranges: of each of its `integer_values`; None: all of it in float32, which
    is how the translation itself is proved. Raises BundleError for an operator that it does not know.
    """
    return _Translation(model, None if ranges is None else ranges.__getitem__).run()


class _Translation:
    def __init__(self, model: onnx.ModelProto, range_of: Callable[[str], tuple[float, float]] | None) -> None:
        graph = model.graph
        self._graph, self._range_of = graph, range_of
        self._model = Model(graph.name)
        self._constants: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._values: dict[str, _Value] = {}
        self._converted: dict[tuple[Any, ...], int] = {}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._done: set[int] = set()
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}
        self._shapes = {
            value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.input, *graph.output)
        }

    def run(self) -> Model:
        for value in self._graph.input:
            shape = self._shapes[value.name]
            self._values[value.name] = _Value(
                self._model.input(self._model.tensor(value.name, shape)), tuple(range(len(shape)))
            )
        for node in self._graph.node:
            if id(node) in self._done:
                continue
            write = getattr(self, f"_{node.op_type.lower()}", None)
            if write is None or node.domain not in ("", "ai.onnx"):
                raise BundleError(f"block {self._graph.name}: no translation of operator {node.op_type} ({node.name}) "
                                  "to .tflite")  # fmt: skip
            write(node)
        for value in self._graph.output:
            self._finish(value.name)
        self._refuse_shared_reshapes()
        return self._model

    def _refuse_shared_reshapes(self) -> None:
        """A RESHAPE copies nothing, and a sum or product may be made in the place of an operand: where the reshaped
        tensor is such an operand, what it was reshaped from is overwritten, though something else still reads it.
        tflite-runtime 2.14 does that, and ai-edge-litert 2.3 without XNNPACK, which is how it runs with a delegate
        (tests/tiny_litert.py has the least file).
        """
        reads = self._model.reads
        readers: dict[int, list[tuple[str, int]]] = {}
        for kind, inputs, output in reads:
            for tensor in set(inputs):
                readers.setdefault(tensor, []).append((kind, output))

        def may_overwrite(tensor: int) -> bool:
            return any(may_overwrite(output) if kind == "RESHAPE" else kind not in _ELSEWHERE
                       for kind, output in readers.get(tensor, []))  # fmt: skip

        for kind, inputs, output in reads:
            if kind == "RESHAPE" and len(readers[inputs[0]]) > 1 and may_overwrite(output):
                raise BundleError(f"block {self._graph.name}: a value is reshaped and read elsewhere too, which some "
                                  "releases of LiteRT compute wrongly")  # fmt: skip

    # --- values -------------------------------------------------------------------------------

    def _float(self, tensor: int) -> int:
        """The tensor in float32."""
        if self._model.scales[tensor] is None:
            return tensor
        return self._convert(tensor, "DEQUANTIZE", lambda: self._model.tensor(
            f"float {tensor}", self._model.shapes[tensor]))  # fmt: skip

    def _int8(self, name: str) -> _Value:
        """The value in int8, where integers are written at all."""
        value = self._values[name]
        if self._range_of is None or self._model.scales[value.tensor] is not None:
            return value
        scale = activation(*self._range_of(name))
        tensor = self._convert(value.tensor, "QUANTIZE", lambda: self._model.tensor(
            f"{name} int8", self._model.shapes[value.tensor], "int8", scale))  # fmt: skip
        return _Value(tensor, value.order)

    def _convert(self, tensor: int, kind: str, made: Callable[[], int], *how: int) -> int:
        """Once for each tensor and each constant that says how."""
        key = tensor, kind, *how
        if key not in self._converted:
            self._converted[key] = self._model.op(kind, [tensor, *how], made())
        return self._converted[key]

    def _ordered(self, value: _Value, order: tuple[int, ...]) -> int:
        """A tensor whose axes are read in `order`."""
        if value.order == order:
            return value.tensor
        axes = [value.order[order.index(i)] for i in range(len(order))]
        shape = self._model.shapes[value.tensor]
        return self._convert(value.tensor, "TRANSPOSE", lambda: self._like(value.tensor, [shape[a] for a in axes]),
                             self._model.constant(f"axes {axes}", np.array(axes, np.int32)))  # fmt: skip

    def _plain(self, value: _Value) -> int:
        return self._ordered(value, tuple(range(len(value.order))))

    def _like(self, tensor: int, shape: Sequence[int]) -> int:
        """A new tensor of another shape, with the same type and scale."""
        scale = self._model.scales[tensor]
        return self._model.tensor(f"like {tensor}", shape, "float32" if scale is None else "int8", scale)

    def _result(self, name: str, shape: Sequence[int], *, integer: bool) -> int:
        """The tensor for a value that an operator computes."""
        if not integer or self._range_of is None:
            return self._model.tensor(name, shape)
        return self._model.tensor(name, shape, "int8", activation(*self._range_of(name)))

    def _operand(self, name: str) -> int:
        """float32, its axes in order; of a constant too."""
        if name in self._constants:
            return self._model.constant(name, self._constants[name].astype(np.float32))
        return self._plain(_Value(self._float(self._values[name].tensor), self._values[name].order))

    def _set(self, name: str, tensor: int, order: Sequence[int] | None = None) -> None:
        self._values[name] = _Value(tensor, tuple(order or range(len(self._model.shapes[tensor]))))

    def _follower(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The only reader of a value, if it is of this kind."""
        readers = self._readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == kind and name not in self._outputs:
            return readers[0]
        return None

    def _activated(self, name: str) -> tuple[str, int]:
        """The value that an operator with result `name` computes with a ReLU that follows, and the code of that."""
        relu = self._follower(name, "Relu")
        if relu is None:
            return name, 0
        self._done.add(id(relu))
        return relu.output[0], RELU

    def _finish(self, name: str) -> None:
        value = self._values[name]
        tensor = self._plain(_Value(self._float(value.tensor), value.order))
        if tensor in self._model.inputs:
            raise BundleError(f"block {self._graph.name}: output {name} is an input")
        self._model.rename(tensor, name)
        self._model.output(tensor)

    # --- operators in int8 --------------------------------------------------------------------

    def _weighted(
        self, kind: str, x: int, weights: tuple[str, NDArray[np.float32], NDArray[np.float32]], output: str,
        shape: Sequence[int], **options: Any,
    ) -> int:  # fmt: skip
        """A convolution or matrix product: weights (name, values, bias) with a scale for each output, the bias in
        int32."""
        model, scale, (name, weight, bias) = self._model, self._model.scales[x], weights
        if scale is None:
            operands = [x, model.constant(name, weight), model.constant(f"{name} bias", bias)]
        else:
            stored, steps = quantised_weight(weight)
            units = np.array(steps.scale, np.float64) * scale.scale[0]
            rounded = np.clip(np.rint(bias / units), -(2**31 - 1), 2**31 - 1).astype(np.int32)
            operands = [x, model.constant(name, stored, steps),
                        model.constant(f"{name} bias", rounded, Scale(tuple(float(u) for u in units)))]  # fmt: skip
        return model.op(kind, operands, self._result(output, shape, integer=True), **options)

    def _padded(self, x: int, pads: Sequence[int]) -> int:
        """`[1, height, width, channels]` with zeros around."""
        top, left, bottom, right = pads
        if not any(pads):
            return x
        around = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        n, height, width, channels = self._model.shapes[x]
        shape = [n, height + top + bottom, width + left + right, channels]
        return self._convert(x, "PAD", lambda: self._like(x, shape), self._model.constant(f"pads {pads}", around))

    def _conv(self, node: onnx.NodeProto) -> None:
        given = _attributes(node)
        if given.get("group", 1) != 1 or any(d != 1 for d in given.get("dilations", [1])):
            raise BundleError(f"block {self._graph.name}: {node.name}: groups and dilations are not translated")
        weight = self._constants[node.input[1]].transpose(0, 2, 3, 1)
        bias = self._constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        x = self._padded(self._ordered(self._int8(node.input[0]), PICTURE), given.get("pads", [0] * 4))
        down, right = given.get("strides", [1, 1])
        name, activated = self._activated(node.output[0])
        n, channels, height, width = self._shapes[node.output[0]]
        self._set(name, self._weighted(
            "CONV_2D", x, (node.input[1], weight, bias), name, [n, height, width, channels], padding=VALID,
            strideH=down, strideW=right, fusedActivationFunction=activated), PICTURE)  # fmt: skip

    def _maxpool(self, node: onnx.NodeProto) -> None:
        given = _attributes(node)
        pads = given.get("pads", [0] * 4)
        source = next((n for n in self._graph.node if node.input[0] in n.output), None)
        if any(pads) and (source is None or source.op_type != "Relu"):
            raise BundleError(f"block {self._graph.name}: {node.name}: padded with zeros, which only behind a ReLU are "
                              "below everything")  # fmt: skip
        x = self._padded(self._ordered(self._int8(node.input[0]), PICTURE), pads)
        n, channels, height, width = self._shapes[node.output[0]]
        rows, columns = given["kernel_shape"]
        down, right = given.get("strides", [1, 1])
        self._set(node.output[0], self._model.op(
            "MAX_POOL_2D", [x], self._like(x, [n, height, width, channels]), padding=VALID, filterHeight=rows,
            filterWidth=columns, strideH=down, strideW=right), PICTURE)  # fmt: skip

    def _matmul(self, node: onnx.NodeProto) -> None:
        x, y = node.input
        if x in self._constants or (y in self._constants and self._constants[y].ndim != 2):
            raise BundleError(f"block {self._graph.name}: {node.name}: of weights, only a matrix on the right is "
                              "translated")  # fmt: skip
        if y not in self._constants:
            made = self._result(node.output[0], self._shapes[node.output[0]], integer=False)
            self._set(node.output[0], self._model.op("BATCH_MATMUL", [self._operand(x), self._operand(y)], made))
            return
        weight, name = self._constants[y].T, node.output[0]
        bias = np.zeros(len(weight), np.float32)
        add = self._follower(name, "Add")
        if add is not None:
            other = add.input[1] if add.input[0] == name else add.input[0]
            if other in self._constants and self._constants[other].shape == bias.shape:
                bias, name = self._constants[other], add.output[0]
                self._done.add(id(add))
        name, activated = self._activated(name)
        self._set(name, self._weighted("FULLY_CONNECTED", self._plain(self._int8(x)), (y, weight, bias), name,
                                       self._shapes[name], fusedActivationFunction=activated))  # fmt: skip

    def _add(self, node: onnx.NodeProto) -> None:
        x, y = node.input
        pictures = [n in self._values and self._values[n].order == PICTURE for n in (x, y)]
        if not all(pictures):
            self._elementwise("ADD", node)
            return
        name, activated = self._activated(node.output[0])
        n, channels, height, width = self._shapes[node.output[0]]
        made = self._result(name, [n, height, width, channels], integer=True)
        self._set(name, self._model.op("ADD", [self._int8(x).tensor, self._int8(y).tensor], made,
                                       fusedActivationFunction=activated), PICTURE)  # fmt: skip

    # --- operators that only move values ------------------------------------------------------

    def _reshape(self, node: onnx.NodeProto) -> None:
        value, shape = self._values[node.input[0]], self._shapes[node.output[0]]
        before = self._shapes[node.input[0]]
        order: Sequence[int] | None = None
        if value.order == PICTURE and before[0] == 1 and shape == (before[1], before[2] * before[3]):
            tensor, shape, order = value.tensor, (shape[1], shape[0]), (1, 0)  # pixels in a row: as they lie
        else:
            tensor = self._plain(value)
        self._set(node.output[0], self._reshaped(tensor, shape), order)

    def _reshaped(self, tensor: int, shape: tuple[int, ...]) -> int:
        sizes = np.array(shape, np.int32)
        return self._convert(tensor, "RESHAPE", lambda: self._like(tensor, shape),
                             self._model.constant(f"shape {shape}", sizes))  # fmt: skip

    def _transpose(self, node: onnx.NodeProto) -> None:
        value = self._values[node.input[0]]
        self._values[node.output[0]] = _Value(value.tensor, tuple(value.order[a] for a in _attributes(node)["perm"]))

    def _identity(self, node: onnx.NodeProto) -> None:
        self._values[node.output[0]] = self._values[node.input[0]]

    def _constant(self, node: onnx.NodeProto) -> None:
        self._constants[node.output[0]] = numpy_helper.to_array(_attributes(node)["value"])

    def _shape(self, node: onnx.NodeProto) -> None:
        self._constants[node.output[0]] = np.array(self._shapes[node.input[0]], np.int64)

    def _unsqueeze(self, node: onnx.NodeProto) -> None:
        tensor = self._plain(self._values[node.input[0]])
        self._set(node.output[0], self._reshaped(tensor, self._shapes[node.output[0]]))

    # --- operators in float32 -----------------------------------------------------------------

    def _elementwise(self, kind: str, node: onnx.NodeProto) -> None:
        made = self._result(node.output[0], self._shapes[node.output[0]], integer=False)
        self._set(node.output[0], self._model.op(kind, [self._operand(name) for name in node.input], made))

    def _pow(self, node: onnx.NodeProto) -> None:
        if node.input[1] not in self._constants or self._constants[node.input[1]] != 2:
            raise BundleError(f"block {self._graph.name}: {node.name}: of powers, only squares are translated")
        x = self._operand(node.input[0])
        made = self._result(node.output[0], self._shapes[node.output[0]], integer=False)
        self._set(node.output[0], self._model.op("MUL", [x, x], made))

    def _reducemean(self, node: onnx.NodeProto) -> None:
        rank = len(self._shapes[node.input[0]])
        axes = np.array([int(a) % rank for a in self._constants[node.input[1]]], np.int32)
        made = self._result(node.output[0], self._shapes[node.output[0]], integer=False)
        operands = [self._operand(node.input[0]), self._model.constant(f"axes {axes}", axes)]
        self._set(node.output[0], self._model.op("MEAN", operands, made, keepDims=bool(
            _attributes(node).get("keepdims", 1))))  # fmt: skip

    def _concat(self, node: onnx.NodeProto) -> None:
        made = self._result(node.output[0], self._shapes[node.output[0]], integer=False)
        axis = _attributes(node)["axis"] % len(self._shapes[node.output[0]])
        operands = [self._operand(name) for name in node.input]
        self._set(node.output[0], self._model.op("CONCATENATION", operands, made, axis=axis))

    def _tile(self, node: onnx.NodeProto) -> None:
        """Of one axis: the same again and again."""
        (axis, count), *more = ((i, int(n)) for i, n in enumerate(self._constants[node.input[1]]) if n > 1)
        if more:
            raise BundleError(f"block {self._graph.name}: {node.name}: repeated along more than one axis")
        made = self._result(node.output[0], self._shapes[node.output[0]], integer=False)
        operands = [self._operand(node.input[0])] * count
        self._set(node.output[0], self._model.op("CONCATENATION", operands, made, axis=axis))

    def _split(self, node: onnx.NodeProto) -> None:
        x = self._operand(node.input[0])
        axis = _attributes(node).get("axis", 0) % len(self._model.shapes[x])
        begin = [0] * len(self._model.shapes[x])
        for name in node.output:
            shape = self._shapes[name]
            operands = [x, *(self._model.constant(f"{what} {n}", np.array(n, np.int32))
                             for what, n in (("begin", begin), ("size", shape)))]  # fmt: skip
            self._set(name, self._model.op("SLICE", operands, self._result(name, shape, integer=False)))
            begin[axis] += shape[axis]

    def _div(self, node: onnx.NodeProto) -> None:
        self._elementwise("DIV", node)

    def _sqrt(self, node: onnx.NodeProto) -> None:
        self._elementwise("SQRT", node)

    def _sigmoid(self, node: onnx.NodeProto) -> None:
        self._elementwise("LOGISTIC", node)

    def _mul(self, node: onnx.NodeProto) -> None:
        self._elementwise("MUL", node)

    def _sub(self, node: onnx.NodeProto) -> None:
        self._elementwise("SUB", node)

    def _relu(self, node: onnx.NodeProto) -> None:
        self._elementwise("RELU", node)

    def _softmax(self, node: onnx.NodeProto) -> None:
        made = self._result(node.output[0], self._shapes[node.output[0]], integer=False)
        self._set(node.output[0], self._model.op("SOFTMAX", [self._operand(node.input[0])], made, beta=1.0))

    def _gelu(self, node: onnx.NodeProto) -> None:
        made = self._result(node.output[0], self._shapes[node.output[0]], integer=False)
        tanh = _attributes(node).get("approximate", b"none") == b"tanh"
        self._set(node.output[0], self._model.op("GELU", [self._operand(node.input[0])], made, approximate=tanh))

    def _layernormalization(self, node: onnx.NodeProto) -> None:
        """Of the last axis, as five operators: the format has none of its own."""
        given, model = _attributes(node), self._model
        x, scale, bias = map(self._operand, node.input)
        shape = model.shapes[x]
        axis = model.constant("last axis", np.array([len(shape) - 1], np.int32))

        def op(kind: str, *inputs: int, of: Sequence[int] = shape, **options: Any) -> int:
            return model.op(kind, inputs, model.tensor(f"{node.name} {kind}", of), **options)

        one = (*shape[:-1], 1)
        off = op("SUB", x, op("MEAN", x, axis, of=one, keepDims=True))
        square = op("MEAN", op("MUL", off, off), axis, of=one, keepDims=True)
        eps = model.constant("eps", np.array(given.get("epsilon", 1e-5), np.float32))
        root = op("RSQRT", op("ADD", square, eps, of=one), of=one)
        self._set(node.output[0], op("ADD", op("MUL", op("MUL", off, root), scale), bias))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
