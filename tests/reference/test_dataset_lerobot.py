"""What vlad records, loaded by LeRobot itself: numbers equal, pictures equal but for the codec, labels there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.moving_pictures import CAMERAS, JOINTS, add_frames, capture_ns, joints, picture
from vlad.dataset.writer import DatasetWriter

ROOT = Path(__file__).parents[2]
LEROBOT_PYTHON = ROOT / "build/reference/venv/bin/python"
LENGTHS = (12, 31, 7, 20)
TASKS = ("put the tea bag in the mug", "Grab it.", "put the tea bag in the mug", "Grab it.")
LEVELS = 6  # of 255: what H.264 and half the colour resolution may change on average

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LEROBOT_PYTHON.exists(), reason="build/reference/venv holds no LeRobot"),
]


def load(root: Path, out: Path, indices: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What LeRobot says of the data set, and its items at these frames."""
    done = subprocess.run(
        [str(LEROBOT_PYTHON), str(Path(__file__).with_name("load_dataset.py")), str(root), str(out),
         *map(str, indices)],
        capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "HF_DATASETS_CACHE": str(out.parent / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as saved:
        arrays = dict(saved)
    return json.loads(str(arrays.pop("said"))), arrays


@pytest.mark.parametrize("closed", (True, False), ids=("joined", "one video an episode"))
def test_lerobot_loads_what_was_recorded(tmp_path: Path, closed: bool) -> None:
    root = tmp_path / "set"
    writer = DatasetWriter(root, 30, JOINTS, CAMERAS, min_free_bytes=0)
    for episode, (frames, task) in enumerate(zip(LENGTHS, TASKS, strict=True)):
        add_frames(writer, episode, frames)
        cluster = None if episode == 3 else episode
        writer.save_episode(task, success=episode != 1, recovery=episode == 2, cluster=cluster)
    if closed:
        writer.close()
    else:
        add_frames(writer, 4, 5)  # an episode under way disturbs nobody
    starts = np.cumsum((0, *LENGTHS))
    where = [(e, f) for e, frames in enumerate(LENGTHS) for f in {0, 1, frames // 2, frames - 1}]
    said, items = load(root, tmp_path / "out.npz", [int(starts[e]) + f for e, f in where])
    writer.close()

    assert (said["frames"], said["episodes"], said["fps"]) == (sum(LENGTHS), len(LENGTHS), 30)
    assert said["rows"]["success"] == [True, False, True, True]
    assert said["rows"]["recovery"] == [False, False, True, False]
    assert said["rows"]["cluster"] == [0, 1, 2, -1]
    assert said["rows"]["dataset_from_index"] == starts[:-1].tolist()
    assert said["tasks"] == [TASKS[e] for e, _ in where]
    # Nothing of ours is an input of a policy.
    assert said["policy"] == {"observation.state": "STATE", "action": "ACTION",
                              **{f"observation.images.{c}": "VISUAL" for c in CAMERAS}}  # fmt: skip
    for episode, frame in where:
        at = int(starts[episode]) + frame
        np.testing.assert_array_equal(items[f"{at}/observation.state"], joints(episode, frame))
        np.testing.assert_array_equal(items[f"{at}/action"], joints(episode, frame) + 1)
        assert items[f"{at}/capture_ns"].tolist() == capture_ns(episode, frame)
        assert items[f"{at}/timestamp"] == np.float32(frame / 30)
        for camera in CAMERAS:
            seen = items[f"{at}/observation.images.{camera}"].transpose(1, 2, 0) * 255
            error = np.abs(seen - picture(camera, episode, frame)).mean()
            others = [np.abs(seen - picture(camera, episode, frame + d)).mean() for d in (-1, 1)]
            assert error < LEVELS and error < min(others) / 2, (camera, episode, frame, error, others)


def test_statistics_are_those_that_lerobot_computes_of_the_same_frames(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with DatasetWriter(root, 30, JOINTS, CAMERAS, min_free_bytes=0) as writer:
        for episode, frames in enumerate(LENGTHS):
            add_frames(writer, episode, frames)
            writer.save_episode("t", success=True)
    said, _ = load(root, tmp_path / "out.npz", [0])
    states = np.concatenate([[joints(e, f) for f in range(n)] for e, n in enumerate(LENGTHS)]).astype(np.float64)
    exact = {"min": states.min(0), "max": states.max(0), "mean": states.mean(0), "std": states.std(0)}
    for name, value in exact.items():
        np.testing.assert_allclose(said["stats"][f"observation.state/{name}"], value, rtol=1e-6, atol=1e-6)
    for camera in CAMERAS:
        shown = np.stack([picture(camera, e, f) for e, n in enumerate(LENGTHS) for f in range(n)]) / 255
        assert np.shape(said["stats"][f"observation.images.{camera}/mean"]) == (3, 1, 1)
        found = np.array(said["stats"][f"observation.images.{camera}/mean"]).ravel()
        np.testing.assert_allclose(found, shown.mean((0, 1, 2)), atol=0.02)  # every fifth picture is looked at
