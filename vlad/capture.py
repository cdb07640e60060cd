"""The capture stage: one thread per camera keeps its newest frame and judges its health."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from vlad.camera import Camera, CameraState, Frame
from vlad.camera_health import CameraFault, CameraHealth, look_at
from vlad.servo import MS, STAGES, Servo, now_ns
from vlad.stage import Stage

POLL_NS = 4 * MS
MAX_AHEAD_NS = 1_000 * MS  # drivers stamp some 70 ms ahead (vivid); a second is no clock of ours
BLIND_FAULTS = (CameraFault.LOST, CameraFault.STALLED)


@dataclass(slots=True)
class Eye:
    """One camera as the rest of the daemon sees it."""

    camera: Camera
    health: CameraHealth
    frame: Frame | None = None
    state: CameraState = CameraState.LOST
    faults: frozenset[CameraFault] = frozenset()
    blind_since_ns: dict[CameraFault, int] = field(default_factory=dict)
    beat_ns: int = 0
    reopened: int = 0


class Capture:
    """All cameras, in the bundle's order.

    A lost or stalled camera lets committed actions finish for `max_blind_ns`; then its fault is
    held true and the watchdog stops the arm. The stage's heartbeat is that of its slowest thread.
    """

    def __init__(self, cameras: Sequence[Camera], servo: Servo, max_blind_ns: int) -> None:
        self.eyes = {c.name: Eye(c, CameraHealth(c.fps)) for c in cameras}
        self._servo = servo
        self._max_blind_ns = max_blind_ns
        self._lock = threading.Lock()
        self._held: set[CameraFault] = set()
        self._log = structlog.get_logger("vlad.capture")
        self._stage = STAGES.index("capture")

    def body(self, name: str) -> _Body:
        return _Body(self, self.eyes[name])

    def fresh(self, now: int, max_age_ns: int) -> dict[str, Frame] | None:
        """The newest frame of every camera, or None when one is missing, older than the bound or
        stamped more than a second ahead."""
        frames = {}
        for name, eye in self.eyes.items():
            frame = eye.frame
            if frame is None or not -MAX_AHEAD_NS <= now - frame.t_capture_ns <= max_age_ns:
                return None
            frames[name] = frame
        return frames

    def look(self, eye: Eye, joints: Sequence[float]) -> None:
        """One poll of one camera; called by its thread only."""
        now = now_ns()
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
        eye.frame = frame
        if state is not CameraState.OK and eye.camera.reopen(now):
            eye.reopened += 1
            self._log.info("camera_reopened", camera=eye.camera.name)
        self._judge(eye, now)

    def _judge(self, eye: Eye, now: int) -> None:
        eye.beat_ns = now
        for fault in eye.faults:
            eye.blind_since_ns.setdefault(fault, now)
        for fault in set(eye.blind_since_ns) - eye.faults:
            del eye.blind_since_ns[fault]
        with self._lock:
            held = {
                fault
                for other in self.eyes.values()
                for fault, since in other.blind_since_ns.items()
                if fault not in BLIND_FAULTS or now - since >= self._max_blind_ns
            }
            for fault in held ^ self._held:
                self._servo.hold_fault(int(fault), fault in held)
            self._held = held
            oldest = min(other.beat_ns for other in self.eyes.values())
            if now - oldest < 10 * POLL_NS:
                self._servo.beat(self._stage)

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
