"""The real scheduler, gate, queue, watchdog and servo loop in simulated time.

Nothing here is a model of them: the C code and vlad.scheduler run as in the daemon, on a clock that
is set instead of read. Only the policy's latency, its actions and the arm are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlad.scheduler import Request, Scheduler, SchedulerConfig, View
from vlad.servo import ENGAGE, MS, MemoryArm, Servo, ServoConfig

Policy = Callable[[int, NDArray[np.float64]], NDArray[np.float64]]
"""(t_obs_ns, present position [n_joints]) -> actions [n, n_joints]."""

Latency = Callable[[Request], int]
"""Request -> T_inference in ns."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One chunk as it reached the gate."""

    request: Request
    t_obs_ns: int
    t_arrival_ns: int
    verdict: str
    reason: str


class Simulation:
    """A closed loop in simulated time, deterministic for given policy, latency and start."""

    def __init__(
        self,
        servo: ServoConfig,
        scheduler: SchedulerConfig,
        policy: Policy,
        latency: Latency,
        *,
        pose: tuple[float, ...] | None = None,
        start_ns: int = 1_000_000 * MS,
        on_arrival: Callable[[Arrival], None] | None = None,
    ) -> None:
        self.now_ns = start_ns
        self.config = servo
        start = pose or tuple(0.0 for _ in servo.joints)
        self.arm = MemoryArm(start, start_ns)
        self.servo = Servo(servo, start_ns)
        self.servo.adopt_memory(self.arm, True, start)
        self.scheduler = Scheduler(scheduler)
        self._policy = policy
        self._latency = latency
        self._on_arrival = on_arrival
        self._running: tuple[Request, int, int, NDArray[np.float64]] | None = None
        self._advance(start_ns + 5 * servo.period_ns)

    def _advance(self, until_ns: int) -> None:
        self.servo.simulate(until_ns)
        self.now_ns = until_ns

    def engage(self) -> str:
        """Requests engage and lets two ticks pass; the mode after them."""
        self.servo.request(ENGAGE)
        self._advance(self.now_ns + 2 * self.config.period_ns)
        return self.servo.queue_view()[1]

    def _view(self) -> View:
        seen_ns, _, epoch, at_rest, last_due_ns, _, _, _ = self.servo.queue_view()
        return View(self.now_ns, seen_ns, epoch, at_rest, last_due_ns)

    def _begin(self, request: Request) -> None:
        t_obs = self.now_ns
        if not request.cold:  # as the queue rounds it
            t_obs = t_obs // self.config.action_period_ns * self.config.action_period_ns
        actions = self._policy(t_obs, self.servo.joint_state()[2])
        self._running = (request, t_obs, self.now_ns + self._latency(request), actions)

    def _arrive(self) -> None:
        assert self._running is not None
        request, t_obs, arrival, actions = self._running
        self._running = None
        report = self.servo.push(
            actions, seq=request.seq, epoch=request.epoch, t_obs_ns=t_obs, cold=request.cold,
            now_ns=self.now_ns,
        )
        self.scheduler.completed(request, self.now_ns, report["verdict"], report["reason"])
        self.servo.starve(self.scheduler.cause)
        if self._on_arrival is not None:
            self._on_arrival(
                Arrival(request, t_obs, arrival, report["verdict"], report["reason"])
            )

    def run(self, until_ns: int) -> None:
        """Advances to `until_ns`, planning once a servo period as the daemon does."""
        while self.now_ns < until_ns:
            if self._running is not None:
                self._advance(min(until_ns, max(self.now_ns, self._running[2])))
                if self.now_ns >= self._running[2]:
                    self._arrive()
                continue
            request = self.scheduler.plan(self._view())
            self.servo.starve(self.scheduler.cause)
            if request is not None:
                self._begin(request)
                continue
            self._advance(min(until_ns, self.now_ns + self.config.period_ns))
