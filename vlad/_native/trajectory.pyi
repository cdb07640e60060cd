"""The trajectory filter (csrc/trajectory.c): from the policy's rate to the servo's.

Whole nano-units inside (1e-9 rad, or 1e-9 of the gripper's range): per tick the goal moves by at
most step_nu, and at_rest is exact.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlad.servo import JointLimits

class Trajectory:
    """One filter for all joints. goal_nu, velocity_nu (per tick), step_nu: int64 [n_joints]."""

    def __init__(self, joints: Sequence[JointLimits], period_ns: int) -> None:
        """At rest at 0. period_ns: of the servo loop. ValueError, naming the joint: inverted or
        non-positive limits, v_max below one encoder tick per period, a stop of over 300 ms."""
    def reset(self, goal: Sequence[float] | NDArray[np.float64]) -> None:
        """At rest at goal [n_joints], units."""
    def advance(
        self, target: Sequence[float] | NDArray[np.float64], speed_permille: int = 1000
    ) -> None:
        """One tick towards target [n_joints], units, at up to speed_permille (1..1000) of the speed
        limit. A stop under way is finished first."""
    def stop(self) -> bool:
        """One tick of a stop: no joint speeds up or turns back. True once all stand still."""
    @property
    def goal_nu(self) -> NDArray[np.int64]: ...
    @property
    def velocity_nu(self) -> NDArray[np.int64]: ...
    @property
    def step_nu(self) -> NDArray[np.int64]: ...
    @property
    def windows(self) -> tuple[int, int]:
        """Lengths of the two averages, ticks."""
    @property
    def at_rest(self) -> bool: ...
    @property
    def stopping(self) -> bool: ...
    @property
    def lookahead_ns(self) -> int:
        """How far ahead its target is to be read for no lag."""
    @property
    def stop_ns(self) -> int:
        """How long a stop takes at most."""
