"""What a new chunk continues, when it continues nothing, and how it is drawn to the old one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlad.errors import BundleError
from vlad.rtc import (
    Array,
    Continuation,
    RealTimeChunking,
    RtcConfig,
    Schedule,
    consumed_actions,
    guidance_weight,
    guide,
    hold_last,
    prefix_weights,
)

PERIOD = 50
TOTAL, WIDTH, JOINTS = 20, 4, 2
SCHEDULES: tuple[Schedule, ...] = ("linear", "exp", "zeros", "ones")


def numbered(t0: int, total: int = TOTAL) -> Array:
    """Actions that say when they are due, in periods."""
    return np.tile((t0 / PERIOD + np.arange(total, dtype=np.float32))[:, None], (1, WIDTH))


def chunking(**config: object) -> RealTimeChunking:
    """With LeRobot's defaults where `config` says nothing."""
    given = RtcConfig(**({"horizon": 10, "schedule": "linear"} | config))  # type: ignore[arg-type]
    return RealTimeChunking(given, period_ns=PERIOD, lookahead_ns=0)


def accept(
    rtc: RealTimeChunking, continuation: Continuation | None, actions: Array, *, t0: int | None,
    arrival: int, context: object = "task",
) -> None:  # fmt: skip
    """t0 None: it was rejected."""
    rtc.judged(context, continuation, actions, joints=JOINTS, arrival_ns=arrival, t0_ns=t0)


def after_one_chunk(**config: object) -> RealTimeChunking:
    """One chunk was accepted, action 0 due at 1000."""
    rtc = chunking(**config)
    accept(rtc, None, numbered(1000), t0=1000, arrival=1000)
    return rtc


def planned(rtc: RealTimeChunking, t_obs: int, arrival: int) -> Continuation:
    continuation = rtc.plan("task", t_obs_ns=t_obs, arrival_ns=arrival, cold=False)
    assert continuation is not None
    return continuation


# --- weights --------------------------------------------------------------------------------


def test_the_published_weights() -> None:
    """lerobot 0.4.4, delay 4, horizon 10, to three places; test_rtc.py compares all of them."""
    falling = [0.857, 0.714, 0.571, 0.429, 0.286, 0.143]
    assert prefix_weights("linear", 4, 10, 12) == pytest.approx([1] * 4 + falling + [0, 0], abs=1e-3)
    falling = [0.677, 0.434, 0.256, 0.134, 0.055, 0.013]
    assert prefix_weights("exp", 4, 10, 12) == pytest.approx([1] * 4 + falling + [0, 0], abs=1e-3)
    assert prefix_weights("zeros", 4, 10, 12).tolist() == [1] * 4 + [0] * 8
    assert prefix_weights("ones", 4, 10, 12).tolist() == [1] * 10 + [0] * 2


@given(st.sampled_from(SCHEDULES), st.integers(0, 60), st.integers(0, 60), st.integers(1, 60))
def test_weights_fall_from_one_to_nothing(schedule: Schedule, delay: int, horizon: int, total: int) -> None:
    weights = prefix_weights(schedule, delay, horizon, total)
    assert weights.shape == (total,)
    assert weights.dtype == np.float32
    assert np.all(np.diff(weights) <= 0)
    assert np.all((weights >= 0) & (weights <= 1))
    assert np.all(weights[: min(delay, horizon)] == 1)
    assert not weights[horizon:].any()


def test_the_guidance_weight_over_ten_steps() -> None:
    weights = [guidance_weight(1 - i / 10, 10.0) for i in range(10)]
    assert weights == pytest.approx([10, 9.11, 4.25, 2.76, 2.17, 2.00, 2.17, 2.76, 4.25, 9.11], abs=5e-3)
    assert guidance_weight(0.0, 7.0) == 7.0


# --- the step -------------------------------------------------------------------------------


def drawn(steps: int, weight: float = 1.0, max_weight: float = 10.0) -> float:
    """Where a policy that always says 1 ends up when it is drawn to 0 with this prefix weight."""
    target, weights = np.zeros((1, 1), np.float32), np.array([weight], np.float32)
    steer = guide(target, weights, max_weight)
    x = np.full((1, 1), -0.7, np.float32)
    for step in range(steps):
        time = 1.0 - step / steps
        velocity = (x - 1.0) / np.float32(time)
        x = x - np.float32(1 / steps) * steer(x, velocity, time, -1 / steps)
    return float(x[0, 0])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 20])
