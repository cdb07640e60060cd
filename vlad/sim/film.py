"""A film of what happened on the simulated table, drawn afterwards from the positions that were seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlad.build.progress import Progress
from vlad.dataset.video import VideoWriter
from vlad.evaluation.pictures import Picture, Pictures, Pose

FPS = 15
LARGE, SMALL = (480, 360), (240, 180)
ENCODER = {"preset": "veryfast", "crf": "26"}
STILL_S = 0.5  # of its last picture, at the end of each attempt


def write_film(path: Path, attempts: Sequence[Sequence[Pose]]) -> None:
    """H.264 in MP4: the view from the left, beside it what the policy sees from above and from the gripper.

    attempts: positions in order of time; of each moment of the film the newest one is shown. Raises OSError.
    """
    shown = [pose for poses in attempts for pose in _at_rate(poses)]
    if not shown:
        return
    pictures = Pictures({"left": LARGE, "top": SMALL, "gripper": SMALL})
    writer = VideoWriter(path, FPS, LARGE[1], LARGE[0] + SMALL[0], ENCODER)
    try:
        with Progress("drawing the film", len(shown)) as progress:
            for pose in shown:
                writer.add(_side_by_side(pictures.draw(pose)))
                progress.advance(path.name)
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
    finally:
        pictures.close()


def _at_rate(poses: Sequence[Pose]) -> list[Pose]:
    if not poses:
        return []
    times = np.array([pose.t_ns for pose in poses])
    wanted = np.arange(times[0], times[-1] + round(STILL_S * 1e9), round(1e9 / FPS))
    return [poses[i] for i in np.searchsorted(times, wanted, side="right") - 1]


def _side_by_side(views: dict[str, Picture]) -> Picture:
    return np.ascontiguousarray(np.hstack([views["left"], np.vstack([views["top"], views["gripper"]])]))
