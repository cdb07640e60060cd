"""One line of the recording checklist: what was measured, what it should be, and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Verdict = Literal["good", "bad", "unknown"]


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """key: as in docs/dataset-check.md. value, threshold: for a person. advice: what to do, "" where good. figures:
    the numbers behind it, as JSON takes them.
    """

    key: str
    title: str
    value: str
    threshold: str
    verdict: Verdict
    advice: str
    figures: Mapping[str, Any]


TITLES = {
    "camera_drift": "Camera pose drift between episodes",
    "lighting": "Lighting variation over time",
    "contrast": "Contrast of arm, object and background",
    "focus": "Focus",
    "dark_frames": "Dark frames",
    "frozen_frames": "Frozen frames",
    "dropped_frames": "Dropped frames",
    "timestamp_jitter": "Timestamp jitter",
    "camera_skew": "Camera skew",
    "start_clusters": "Start-position clusters",
    "recovery_share": "Recovery episodes",
    "joint_coverage": "Range of each joint",
    "validation_split": "Train and validation",
    "gripper_camera": "Gripper camera",
    "calibration_backup": "Calibration backup",
}


def item(key: str, value: str, threshold: str, good: bool | None, advice: str, **figures: Any) -> Item:
    """key: of TITLES. good: None where it could not be measured."""
    verdict: Verdict = "unknown" if good is None else "good" if good else "bad"
    return Item(key, TITLES[key], value, threshold, verdict, "" if good else advice, figures)


def some(numbers: list[int]) -> str:
    """`3, 4, 5 and 7 more`: episodes that are meant."""
    words = ", ".join(map(str, numbers[:6]))
    return words if len(numbers) <= 6 else f"{words} and {len(numbers) - 6} more"
