"""Who else wakes up late: cyclictest, a Python thread, and the GIL hog that makes it so."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HISTOGRAM_US = 100_000  # of cyclictest; later wake-ups count as its maximum


class Unavailable(Exception):
    """cyclictest is missing or has no real-time rights here."""


def quantile(values: dict[int, int], q: float) -> int:
    """The smallest value with more than q of all counts at or below it. values: value -> count."""
    rank = int(q * sum(values.values()))
    for value in sorted(values):
        rank -= values[value]
        if rank < 0:
            return value
    return max(values)


class Cyclictest:
    """One cyclictest thread at SCHED_FIFO `priority`, memory locked, for `seconds`."""

    def __init__(self, folder: Path, period_ns: int, priority: int, seconds: int) -> None:
        program = shutil.which("cyclictest")
        if program is None:
            raise Unavailable("cyclictest is not installed (Debian: rt-tests; make bench)")
        self._json = folder / "cyclictest.json"
        self._process = subprocess.Popen(
            [program, "-t1", "-m", f"-p{priority}", f"-i{period_ns // 1000}", f"-D{seconds}", "-q",
             f"-h{HISTOGRAM_US}", f"--histfile={folder / 'histogram'}", f"--json={self._json}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def result(self) -> dict[str, float]:
        """p50, p99, max in us and count. Unavailable: it could not run as asked."""
        errors = self._process.communicate(timeout=60)[1].strip()
        if self._process.returncode != 0:
            raise Unavailable(f"cyclictest: {errors or self._process.returncode}")
        thread = json.loads(self._json.read_text())["thread"]["0"]
        values = {int(us): n for us, n in thread["histogram"].items()}
        beyond = thread["cycles"] - sum(values.values())
        if beyond > 0:
            values[thread["max"]] = values.get(thread["max"], 0) + beyond
        return {
            "count": thread["cycles"], "p50": quantile(values, 0.5), "p99": quantile(values, 0.99),
            "max": thread["max"],
        }  # fmt: skip


class PythonLoop(threading.Thread):
    """A control loop as a plain Python thread: time.sleep to absolute times, skipping whole periods
    when late. Its lateness at each wake-up."""

    def __init__(self, period_ns: int) -> None:
        super().__init__()
        self._period_ns = period_ns
        self._stopped = threading.Event()
        self._late_ns: list[int] = []

    def run(self) -> None:
        due = time.monotonic_ns() + self._period_ns
        while not self._stopped.is_set():
            time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
            late = time.monotonic_ns() - due
            self._late_ns.append(late)
            due += self._period_ns * (1 + late // self._period_ns)

    def close(self) -> None:
        self._stopped.set()
        self.join()

    def result(self) -> dict[str, float]:
        late_us = np.array(self._late_ns) / 1e3
        p50, p99 = np.quantile(late_us, [0.5, 0.99], method="higher")
        return {"count": len(late_us), "p50": p50, "p99": p99, "max": late_us.max()}


def _held_for(n: int) -> float:
    begin = time.perf_counter()
    sum(range(n))  # one C call; the interpreter cannot be interrupted inside it
    return time.perf_counter() - begin


def _hog(stopped: threading.Event, n: int) -> None:
    while not stopped.is_set():
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            pass
        sum(range(n))


@contextmanager
def gil_hog() -> Iterator[None]:
    """A thread that takes turns of 100 ms: busy Python, then a C call that never yields the GIL."""
    stopped = threading.Event()
    n = int(1_000_000 * 0.1 / min(_held_for(1_000_000) for _ in range(3)))
    thread = threading.Thread(target=_hog, args=(stopped, n))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
