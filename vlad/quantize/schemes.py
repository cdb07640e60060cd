"""How one linear layer is stored and computed: the schemes, and the rewriting of one MatMul into each.

All that is known about a runtime's integer kernels is here, and only here. `y = x @ w + b` with x
float32 `[rows, in]`, w float32 `[in, out]`, b `[out]` or none becomes:

    float16   w in float16, cast back to float32 when the block is loaded: half the file, same speed
    dynamic8  w in int8, one scale an output channel; x in uint8, one scale a call, found at run time
    token8    the same, with one scale for each row of x, so that one outlying token costs only itself
    static8   the same, with a range of x that was calibrated before
    weights4  w in 4 bits, one scale for each 32 inputs; x is not stored, the kernel quantises it in blocks
    bfloat16  w in bfloat16, x rounded where it is multiplied, the attention before the layer too: what
              `vlad build --bfloat16` makes of a whole block, by operators of our own (vlad/build/bfloat16.py)

Sums are int32 in the integer schemes. x is unsigned with a zero point, w signed without: the only form for which
ONNX Runtime has fast kernels on x86 (u8u8 takes 6 times as long, s8s8 25 times). Layers that read the same x
share its quantisation: their nodes for it have the same names. A weight-only DequantizeLinear would be folded
back to float32 when the block is loaded, and QDQ around a MatMul with a bias is not fused at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from vlad.build.functions import DOMAIN, LINEAR, ROUNDED, TOKEN8
from vlad.errors import BundleError

Array = NDArray[np.float32]

MICROSOFT = "com.microsoft"
BLOCK = 32  # inputs that share a scale in weights4
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of a block's greatest weight, tried for the least squared error
_TINY = 1e-12


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The values of x that static8 can represent; what lies beyond is clipped. `how` says what chose it."""

    low: float
    high: float
    how: str = "greatest"

    def quantum(self) -> tuple[np.float32, np.uint8]:
        """Scale and zero point of uint8; 0 is exact."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = np.float32(max((high - low) / 255, _TINY))
        return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


@dataclasses.dataclass(frozen=True, slots=True)
class Linear:
    """One MatMul of a block with a constant weight `[inputs, outputs]`; `y` is its result, bias included."""

    name: str
    group: str
    x: str
    y: str
    weight: str
    bias: str | None
    inputs: int
    outputs: int


@dataclasses.dataclass(frozen=True, slots=True)
class Rewritten:
    """What takes the MatMul's place: nodes in order, and the constants that they need."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store and compute a linear layer.

    `mac` is the price of a multiply-add, `element` that of preparing one element of x and `call` that of
    the nodes that come on top at every call, all in float32 multiply-adds. They are what the search
    compares, so that a noisy clock cannot change its choice (docs/quantize.md has the measurement
    behind them). `fallback` is that of a multiply-add on a processor without kernels for the scheme, None
    where each has them. `bits` are those of a stored weight, scales included. `operators` are those that
    prove that the scheme is computed; of an integer one after the runtime's own rewriting too. Without
    `rewrite` the whole block is rewritten at once (BlockGraph).
    """

    name: str
    stored: str
    bits: float
    mac: float
    element: float
    call: float
    integer: bool
    operators: frozenset[str]
    rewrite: Callable[[Linear, Array, Range | None], Rewritten] | None
    fallback: float | None = None

    def cost(self, linear: Linear, rows: int, *, kernels: bool = True) -> float:
        """Of one call with so many rows, in float32 multiply-adds. kernels: this processor has those for it."""
        if not kernels and self.fallback is not None:
            return rows * linear.inputs * linear.outputs * self.fallback
        return self.call + rows * linear.inputs * (linear.outputs * self.mac + self.element)


def int8_channels(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """`weight` `[in, out]` as int8 and the scale `[out]` of each output channel, symmetric about 0."""
    scale = np.maximum(np.abs(weight).max(axis=0) / np.float32(127), np.float32(_TINY)).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def int4_blocks(weight: Array) -> tuple[NDArray[np.uint8], Array]:
    """`weight` `[in, out]` as MatMulNBits stores it: two numbers a byte `[out, blocks, BLOCK / 2]` about 8, and
    the scale of each block `[out, blocks]`, the one of a few that leaves the least squared error.
    """
    inputs, outputs = weight.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((outputs, blocks * BLOCK), np.float32)
    padded[:, :inputs] = weight.T
    values = padded.reshape(outputs, blocks, BLOCK)
    greatest = np.maximum(np.abs(values).max(axis=-1), np.float32(_TINY))
    best, scale = np.full(greatest.shape, np.inf, np.float32), np.empty_like(greatest)
    for clip in _CLIPS:
        tried = (greatest * np.float32(clip / 7)).astype(np.float32)
        off = np.clip(np.rint(values / tried[..., None]), -8, 7) * tried[..., None] - values
        error = np.square(off, out=off).sum(axis=-1)
        better = error < best
        best[better], scale[better] = error[better], tried[better]
    numbers = (np.clip(np.rint(values / scale[..., None]), -8, 7) + 8).astype(np.uint8)
    return numbers[..., 0::2] | (numbers[..., 1::2] << np.uint8(4)), scale


class _Nodes:
    """The nodes that take one MatMul's place. What is made `of_x` is named after x: layers share it."""

    def __init__(self, linear: Linear, scheme: str) -> None:
        self._linear, self._scheme = linear, scheme
        self.made = Rewritten([], {})

    def _name(self, name: str, of_x: bool) -> str:
        return f"{self._linear.x if of_x else self._linear.name}/{self._scheme}/{name}"

    def constant(self, name: str, values: Any, *, of_x: bool = False) -> str:
        full = self._name(name, of_x)
        self.made.constants[full] = np.asarray(values)
        return full

    def op(
        self, kind: str, *inputs: str, outputs: tuple[str, ...] = (), domain: str = "", of_x: bool = False,
        **attributes: Any,
    ) -> Any:  # fmt: skip
        names = [self._name(name, of_x) for name in outputs or (kind,)]
        node = helper.make_node(kind, list(inputs), names, name=names[0], domain=domain, **attributes)
        self.made.nodes.append(node)
        return names[0] if len(names) == 1 else names

    def product(self, x: str, of_x: str, zero: str, weight: Array) -> str:
        """x in uint8 times the weight in int8, as float32."""
        values, scale = int8_channels(weight)
        operands = x, self.constant("weight", values), of_x, self.constant("scale", scale), zero
        y: str = self.op("MatMulIntegerToFloat", *operands, domain=MICROSOFT)
        return y

    def finish(self, value: str) -> Rewritten:
        """`value`, plus the bias, is the layer's result."""
        if self._linear.bias is not None:
            value = self.op("Add", value, self._linear.bias)
        last = self.made.nodes[-1]
        assert last.output[0] == value
        last.output[0] = self._linear.y
        return self.made


