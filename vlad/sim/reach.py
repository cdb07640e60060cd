"""Inverse kinematics of the simulated arm: joint angles that put the jaws at a place on the table.

The arm is a pan axis and three parallel ones, so the pan angle comes from the bearing and the other three
from two links of known length and the tilt of the hand; the wrist's roll turns the jaws. Lengths and
directions are read from the MuJoCo model, not written down here. What the closed form leaves out (the
hand is mounted 3 degrees askew) two corrections by forward kinematics take away.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

_CORRECTIONS = 3
_MAX_TILT_CHANGE_RAD, _TILT_STEP_RAD = 0.6, 0.02
_FACE_X_M = -0.0126  # fixed_pad of assets/so101_table.xml


class OutOfReach(ValueError):
    """No joint angles put the jaws there."""


class Reach:
    """Inverse kinematics on a model of its own; nothing of the World moves."""

    def __init__(self, model: Any) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._data = mujoco.MjData(model)
        self._hand = model.body("gripper").id
        self._tip = float(model.site("grasp").pos[2])
        names = ("shoulder_lift", "elbow_flex", "wrist_flex")
        self._joints = [model.joint(name).id for name in ("shoulder_pan", *names)]
        self._limits = np.array(model.jnt_range[:5])
        self._place(np.zeros(5))
        anchors = [self._data.xanchor[joint] for joint in self._joints]
        self._axis = anchors[0][:2].copy()
        shoulder, elbow, wrist = (self._flat(anchor) for anchor in anchors[1:])
        tip = self._flat(self._point())
        self._shoulder = shoulder
        self._links = [math.dist(shoulder, elbow), math.dist(elbow, wrist), math.dist(wrist, tip)]
        self._zero = [
            math.atan2(b[1] - a[1], b[0] - a[0]) for a, b in ((shoulder, elbow), (elbow, wrist), (wrist, tip))
        ]
        self._sign = [-float(np.sign(self._data.xaxis[joint][1])) for joint in self._joints[1:]]
        self._roll_zero = self.heading(np.array([0.0, 0.0, 0.0, math.pi / 2, 0.0]))

    def _place(self, angles: Vector) -> None:
        self._data.qpos[:5] = angles[:5]
        self._mujoco.mj_kinematics(self._model, self._data)

    def _flat(self, point: Vector) -> tuple[float, float]:
        return float(np.hypot(*(point[:2] - self._axis))), float(point[2])

    def _point(self, offset_m: float | None = None) -> Vector:
        """A point between the jaws' tips, `offset_m` from the fixed jaw's face; on the roll axis by default."""
        x = 0.0 if offset_m is None else _FACE_X_M + offset_m
        frame = self._data.xmat[self._hand].reshape(3, 3)
        return np.array(self._data.xpos[self._hand] + frame @ (x, 0.0, self._tip))

    def bearing(self, point: Vector) -> float:
        """Direction of a point (2 or 3,), m, from the pan axis, rad."""
        return math.atan2(point[1] - self._axis[1], point[0] - self._axis[0])

    def distance(self, point: Vector) -> float:
        """Horizontal distance of a point (2 or 3,) from the pan axis, m."""
        return float(np.hypot(point[0] - self._axis[0], point[1] - self._axis[1]))

    def heading(self, angles: Vector) -> float:
        """Heading of the line along which the jaws close, rad, where the hand points down."""
        self._place(angles)
        frame = self._data.xmat[self._hand].reshape(3, 3)
        return math.atan2(frame[1, 0], frame[0, 0])

    def tool(self, angles: Vector, offset_m: float) -> Vector:
        """Where a point between the jaws is, m (3,), at joint angles (5 or more,), rad.

        offset_m: from the fixed jaw's face, along the line on which the jaws close.
        """
        self._place(np.asarray(angles))
        return self._point(offset_m)

    def nearest(self, point: Vector, heading_rad: float, offset_m: float, tilt_rad: float) -> Vector:
        """solve() with the tilt that the joints allow and that is nearest to `tilt_rad`.

        Raises:
            OutOfReach: when none within _MAX_TILT_CHANGE_RAD does.
        """
        for change in np.arange(0.0, _MAX_TILT_CHANGE_RAD, _TILT_STEP_RAD):
            for tilt in (tilt_rad + change, tilt_rad - change):
                with contextlib.suppress(OutOfReach):
                    return self.solve(point, heading_rad, offset_m, tilt)
        return self.solve(point, heading_rad, offset_m, tilt_rad)

    def solve(self, point: Vector, heading_rad: float, offset_m: float, tilt_rad: float = 0.0) -> Vector:
        """Joint angles (5,), rad, that put the point `offset_m` between the jaws at `point` (3,), m.

        heading_rad: of the line along which the jaws close, from the fixed jaw to the moving one.
        tilt_rad: of the hand, from straight down towards forward.

        Raises:
            OutOfReach: when the arm is too short, or a joint would leave its range.
        """
        target = np.array(point, float)
        for _ in range(_CORRECTIONS):
            angles = self._closed_form(target, heading_rad, offset_m, tilt_rad)
            miss = point - self.tool(angles, offset_m)
            target = target + miss
        outside = (angles < self._limits[:, 0]) | (angles > self._limits[:, 1])
        if outside.any():
            raise OutOfReach(f"{np.round(point, 3)}: joints {np.flatnonzero(outside)} would leave their range")
        return angles

    def _closed_form(self, point: Vector, heading: float, offset_m: float, tilt: float) -> Vector:
        # The roll axis passes beside the point between the jaws.
        x = _FACE_X_M + offset_m
        on_axis = point[:2] - x * np.array([math.cos(heading), math.sin(heading)])
        away = on_axis - self._axis
        bearing = math.atan2(away[1], away[0])
        direction = tilt - math.pi / 2
        upper, lower, hand = self._links
        wrist_r = float(np.hypot(*away)) - hand * math.cos(direction) - self._shoulder[0]
        wrist_z = float(point[2]) - hand * math.sin(direction) - self._shoulder[1]
        reach = math.hypot(wrist_r, wrist_z)
        cosine = (upper**2 + reach**2 - lower**2) / (2 * upper * reach)
        bend = (upper**2 + lower**2 - reach**2) / (2 * upper * lower)
        if abs(cosine) > 1 or abs(bend) > 1:
            raise OutOfReach(f"{np.round(point, 3)}: {reach:.3f} m from the shoulder to the wrist")
        first = math.atan2(wrist_z, wrist_r) + math.acos(cosine)  # elbow up
        second = first - (math.pi - math.acos(bend))
        absolute = [first, second, direction]
        turned = [absolute[i] - self._zero[i] for i in range(3)]
        joints = [turned[0], turned[1] - turned[0], turned[2] - turned[1]]
        lift, elbow, wrist = (_wrap(sign * angle) for sign, angle in zip(self._sign, joints, strict=True))
        pan = -bearing  # the pan axis points down
        return np.array([pan, lift, elbow, wrist, _wrap(heading - bearing - self._roll_zero)])


def _wrap(angle: float) -> float:
    return math.remainder(angle, math.tau)
