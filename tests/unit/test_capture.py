"""Which frames may go into an observation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from vlad.camera import Frame
from vlad.capture import Capture
from vlad.servo import MS, Servo, ServoConfig

NOW_NS = 1_000_000 * MS
IMAGE = np.zeros((2, 2, 3), np.uint8)


@pytest.fixture
def capture(servo_config: ServoConfig) -> Capture:
    cameras = [SimpleNamespace(name=name, fps=30.0) for name in ("top", "left")]
    return Capture(cameras, Servo(servo_config, NOW_NS), 250 * MS)  # type: ignore[arg-type]


def fresh(capture: Capture, *ages_ms: int | None) -> bool:
    for eye, age in zip(capture.eyes.values(), ages_ms, strict=True):
        eye.frame = None if age is None else Frame(1, NOW_NS - age * MS, IMAGE)
    return capture.fresh(NOW_NS, 67 * MS) is not None


@pytest.mark.parametrize(("ages_ms", "usable"), [
    ((10, 10), True), ((67, 40), True), ((68, 40), False), ((0, None), False),
    ((-70, -50), True), ((-1000, -970), True), ((-1001, -970), False),
    ((40, 7), True), ((40, 6), False), ((-28, 5), True), ((-70, 5), False),
])
def test_a_frame_must_be_there_not_old_not_from_the_future_and_not_alone(
    capture: Capture, ages_ms: tuple[int | None, int | None], usable: bool
) -> None:
    assert fresh(capture, *ages_ms) == usable



def test_a_camera_that_has_just_delivered_does_not_stand_beside_an_old_picture(
    capture: Capture
) -> None:
    """Of a camera that is ahead the frame before is taken, where that one matches."""
    top, left = capture.eyes.values()
    top.frame, top.previous = Frame(8, NOW_NS - 2 * MS, IMAGE), Frame(7, NOW_NS - 42 * MS, IMAGE)
    left.frame = Frame(3, NOW_NS - 40 * MS, IMAGE)
    frames = capture.fresh(NOW_NS, 67 * MS)
    assert frames is not None
    assert [f.seq for f in frames.values()] == [7, 3]
    left.previous, left.frame = left.frame, Frame(4, NOW_NS, IMAGE)
    frames = capture.fresh(NOW_NS, 67 * MS)
    assert frames is not None
    assert [f.seq for f in frames.values()] == [8, 4]
