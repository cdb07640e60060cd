"""The real scheduler, gate, queue, watchdog and servo loop in simulated time.

Nothing here is a model of them: the C code and vlad.scheduler run as in the daemon, on a clock that
is set instead of read. Only the policy's latency, its actions and the arm are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.camera import Frame
from vlad.ladder import Prerequisite, Rung
from vlad.scheduler import Request, Scheduler, SchedulerConfig, View
from vlad.servo import ENGAGE, MS, MemoryArm, Servo, ServoConfig
from vlad.token_cache import Observation, TokenCache

Policy = Callable[[int, NDArray[np.float64]], NDArray[np.float64]]
"""(t_obs_ns, present position [n_joints]) -> actions [n, n_joints]."""

Latency = Callable[[Request], int]
"""Request -> T_inference in ns, of its rung and the cameras it encodes."""

FRAME_AGE_NS = 30 * MS  # of the newest frame when a request is assembled
REUSE_CHANGE = 3.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One chunk as it reached the gate."""

    request: Request
    t_obs_ns: int
    t_arrival_ns: int
    verdict: str
    reason: str
    reuse_age_ns: int = 0


class _NoVision:
    """Stands in for the blocks before the expert: their time is in the latency."""

    def encode_image(self, camera_index: int, image: NDArray[np.uint8]) -> None: ...
    def prefill(self, tokens_by_camera: Sequence[Any], task: Any, state: Any) -> None: ...
    def refresh_state(self, prefix: Any, state: Any) -> None: ...


class Simulation:
    """A closed loop in simulated time, deterministic for given policy, latency and start.

    measured_ns, vision_ns: what each rung and one camera cost at load. scene: the brightness that
    every camera sees at a time; by default no two frames are alike. cameras: their names, as many as
    the scheduler's. planner: makes the scheduler. Of an arm, cameras or a policy of another kind,
    _advance, _frames, _infer and _judged are the places (vlad.evaluation.table).
    """

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
        measured_ns: Mapping[Rung, Sequence[int]] | None = None,
        vision_ns: int = 0,
        scene: Callable[[int], int] | None = None,
        cameras: Sequence[str] | None = None,
        reuse_change: float = REUSE_CHANGE,
        planner: Callable[[SchedulerConfig], Scheduler] = Scheduler,
    ) -> None:
        self.now_ns = start_ns
        self.config = servo
        start = pose or tuple(0.0 for _ in servo.joints)
        self.arm = MemoryArm(start, start_ns)
        self.servo = Servo(servo, start_ns)
        self.servo.adopt_memory(self.arm, True, start)
        self.scheduler = planner(scheduler)
        self.scheduler.latency.warm(measured_ns or {}, vision_ns)
        self._cameras = list(cameras or (f"camera{i}" for i in range(scheduler.cameras)))
        self._cache = TokenCache(self._cameras, scheduler.horizon_ns, reuse_change)
        self._policy = policy
        self._latency = latency
        self._scene = scene
        self._shown: tuple[int, dict[str, Frame]] = (-1, {})
        self._shots = 0
        self._on_arrival = on_arrival
        self._running: tuple[Request, Observation, int, NDArray[np.float64]] | None = None
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

    def _frames(self) -> dict[str, Frame]:
        """What the cameras show now."""
        if self._shown[0] != self.now_ns:
            self._shots += 1
            level = self._shots if self._scene is None else self._scene(self.now_ns)
            image = np.full((8, 8, 3), 4 * level % 256, dtype=np.uint8)
            frame = Frame(self._shots, self.now_ns - FRAME_AGE_NS, image)
            self._shown = self.now_ns, {name: frame for name in self._cameras}
        return self._shown[1]

    def _prerequisite(self, rung: Rung) -> Prerequisite:
        epoch = self.servo.queue_view()[2]
        return self._cache.prerequisite(rung, self.now_ns, epoch, 0, self._frames())

    def _begin(self, request: Request) -> None:
        observation, actions = self._infer(request)
        self._running = (request, observation, self.now_ns + self._latency(request), actions)

    def _infer(self, request: Request) -> tuple[Observation, NDArray[np.float64]]:
        """What the policy sees now, and its chunk [n, n_joints]."""
        t_obs = self.now_ns
        if not request.cold:  # as the queue rounds it
            t_obs = t_obs // self.config.action_period_ns * self.config.action_period_ns
        _, observation = self._cache.assemble(
            _NoVision(), request.rung, self._frames(), now_ns=self.now_ns, epoch=request.epoch, task=0,
            t_obs_ns=t_obs, state=np.zeros(0),
        )
        return observation, self._policy(t_obs, self.servo.joint_state()[2])

    def _judged(self, report: Mapping[str, Any]) -> None:
        """What the gate said to the chunk that was inferred last."""

    def _arrive(self) -> None:
        assert self._running is not None
        request, seen, arrival, actions = self._running
        self._running = None
        report = self.servo.push(
            actions, seq=request.seq, epoch=request.epoch, t_obs_ns=seen.t_obs_ns,
            frame_age_ns=seen.frame_age_ns, reuse_age_ns=seen.reuse_age_ns, cold=request.cold,
            now_ns=self.now_ns,
        )
        self._judged(report)
        self.scheduler.completed(request, self.now_ns, report["verdict"], report["reason"])
        self.servo.starve(self.scheduler.cause)
        if self._on_arrival is not None:
            self._on_arrival(
                Arrival(request, seen.t_obs_ns, arrival, report["verdict"], report["reason"],
                        seen.reuse_age_ns)
            )

    def run(self, until_ns: int) -> None:
        """Advances to `until_ns`, planning once a servo period as the daemon does."""
        while self.now_ns < until_ns:
            if self._running is not None:
                self._advance(min(until_ns, max(self.now_ns, self._running[2])))
                if self.now_ns >= self._running[2]:
                    self._arrive()
                continue
            request = self.scheduler.plan(self._view(), self._prerequisite)
            self.servo.starve(self.scheduler.cause)
            if request is not None:
                self._begin(request)
                continue
            self._advance(min(until_ns, self.now_ns + self.config.period_ns))
