"""Frames of a dataset as LeRobot's pre-processors take them: batches with the keys of its LeRobotDataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlad.dataset.reader import Recording, frame_tables
from vlad.errors import BundleError
from vlad.train.split import Rows

Batch = dict[str, Any]


class Samples:
    """Batches of any rows of the table of frames.

    views: of each camera uint8 pictures [rows, 3, height, width], or float16 vision tokens [rows, tokens, width].
    chunk: actions of a sample; beyond the end of its episode they are the last one, and marked.
    """

    def __init__(self, recording: Recording, views: Mapping[str, NDArray[Any]], chunk: int) -> None:
        self.recording, self.chunk = recording, chunk
        self._views = dict(views)
        self._tasks = _tasks(recording)
        self._ends = np.empty(recording.frames, np.int64)
        for episode in recording.episodes:
            self._ends[episode.rows] = episode.rows.stop

    def batch(self, rows: Rows) -> Batch:
        """`observation.state` float32 [n, joints] and `action` [n, chunk, joints] in the dataset's units,
        `action_is_pad` bool [n, chunk], `task`, and of each camera float32 in 0..1 or float16 tokens
        [n, 1, tokens, width]."""
        columns = self.recording.columns
        ahead = rows[:, None] + np.arange(self.chunk)
        ends = self._ends[rows][:, None]
        made: Batch = {
            "observation.state": torch.from_numpy(columns["observation.state"][rows]),
            "action": torch.from_numpy(columns["action"][np.minimum(ahead, ends - 1)]),
            "action_is_pad": torch.from_numpy(ahead >= ends),
            "task": [self._tasks[row] for row in rows],
        }
        for camera, view in self._views.items():
            some = torch.from_numpy(np.stack([view[row] for row in rows]))
            made[camera] = some.float() / 255 if some.dtype == torch.uint8 else some[:, None]
        return made


def _tasks(recording: Recording) -> list[str]:
    """The instruction of each row."""
    tasks = recording.dataset.tasks
    found = []
    for file, table in frame_tables(recording.dataset, ("task_index",)):
        numbers = table.column("task_index").to_pylist()
        if odd := [n for n in numbers if not isinstance(n, int) or not 0 <= n < len(tasks)]:
            raise BundleError(f"{file}: task_index {odd[0]}; meta/tasks.parquet has {len(tasks)} tasks")
        found += [tasks[n] for n in numbers]
    return found
