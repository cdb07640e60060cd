"""When to ask the policy for the next chunk: the hard T_inference < T_execution check.

Pure: time comes in, decisions go out, so the same code runs in the daemon and in simulated hours.
The definitions are those of ARCHITECTURE.md ("Time and the gate"):

- T_inference: from the assembly of a request to the chunk visible in the queue.
- T_execution: due time of the last queued action + 1/f - now; 0 when the queue is empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from vlad.ladder import FULL, NOTHING_TO_REUSE, Prerequisite, Rung, Vision
from vlad.latency import LatencyWindow

AUTO_LEAST = 0.7  # of a chunk: figures in docs/ladder.md


class Starve(IntEnum):
    """Why an engaged arm has nothing to execute (csrc/servo_loop.h, enum vlad_starve)."""

    COLD = 0
    INFERENCE = 1
    REFUSED = 2
    LATE = 3
    STALE = 4
    GATE = 5
    STAGE = 6
    SYNC = 7


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What the scheduler is told.

    period_ns: 1/f of the policy. chunk_size: N actions. threshold: "auto", or a share q of N.
    lookahead_ns: how far ahead of now the servo loop reads the queue (it brakes over twice that
    before the last action). quantile, window: of the latency prediction. safety: factor on the
    load-time measurement. ladder: the rungs below the full pass, best first; cameras: the policy's.
    every_step: a threshold of "auto" asks at every action's time, for an ensemble of as many chunks
    as there can be.
    """

    period_ns: int
    chunk_size: int
    mode: str = "async"  # "async" | "sync"
    threshold: str | float = "auto"
    lookahead_ns: int = 0
    quantile: float = 0.95
    window: int = 50
    safety: float = 1.2
    ladder: tuple[Rung, ...] = ()
    cameras: int = 1
    every_step: bool = False

    @property
    def horizon_ns(self) -> int:
        """N/f, what one chunk lasts, in ns."""
        return self.chunk_size * self.period_ns


@dataclass(frozen=True, slots=True)
class View:
    """What the scheduler must know of the arm and its queue at `now_ns`."""

    now_ns: int
    seen_ns: int  # the tick this was read from: older than the last arrival = not yet seen
    epoch: int  # 0 = not engaged
    at_rest: bool
    last_due_ns: int | None  # of the last queued action of this epoch; None = empty
    observation_ready: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """Permission to run the policy once."""

    seq: int
    epoch: int
    cold: bool
    admitted_ns: int
    predicted_ns: int
    t_execution_ns: int
    rung: Rung = FULL
    encode: int = 1  # cameras


