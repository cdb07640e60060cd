"""Checkpoints and dataset metadata of the newest LeRobot: no LeRobot needed here.

tests/data/newest was made with the LeRobot that its file LEROBOT names (`make reference-newest`), by

    P=build/reference-newest/venv/bin/python
    $P tests/reference/make_checkpoint.py tests/data/newest/smolvla --size tiny --cameras 2 --frames 48x64,30x30 \
        --seed 5 --set 'pad_language_to="longest"'
    $P tests/reference/make_act_checkpoint.py tests/data/newest/act --size tiny --frames 64x64 --seed 5
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_act, tiny_smolvla
from vlad import bundle as bundles
from vlad.act import ActPolicy
from vlad.policy import Policy

NEWEST = Path(__file__).parents[1] / "data" / "newest"


def test_it_is_what_it_says() -> None:
    for policy in ("smolvla", "act"):
        config = json.loads((NEWEST / policy / "checkpoint/config.json").read_text())
        assert "pretrained_revision" in config, "0.4.4 has no such field"


@pytest.mark.parametrize("case", [0, 1])
def test_smolvla_equals_lerobot(tmp_path: Path, case: int) -> None:
    data = NEWEST / "smolvla"
    made = tiny_smolvla.reference(data)
    policy = Policy(bundles.load(tiny_smolvla.build(tmp_path / "t.vlad", data=data)))
    normalised, degrees = tiny_smolvla.chunk(policy, made, case)
    assert np.abs(normalised - made[f"normalised_chunk_{case}"]).max() <= 1e-4
    assert np.abs(degrees - made[f"chunk_{case}"]).max() <= 1e-3
    assert np.abs(made[f"normalised_chunk_{case}"]).max() > 1, "too small to prove anything"


@pytest.mark.parametrize("case", [0, 1])
def test_act_equals_lerobot(tmp_path: Path, case: int) -> None:
    data = NEWEST / "act"
    made = tiny_act.made(data)
    policy = ActPolicy(bundles.load(tiny_act.build(tmp_path / "t.vlad", data=data)))
    normalised, degrees = tiny_act.chunk(policy, made, case)
    assert np.abs(normalised - made[f"normalised_chunk_{case}"]).max() <= 1e-4
    assert np.abs(degrees - made[f"chunk_{case}"]).max() <= 1e-3
