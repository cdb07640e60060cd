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
    ((10, 10), True), ((67, 0), True), ((68, 0), False), ((0, None), False),
    ((-70, 5), True), ((-1000, 5), True), ((-1001, 5), False),
])
def test_a_frame_must_be_there_not_old_and_not_from_the_future(
    capture: Capture, ages_ms: tuple[int | None, int | None], usable: bool
) -> None:
    assert fresh(capture, *ages_ms) == usable