def _float16(linear: Linear, weight: Array, _: Range | None) -> Rewritten:
    nodes = _Nodes(linear, "float16")
    limit = float(np.finfo(np.float16).max)
    if np.abs(weight).max() > limit:
        raise BundleError(f"{linear.name}: weights beyond {limit:g} do not fit float16")
    stored = nodes.op("Cast", nodes.constant("weight", weight.astype(np.float16)), to=TensorProto.FLOAT)
    return nodes.finish(nodes.op("MatMul", linear.x, stored))


def _dynamic8(linear: Linear, weight: Array, _: Range | None) -> Rewritten:
    nodes = _Nodes(linear, "dynamic8")
    x, unit, zero = nodes.op("DynamicQuantizeLinear", linear.x, outputs=("x", "quantum", "zero"), of_x=True)
    return nodes.finish(nodes.product(x, unit, zero, weight))


def _token8(linear: Linear, weight: Array, _: Range | None) -> Rewritten:
    """A call of an operator of our own, whose function is computed where it is not."""
    nodes = _Nodes(linear, "token8")
    values, scale = int8_channels(weight)
    bias = linear.bias
    if bias is None:
        bias = nodes.constant("bias", np.zeros(linear.outputs, np.float32))
    stored = nodes.constant("weight", np.ascontiguousarray(values.T)), nodes.constant("scale", scale)
    zero = nodes.constant("zero", np.uint8(128), of_x=True)
    nodes.op(TOKEN8, linear.x, *stored, bias, zero, outputs=("y",), domain=DOMAIN)
    nodes.made.nodes[-1].output[0] = linear.y
    return nodes.made


def _static8(linear: Linear, weight: Array, clip: Range | None) -> Rewritten:
    if clip is None:
        raise BundleError(f"{linear.name}: static8 needs a calibrated range")
    nodes = _Nodes(linear, "static8")
    scale, zero_point = clip.quantum()
    unit = nodes.constant("quantum", scale, of_x=True)
    zero = nodes.constant("zero", zero_point, of_x=True)
    x = nodes.op("QuantizeLinear", linear.x, unit, zero, of_x=True)
    return nodes.finish(nodes.product(x, unit, zero, weight))


def _weights4(linear: Linear, weight: Array, _: Range | None) -> Rewritten:
    nodes = _Nodes(linear, "weights4")
    numbers, scale = int4_blocks(weight)
    y = nodes.op(
        "MatMulNBits", linear.x, nodes.constant("weight", numbers), nodes.constant("scale", scale),
        domain=MICROSOFT, K=linear.inputs, N=linear.outputs, bits=4, block_size=BLOCK, accuracy_level=4,
    )  # fmt: skip
    return nodes.finish(y)


_INTEGER = frozenset({"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
_NONE: frozenset[str] = frozenset()
_LINEAR = frozenset(kind + rounded for kind in LINEAR for rounded in ("", ROUNDED))
FLOAT32 = Scheme("float32", "float32", 32, 1.0, 0.0, 0.0, False, _NONE, None)
SCHEMES: dict[str, Scheme] = {
    s.name: s
    for s in (
        Scheme("float16", "float16", 16, 1.0, 0.0, 0.0, False, _NONE, _float16),
        Scheme("bfloat16", "bfloat16", 16, 0.2, 9.0, 1e5, False, _LINEAR, None, fallback=1.6),
        Scheme("static8", "int8", 8, 0.17, 20.0, 2.4e5, True, _INTEGER, _static8),
        Scheme("dynamic8", "int8", 8, 0.17, 50.0, 2.4e5, True, _INTEGER, _dynamic8),
        Scheme("token8", "int8", 8, 0.17, 220.0, 1.4e6, True, _INTEGER | {TOKEN8}, _token8),
        Scheme("weights4", "int4", 5, 1.2, 0.0, 0.0, True, frozenset({"MatMulNBits"}), _weights4),
    )
}


def scheme(name: str) -> Scheme:
    """By name. Raises BundleError for one that there is not."""
    if name == FLOAT32.name:
        return FLOAT32
    if name not in SCHEMES:
        raise BundleError(f"no scheme {name!r}: there are {', '.join(SCHEMES)}")
    return SCHEMES[name]


def stored_as(names: set[str]) -> str:
    """The manifest's dtype of a block whose groups have these schemes (float32 ones not named)."""
    kinds = {scheme(name).stored for name in names}
    return "float32" if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"


