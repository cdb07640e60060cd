"""The two inference stages: vision + prefill on one thread, the action expert on another.

One request is in flight at a time. The vision stage asks the scheduler, assembles the observation
and hands the prefix over; the expert stage samples the chunk and pushes it through the gate. A
cold start or an abandoned request costs nothing but its own time: the gate judges what arrives.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from vlad.camera import Frame
from vlad.capture import Capture
from vlad.expert import Guidance
from vlad.faults import BY_NAME
from vlad.scheduler import LoadCheck, Request, Scheduler, SchedulerConfig, View
from vlad.servo import MS, Servo, now_ns
from vlad.stage import Stage

WARM_UP_DISCARDED = 2
WARM_UP_MEASURED = 8
PLAN_NS = 4 * MS
STAGE_BOUND_MIN_NS = 500 * MS
INFERENCE_FAILED = BY_NAME["inference_failed"].id


class RunnablePolicy(Protocol):
    """What the stages call; vlad.policy.Policy is one."""

    def warm_up(self) -> None: ...
    def encode_image(self, camera_index: int, image: NDArray[np.uint8]) -> Any: ...
    def prefill(self, tokens_by_camera: Sequence[Any], task: Any, state: Any) -> Any: ...
    def sample(
        self, prefix: Any, *, generator: np.random.Generator, steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> NDArray[np.float64]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy that is ready to run, with what it was measured to cost."""

    policy: RunnablePolicy
    name: str
    path: str
    cameras: tuple[str, ...]  # configured names, in the policy's order
    tasks: tuple[str, ...]
    scheduler: SchedulerConfig
    check: LoadCheck
    measured_ns: tuple[int, ...]
    stage_bound_ns: int
    max_frame_age_ns: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What a prefix was made from. t_obs_ns: of the arm's state, not yet on the queue's grid. Ages
    are t_obs - t_capture: of the oldest fresh frame, of the oldest reused tokens (0: none reused)."""

    t_obs_ns: int
    frame_age_ns: int
    reuse_age_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    """A request on its way from the vision stage to the expert stage."""

    request: Request
    loaded: Loaded
    observation: Observation
    prefix: Any


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One completed request, for `events`, the report and the plot. Times in ns."""

    seq: int
    rung: str
    cold: bool
    t_request_ns: int
    t_obs_ns: int
    t_arrival_ns: int
    predicted_ns: int
    t_execution_ns: int
    verdict: str
    reason: str
    joint: int
    action: int
    value: float
    bound: float
    n_clamped: int


def measure(policy: RunnablePolicy, frames: Sequence[NDArray[np.uint8]], task: Any,
            state: NDArray[np.float64]) -> tuple[int, ...]:
    """T_inference of whole passes, in ns: 2 discarded, 8 measured."""
    generator = np.random.default_rng(0)
    times = []
    for _ in range(WARM_UP_DISCARDED + WARM_UP_MEASURED):
        start = now_ns()
        tokens = [policy.encode_image(i, frame) for i, frame in enumerate(frames)]
        policy.sample(policy.prefill(tokens, task, state), generator=generator)
        times.append(now_ns() - start)
    return tuple(times[WARM_UP_DISCARDED:])