def test_a_hard_prefix_ends_near_the_old_actions_with_any_number_of_steps(steps: int) -> None:
    """The last step's correction is 1 / steps times at most that weight, 1 at best."""
    assert drawn(steps, 0.0) == pytest.approx(1.0, abs=1e-5)
    assert abs(drawn(steps)) < 0.56 if steps > 10 else abs(drawn(steps)) < 0.18


def test_few_steps_do_not_throw_it_past_the_old_actions() -> None:
    target, weights = np.zeros((1, 1), np.float32), np.ones(1, np.float32)
    x, velocity = np.full((1, 1), 3.0, np.float32), np.zeros((1, 1), np.float32)
    for steps in (1, 2, 4, 10):
        after = x - np.float32(1 / steps) * guide(target, weights, 10.0)(x, velocity, 1.0, -1 / steps)
        assert after.item() == pytest.approx(0.0, abs=1e-6), "a weight of 10 would overshoot"


def test_rows_without_weight_are_left_alone() -> None:
    random = np.random.default_rng(0)
    x, velocity, target = (random.standard_normal((TOTAL, WIDTH)).astype(np.float32) for _ in range(3))
    guided = guide(target, prefix_weights("linear", 3, 7, TOTAL), 10.0)(x, velocity, 0.4, -0.1)
    assert np.array_equal(guided[7:], velocity[7:])
    assert np.all(guided[:7] != velocity[:7])


def test_padding_holds_the_last_action_and_never_zero() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    assert hold_last(rows, 4).tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert hold_last(rows, 1).tolist() == [[1, 2]]
    with pytest.raises(BundleError, match="no actions"):
        hold_last(rows[:0], 4)


# --- the delay ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "expected"), [(0, 1), (1, 2), (49, 2), (50, 2), (51, 3), (100, 3), (-50, 0), (-1000, 0)]
)
def test_the_delay_counts_what_is_due_and_what_is_on_its_way(read: int, expected: int) -> None:
    assert consumed_actions(1000, 1000 + read, PERIOD) == expected


def test_the_lookahead_is_part_of_the_delay() -> None:
    rtc = RealTimeChunking(RtcConfig(), period_ns=PERIOD, lookahead_ns=90)
    accept(rtc, None, numbered(1000), t0=1000, arrival=1000)
    assert planned(rtc, 1200, 1310).delay == 5  # reads at 1400: 1200, 1250, ... 1400


# --- what is continued ----------------------------------------------------------------------


def test_the_old_chunk_from_the_observation_on() -> None:
    """An observation off the grid belongs to the action before it."""
    continuation = planned(after_one_chunk(), 1217, 1360)
    assert continuation.t_obs_ns == 1200
    assert continuation.left == TOTAL - 4
    assert continuation.target[: TOTAL - 4, 0].tolist() == list(range(24, 40))
    assert set(continuation.target[TOTAL - 4 :, 0].tolist()) == {39.0}, "held, not zero"
    assert continuation.delay == 5
    assert continuation.weights.tolist() == prefix_weights("linear", 5, 10, TOTAL).tolist()


def test_the_horizon_is_clipped_to_what_is_left() -> None:
    continuation = planned(after_one_chunk(), 1850, 1900)
    assert continuation.left == 3
    assert continuation.weights[:3].tolist() == [1.0, 1.0, 0.5]
    assert not continuation.weights[3:].any()
    half = planned(after_one_chunk(horizon=10), 1700, 1750)
    assert half.left == 6
    assert half.weights.tolist() == prefix_weights("linear", 2, 6, TOTAL).tolist()


def test_by_default_all_that_is_left_counts() -> None:
    rtc = RealTimeChunking(RtcConfig(), period_ns=PERIOD, lookahead_ns=0)
    accept(rtc, None, numbered(1000), t0=1000, arrival=1000)
    assert planned(rtc, 1200, 1400).weights.tolist() == prefix_weights("exp", 5, 16, TOTAL).tolist()


def test_a_delay_beyond_the_horizon_is_covered_all_the_same() -> None:
    """Where the seam will be, the new chunk has to agree, however short the horizon."""
    continuation = planned(after_one_chunk(horizon=3), 1100, 1400)
    assert continuation.delay == 7
    assert continuation.weights.tolist() == [1.0] * 7 + [0.0] * (TOTAL - 7)


def test_the_schedule_and_the_weight_are_the_configured_ones() -> None:
    continuation = planned(after_one_chunk(schedule="ones", horizon=6, max_weight=5.0), 1100, 1100)
    assert continuation.weights.tolist() == [1.0] * 6 + [0.0] * (TOTAL - 6)
    x, velocity = np.zeros((TOTAL, WIDTH), np.float32), np.zeros((TOTAL, WIDTH), np.float32)
    assert continuation.guidance(x, velocity, 1.0, -0.1)[0, 0] == pytest.approx(-5.0 * 22)


