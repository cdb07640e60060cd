"""Blocks rewritten in bfloat16: what is replaced, and that the chunk stays near LeRobot's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.tiny_smolvla import build, chunk, reference
from vlad import backend
from vlad import bundle as bundles
from vlad.build import bfloat16
from vlad.build.bfloat16 import rounded, to_bfloat16
from vlad.build.writer import BFLOAT16_TOLERANCE
from vlad.golden import check_golden
from vlad.policy import Policy

MADE = reference()


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bundles.Bundle:
    monkeypatch.setattr(bfloat16, "SMALL", 1)
    return bundles.load(build(tmp_path / "tiny.vlad"))


def test_products_biases_and_activations_become_one_call(bundle: bundles.Bundle) -> None:
    for name, gone in (("vision", {"MatMul", "Gelu", "Attention"}), ("prefill", {"Sigmoid", "MaskedAttention"}),
                       ("context", {"MatMul"}), ("expert", {"MatMul", "Attention"})):  # fmt: skip
        path = bundle.file(bundle.block(name).file)
        before = onnx.load(path)
        after = onnx.load(path)
        to_bfloat16(after)
        found = kinds(after)
        assert not gone & set(found), name
        linear = sum(found[kind] for kind in found if kind.startswith("Linear"))
        assert linear == kinds(before)["MatMul"]
        assert {f.name for f in after.functions} == {n.op_type for n in after.graph.node if n.domain == "vlad"}
        weights = {t.name: t.data_type for t in after.graph.initializer if t.name.endswith(".bfloat16")}
        assert len(weights) == linear
        assert set(weights.values()) == {onnx.TensorProto.BFLOAT16}


def test_only_what_is_wanted_is_rewritten(bundle: bundles.Bundle) -> None:
    model = onnx.load(bundle.file(bundle.block("prefill").file))
    before = kinds(model)
    to_bfloat16(model, lambda node: node.startswith("layer1/"))
    assert kinds(model)["MatMul"] == before["MatMul"] - 7
    assert all(node.name.startswith("layer1/") for node in model.graph.node if node.op_type.startswith("Linear"))


def test_one_row_that_is_added_to_each_of_many_is_no_residual(bundle: bundles.Bundle) -> None:
    """Older bundles have the time as the second operand of the sum with the actions."""
    model = onnx.load(bundle.file(bundle.block("expert").file))
    made = {name: node for node in model.graph.node for name in node.output}
    swapped = 0
    for node in model.graph.node:
        # The time's part has a bias: an Add of a MatMul of an input of one row.
        if node.op_type == "Add" and made.get(node.input[0]) is not None and made[node.input[0]].op_type == "Add":
            source = made.get(made[node.input[0]].input[0])
            if source is not None and source.op_type == "MatMul" and source.input[0] == "time_embedding":
                node.input[:] = [node.input[1], node.input[0]]
                swapped += 1
    assert swapped == 1
    to_bfloat16(model)
    block = bundle.block("expert")
    values = {v.name: np.ones([d if isinstance(d, int) else 7 for d in v.shape], np.float32) for v in block.inputs}
    options = backend.session_options("expert", backend.Threads())
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, values)[0]).all()


@pytest.mark.parametrize("fused", [True, False])
def test_chunk_stays_near_lerobot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    monkeypatch.setattr(bfloat16, "SMALL", 1)
    if not fused:
        monkeypatch.setattr(backend, "FUSED", Path("/nonexistent"))
    policy = Policy(bundles.load(build(tmp_path / "tiny.vlad", "--bfloat16")))
    assert {block.dtype for block in policy.bundle.manifest.blocks} == {"bfloat16"}
    assert check_golden(policy).differences["chunk"] == 0
    for case in (0, 1):
        found, _ = chunk(policy, MADE, case)
        expected = MADE[f"normalised_chunk_{case}"]
        ours, lerobots = (np.abs(x - expected).mean() for x in (found, MADE[f"normalised_mixed_{case}"]))
        assert 0 < ours < 2 * lerobots


def test_a_machine_without_the_operators_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "SMALL", 1)
    path = build(tmp_path / "tiny.vlad", "--bfloat16")
    monkeypatch.setattr(backend, "FUSED", Path("/nonexistent"))
    assert max(check_golden(Policy(bundles.load(path))).differences.values()) <= BFLOAT16_TOLERANCE


def test_rounding_is_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5, 0.0], np.float32)
    back = (rounded(values).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(back, np.array([1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -2.5, 0.0], np.float32))
