"""What the flight record adds to a tick and to a push, and what the tick costs that records the loop's
own state. Figures of one tick are the medians of rounds, called from Python with and without."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.test_compute import CONFIG
from tests.conftest import sweep, sweep_policy
from vlad._native.flight import Recorder, Ring
from vlad.servo import ENGAGE, MS, MemoryArm, Servo

TICKS = 20_000
NEVER = 2**61


def engaged(state_every_ns: int | None) -> tuple[Servo, int]:
    now = 1_000_000 * MS
    servo = Servo(CONFIG, now)
    if state_every_ns is not None:
        Recorder(servo, *(Ring(memoryview(bytearray(4 << 20))) for _ in range(2)), state_every_ns)
    pose = sweep(now)[0].tolist()
    servo.adopt_memory(MemoryArm(pose, now), True, pose)
    servo.simulate(now + 50 * MS)
    servo.request(ENGAGE)
    servo.simulate(now + 70 * MS)
    now += 70 * MS
    servo.push(sweep_policy(now, np.zeros(6)), seq=1, epoch=servo.command()[0], t_obs_ns=now, cold=True,
               now_ns=now)
    return servo, now


def tick_ns(servo: Servo, now: int) -> float:
    """Mean of TICKS ticks run in C, in ns."""
    start = time.perf_counter_ns()
    servo.simulate(now + TICKS * CONFIG.period_ns)
    return (time.perf_counter_ns() - start) / TICKS


@pytest.mark.benchmark(group="flight")
def test_a_tick_with_and_without_the_record(
    benchmark: Any, figure: Callable[..., None], judge: Callable[..., None]
) -> None:
    ways = {"without": None, "with": NEVER, "a state every tick": 1}
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, every in ways.items():
            rounds[name].append(tick_ns(*engaged(every)))
    us = {name: float(np.median(times)) / 1e3 for name, times in rounds.items()}
    for name, value in us.items():
        figure(name, value, "us")
    benchmark.pedantic(lambda: tick_ns(*engaged(NEVER)), rounds=1)
    judge("flight_tick", us["with"] - us["without"])
    judge("flight_state", us["a state every tick"] - us["with"])
