"""The operators of csrc/fused against float64, and against the functions that define them.

Each is run as a model of one call, with the library and without it: without it ONNX Runtime computes
the function's body.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vlad.backend import FUSED
from vlad.build.bfloat16 import rounded
from vlad.build.functions import DOMAIN, LINEAR, ROUNDED, Heads, function, tiles

F64 = NDArray[np.float64]
SIZES = st.integers(1, 70)
SEEDS = st.integers(0, 2**32 - 1)
HEADS = st.builds(
    lambda keys, group, size: Heads(keys * group, keys, size),
    st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 8, 24, 64, 70]),
)  # fmt: skip
WHOLE_AND_LARGE = ((32, 48, 96), (300, 33, 40))  # tiles that are read where they lie; more rows than one chunk
LINEAR_NAMES = (*LINEAR, "LinearRounded", "LinearGeluRounded", "LinearMulRounded")


def session(
    name: str, inputs: dict[str, np.ndarray], heads: Heads | None, *, fused: bool, threads: int = 1, narrow: str = "",
    **attributes: Any,
) -> Any:  # fmt: skip
    """A model of one call, of float32 in and out; the inputs whose letter is in `narrow` reach it as bfloat16."""
    constants, declared = [], []
    for key, value in inputs.items():
        if value.dtype in (np.int8, np.uint8):
            constants.append(numpy_helper.from_array(value, key))
        elif key == "w":
            constants.append(helper.make_tensor(key, TensorProto.BFLOAT16, value.shape, value.tobytes(), raw=True))
        else:
            declared.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, value.shape))
    if heads is not None and "Attention" in name:
        attributes |= {"heads": heads.query, "kv_heads": heads.key}
    nodes = [helper.make_node("Cast", [key], [f"narrow_{key}"], to=TensorProto.BFLOAT16) for key in narrow]
    taken = [f"narrow_{key}" if key in narrow else key for key in inputs]
    nodes.append(helper.make_node(name, taken, ["made"], domain=DOMAIN, **attributes))
    nodes.append(helper.make_node("Cast", ["made"], ["y"], to=TensorProto.FLOAT))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    model = helper.make_model(
        helper.make_graph(nodes, "one", declared, [output], constants),
        opset_imports=[helper.make_opsetid(domain, n) for domain, n in (("", 20), (DOMAIN, 1), ("com.microsoft", 1))],
        functions=[function(name, heads)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if fused:
        options.register_custom_ops_library(str(FUSED))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compute(name: str, inputs: dict[str, np.ndarray], heads: Heads | None = None, **how: Any) -> np.ndarray:
    loaded = session(name, inputs, heads, **how)
    given = {key: value for key, value in inputs.items() if key not in ("w", "zero")}
    made: np.ndarray = loaded.run(None, given)[0]
    return made


def of_bits(bits: NDArray[np.uint16]) -> F64:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def as_bfloat16(x: np.ndarray) -> F64:
    return of_bits(rounded(x.astype(np.float32)))


def finished(name: str, x: F64, other: NDArray[np.float32] | float) -> F64:
    """What comes after the product and the bias, but for rounding."""
    kind = name.removesuffix(ROUNDED)
    if kind == "LinearGelu":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if kind in ("LinearAdd", "LinearMul"):
        return x + other if kind == "LinearAdd" else x * other
    return x / (1 + np.exp(-x)) if kind == "LinearSilu" else x


def attended(q: F64, k: F64, v: F64, mask: F64, heads: Heads) -> F64:
    made = np.empty_like(q)
    for head in range(heads.query):
        own = slice(head * heads.size, (head + 1) * heads.size)
        theirs = head * heads.key // heads.query
        of = slice(theirs * heads.size, (theirs + 1) * heads.size)
        scores = q[:, own] @ k[:, of].T + mask.T
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        made[:, own] = weights @ v[:, of] / weights.sum(axis=1, keepdims=True)
    return made


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(LINEAR_NAMES), st.tuples(SIZES, SIZES, st.integers(1, 900)) | st.sampled_from(WHOLE_AND_LARGE),
    SEEDS, st.sampled_from([1, 2]), st.sampled_from(["", "x"]),
)  # fmt: skip
def test_linear(name: str, sizes: tuple[int, int, int], seed: int, threads: int, narrow: str) -> None:
    m, n, k = sizes
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((m, k), dtype=np.float32) * np.float32(generator.choice([0.01, 1, 30]))
    w = rounded(generator.standard_normal((k, n), dtype=np.float32) / np.sqrt(k))
    bias = generator.standard_normal(n, dtype=np.float32)
    inputs = {"x": x, "w": tiles(w), "bias": bias}
    if name.startswith(("LinearAdd", "LinearMul")):
        inputs["other"] = generator.standard_normal((generator.choice([1, m]), n), dtype=np.float32)
    expected = finished(name, as_bfloat16(x) @ of_bits(w) + bias, inputs.get("other", 0.0))
    coarse = 2**-8 if name.endswith(ROUNDED) else 0
    for fused in (True, False):
        found = compute(name, inputs, fused=fused, threads=threads, narrow=narrow)
        np.testing.assert_allclose(found, expected, rtol=coarse + 2e-5, atol=2e-5 * (1 + np.abs(x).max()))


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 150), st.integers(1, 300), SEEDS, st.sampled_from([1, 2]))
def test_linear_in_whole_numbers(m: int, n: int, k: int, seed: int, threads: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((m, k), dtype=np.float32) * generator.choice([0.01, 1, 30], (m, 1)).astype(np.float32)
    w = generator.integers(-127, 128, (n, k), np.int8)
    scale, bias = (generator.standard_normal(n, dtype=np.float32) for _ in range(2))
    greatest = np.abs(x).max(axis=1, keepdims=True)
    quanta = np.rint(x / greatest / np.float32(1 / 127)).astype(np.int64)
    expected = (quanta @ w.T.astype(np.int64)) * (scale * np.float32(1 / 127)).astype(np.float64) * greatest + bias
    inputs = {"x": x, "w": w, "scale": scale, "bias": bias, "zero": np.array(128, np.uint8)}
    for fused in (True, False):
        found = compute("LinearToken8", inputs, fused=fused, threads=threads)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * k * np.abs(greatest).max())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 200), SEEDS, st.sampled_from([1, 2]))
def test_layer_norm(n: int, width: int, seed: int, threads: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, width), dtype=np.float32) + np.float32(generator.choice([0, 3]))
    weight, bias = (generator.standard_normal(width, dtype=np.float32) for _ in range(2))
    off = x - x.mean(axis=1, keepdims=True, dtype=np.float64)
    expected = off / np.sqrt((off**2).mean(axis=1, keepdims=True) + 1e-3) * weight + bias
    inputs = {"x": x, "weight": weight, "bias": bias}
    for fused in (True, False):
        found = compute("LayerNormRounded", inputs, fused=fused, threads=threads, epsilon=1e-3)
        np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.tuples(SIZES, SIZES), HEADS, st.booleans(), SEEDS, st.sampled_from(["", "qkv", "v"]))
def test_attention(sizes: tuple[int, int], heads: Heads, masked: bool, seed: int, narrow: str) -> None:
    generator = np.random.default_rng(seed)
    (n, s), size = sizes, heads.size
    q = generator.standard_normal((n, heads.query * size), dtype=np.float32)
    k, v = (generator.standard_normal((s, heads.key * size), dtype=np.float32) for _ in range(2))
    mask = np.where(generator.random((s, n)) < 0.3, np.float32(-1e30), np.float32(0))
    mask[generator.integers(s)] = 0  # each query sees a key
    inputs = {"q": q, "k": k, "v": v} | ({"mask": mask} if masked else {})
    exact = attended(*(value.astype(np.float64) for value in (q, k, v)), mask * masked, heads)
    near = attended(*(as_bfloat16(value) for value in (q, k, v)), mask * masked, heads)
    prefix = "Masked" if masked else ""
    assert np.abs(compute(f"{prefix}Attention", inputs, heads, fused=False) - exact).max() < 1e-4
    for fused in (True, False):  # weights are at most 1 and rounded to 8 bits, their sum is not
        for rounds, error in (("", 4e-3), (ROUNDED, 8e-3)):
            found = compute(f"{prefix}AttentionBfloat16{rounds}", inputs, heads, fused=fused, narrow=narrow)
            assert np.abs(found - near).max() < error * np.abs(v).max()


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 5), st.integers(1, 40), SEEDS)
def test_rope(n: int, heads: int, half: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, heads * 2 * half), dtype=np.float32)
    angle = generator.uniform(0, 6.3, (n, half))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    left, right = np.split(x.reshape(n, heads, 2 * half), 2, axis=-1)
    c, s = cos[:, None], sin[:, None]
    expected = np.concatenate([left * c - right * s, right * c + left * s], axis=-1).reshape(n, -1)
    for fused in (True, False):
        found = compute("Rope", {"x": x, "cos": cos, "sin": sin}, Heads(heads, heads, 2 * half), fused=fused)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_inputs_that_do_not_fit_are_refused(fused: bool) -> None:
    x, cos = np.zeros((3, 8), np.float32), np.zeros((2, 2), np.float32)
    with pytest.raises(Exception, match=r"do not fit|Incompatible"):
        compute("Rope", {"x": x, "cos": cos, "sin": cos}, Heads(2, 2, 4), fused=fused)


@pytest.mark.skipif(
    platform.machine() != "aarch64" and "amx_bf16" not in Path("/proc/cpuinfo").read_text(), reason="needs AMX or NEON"
)
def test_the_library_refuses_what_does_not_fit() -> None:
    x, bias = np.zeros((3, 8), np.float32), np.zeros(5, np.float32)
    loaded = session("Linear", {"x": x, "w": np.zeros((1, 1024), np.uint16), "bias": bias}, None, fused=True)
    with pytest.raises(Exception, match="do not fit"):
        loaded.run(None, {"x": x, "bias": bias})
