"""The gate against an independent reading of its rules, for any numbers whatever."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.property.core_strategies import MS, NU, gate_configs, nearest_nu
from vlad.gate import REASONS, Command, Gate, GateConfig, JointLimits, Report

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True, width=64)


@st.composite
def raw_chunks(draw: st.DrawFn, config: GateConfig) -> NDArray[np.float64]:
    """Mostly a walk within the limits and the step, with a few elements replaced by anything."""
    n = draw(st.integers(1, 12))
    actions = np.empty((n, len(config.joints)))
    for j, joint in enumerate(config.joints):
        step = joint.v_max * config.action_period_ns / 1e9
        value = draw(st.floats(joint.min, joint.max))
        for i in range(n):
            actions[i, j] = value
            value += step * draw(st.sampled_from([-1.1, -0.9, -0.3, 0.0, 0.3, 0.9, 1.1]))
            if draw(st.booleans()):
                value = min(max(value, joint.min), joint.max)
    for _ in range(draw(st.integers(0, 2))):
        i, j = draw(st.integers(0, n - 1)), draw(st.integers(0, len(config.joints) - 1))
        actions[i, j] = draw(ANY_FLOAT)
    return actions


def offender(config: GateConfig, actions: NDArray[np.float64]) -> tuple[str, int, int] | None:
    """(reason, joint, action) of the first offender, in the order of the checks."""
    n, joints = actions.shape
    for i in range(n):
        for j in range(joints):
            if not math.isfinite(actions[i, j]):
                return "not_finite", j, i
    nu = np.zeros((n, joints), dtype=object)
    for i in range(n):
        for j, joint in enumerate(config.joints):
            low, high = nearest_nu(joint.min), nearest_nu(joint.max)
            slack = (high - low) * config.clamp_permille // 1000
            exact = float(actions[i, j]) * 1e9
            if exact <= low - slack - 0.5 or exact >= high + slack + 0.5:
                return "position", j, i
            nu[i, j] = min(max(nearest_nu(actions[i, j]), low), high)
    for i in range(1, n):
        for j, joint in enumerate(config.joints):
            if (
                abs(nu[i, j] - nu[i - 1, j])
                > nearest_nu(joint.v_max) * config.action_period_ns // NU
            ):
                return "step", j, i
    return None


@settings(max_examples=400)
@given(st.data())
def test_only_what_the_rules_allow_passes(data: st.DataObject) -> None:
    config = data.draw(gate_configs())
    actions = data.draw(raw_chunks(config))
    command = Command()
    report, gated = Gate(config).check(
        actions, t_obs_ns=0, now_ns=0, command=command, last_due_ns=0
    )
    expected = offender(config, actions)
    if expected is None:
        assert report.accepted and report.reason == "none" and gated is not None
        for j, joint in enumerate(config.joints):
            low, high = nearest_nu(joint.min), nearest_nu(joint.max)
            wanted = [min(max(nearest_nu(v), low), high) for v in actions[:, j]]
            assert gated[:, j].tolist() == wanted
        clamped = sum(
            int(gated[i, j]) != nearest_nu(actions[i, j]) for i, j in np.ndindex(*actions.shape)
        )
        assert report.n_clamped == clamped
        assert report.verdict == ("clamped" if clamped else "accepted")
    else:
        assert not report.accepted and gated is None
        assert (report.reason, report.joint, report.action) == expected
        if report.reason == "step":
            assert report.value > report.bound - 1e-9
        if report.reason == "position":
            joint = config.joints[report.joint]
            slack = (joint.max - joint.min) * config.clamp_permille / 1000
            assert report.value == actions[report.action, report.joint]
            edge = (
                joint.max + slack
                if report.value > 0.5 * (joint.min + joint.max)
                else joint.min - slack
            )
            assert report.bound == pytest.approx(edge, abs=3e-9)


@settings(max_examples=400)
@given(
    t_obs=st.integers(0, 3000), now=st.integers(0, 6000), due=st.none() | st.integers(0, 6000),
    epoch=st.integers(0, 2), current=st.integers(0, 2), cold=st.booleans(), at_rest=st.booleans(),
    rest_since=st.integers(0, 3000), frame=st.integers(-50, 100), reuse=st.integers(0, 2000),
)  # fmt: skip
def test_ages(
    *, t_obs: int, now: int, due: int | None, epoch: int, current: int, cold: bool, at_rest: bool,
    rest_since: int, frame: int, reuse: int,
) -> None:  # fmt: skip
    config = GateConfig(
        (JointLimits(-1, 1),), 50 * MS, 1000 * MS, 1000 * MS, max_cold_age_ns=2500 * MS
    )
    report, gated = Gate(config).check(
        [[0.0]], t_obs_ns=t_obs * MS, now_ns=now * MS, epoch=epoch, cold=cold,
        command=Command(current, at_rest, rest_since * MS), frame_age_ns=frame * MS,
        last_due_ns=None if due is None else due * MS, reuse_age_ns=reuse * MS,
    )  # fmt: skip
    rules = [
        ("disengaged", epoch == 0 or epoch != current),
        ("future", t_obs > now),
        ("late", not cold and (due is None or now > due)),
        ("stale", now - t_obs > (2500 if cold else 1000)),
        ("frame_age", frame > 67 or reuse > 1000),
        ("moved", cold and (not at_rest or rest_since > t_obs)),
    ]
    assert report.reason == next((name for name, broken in rules if broken), "none")
    assert (gated is None) == (report.reason != "none")


@settings(max_examples=200)
@given(st.data())
def test_merged_steps(data: st.DataObject) -> None:
    config = data.draw(gate_configs())
    gate = Gate(config)
    n = data.draw(st.integers(0, 6))
    steps = [gate.step_nu(j) for j in range(len(config.joints))]
    position = [0] * len(steps)
    rows, first = [], None
    for i in range(n):
        for j, step in enumerate(steps):
            move = data.draw(st.integers(-step - 1, step + 1))
            position[j] += move
            if abs(move) > step and first is None:
                first = (j, i)
        rows.append(list(position))
    merged = np.array(rows, dtype=np.int64).reshape(n, len(steps))
    report = gate.check_steps([0.0] * len(steps), merged)
    assert (None if report.accepted else (report.joint, report.action)) == first
    allowed = gate.check_steps([0.0] * len(steps), merged, jump_allowed=10.0)
    assert (None if allowed.accepted else allowed.action) == (
        None if first is None else first[1] if first[1] > 0 else offender_after_first(rows, steps)
    )


def offender_after_first(rows: list[list[int]], steps: list[int]) -> int | None:
    for i in range(1, len(rows)):
        if any(abs(rows[i][j] - rows[i - 1][j]) > step for j, step in enumerate(steps)):
            return i
    return None


BAD_CONFIGS = [
    ({"joints": ()}, "joints"),
    ({"joints": (JointLimits(-1, 1),) * 9}, "joints"),
    ({"joints": (JointLimits(1, -1),)}, "joint 0: min"),
    ({"joints": (JointLimits(-1, 1), JointLimits(-1, math.nan))}, "joint 1: max"),
    ({"joints": (JointLimits(-1, 1, v_max=0.0),)}, "positive"),
    ({"joints": (JointLimits(-1, 1, a_max=math.inf),)}, "a_max"),
    ({"action_period_ns": 0}, "action_period_ns"),
    ({"action_period_ns": 2**62}, "action_period_ns"),
    ({"clamp_permille": 1001}, "clamp_permille"),
    ({"max_jump": -0.1}, "max_jump"),
    ({"blend_ns": -1}, "blend_ns"),
]


@pytest.mark.parametrize(("change", "named"), BAD_CONFIGS)
def test_a_bad_configuration_is_named(change: dict[str, object], named: str) -> None:
    good: dict[str, object] = {
        "joints": (JointLimits(-1, 1),), "action_period_ns": 50 * MS,
        "max_observation_age_ns": 1000 * MS, "max_reuse_age_ns": 1000 * MS,
    }  # fmt: skip
    Gate(GateConfig(**good))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=named):
        Gate(GateConfig(**{**good, **change}))  # type: ignore[arg-type]


def test_report_reads_as_a_line() -> None:
    gate = Gate(GateConfig((JointLimits(-1, 1),), 50 * MS, 1000 * MS, 1000 * MS))

    def check(actions: object, t_obs_ns: int = 0, now_ns: int = 0) -> Report:
        command = Command(goal=[0.0])
        return gate.check(
            actions, t_obs_ns=t_obs_ns, now_ns=now_ns, command=command, last_due_ns=2**59
        )[0]  # type: ignore[arg-type]

    assert str(check([[0.0]])) == "accepted"
    assert (
        str(check([[0.0], [1.5]]))
        == "rejected: position, joint 0, action 1: 1.5 units, bound 1.04 units"
    )
    assert str(check([[1.02]])) == "clamped 1, joint 0, action 0: 1.02 to 1"
    assert str(check([[0.0]], now_ns=1500 * MS)) == "rejected: stale: 1.5 s, bound 1 s"
    assert str(check([[0.0, 0.0]])) == "rejected: shape: 2, bound 1"
    assert str(check(np.zeros((300, 1)))) == "rejected: shape: 257, bound 256"
    assert REASONS[0] == "none" and len(REASONS) == 12


@pytest.mark.parametrize("actions", [0.0, [0.0], [[[0.0]]], "abc"])
def test_what_is_no_matrix_is_a_value_error(actions: object) -> None:
    gate = Gate(GateConfig((JointLimits(-1, 1),), 50 * MS, 1000 * MS, 1000 * MS))
    with pytest.raises(ValueError):
        gate.check(actions, t_obs_ns=0, now_ns=0, command=Command())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="now_ns"):
        gate.check([[0.0]], t_obs_ns=0, now_ns=2**63, command=Command())
    with pytest.raises(ValueError, match="goal"):
        gate.check([[0.0]], t_obs_ns=0, now_ns=0, command=Command(goal=[math.nan]))
    with pytest.raises(ValueError, match="goal has 2 joints"):
        gate.check([[0.0]], t_obs_ns=0, now_ns=0, command=Command(goal=[0.0, 0.0]))
