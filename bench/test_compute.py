"""What one chunk and one tick cost, beside the merge of LeRobot's async client written in Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Queue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import CHUNK, PERIOD_NS, sweep, sweep_policy
from vlad.servo import ENGAGE, MS, JointLimits, MemoryArm, Servo, ServoConfig, now_ns

ROUNDS = 3000
EVERY = 5  # actions between chunks
JOINTS = (
    *(JointLimits(-1.9, 1.9) for _ in range(5)),
    JointLimits(0.0, 1.0, 1.6, 26.0, 1000.0, 400_000),
)
CONFIG = ServoConfig(JOINTS, PERIOD_NS, CHUNK, allow_non_realtime=True)
INFERENCE_NS = 100 * MS

Stats = dict[str, float]


def quantiles_us(benchmark: Any) -> Stats:
    times = np.array(benchmark.stats.stats.data) * 1e6
    p50, p99 = np.quantile(times, [0.5, 0.99], method="higher")
    return {"p50": float(p50), "p99": float(p99), "max": float(times.max())}


def shown(late: Stats) -> str:
    return f"{late['p50']:.1f} / {late['p99']:.1f} / {late['max']:.0f}"


class Engaged:
    """An engaged arm in simulated time, following the sweep, fed every EVERY actions."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000 * MS
        pose = sweep(self.now_ns)[0].tolist()
        self.servo = Servo(CONFIG, self.now_ns)
        self.servo.adopt_memory(MemoryArm(pose, self.now_ns), True, pose)
        self.run(50 * MS)
        self.servo.request(ENGAGE)
        self.run(20 * MS)
        self.epoch = self.servo.command()[0]
        self.seq = 0
        self.cold = True

    def run(self, for_ns: int) -> None:
        self.now_ns += for_ns
        self.servo.simulate(self.now_ns)

    def chunk(self) -> tuple[tuple[NDArray[np.float64]], dict[str, Any]]:
        """The arguments of the next push, which arrives EVERY actions after the last."""
        if not self.cold:
            self.run(EVERY * PERIOD_NS)
        t_obs = (self.now_ns - INFERENCE_NS) // PERIOD_NS * PERIOD_NS
        if self.cold:
            t_obs = self.now_ns // PERIOD_NS * PERIOD_NS
        self.seq += 1
        keys = {"seq": self.seq, "epoch": self.epoch, "t_obs_ns": t_obs, "now_ns": self.now_ns,
                "cold": self.cold}  # fmt: skip
        self.cold = False
        return (sweep_policy(t_obs, np.zeros(6)),), keys

    def push(self) -> None:
        actions, keys = self.chunk()
        report = self.servo.push(*actions, **keys)
        assert report["verdict"] == "accepted", report


@dataclass(slots=True)
class TimedAction:
    """One action of the client, by the step it is meant for."""

    step: int
    action: NDArray[np.float64]


class LeRobotMerge:
    """The merge of LeRobot's async client as its source describes it, on NumPy arrays: a new queue
    from the incoming chunk alone; executed steps are dropped, steps that both have become
    0.3 old + 0.7 new. No check of any kind."""

    def __init__(self) -> None:
        self.queue: Queue[TimedAction] = Queue()
        self.executed = -1

    def push(self, chunk: list[TimedAction]) -> None:
        old = {timed.step: timed.action for timed in self.queue.queue}
        merged: Queue[TimedAction] = Queue()
        for timed in chunk:
            if timed.step <= self.executed:
                continue
            if timed.step in old:
                action = 0.3 * old[timed.step] + 0.7 * timed.action
                merged.put(TimedAction(timed.step, action))
            else:
                merged.put(timed)
        self.queue = merged


