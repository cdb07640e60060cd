"""Converts joint positions between LeRobot's units and those of the core, at the bundle boundary
only.

Core: radians about the middle of the calibrated range for body joints, 0..1 of the range for the
gripper; one servo turn is 4096 ticks. LeRobot: `degrees` (ticks - mid) * 360 / 4095, or `m100`
(-100..100 of the calibrated range, sign flipped by drive_mode), and 0..100 for the gripper (turned
around by drive_mode). Nothing is rounded or clamped here. Source: `_normalize` and `_unnormalize`
in lerobot/motors/motors_bus.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlad.errors import ConfigError

Units = Literal["degrees", "m100"]
Floats = NDArray[np.float64]

RAD_PER_DEGREE_UNIT = 4095.0 / 360.0 * 2.0 * math.pi / 4096.0
"""Core radians per LeRobot degree: LeRobot divides a turn by 4095, the servo by 4096."""


class JointRange(msgspec.Struct, frozen=True):
    """Calibration of one joint in LeRobot's terms: servo ticks and direction."""

    range_min: int
    range_max: int
    drive_mode: int = 0


class JointUnits:
    """A per-joint affine map between LeRobot's units and core units.

    `calibration` maps joint names to ranges; `m100` cannot do without it, `degrees` uses it for the
    gripper's direction only. Raises ConfigError for a joint that has no usable calibration.
    """

    def __init__(
        self,
        units: Units,
        joints: Sequence[str],
        grippers: Sequence[bool],
        calibration: Mapping[str, JointRange] | None = None,
    ) -> None:
        self._scale = np.empty(len(joints))
        self._offset = np.zeros(len(joints))
        for index, (name, gripper) in enumerate(zip(joints, grippers, strict=True)):
            entry = None if calibration is None else calibration.get(name)
            if entry is not None and entry.range_max <= entry.range_min:
                raise ConfigError(f"calibration of {name}: range_max {entry.range_max} <= range_min {entry.range_min}")
            flipped = entry is not None and entry.drive_mode != 0
            if gripper:
                self._scale[index] = -0.01 if flipped else 0.01
                self._offset[index] = 1.0 if flipped else 0.0
            elif units == "degrees":
                self._scale[index] = RAD_PER_DEGREE_UNIT
            elif entry is None:
                raise ConfigError(
                    f"joint {name} is in -100..100 of its calibrated range: the arm's calibration is needed to move it"
                )
            else:
                half_range_rad = (entry.range_max - entry.range_min) * math.pi / 4096.0
                self._scale[index] = half_range_rad / (-100.0 if flipped else 100.0)

    def to_core(self, values: ArrayLike) -> Floats:
        """LeRobot units `[..., joints]` to core units, float64."""
        converted: Floats = np.asarray(values, dtype=np.float64) * self._scale + self._offset
        return converted

    def from_core(self, positions: ArrayLike) -> Floats:
        """Core units `[..., joints]` to LeRobot units, float64."""
        converted: Floats = (np.asarray(positions, dtype=np.float64) - self._offset) / self._scale
        return converted
