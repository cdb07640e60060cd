"""ACT bundles against LeRobot itself: it writes each checkpoint and computes the chunks compared with.

LeRobot lives in build/reference/venv (see `make reference`); checkpoints are made once and kept in
build/reference/checkpoints.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_act
from tests.reference.checkpoints import LEROBOT, made
from vlad import bundle as bundles
from vlad.act import ActPolicy
from vlad.observation import NativePixels

RECIPES = {
    "act-1": ("--seed", "1"),
    "act-2-sizes": ("--seed", "2", "--frames", "96x128,70x101", "--backbone", "resnet34"),
    "act-3": ("--seed", "3", "--frames", "64x64,64x64,64x64", "--no-vae", "--encoder-layers", "1"),
    "act-pre-norm": ("--pre-norm", "--activation", "gelu", "--chunk", "13"),
    "act-decoder": ("--decoder-layers", "3", "--frames", "64x64,64x64,64x64,64x64", "--actions", "5"),
    "act-pre-norm-decoder": ("--decoder-layers", "2", "--pre-norm", "--min-max", "--actions", "3"),
    "act-ensemble": ("--ensemble", "0.01", "--raw-pixels", "--encoder-layers", "3"),
    "act-full": ("--size", "full", "--frames", "480x640,480x640,480x640"),
}
LIMIT = 1e-4


def checkpoint(name: str) -> Path:
    """The directory of a checkpoint that LeRobot wrote, made when it is not there yet."""
    return made(LEROBOT, name, "make_act_checkpoint.py", RECIPES[name])


def compare(policy: ActPolicy, saved: dict[str, np.ndarray], case: int) -> None:
    normalised, degrees = tiny_act.chunk(policy, saved, case)
    expected = saved[f"normalised_chunk_{case}"][: len(normalised)]
    difference = np.abs(normalised - expected).max()
    print(f"case {case}: max |difference| {difference:.3g} of a spread of {np.ptp(expected):.3g}, normalised")
    assert np.abs(np.diff(expected, axis=0)).max() > 0.05, "all queries answer the same: nothing is compared"
    assert difference <= LIMIT
    spread = max(policy.bundle.manifest.action.std)
    assert np.abs(degrees - saved[f"chunk_{case}"][: len(degrees)]).max() <= LIMIT * spread


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "act-full"])
def test_small_policies_equal_lerobot(name: str, tmp_path: Path) -> None:
    data = checkpoint(name)
    saved = tiny_act.made(data)
    policy = ActPolicy(bundles.load(tiny_act.build(tmp_path / "p.vlad", data=data)))
    manifest = policy.bundle.manifest
    for case in (0, 1):
        pixels = NativePixels(manifest.cameras[0])(saved[f"image0_{case}"])[0]
        assert np.abs(pixels - saved[f"pixels_{case}"]).max() <= 1e-6
        compare(policy, saved, case)
    recipe = RECIPES[name]
    kept = [recipe[recipe.index(flag) + 1] for flag in ("--actions", "--chunk") if flag in recipe]
    assert manifest.chunk_size == int((*kept, "8")[0])


@pytest.mark.parametrize("name", ["act-1", "act-pre-norm"])
def test_the_queue_ensembles_as_lerobot(name: str) -> None:
    saved = tiny_act.made(checkpoint(name))
    for coefficient in (0.01, 0.0, -0.2, 0.7):
        tiny_act.compare_ensemble(saved, coefficient)


@pytest.mark.slow
def test_the_full_size_equals_lerobot(tmp_path: Path) -> None:
    data = checkpoint("act-full")
    saved = tiny_act.made(data)
    policy = ActPolicy(
        bundles.load(tiny_act.build(tmp_path / "p.vlad", data=data), verify=False), intra_threads=os.cpu_count() or 1
    )
    for case in (0, 1):
        compare(policy, saved, case)
    policy.close()
