"""The episode under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlad.dataset import stats
from vlad.dataset.tables import PICTURES
from vlad.dataset.video import Picture, VideoWriter


class Episode:
    """Its frames: numbers in memory, pictures on their way into files of the directory `staging`."""

    def __init__(self, staging: Path, fps: int, cameras: Mapping[str, tuple[int, int]]) -> None:
        self.states: list[NDArray[np.float32]] = []
        self.actions: list[NDArray[np.float32]] = []
        self.capture_ns: list[list[int]] = []
        self.videos = {name: VideoWriter(staging / f"{name}.mp4", fps, *size) for name, size in cameras.items()}

    def add(self, state: NDArray[np.float32], action: NDArray[np.float32], pictures: Mapping[str, Picture],
            capture_ns: Sequence[int]) -> None:  # fmt: skip
        if set(pictures) != set(self.videos):
            raise ValueError(f"pictures of {sorted(pictures)}, not of {sorted(self.videos)}")
        times = [int(t) for t in capture_ns]
        before = self.capture_ns[-1] if self.capture_ns else [-1] * len(times)
        if len(times) != 1 + len(self.videos):
            raise ValueError(f"{len(times)} times: the state's and one a camera are wanted")
        if times[0] <= before[0] or any(t < b for t, b in zip(times, before, strict=True)):
            raise ValueError(f"times {times} ns go back behind {before}")
        for name, video in self.videos.items():
            video.add(pictures[name])
        self.states.append(state)
        self.actions.append(action)
        self.capture_ns.append(times)

    def finish(self) -> dict[str, stats.Stats]:
        return {PICTURES + name: video.finish() for name, video in self.videos.items()}

    def abandon(self) -> None:
        for video in self.videos.values():
            video.abandon()
