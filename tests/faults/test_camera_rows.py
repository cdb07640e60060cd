"""Rows 1-6 from the camera to the goals, in simulated time: the daemon's capture stage and health,
the C watchdog and servo loop; only the cameras themselves are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.conftest import sweep, sweep_policy
from tests.survival import Survival
from vlad.camera import CameraState, Frame, stalled
from vlad.capture import POLL_NS, Capture
from vlad.scheduler import SchedulerConfig
from vlad.servo import MS, ServoConfig
from vlad.simulation import Simulation

FPS = 30.0
FRAME_NS = 33_333_333
START_NS = 1_000_000 * MS
MAX_AGE_NS = 67 * MS
LIVE, BLACK = 128, 0
# Where in the period of the cameras, and of the servo loop, the fault falls.
PHASES_MS = (0, 9, 18, 27)


@dataclass
class FakeCamera:
    """Delivers a frame of its own picture every period, 5 ms after it was captured."""

    name: str
    phase_ns: int = 0
    lost: bool = False
    silent: bool = False
    bad: bool = False
    same: bool = False
    level: int = LIVE
    shift_ns: int = 0

    fps: float = FPS
    why_lost: str = "unplugged"

    def __post_init__(self) -> None:
        self.frame: Frame | None = None
        self.counts = {"frames": 0, "bad": 0}
        self.due_ns = START_NS + self.phase_ns
        self.seen_ns = 0
        self.random = np.random.default_rng(1)

    def advance(self, now_ns: int) -> None:
        while self.due_ns + 5 * MS <= now_ns:
            self.deliver(self.due_ns)
            self.due_ns += FRAME_NS

    def deliver(self, t_ns: int) -> None:
        if self.lost or self.silent:
            return
        self.seen_ns = t_ns + 5 * MS
        if self.bad:
            self.counts["bad"] += 1
            return
        self.counts["frames"] += 1
        image = self.frame.image if self.same and self.frame else self.picture()
        self.frame = Frame(self.counts["frames"], t_ns + self.shift_ns, image)

    def picture(self) -> np.ndarray:
        if self.level != LIVE:
            return np.full((48, 64, 3), self.level, np.uint8)
        return self.random.integers(60, 200, (48, 64, 3), dtype=np.uint8)

    def newest(self) -> Frame | None:
        return None if self.lost else self.frame

    def state(self, now_ns: int) -> CameraState:
        if self.lost:
            return CameraState.LOST
        behind = stalled(now_ns, START_NS, self.seen_ns, self.fps)
        return CameraState.STALLED if behind else CameraState.OK

    def reopen(self, now_ns: int) -> bool:
        return False

    def counters(self) -> dict[str, int]:
        return self.counts

    def start(self) -> None: ...

    def close(self) -> None: ...


class Rig:
    """An arm engaged and moving under two cameras; time goes on in steps of 1 ms."""

    def __init__(self, servo: ServoConfig, scheduler: SchedulerConfig) -> None:
        self.sim = Simulation(servo, scheduler, sweep_policy, lambda _: 100 * MS,
                              start_ns=START_NS, pose=tuple(sweep(START_NS)[0]))
        self.top, self.left = FakeCamera("top"), FakeCamera("left", 14 * MS)
        self.capture = Capture([self.top, self.left], self.sim.servo, 250 * MS)
        self.sim.servo.bound(0, 500 * MS, self.sim.now_ns)
        self.run(200 * MS)
        assert self.sim.engage() == "engaged"
        self.run(3_000 * MS)
        assert self.mode == "engaged" and not self.sim.servo.report()["at_rest"]
        assert self.active == [] and self.fresh

    @property
    def mode(self) -> str:
        return str(self.sim.servo.report()["mode"])

    @property
    def active(self) -> list[int]:
        return list(self.sim.servo.report()["active"])

    @property
    def fresh(self) -> bool:
        return self.capture.fresh(self.sim.now_ns, MAX_AGE_NS) is not None

    def step(self) -> None:
        now = self.sim.now_ns + MS
        for camera in (self.top, self.left):
            camera.advance(now)
        if now % POLL_NS < MS:
            joints = tuple(self.sim.servo.joint_state()[2][:-1])
            for eye in self.capture.eyes.values():
                self.capture.look(eye, joints, now)
        self.sim.run(now)

    def run(self, duration_ns: int) -> None:
        end = self.sim.now_ns + duration_ns
        while self.sim.now_ns < end:
            self.step()

    def until(self, condition: Callable[[], Any], limit_ms: int = 3_000) -> float:
        """ms until the condition holds."""
        begin = self.sim.now_ns
        while not condition():
            assert self.sim.now_ns - begin < limit_ms * MS, f"not within {limit_ms} ms"
            self.step()
        return (self.sim.now_ns - begin) / 1e6

    def rest(self, injected_ns: int) -> float:
        """ms from the fault until the goals stand still, for good."""
        self.until(lambda: self.mode == "holding")
        self.run(100 * MS)
        last = self.sim.arm.judge()["last_motion_ns"]
        self.run(500 * MS)
        assert self.sim.arm.judge()["last_motion_ns"] == last
        return float((last - injected_ns) / 1e6)


@pytest.fixture
def rig(servo_config: ServoConfig, scheduler_config: SchedulerConfig) -> Rig:
    return Rig(servo_config, scheduler_config)


def assert_clears_to_holding(rig: Rig) -> None:
    rig.until(lambda: not rig.active, 5_000)
    rig.run(500 * MS)
    assert rig.mode == "holding", "never to motion"
    assert rig.sim.servo.report()["latched"] == []


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize("phase_ms", PHASES_MS)
@pytest.mark.parametrize(("row", "what"), [(1, "lost"), (2, "silent")])
def test_a_camera_that_goes(rig: Rig, row: int, what: str, phase_ms: int, survival: Survival) -> None:
    rig.run(phase_ms * MS)
    injected_ns = rig.sim.now_ns
    setattr(rig.top, what, True)
    react_ms = rig.until(lambda: not rig.fresh)
    detected_ms = rig.until(lambda: rig.capture.eyes["top"].faults) + react_ms
    assert rig.mode == "engaged", "committed actions run on"
    rest_ms = rig.rest(injected_ns)
    assert rig.active == [row]
    survival(row, react_ms=max(react_ms, detected_ms) if row == 1 else react_ms, rest_ms=rest_ms,
             note="no new observation from then on; committed actions run on for 250 ms")
    setattr(rig.top, what, False)
    assert_clears_to_holding(rig)


@pytest.mark.fault(3)
@pytest.mark.parametrize("phase_ms", PHASES_MS)
def test_f03_one_picture_again_and_again(rig: Rig, phase_ms: int, survival: Survival) -> None:
    rig.run(phase_ms * MS)
    injected_ns = rig.sim.now_ns
    rig.top.same = True
    react_ms = rig.until(lambda: rig.mode != "engaged")
    assert rig.active == [3]
    survival(3, react_ms=react_ms, rest_ms=rig.rest(injected_ns))
    rig.top.same = False
    assert_clears_to_holding(rig)


@pytest.mark.fault(3)
def test_f03_an_arm_at_rest_need_not_change_the_picture(rig: Rig) -> None:
    rig.sim.servo.request(2)  # HOLD
    rig.until(lambda: rig.mode == "holding")
    rig.run(200 * MS)
    rig.top.same = True
    rig.run(3_000 * MS)
    assert rig.active == []


@pytest.mark.fault(4)
@pytest.mark.parametrize("phase_ms", PHASES_MS)
def test_f04_bad_frames(rig: Rig, phase_ms: int, survival: Survival) -> None:
    rig.run(phase_ms * MS)
    injected_ns = rig.sim.now_ns
    rig.top.bad = True
    react_ms = rig.until(lambda: rig.mode != "engaged")
    assert 4 in rig.active
    survival(4, react_ms=react_ms, rest_ms=rig.rest(injected_ns))
    rig.top.bad = False
    assert_clears_to_holding(rig)


@pytest.mark.fault(4)
def test_f04_one_bad_frame_in_ten_is_dropped_and_no_more(rig: Rig, survival: Survival) -> None:
    for _ in range(20):
        rig.run(9 * FRAME_NS)
        rig.top.bad = True
        rig.run(FRAME_NS)
        rig.top.bad = False
    assert rig.mode == "engaged" and rig.active == []
    assert 15 <= rig.top.counts["bad"] <= 25
    survival(4, note="10 % bad: each dropped and counted, the arm goes on")


@pytest.mark.fault(5)
@pytest.mark.parametrize("phase_ms", PHASES_MS)
@pytest.mark.parametrize("level", [BLACK, 255])
@pytest.mark.parametrize("hold", [False, True], ids=["warn", "hold"])
def test_f05_dark_or_saturated(
    rig: Rig, level: int, hold: bool, phase_ms: int, survival: Survival
) -> None:
    rig.capture.eyes["top"].hold_when_dark = hold
    rig.run(phase_ms * MS)
    injected_ns = rig.sim.now_ns
    rig.top.level = level
    react_ms = rig.until(lambda: 5 in rig.active)
    if hold:
        survival(5, react_ms=react_ms, rest_ms=rig.rest(injected_ns))
    else:
        rig.run(2_000 * MS)
        assert rig.mode == "engaged" and rig.sim.servo.report()["reaction"] in ("warn", "hold")
        survival(5, react_ms=react_ms, note="WARN: the arm goes on")
    rig.top.level = LIVE
    rig.until(lambda: not rig.active, 5_000)
    assert rig.mode == ("holding" if hold else "engaged")


@pytest.mark.fault(6)
@pytest.mark.parametrize("phase_ms", PHASES_MS)
@pytest.mark.parametrize("shift_ms", [-110, 90])
def test_f06_cameras_out_of_step(rig: Rig, shift_ms: int, phase_ms: int, survival: Survival) -> None:
    rig.run(phase_ms * MS)
    injected_ns = rig.sim.now_ns
    rig.top.shift_ns = shift_ms * MS
    rig.until(lambda: not rig.fresh)
    before = rig.sim.now_ns
    react_ms = rig.until(lambda: rig.mode != "engaged") + (before - injected_ns) / 1e6
    assert rig.active == [6]
    assert rig.capture.skewed > 0
    survival(6, react_ms=react_ms, rest_ms=rig.rest(injected_ns))
    rig.top.shift_ns = 0
    assert_clears_to_holding(rig)


@pytest.mark.fault(6)
@pytest.mark.parametrize("phase_ms", [0, 1, 10, 16, 25, 32])
def test_f06_free_running_cameras_are_in_step(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig, phase_ms: int
) -> None:
    """Whatever their phase: each frame finds one of the other camera within a period."""
    rig = Rig(replace(servo_config), scheduler_config)
    rig.left.due_ns += phase_ms * MS
    rig.run(2_000 * MS)
    assert rig.mode == "engaged" and rig.active == [] and rig.capture.skewed == 0
