"""The queue against a plain model of the merge, and what must hold whatever is pushed (I1, I6)."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from tests.property.core_strategies import MS, NU, nearest_nu
from vlad.action_queue import (
    AGGREGATES,
    ActionQueue,
    Command,
    GateConfig,
    JointLimits,
    Report,
    Timeline,
)

PERIOD = 50 * MS
OLD_TENTHS = {"weighted_average": 3, "latest_only": 0, "average": 5, "conservative": 7}
CONFIG = GateConfig(
    (JointLimits(-2, 2, 3.0), JointLimits(0, 1, 1.5)), PERIOD, 1600 * MS, 1600 * MS,
    blend_ns=200 * MS,
)  # fmt: skip
STEP = (150_000_000, 75_000_000)


@dataclass
class Model:
    """The timeline as a mapping from due time to (positions, newest observation, chunks heard)."""

    actions: dict[int, tuple[list[int], int, int]] = field(default_factory=dict)

    def merged(
        self, chunk: list[list[int]], *, t0: int, t_obs: int, now: int, tenths: int, fresh: bool,
        kept_to: int | None, coefficient: float | None,
    ) -> dict[int, tuple[list[int], int, int]]:  # fmt: skip
        old = {} if fresh else self.actions
        out = {}
        for i, new in enumerate(chunk):
            due = t0 + i * PERIOD
            if due < now:
                continue
            if kept_to is not None and due in old and due <= kept_to:
                out[due] = old[due]
            elif coefficient is not None and due in old:
                was, was_obs, heard = old[due]
                weights = [math.exp(-coefficient * i) for i in range(heard + 1)]
                gain = round(1e9 * weights[-1] / sum(weights))
                mean = [a + (b - a) * gain // 10**9 for a, b in zip(was, new, strict=True)]
                out[due] = (mean, max(was_obs, t_obs), heard + 1)
            elif kept_to is None and due in old:
                was, was_obs, _ = old[due]
                new = [  # noqa: PLW2901 - the action that this due time gets
                    (tenths * a + (10 - tenths) * b + 5) // 10
                    for a, b in zip(was, new, strict=True)
                ]
                out[due] = (new, max(was_obs, t_obs), 1)
            else:
                out[due] = (new, t_obs, 1)
        end = max(out)
        tail = {due: action for due, action in old.items() if due > end}
        if tail and all(
            abs(a - b) <= step
            for a, b, step in zip(tail[min(tail)][0], out[end][0], STEP, strict=True)
        ):
            out.update(tail)
        return out


def as_mapping(line: Timeline) -> dict[int, tuple[list[int], int, int]]:
    return {
        line.t0_ns + k * PERIOD: (line.actions_nu[k].tolist(), int(line.t_obs_ns[k]), int(line.opinions[k]))
        for k in range(len(line.actions_nu))
    }


@st.composite
def walks(draw: st.DrawFn) -> tuple[list[tuple[float, float]], int]:
    """Small steps of both joints, relative to where the chunk starts; how far that is from the old
    opinion in thousandths."""
    n = draw(st.integers(1, 40))
    unit = st.floats(-1.0, 1.0, width=32)
    jitter = draw(st.sampled_from([0.0, 0.02, 0.1]))
    drift = draw(unit) * 0.04
    steps = [(drift + jitter * draw(unit), jitter / 2 * draw(unit)) for _ in range(n)]
    return steps, draw(st.sampled_from([0, 0, 0, 20, 60, 160, 300]))


class QueueMachine(RuleBasedStateMachine):
    """A scheduler of sorts: time goes on, chunks arrive with any age, engagements end."""

    @initialize(
        aggregate=st.sampled_from(AGGREGATES), lookahead=st.sampled_from([0, 25, 90, 140]),
        coefficient=st.sampled_from([0.01, 0.0, -0.4, 1.5]),
    )  # fmt: skip
    def make(self, aggregate: str, lookahead: int, coefficient: float) -> None:
        self.lookahead = lookahead * MS
        self.coefficient = coefficient if aggregate == "temporal_ensemble" else None
        self.queue = ActionQueue(CONFIG, aggregate, self.lookahead, self.coefficient or 0.0)
        self.tenths = OLD_TENTHS.get(aggregate, 0)
        self.rtc = aggregate == "rtc"
        self.model = Model()
        self.now, self.epoch, self.seq = 10_000 * MS, 1, 0
        self.goal = [0.0, 0.5]

    @rule(ms=st.integers(0, 400))
    def wait(self, ms: int) -> None:
        self.now += ms * MS

    @rule()
    def engage_again(self) -> None:
        self.epoch += 1
        self.model = Model()

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.model = Model()

    @rule(walk=walks(), age_ms=st.integers(0, 900), cold=st.sampled_from([True, False, False]))
    def push(self, walk: tuple[list[tuple[float, float]], int], age_ms: int, cold: bool) -> None:
        steps, off = walk
        t_obs = self.now - age_ms * MS
        at = None if cold else self.queue.sample(t_obs)
        start = np.array(self.goal if at is None else at) + np.array([off / 1000, -off / 2000])
        actions = start + np.cumsum(steps, axis=0)
        actions = np.clip(actions, [-2, 0], [2, 1])
        self.seq += 1
        before = self.queue.timeline()
        self.last_due = self.queue.last_due_ns(self.epoch) or 0
        reads = self.queue.sample(self.now + self.lookahead)
        report = self.queue.push_chunk(
            actions, t_obs_ns=t_obs, now_ns=self.now, seq=self.seq, cold=cold,
            command=Command(self.epoch, True, 0, self.goal),
        )  # fmt: skip
        if report.accepted:
            self.check_accepted(actions, t_obs, cold, report, reads)
        else:
            after = self.queue.timeline()
            assert as_mapping(after) == as_mapping(before)
            assert (after.seq, after.epoch) == (before.seq, before.epoch)
            assert report.reason in ("late", "step", "jump")

    def check_accepted(
        self, actions: NDArray[np.float64], t_obs: int, cold: bool, report: Report,
        reads: NDArray[np.float64] | None,
    ) -> None:  # fmt: skip
        line = self.queue.timeline()
        assert (line.seq, line.epoch, line.period_ns) == (self.seq, self.epoch, PERIOD)
        expected = self.model.merged(
            [[nearest_nu(v) for v in row] for row in actions.tolist()],
            t0=-(-self.now // PERIOD) * PERIOD if cold else t_obs // PERIOD * PERIOD,
            t_obs=t_obs if cold else t_obs // PERIOD * PERIOD,
            now=self.now, tenths=self.tenths, fresh=cold,
            kept_to=-(-(self.now + self.lookahead) // PERIOD) * PERIOD if self.rtc else None,
            coefficient=self.coefficient,
        )  # fmt: skip
        got = as_mapping(line)
        if report.n_blended == 0:
            assert got == expected
        self.model.actions = got
        assert self.now <= line.t0_ns < self.now + PERIOD and line.t0_ns % PERIOD == 0
        assert report.n_elapsed == (
            0 if cold else (line.t0_ns - t_obs // PERIOD * PERIOD) // PERIOD
        )
        nu = line.actions_nu
        assert np.all(nu >= [-2 * NU, 0]) and np.all(nu <= [2 * NU, NU])
        assert np.all(np.abs(np.diff(nu, axis=0)) <= STEP)
        now_reads = self.queue.sample(self.now + self.lookahead)
        assert now_reads is not None
        read_ns = self.now + self.lookahead
        if self.rtc and not cold and line.t0_ns <= read_ns <= self.last_due:
            assert reads is not None
            assert now_reads.tolist() == reads.tolist()
        was = np.array(self.goal) if cold else reads
        assert was is not None
        assert np.all(np.abs(now_reads - was) <= np.array(STEP) / NU + 2e-9)

    @rule()
    def arrive(self) -> None:
        """The arm is where the timeline has led it."""
        at = self.queue.sample(self.now)
        if at is not None:
            self.goal = at.tolist()

    @invariant()
    def counts_agree(self) -> None:
        left = [due for due in self.model.actions if due >= self.now]
        assert self.queue.depth(self.now, self.epoch) == len(left)
        last = max(self.model.actions, default=None)
        assert self.queue.last_due_ns(self.epoch) == last


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@settings(max_examples=100, deadline=None)
@given(
    actions=st.lists(st.integers(-70, 70), min_size=1, max_size=20),
    t_ms=st.lists(st.integers(-100, 1300), min_size=1, max_size=30),
)
def test_sample_interpolates(actions: list[int], t_ms: list[int]) -> None:
    queue = ActionQueue(CONFIG)
    assert queue.sample(0) is None
    rows = np.column_stack([np.array(actions) / 1000, np.full(len(actions), 0.5)])
    report = queue.push_chunk(
        rows, t_obs_ns=1000 * MS, now_ns=1000 * MS, cold=True,
        command=Command(1, True, 0, rows[0].tolist()),
    )  # fmt: skip
    assert report.accepted and report.n_blended == 0
    due = 1000 * MS + PERIOD * np.arange(len(actions))
    for t in t_ms:
        at = queue.sample((1000 + t) * MS)
        assert at is not None
        assert at[0] == pytest.approx(np.interp((1000 + t) * MS, due, rows[:, 0]), abs=2e-9)
        assert at[1] == 0.5


def test_a_consumer_never_sees_half_a_chunk() -> None:
    """push_chunk releases the GIL, so producer and consumer really run side by side here."""
    queue = ActionQueue(CONFIG, "latest_only")
    command = Command(1, True, 0, [0.0, 0.5])
    done = threading.Event()
    rejected: list[Report] = []

    def produce() -> None:
        for seq in range(1, 3001):
            rows = np.tile([(seq % 100) * 1e-3, 0.5], (200, 1))
            report = queue.push_chunk(
                rows, t_obs_ns=0, now_ns=1000 * MS, seq=seq, cold=True, command=command
            )
            if not report.accepted:
                rejected.append(report)
        done.set()

    thread = threading.Thread(target=produce)
    thread.start()
    seen = [0]
    while seen[-1] < 3000:
        finished = done.is_set()
        line = queue.timeline()
        assert line.seq >= seen[-1]
        if line.seq:
            assert set(line.actions_nu[:, 0].tolist()) == {(line.seq % 100) * 1_000_000}
            assert line.actions_nu.shape == (200, 2)
        seen.append(line.seq)
        assert line.seq == 3000 or not finished
    thread.join()
    assert not rejected and len(set(seen)) > 2


def test_the_gate_cannot_be_passed_by() -> None:
    queue = ActionQueue(CONFIG)
    command = Command(1, True, 0, [0.0, 0.5])
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        report = queue.push_chunk(
            [[0.0, 0.5], [0.0, bad]], t_obs_ns=0, now_ns=0, cold=True, command=command
        )
        assert (report.joint, report.action) == (1, 1)
        assert report.reason == ("position" if bad == 1e300 else "not_finite")
    for empty in (np.zeros((0, 2)), np.zeros((2, 0)), np.zeros((257, 2)), np.zeros((2, 3))):
        report = queue.push_chunk(empty, t_obs_ns=0, now_ns=0, cold=True, command=command)
        assert report.reason == "shape"
    assert queue.sample(0) is None and queue.timeline().seq == 0
    for bad_chunk in ([0.0, 0.5], 0.0, [[[0.0]]]):
        with pytest.raises(ValueError):
            queue.push_chunk(bad_chunk, t_obs_ns=0, now_ns=0, cold=True, command=command)


@settings(max_examples=30, deadline=None)
@given(
    coefficient=st.floats(-1, 1).map(lambda c: round(c, 6)), n=st.integers(1, 24),
    seed=st.integers(0, 2**32 - 1), joined=st.lists(st.booleans(), min_size=1, max_size=40),
)
def test_an_ensemble_is_the_weighted_mean_of_all_that_was_said(
    coefficient: float, n: int, seed: int, joined: list[bool]
) -> None:
    """Whatever chunks come, and however long none does: as if all of them had been kept."""
    queue = ActionQueue(CONFIG, "temporal_ensemble", coefficient=coefficient)
    rng = np.random.default_rng(seed)
    said: dict[int, list[float]] = {}
    for step, comes in enumerate([True, *joined]):
        now = 1000 * MS + step * PERIOD
        last = queue.last_due_ns()
        if last is not None and now > last:
            break
        if not comes:
            continue
        actions = np.column_stack([rng.uniform(-0.03, 0.03, n), np.full(n, 0.5)])
        report = queue.push_chunk(
            actions, t_obs_ns=now, now_ns=now, cold=step == 0, command=Command(1, True, 0, [0.0, 0.5])
        )
        assert report.accepted and report.n_blended == 0
        for i, value in enumerate(actions[:, 0].tolist()):
            said.setdefault(now + i * PERIOD, []).append(value)
        line = queue.timeline()
        for k, (mean, heard) in enumerate(zip(line.actions[:, 0], line.opinions, strict=True)):
            all_said = said[line.t0_ns + k * PERIOD]
            weights = np.exp(-coefficient * np.arange(len(all_said)))
            assert heard == len(all_said)
            assert mean == pytest.approx(np.average(all_said, weights=weights), abs=1e-7)


def test_a_bad_queue_is_named() -> None:
    with pytest.raises(ValueError, match="weighted_average"):
        ActionQueue(CONFIG, "newest")
    with pytest.raises(ValueError, match="lookahead_ns"):
        ActionQueue(CONFIG, lookahead_ns=-1)
    with pytest.raises(ValueError, match="lookahead_ns"):
        ActionQueue(CONFIG, lookahead_ns=257 * PERIOD)
    for aggregate, coefficient in (("temporal_ensemble", 10.1), ("average", 0.01)):
        with pytest.raises(ValueError, match="coefficient = "):
            ActionQueue(CONFIG, aggregate, coefficient=coefficient)