def python_push_p50_us() -> float:
    """The same cadence: EVERY actions executed, then a chunk observed 3 actions before."""
    merge, times = LeRobotMerge(), []
    for i in range(ROUNDS // 3):
        while merge.executed < EVERY * i + 3 and not merge.queue.empty():
            merge.executed = merge.queue.get().step
        actions = sweep(np.arange(CHUNK) * PERIOD_NS)
        chunk = [TimedAction(EVERY * i + k, actions[k]) for k in range(CHUNK)]
        begin = time.perf_counter_ns()
        merge.push(chunk)
        times.append(time.perf_counter_ns() - begin)
    return float(np.median(times)) / 1e3


def test_push(benchmark: Any, figure: Callable[..., None], judge: Callable[..., None]) -> None:
    """The request's age is checked, 50 x 6 actions gated, merged with the old timeline, gated again
    and published. Includes the call from Python and the report as a dict."""
    arm = Engaged()
    arm.push()
    benchmark.pedantic(arm.servo.push, setup=arm.chunk, rounds=ROUNDS)
    counters = arm.servo.report()["counters"]
    assert counters["accepted"] == counters["chunks"] == ROUNDS + 1
    assert counters["covered_ticks"] > 0.99 * counters["engaged_ticks"] > 0
    took = quantiles_us(benchmark)
    figure("p50 / p99 / max us", shown(took))
    judge("push_chunk_p99", took["p99"])
    python = python_push_p50_us()
    figure("LeRobot's merge in Python, p50", python, "us")
    judge("push_chunk_vs_python", python / took["p50"])


def test_tick(benchmark: Any, figure: Callable[..., None], judge: Callable[..., None]) -> None:
    """Read, watchdog, decide, interpolate, last checks, write, publish, on an arm that is moving."""
    arm = Engaged()
    arm.push()
    ticks_per_chunk = EVERY * PERIOD_NS // CONFIG.period_ns
    done = 0

    def setup() -> tuple[tuple[int], dict[str, int]]:
        nonlocal done
        done += 1
        if done % ticks_per_chunk == 0:
            arm.push()
        arm.now_ns += CONFIG.period_ns
        return (arm.now_ns,), {}

    benchmark.pedantic(arm.servo.tick, setup=setup, rounds=ROUNDS)
    counters = arm.servo.report()["counters"]
    assert counters["covered_ticks"] > 0.9 * ROUNDS
    took = quantiles_us(benchmark)
    figure("p50 / p99 / max us", shown(took))
    judge("tick_p99", took["p99"])


def stream(servo: Servo, stopped: threading.Event) -> None:
    """Engages and keeps the queue filled in real time."""
    servo.request(ENGAGE)
    seq = 0
    while not stopped.wait(EVERY * PERIOD_NS / 1e9):
        now = now_ns()
        t_obs = now // PERIOD_NS * PERIOD_NS
        seq += 1
        servo.push(sweep_policy(t_obs, np.zeros(6)), seq=seq, epoch=servo.command()[0],
                   t_obs_ns=t_obs, cold=seq == 1, now_ns=now)  # fmt: skip


def test_tick_on_its_thread(
    benchmark: Any, figure: Callable[..., None], judge: Callable[..., None]
) -> None:
    """As the loop's own statistics count it: SCHED_FIFO, 1 kHz, while chunks arrive."""
    start = sweep(now_ns())[0].tolist()
    servo = Servo(replace(CONFIG, period_ns=1 * MS))
    servo.adopt_memory(MemoryArm(start), True, start)
    reason = servo.start(80)
    if reason:
        servo.stop()
        pytest.skip(reason)
    stopped = threading.Event()
    producer = threading.Thread(target=stream, args=(servo, stopped))
    producer.start()
    try:
        benchmark.pedantic(time.sleep, args=(5,), rounds=1)
    finally:
        stopped.set()
        producer.join()
        servo.stop()
    report = servo.report()
    counters = report["counters"]
    assert counters["accepted"] >= 10, counters
    assert counters["covered_ticks"] > 1000, counters
    took = report["compute_us"]
    figure("p50 / p99 / max us", shown(took))
    judge("tick_on_thread_p99", took["p99"])
