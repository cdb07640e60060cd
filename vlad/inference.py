"""The two inference stages: vision + prefill on one thread, the action expert on another.

One request is in flight at a time. The vision stage asks the scheduler, assembles the observation
and hands the prefix over; the expert stage samples the chunk and pushes it through the gate. A
cold start or an abandoned request costs nothing but its own time: the gate judges what arrives.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from vlad.camera import Frame
from vlad.capture import Capture
from vlad.errors import BlockFailed
from vlad.faults import BY_NAME
from vlad.ladder import FULL, Rung
from vlad.load_check import LoadCheck
from vlad.rtc import RealTimeChunking, RtcConfig
from vlad.sampler import Sampler, SamplingPolicy
from vlad.scheduler import Refusal, Request, Scheduler, SchedulerConfig, View
from vlad.servo import MS, Servo, now_ns
from vlad.stage import Stage
from vlad.token_cache import Encoder, Observation, TokenCache

PLAN_NS = 4 * MS
STAGE_WINDOW = 50
STAGE_BOUND_MIN_NS = 500 * MS
INFERENCE_FAILED = BY_NAME["inference_failed"].id


class RunnablePolicy(Encoder, SamplingPolicy, Protocol):
    """What the stages call; vlad.policy.Policy is one."""

    def warm_up(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Merge:
    """How a policy's chunks become one motion. aggregate: of vlad.servo.AGGREGATES; None: as the servo loop
    was configured. coefficient: of `temporal_ensemble`. rtc: then the policy is a GuidablePolicy."""

    aggregate: str | None
    coefficient: float = 0.0
    rtc: RtcConfig | None = None


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
    measured_ns: tuple[int, ...]  # full passes
    stage_bound_ns: int
    max_frame_age_ns: int
    max_change: float = 0.0  # of a camera whose tokens are reused
    rungs_ns: Mapping[Rung, tuple[int, ...]] = field(default_factory=dict)  # passes of each rung below
    vision_ns: int = 0  # one camera's tokens
    merge: Merge | None = None  # None: as the servo loop was configured
    manifest_sha256: str = ""  # of the bundle; "" for a policy that comes from none
    signer: str | None = None  # public key, hex, whose signature was verified

    @property
    def costs_ns(self) -> dict[Rung, tuple[int, ...]]:
        """T_inference at load of every rung, the full pass first."""
        return {FULL: self.measured_ns, **self.rungs_ns}


@dataclass(frozen=True, slots=True)
class _Planned:
    """A request that was admitted, with what it is to be made from."""

    request: Request
    loaded: Loaded
    cache: TokenCache
    frames: Mapping[str, Frame]
    task: Any


@dataclass(frozen=True, slots=True)
class _Work:
    """A request on its way from the vision stage to the expert stage."""

    request: Request
    loaded: Loaded
    observation: Observation
    prefix: Any
    task: Any
    t_prefix_ns: int  # when the prefix was complete


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
    encoded: int  # cameras
    reuse_age_ns: int  # of the oldest reused tokens


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
        self._cache: TokenCache | None = None
        self.sampler: Sampler | None = None
        self.task: Any = None
        self.task_text: str | None = None
        self.records: deque[ChunkRecord] = deque(maxlen=4096)
        self.refusals: deque[tuple[int, Refusal]] = deque(maxlen=4096)  # with their time
        # Of the newest requests: admission to prefix (vision, prefill, context), prefix to arrival.
        self.stages_ns = {"prefix": deque[int](maxlen=STAGE_WINDOW), "expert": deque[int](maxlen=STAGE_WINDOW)}
        self.retries = 0  # of failed inferences, since start
        self._retrying = False

    # --- the supervisor's and the control thread's side --------------------------------------

    def install(self, loaded: Loaded, timeout_s: float = 30.0) -> Loaded | None:
        """Makes `loaded` the policy that runs; returns the former one, for its owner to close."""
        scheduler = Scheduler(loaded.scheduler)
        scheduler.latency.warm(loaded.costs_ns, loaded.vision_ns)
        cache = TokenCache(loaded.cameras, loaded.scheduler.horizon_ns, loaded.max_change)
        merge = loaded.merge or Merge(None)
        sampler = Sampler(loaded.policy, self._generator, None if merge.rtc is None else RealTimeChunking(
            merge.rtc, period_ns=scheduler.config.period_ns, lookahead_ns=self._servo.lookahead_ns
        ))  # fmt: skip
        with self._idle:
            if not self._idle.wait_for(self._nothing_in_flight, timeout_s):
                raise TimeoutError(f"an inference is still running after {timeout_s:g} s")
            former, self.loaded, self.scheduler = self.loaded, loaded, scheduler
            self._cache, self.sampler = cache, sampler
            self.task = self.task_text = None
            self._servo.policy_timing(
                loaded.scheduler.period_ns, loaded.scheduler.horizon_ns, loaded.max_frame_age_ns,
                merge.aggregate, merge.coefficient,
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
            try:
                self._inbox.put(self._observe(stage, planned))
            except Exception as error:
                self._fail(planned.request, error)

    def _plan(self) -> _Planned | None:
        with self._lock:
            loaded, cache, task = self.loaded, self._cache, self.task
            if loaded is None or self.scheduler is None or cache is None or task is None:
                return None
            now = now_ns()
            seen_ns, _, epoch, at_rest, last_due_ns, _, _, _ = self._servo.queue_view()
            frames = self._capture.fresh(now, loaded.max_frame_age_ns)
            request = self.scheduler.plan(
                View(now, seen_ns, epoch, at_rest, last_due_ns, frames is not None),
                lambda rung: cache.prerequisite(rung, now, epoch, task, frames or {}),
            )
            if epoch:
                self._servo.starve(self.scheduler.cause)
            if self.scheduler.refusal is not None:
                self.refusals.append((now, self.scheduler.refusal))
                self.scheduler.refusal = None
            if request is None or frames is None:
                return None
            return _Planned(request, loaded, cache, frames, task)

    def _observe(self, stage: Stage, planned: _Planned) -> _Work:
        request, loaded = planned.request, planned.loaded
        t_obs, _, state = self._servo.joint_state()  # the queue rounds it down to its grid
        prefix, observation = planned.cache.assemble(
            loaded.policy, request.rung, planned.frames, now_ns=request.admitted_ns,
            epoch=request.epoch, task=planned.task, t_obs_ns=t_obs, state=state, beat=stage.beat,
        )
        return _Work(request, loaded, observation, prefix, planned.task, now_ns())

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
        assert self.sampler is not None
        return self.sampler.sample(
            work.prefix, work.request, task=work.task, t_obs_ns=work.observation.t_obs_ns, now_ns=now_ns()
        )

    def _push(self, work: _Work, actions: NDArray[np.float64]) -> None:
        request, seen = work.request, work.observation
        report = self._servo.push(
            actions, seq=request.seq, epoch=request.epoch, t_obs_ns=seen.t_obs_ns,
            frame_age_ns=seen.frame_age_ns, reuse_age_ns=seen.reuse_age_ns, cold=request.cold,
        )
        arrival = report["now_ns"]
        assert self.sampler is not None
        self.sampler.judged(report)
        with self._idle:
            assert self.scheduler is not None
            self._retrying = False
            self.stages_ns["prefix"].append(work.t_prefix_ns - request.admitted_ns)
            self.stages_ns["expert"].append(arrival - work.t_prefix_ns)
            self.scheduler.completed(request, arrival, report["verdict"], report["reason"])
            self._servo.starve(self.scheduler.cause)
            self._idle.notify_all()
        record = ChunkRecord(
            request.seq, request.rung.name, request.cold, request.admitted_ns, seen.t_obs_ns, arrival,
            request.predicted_ns, request.t_execution_ns, report["verdict"], report["reason"],
            report["joint"], report["action"], report["value"], report["bound"],
            report["n_clamped"], request.encode, seen.reuse_age_ns,
        )
        self.records.append(record)
        if report["verdict"] == "accepted":
            self._log.debug("chunk", seq=request.seq, rung=request.rung.name, verdict="accepted")
        else:
            self._log.warning(
                "chunk", seq=request.seq, rung=record.rung, verdict=record.verdict, reason=record.reason,
                joint=record.joint, action=record.action, value=record.value, bound=record.bound,
                t_inference_ms=(arrival - request.admitted_ns) / MS,
            )

    def _fail(self, request: Request, error: Exception) -> None:
        """Row 8: one more try when the queue lasts for it, else the fault. A worker that is lost has
        raised its own (row 7 or 8), which lasts until another one is up."""
        lost = isinstance(error, BlockFailed) and error.kind != "error"
        with self._idle:
            again = not lost and not self._retrying and self._lasts(request)
            self._retrying = self._retrying or again  # until a chunk comes
            self.retries += again
            if self.scheduler is not None:
                self.scheduler.failed(request)
                self._servo.starve(self.scheduler.cause)
            self._idle.notify_all()
        self._log.error("inference_failed", seq=request.seq, error=f"{type(error).__name__}: {error}",
                        retried=again)
        if not again and not lost:
            self._servo.pulse_fault(INFERENCE_FAILED)

    def _lasts(self, request: Request) -> bool:
        """At rest, or actions left for longer than another inference is predicted to take."""
        now = now_ns()
        seen_ns, _, epoch, at_rest, last_due_ns, _, _, _ = self._servo.queue_view()
        if self.scheduler is None or epoch != request.epoch:
            return False
        left_ns = self.scheduler.t_execution_ns(View(now, seen_ns, epoch, at_rest, last_due_ns))
        return request.cold or self.scheduler.latency.predict_ns() < left_ns
