"""Pictures and joints of a made-up recording: smooth, so that a codec changes them little, and no two alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlad.dataset.writer import DatasetWriter

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
CAMERAS = {"top": (48, 64), "wrist": (64, 48)}
PERIOD_NS = 33_333_333


def picture(camera: str, episode: int, frame: int) -> NDArray[np.uint8]:
    """Of a camera of CAMERAS."""
    height, width = CAMERAS[camera]
    y, x = np.mgrid[0:height, 0:width]
    grey = 110 + 40 * np.sin(0.06 * x + 0.04 * y + 0.4 * frame + (camera == "wrist")) + 9 * (episode % 8)
    return np.stack([grey, grey[::-1], 230 - grey], axis=-1).clip(0, 255).astype(np.uint8)


def joints(episode: int, frame: int) -> NDArray[np.float32]:
    """State, LeRobot's units; the action is a degree more."""
    return (20 * np.sin(np.arange(6) + 0.1 * frame + episode)).astype(np.float32)


def capture_ns(episode: int, frame: int) -> list[int]:
    """Of the state and both cameras: the pictures are older, each in its own way."""
    state = (1000 * episode + frame + 1) * PERIOD_NS
    return [state, state - 7_000_000, state - 20_000_000]


def add_frames(writer: DatasetWriter, episode: int, frames: int) -> None:
    """The first frames of an episode that is not saved yet."""
    for frame in range(writer.frames_under_way, frames):
        state = joints(episode, frame)
        pictures = {camera: picture(camera, episode, frame) for camera in CAMERAS}
        writer.add_frame(state, state + 1, pictures, capture_ns(episode, frame))
