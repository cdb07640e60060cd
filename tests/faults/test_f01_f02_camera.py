"""F01-F06: the conditions that `CameraHealth` and `FrameSkew` raise, in simulated time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlad.camera import CameraState, Frame
from vlad.camera_health import CameraFault, CameraHealth, FrameSkew, Look, look_at

MS = 1_000_000
PERIOD_NS = 33_333_333
STILL = (0.0,) * 5


class Run:
    """A camera at 30 fps, polled every 10 ms; what is not said stays as it was."""

    def __init__(self) -> None:
        self.health = CameraHealth(30.0)
        self.now_ns = 5_000_000_000
        self.good = self.bad = 0
        self.look: Look | None = None
        self.joints: tuple[float, ...] = STILL
        self.faults: frozenset[CameraFault] = frozenset()

    def poll(self, state: CameraState = CameraState.OK) -> frozenset[CameraFault]:
        self.faults = self.health.update(
            self.now_ns,
            state,
            self.look,
            good_total=self.good,
            bad_total=self.bad,
            joints_rad=self.joints,
        )
        self.now_ns += 10 * MS
        return self.faults

    def frame(
        self, fingerprint: int | None = None, mean: float = 128.0, spread: float = 40.0
    ) -> frozenset[CameraFault]:
        """One period that begins with a frame and its poll."""
        self.good += 1
        self.look = Look(self.good, self.good if fingerprint is None else fingerprint, mean, spread)
        faults = self.poll()
        self.now_ns += PERIOD_NS - 10 * MS
        return faults

    def drop(self) -> frozenset[CameraFault]:
        """One period whose frame was bad."""
        self.bad += 1
        faults = self.poll()
        self.now_ns += PERIOD_NS - 10 * MS
        return faults


def test_a_good_camera_raises_nothing() -> None:
    run = Run()
    for i in range(300):
        run.joints = (math.sin(i / 10),) * 5
        assert run.frame() == frozenset()


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize(
    ("state", "fault"),
    [(CameraState.LOST, CameraFault.LOST), (CameraState.STALLED, CameraFault.STALLED)],
    ids=["F01", "F02"],
)
def test_lost_and_stalled_hold_until_frames_flow(state: CameraState, fault: CameraFault) -> None:
    run = Run()
    run.frame()
    assert run.poll(state) == {fault}
    assert run.poll() == {fault}, "no new frame yet"
    for _ in range(4):
        assert run.frame() == {fault}
    assert run.frame() == frozenset()


def test_f01_one_stray_frame_is_no_recovery() -> None:
    run = Run()
    for _ in range(3):
        run.poll(CameraState.LOST)
        for _ in range(4):
            assert run.frame() == {CameraFault.LOST}
    run.poll(CameraState.STALLED)
    assert run.faults == {CameraFault.STALLED}, "one cause at a time"


def test_f03_a_verdict_ends_with_the_pictures() -> None:
    run = Run()
    for i in range(20):
        run.joints = (math.radians(float(i)),) * 5
        run.frame(fingerprint=1)
    assert run.faults == {CameraFault.FROZEN}
    assert run.poll(CameraState.STALLED) == {CameraFault.STALLED}
    for _ in range(5):
        run.frame(fingerprint=1)
    assert run.faults == frozenset()


def test_f01_a_camera_lost_before_its_first_frame() -> None:
    run = Run()
    assert run.poll(CameraState.LOST) == {CameraFault.LOST}


def test_f03_frozen_only_while_the_joints_move() -> None:
    run = Run()
    for _ in range(100):
        assert run.frame(fingerprint=7) == frozenset(), "nothing moves: nothing need change"
    run.joints = (0.0, 0.0, math.radians(1.9), 0.0, 0.0)
    assert run.frame(fingerprint=7) == frozenset()
    run.joints = (0.0, 0.0, math.radians(2.1), 0.0, 0.0)
    assert run.frame(fingerprint=7) == {CameraFault.FROZEN}
    run.joints = STILL
    assert run.frame(fingerprint=7) == {CameraFault.FROZEN}, "it had moved, and was not seen to"
    assert run.frame(fingerprint=8) == frozenset()


def test_f03_detected_within_its_bound() -> None:
    run = Run()
    run.frame(fingerprint=1)
    start = run.now_ns
    for i in range(100):
        run.joints = (math.radians(0.5) * i,) * 5
        if run.frame(fingerprint=2) == {CameraFault.FROZEN}:
            break
    assert run.now_ns - start <= 550 * MS


def test_f03_fourteen_equal_frames_are_not_frozen() -> None:
    run = Run()
    for i in range(200):
        run.joints = (math.radians(float(i)),) * 5
        assert run.frame(fingerprint=i // 14) == frozenset()


@pytest.mark.parametrize(("one_in", "faulty"), [(6, False), (4, True), (2, True), (1, True)])
def test_f04_bad_share_over_a_second(one_in: int, faulty: bool) -> None:
    run = Run()
    raised = False
    for i in range(90):
        faults = run.drop() if i % one_in == one_in - 1 else run.frame()
        raised |= CameraFault.BAD_FRAMES in faults
    assert raised == faulty
    for _ in range(60):
        run.frame()
    assert run.faults == frozenset()


def test_f04_a_single_bad_frame_at_the_start_is_no_share() -> None:
    run = Run()
    run.poll()
    assert run.drop() == frozenset()
    for _ in range(30):
        assert run.frame() == frozenset()


@pytest.mark.parametrize(
    ("mean", "spread"), [(3.0, 1.0), (250.0, 10.0), (90.0, 0.5)], ids=["dark", "glare", "covered"]
)
def test_f05_darkness_is_known_within_a_second(mean: float, spread: float) -> None:
    run = Run()
    for _ in range(27):
        assert run.frame(mean=mean, spread=spread) == frozenset()
    run.frame(mean=mean, spread=spread)
    assert run.frame(mean=mean, spread=spread) == {CameraFault.DARK}
    assert run.frame() == frozenset()


def test_f06_skew_drops_the_pair_and_raises_above_a_fifth() -> None:
    skew = FrameSkew(30.0)
    now = 10_000 * MS
    assert skew.together(now, [now, now - PERIOD_NS])
    for dropped in range(1, 5):
        assert not skew.fault(), f"{dropped - 1} of few"
        assert not skew.together(now, [now, now - PERIOD_NS - 1])
    assert skew.fault(), "4 of 5"
    for _ in range(15):
        skew.together(now, [now])
    assert not skew.fault(), "4 of 20"
    now += 1_001 * MS
    assert skew.together(now, [])
    assert not skew.fault()


def frame(image: np.ndarray) -> Frame:
    return Frame(1, 0, image)


def test_look_meets_every_channel_and_a_small_change() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    dark = look_at(frame(image))
    assert (dark.mean, dark.spread) == (0.0, 0.0)
    for channel in range(3):
        changed = image.copy()
        changed[100:140, 150:190, channel] = 255
        look = look_at(frame(changed))
        assert look.fingerprint != dark.fingerprint
        assert look.mean == pytest.approx(255 * 1600 / image.size, rel=0.3)
    assert look_at(frame(image.copy())).fingerprint == dark.fingerprint


@pytest.mark.parametrize("size", [(1, 1), (24, 32), (240, 320), (480, 640), (1080, 1920)])
def test_look_samples_any_size_cheaply(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    look = look_at(frame(image))
    assert abs(look.mean - image.mean()) < (10.0 if image.size > 100 else 256.0)
