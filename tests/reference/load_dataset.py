"""Runs in LeRobot's environment: loads a data set with LeRobot's own class and saves what it says of it.

    python load_dataset.py ROOT OUT.npz INDEX [INDEX ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import dataset_to_policy_features

root, out, *indices = sys.argv[1:]
dataset = LeRobotDataset("vlad/test", root=Path(root), video_backend="pyav")
items = [dataset[int(i)] for i in indices]
arrays = {f"{i}/{key}": np.asarray(value) for i, item in zip(indices, items, strict=True)
          for key, value in item.items() if key != "task"}  # fmt: skip
columns = ("success", "recovery", "cluster", "length", "dataset_from_index")
said = {
    "frames": len(dataset), "episodes": dataset.num_episodes, "fps": dataset.fps, "tasks": [i["task"] for i in items],
    "robot_type": dataset.meta.robot_type, "rows": {name: list(dataset.meta.episodes[name]) for name in columns},
    "policy": {key: feature.type.name for key, feature in dataset_to_policy_features(dataset.meta.features).items()},
    "stats": {f"{feature}/{name}": np.asarray(value).tolist() for feature, table in dataset.meta.stats.items()
              for name, value in table.items()},
}  # fmt: skip
np.savez(out, said=json.dumps(said), **arrays)
