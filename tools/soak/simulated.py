"""One seed of the simulated soak: an hour of the real scheduler, gate, queue, watchdog and servo loop."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.soak.injections import INJECTIONS, Injection
from tools.soak.verdict import gaps_without_cause
from tools.soak.witness import Witness
from vlad.events import describe
from vlad.faults import BY_ID, BY_NAME
from vlad.scheduler import Request, SchedulerConfig
from vlad.servo import CLEAR, ENGAGE, LIMP, MS, RESUME, STAGES, WHY_BIT, JointLimits, ServoConfig
from vlad.simulation import Arrival, Simulation

PERIOD_NS, CHUNK = 33_333_333, 50
START_NS = 1_000_000 * MS
HOUR_NS = 3_600_000 * MS
JOINTS = tuple(f"joint_{j}" for j in range(1, 7))
RECOVER_MS = 120_000
END_OF_TIME = 1 << 62
REST_MS = 330  # a stop takes at most 300 ms; the wire is a tick behind, a retry another two
LYING = BY_NAME["servo_encoder"].id
# What follows from any of it: a queue that ran dry, chunks that came too old or lead too far.
ALWAYS = tuple(BY_NAME[n].id for n in
               ("queue_drained", "stale_chunk", "chunk_jump", "unexpected_initial_pose"))


class SoakFailure(Exception):
    """What a witness found."""


class SoakSimulation(Simulation):
    """With an inference that may fail and frames that may be old."""

    hour: Hour

    def _arrive(self) -> None:
        if self.hour.failing and self._running is not None:
            request = self._running[0]
            self._running = None
            self.servo.pulse_fault(BY_NAME["inference_failed"].id)
            self.scheduler.failed(request)
            self.servo.starve(self.scheduler.cause)
            return
        super()._arrive()


class _Pushes:
    """The servo as the simulation sees it: pushes carry the age of their frames."""

    def __init__(self, hour: Hour, servo: Any) -> None:
        self._hour, self._servo = hour, servo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servo, name)

    def push(self, actions: Any, **given: Any) -> Any:
        if self._hour.frame_age_ns:
            given["frame_age_ns"] = self._hour.frame_age_ns
        return self._servo.push(actions, **given)


def sweep(t_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """A smooth curve of absolute time, [n, 6] units."""
    t = np.asarray(t_ns, dtype=np.float64) / 1e9
    w = 2 * math.pi / 8
    out = 0.5 * np.sin(w * t[:, None] + np.arange(6)[None, :])
    out[:, 5] = 0.5 + 0.3 * np.sin(w * t)
    return out


class Hour:
    """Deterministic for a seed. The seed also draws what is configured: rest pose, mode, merge, bounds."""

    def __init__(self, seed: int, library: Path) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.spoil: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
        self.failing = self.torque_lost = False
        self.frame_age_ns = 0
        self.latency_ms: Callable[[], float] = lambda: rng.uniform(120, 180)
        self.stalled: set[int] = set()
        self.events: deque[dict[str, Any]] = deque(maxlen=3000)
        self.done: Counter[str] = Counter()
        self.table: dict[str, dict[str, Any]] = {}
        self.recoveries = 0
        self.max_recovery_s = 0.0
        self.chunks: Counter[str] = Counter()
        self.current = ""
        self._judged_ns = START_NS
        self._until_ns: dict[int, int] = {}
        self._lost_since_ns: int | None = None
        joints = (*(JointLimits(-1.9, 1.9) for _ in range(5)),
                  JointLimits(0.0, 1.0, 1.6, 26.0, 1000.0, 400_000))
        rest = (0.0, -0.4, 0.4, 0.0, 0.0, 0.2) if rng.random() < 0.5 else None
        self.servo_config = ServoConfig(
            joints, PERIOD_NS, CHUNK, allow_non_realtime=True, rest_pose=rest,
            aggregate=rng.choice(("weighted_average", "latest_only", "average", "conservative")),
            supply_mv=rng.choice((0, 7400)),
        )
        timing = SchedulerConfig(
            PERIOD_NS, CHUNK, mode="sync" if rng.random() < 0.1 else "async", lookahead_ns=85_000_000,
            threshold=rng.choice(("auto", "auto", 0.5)),
        )
        self.expert_bound_ns = rng.choice((500, 2_000, 12_000)) * MS
        first = sweep(np.array([START_NS]))[0]
        self.sim = SoakSimulation(self.servo_config, timing, self.policy, self._latency,
                                  start_ns=START_NS, pose=tuple(first), on_arrival=self._arrival)
        self.sim.hour = self
        self.push = _Pushes(self, self.sim.servo).push
        self.sim.servo = _Pushes(self, self.sim.servo)  # type: ignore[assignment]
        self.witness = Witness(
            library, self.sim.servo._servo, self.sim.arm, self.servo_config,  # type: ignore[attr-defined]
            rest_ns=REST_MS * MS, max_age_ns=self.servo_config.max_cold_age_ns + (CHUNK + 3) * PERIOD_NS)
        for stage in STAGES[:-1]:
            self.sim.servo.bound(STAGES.index(stage), self._bound(stage), self.sim.now_ns)
        self.witness.allow(ALWAYS)

    def _bound(self, stage: str) -> int:
        return self.expert_bound_ns if stage == "expert" else 500 * MS

    # --- the world ------------------------------------------------------------------------------

    def policy(self, t_obs_ns: int, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """From where the arm is onto the sweep, no faster than 0.8 units/s beyond it."""
        k = np.arange(CHUNK)
        target = sweep(t_obs_ns + k * PERIOD_NS)
        reach = 0.8 * (k + 1)[:, None] * PERIOD_NS / 1e9
        chunk = np.clip(target, state - reach, state + reach)
        return chunk if self.spoil is None else self.spoil(chunk)

    def _latency(self, request: Request) -> int:
        return int(self.latency_ms() * MS)

    def _arrival(self, arrival: Arrival) -> None:
        rejected = arrival.verdict == "rejected"
        self.chunks[arrival.reason if rejected else arrival.verdict] += 1
        age = arrival.t_arrival_ns - arrival.t_obs_ns
        bound = self.servo_config.max_cold_age_ns if arrival.request.cold else CHUNK * PERIOD_NS
        if not rejected and age > bound + PERIOD_NS:
            raise SoakFailure(f"a chunk {age / MS:.0f} ms old was accepted, bound {bound / MS:.0f} ms")
        self.events.append({
            "t_ns": arrival.t_arrival_ns, "event": "chunk", "cold": arrival.request.cold,
            "verdict": arrival.verdict, "reason": arrival.reason, "t_request_ns": arrival.request.admitted_ns})

    def ask(self, requests: int) -> None:
        self.sim.servo.request(requests)
        self.witness.asked(requests)
        self.done["requests"] += 1

    def late_tick(self, late_ms: int) -> None:
        """The loop wakes up late: whole periods are skipped."""
        at = self.sim.now_ns + self.servo_config.period_ns + late_ms * MS
        self._beat()
        self.sim.servo.tick(at, late_ms * MS)
        self.sim.now_ns = at
        self.after()

    def advance(self, ms: int) -> None:
        """So much simulated time in slices, with the stages' heartbeats and the supervisor's round."""
        end = self.sim.now_ns + ms * MS
        while self.sim.now_ns < end:
            self._beat()
            self._allow()
            self.sim.run(min(end, self.sim.now_ns + 50 * MS))
            self.after()

    def _beat(self) -> None:
        now = self.sim.now_ns
        in_flight = self.sim.scheduler.in_flight
        for stage in range(len(STAGES) - 1):
            if stage in self.stalled:
                continue
            # While the policy runs its stage does not beat.
            busy = STAGES[stage] == "expert" and in_flight is not None
            self.sim.servo.beat(stage, in_flight.admitted_ns if busy and in_flight else now)

    def after(self) -> None:
        """The supervisor: events out, a lost bus opened anew; and the witness's word."""
        while (event := self.sim.servo.next_event()) is not None:
            self.events.append(describe(event, JOINTS))
        if self.witness.violations:
            raise SoakFailure(f"at or after {self.current}: {self.witness.text}")
        lost = bool(self.sim.servo.queue_view()[7] & WHY_BIT["bus"])
        if not lost:
            self._lost_since_ns = None
            return
        self._lost_since_ns = self._lost_since_ns or self.sim.now_ns
        if self.sim.now_ns - self._lost_since_ns >= 500 * MS and not self.sim.servo.report()["bus_up"]:
            self._reopen()

    def _reopen(self) -> None:
        """As ArmLink does: what holds the arm is the command. Without torque that is its pose."""
        judge = self.sim.arm.judge()
        torque = judge["torque_mask"] == 0b111111 and not self.torque_lost
        self.torque_lost = False
        self._lost_since_ns = None
        try:
            self.sim.servo.adopt_memory(self.sim.arm, torque, judge["goal" if torque else "present"])
        except OSError:
            return  # the last one is not taken yet
        self.witness.touched()

    # --- the hour -------------------------------------------------------------------------------

    def run(self, hours: float) -> dict[str, Any]:
        """Raises SoakFailure."""
        end = START_NS + int(hours * HOUR_NS)
        deck: list[Injection] = []
        self.recover()
        while self.sim.now_ns < end:
            if not deck:
                deck = list(INJECTIONS)
                self.rng.shuffle(deck)
            self.one(deck.pop())
        self.recover()
        return self.result()

    def one(self, injection: Injection) -> None:
        self.advance(self.rng.randrange(20, 6000))
        wanted = [BY_NAME[n].id for n in injection.rows]
        allowed = [*wanted, *(BY_NAME[n].id for n in injection.along)]
        self._until_ns |= dict.fromkeys(allowed, END_OF_TIME)
        before = self.sim.servo.report()
        fresh = before["mode"] == "engaged" and not set(wanted) & {*before["active"], *before["latched"]}
        self._allow()
        self.current = injection.name
        self.witness.injected(self.sim.now_ns, wanted)
        injection.begin(self, self.rng)
        self.advance(self.rng.randrange(*injection.lasts_ms))
        injection.end(self, self.rng)
        self._until_ns |= dict.fromkeys(allowed, self.sim.now_ns + injection.grace_ms * MS)
        times = self.witness.times
        row = self.table.setdefault(injection.name, {
            "injected": 0, "raised": Counter(), "max_detect_ms": None, "max_stop_ms": None, "max_rest_ms": None})
        row["injected"] += 1
        if wanted and not times.raised_ns and fresh and not injection.may:
            raise SoakFailure(f"{injection.name}: none of {injection.rows} was raised")
        took = {"max_detect_ms": times.raised_ns, "max_stop_ms": times.left_ns, "max_rest_ms": times.rest_ns}
        for name, at in took.items():
            if at:
                row[name] = max(row[name] or 0.0, (at - times.injected_ns) / MS)
        if times.raised_ns:
            row["raised"][BY_ID[times.raised].name] += 1
        self.recover()
        self._judge_gaps()

    def _allow(self) -> None:
        """What may become active now: a request that was slow goes on being slow, and what the gate
        remembers of ten seconds (row 12) outlives its cause."""
        now = self.sim.now_ns
        self.witness.allow([*ALWAYS, *(f for f, until in self._until_ns.items() if until > now)])

    def recover(self) -> None:
        """Back to covered motion by what an operator may do, within two minutes."""
        began = self.sim.now_ns
        for tried in range(RECOVER_MS // 200):
            report = self.sim.servo.report()
            if report["mode"] == "engaged" and report["queue_depth"] > 0:
                self.recoveries += 1
                self.max_recovery_s = max(self.max_recovery_s, (self.sim.now_ns - began) / 1e9)
                return
            if LYING in report["latched"] and tried % 20 == 19:
                self.ask(LIMP)  # an encoder that lied is cleared without torque: FAILSAFE.md, row 23
            elif report["latched"]:
                self.ask(CLEAR)
            elif report["mode"] in ("holding", "ready") and not report["why_not"]:
                self.ask(RESUME if self.rng.random() < 0.2 else ENGAGE)
            self.advance(200)
        raise SoakFailure(f"no recovery within {RECOVER_MS / 1e3:g} s: {report['mode']}, active "
                          f"{report['active']}, latched {report['latched']}, {report['why_not']}")

    def _judge_gaps(self) -> None:
        """Of the events since the last time; the ring keeps enough before them to explain."""
        events = sorted(self.events, key=lambda e: e["t_ns"])
        recent = [e for e in events if e["event"] != "gap" or e["t_ns"] > self._judged_ns]
        self.done["gaps"] += sum(e["event"] == "gap" for e in recent)
        self._judged_ns = self.sim.now_ns
        if bad := gaps_without_cause(recent):
            raise SoakFailure(bad[0])

    def result(self) -> dict[str, Any]:
        report = self.sim.servo.report()
        counters = report["counters"]
        if counters["events_dropped"]:
            raise SoakFailure(f"{counters['events_dropped']} events were dropped")
        if counters["wire_limit"] or counters["wire_step"]:
            raise SoakFailure(f"{counters['wire_limit']} goals beyond limits and {counters['wire_step']} steps "
                              "came as far as the last check")
        return {
            **self.witness.totals(), "gaps": self.done["gaps"], "requests": self.done["requests"],
            "recoveries": self.recoveries, "max_recovery_s": self.max_recovery_s,
            "starved_by": counters["starved"], "chunks": dict(self.chunks), "table": self.table,
            "hours": (self.sim.now_ns - START_NS) / HOUR_NS,
        }
