"""F32: the wall clock may jump by hours; nothing that controls the arm ever reads it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.survival import Survival

ROOT = Path(__file__).resolve().parents[2]
WALL_CLOCK = re.compile(
    r"\btime\.(time|time_ns|ctime|localtime|gmtime|strftime)\b|\bdatetime\b|\bCLOCK_REALTIME\b"
    r"|\bgettimeofday\b|\btime\(\s*(NULL|0|&\w+)\s*\)|\bTIME_UTC\b"
)
SOURCES = [
    path
    for pattern in ("vlad/**/*.py", "vlad/_native/*.pyx", "csrc/*.c", "csrc/*.h")
    for path in sorted(ROOT.glob(pattern))
]

# Every reading of the wall clock is an hour before or after the one before.
SHIM = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) { static _Atomic long n; return ++n % 2 ? 3600 : -3600; }
int clock_gettime(clockid_t clock, struct timespec *t)
{
    long rc = syscall(SYS_clock_gettime, clock, t);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) t->tv_sec += jump();
    return (int)rc;
}
int gettimeofday(struct timeval *t, void *zone)
{
    long rc = syscall(SYS_gettimeofday, t, zone);
    t->tv_sec += jump();
    return (int)rc;
}
time_t time(time_t *t)
{
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    now.tv_sec += jump();
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""

CHILD = """
import threading, time
from vlad.servo import MS, STAGES, JointLimits, Servo, ServoConfig, now_ns

assert abs(time.time() - time.time()) > 3000, "the shim is not in force"
servo = Servo(ServoConfig((JointLimits(-1.0, 1.0),), 33_333_333, 50, overrun_hold_ns=1000 * MS))
servo.start(1, -1)
supervisor = STAGES.index("supervisor")
servo.bound(supervisor, 1000 * MS)
begin, fresh = now_ns(), True
while now_ns() - begin < 1000 * MS:
    servo.beat(supervisor)
    threading.Event().wait(0.02)
    fresh = fresh and servo.all_fresh(now_ns())
report = servo.report()
servo.stop()
counters = report["counters"]
raised = [f for f, (active, latched, _, n, _) in report["faults"].items() if active or latched or n]
assert fresh, "a heartbeat was taken for an hour old"
assert not set(raised) & {24, 31, 33}, raised
periods = counters["ticks"] + counters["skipped_periods"]
assert 50 <= periods <= 150, periods
"""


@pytest.mark.fault(32)
def test_f32_no_source_reads_the_wall_clock() -> None:
    assert len(SOURCES) > 40
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if WALL_CLOCK.search(line)
    ]
    assert not found


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    "line",
    ["now = time.time()", "t = time.time_ns()", "from datetime import datetime",
     "clock_gettime(CLOCK_REALTIME, &t);", "gettimeofday(&t, NULL);", "srand(time(NULL));"],
)  # fmt: skip
def test_f32_the_search_finds_what_it_must(line: str) -> None:
    assert WALL_CLOCK.search(line)


@pytest.mark.fault(32)
def test_f32_the_servo_loop_runs_on_while_the_wall_clock_jumps(
    tmp_path: Path, survival: Survival
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, shim = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", str(source), "-o", str(shim)], check=True)
    run = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    survival(32, react_ms=0, clock="machine",
             note="every reading of the wall clock an hour off: no tick late, no heartbeat missed")
