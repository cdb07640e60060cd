"""From where a teleoperator is to where the arm may go next: within the limits, at a bounded speed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from vlad.arm import Joint
from vlad.record.rig import Floats

APPROACH = 0.2  # of v_max, until the arm has come to where the teleoperator is
SPEED = 0.9  # of v_max: the gate lets a policy that was trained on it do the same


class Follow:
    """One action per call, each at most a step from the one before.

    goal: the action in force. caught_up: it has met the teleoperator since `start`; until then steps are those of an
    approach. limited: how often a joint was wanted beyond its limits, by its name.
    """

    def __init__(self, joints: Sequence[Joint], fps: int) -> None:
        self._low = np.array([joint.min for joint in joints])
        self._high = np.array([joint.max for joint in joints])
        self._step = np.array([joint.v_max for joint in joints]) / fps
        self._names = tuple(joint.name for joint in joints)
        self.goal: Floats = np.zeros(len(joints))
        self.caught_up = False
        self.limited = dict.fromkeys(self._names, 0)

    def start(self, pose: ArrayLike) -> None:
        """The arm stands at `pose`. One outside its limits comes back inside as the first thing."""
        self.goal = np.array(pose, np.float64)
        self.caught_up = False

    def toward(self, wanted: Floats) -> Floats:
        """The next action. ValueError when `wanted` is not finite."""
        if not np.isfinite(wanted).all():
            raise ValueError(f"{wanted} is no pose")
        target = np.clip(wanted, self._low, self._high)
        for j in np.flatnonzero(target != wanted):
            self.limited[self._names[j]] += 1
        step = self._step * (SPEED if self.caught_up else APPROACH)
        self.goal = self.goal + np.clip(target - self.goal, -step, step)
        if not self.caught_up:
            self.caught_up = bool((np.abs(target - self.goal) <= step).all())
        return self.goal.copy()
