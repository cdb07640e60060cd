"""The trajectory filter of csrc/trajectory.c, documented in vlad/_native/trajectory.pyi."""

from __future__ import annotations

from vlad._native.trajectory import Trajectory
from vlad.servo import JointLimits

__all__ = ["JointLimits", "Trajectory"]
