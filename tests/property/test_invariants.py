"""Invariants I1 to I6 on the real C code: what they say is at each test, the judge is servo_program.Run.

VLAD_EXAMPLES=20000 runs longer than CI does. What is pure is covered next door: no wall clock anywhere
(I5, tests/faults/test_f32_wall_clock.py), every order of the threads (I3, I6, docs/model-check.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.servo_program import ACTION_NS, CHUNK, CONFIG, POSE, PROGRAMS, STEPS, Run
from tests.pty_servos import PtyServos
from vlad.servo import CLEAR, ENGAGE, HOLD, MODES, RESUME, MemoryArm, Servo, now_ns

EXAMPLES = int(os.environ.get("VLAD_EXAMPLES", "300"))
SLOW = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(PROGRAMS)
def test_i1_i2_i3_hold_after_every_tick(program: list[Any]) -> None:
    """I1: a written goal is inside the limits and one step from the last written one, and no limp arm
    gets any. I2: while stopping no joint speeds up or turns back, and within 300 ms all stand; a goal
    decided before the fault whose write was dropped still goes out first. I3: from a latched fault to
    motion only by `clear` and, in a later tick, `engage`."""
    Run().run(program)


@settings(SLOW, max_examples=EXAMPLES // 2)
@given(PROGRAMS, st.lists(st.tuples(st.just("back"), st.sampled_from([1, 500, 3_600_000])) | STEPS, max_size=20))
def test_i1_i2_i3_hold_when_time_goes_back(program: list[Any], more: list[Any]) -> None:
    Run().run(program + more)


@settings(SLOW, max_examples=EXAMPLES // 4)
@given(PROGRAMS, st.integers(1, 300))
def test_i5_a_shift_of_all_times_changes_no_decision(program: list[Any], periods: int) -> None:
    """By whole periods of every policy rate in the programs, for the grid is that of the clock."""
    here, there = Run().run(program), Run(periods * ACTION_NS * 100_000_000).run(program)
    assert here.trace == there.trace


# --- I4 ---

TAKE_TURNS = """
import os, sys, time
from vlad.bus import open_port
from vlad.errors import DeviceError
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
held = refused = 0
until = time.monotonic() + 60
while held < 5 and time.monotonic() < until:
    try:
        port = open_port(sys.argv[1])
    except DeviceError:
        refused += 1
        time.sleep(0.001)
        continue
    os.write(log, b"%d in\\n" % os.getpid())
    time.sleep(0.01)
    os.write(log, b"%d out\\n" % os.getpid())
    port.close()
    held += 1
    time.sleep(0.002)
print(held, refused)
"""


@pytest.mark.fault(49)
def test_i4_of_many_processes_one_holds_the_port(tmp_path: Path) -> None:
    servos = PtyServos(tmp_path / "bus")
    log = tmp_path / "log"
    log.touch()
    try:
        processes = [
            subprocess.Popen([sys.executable, "-c", TAKE_TURNS, tmp_path / "bus", log], stdout=subprocess.PIPE,
                             text=True)
            for _ in range(4)
        ]
        counts = [[int(n) for n in process.communicate(timeout=120)[0].split()] for process in processes]
    finally:
        servos.unplug()
    assert [held for held, _ in counts] == [5] * 4
    assert sum(refused for _, refused in counts) > 0, "they never met"
    lines = log.read_text().split("\n")[:-1]
    assert len(lines) == 40
    for came, went in zip(lines[::2], lines[1::2], strict=True):
        assert came.endswith(" in") and went == came.replace(" in", " out")


# --- I6, and I4 within the process: with the real thread ---


def test_i6_readers_and_writers_at_once_see_whole_records(tmp_path: Path) -> None:
    """The loop's own thread at 100 Hz, a producer, an operator and two readers. Whole: the sums within
    one report agree, ticks never go back, no change of mode goes untold, all chunks are judged."""
    arm = MemoryArm(POSE)
    servo = Servo(CONFIG)
    servo.adopt_memory(arm, True, POSE)
    done = threading.Event()
    errors: list[str] = []
    pushed = [0]

    def produce() -> None:
        while not done.is_set():
            epoch, _, _, goal = servo.command()
            pushed[0] += 1
            servo.push([[goal[0] + 0.001 * (k % 7), goal[1]] for k in range(CHUNK)], seq=pushed[0], epoch=epoch,
                       t_obs_ns=now_ns(), cold=pushed[0] % 2 == 0)
            time.sleep(0.001)

    def operate() -> None:
        for i in range(10**9):
            if done.is_set():
                return
            servo.request((ENGAGE, RESUME, ENGAGE, HOLD, CLEAR)[i % 5])
            time.sleep(0.005)

    def read() -> None:
        ticks = t_ns = 0
        while not done.is_set():
            report = servo.report()
            counters = report["counters"]
            if counters["engaged_ticks"] != counters["covered_ticks"] + sum(counters["starved"].values()):
                errors.append(f"torn: {counters}")
            if counters["ticks"] < ticks or report["t_ns"] < t_ns:
                errors.append(f"went back: {counters['ticks']} after {ticks}")
            ticks, t_ns = counters["ticks"], report["t_ns"]
            time.sleep(0)

    threads = [threading.Thread(target=body) for body in (produce, operate, read, read)]
    servo.start(1, -1)
    for thread in threads:
        thread.start()
    time.sleep(3)
    done.set()
    for thread in threads:
        thread.join()
    servo.stop()

    assert not errors, errors[:3]
    check_books(servo, pushed[0])
    judge = arm.judge()
    assert judge["writers"] == 1, "another thread than the loop's wrote"
    assert judge["limp_writes"] == 0
    for step, limit in zip(judge["step_max_nu"], servo.step_limits(), strict=True):
        assert step <= limit


def check_books(servo: Servo, pushed: int) -> None:
    report = servo.report()
    counters = report["counters"]
    mode, changes = "offline", 0
    while event := servo.next_event():
        if event[1] == "mode":
            assert MODES[event[2]] == mode
            mode = MODES[event[3]]
            changes += 1
    assert (mode, counters["events_dropped"]) == (report["mode"], 0)
    assert counters["chunks"] == pushed == counters["accepted"] + sum(counters["rejected"].values())
    assert counters["accepted"] > 0
    assert counters["engagements"] > 3
    assert changes > 6
