"""A small aid to write a `.tflite` file operator by operator, over the schema that LiteRT ships.

Every tensor has a fixed shape. Operator versions are those that LiteRT's own converter gives the same operators
(tflite/converter/tools/versioning/op_version.cc), so that a runtime too old for one says so when it loads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.errors import BundleError

ALIGNMENT = 16  # of a buffer in the file, as the schema demands
_INT8_VERSION = {"FULLY_CONNECTED": 4, "CONV_2D": 3, "MAX_POOL_2D": 2, "ADD": 2, "TRANSPOSE": 2, "PAD": 2,
                 "DEQUANTIZE": 2}  # fmt: skip
_SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """real = (integer - zero) * scale. `scale` has one value, or one for each index of axis 0."""

    scale: tuple[float, ...]
    zero: int = 0


def activation(low: float, high: float) -> Scale:
    """int8 for the values of [low, high]; 0 is exact."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    step = float(np.float32(max((high - low) / 255, 1e-9)))
    return Scale((step,), int(np.clip(np.rint(-128 - low / step), -128, 127)))


def quantised_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], Scale]:
    """A weight `[outputs, ...]` in int8, symmetric, with a scale for each output."""
    greatest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    step = np.maximum(greatest / np.float32(127), np.float32(1e-12)).astype(np.float32)
    shaped = step.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / shaped), -127, 127).astype(np.int8), Scale(tuple(float(s) for s in step))


class Model:
    """One model under construction. Tensors are known by their index."""

    def __init__(self, name: str) -> None:
        try:
            from ai_edge_litert import schema_py_generated as schema
        except ImportError as error:
            raise BundleError(f"writing .tflite needs ai-edge-litert: pip install 'vlad[litert]' ({error})") from None
        self._schema: Any = schema
        self._graph = schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = name, [], []
        self._graph.inputs, self._graph.outputs = [], []
        self._buffers: list[bytes] = [b""]
        self._codes: dict[tuple[str, int], int] = {}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self.operators: list[tuple[str, str]] = []  # kind, type of what it computes
        self.shapes: list[tuple[int, ...]] = []
        self.scales: list[Scale | None] = []

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "float32", scale: Scale | None = None) -> int:
        """A tensor that an operator writes, or an input: float32, int8 with `scale`, or int32."""
        schema = self._schema
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name, [int(n) for n in shape], 0
        kinds = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32}
        made.type = kinds[dtype]
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = list(scale.scale)
            made.quantization.zeroPoint = [scale.zero] * len(scale.scale)
        self._graph.tensors.append(made)
        self.shapes.append(tuple(int(n) for n in shape))
        self.scales.append(scale)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, values: NDArray[Any], scale: Scale | None = None) -> int:
        """Its type is that of `values`. Small ones that are equal are shared."""
        data = np.ascontiguousarray(values)
        key = str(data.dtype), data.shape, data.tobytes() if data.nbytes <= 64 and scale is None else b""
        if key[2] and key in self._shared:
            return self._shared[key]
        index = self.tensor(name, data.shape, str(data.dtype), scale)
        self._graph.tensors[index].buffer = len(self._buffers)
        self._buffers.append(data.tobytes())
        if key[2]:
            self._shared[key] = index
        return index

    def op(self, kind: str, inputs: Sequence[int], output: int, **options: Any) -> int:
        """Append one operator, with the options of the schema. Returns `output`."""
        schema = self._schema
        integer = self._graph.tensors[inputs[0]].type == schema.TensorType.INT8
        version = _INT8_VERSION.get(kind, 1) if integer else 1
        made = schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault((kind, version), len(self._codes))
        made.inputs, made.outputs = list(inputs), [output]
        name = _OPTIONS.get(kind)
        if name is not None:
            chosen = getattr(schema, f"{name}T")()
            for key, value in options.items():
                assert hasattr(chosen, key), (kind, key)
                setattr(chosen, key, value)
            made.builtinOptions, made.builtinOptionsType = chosen, getattr(schema.BuiltinOptions, name)
        self._graph.operators.append(made)
        self.operators.append((kind, "int8" if integer else "float32"))
        return output

    @property
    def reads(self) -> list[tuple[str, list[int], int]]:
        """Of each operator, its kind, the tensors that it reads and the one that it writes."""
        return [(kind, list(op.inputs), int(op.outputs[0]))
                for (kind, _), op in zip(self.operators, self._graph.operators, strict=True)]  # fmt: skip

    @property
    def inputs(self) -> list[int]:
        """Those so far."""
        return list(self._graph.inputs)

    def rename(self, index: int, name: str) -> None:
        """A tensor that turned out to be an output."""
        self._graph.tensors[index].name = name

    def input(self, index: int) -> int:
        """`index` is an input of the model, under the name of the tensor."""
        self._graph.inputs.append(index)
        return index

    def output(self, index: int) -> None:
        """Likewise an output."""
        self._graph.outputs.append(index)

    def bytes(self) -> bytes:
        """The file."""
        import flatbuffers

        schema = self._schema
        model = schema.ModelT()
        model.version, model.description, model.subgraphs = 3, "vlad", [self._graph]
        model.operatorCodes = []
        for kind, version in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.version = getattr(schema.BuiltinOperator, kind), version
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            model.operatorCodes.append(code)
        model.buffers = [_Buffer(data) for data in self._buffers]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = _SIGNATURE, 0
        signature.inputs = [self._named(index) for index in self._graph.inputs]
        signature.outputs = [self._named(index) for index in self._graph.outputs]
        model.signatureDefs = [signature]
        size = sum(len(data) for data in self._buffers)
        if size >= 2**31 - 2**24:
            raise BundleError(f"{self._graph.name}: {size} bytes of weights exceed the 2 GB of one .tflite file")
        builder = flatbuffers.Builder(size + 2**20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _named(self, index: int) -> Any:
        named = self._schema.TensorMapT()
        named.name, named.tensorIndex = self._graph.tensors[index].name, index
        return named


_OPTIONS = {
    "CONV_2D": "Conv2DOptions", "MAX_POOL_2D": "Pool2DOptions", "ADD": "AddOptions", "SUB": "SubOptions",
    "MUL": "MulOptions", "FULLY_CONNECTED": "FullyConnectedOptions", "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions", "SOFTMAX": "SoftmaxOptions", "BATCH_MATMUL": "BatchMatMulOptions",
    "GELU": "GeluOptions", "MEAN": "ReducerOptions", "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions", "PAD": "PadOptions", "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "DIV": "DivOptions", "CONCATENATION": "ConcatenationOptions", "SLICE": "SliceOptions",
}  # fmt: skip


class _Buffer:
    """A buffer as the schema's own code packs a model, aligned, which that code does not do."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def Pack(self, builder: Any) -> int:
        from ai_edge_litert import schema_py_generated as schema

        vector = None
        if self._data:
            builder.StartVector(1, len(self._data), ALIGNMENT)
            builder.head -= len(self._data)
            builder.Bytes[builder.head : builder.head + len(self._data)] = self._data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        made: int = schema.BufferEnd(builder)
        return made
