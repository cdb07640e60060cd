"""The daemon: builds the stages, starts them, supervises, stops. The only file that knows all parts.

Threads: the servo loop and the control socket (C), one per camera, vision, expert, control, the log
writer, and the supervisor, which is the main thread. ARCHITECTURE.md lists owners and clocks.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

import vlad
from vlad import hang, notify, own_process
from vlad.arm_link import ArmLink
from vlad.aside import run_aside
from vlad.block_workers import workers_of
from vlad.calibration_file import CalibrationFile
from vlad.camera import open_camera
from vlad.capture import Capture
from vlad.config import Config
from vlad.disk import Disk
from vlad.errors import Refused, VladError
from vlad.events import Events, chunk_event, describe, refusal_event
from vlad.faults import BY_NAME
from vlad.flight import FlightRecorder
from vlad.flight_file import About, about_servo
from vlad.hang import HangWatch
from vlad.inference import Inference, Loaded
from vlad.ladder import FULL
from vlad.memory_pressure import MemoryPressure
from vlad.policy_loading import PolicyFactory, load, onnx_policy
from vlad.progress import Progress
from vlad.servo import (
    CLEAR,
    DEG,
    ENGAGE,
    HOLD,
    LIMP,
    MS,
    PARK,
    RESUME,
    STAGES,
    WHY_BIT,
    JointLimits,
    Servo,
    ServoConfig,
    now_ns,
)
from vlad.stage import THREAD_DIED, Stage
from vlad.status import compose, scheduler_figures, why_not_engageable
from vlad.surroundings import Surroundings
from vlad.throttling import Throttling

SUPERVISE_S = 0.02
MAX_BLIND_NS = 250 * MS
DEFAULT_RATE_HZ, DEFAULT_CHUNK, DEFAULT_AGGREGATE = 30, 50, "rtc"  # until a bundle says otherwise
SUPERVISOR_BOUND_NS = 500 * MS
SERVO_BOUND_NS = 500 * MS  # of its ticks, for systemd's watchdog
REQUEST_TIMEOUT_S = 1.0
PARK_S = 9.0  # from the signal; row 30 promises rest within 10 s
STAGES_STOP_NS = 1_500 * MS  # all of them together
STALLED_NS = 250 * MS  # half of what holds the arm
PYTHON_STALLED = BY_NAME["python_stalled"].id
POLICY_STUCK = BY_NAME["policy_stuck"].id


def servo_config(config: Config) -> ServoConfig:
    """The servo loop's configuration from the file's."""
    return ServoConfig(
        joints=tuple(
            JointLimits(j.min, j.max, j.v_max, j.a_max, j.j_max, j.unit_nu, j.gripper)
            for j in config.joints
        ),
        action_period_ns=round(1e9 / DEFAULT_RATE_HZ),
        chunk_size=DEFAULT_CHUNK,
        period_ns=config.period_ns,
        aggregate=DEFAULT_AGGREGATE if config.policy.aggregate == "auto" else config.policy.aggregate,
        clamp_permille=config.servo.clamp_permille,
        max_jump=config.policy.max_jump_deg * DEG,
        read_budget_ns=round(config.servo.read_budget_ms * MS),
        silent_ns=round(config.servo.silent_ms * MS),
        overrun_hold_ns=round(config.servo.overrun_hold_ms * MS),
        rest_pose=config.rest_pose,
        park_permille=round(1000 * config.arm.park_speed),
        allow_non_realtime=config.servo.allow_non_realtime,
        supply_mv=round(1000 * (config.arm.supply_v or 0)),
        following_limit=config.arm.following_limit_rad,
    )


def rungs_ms(loaded: Loaded) -> dict[str, float]:
    """The greatest T_inference of each rung of the ladder at load, the full pass first."""
    return {rung.name: round(max(ns) / MS, 3) for rung, ns in loaded.costs_ns.items()}


def written_directories() -> list[str]:
    """Where vlad writes: systemd's RuntimeDirectory, with what vlad-safe-stop needs to know."""
    return [d for d in os.environ.get("RUNTIME_DIRECTORY", "").split(":") if d]