class Inference:
    """Shared by both stages. `install` swaps the policy while no request is in flight."""

    def __init__(self, servo: Servo, capture: Capture, *, seed: int | None = None) -> None:
        self._servo = servo
        self._capture = capture
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._inbox: queue.Queue[_Work] = queue.Queue(maxsize=1)
        self._generator = np.random.default_rng(seed)
        self._log = structlog.get_logger("vlad.inference")
        self.loaded: Loaded | None = None
        self.scheduler: Scheduler | None = None
        self.task: Any = None
        self.task_text: str | None = None
        self.records: deque[ChunkRecord] = deque(maxlen=4096)

    # --- the supervisor's and the control thread's side --------------------------------------

    def install(self, loaded: Loaded, timeout_s: float = 30.0) -> Loaded | None:
        """Makes `loaded` the policy that runs; returns the former one, for its owner to close."""
        scheduler = Scheduler(loaded.scheduler)
        scheduler.latency.warm(list(loaded.measured_ns))
        with self._idle:
            if not self._idle.wait_for(self._nothing_in_flight, timeout_s):
                raise TimeoutError(f"an inference is still running after {timeout_s:g} s")
            former, self.loaded, self.scheduler = self.loaded, loaded, scheduler
            self.task = self.task_text = None
            self._servo.policy_timing(
                loaded.scheduler.period_ns, loaded.scheduler.horizon_ns, loaded.max_frame_age_ns
            )
        return former

    def choose_task(self, text: str, task: Any) -> None:
        with self._lock:
            self.task, self.task_text = task, text

    def _nothing_in_flight(self) -> bool:
        return self.scheduler is None or self.scheduler.in_flight is None

    # --- vision stage ------------------------------------------------------------------------

    def vision_body(self, stage: Stage) -> None:
        while not stage.wait(PLAN_NS / 1e9):
            stage.beat()
            planned = self._plan()
            if planned is None:
                continue
            request, loaded, frames, task = planned
            try:
                self._inbox.put(self._observe(stage, request, loaded, frames, task))
            except Exception as error:
                self._fail(request, error)

    def _plan(self) -> tuple[Request, Loaded, dict[str, Frame], Any] | None:
        with self._lock:
            if self.loaded is None or self.scheduler is None or self.task is None:
                return None
            now = now_ns()
            seen_ns, _, epoch, at_rest, last_due_ns, _, _, _ = self._servo.queue_view()
            frames = self._capture.fresh(now, self.loaded.max_frame_age_ns)
            request = self.scheduler.plan(
                View(now, seen_ns, epoch, at_rest, last_due_ns, frames is not None)
            )
            if epoch:
                self._servo.starve(self.scheduler.cause)
            if request is None or frames is None:
                return None
            return request, self.loaded, frames, self.task

    def _observe(self, stage: Stage, request: Request, loaded: Loaded, frames: dict[str, Frame],
                 task: Any) -> _Work:
        t_obs, _, state = self._servo.joint_state()  # the queue rounds it down to its grid
        age = max(t_obs - frames[name].t_capture_ns for name in loaded.cameras)
        tokens = []
        for index, name in enumerate(loaded.cameras):
            tokens.append(loaded.policy.encode_image(index, frames[name].image))
            stage.beat()
        prefix = loaded.policy.prefill(tokens, task, state)
        return _Work(request, loaded, Observation(t_obs, age), prefix)

    # --- expert stage ------------------------------------------------------------------------

    def expert_body(self, stage: Stage) -> None:
        while not stage.stopping:
            stage.beat()
            try:
                work = self._inbox.get(timeout=0.05)
            except queue.Empty:
                continue
            try:
                self._push(work, self._sample(work))
            except Exception as error:
                self._fail(work.request, error)

    def _sample(self, work: _Work) -> NDArray[np.float64]:
        """The chunk of a request: the one place where the sampler's options are chosen."""
        return work.loaded.policy.sample(
            work.prefix, generator=self._generator, steps=work.request.rung.steps, guidance=None
        )

    def _push(self, work: _Work, actions: NDArray[np.float64]) -> None:
        request, seen = work.request, work.observation
        report = self._servo.push(
            actions, seq=request.seq, epoch=request.epoch, t_obs_ns=seen.t_obs_ns,
            frame_age_ns=seen.frame_age_ns, reuse_age_ns=seen.reuse_age_ns, cold=request.cold,
        )
        arrival = report["now_ns"]
        with self._idle:
            assert self.scheduler is not None
            self.scheduler.completed(request, arrival, report["verdict"], report["reason"])
            self._servo.starve(self.scheduler.cause)
            self._idle.notify_all()
        record = ChunkRecord(
            request.seq, request.rung.name, request.cold, request.admitted_ns, seen.t_obs_ns, arrival,
            request.predicted_ns, request.t_execution_ns, report["verdict"], report["reason"],
            report["joint"], report["action"], report["value"], report["bound"],
            report["n_clamped"],
        )
        self.records.append(record)
        if report["verdict"] == "accepted":
            self._log.debug("chunk", seq=request.seq, verdict="accepted")
        else:
            self._log.warning(
                "chunk", seq=request.seq, verdict=record.verdict, reason=record.reason,
                joint=record.joint, action=record.action, value=record.value, bound=record.bound,
                t_inference_ms=(arrival - request.admitted_ns) / MS,
            )

    def _fail(self, request: Request, error: Exception) -> None:
        self._log.error("inference_failed", seq=request.seq, error=f"{type(error).__name__}: {error}")
        self._servo.pulse_fault(INFERENCE_FAILED)
        with self._idle:
            if self.scheduler is not None:
                self.scheduler.failed(request)
                self._servo.starve(self.scheduler.cause)
            self._idle.notify_all()
