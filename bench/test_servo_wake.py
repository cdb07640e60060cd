"""How late the servo thread wakes up, beside cyclictest and a Python thread in the same window."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.lateness import Cyclictest, PythonLoop, Unavailable, gil_hog
from vlad.servo import MS, JointLimits, MemoryArm, Servo, ServoConfig

PRIORITY = 80
SECONDS = 10
CONFIG = ServoConfig(
    tuple(JointLimits(-1.9, 1.9) for _ in range(6)), 33_333_333, 50, allow_non_realtime=True
)


def window(folder: Path, period_ns: int, hog: bool) -> dict[str, dict[str, float]]:
    """All three at once for SECONDS, under the hog or not. Lateness in us, by loop."""
    config = replace(CONFIG, period_ns=period_ns)
    servo = Servo(config)
    servo.adopt_memory(MemoryArm([0.0] * 6), True, [0.0] * 6)
    with ExitStack() as stack:
        cyclictest = stack.enter_context(
            closing(Cyclictest(folder, period_ns, PRIORITY, SECONDS))
        )
        if hog:
            stack.enter_context(gil_hog())
        stack.callback(servo.stop)
        reason = servo.start(PRIORITY)
        if reason:
            raise Unavailable(reason)
        python = PythonLoop(10 * MS)
        python.start()
        with closing(python):
            time.sleep(SECONDS)
        servo.stop()
        found = {"servo": servo.report()["wake_us"], "cyclictest": cyclictest.result()}
    return found | {"python": python.result()}


@pytest.mark.parametrize("load", ["idle", "gil_hog"])
@pytest.mark.parametrize("period_ms", [10, 1])
def test_wake_lateness(
    benchmark: Any,
    figure: Callable[..., None],
    judge: Callable[..., None],
    tmp_path: Path,
    *,
    period_ms: int,
    load: str,
) -> None:
    try:
        found = benchmark.pedantic(
            window, args=(tmp_path, period_ms * MS, load == "gil_hog"), rounds=1
        )
    except Unavailable as missing:
        pytest.skip(str(missing))
    for loop, late in found.items():
        name = "python at 10 ms" if loop == "python" else loop
        figure(f"{name} p50 / p99 / max us",
               f"{late['p50']:.0f} / {late['p99']:.0f} / {late['max']:.0f}")  # fmt: skip
    servo = found["servo"]
    assert servo["count"] > SECONDS * 1000 / period_ms / 2
    assert found["cyclictest"]["count"] > SECONDS * 1000 / period_ms / 2
    judge("servo_wake_vs_cyclictest", servo["p99"] / found["cyclictest"]["p99"], servo["p99"])
    if load == "gil_hog":
        judge("servo_wake_vs_python", found["python"]["p99"] / servo["p99"])
