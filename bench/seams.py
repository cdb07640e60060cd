"""A closed loop in simulated time that records what happens where one chunk follows another.

The scheduler, the sampler, real-time chunking, gate, queue, trajectory and servo loop are the
daemon's own; the arm, the pictures and the latency are given. What the trajectory reads is taken
from a second queue of the same code that is pushed the same chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlad.action_queue import ActionQueue, Command, GateConfig
from vlad.rtc import RealTimeChunking, RtcConfig
from vlad.sampler import Sampler, SamplingPolicy
from vlad.scheduler import Request, Scheduler, SchedulerConfig, View
from vlad.servo import ENGAGE, MS, MemoryArm, Servo, ServoConfig

Array = NDArray[np.float64]
START_NS = 1_000_000 * MS
LATENCY_MS = (400.0, 0.1)  # median, and the spread of its logarithm


class Plant(Protocol):
    """An arm and the policy that looks at it. Positions in core units."""

    @property
    def policy(self) -> SamplingPolicy:
        """A GuidablePolicy too, for rtc."""

    def step(self, goal: Array, seconds: float) -> Array:
        """Drive towards `goal` [joints]; the position after that."""

    def position(self) -> Array: ...
    def observe(self) -> Any:
        """The policy's prefix of this moment."""


@dataclass(frozen=True, slots=True)
class Merge:
    """A chunk that came while the arm moved. Speeds in units/s, steps as a share of v_max / f."""

    t_ns: int
    accepted: bool
    disagreement: float  # of the chunk itself from the old actions where they are read, in steps
    jump: float  # of what the trajectory reads, in steps
    kept: int  # how many actions had been read


@dataclass(slots=True)
class Run:
    """What was recorded. goals: written, one a tick, [ticks, joints], the first a tick after t0_ns.
    actions: what was read at each point of the policy's grid, [n, joints], the first due at first_ns.
    """

    label: str
    period_ns: int
    action_ns: int
    t0_ns: int
    first_ns: int
    goals: Array
    actions: Array
    merges: list[Merge]
    reasons: dict[str, int]
    covered: float  # share of the ticks engaged that had an action to execute
    held: bool  # a fault ended it early: three chunks out of limits in ten seconds


