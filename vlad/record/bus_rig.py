"""A live rig: the arm and the cameras of a configuration, through the servo loop that also runs a policy.

Each action is pushed as a short chunk that stays at one pose: it reaches the wire half a filter length later (85 ms),
smooth and bounded like a policy's, and when no further one comes the arm is at rest there before the chunk ends.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import structlog

from vlad.arm_link import ArmLink
from vlad.camera import open_camera
from vlad.capture import Capture
from vlad.config import Config
from vlad.daemon import MAX_BLIND_NS, SUPERVISOR_BOUND_NS, servo_config
from vlad.errors import ConfigError, DeviceError
from vlad.events import Events, describe
from vlad.faults import FAULTS
from vlad.record.follow import Follow
from vlad.record.rig import Floats, Moment, Outcome
from vlad.servo import CLEAR, ENGAGE, HOLD, MS, STAGES, WHY_BIT, Servo, now_ns
from vlad.stage import Stage
from vlad.status import WHY_TEXT

CHUNK_NS = 600 * MS  # what a chunk lasts: twice the lookahead, and a tick that is late
ENGAGE_S = 5.0
HOLD_S = 1.0
_SUPERVISOR, _EXPERT, _CAPTURE = (STAGES.index(name) for name in ("supervisor", "expert", "capture"))
_LATER = ("late", "moved", "future", "disengaged")  # verdicts of time: the next chunk may pass


class BusRig:
    """Of one thread. cameras: names of those to record, all that are configured by default.

    report: `late` counts frames that were left out because the loop or a camera was late, `waited` actions that the
    gate did not take because of their time.
    """

    robot_type = "so101_follower"
    live = True

    def __init__(self, config: Config, fps: int, cameras: Sequence[str] = ()) -> None:
        known = {camera.name: camera for camera in config.cameras}
        if strange := sorted(set(cameras) - set(known)):
            raise ConfigError(f"{config.path}: no camera {', '.join(strange)}; there are {', '.join(known)}")
        chosen = [known[name] for name in (cameras or known)]
        self.fps = fps
        self.joints = config.joints
        self.cameras = {camera.name: (camera.height, camera.width) for camera in chosen}
        self._period_ns = round(1e9 / fps)
        self._n_actions = -(-CHUNK_NS // self._period_ns) + 1
        if any(camera.fps < fps for camera in chosen):
            slow = min(chosen, key=lambda camera: camera.fps)
            raise ConfigError(f"--fps {fps}: camera {slow.name} gives {slow.fps:g} pictures a second")
        self._config = config
        self._servo = Servo(dataclasses.replace(
            servo_config(config), action_period_ns=self._period_ns, chunk_size=self._n_actions,
            aggregate="latest_only", max_frame_age_ns=MAX_BLIND_NS,
        ))  # fmt: skip
        self._link = ArmLink(config, self._servo, self._judge_calibration)
        self._capture = Capture([open_camera(camera) for camera in chosen], self._servo, MAX_BLIND_NS,
                                [camera.name for camera in chosen if camera.hold_when_dark])  # fmt: skip
        self._stages: list[Stage] = []
        self._follow = Follow(config.joints, fps)
        self._log = structlog.get_logger("vlad.record")
        self._events = Events()
        self._due_ns = 0
        self._state_ns = 0  # of the newest moment
        self._seq = 0
        self._counts = {"late": 0, "waited": 0}
        self._died = ""

    def start(self) -> None:
        """Bus, cameras, servo loop; then torque, where the arm is. Raises DeviceError."""
        self._link.connect()
        if self._link.calibration_problem:
            raise DeviceError(f"{self._config.arm.calibration} is not what the servos hold: "
                              f"{self._link.calibration_problem}; see `vlad calibrate --help`")  # fmt: skip
        for eye in self._capture.eyes.values():
            eye.camera.start()
        keys = self._config.servo
        if refused := self._servo.start(keys.priority, keys.affinity[0] if keys.affinity else -1):
            self._log.warning("not_realtime", reason=refused, allowed=keys.allow_non_realtime)
        for name in self._capture.eyes:
            self._stages.append(Stage(f"capture-{name}", self._servo, self._capture.body(name), heartbeat="capture",
                                      placement=self._config.stage.capture, on_death=self._stage_died))  # fmt: skip
        for stage in self._stages:
            stage.start()
        self._servo.bound(_CAPTURE, SUPERVISOR_BOUND_NS)
        self._wait(lambda: self._capture.fresh(now_ns(), MAX_BLIND_NS) is not None, ENGAGE_S,
                   lambda: "not every camera gives pictures")
        self._engage()

    def begin(self, episode: int) -> None:
        self._due_ns = now_ns()

    def observe(self) -> Moment:
        """Waits for the next frame's time; a time that has passed is left out and counted."""
        while True:
            self._due_ns += self._period_ns
            now = now_ns()
            if now > self._due_ns + self._period_ns:
                missed = (now - self._due_ns) // self._period_ns
                self._counts["late"] += missed
                self._due_ns += missed * self._period_ns
            time.sleep(max(0, self._due_ns - now_ns()) / 1e9)
            self._look_after()
            now = now_ns()
            frames = self._capture.fresh(now, MAX_BLIND_NS)
            t_state_ns, answered, state = self._servo.joint_state()
            if frames is None or answered != (1 << len(self.joints)) - 1 or t_state_ns <= self._state_ns:
                self._counts["late"] += 1
                continue  # a camera or servo that stays away is a fault, which `_look_after` meets
            self._state_ns = t_state_ns
            capture_ns = (t_state_ns, *(frames[name].t_capture_ns for name in self.cameras))
            pictures = {name: frames[name].image for name in self.cameras}
            return Moment(now, np.array(state), pictures, capture_ns)

    def act(self, goal: Floats | None) -> Floats:
        now = now_ns()
        self._servo.beat(_SUPERVISOR, now)
        if goal is not None:
            self._servo.beat(_EXPERT, now)
            self._push(self._follow.toward(goal))
        return self.pose

    @property
    def pose(self) -> Floats:
        return self._follow.goal.copy()

    @property
    def ready(self) -> bool:
        return self._follow.caught_up

    def outcome(self) -> Outcome | None:
        return None

    def hold(self) -> None:
        self._servo.request(HOLD)
        end = now_ns() + int(HOLD_S * 1e9)
        while now_ns() < end and self._servo.report()["mode"] in ("engaged", "stopping"):
            time.sleep(self._config.period_ns / 1e9)

    def resume(self) -> None:
        self._servo.request(CLEAR)
        self._engage()

    def report(self) -> Mapping[str, object]:
        counters = self._servo.report()["counters"]
        return {**self._counts, "limited": {name: n for name, n in self._follow.limited.items() if n},
                "overruns": counters["overruns"], "wire_limit": counters["wire_limit"],
                "wire_step": counters["wire_step"]}  # fmt: skip

    def close(self) -> None:
        """The arm holds where it is, with torque. Any time, also after a failed `start`."""
        if self._stages:
            self.hold()
        for stage in self._stages:
            stage.ask_to_stop()
        for stage in self._stages:
            stage.stop(1.5)
        self._servo.stop()
        self._capture.close()
        self._link.close()

    # --- inside ----------------------------------------------------------------------------

    def _engage(self) -> None:
        self._servo.bound(_SUPERVISOR, SUPERVISOR_BOUND_NS)
        self._servo.bound(_EXPERT, 0)  # not watched until there are goals
        self._wait(lambda: not self._servo.report()["why_not"], ENGAGE_S,
                   lambda: "; ".join(WHY_TEXT[why] for why in self._servo.report()["why_not"]))  # fmt: skip
        self._servo.request(ENGAGE)
        self._wait(lambda: self._servo.report()["mode"] == "engaged" and self._servo.report()["torque_on"], ENGAGE_S,
                   lambda: f"the arm stays {self._servo.report()['mode']}: {self._reasons()}")  # fmt: skip
        self._follow.start(self._servo.command()[3])
        self._due_ns = now_ns()
        self._servo.bound(_EXPERT, SUPERVISOR_BOUND_NS)

    def _wait(self, done: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
        end = now_ns() + int(seconds * 1e9)
        while not done():
            if now_ns() > end:
                raise DeviceError(f"the arm cannot be engaged: {why()}")
            self._servo.beat(_SUPERVISOR)
            self._link.poll(now_ns())
            time.sleep(0.01)

    def _look_after(self) -> None:
        """Raises DeviceError once the arm does not follow any more, and says why."""
        self._servo.beat(_SUPERVISOR)
        while (event := self._servo.next_event()) is not None:
            self._events.add(describe(event, tuple(joint.name for joint in self.joints)))
        report = self._servo.report()
        if self._died or report["mode"] != "engaged":
            raise DeviceError(f"the arm has stopped ({report['mode']}): {self._died or self._reasons()}")

    def _reasons(self) -> str:
        report = self._servo.report()
        named = {fault.id: fault for fault in FAULTS}
        ids = dict.fromkeys([*report["latched"], *report["active"]])
        return "; ".join(f"{named[f].title.lower()} (fault {f}, {named[f].name})" for f in ids) or "it was told to hold"

    def _push(self, action: Floats) -> None:
        now = now_ns()
        seen_ns, _, epoch, at_rest, last_due_ns, _, _, _ = self._servo.queue_view()
        cold = last_due_ns is None
        if cold and not at_rest:
            self._counts["waited"] += 1
            self._follow.start(self._servo.command()[3])
            return
        self._seq += 1
        report = self._servo.push(
            np.tile(action, (self._n_actions, 1)), seq=self._seq, epoch=epoch, t_obs_ns=seen_ns if cold else now,
            cold=cold, now_ns=now,
        )  # fmt: skip
        if report["verdict"] == "accepted":
            return
        if report["reason"] not in _LATER:
            raise DeviceError(f"the gate refuses an action: {report['reason']}: {report['value']:g}, at most "
                              f"{report['bound']:g}, joint {report['joint']}")  # fmt: skip
        self._counts["waited"] += 1

    def _judge_calibration(self) -> None:
        self._servo.refusals(WHY_BIT["calibration"] if self._link.calibration_problem else 0)

    def _stage_died(self, name: str, error: BaseException | None) -> None:
        self._died = f"the thread {name} has ended: {error or 'it returned'}"