@dataclasses.dataclass(frozen=True, slots=True)
class Previous:
    """The bundle that ran before the one that runs."""

    name: str
    path: str
    manifest_sha256: str


class Daemon:
    """One arm, its cameras and its policy. `run()` blocks until stopped and returns an exit status.

    policy_factory: how a bundle becomes a runnable policy; tests inject slow and broken ones.
    """

    def __init__(
        self,
        config: Config,
        *,
        mode: str | None = None,
        policy_factory: PolicyFactory = onnx_policy,
        log_counters: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.config = config
        self.servo = Servo(servo_config(config))
        self.joint_names = tuple(j.name for j in config.joints)
        self.flight = self._flight()
        self.events = Events(self.flight.event)
        self.link = ArmLink(config, self.servo, self._refresh_refusals)
        self.calibration_file = CalibrationFile(
            config.arm.calibration, config.joints, lambda: self.link.calibration_problem)
        board = config.board
        self.memory = MemoryPressure(
            board.memory_pressure, board.memory_cgroup, board.memory_warn_percent / 100)
        self.throttling = Throttling(board.thermal_zone, board.throttle_c, board.critical_c)
        self.disk = Disk([*written_directories(), *self.flight.directories], log_counters)
        self.surroundings = Surroundings(
            self.servo, {"memory": self.memory, "throttling": self.throttling, "disk": self.disk})
        self.files = Surroundings(
            self.servo, {"calibration": self.calibration_file}, look=self.disk.look)
        policy = config.policy
        self.progress = Progress(self.joint_names, policy.episode_timeout_s, policy.no_progress_s)
        self.capture = Capture(
            [open_camera(c) for c in config.cameras], self.servo, MAX_BLIND_NS,
            [c.name for c in config.cameras if c.hold_when_dark],
        )
        self.inference = Inference(self.servo, self.capture, seed=config.policy.seed)
        self.exit_status = 0
        self.started_ns = now_ns()
        self.socket_fresh: Callable[[int], bool] = lambda now: True  # Control.fresh, once there is one
        self.previous: Previous | None = None  # what `rollback` loads
        self._mode = mode
        self._factory = policy_factory
        self._log_counters = log_counters
        self._log = structlog.get_logger("vlad.daemon")
        self._stop = threading.Event()
        self._stopping = False
        self._stages: list[Stage] = []
        self._bounds_ns: dict[str, int] = {}
        self._hang = HangWatch()
        self._details: dict[str, str] = {}
        self._load_lock = threading.Lock()
        self._refusals_lock = threading.Lock()
        self._notify = notify.Notifier()

    def _flight(self) -> FlightRecorder:
        config = self.config
        about = About(
            version=vlad.__version__, board=config.board.profile, joints=self.joint_names,
            servo=about_servo(servo_config(config)),
            config=config.path.read_text("utf-8", "replace") if config.path.is_file() else "",
        )
        return FlightRecorder(
            config.flight, self.servo, about, memory=Path(str(config.flight.memory)),
            period_ns=config.period_ns,
            frames=lambda: {name: eye.frame for name, eye in self.capture.eyes.items()},
            figures=lambda: scheduler_figures(self.servo.report(), self.inference),
        )

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Bus, cameras, threads and the configured policy. Raises VladError when one is not there; returns
        early when it is to stop."""
        self.flight.start()
        self.link.connect()
        for eye in self.capture.eyes.values():
            eye.camera.start()
        refused = self.servo.start(
            self.config.servo.priority,
            self.config.servo.affinity[0] if self.config.servo.affinity else -1,
        )
        if refused:
            self._details["realtime"] = f"not real time: {refused}"
            self._log.warning("not_realtime", reason=refused,
                              allowed=self.config.servo.allow_non_realtime)
        stage = self.config.stage
        for name in self.capture.eyes:
            self._stages.append(self._stage(f"capture-{name}", "capture", stage.capture,
                                            self.capture.body(name)))
        self._stages.append(
            self._stage("vision", "vision", stage.vision, self.inference.vision_body))
        self._stages.append(
            self._stage("expert", "expert", stage.expert, self.inference.expert_body))
        for name, watched in (("surroundings", self.surroundings), ("files", self.files)):
            self._stages.append(self._stage(name, None, None, watched.body))
        for thread in self._stages:
            thread.start()
        if self.capture.eyes:
            self._bound("capture", stage.capture.bound_ms, SUPERVISOR_BOUND_NS)
        self._bound("supervisor", stage.supervisor.bound_ms, SUPERVISOR_BOUND_NS)
        self._bound("servo", None, SERVO_BOUND_NS)
        self._refresh_refusals()
        if self.config.policy.bundle is not None:
            bundle = str(self.config.policy.bundle)
            if not run_aside(lambda: self.load(bundle), self._pause):
                self._log.warning("stopped_while_loading", bundle=bundle)

    def _stage(self, name: str, heartbeat: str | None, placement: Any,
               body: Callable[[Stage], None]) -> Stage:
        return Stage(name, self.servo, body, heartbeat=heartbeat, placement=placement,
                     on_death=self._stage_died)

    def _bound(self, stage: str, configured_ms: float | None, default_ns: int) -> None:
        bound_ns = round(configured_ms * MS) if configured_ms else default_ns
        self._bounds_ns[stage] = bound_ns
        self.servo.bound(STAGES.index(stage), bound_ns)

    def thread_died(self, args: threading.ExceptHookArgs) -> None:
        """threading.excepthook: a thread that is no stage, of the control socket or the log, is missed
        like one."""
        if args.exc_type is SystemExit:
            return
        self.servo.hold_fault(THREAD_DIED, True)
        self._stage_died(args.thread.name if args.thread else "unknown", args.exc_value)

    def _stage_died(self, name: str, error: BaseException | None) -> None:
        """Fault 26: the arm holds; then the process ends, so that systemd starts it anew."""
        self.events.add({"t_ns": now_ns(), "event": "stage_died", "stage": name,
                         "error": f"{type(error).__name__}: {error}" if error else "returned"})
        self.exit_status = 1
        self._stop.set()

    def run(self) -> int:
        """Supervises until SIGTERM, SIGINT, `stop()` or the death of a stage."""
        if not self._stop.is_set():
            self._notify.ready(f"{self.config.board.profile}: ready")
        try:
            asleep_ns = now_ns()
            while not self._stop.wait(SUPERVISE_S):
                self._check_stalled(now_ns() - asleep_ns)
                self.supervise()
                asleep_ns = now_ns()
        except Exception as error:
            self.servo.hold_fault(THREAD_DIED, True)
            self._log.exception("supervisor_died")
            self._stage_died("supervisor", error)
        self.shut_down()
        return self.exit_status

    def _pause(self) -> bool:
        """A round of supervision while a bundle is loaded at the start; True when it is to stop."""
        self.supervise()
        return self._stop.wait(SUPERVISE_S)

    def stop(self) -> None:
        self._stop.set()

    def stop_on_signals(self) -> None:
        """SIGTERM and SIGINT end `run()`. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())

    def supervise(self) -> None:
        """One round: heartbeat, events, bus, refusals, systemd's watchdog."""
        now = now_ns()
        self.servo.beat(STAGES.index("supervisor"), now)
        self._drain_events()
        self.link.poll(now)
        self._refresh_refusals()
        self._judge_progress(now)
        self._check_hung(now)
        stages = all(s.alive for s in self._stages)
        if self.servo.all_fresh(now) and stages and self.socket_fresh(now):
            self._notify.watchdog(now)

    def _drain_events(self) -> None:
        while (event := self.servo.next_event()) is not None:
            self.events.add(describe(event, self.joint_names))
        while self.inference.refusals:
            self.events.add(refusal_event(*self.inference.refusals.popleft()))
        while self.inference.records:
            record = self.inference.records.popleft()
            self.events.add(chunk_event(record, self.joint_names))
            if record.rung == FULL.name:
                self.throttling.inference(record.t_arrival_ns - record.t_request_ns)

    def _check_stalled(self, slept_ns: int) -> None:
        """Row 27: the interpreter, or a processor for it, was not to be had. Only this thread notices."""
        if slept_ns > STALLED_NS:
            self.servo.pulse_fault(PYTHON_STALLED)
            self.events.add({"t_ns": now_ns(), "event": "stall", "duration_ms": slept_ns / MS})

    def _check_hung(self, now: int) -> None:
        """Row 7: the process ends when a block that runs in it does not return."""
        beats = {s.name: s.beat_ns for s in self._stages if s.name in ("vision", "expert")}
        if stage := self._hang.stuck(now, beats, self._bounds_ns):
            self.events.add({"t_ns": now, "event": "abort", "stage": stage})
            self._log.critical("inference_hung_in_process", stage=stage, advice="worker = true in [block.*]")
            hang.abort()

    def _judge_progress(self, now: int) -> None:
        _, mode, _, _, _, depth, _, _ = self.servo.queue_view()
        level = self.progress.feed(now, mode == "engaged", depth > 0, self.servo.command()[3])
        self.servo.level_fault(POLICY_STUCK, level)

    def _refresh_refusals(self) -> None:
        """Any thread. Under a lock, so that no older view is published after a newer one."""
        with self._refusals_lock:
            self.servo.refusals(sum(WHY_BIT[name] for name in self._refusals()))

    def _refusals(self) -> set[str]:
        loaded = self.inference.loaded
        why = set()
        if self._stopping:
            why.add("stopping")
        if loaded is None:
            why.add("no_policy")
        else:
            if self.inference.task is None:
                why.add("no_task")
            if not loaded.check.fits:
                why.add("too_slow")
                self._details["too_slow"] = f"too slow for async: {loaded.check.reason}"
            if self.capture.fresh(now_ns(), loaded.max_frame_age_ns) is None:
                why.add("camera")
        if problem := self._calibration_problem():
            why.add("calibration")
            self._details["calibration"] = problem
        if self.memory.problem:
            why.add("memory")
            self._details["memory"] = f"memory is short: {self.memory.problem}"
        return why

    def _calibration_problem(self) -> str:
        return "; ".join(filter(None, (self.link.calibration_problem, self.calibration_file.problem)))

    def shut_down(self) -> None:
        """HOLD; PARK only where a rest pose is configured; torque stays on unless parked. Within 12 s,
        whatever hangs: systemd kills after 15."""
        self._stopping = True
        self._notify.stopping()
        self._refresh_refusals()
        self.servo.request(HOLD)
        begin_ns = now_ns()
        self._wait(lambda r: r["mode"] not in ("engaged", "stopping"), 1.0)
        report = self.servo.report()
        if self.config.rest_pose is not None and report["torque_on"] and not report["latched"]:
            self.servo.request(PARK)
            time.sleep(3 * self.config.period_ns / 1e9)
            left_s = PARK_S - (now_ns() - begin_ns) / 1e9
            if not self._wait(lambda r: not r["parking"] and r["mode"] != "stopping", left_s):
                self._log.warning("park_unfinished", after_s=PARK_S)
                self.servo.request(HOLD)  # where it is, with torque
                self._wait(lambda r: r["mode"] not in ("engaged", "stopping"), 0.5)
        self._drain_events()
        for stage in self._stages:
            stage.ask_to_stop()
        stages_end_ns = now_ns() + STAGES_STOP_NS
        hung = [s.name for s in self._stages if not s.stop(max(0.0, (stages_end_ns - now_ns()) / 1e9))]
        if hung:
            self._log.warning("stages_hung", stages=hung)
        self.servo.stop()
        self._drain_events()
        self.flight.stop()
        self.capture.close()
        self.link.close()
        if self.inference.loaded is not None and not hung:
            self.inference.loaded.policy.close()

    def _wait(self, done: Callable[[dict[str, Any]], bool], seconds: float) -> bool:
        """Waits for the servo loop, as the supervisor while it shuts down; False after `seconds`."""
        end = now_ns() + int(seconds * 1e9)
        while now_ns() < end:
            if done(self.servo.report()):
                return True
            time.sleep(self.config.period_ns / 1e9)
            if self._stopping:
                self.servo.beat(STAGES.index("supervisor"))
        return False

    # --- verbs of the control socket (vlad.control.Operations) -------------------------------

    def status(self) -> dict[str, Any]:
        return compose(
            self.servo.report(), self.inference, self.capture, joints=self.config.joints,
            servo_rate_hz=self.config.servo.rate_hz, details=self._details,
            extra={
                "board": self.config.board.profile,
                "uptime_s": (now_ns() - self.started_ns) / 1e9,
                "version": vlad.__version__,
                "bus": self.link.counters(),
                "log": dict(self._log_counters()),
                "memory": self.memory.counters(),
                "thermal": self.throttling.counters(),
                "progress": self.progress.counters(),
                "problems": self.problems(),
                "flight": self.flight.status(),
                "previous_policy": self.previous and dataclasses.asdict(self.previous),
                "process": own_process.figures(),
            },
        )

    def problems(self) -> dict[str, str]:
        """What is wrong around the arm, in words, by what it concerns."""
        found = self.surroundings.problems() | self.files.problems()
        if self.link.calibration_problem:
            found["calibration"] = self._calibration_problem()
        if self.progress.problem:
            found["progress"] = self.progress.problem
        return found

    def load(self, path: str) -> dict[str, Any]:
        """A failed load keeps the policy that runs. Raises BundleError or Refused."""
        return self._load(path)

    def rollback(self) -> dict[str, Any]:
        """Loads the bundle that ran before this one, if it is still what it was; once more: back again.

        Raises as `load`."""
        former = self.previous
        if former is None:
            raise Refused("no other bundle has run since the daemon started: `vladctl load PATH`")
        try:
            return self._load(former.path, former.manifest_sha256)
        except VladError as error:
            raise Refused(f"rollback to {former.path}: {error}") from error

    def _load(self, path: str, manifest_sha256: str | None = None) -> dict[str, Any]:
        if not self._load_lock.acquire(blocking=False):
            raise Refused("another bundle is being loaded")
        try:
            if self.disk.problem:
                raise Refused(f"the disk is in trouble: {self.disk.problem}; make room first")
            if self.servo.queue_view()[1] in ("engaged", "stopping"):
                raise Refused("the arm is moving: `vladctl hold` first")
            loaded = load(path, self.config, self.servo.lookahead_ns, mode=self._mode,
                          manifest_sha256=manifest_sha256, factory=self._factory, progress=self._loading)
            try:
                if self._stop.is_set():
                    raise TimeoutError("vlad is stopping")
                self.install(loaded)
            except TimeoutError as error:
                loaded.policy.close()
                raise Refused(str(error)) from error
        finally:
            self._trim()
            self._load_lock.release()
        return {"name": loaded.name, "tasks": list(loaded.tasks), "fits": loaded.check.fits,
                "load_check": loaded.check.reason, "rungs_ms": rungs_ms(loaded)}

    def _trim(self) -> None:
        """What a policy that was replaced, or one that was refused, leaves in the heap."""
        if self.servo.queue_view()[1] not in ("engaged", "stopping") and (why := self.servo.trim_heap()):
            self._details["realtime"] = f"not real time: {why}"
            self._log.error("not_realtime", reason=why)

    def _loading(self) -> None:
        if self._stop.is_set():
            raise Refused("vlad is stopping")
        self._notify.extend_timeout(60.0)

    def install(self, loaded: Loaded) -> None:
        """Makes a policy that is ready the one that runs, and closes the former."""
        former = self.inference.install(loaded)
        self.throttling.forget_inference()
        if former is not None:
            former.policy.close()
            if former.manifest_sha256 != loaded.manifest_sha256:
                self.previous = Previous(former.name, former.path, former.manifest_sha256)
        if workers := workers_of(loaded.policy):
            workers.report_to(self.servo, self.events.add)
        stage = self.config.stage
        self._bound("vision", stage.vision.bound_ms, loaded.stage_bound_ns)
        self._bound("expert", stage.expert.bound_ms, loaded.stage_bound_ns)
        self.events.add({
            "t_ns": now_ns(), "event": "loaded", "bundle": loaded.path,
            "t_inference_ms": [round(t / MS, 3) for t in loaded.measured_ns],
            "fits": loaded.check.fits, "load_check": loaded.check.reason,
            "rungs_ms": rungs_ms(loaded), "manifest_sha256": loaded.manifest_sha256, "signer": loaded.signer,
            "previous": self.previous and self.previous.path,
        })
        if len(loaded.tasks) == 1:
            self.inference.choose_task(loaded.tasks[0], 0)
        self._refresh_refusals()

    def task(self, text: str) -> dict[str, Any]:
        """One of the bundle's tasks, or any text where the bundle holds a tokenizer."""
        loaded = self.inference.loaded
        if loaded is None:
            raise Refused("no policy is loaded: `vladctl load PATH` first")
        if text in loaded.tasks:
            task: Any = loaded.tasks.index(text)
        elif hasattr(loaded.policy, "token_ids"):
            task = loaded.policy.token_ids(text)
        else:
            raise Refused(f"the bundle knows {list(loaded.tasks)}")
        self.inference.choose_task(text, task)
        self._refresh_refusals()
        self.events.add({"t_ns": now_ns(), "event": "task", "text": text})
        return {"task": text}

    def _ask(self, request: int, done: Callable[[dict[str, Any]], bool], name: str) -> dict[str, Any]:
        before = self.servo.report()
        self.servo.request(request)
        if self._wait(lambda r: done(r) or r["handled"] > before["handled"], REQUEST_TIMEOUT_S):
            report = self.servo.report()
            if done(report):
                return {"mode": report["mode"]}
            why = why_not_engageable(report, self._details, self.joint_names)
            raise Refused(f"{name}: " + ("; ".join(why) or f"not from mode {report['mode']}"))
        raise Refused(f"{name}: the servo loop did not answer within {REQUEST_TIMEOUT_S:g} s")

    def engage(self) -> dict[str, Any]:
        self._refresh_refusals()
        return self._ask(ENGAGE, lambda r: r["mode"] == "engaged", "engage")

    def resume(self) -> dict[str, Any]:
        self._refresh_refusals()
        return self._ask(RESUME, lambda r: r["mode"] == "engaged", "resume")

    def park(self) -> dict[str, Any]:
        if self.config.rest_pose is None:
            raise Refused("park: no arm.rest_pose is configured")
        had_torque = self.servo.report()["torque_on"]
        return self._ask(
            PARK, lambda r: r["parking"] or (had_torque and not r["torque_on"]), "park")

    def hold(self) -> dict[str, Any]:
        return self._ask(HOLD, lambda r: r["mode"] != "engaged", "hold")

    def limp(self) -> dict[str, Any]:
        return self._ask(LIMP, lambda r: not r["torque_on"], "limp")

    def clear(self) -> dict[str, Any]:
        result = self._ask(CLEAR, lambda r: not r["latched"], "clear")
        return result | {"faults": self.status()["faults"]}

    def dump(self) -> dict[str, Any]:
        """Writes the flight record now."""
        return {"path": str(self.flight.dump("asked for"))}

    def version(self) -> dict[str, Any]:
        return {"version": vlad.__version__, "board": self.config.board.profile}


def run(config: Config, *, mode: str | None = None, socket: str | None = None,
        policy_factory: PolicyFactory = onnx_policy,
        log_counters: Callable[[], Mapping[str, int]] = dict) -> int:
    """Builds a daemon with its control socket and runs it. Raises VladError before READY."""
    from vlad.control import Control

    daemon = Daemon(config, mode=mode, policy_factory=policy_factory, log_counters=log_counters)
    daemon.stop_on_signals()
    control = Control(config.control, daemon, daemon.servo, path=socket)
    control.start()
    daemon.socket_fresh = control.fresh
    threading.excepthook = daemon.thread_died
    try:
        daemon.start()
    except BaseException:
        daemon.shut_down()
        control.stop()
        raise
    status = daemon.run()
    control.stop()
    return status
