"""The functions of domain `vlad` that block graphs call, each in plain ONNX.

A call is one node. Where the runtime has a kernel of that name (csrc/fused/fused_ops.c) it runs the
kernel; everywhere else, and in any converter after `onnx.inliner`, the function is what is computed.
The body is also the kernel's definition, rounding included.

    Attention        (q [n, heads * d], k [s, kv_heads * d], v as k) -> as q
    MaskedAttention  the same with mask [s, n], added to the scores of each head
    Rope             (x [n, heads * 2 * half], cos [n, half], sin [n, half]) -> as x
    Linear           (x [m, k], w, bias [n]) -> x w + bias [m, n]; w is bfloat16 as `tiles` makes it
    LinearGelu, LinearSilu   of which GELU (tanh) or SiLU is taken
    LinearAdd, LinearMul     (x, w, bias, other [m, n] or [1, n]) -> other + or * Linear(x, w, bias)
    LayerNorm                (x [n, width], weight [width], bias [width]) -> as x
    LinearToken8             (x [m, k], w int8 [n, k], scale [n], bias [n], zero) -> [m, n]: each row of x rounded to
                             127ths of its greatest magnitude, times the transpose of w, whose rows have units of scale.
                             zero is 128 in uint8, one constant for all calls, so that x is rounded once

The scale of attention is in q already; query head h sees head h * kv_heads / heads of k and v.
`AttentionBfloat16` and `MaskedAttentionBfloat16` round q, k, v and the unnormalised weights.
A name that ends in `Rounded` is that of the same function with y as bfloat16. x of Linear and q, k, v of attention
may be bfloat16 already.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DOMAIN = "vlad"
VERSION = 1
BFLOAT16 = "Bfloat16"
ROUNDED = "Rounded"
LINEAR = ("Linear", "LinearGelu", "LinearSilu", "LinearAdd", "LinearMul")
TOKEN8 = "LinearToken8"
_OPSETS = [helper.make_opsetid("", 20)]
_MICROSOFT = "com.microsoft"  # of operators that only ONNX Runtime has
_TINY = 1e-12  # the least that a row of LinearToken8 is divided by


@dataclasses.dataclass(frozen=True, slots=True)
class Heads:
    """How the columns of q, k and v divide: `query` and `key` heads of `size`."""

    query: int
    key: int
    size: int


class _Body:
    """Nodes of one function."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def op(self, kind: str, *inputs: str, result: str | None = None, outputs: int = 1, **attributes: Any) -> Any:
        names = [result or f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def integers(self, *values: int) -> str:
        made: str = self.op("Constant", value=numpy_helper.from_array(np.array(values, np.int64)))
        return made

    def rounded(self, x: str) -> str:
        """`x` as bfloat16 holds it."""
        made: str = self.op("Cast", self.op("Cast", x, to=TensorProto.BFLOAT16), to=TensorProto.FLOAT)
        return made


def function(name: str, heads: Heads | None) -> onnx.FunctionProto:
    """The definition of a function by name. `heads` is that of the block, for attention."""
    body = _Body()
    kind = name.removesuffix(ROUNDED)
    y = "y" if kind == name else "unrounded"
    attributes: list[str] = []
    if "Attention" in kind:
        if heads is None:
            raise ValueError(f"{name} needs the heads of its block")
        inputs = ["q", "k", "v"] + (["mask"] if kind.startswith("Masked") else [])
        _attention(body, heads, y, masked=kind.startswith("Masked"), rounded=kind.endswith(BFLOAT16))
        attributes = ["heads", "kv_heads"]
    elif kind == "Rope":
        if heads is None:
            raise ValueError(f"{name} needs the heads of its block")
        inputs = ["x", "cos", "sin"]
        _rope(body, heads, y)
    elif kind in LINEAR:
        inputs = ["x", "w", "bias"] + (["other"] if kind in ("LinearAdd", "LinearMul") else [])
        _linear(body, kind.removeprefix("Linear"), y)
    elif kind == "LayerNorm":
        inputs, attributes = ["x", "weight", "bias"], ["epsilon"]
        body.op("LayerNormalization", *inputs, result=y, axis=-1)
        epsilon = onnx.AttributeProto(name="epsilon", ref_attr_name="epsilon", type=onnx.AttributeProto.FLOAT)
        body.nodes[-1].attribute.append(epsilon)
    elif kind == TOKEN8:
        inputs = ["x", "w", "scale", "bias", "zero"]
        _token8(body, y)
    else:
        raise ValueError(f"no function {name!r}")
    if y != "y":
        body.op("Cast", y, result="y", to=TensorProto.BFLOAT16)
    opsets = [*_OPSETS, helper.make_opsetid(_MICROSOFT, 1)] if kind == TOKEN8 else _OPSETS
    made = helper.make_function(DOMAIN, name, inputs, ["y"], body.nodes, opsets, attributes)
    if heads is not None:
        made.doc_string = f"{heads.query} query heads, {heads.key} key heads of {heads.size}"
    return made


def heads_of(definition: onnx.FunctionProto) -> Heads:
    """The heads that a definition was made for."""
    numbers = [int(word) for word in definition.doc_string.split() if word.isdigit()]
    return Heads(*numbers)


def _token8(body: _Body, y: str) -> None:
    """The product is ONNX Runtime's, whose first factor is unsigned: 127ths about `zero`."""

    def constant(value: Any) -> str:
        made: str = body.op("Constant", value=numpy_helper.from_array(np.asarray(value)))
        return made

    greatest = body.op("ReduceMax", body.op("Abs", "x"), body.integers(-1), keepdims=1)
    greatest = body.op("Max", greatest, constant(np.float32(_TINY)))
    unit = constant(np.float32(1 / 127))
    rounded = body.op("QuantizeLinear", body.op("Div", "x", greatest), unit, "zero")
    columns = body.op("Transpose", "w", perm=[1, 0])
    product = body.op("MatMulIntegerToFloat", rounded, columns, unit, "scale", "zero", domain=_MICROSOFT)
    body.op("Add", body.op("Mul", product, greatest), "bias", result=y)


def _attention(body: _Body, heads: Heads, y: str, *, masked: bool, rounded: bool) -> None:
    def split(x: str, count: int, perm: list[int]) -> str:
        shaped = body.op("Reshape", body.rounded(x) if rounded else x, body.integers(-1, count, heads.size))
        made: str = body.op("Transpose", shaped, perm=perm)
        return made

    group = heads.query // heads.key
    query = split("q", heads.query, [1, 0, 2])
    if group > 1:
        query = body.op("Reshape", query, body.integers(heads.key, -1, heads.size))
    scores = body.op("MatMul", query, split("k", heads.key, [1, 2, 0]))
    if masked:
        mask = body.op("Transpose", "mask", perm=[1, 0])
        if group > 1:
            mask = body.op("Tile", mask, body.integers(group, 1))
        scores = body.op("Add", scores, mask)
    value = split("v", heads.key, [1, 0, 2])
    if rounded:
        highest = body.op("ReduceMax", scores, body.integers(-1), keepdims=1)
        weights = body.op("Exp", body.op("Sub", scores, highest))
        total = body.op("ReduceSum", weights, body.integers(-1), keepdims=1)
        attended = body.op("Div", body.op("MatMul", body.rounded(weights), value), total)
    else:
        attended = body.op("MatMul", body.op("Softmax", scores, axis=-1), value)
    if group > 1:
        attended = body.op("Reshape", attended, body.integers(heads.query, -1, heads.size))
    merged = body.op("Transpose", attended, perm=[1, 0, 2])
    body.op("Reshape", merged, body.integers(-1, heads.query * heads.size), result=y)


def _rope(body: _Body, heads: Heads, y: str) -> None:
    """(x1 cos - x2 sin, x2 cos + x1 sin) of the halves of each head."""
    split = body.op("Reshape", "x", body.integers(0, -1, heads.size))
    left, right = body.op("Split", split, outputs=2, axis=-1, num_outputs=2)
    cos = body.op("Unsqueeze", "cos", body.integers(1))
    sin = body.op("Unsqueeze", "sin", body.integers(1))
    first = body.op("Sub", body.op("Mul", left, cos), body.op("Mul", right, sin))
    second = body.op("Add", body.op("Mul", right, cos), body.op("Mul", left, sin))
    joined = body.op("Concat", first, second, axis=-1)
    shape = body.op("Shape", "x")
    body.op("Reshape", joined, shape, result=y)


def tiles(weight: NDArray[Any]) -> NDArray[Any]:
    """`[k, n]` in the order in which csrc/fused/linear_amx.c loads it, a row for every 16 columns:
    [n / 16, (k / 32, k % 32 / 2, n % 16, k % 2)], padded with zeros to whole tiles of 32 x 16.
    """
    k, n = weight.shape
    padded = np.zeros((-(-k // 32) * 32, -(-n // 16) * 16), weight.dtype)
    padded[:k, :n] = weight
    ordered = padded.reshape(-1, 16, 2, padded.shape[1] // 16, 16).transpose(3, 0, 1, 4, 2)
    return np.ascontiguousarray(ordered).reshape(padded.shape[1] // 16, -1)


def _linear(body: _Body, kind: str, y: str) -> None:
    ordered = body.op("Reshape", body.op("Cast", "w", to=TensorProto.FLOAT), body.integers(0, -1, 16, 16, 2))
    padded = body.op("Flatten", body.op("Transpose", ordered, perm=[1, 2, 4, 0, 3]), axis=3)
    sizes = body.op("Concat", body.op("Shape", "x", start=1), body.op("Shape", "bias"), axis=0)
    weight = body.op("Slice", padded, body.integers(0, 0), sizes, body.integers(0, 1))
    product = body.op("MatMul", body.rounded("x"), weight)
    if not kind:
        body.op("Add", product, "bias", result=y)
        return
    linear = body.op("Add", product, "bias")
    if kind == "Gelu":
        body.op("Gelu", linear, result=y, approximate="tanh")
    elif kind == "Silu":
        body.op("Mul", linear, body.op("Sigmoid", linear), result=y)
    else:
        body.op(kind, "other", linear, result=y)