class SeamLoop:
    """One run of a plant with an aggregate."""

    def __init__(self, plant: Plant, servo: ServoConfig, *, rtc: RtcConfig | None = None, seed: int = 0,
                 latency: tuple[float, float] = LATENCY_MS) -> None:
        self.plant = plant
        self.config = servo
        start = plant.position()
        self.now_ns = START_NS
        self.arm = MemoryArm(start.tolist(), START_NS)
        self.servo = Servo(servo, START_NS)
        self.servo.adopt_memory(self.arm, True, start.tolist())
        self.lookahead_ns = self.servo.lookahead_ns
        self.scheduler = Scheduler(
            SchedulerConfig(servo.action_period_ns, servo.chunk_size, lookahead_ns=self.lookahead_ns)
        )
        gate = GateConfig(
            servo.joints, servo.action_period_ns, servo.max_observation_age_ns, servo.max_reuse_age_ns,
            servo.clamp_permille, servo.max_cold_age_ns, servo.max_frame_age_ns, servo.max_jump,
            servo.blend_ns,
        )
        self.reader = ActionQueue(gate, servo.aggregate, self.lookahead_ns)
        self.step_limit = np.array([j.v_max for j in servo.joints]) * servo.action_period_ns / 1e9
        chunking = None
        if servo.aggregate == "rtc":
            chunking = RealTimeChunking(
                rtc or RtcConfig(), period_ns=servo.action_period_ns, lookahead_ns=self.lookahead_ns
            )
        self.sampler = Sampler(plant.policy, np.random.default_rng(seed), chunking)
        self.random = np.random.default_rng(seed)
        self.latency = latency
        self.merges: list[Merge] = []
        self.reasons: dict[str, int] = {}
        self.goals: list[Sequence[float]] = []
        self.actions: list[Array] = []
        self.grid = -1
        self.first_ns = 0
        for _ in range(5):
            self._tick()
        self.servo.request(ENGAGE)
        for _ in range(2):
            self._tick()
        assert self.servo.queue_view()[1] == "engaged"

    def _tick(self) -> None:
        self.now_ns += self.config.period_ns
        self.servo.simulate(self.now_ns)
        goal = np.array(self.servo.command()[3])
        self.arm.inject(present=self.plant.step(goal, self.config.period_ns / 1e9).tolist())
        self._read()

    def _read(self) -> None:
        """What the trajectory has read by now, at every grid point that this tick passed."""
        at = (self.now_ns + self.lookahead_ns) // self.config.action_period_ns
        if self.grid < 0:
            self.grid = at
        while self.grid < at:
            self.grid += 1
            action = self.reader.sample(self.grid * self.config.action_period_ns)
            if action is not None:
                self.first_ns = self.first_ns or self.grid * self.config.action_period_ns
                self.actions.append(action)

    def _chunk(self, request: Request) -> None:
        """From the request to the queue; the arm goes on meanwhile."""
        t_obs = self.now_ns
        t_obs -= 0 if request.cold else t_obs % self.config.action_period_ns
        actions = self.sampler.sample(
            self.plant.observe(), request, task=0, t_obs_ns=t_obs, now_ns=self.now_ns
        )
        median, spread = self.latency
        arrival = self.now_ns + round(median * np.exp(spread * self.random.standard_normal()) * MS)
        while self.now_ns < arrival:
            self._tick()
            self.goals.append(self.servo.command()[3])
        self.sampler.judged(self._push(request, t_obs, actions))

    def _push(self, request: Request, t_obs: int, actions: Array) -> Any:
        read_ns = self.now_ns + self.lookahead_ns
        before = self.reader.sample(read_ns)
        epoch, at_rest, rest_ns, goal = self.servo.command()
        keys = {"seq": request.seq, "epoch": request.epoch, "t_obs_ns": t_obs, "cold": request.cold,
                "now_ns": self.now_ns}  # fmt: skip
        report = self.servo.push(actions, **keys)
        shadow = self.reader.push_chunk(actions, command=Command(epoch, at_rest, rest_ns, goal), **keys)
        assert (shadow.verdict, shadow.reason) == (report["verdict"], report["reason"])
        self.scheduler.completed(request, self.now_ns, report["verdict"], report["reason"])
        self.servo.starve(self.scheduler.cause)
        reason = report["reason"] if report["verdict"] == "rejected" else report["verdict"]
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if not request.cold and before is not None:
            at = (read_ns - t_obs) / self.config.action_period_ns
            index = np.arange(len(actions))
            meant = np.array([np.interp(at, index, column) for column in actions.T])
            after = self.reader.sample(read_ns)
            assert after is not None
            self.merges.append(Merge(
                self.now_ns, shadow.accepted, self._steps(meant - before), self._steps(after - before),
                len(self.actions),
            ))
        return report

    def _steps(self, difference: Array) -> float:
        return float(np.max(np.abs(difference) / self.step_limit))

    def run(self, label: str, seconds: float) -> Run:
        """Engaged for so long, or until a fault holds the arm."""
        start_ns = self.now_ns
        end = start_ns + round(seconds * 1e9)
        while self.now_ns < end:
            seen_ns, mode, epoch, at_rest, last_due, _, _, _ = self.servo.queue_view()
            if mode != "engaged":
                break
            request = self.scheduler.plan(View(self.now_ns, seen_ns, epoch, at_rest, last_due))
            self.servo.starve(self.scheduler.cause)
            if request is not None:
                self._chunk(request)
                continue
            self._tick()
            self.goals.append(self.servo.command()[3])
        counters = self.servo.report()["counters"]
        return Run(
            label, self.config.period_ns, self.config.action_period_ns, start_ns, self.first_ns,
            np.array(self.goals), np.array(self.actions), self.merges, self.reasons,
            counters["covered_ticks"] / counters["engaged_ticks"], self.now_ns < end,
        )
