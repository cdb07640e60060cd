"""The scripted expert recorded by `vlad record`: what a seed gives, labels, recoveries, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vlad.record import command

BASE = ["--teleop", "expert", "--single-task", "put the tea bag on the plate", "--min-free-mib", "0",
        "--width", "64", "--height", "48", "--cameras", "gripper", "--json"]  # fmt: skip


def record(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert command.main([*BASE, "--root", str(root), *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def rows(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "meta/episodes").rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def states(root: Path) -> np.ndarray:
    tables = [pq.read_table(file) for file in sorted((root / "data").rglob("*.parquet"))]
    return np.concatenate([np.stack(t["observation.state"].to_pylist()) for t in tables])


def test_episodes_go_round_the_clusters_and_resuming_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = record(tmp_path / "whole", capsys, "--num-episodes", "4", "--seed", "7")
    assert said["success"] == 4
    record(tmp_path / "parts", capsys, "--num-episodes", "3", "--seed", "7")
    record(tmp_path / "parts", capsys, "--num-episodes", "1", "--seed", "7", "--resume")
    whole, parts = rows(tmp_path / "whole"), rows(tmp_path / "parts")
    assert [row["cluster"] for row in whole] == [1, 2, 3, 4]
    assert [row["start_x_m"] for row in whole] == [row["start_x_m"] for row in parts]
    assert np.array_equal(states(tmp_path / "whole"), states(tmp_path / "parts"))


def test_recoveries_are_labelled_and_take_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {}
    for share in ("0", "1"):
        root = tmp_path / share
        options = ["--num-episodes", "2", "--clusters", "6", "--recovery-share", share]
        assert record(root, capsys, *options)["success"] == 2
        assert {(row["cluster"], row["recovery"]) for row in rows(root)} == {(6, share == "1")}
        lengths[share] = sum(row["length"] for row in rows(root))
    assert lengths["1"] > lengths["0"] + 60


@pytest.mark.parametrize(("options", "said"), [
    (["--single-task", "make tea"], "the expert knows 'Put the tea bag in the mug.'"),
    (["--fps", "60"], "runs at 30"),
    (["--clusters", "3,12"], "1 to 11, not 12"),
    (["--cameras", "wrist"], "the simulated ones are top, gripper, left"),
])  # fmt: skip
def test_what_is_not_there_is_refused(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*BASE, "--root", str(tmp_path / "set"), *options]) == 78
    assert said in capsys.readouterr().err and not (tmp_path / "set").exists()