@dataclass(frozen=True, slots=True)
class Choice:
    """A rung that can be taken: the cameras it would encode, and when its chunk is expected."""

    rung: Rung
    encode: int
    predicted_ns: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no request was made although one was due: T_inference predicted of each rung that could be
    taken, and what the others lacked."""

    t_execution_ns: int
    predicted_ns: Mapping[str, int]
    lacking: Mapping[str, str]


@dataclass(slots=True)
class RungCounts:
    """Of one rung. too_slow, skipped (by what it lacked): when a request took one further down, or
    none could be made."""

    requests: int = 0
    too_slow: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class SchedulerCounts:
    requests: int = 0
    cold_starts: int = 0
    refused_admissions: int = 0  # predicted T_inference >= T_execution on every rung
    tight: int = 0  # the fastest rung was taken, because none was sure to arrive before braking
    completed: int = 0
    failed: int = 0
    abandoned: int = 0  # finished after the engagement had ended
    verdicts: Counter[str] = field(default_factory=Counter)
    rungs: dict[str, RungCounts] = field(default_factory=dict)


class Scheduler:
    """One request in flight at most; not thread-safe: owned by the stage that assembles requests."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.rungs = (FULL, *config.ladder)
        self.latency = LatencyWindow(config.window, config.quantile, config.cameras)
        self.counts = SchedulerCounts(rungs={rung.name: RungCounts() for rung in self.rungs})
        self.cause = Starve.COLD
        self.refusal: Refusal | None = None  # the last, until whoever tells of it takes it away
        self._in_flight: Request | None = None
        self._seq = 0
        self._epoch = 0
        self._refused_since_last = False
        self._arrival_ns = 0

    # --- at admission ----------------------------------------------------------------------

    def threshold_ns(self) -> int:
        """The queue length, in time, at which a request is due."""
        c = self.config
        if not isinstance(c.threshold, str):
            return round(c.threshold * c.horizon_ns)
        # Twice the prediction, so that one doubling of the latency is absorbed; the braking
        # distance; and the grid's rounding at both ends; and of a fast policy AUTO_LEAST of a chunk,
        # so that what stalls the machine for a moment does not stop the arm. Where all that is more
        # than a chunk lasts, full passes cannot follow one another without a gap: then just in
        # time, because a chunk that is observed early ends early.
        predicted, ends = self.latency.predict_ns(), 2 * c.lookahead_ns + 2 * c.period_ns
        if 2 * predicted + ends <= c.horizon_ns:
            if c.every_step:
                # A period after the newest chunk's observation, and half of one for the age of the arm's
                # state, which must not be rounded down to the same step again.
                return c.horizon_ns - c.period_ns - c.period_ns // 2
            return max(2 * predicted + ends, round(AUTO_LEAST * c.horizon_ns))
        return min(predicted + predicted // 10 + ends, c.horizon_ns)

    def t_execution_ns(self, view: View) -> int:
        if view.last_due_ns is None or view.last_due_ns <= view.now_ns:
            return 0
        return view.last_due_ns + self.config.period_ns - view.now_ns

    def plan(
        self, view: View, prerequisite: Callable[[Rung], Prerequisite] | None = None
    ) -> Request | None:
        """A request to start now, or None; `cause` then says what a starving arm waits for.

        prerequisite: whether a rung that reuses tokens can be taken; without it none can.
        """
        if view.epoch != self._epoch:
            self._epoch = view.epoch
            self.cause = Starve.COLD
            self._refused_since_last = False
        if view.epoch == 0 or self._in_flight is not None or view.seen_ns <= self._arrival_ns:
            return None
        t_execution = self.t_execution_ns(view)
        if t_execution == 0:
            if not view.at_rest:
                return None  # braking: the cause of the drain stands
            if not view.observation_ready:
                self.cause = Starve.STAGE
                return None
            full = Choice(FULL, self.config.cameras, self.latency.predict_ns())
            return self._admit(view, full, t_execution_ns=0)
        if self.config.mode == "sync":
            self.cause = Starve.SYNC
            return None
        if t_execution > self.threshold_ns():
            return None
        if not view.observation_ready:
            self.cause = Starve.STAGE
            return None
        choice = self._best_rung(t_execution, prerequisite)
        if choice is None:
            self.cause = Starve.REFUSED
            return None
        return self._admit(view, choice, t_execution_ns=t_execution)

    def _best_rung(
        self, t_execution_ns: int, prerequisite: Callable[[Rung], Prerequisite] | None
    ) -> Choice | None:
        """The first rung that can be taken and is expected before the arm brakes. Where there is
        none, the fastest, if it is expected before the queue is empty; else, because refusing is a
        stop for certain, the one that is likely to arrive before the arm brakes."""
        brake_ns = 2 * self.config.lookahead_ns + self.config.period_ns
        lacking: dict[Rung, str] = {}
        able: list[Choice] = []
        for rung in self.rungs:
            way = self._way(rung, prerequisite)
            if way.lacking:
                lacking[rung] = way.lacking
                continue
            choice = Choice(rung, way.encode, self.latency.predict_ns(rung, way.encode))
            if choice.predicted_ns + brake_ns < t_execution_ns:
                self._count_passed(rung, lacking)
                return choice
            able.append(choice)
        tight = min(able, key=lambda c: c.predicted_ns)  # the full pass lacks nothing
        if tight.predicted_ns >= t_execution_ns:
            likely = [replace(c, predicted_ns=self.latency.likely_ns(c.rung, c.encode)) for c in able]
            tight = min(likely, key=lambda c: c.predicted_ns)
            if tight.predicted_ns + brake_ns >= t_execution_ns:
                self._refuse(t_execution_ns, able, lacking)
                return None
        self._count_passed(tight.rung, lacking)
        self.counts.tight += 1
        return tight

    def _refuse(self, t_execution_ns: int, able: list[Choice], lacking: dict[Rung, str]) -> None:
        if self._refused_since_last:
            return  # told and counted once, not once a tick
        self._refused_since_last = True
        self._count_passed(None, lacking)
        self.counts.refused_admissions += 1
        expected = {c.rung.name: c.predicted_ns for c in able}
        self.refusal = Refusal(t_execution_ns, expected, {r.name: why for r, why in lacking.items()})

    def _count_passed(self, taken: Rung | None, lacking: dict[Rung, str]) -> None:
        """The rungs above the one taken; all of them when None was."""
        for rung in self.rungs:
            if rung is taken:
                return
            counts = self.counts.rungs[rung.name]
            if rung in lacking:
                counts.skipped[lacking[rung]] += 1
            else:
                counts.too_slow += 1

    def _way(
        self, rung: Rung, prerequisite: Callable[[Rung], Prerequisite] | None
    ) -> Prerequisite:
        if rung.vision is Vision.ALL:
            return Prerequisite(self.config.cameras)
        return Prerequisite(lacking=NOTHING_TO_REUSE) if prerequisite is None else prerequisite(rung)

    def _admit(self, view: View, choice: Choice, *, t_execution_ns: int) -> Request:
        cold = t_execution_ns == 0
        self._seq += 1
        self._refused_since_last = False
        self.counts.requests += 1
        self.counts.cold_starts += cold
        self.counts.rungs[choice.rung.name].requests += 1
        if not cold:
            self.cause = Starve.INFERENCE
        elif self.config.mode == "sync" and self.counts.completed:
            self.cause = Starve.SYNC
        elif self.cause is Starve.INFERENCE:
            self.cause = Starve.COLD
        self._in_flight = Request(
            self._seq, view.epoch, cold, view.now_ns, choice.predicted_ns, t_execution_ns,
            choice.rung, choice.encode,
        )
        return self._in_flight

    # --- at arrival ------------------------------------------------------------------------

    def completed(self, request: Request, arrival_ns: int, verdict: str, reason: str) -> None:
        """An inference ended and its chunk was judged; `reason` is the gate's when rejected."""
        self._in_flight = None
        self._arrival_ns = arrival_ns
        self.latency.add(arrival_ns - request.admitted_ns, request.rung, request.encode)
        outcome = reason if verdict == "rejected" else verdict
        self.counts.completed += 1
        self.counts.verdicts[outcome] += 1
        self.counts.rungs[request.rung.name].verdicts[outcome] += 1
        if verdict != "rejected":
            return
        if reason == "disengaged":
            self.counts.abandoned += 1
        elif reason == "late":
            self.cause = Starve.LATE
        elif reason in ("stale", "frame_age"):
            self.cause = Starve.STALE
        else:
            self.cause = Starve.GATE

    def failed(self, request: Request) -> None:
        """The inference raised or its inputs were gone: nothing to learn about latency."""
        self._in_flight = None
        self.counts.failed += 1
        self.cause = Starve.STAGE

    @property
    def in_flight(self) -> Request | None:
        return self._in_flight
