"""Bundles against the newest LeRobot: it writes each checkpoint and computes the chunks compared with.

It lives in build/reference-newest/venv (see `make reference-newest`), and needs Python 3.12.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_act, tiny_smolvla
from tests.reference import test_act_chunks, test_smolvla_chunks
from tests.reference.checkpoints import NEWEST, made, python
from vlad import bundle as bundles
from vlad.act import ActPolicy
from vlad.policy import Policy

SMOLVLA = ("small-2", "half-experts", "marks-empty-cameras", "padded", "larger-pictures", "quantiles")
ACT = ("act-2-sizes", "act-pre-norm-decoder")


@pytest.mark.parametrize("name", SMOLVLA)
def test_small_policies_equal_lerobot(name: str, tmp_path: Path) -> None:
    data = made(NEWEST, name, "make_checkpoint.py", test_smolvla_chunks.RECIPES[name])
    policy = Policy(bundles.load(tiny_smolvla.build(tmp_path / "p.vlad", data=data)))
    for case in (0, 1):
        test_smolvla_chunks.compare(policy, tiny_smolvla.reference(data), case)


@pytest.mark.parametrize("name", ACT)
def test_small_acts_equal_lerobot(name: str, tmp_path: Path) -> None:
    data = made(NEWEST, name, "make_act_checkpoint.py", test_act_chunks.RECIPES[name])
    policy = ActPolicy(bundles.load(tiny_act.build(tmp_path / "p.vlad", data=data)))
    for case in (0, 1):
        test_act_chunks.compare(policy, tiny_act.made(data), case)


def test_the_fixtures_are_of_this_lerobot() -> None:
    """Those that the unit tests read (tests/data/newest) say which one wrote them."""
    import subprocess

    command = "from importlib.metadata import version; print(version('lerobot'))"
    found = subprocess.run([python(NEWEST), "-c", command], check=True, capture_output=True, text=True).stdout.strip()
    written = (Path(__file__).parents[1] / "data/newest/LEROBOT").read_text().strip()
    assert found == written, "write tests/data/newest anew: tests/unit/test_newest_lerobot.py says how"