def test_an_observation_before_the_first_action_continues_that_one() -> None:
    """A cold chunk is anchored at its arrival: the next observation may be a period older."""
    rtc = chunking()
    accept(rtc, None, numbered(1050), t0=1050, arrival=1010)
    continuation = planned(rtc, 1020, 1100)
    assert continuation.target[:4, 0].tolist() == [21, 21, 22, 23]
    assert continuation.left == TOTAL + 1


def test_what_the_arm_has_read_stays_in_the_next_continuation() -> None:
    """The queue keeps old actions up to the read point, so the chunk after the next continues these."""
    rtc = after_one_chunk()
    continuation = planned(rtc, 1200, 1300)
    new = numbered(1200) + 100
    accept(rtc, continuation, new, t0=1200, arrival=1310)
    following = planned(rtc, 1250, 1400)
    assert following.target[:5, 0].tolist() == [25, 26, 27, 128, 129]


# --- when there is nothing to continue ------------------------------------------------------


def nothing(rtc: RealTimeChunking, cause: str, **options: object) -> None:
    asked = {"context": "task", "t_obs_ns": 1200, "arrival_ns": 1300, "cold": False} | options
    context = asked.pop("context")
    before = rtc.counts.unguided[cause]
    assert rtc.plan(context, **asked) is None  # type: ignore[arg-type]
    assert rtc.counts.unguided[cause] == before + 1
    assert rtc.counts.guided == 0


def test_the_first_chunk_continues_nothing() -> None:
    nothing(chunking(), "cold", cold=True)
    nothing(chunking(), "cold")


def test_a_cold_start_continues_nothing_though_an_old_chunk_reaches_so_far() -> None:
    """After an underrun the arm rests elsewhere than the old chunk says."""
    nothing(after_one_chunk(), "cold", cold=True)


def test_another_task_or_engagement_continues_nothing() -> None:
    rtc = after_one_chunk()
    nothing(rtc, "changed", context="another task")
    accept(rtc, None, numbered(1200), t0=1200, arrival=1250, context="another task")
    nothing(rtc, "changed", t_obs_ns=1300)
    assert rtc.plan("another task", t_obs_ns=1300, arrival_ns=1400, cold=False) is not None


def test_a_chunk_that_has_run_out_continues_nothing() -> None:
    last = 1000 + (TOTAL - 1) * PERIOD
    assert planned(after_one_chunk(), last, last + 10).left == 1
    nothing(after_one_chunk(), "elapsed", t_obs_ns=last + PERIOD, arrival_ns=last + 100)


def test_after_a_rejection_the_accepted_chunk_goes_on() -> None:
    rtc = after_one_chunk()
    rejected = planned(rtc, 1200, 1300)
    accept(rtc, rejected, numbered(1200) + 50, t0=None, arrival=1300)
    again = planned(rtc, 1400, 1500)
    assert again.target[0, 0] == 28
    assert again.left == TOTAL - 8
    assert rtc.counts.guided == 2


# --- status ---------------------------------------------------------------------------------


def test_the_distance_is_that_of_the_joints_over_what_was_read() -> None:
    rtc = after_one_chunk()
    continuation = planned(rtc, 1200, 1240)
    assert continuation.delay == 2
    new = numbered(1200)
    new[:4, 0] += 3.0
    new[:4, JOINTS:] += 1000.0  # no joints: padding of the policy
    new[4:] += 1000.0
    accept(rtc, continuation, new, t0=None, arrival=1310)
    assert rtc.counts.consumed == 4
    assert rtc.counts.underestimated == 1
    assert list(rtc.counts.prefix_rms) == pytest.approx([3.0 / math.sqrt(2)])
    assert rtc.counts.prefix_rms_quantile(0.5) == pytest.approx(3.0 / math.sqrt(2))
    accept(rtc, continuation, new, t0=None, arrival=1240)
    assert rtc.counts.underestimated == 1


def test_a_chunk_that_is_not_finite_does_not_spoil_the_distance() -> None:
    rtc = after_one_chunk()
    accept(rtc, planned(rtc, 1200, 1240), numbered(1200) * np.float32(np.nan), t0=None, arrival=1310)
    assert rtc.counts.consumed == 4
    again = planned(rtc, 1400, 1440)
    assert np.isfinite(again.target).all()
    accept(rtc, again, numbered(1400) + 2, t0=1400, arrival=1510)
    assert rtc.counts.prefix_rms_quantile(0.5) == pytest.approx(2.0)
