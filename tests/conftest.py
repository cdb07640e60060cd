"""Shared by all tests: what a small simulated arm and its policy look like."""

from __future__ import annotations

import contextlib
import math
import os
import signal

os.environ.setdefault("MUJOCO_GL", "osmesa")  # read when mujoco is first imported

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from tests.survival import (  # noqa: F401 - the plugin that ties tests to rows
    pytest_collection_modifyitems,
    pytest_runtest_makereport,
    survival,
)
from vlad.scheduler import SchedulerConfig
from vlad.servo import JointLimits, ServoConfig

# Daemons and simulated arms are driven in real time here: other work on the machine has to wait, where that may
# be asked for.
with contextlib.suppress(PermissionError):
    os.setpriority(os.PRIO_PROCESS, 0, -10)

# Where tests run in the background of a shell, SIGINT is ignored, and by the processes that they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that is busy makes drawing slow; that is no fault of a test.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

PERIOD_NS = 33_333_333  # 30 Hz
CHUNK = 50


def sweep(t_ns: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """A smooth curve of absolute time, [..., 6] units: what a faithful replay must follow."""
    t = np.atleast_1d(np.asarray(t_ns, dtype=np.float64)) / 1e9
    w = 2 * math.pi / 8
    out = 0.5 * np.sin(w * t[:, None] + np.arange(6)[None, :])
    out[:, 5] = 0.5 + 0.3 * np.sin(w * t)
    return out


def sweep_policy(t_obs_ns: int, state: NDArray[np.float64]) -> NDArray[np.float64]:
    """The chunk [50, 6] that starts on the sweep at t_obs."""
    return sweep(t_obs_ns + np.arange(CHUNK) * PERIOD_NS)


@pytest.fixture
def servo_config() -> ServoConfig:
    joints = (
        *(JointLimits(-1.9, 1.9) for _ in range(5)),
        JointLimits(0.0, 1.0, 1.6, 26.0, 1000.0, 400_000, gripper=True),
    )
    return ServoConfig(joints, PERIOD_NS, CHUNK, allow_non_realtime=True)


@pytest.fixture
def scheduler_config() -> SchedulerConfig:
    return SchedulerConfig(PERIOD_NS, CHUNK, lookahead_ns=85_000_000)
