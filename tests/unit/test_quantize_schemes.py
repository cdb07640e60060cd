"""Every scheme against numpy; groups; calibration; that a file is what it is called."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests import tiny_smolvla
from vlad import bundle as bundles
from vlad.backend import Threads
from vlad.build.bfloat16 import rounded
from vlad.errors import BundleError
from vlad.quantize.block_graph import BlockGraph, group_of, joined, operators
from vlad.quantize.calibration import MAX_ROWS, Sample, choose_range
from vlad.quantize.evaluation import GraphSession
from vlad.quantize.schemes import FLOAT32, SCHEMES, Linear, Range, int4_blocks, int8_channels, scheme, stored_as
from vlad.quantize.writer import check_written

Array = NDArray[np.float32]
Ends = tuple[tuple[str, int], tuple[str, int]]
IN, OUT, OTHER = 40, 24, 16


def weights(seed: int, inputs: int = IN, outputs: int = OUT) -> Array:
    """`[outputs, inputs]`, as PyTorch has it; each row of another size."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((outputs, inputs)) * np.geomspace(0.1, 3, outputs)[:, None]
    return rows.astype(np.float32)


def block_graph(directory: Path, nodes: list[onnx.NodeProto], constants: dict[str, Array], ends: Ends) -> BlockGraph:
    """A block of these nodes; `ends`: its input and output with their widths."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in ends]
    for node in nodes:
        node.name = node.output[0]
    graph = helper.make_graph(nodes, "block", values[:1], values[1:],
                              [numpy_helper.from_array(v, k) for k, v in constants.items()])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, str(directory / "block.onnx"))
    (directory / "scratch").mkdir()
    return BlockGraph("block", directory / "block.onnx", directory / "scratch")


@pytest.fixture
def block(tmp_path: Path) -> BlockGraph:
    """Two layers that read x, one with a bias, and one that reads their sum."""
    q, k, fc = (f"layer0/{name}.weight" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.fc1"))
    nodes = [
        helper.make_node("MatMul", ["x", q], ["one"]), helper.make_node("Add", ["one", "bias"], ["biased"]),
        helper.make_node("MatMul", ["x", k], ["two"]), helper.make_node("Add", ["biased", "two"], ["sum"]),
        helper.make_node("MatMul", ["sum", fc], ["y0"]), helper.make_node("Tanh", ["y0"], ["y"]),
    ]  # fmt: skip
    constants = {q: weights(0).T, k: weights(1).T, fc: weights(2, OUT, OTHER).T,
                 "bias": np.linspace(-1, 1, OUT, dtype=np.float32)}  # fmt: skip
    return block_graph(tmp_path, nodes, constants, (("x", IN), ("y", OTHER)))


def inputs(rows: int = 9) -> Array:
    return np.random.default_rng(5).standard_normal((rows, IN)).astype(np.float32) * np.float32(2)


def near(values: Array) -> Array:
    """As bfloat16 holds them."""
    return (rounded(values).astype(np.uint32) << 16).view(np.float32)


def as_stored(weight: Array, name: str) -> Array:
    """`[in, out]` after a round through what the scheme stores."""
    if name == "float16":
        return weight.astype(np.float16).astype(np.float32)
    if name == "bfloat16":
        return near(weight)
    if name == "weights4":
        numbers, scale = int4_blocks(weight)
        both = np.stack([numbers & 15, numbers >> 4], axis=-1).reshape(*scale.shape, -1).astype(np.float32)
        return ((both - 8) * scale[..., None]).reshape(weight.shape[1], -1)[:, : weight.shape[0]].T
    values, scale = int8_channels(weight)
    return values.astype(np.float32) * scale


def as_read(x: Array, name: str, clip: Range) -> Array:
    """What the layer multiplies instead of x."""
    if name == "bfloat16":
        return near(x)
    if name == "token8":
        greatest = np.abs(x).max(axis=1, keepdims=True)
        return np.rint(x / greatest * 127) / 127 * greatest
    if name == "dynamic8":
        clip = Range(float(x.min()), float(x.max()))
    elif name != "static8":
        return x
    unit, zero = clip.quantum()
    return (np.clip(np.rint(x / unit) + zero, 0, 255) - np.float32(zero)) * unit


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_computes_what_numpy_does(block: BlockGraph, name: str) -> None:
    clip = Range(-3.0, 4.0)
    path = block.candidate("c.onnx", {"layer0/attention": name}, {"x": clip})
    x = inputs()
    found = GraphSession(path, Threads()).run({"x": x})["y"]
    read = as_read(x, name, clip)
    bias = np.linspace(-1, 1, OUT, dtype=np.float32)
    total = read @ as_stored(weights(0).T, name) + bias + read @ as_stored(weights(1).T, name)
    expected = np.tanh(total @ weights(2, OUT, OTHER).T)
    exact = np.tanh((x @ weights(0).T + bias + x @ weights(1).T) @ weights(2, OUT, OTHER).T)
    # MatMulNBits may quantise x in blocks of its own: nearer to what is stored than to the exact weights.
    allowed = 0.2 * np.abs(expected - exact).mean() if name == "weights4" else 2e-4
    assert np.abs(found - expected).mean() <= allowed
    assert name == "float16" or np.abs(expected - exact).max() > 1e-4, "the scheme does nothing"


def test_layers_that_read_the_same_share_its_quantisation(block: BlockGraph) -> None:
    count = operators(block.candidate("c.onnx", {"layer0/attention": "dynamic8"}, {}))
    assert count["DynamicQuantizeLinear"] == 1
    assert count["MatMulIntegerToFloat"] == 2
    assert count["MatMul"] == 1


def test_without_an_operator_of_our_own_token8_rounds_once_what_is_shared(block: BlockGraph, tmp_path: Path) -> None:
    path, optimised = block.candidate("c.onnx", {"layer0/attention": "token8"}, {}), tmp_path / "optimised.onnx"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    count = operators(optimised)
    assert (count["ReduceMax"], count["QuantizeLinear"], count["MatMulIntegerToFloat"]) == (1, 1, 2)


def test_a_token_of_token8_does_not_depend_on_the_others(block: BlockGraph) -> None:
    session = GraphSession(block.candidate("c.onnx", dict.fromkeys(block.groups, "token8"), {}), Threads())
    x = inputs()
    x[0] *= 1000  # an outlier
    alone = session.run({"x": x[3:4]})["y"]
    assert np.array_equal(session.run({"x": x})["y"][3:4], alone)


@pytest.mark.parametrize(
    ("weight", "group"),
    [
        ("layer3/self_attn.q_proj.weight", "layer3/attention"),
        ("layer3/mlp.fc2.weight", "layer3/mlp"),
        ("layer3/o_proj.weight", "layer3/attention"),
        ("layer3/up_proj.weight", "layer3/mlp"),
        ("projection.weight", "projection"),
        ("action_out_proj.weight", "action_out_proj"),
    ],
)
def test_groups_are_named_by_the_weights(weight: str, group: str) -> None:
    assert group_of(weight) == group


def test_groups_of_neighbouring_layers_go_together_where_there_are_too_many() -> None:
    names = ["in", *(f"layer{i}/{kind}" for i in range(5) for kind in ("attention", "mlp")), "out"]
    assert joined(names, 12) == {name: name for name in names}
    found = joined(names, 8)
    assert len(set(found.values())) == 8
    assert found["layer0/mlp"] == found["layer1/mlp"] == "layer0-1/mlp"
    assert found["layer4/attention"] == "layer4/attention"
    assert joined(names, 1) == joined(names, 4)  # what is no layer, and each kind of layer, stays by itself
    assert set(joined(names, 1).values()) == {"in", "out", "layer0-4/attention", "layer0-4/mlp"}
    odd = ["layer1/attention", "layer3/attention", "layer5/attention"]
    assert list(joined(odd, 2).values()) == ["layer1-3/attention", "layer1-3/attention", "layer5/attention"]


def count(found: Counter[str], *kinds: str) -> int:
    """Operators of these kinds, also of those that round what they make."""
    return sum(found[kind] + found[f"{kind}Rounded"] for kind in kinds)


def test_bfloat16_takes_the_attention_before_a_layer_and_leaves_other_groups(tmp_path: Path) -> None:
    """Group by group, what is made is what `vlad build --bfloat16` makes of the whole block."""
    source = bundles.load(tiny_smolvla.build(tmp_path / "tiny.vlad"))
    (tmp_path / "scratch").mkdir()
    block = BlockGraph("vision", source.file(source.block("vision").file), tmp_path / "scratch")
    some = operators(block.candidate("some.onnx", {"layer0/attention": "bfloat16"}, {}))
    every = operators(block.candidate("every.onnx", dict.fromkeys(block.groups, "bfloat16"), {}))
    assert (count(some, "AttentionBfloat16"), some["Attention"]) == (1, count(every, "AttentionBfloat16") - 1)
    assert count(some, "Linear", "LinearAdd") == 4
    assert every["MatMul"] == every["Attention"] == 0
    mixed = {g: "bfloat16" if g.endswith("mlp") else "token8" for g in block.groups}
    path = tmp_path / "mixed.onnx"
    block.bytes *= 10  # so narrow a block gains nothing
    block.write(path, mixed, {})
    check_written(block, path, mixed)
    assert count(operators(path), "LinearGelu") == sum(g.endswith("mlp") for g in block.groups)


def test_without_kernels_bfloat16_costs_more_than_float32() -> None:
    linear = Linear("l", "l", "x", "y", "w", None, 960, 2560)
    exact, wide = FLOAT32.cost(linear, 240), SCHEMES["bfloat16"]
    assert wide.cost(linear, 240) < exact / 3
    assert wide.cost(linear, 240, kernels=False) > exact
    assert SCHEMES["static8"].cost(linear, 240, kernels=False) == SCHEMES["static8"].cost(linear, 240)


def test_int8_of_a_channel_of_zeros_is_zero() -> None:
    weight = np.zeros((4, 2), np.float32)
    weight[:, 1] = [1, -2, 0.5, 2]
    values, scale = int8_channels(weight)
    assert np.all(values[:, 0] == 0) and np.all(scale > 0)
    assert np.allclose(values * scale, weight, atol=2 / 254)


def test_zero_is_exact_in_every_range() -> None:
    for low, high in ((-3.0, 5.0), (0.5, 4.0), (-4.0, -1.0), (0.0, 0.0)):
        unit, zero = Range(low, high).quantum()
        assert unit > 0
        assert 0 <= int(zero) <= 255
        assert (np.clip(np.rint(np.float32(0) / unit) + zero, 0, 255) - np.float32(zero)) * unit == 0


def test_float16_refuses_weights_that_it_cannot_hold(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "big.weight"], ["y"])]
    block = block_graph(tmp_path, nodes, {"big.weight": np.full((2, 2), 1e5, np.float32)}, (("x", 2), ("y", 2)))
    with pytest.raises(BundleError, match="do not fit float16"):
        block.candidate("c.onnx", {"big": "float16"}, {})


def test_static8_without_a_range_and_unknown_names_are_refused(block: BlockGraph) -> None:
    with pytest.raises(BundleError, match="calibrated range"):
        block.candidate("c.onnx", {"layer0/mlp": "static8"}, {})
    with pytest.raises(BundleError, match="no group 'nowhere'"):
        block.candidate("c.onnx", {"nowhere": "float16"}, {})
    with pytest.raises(BundleError, match="no scheme 'int3'"):
        scheme("int3")


def test_stored_as() -> None:
    assert stored_as(set()) == stored_as({"float32"}) == "float32"
    assert stored_as({"static8", "token8"}) == "int8"
    assert stored_as({"static8", "float32"}) == "mixed"


def test_a_sample_is_bounded_and_keeps_the_extremes() -> None:
    sample, generator = Sample(), np.random.default_rng(0)
    for call in range(40):
        rows = generator.standard_normal((100, 3)).astype(np.float32)
        if call == 17:
            rows[5, 1] = -80
        sample.add(rows)
    rows, counts = sample.rows()
    assert len(rows) <= MAX_ROWS + 16
    assert sample.low == -80 == rows.min()
    assert sample.rows_of_call == 100
    assert counts.sum() == pytest.approx(4000)
    assert sample.outlier_ratio > 10


def test_a_range_is_clipped_where_that_lowers_the_error_of_the_result(block: BlockGraph) -> None:
    generator = np.random.default_rng(0)
    usual, outlying = Sample(), Sample()
    values = generator.uniform(-1, 1, (400, IN)).astype(np.float32)
    usual.add(values)
    values = values.copy()
    values[7, 3] = 40.0
    outlying.add(values)
    readers = [(linear, np.array(block.weight(linear))) for linear in block.of_group("layer0/attention")]
    assert choose_range(usual, readers).range.high > 0.9
    kept = choose_range(outlying, readers)
    assert kept.range.high == 40  # it is read: to lose it costs more than a coarser quantum
    for _, weight in readers:
        weight[3] *= 1e-3  # now it is hardly read
    clipped = choose_range(outlying, readers)
    assert clipped.range.high < 11
    assert clipped.error < clipped.greatest_error / 5


def test_a_file_that_is_not_what_it_is_called_is_refused(block: BlockGraph, tmp_path: Path) -> None:
    chosen = dict.fromkeys(block.groups, "static8")
    ranges = {linear.x: Range(-5, 5) for linear in block.linears}
    path = tmp_path / "written.onnx"
    block.write(path, chosen, ranges)
    onnx.checker.check_model(onnx.load(str(path)))
    check_written(block, path, chosen)
    block.bytes = path.stat().st_size
    with pytest.raises(BundleError, match="after quantisation"):
        check_written(block, path, chosen)
    block.bytes *= 10
    block.write(path, {}, {})
    with pytest.raises(BundleError, match="0 operators of static8 for 3 layers"):
        check_written(block, path, chosen)
