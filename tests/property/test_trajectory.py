"""Invariant I1 of the filter and I2 of its stop, for any limits, targets and moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.core_strategies import MS, NU
from vlad.trajectory import JointLimits, Trajectory

TICK_NU = 1_533_980
PERIODS = st.sampled_from([1, 2, 5, 10, 20, 50]).map(lambda ms: ms * MS)


@st.composite
def arms(draw: st.DrawFn) -> tuple[tuple[JointLimits, ...], int]:
    """Joints fast enough for a tick per period, and smooth enough to stop within 300 ms."""
    period_ns = draw(PERIODS)
    joints = []
    for _ in range(draw(st.integers(1, 4))):
        v_max = draw(st.floats(1.01, 3.0)) * (TICK_NU + 1) / period_ns
        t1, t2 = draw(st.floats(0.01, 0.15)), draw(st.floats(0.01, 0.1))
        joints.append(
            JointLimits(-2.0, 2.0, v_max, 2 * v_max / t1, 4 * v_max / t1 / t2, unit_nu=TICK_NU)
        )
    return tuple(joints), period_ns


def moves(n_joints: int) -> st.SearchStrategy[list[tuple[int, list[float]]]]:
    """(for how many ticks, towards where), a few times."""
    pose = st.lists(st.floats(-2.0, 2.0), min_size=n_joints, max_size=n_joints)
    return st.lists(st.tuples(st.integers(1, 60), pose), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_goal_keeps_every_bound(data: st.DataObject) -> None:
    joints, period_ns = data.draw(arms())
    trajectory = Trajectory(joints, period_ns)
    s = period_ns / 1e9
    step = trajectory.step_nu
    a_max = np.array([joint.a_max for joint in joints]) * NU * s * s
    j_max = np.array([joint.j_max for joint in joints]) * NU * s**3
    for j, joint in enumerate(joints):
        assert 0 < step[j] <= joint.v_max * NU * s
    start = data.draw(st.lists(st.floats(-2, 2), min_size=len(joints), max_size=len(joints)))
    trajectory.reset(start)
    goals = [trajectory.goal_nu]
    low, high = goals[0].copy(), goals[0].copy()
    for ticks, target in data.draw(moves(len(joints))):
        low = np.minimum(low, np.floor(np.array(target) * NU))
        high = np.maximum(high, np.ceil(np.array(target) * NU))
        for _ in range(ticks):
            trajectory.advance(target, data.draw(st.sampled_from([1000, 1000, 1000, 200])))
            goals.append(trajectory.goal_nu)
            assert np.all(goals[-1] >= low) and np.all(goals[-1] <= high)
    goal = np.array([goals[0]] * 3 + goals)
    velocity = np.diff(goal, axis=0)
    acceleration = np.diff(velocity, axis=0)
    jerk = np.diff(acceleration, axis=0)
    assert np.all(np.abs(velocity) <= step)
    # The goal is a whole number of nano-units: 2 and 4 of them are rounding, and 1e-6 is the
    # limit's own conversion from a float.
    assert np.all(np.abs(acceleration) <= a_max * (1 + 1e-6) + 2)
    assert np.all(np.abs(jerk) <= j_max * (1 + 1e-6) + 4)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_stop_only_ever_slows_down(data: st.DataObject) -> None:
    joints, period_ns = data.draw(arms())
    trajectory = Trajectory(joints, period_ns)
    assert trajectory.stop_ns <= 300 * MS
    for ticks, target in data.draw(moves(len(joints))):
        for _ in range(ticks):
            trajectory.advance(target)
    speed, goal = trajectory.velocity_nu, trajectory.goal_nu
    calls, done = 0, False
    while not done:
        calls += 1
        done = trajectory.stop()
        velocity = trajectory.velocity_nu
        assert np.all(np.abs(velocity) <= np.abs(speed))
        assert np.all(velocity * speed >= 0)
        assert np.array_equal(trajectory.goal_nu - goal, velocity)
        speed, goal = velocity, trajectory.goal_nu
        assert calls * period_ns <= trajectory.stop_ns
    assert not speed.any() and trajectory.at_rest and not trajectory.stopping
    trajectory.advance(goal / NU)
    assert np.array_equal(trajectory.goal_nu, goal) and trajectory.at_rest


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_target_is_reached_exactly(data: st.DataObject) -> None:
    joints, period_ns = data.draw(arms())
    trajectory = Trajectory(joints, period_ns)
    target = data.draw(
        st.lists(st.integers(-2 * NU, 2 * NU), min_size=len(joints), max_size=len(joints))
    )
    n1, n2 = trajectory.windows
    ticks = max(
        abs(nu) // int(step) + 1 for nu, step in zip(target, trajectory.step_nu, strict=True)
    )
    for _ in range(ticks + n1 + n2 - 1):
        trajectory.advance([nu / NU for nu in target])
    assert trajectory.goal_nu.tolist() == target
    assert trajectory.at_rest


@pytest.mark.parametrize(
    ("joint", "period_ns", "named"),
    [
        (JointLimits(-1, 1, v_max=0.1), 10 * MS, "encoder tick"),
        (JointLimits(-1, 1, a_max=1.0), 10 * MS, "300 ms"),
        (JointLimits(-1, 1, unit_nu=0), 10 * MS, "unit_nu"),
        (JointLimits(-1, 1), 0, "period_ns"),
    ],
)
def test_what_cannot_be_served_is_named(joint: JointLimits, period_ns: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Trajectory([joint], period_ns)
