"""The servo loop as Python sees it: its configuration, and the C object itself.

The loop is csrc/servo_loop.c. Positions are in units (rad for body joints, 0..1 for the gripper),
times in integer ns of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlad._native.servo import (
    AGGREGATES,
    CLEAR,
    ENGAGE,
    HOLD,
    LIMP,
    MAX_ACTIONS,
    MODES,
    PARK,
    REACTIONS,
    REASONS,
    RESUME,
    STAGES,
    STARVES,
    WHY_BIT,
    WHY_NOT,
    MemoryArm,
    Servo,
    now_ns,
)

MS = 1_000_000  # ns
DEG = 0.017453292519943295  # rad
SO101_UNIT_NU = 1_533_980  # 2 pi / 4096 rad, rounded down: one STS3215 tick


@dataclass(frozen=True, slots=True)
class JointLimits:
    """Limits of one joint in units, units/s, units/s^2, units/s^3; unit_nu: one encoder tick.

    gripper: it closes on things, so it is bounded by its torque and not by a following error.
    """

    min: float
    max: float
    v_max: float = 2.5
    a_max: float = 40.0
    j_max: float = 1600.0
    unit_nu: int = SO101_UNIT_NU
    gripper: bool = False


@dataclass(frozen=True, slots=True)
class ServoConfig:
    """What csrc/servo_loop.h's struct vlad_servo_config holds, in Python units.

    action_period_ns: 1/f of the policy, the grid of the queue. chunk_size: N.
    ValueError from Servo(config) when limits are inverted or a stop would take over 300 ms.
    """

    joints: tuple[JointLimits, ...]
    action_period_ns: int
    chunk_size: int
    period_ns: int = 10 * MS
    aggregate: str = "weighted_average"
    clamp_permille: int = 20
    max_cold_age_ns: int = 10_000 * MS
    max_frame_age_ns: int = 67 * MS
    max_jump: float = 30 * DEG
    blend_ns: int = 100 * MS
    read_budget_ns: int = 4 * MS
    silent_ns: int = 50 * MS
    overrun_hold_ns: int = 50 * MS
    rest_pose: tuple[float, ...] | None = None
    park_permille: int = 200
    allow_non_realtime: bool = False
    park_c: int = 70
    supply_mv: int = 0  # nominal; 0: what the servos see when their bus is taken over
    following_limit: float = 0.2  # rad, of a joint that bears a load; half of it without

    @property
    def max_observation_age_ns(self) -> int:
        """N/f."""
        return self.chunk_size * self.action_period_ns

    @property
    def max_reuse_age_ns(self) -> int:
        return self.chunk_size * self.action_period_ns


__all__ = [
    "AGGREGATES", "CLEAR", "DEG", "ENGAGE", "HOLD", "LIMP", "MAX_ACTIONS", "MODES", "MS", "PARK", "REACTIONS",
    "REASONS", "RESUME", "SO101_UNIT_NU", "STAGES", "STARVES", "WHY_BIT", "WHY_NOT", "JointLimits",
    "MemoryArm", "Servo", "ServoConfig", "now_ns",
]
