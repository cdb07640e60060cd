"""The log never makes a caller wait, loses nothing in silence, and is JSON whatever it is given."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import structlog

from vlad import log
from vlad.log import LogWriter


class Pipe:
    """A pipe whose reader decides when to read."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, 4096)

    def lines(self) -> list[dict[str, Any]]:
        """Everything until the write end is closed."""
        os.close(self.write_fd)
        with os.fdopen(self.read_fd, "rb") as file:
            return [json.loads(line) for line in file]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    yield Pipe()
    structlog.reset_defaults()


def test_lines_are_json_with_monotonic_time(pipe: Pipe) -> None:
    before = time.monotonic_ns()
    writer = log.start("info", fd=pipe.write_fd)
    structlog.get_logger("vlad.x").warning("chunk_rejected", reason="late", joint=None, value=1.5)
    structlog.get_logger().info("second", t_ns=7)
    assert writer.stop()
    first, second = pipe.lines()
    assert list(first) == ["t_ns", "level", "event", "reason", "joint", "value"]
    assert before <= first["t_ns"] <= time.monotonic_ns()
    assert first["level"] == "warning" and first["event"] == "chunk_rejected"
    assert second["t_ns"] == 7, "an event's own time is kept"
    assert writer.counters() == {"written": 2, "dropped": 0, "failed": 0, "disk_errors": 0, "stalled_ms": 0}


def test_level(pipe: Pipe) -> None:
    writer = log.start("warning", fd=pipe.write_fd)
    logger = structlog.get_logger()
    for method in (logger.debug, logger.info, logger.warning, logger.error, logger.critical):
        method("x")
    writer.stop()
    assert [line["level"] for line in pipe.lines()] == ["warning", "error", "critical"]


def test_exception_is_one_line(pipe: Pipe) -> None:
    writer = log.start(fd=pipe.write_fd)
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        structlog.get_logger().exception("stage_died", stage="vision")
    writer.stop()
    (line,) = pipe.lines()
    assert line["level"] == "error" and "ValueError: bad\nvalue" in line["exception"]


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [np.float32(1.5), np.arange(3), object(), {1, 2}, {(1, 2): 3}, LOOP, "\ud800", b"\xff",
     float("nan"), 2**80, ValueError("x"), {"\ud800": 1}],
)  # fmt: skip
def test_any_value_becomes_json(pipe: Pipe, value: object) -> None:
    writer = log.start(fd=pipe.write_fd)
    structlog.get_logger().info("odd", value=value)
    writer.stop()
    (line,) = pipe.lines()
    assert line["event"] == "odd" and "value" in line


def test_numpy_values_stay_numbers(pipe: Pipe) -> None:
    writer = log.start(fd=pipe.write_fd)
    structlog.get_logger().info("x", a=np.float32(1.5), b=np.arange(3))
    writer.stop()
    (line,) = pipe.lines()
    assert (line["a"], line["b"]) == (1.5, [0, 1, 2])


def test_a_huge_line_is_cut_and_says_so(pipe: Pipe) -> None:
    writer = log.start(fd=pipe.write_fd)
    structlog.get_logger().info("big", blob="x" * 100_000)
    writer.stop()
    (line,) = pipe.lines()
    assert line["event"] == "big" and line["truncated_bytes"] > 100_000 and "blob" not in line


@pytest.mark.fault(34)
@pytest.mark.parametrize("blocking", [True, False])
def test_f34_a_stuck_reader_costs_lines_not_time(pipe: Pipe, blocking: bool) -> None:
    os.set_blocking(pipe.write_fd, blocking)
    writer = log.start(fd=pipe.write_fd, capacity=50)
    logger = structlog.get_logger()
    begin = time.monotonic()
    for i in range(5000):
        logger.info("tick", i=i)
    assert time.monotonic() - begin < 5.0, "5000 lines into a pipe that nobody reads"
    dropped = writer.dropped
    assert dropped > 4000
    assert writer._queue.qsize() <= 50
    lines: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe_reader(pipe.read_fd)))
    reader.start()
    while writer._queue.qsize():  # the reader has woken up
        time.sleep(0.01)
    logger.info("after")
    assert writer.stop(10.0)
    os.close(pipe.write_fd)
    reader.join()
    reports = [line for line in lines if line["event"] == "log_dropped"]
    assert sum(line["lines"] for line in reports) == writer.dropped == dropped
    assert reports[-1]["dropped_total"] == dropped
    ticks = [line["i"] for line in lines if line["event"] == "tick"]
    assert len(ticks) == 5000 - dropped
    assert ticks == sorted(ticks)
    assert lines[-1]["event"] in ("after", "log_dropped")


def pipe_reader(fd: int) -> list[dict[str, Any]]:
    with os.fdopen(fd, "rb") as file:
        return [json.loads(line) for line in file]


def test_stop_is_bounded_and_counts_what_is_lost(pipe: Pipe) -> None:
    writer = LogWriter(pipe.write_fd, capacity=100)
    line = b"x" * 4096 + b"\n"
    for _ in range(10):
        writer.offer(line)
    begin = time.monotonic()
    assert not writer.stop(0.2)
    assert time.monotonic() - begin < 5.0
    # A page fits into the pipe, at most one line is in the writer's hands.
    assert writer.dropped >= 8
    writer.offer(line)
    assert writer.dropped >= 9, "after stop() nothing is taken"
    os.close(pipe.read_fd)


def test_a_closed_reader_is_counted_and_harmless(pipe: Pipe) -> None:
    os.close(pipe.read_fd)
    writer = LogWriter(pipe.write_fd)
    for _ in range(3):
        writer.offer(b"x\n")
    assert writer.stop()
    assert writer.stop(), "idempotent"
    assert writer.counters() == {"written": 0, "dropped": 0, "failed": 3, "disk_errors": 0, "stalled_ms": 0}


def test_many_threads_lose_no_count(pipe: Pipe) -> None:
    writer = LogWriter(pipe.write_fd, capacity=64)
    drain: list[bytes] = []
    reader = threading.Thread(target=lambda: drain.extend(os.fdopen(pipe.read_fd, "rb")))
    reader.start()
    threads = [
        threading.Thread(target=lambda: [writer.offer(b"{}\n") for _ in range(2000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.stop(10.0)
    os.close(pipe.write_fd)
    reader.join()
    reports = [json.loads(line)["lines"] for line in drain if b"log_dropped" in line]
    assert len(drain) - len(reports) + writer.dropped == 8000
    assert sum(reports) == writer.dropped
