"""The capture stage: one thread per camera keeps its newest frame and judges its health."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import structlog

from vlad.camera import Camera, CameraState, Frame
from vlad.camera_health import CameraFault, CameraHealth, FrameSkew, look_at
from vlad.servo import MS, REACTIONS, STAGES, Servo, now_ns
from vlad.stage import Stage

POLL_NS = 4 * MS
MAX_AHEAD_NS = 1_000 * MS  # drivers stamp some 70 ms ahead (vivid); a second is no clock of ours
SEVERITY = {name: i for i, name in enumerate(REACTIONS)}
BLIND_FAULTS = (CameraFault.LOST, CameraFault.STALLED)


@dataclass(slots=True)
class Eye:
    """One camera as the rest of the daemon sees it."""

    camera: Camera
    health: CameraHealth
    frame: Frame | None = None
    previous: Frame | None = None  # the frame before it, which may match another camera's better
    hold_when_dark: bool = False
    state: CameraState = CameraState.LOST
    faults: frozenset[CameraFault] = frozenset()
    blind_since_ns: dict[CameraFault, int] = field(default_factory=dict)
    beat_ns: int = 0
    reopened: int = 0


class Capture:
    """All cameras, in the bundle's order.

    A lost or stalled camera lets committed actions finish for `max_blind_ns`; then its fault is
    held true and the watchdog stops the arm. The stage's heartbeat is that of its slowest thread.
    hold_when_dark: names of the cameras whose darkness stops the arm; the others warn.
    skewed: sets of frames that were too far apart in time, and therefore not used.
    """

    def __init__(
        self, cameras: Sequence[Camera], servo: Servo, max_blind_ns: int,
        hold_when_dark: Collection[str] = (),
    ) -> None:
        self.eyes = {
            c.name: Eye(c, CameraHealth(c.fps), hold_when_dark=c.name in hold_when_dark)
            for c in cameras
        }
        self._skew = FrameSkew(min((c.fps for c in cameras), default=1.0))
        self.skewed = 0
        self._servo = servo
        self._max_blind_ns = max_blind_ns
        self._lock = threading.Lock()
        self._held: dict[CameraFault, str] = {}  # level of vlad.servo.REACTIONS
        self._log = structlog.get_logger("vlad.capture")
        self._stage = STAGES.index("capture")

    def body(self, name: str) -> _Body:
        return _Body(self, self.eyes[name])

    def fresh(self, now: int, max_age_ns: int) -> dict[str, Frame] | None:
        """The newest frames that were captured together, one of every camera; or None when one is
        missing, older than the bound, stamped more than a second ahead, or over a period from
        another."""
        frames = self._matching()
        if frames is None or not self._skew.match(f.t_capture_ns for f in frames.values()):
            return None
        for frame in frames.values():
            if not -MAX_AHEAD_NS <= now - frame.t_capture_ns <= max_age_ns:
                return None
        return frames

    def _matching(self) -> dict[str, Frame] | None:
        """Of each camera the frame nearest to the newest one of the camera that is furthest behind:
        a camera that has just delivered does not stand beside the last picture of another."""
        kept = {name: (eye.frame, eye.previous) for name, eye in self.eyes.items()}
        behind = None
        for newest, _ in kept.values():
            if newest is None:
                return None
            behind = newest.t_capture_ns if behind is None else min(behind, newest.t_capture_ns)
        return {
            name: min((f for f in frames if f is not None),
                      key=lambda f: abs(f.t_capture_ns - (behind or 0)))
            for name, frames in kept.items()
        }

    def look(self, eye: Eye, joints: Sequence[float], now: int | None = None) -> None:
        """One poll of one camera; called by its thread only."""
        now = now_ns() if now is None else now
        frame = eye.camera.newest()
        counters = eye.camera.counters()
        state = eye.camera.state(now)
        new = frame is not None and (eye.frame is None or frame.seq != eye.frame.seq)
        seen = look_at(frame) if frame is not None and new else None
        eye.faults = eye.health.update(
            now, state, seen, good_total=counters["frames"], bad_total=counters["bad"],
            joints_rad=joints,
        )
        if state is not eye.state:
            self._log.info("camera_state", camera=eye.camera.name, state=str(state),
                           why=eye.camera.why_lost)
            eye.state = state
        if new:
            eye.previous = eye.frame
        elif frame is None:
            eye.previous = None
        eye.frame = frame
        if state is not CameraState.OK and eye.camera.reopen(now):
            eye.reopened += 1
            self._log.info("camera_reopened", camera=eye.camera.name)
        self._judge(eye, now, new)

    def _judge_skew(self, now: int, new: bool) -> bool:
        """Row 6, judged at every new frame while all cameras deliver."""
        frames = self._matching()
        if frames is None or any(e.state is not CameraState.OK for e in self.eyes.values()):
            return False  # one cause at a time
        if new and not self._skew.together(now, (f.t_capture_ns for f in frames.values())):
            self.skewed += 1
        return self._skew.fault()

    def _level(self, fault: CameraFault, eye: Eye, since: int, now: int) -> str:
        if fault is CameraFault.DARK:
            return "hold" if eye.hold_when_dark else "warn"
        blind = fault in BLIND_FAULTS and now - since < self._max_blind_ns
        return "none" if blind else "hold"

    def _judge(self, eye: Eye, now: int, new: bool) -> None:
        eye.beat_ns = now
        for fault in eye.faults:
            eye.blind_since_ns.setdefault(fault, now)
        for fault in set(eye.blind_since_ns) - eye.faults:
            del eye.blind_since_ns[fault]
        with self._lock:
            held = {CameraFault.SKEW: "hold"} if self._judge_skew(now, new) else {}
            for other in self.eyes.values():
                for fault, since in other.blind_since_ns.items():
                    level = self._level(fault, other, since, now)
                    if SEVERITY[level] > SEVERITY[held.get(fault, "none")]:
                        held[fault] = level
            for fault in {**held, **self._held}:
                if held.get(fault) != self._held.get(fault):
                    self._servo.level_fault(int(fault), held.get(fault, "none"))
            self._held = held
            oldest = min(other.beat_ns for other in self.eyes.values())
            if now - oldest < 10 * POLL_NS:
                self._servo.beat(self._stage, now)

    def close(self) -> None:
        for eye in self.eyes.values():
            eye.camera.close()


class _Body:
    """What the thread of one camera runs."""

    def __init__(self, capture: Capture, eye: Eye) -> None:
        self._capture = capture
        self._eye = eye

    def __call__(self, stage: Stage) -> None:
        servo = self._capture._servo
        while not stage.wait(POLL_NS / 1e9):
            _, answered, joints = servo.joint_state()
            self._capture.look(self._eye, tuple(joints[:-1]) if answered else ())
