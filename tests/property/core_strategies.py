"""What the property tests of the pure core draw from: joints, configurations, chunks of numbers."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from vlad.gate import GateConfig, JointLimits

MS = 1_000_000
NU = 1_000_000_000


def nearest_nu(units: float) -> int:
    """Units to nano-units as the core rounds them: to the nearest, halves away from 0."""
    return int(math.copysign(math.floor(abs(units * 1e9) + 0.5), units))


@st.composite
def joint_limits(draw: st.DrawFn) -> JointLimits:
    low = draw(st.integers(-3000, 2500)) / 1000
    span = draw(st.integers(200, 4000)) / 1000
    v_max = draw(st.integers(200, 5000)) / 1000
    t1_ms, t2_ms = draw(st.integers(10, 150)), draw(st.integers(10, 130))
    a_max = 2 * v_max / t1_ms * 1000
    return JointLimits(low, low + span, v_max, a_max, 2 * a_max / t2_ms * 1000)


@st.composite
def gate_configs(draw: st.DrawFn, max_joints: int = 3) -> GateConfig:
    period_ns = draw(st.sampled_from([20, 33, 50, 100])) * MS + draw(st.integers(0, 999_999))
    horizon_ns = draw(st.integers(4, 60)) * period_ns
    return GateConfig(
        joints=tuple(draw(st.lists(joint_limits(), min_size=1, max_size=max_joints))),
        action_period_ns=period_ns,
        max_observation_age_ns=horizon_ns,
        max_reuse_age_ns=horizon_ns,
        clamp_permille=draw(st.sampled_from([0, 1, 20, 100])),
        max_jump=draw(st.sampled_from([0.0, 0.3, 0.5235987755982988])),
        blend_ns=draw(st.sampled_from([0, 100, 400])) * MS,
    )
