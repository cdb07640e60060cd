"""The rest pose of the simulated arm, as a configuration says it: so that it can be parked."""

from __future__ import annotations

import numpy as np

from vlad.config import Config
from vlad.evaluation.table import ticks_of
from vlad.sim.world import REST_POSE_RAD, World


def rest_pose(config: Config) -> dict[str, float]:
    """Where the simulated arm lies without torque, in units, within the joints' limits."""
    world = World(0, calibration={j.name: j.calibration for j in config.joints})
    zero, scale = ticks_of(config.joints)
    ticks = np.array([world.ticks_of(index, angle) for index, angle in enumerate(REST_POSE_RAD)])
    world.close()
    at = (ticks - zero) * scale
    return {j.name: round(min(max(float(p), j.min), j.max), 4) for j, p in zip(config.joints, at, strict=True)}
