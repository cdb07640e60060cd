"""The LeRobot data set v3.0 that ships with the sweep checkpoint: one episode of each task, written
by LeRobot.

Its meta/ tells `vlad build` the rate, the joints and the tasks. meta/stats.json holds, for state
and action, the statistics of the whole recording that the checkpoint was trained on, not of these
two episodes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from sweep_motion import CAMERAS, FPS, JOINTS, TASKS


def write_dataset(recording: Path, root: Path, statistics: dict[str, dict[str, np.ndarray]]) -> None:
    """Write recording/episodes.npz as a data set at `root`, replacing what is there."""
    names = [f"{joint}.pos" for joint in JOINTS]
    features: dict[str, dict[str, Any]] = {
        "action": {"dtype": "float32", "shape": (6,), "names": names},
        "observation.state": {"dtype": "float32", "shape": (6,), "names": names},
    }
    image = {"dtype": "video", "shape": (240, 320, 3), "names": ["height", "width", "channels"]}
    features |= {f"observation.images.{camera}": image for camera in CAMERAS}
    shutil.rmtree(root, ignore_errors=True)
    dataset = LeRobotDataset.create("sweep", FPS, features, root=root, robot_type="so101_follower")
    with np.load(recording / "episodes.npz") as stored:
        states, actions, images = stored["states"], stored["actions"], stored["images"]
    for task, episode in zip(TASKS, zip(states, actions, images, strict=True), strict=True):
        for state, action, pictures in zip(*episode, strict=True):
            frame = {f"observation.images.{camera}": pictures[k] for k, camera in enumerate(CAMERAS)}
            frame |= {
                "observation.state": state.astype(np.float32),
                "action": action.astype(np.float32),
            }
            dataset.add_frame({**frame, "task": task.instruction})
        dataset.save_episode()
    dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)
    file = root / "meta" / "stats.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    kept |= {feature: {k: np.asarray(v).tolist() for k, v in stats.items()} for feature, stats in statistics.items()}
    file.write_text(json.dumps(kept, indent=4) + "\n", encoding="utf-8")
