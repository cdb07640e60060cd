"""A small aid to write an ONNX graph node by node, so that every operator of a block is chosen and
legible.

Operators of the default ONNX domain (opset 20), as plain as converters and old runtimes like them,
and calls of the functions of vlad.build.functions, which the file itself defines in those. Matrices
are row-major activations times `[in, out]` weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vlad.build.functions import DOMAIN, VERSION, Heads, function
from vlad.errors import BundleError
from vlad.manifest import Value

OPSET = 20
IR_VERSION = 9
_PROTOBUF_LIMIT = 2**31 - 2**20

Array = NDArray[np.float32]


class Graph:
    """One block under construction. Values are named by strings, as in ONNX itself. heads: of its attention,
    where it has one."""

    def __init__(self, name: str, heads: Heads | None = None) -> None:
        self.name = name
        self._heads = heads
        self._functions: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._scope: list[str] = []
        self._serial = 0
        self._parameters = 0
        self._weight_bytes = 0

    def scope(self, name: str) -> Graph:
        """Prefix the names of what follows: `with graph.scope("layer3"):`."""
        self._scope.append(name)
        return self

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self._scope.pop()

    def _name(self, hint: str) -> str:
        self._serial += 1
        return "/".join([*self._scope, f"{hint}_{self._serial}"])

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """Declare a float32 input; a dimension given as a string is dynamic."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Declare `value` as the float32 output `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output/{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append one node. Returns its output name, or a list of them when `outputs` > 1."""
        names = [self._name(kind) for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """A parameter tensor, stored as contiguous float32."""
        data = np.ascontiguousarray(values, dtype=np.float32)
        full = "/".join([*self._scope, name])
        if full in self._constants:
            raise ValueError(f"{self.name}: weight {full} is declared twice")
        self._constants[full] = numpy_helper.from_array(data, full)
        self._parameters += data.size
        self._weight_bytes += data.nbytes
        return full

    def integers(self, values: Sequence[int]) -> str:
        """An int64 vector constant (shapes, axes, slices); equal ones are shared."""
        name = "int64[" + ",".join(str(v) for v in values) + "]"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def integer(self, value: int) -> str:
        """An int64 scalar constant."""
        name = f"int64({value})"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(value, np.int64), name)
        return name

    def scalar(self, value: float) -> str:
        """A float32 scalar constant."""
        name = f"float({value!r})"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(value, np.float32), name)
        return name

    def call(self, name: str, *inputs: str, **attributes: int) -> str:
        """Append one call of a function. Returns its output."""
        self._functions.add(name)
        y: str = self.op(name, *inputs, domain=DOMAIN, **attributes)
        return y

    def attention(self, q: str, k: str, v: str, mask: str | None = None) -> str:
        """Attention `[n, heads * head_dim]`, the scale being in `q`; `mask` is additive, `[s, n]`."""
        if self._heads is None:
            raise ValueError(f"{self.name}: attention needs the heads of its block")
        masked = () if mask is None else (mask,)
        name = "Attention" if mask is None else "MaskedAttention"
        return self.call(name, q, k, v, *masked, heads=self._heads.query, kv_heads=self._heads.key)

    def rope(self, x: str, cos: str, sin: str) -> str:
        """Turn `x` `[n, heads * 2 * half]` by the angles of `cos` and `sin` `[n, half]`."""
        return self.call("Rope", x, cos, sin)

    def linear(self, x: str, name: str, weight: Array, bias: Array | None = None) -> str:
        """`x @ weight.T + bias` for a weight in PyTorch's `[out, in]` layout."""
        y: str = self.op("MatMul", x, self.weight(f"{name}.weight", weight.T))
        if bias is not None:
            y = self.op("Add", y, self.weight(f"{name}.bias", bias))
        return y

    def rms_norm(self, x: str, name: str, weight: Array, eps: float) -> str:
        """Root-mean-square norm over the last axis, in the form that runtimes fuse."""
        square = self.op("Pow", x, self.scalar(2.0))
        mean = self.op("ReduceMean", square, self.integers([-1]), keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, self.scalar(eps)))
        scaled: str = self.op("Mul", self.op("Div", x, root), self.weight(f"{name}.weight", weight))
        return scaled

    def silu(self, x: str) -> str:
        """`x * sigmoid(x)`."""
        y: str = self.op("Mul", x, self.op("Sigmoid", x))
        return y

    def slice(self, x: str, start: str, end: str, axis: int) -> str:
        """`x[start:end]` along `axis`; `start` and `end` name int64 vectors of one element."""
        y: str = self.op("Slice", x, start, end, self.integers([axis]))
        return y

    def dimension(self, x: str, axis: int) -> str:
        """The size of one axis of `x` as an int64 vector of one element."""
        y: str = self.op("Gather", self.op("Shape", x), self.integers([axis]), axis=0)
        return y

    @property
    def parameters(self) -> int:
        """Numbers held as weights so far."""
        return self._parameters

    def inputs(self) -> list[Value]:
        """Declared inputs."""
        return [_value(info) for info in self._inputs]

    def outputs(self) -> list[Value]:
        """Declared outputs."""
        return [_value(info) for info in self._outputs]

    def model(self) -> onnx.ModelProto:
        """The checked model. Raises BundleError for a block that one ONNX file cannot hold."""
        if self._weight_bytes > _PROTOBUF_LIMIT:
            raise BundleError(
                f"block {self.name}: {self._weight_bytes} bytes of float32 weights exceed the 2 GB of one ONNX file"
            )
        body = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, list(self._constants.values()))
        model = helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
            functions=[function(name, self._heads) for name in sorted(self._functions)],
            ir_version=IR_VERSION,
            producer_name="vlad",
        )
        onnx.checker.check_model(model, full_check=False)
        return model


def _value(info: onnx.ValueInfoProto) -> Value:
    dims = info.type.tensor_type.shape.dim
    return Value(name=info.name, shape=[d.dim_param or d.dim_value for d in dims])


def rope_tables(head_dim: int, positions: int, wavelength: float = 10_000.0) -> tuple[Array, Array]:
    """Cosine and sine `[positions, head_dim / 2]` of LeRobot's rotary embedding (base 10 000,
    float32 angles).

    Source: `apply_rope` in lerobot/policies/smolvla/smolvlm_with_expert.py.
    """
    half = head_dim // 2
    exponents = np.float32(2.0 / head_dim) * np.arange(half, dtype=np.float32)
    timescale = np.power(np.float32(wavelength), exponents, dtype=np.float32)
    radians = np.arange(positions, dtype=np.float32)[:, None] / timescale
    return np.cos(radians, dtype=np.float32), np.sin(radians, dtype=np.float32)
