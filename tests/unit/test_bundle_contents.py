"""A bundle of a SmolVLA holds what inference needs, computed as often as it must be, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, inliner

from tests import tiny_smolvla
from tests.unit.test_bundle_build import edit_tensors, tensors
from tests.unit.test_smolvla_variants import data_of
from vlad import bundle as bundles
from vlad.backend import load_block
from vlad.bundle import Bundle
from vlad.policy import Policy

MODEL = "model.vlm_with_expert."
TEXT = f"{MODEL}vlm.model.text_model."
NEVER = (f"{MODEL}vlm.lm_head.weight", f"{TEXT}norm.weight")
OF_LAST = (
    *("self_attn.q_proj.weight", "self_attn.o_proj.weight", "post_attention_layernorm.weight"),
    *("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"),
)
VARIANTS = ("all-self", "all-cross", "half-experts", "one-expert", "one-layer", "marks-empty-cameras")


def data(name: str, tmp_path: Path) -> Path:
    return tiny_smolvla.copy_of_data(tmp_path / name) if name == "plain" else data_of(name, tmp_path / name)


def dead(bundle: Bundle, names: list[str]) -> set[str]:
    """Tensors that inference must not need."""
    layers = bundle.manifest.prefix.layers
    last = {f"{TEXT}layers.{layers - 1}.{name}" for name in OF_LAST}
    later = {n for n in names if n.startswith(f"{TEXT}layers.") and int(n[len(TEXT) :].split(".")[1]) >= layers}
    return {*NEVER, *last, *later}


@pytest.mark.parametrize("name", ["plain", *VARIANTS])
def test_dead_weights_leave_no_trace_and_all_others_do(name: str, tmp_path: Path) -> None:
    made = data(name, tmp_path)
    file = made / "checkpoint/model.safetensors"
    built = bundles.load(tiny_smolvla.build(tmp_path / "a.vlad", data=made))
    unused = dead(built, list(tensors(file)))
    spoken = {token for task in built.manifest.tasks for token in task.token_ids}
    spoken |= {tiny for tiny in (built.manifest.token_table.token_ids or []) if "marks" in name}

    def spoil(values: dict[str, np.ndarray]) -> None:
        assert unused <= values.keys()
        generator = np.random.default_rng(0)
        for tensor in unused:
            values[tensor] = generator.standard_normal(values[tensor].shape)
        table = values[f"{TEXT}embed_tokens.weight"]
        silent = [row for row in range(len(table)) if row not in spoken]
        assert len(silent) > 200
        table[silent] = 7.0

    edit_tensors(file, spoil)
    again = bundles.load(tiny_smolvla.build(tmp_path / "b.vlad", data=made))
    assert [b.file for b in again.manifest.blocks] == [b.file for b in built.manifest.blocks]
    assert again.array(again.manifest.token_table.file).nbytes == built.manifest.token_table.rows * 4 * 24


@pytest.mark.parametrize("name", ["plain", *VARIANTS])
def test_the_blocks_hold_each_needed_weight_once(name: str, tmp_path: Path) -> None:
    """Beside tables: positions are those of the checkpoint, gathered; angles, and which action sees which."""
    made = data(name, tmp_path)
    bundle = bundles.load(tiny_smolvla.build(tmp_path / "a.vlad", data=made))
    m, values = bundle.manifest, tensors(made / "checkpoint/model.safetensors")
    for tensor in {*dead(bundle, list(values)), f"{TEXT}embed_tokens.weight"}:
        del values[tensor]
    half = m.prefix.head_dim // 2
    angles = 2 * half * (m.prefix.max_tokens + m.chunk_size)
    if name not in {"half-experts", "all-cross"}:  # there the actions do not see themselves
        angles += 2 * half * m.prefix.max_tokens + m.chunk_size**2
    marks = 3 * m.prefix.hidden if "marks" in name else 0
    needed = sum(tensor.size for tensor in values.values()) + angles + marks
    assert sum(block.parameters for block in m.blocks) == needed


def weights_of(bundle: Bundle, block: str) -> set[str]:
    model = onnx.load_from_string((bundle.path / f"blocks/{block}.onnx").read_bytes())
    return {tensor.name for tensor in model.graph.initializer}


def test_cross_attention_is_projected_once_per_chunk(tmp_path: Path) -> None:
    bundle = bundles.load(tiny_smolvla.build(tmp_path / "a.vlad"))
    projections = {"k_proj.weight", "v_proj.weight"}
    of_context, of_expert = (weights_of(bundle, block) for block in ("context", "expert"))
    assert of_context == {f"layer1/{name}" for name in projections}
    assert {n for n in of_expert if n.split("/")[-1] in projections} == {
        f"layer{i}/{name}" for i in (0, 2) for name in projections
    }
    runs: dict[str, int] = {}

    class Counted:
        def __init__(self, name: str, session: object) -> None:
            self._name, self._session = name, session

        def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            runs[self._name] = runs.get(self._name, 0) + 1
            return self._session.run(feed)

        def close(self) -> None:
            self._session.close()

    def load(bundle: Bundle, name: str, *arguments: object, **more: object) -> Counted:
        return Counted(name, load_block(bundle, name, *arguments, **more))

    policy = Policy(bundle, load=load)
    runs.clear()
    made = tiny_smolvla.reference()
    tiny_smolvla.chunk(policy, made, 0)
    assert runs == {"vision": 2, "prefill": 1, "context": 1, "expert": 10}


def operations(path: Path, sizes: dict[str, int]) -> int:
    """Multiply-adds times two of a block's products, counted while it runs."""
    model = inliner.inline_local_functions(onnx.load_from_string(path.read_bytes()))
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Conv")]
    given = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    wanted = {name for node in products for name in (*node.input[:2], *node.output)}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(wanted - given)
    )
    feed = {
        value.name: np.zeros(
            [dim.dim_value or sizes[dim.dim_param] for dim in value.type.tensor_type.shape.dim], np.float32
        )
        for value in model.graph.input
    }
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    shapes = {name: np.shape(value) for name, value in zip(names, session.run(names, feed), strict=True)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: value.shape for name, value in feed.items()}
    total = 0
    for node in products:
        left, right = shapes[node.input[0]], shapes[node.input[1]]
        summed = math.prod(right[1:]) if node.op_type == "Conv" else left[-1]
        total += 2 * math.prod(shapes[node.output[0]]) * summed
    return total


@pytest.mark.parametrize("name", ["plain", *VARIANTS])
def test_operations_are_those_of_the_graphs(name: str, tmp_path: Path) -> None:
    bundle = bundles.load(tiny_smolvla.build(tmp_path / "a.vlad", data=data(name, tmp_path)))
    m = bundle.manifest
    n = m.prefix.max_tokens
    for block in m.blocks:
        counted = operations(bundle.path / block.file.path, {"n": n - (block.name == "prefill"), "past": 0, "s": n})
        assert block.flops == counted, block.name
