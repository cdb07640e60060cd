"""Cross-checks the joint units that the user names against the statistics of the data. They are
never guessed.

LeRobot records body joints either in degrees about the middle of the calibrated range, or as
-100..100 of that range (clamped), and the gripper as 0..100 (clamped). Source: `_normalize` in
lerobot/motors/motors_bus.py.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from vlad.errors import BundleError

Array = NDArray[np.float64]

_SLACK = 0.5
_GRIPPER_SLACK = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """The extent of one feature: minimum and maximum where they are known (`is_range`), else the
    mean twice.
    """

    source: str
    low: Array
    high: Array
    is_range: bool


def check_units(units: str, joints: tuple[str, ...], observed: list[Observed]) -> None:
    """Raise BundleError when the statistics cannot be in `units` ("degrees" or "m100").

    Refused: -100..100 with values beyond it; degrees beyond half a turn; degrees whose extremes sit
    exactly on -100 or 100 (the clamp of the other unit); body joints that all stay within -pi..pi
    (radians); a gripper outside 0..100.
    """
    body = np.array([not is_gripper(name) for name in joints])
    for seen in observed:
        for index, name in enumerate(joints):
            _check_joint(units, name, seen, float(seen.low[index]), float(seen.high[index]))
        if seen.is_range and body.any() and np.abs(np.concatenate([seen.low[body], seen.high[body]])).max() <= np.pi:
            raise BundleError(
                f"{seen.source}: all body joints stay within -3.14..3.14, which looks like "
                "radians; LeRobot records "
                "degrees or -100..100: convert the recording"
            )


def is_gripper(joint: str) -> bool:
    """Whether a joint is recorded as 0..100 of its range."""
    return joint == "gripper" or joint.endswith("_gripper")


def _check_joint(units: str, name: str, seen: Observed, low: float, high: float) -> None:
    where = f"{seen.source}: {name} spans {low:.2f}..{high:.2f}"
    if is_gripper(name):
        # A scripted or leader's goal may lie a little past the calibrated range; another unit lies far.
        if low < -_GRIPPER_SLACK or high > 100 + _GRIPPER_SLACK:
            raise BundleError(f"{where}, but a gripper is recorded as 0..100")
    elif units == "m100":
        if max(-low, high) > 100 + _SLACK:
            raise BundleError(f"{where}, which cannot be -100..100: build with --units degrees if it is in degrees")
    elif max(-low, high) > 180 + _SLACK:
        raise BundleError(f"{where}, which cannot be degrees of a servo that turns once")
    elif seen.is_range and (abs(low + 100) < 1e-4 or abs(high - 100) < 1e-4):
        raise BundleError(
            f"{where} and ends exactly on the clamp of -100..100: build with --units m100, or look at the recording"
        )
