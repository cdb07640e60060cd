"""Small variants of SmolVLA equal LeRobot, in how layers attend, what the prefix holds and how values are normalised:
no LeRobot needed here.

tests/data/smolvla_variants was written by tests/reference/make_variants.py with lerobot 0.4.4, without weights:
these are made of their names (tests/reference/seeded_weights.py).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_smolvla
from tests.reference.seeded_weights import seeded
from tests.unit.test_bundle_build import write_tensors
from vlad import bundle as bundles
from vlad.policy import Policy

VARIANTS = Path(__file__).parents[1] / "data" / "smolvla_variants"
NAMES = sorted(path.name for path in VARIANTS.iterdir())


def data_of(name: str, target: Path) -> Path:
    """A data directory as LeRobot would have written it, with the weights."""
    tiny_smolvla.copy_of_data(target)
    shutil.rmtree(target / "checkpoint")
    shutil.copytree(VARIANTS / name / "checkpoint", target / "checkpoint")
    shapes = json.loads((target / "checkpoint/shapes.json").read_text())
    weights = {tensor: seeded(tensor, tuple(shape)) for tensor, shape in shapes.items()}
    write_tensors(target / "checkpoint/model.safetensors", weights)
    return target


@pytest.mark.parametrize("name", NAMES)
def test_chunk_and_refreshed_state_equal_lerobot(name: str, tmp_path: Path) -> None:
    data = data_of(name, tmp_path / "data")
    policy = Policy(bundles.load(tiny_smolvla.build(tmp_path / "t.vlad", data=data)))
    made = tiny_smolvla.reference(VARIANTS / name)
    chunks = []
    for case in (0, 1):
        normalised, degrees = tiny_smolvla.chunk(policy, made, case)
        spread = max(policy.bundle.manifest.action.std)
        assert np.abs(normalised - made[f"normalised_chunk_{case}"]).max() <= 1e-4
        assert np.abs(degrees - made[f"chunk_{case}"]).max() <= 1e-4 * spread
        chunks.append(normalised)
        assert np.abs(normalised).max() > 1, "too small to prove anything"

        whole = tiny_smolvla.prefix(policy, made, case)
        state = tiny_smolvla.DEGREES.to_core(made[f"state_{case}"])
        stale = policy.refresh_state(whole, state + 0.2)
        noise = made[f"noise_{case}"].astype(np.float32)
        expected = policy.sample_normalised(whole, noise)
        refreshed = policy.sample_normalised(policy.refresh_state(stale, state), noise)
        assert np.abs(refreshed - expected).max() <= 1e-5
        assert np.abs(policy.sample_normalised(stale, noise) - expected).max() > 1e-4, "the state is seen"
    assert np.abs(chunks[0] - chunks[1]).max() > 0.1


def test_marks_of_absent_cameras_stay_before_any_text(tmp_path: Path) -> None:
    data = data_of("marks-empty-cameras", tmp_path / "data")
    known = Policy(bundles.load(tiny_smolvla.build(tmp_path / "t.vlad", data=data)))
    free = Policy(bundles.load(tiny_smolvla.build(tmp_path / "f.vlad", "--free-text", data=data)))
    before = len(known.bundle.manifest.token_table.before)
    assert before == 2 * 3
    for policy in (known, free):
        embedded = policy.language.embeddings.embed(policy.token_ids("wave"))
        assert np.array_equal(embedded, known.language.embeddings.embed(0))
        assert len(embedded) == before + len(policy.token_ids("wave"))
    assert np.abs(embedded[:before]).max() * 2 < np.abs(embedded[before:]).max(), "LeRobot does not scale them"
    assert len(free.language.embeddings.embed(free.token_ids("dance"))) == before + 6
    longest = free.token_ids("x" * 47)
    assert len(longest) == free.bundle.manifest.max_task_tokens
    made = tiny_smolvla.reference(VARIANTS / "marks-empty-cameras")
    tokens = [free.encode_image(i, made[f"image{i}_0"]) for i in (0, 1)]
    prefix = free.prefill(tokens, longest, tiny_smolvla.DEGREES.to_core(made["state_0"]))
    assert prefix.length == free.bundle.manifest.prefix.max_tokens == free.bundle.manifest.longest
    assert np.isfinite(free.sample(prefix, made["noise_0"])).all()


@pytest.mark.parametrize("name", ["marks-empty-cameras", "half-experts", "one-layer"])
def test_in_bfloat16_it_is_near(name: str, tmp_path: Path) -> None:
    data = data_of(name, tmp_path / "data")
    policy = Policy(bundles.load(tiny_smolvla.build(tmp_path / "t.vlad", "--bfloat16", data=data)))
    made = tiny_smolvla.reference(VARIANTS / name)
    difference = np.abs(tiny_smolvla.chunk(policy, made, 0)[0] - made["normalised_chunk_0"]).max()
    assert 1e-4 < difference < 0.5


def test_every_setting_that_is_built_has_a_variant() -> None:
    """Beside the sizes of the committed checkpoints; another backbone is another `--vlm`."""
    configs = [json.loads((VARIANTS / name / "checkpoint/config.json").read_text()) for name in NAMES]
    plain = json.loads((tiny_smolvla.DATA / "checkpoint/config.json").read_text())
    varied = {key for config in configs for key in plain if config[key] != plain[key]}
    assert varied >= {
        "input_features", "normalization_mapping", "chunk_size", "n_action_steps", "n_obs_steps",
        "max_state_dim", "max_action_dim", "resize_imgs_with_padding", "empty_cameras", "add_image_special_tokens",
        "tokenizer_max_length", "num_steps", "attention_mode", "num_vlm_layers", "num_expert_layers",
        "self_attn_every_n_layers", "expert_width_multiplier", "prefix_length", "pad_language_to",
    }  # fmt: skip


def test_what_no_expert_layer_attends_to_is_not_computed(tmp_path: Path) -> None:
    inputs, outputs = {}, {}
    for name in ("all-cross", "half-experts", "one-expert"):
        bundle = bundles.load(tiny_smolvla.build(tmp_path / f"{name}.vlad", data=data_of(name, tmp_path / name)))
        outputs[name] = [value.name for value in bundle.block("prefill").outputs]
        inputs[name] = [value.name for value in bundle.block("expert").inputs if value.name.startswith("context_key")]
    assert outputs["all-cross"] == ["key0", "value0", "key1", "value1", "key2", "value2"]
    assert outputs["half-experts"] == outputs["all-cross"]
    assert outputs["one-expert"] == ["key0", "value0"]
    assert inputs["half-experts"] == ["context_key0", "context_key2"]
    assert inputs["one-expert"] == ["context_key0"]
