"""Bundles against LeRobot itself: it writes each checkpoint and computes the chunks compared with.

LeRobot lives in build/reference/venv (see `make reference`); checkpoints are made once and kept in
build/reference/checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_smolvla
from tests.reference.checkpoints import LEROBOT, ROOT, made
from vlad import bundle as bundles
from vlad.build.checkpoint import read_checkpoint
from vlad.observation import ImagePreprocessor
from vlad.policy import Policy

LEROBOT_PYTHON = LEROBOT / "venv/bin/python"
RECIPES = {
    "small-1": ("--size", "small", "--cameras", "1", "--seed", "1"),
    "small-2": ("--size", "small", "--cameras", "2", "--seed", "2", "--mixed"),
    "small-3": ("--size", "small", "--cameras", "3", "--seed", "3"),
    # case i sees i + 1 cameras; tasks alternate between a short and a long one
    "full": (*("--size", "full", "--cameras", "3", "--subsets", "--cases", "3", "--mixed", "--sharp"),),
}


def settings(*cameras_and_more: str, **values: Any) -> tuple[str, ...]:
    """A small policy with `values` in its SmolVLAConfig."""
    return "--size", "small", *cameras_and_more, *(f"--set={key}={json.dumps(v)}" for key, v in values.items())


VARIANTS = {
    # how the expert's layers attend, and where they are
    "all-cross": settings(self_attn_every_n_layers=0, num_vlm_layers=3, chunk_size=13, n_action_steps=5),
    "negative": settings(self_attn_every_n_layers=-1, num_steps=1),
    "every-third": settings("--cameras", "2", self_attn_every_n_layers=3, num_steps=4),
    "every-layer": settings(self_attn_every_n_layers=1),
    "all-self": settings(attention_mode="self_attn", num_vlm_layers=2),
    "half-experts": settings(num_expert_layers=2, self_attn_every_n_layers=0),
    "half-experts-self-first": settings(num_expert_layers=2, self_attn_every_n_layers=4),
    "one-expert": settings(num_expert_layers=1, self_attn_every_n_layers=5),
    "one-layer": settings(num_vlm_layers=1),
    "all-layers": settings(num_vlm_layers=0, num_expert_layers=4),
    # what the prefix holds
    "four-cameras": settings("--cameras", "4", resize_imgs_with_padding=[32, 32]),
    "empty-cameras": settings("--cameras", "2", empty_cameras=2),
    "marks": settings("--cameras", "2", add_image_special_tokens=True),
    "marks-empty-cameras": settings("--cameras", "2", add_image_special_tokens=True, empty_cameras=2),
    "padded": settings(prefix_length=120, pad_language_to="longest", tokenizer_max_length=77),
    "not-padded": settings(prefix_length=3, pad_language_to="do_not_pad"),
    "larger-pictures": settings(resize_imgs_with_padding=[96, 96]),
    # sizes and statistics
    "narrow": settings(expert_width_multiplier=0.5, max_state_dim=6, max_action_dim=7, chunk_size=1, n_action_steps=1),
    "wide": settings(expert_width_multiplier=1.5, n_obs_steps=3, min_period=0.02, max_period=2.0),
    "min-max": settings("--normalise", "MIN_MAX"),
    "quantiles": settings("--normalise", "QUANTILES"),
    "quantile-10": settings("--normalise", "QUANTILE10"),
    "identity": settings("--normalise", "IDENTITY"),
}
RECIPES |= VARIANTS
SWEEP = ROOT / "assets/sweep"
RECIPES["sweep"] = (
    *("--checkpoint", str(SWEEP / "checkpoint"), "--frames", "240x320"),
    *("--task", "Sweep the arm over the table.", "--task", "Wave the gripper."),
)
LIMIT = 1e-4


def checkpoint(name: str) -> Path:
    """The directory of a checkpoint that LeRobot wrote, made when it is not there yet."""
    return made(LEROBOT, name, "make_checkpoint.py", RECIPES[name])


def compare(policy: Policy, saved: dict[str, np.ndarray], case: int) -> None:
    normalised, degrees = tiny_smolvla.chunk(policy, saved, case)
    difference = np.abs(normalised - saved[f"normalised_chunk_{case}"]).max()
    print(f"case {case}: max |difference| {difference:.3g}, normalised")
    assert difference <= LIMIT
    spread = max(policy.bundle.manifest.action.std)
    assert np.abs(degrees - saved[f"chunk_{case}"]).max() <= LIMIT * spread


@pytest.mark.parametrize("name", ["small-1", "small-2", "small-3", *VARIANTS])
def test_small_policies_equal_lerobot(name: str, tmp_path: Path) -> None:
    data = checkpoint(name)
    saved = tiny_smolvla.reference(data)
    policy = Policy(bundles.load(tiny_smolvla.build(tmp_path / "p.vlad", data=data)))
    preprocess = ImagePreprocessor(policy.bundle.manifest.image_side)
    for case in (0, 1):
        pixels = preprocess(saved[f"image0_{case}"])[0]
        assert np.abs(pixels - saved[f"pixels_{case}"]).max() <= 1e-6
        compare(policy, saved, case)
    fresh, noise = tiny_smolvla.prefix(policy, saved, 0), saved["noise_0"].astype(np.float32)
    state = tiny_smolvla.DEGREES.to_core(saved["state_0"])
    refreshed = policy.refresh_state(policy.refresh_state(fresh, state + 0.1), state)
    whole = policy.sample_normalised(fresh, noise)
    assert np.abs(policy.sample_normalised(refreshed, noise) - whole).max() <= 1e-5
    longest = max(len(t.token_ids) for t in policy.bundle.manifest.tasks)
    shortest = min(len(t.token_ids) for t in policy.bundle.manifest.tasks)
    assert shortest < 10
    assert longest > 30


def test_the_shipped_trained_policy_equals_lerobot(tmp_path: Path) -> None:
    saved = tiny_smolvla.reference(checkpoint("sweep"))
    path = tiny_smolvla.build(tmp_path / "p.vlad", data=SWEEP, vlm=SWEEP / "checkpoint/vlm")
    policy = Policy(bundles.load(path))
    for case in (0, 1):
        compare(policy, saved, case)


def test_published_constants_are_those_of_the_published_configuration(tmp_path: Path) -> None:
    data = checkpoint("full")
    for file in (data / "checkpoint").iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    config["vlm_model_name"] = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
    (tmp_path / "config.json").write_text(json.dumps(config))
    by_name = read_checkpoint(tmp_path, tokenizer=data / "vlm/tokenizer.json")
    assert by_name.architecture == read_checkpoint(data / "checkpoint", vlm=data / "vlm").architecture


@pytest.mark.slow
@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_the_full_size_equals_lerobot(cameras: int, tmp_path: Path) -> None:
    data = checkpoint("full")
    saved = tiny_smolvla.reference(data)
    absent = [f"--skip-camera=camera{i}" for i in range(cameras + 1, 4)]
    path = tiny_smolvla.build(tmp_path / "p.vlad", *absent, data=data)
    policy = Policy(bundles.load(path, verify=False), intra_threads=os.cpu_count() or 1)
    shutil.rmtree(path / "blocks")  # 1.4 GB, already in memory
    case = cameras - 1
    compare(policy, saved, case)
    mixed = np.abs(saved[f"normalised_mixed_{case}"] - saved[f"normalised_chunk_{case}"]).max()
    print(f"LeRobot's own mixed precision differs from its float32 by {mixed:.3g}")
    assert mixed > LIMIT, "the float32 comparison is the sharper one"
    policy.close()
