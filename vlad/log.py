"""The log: structlog, one JSON object per line on standard error, written by a thread of its own.

A caller only encodes its line and puts it into a bounded queue. When the reader of standard error
is slow, lines are dropped and counted, and the log says how many once it can; no caller ever waits.
Lines carry `t_ns`, CLOCK_MONOTONIC; wall time is added by journald.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import MutableMapping
from queue import Empty, SimpleQueue
from typing import Any

import msgspec
import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
CAPACITY = 4096  # lines
MAX_LINE_BYTES = 16384
FLUSH_S = 1.0  # how long stop() waits for the writer
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
STALL_S = 0.1  # poll of a descriptor that takes nothing


class LogWriter:
    """Takes finished lines from any thread, without waiting, and writes them to a descriptor.

    `dropped`: lines that found the queue full. `failed`: lines that the descriptor refused, of
    which `disk_errors` for the disk's sake. `stalled_ms`: how long the write in progress has taken.
    """

    def __init__(self, fd: int, capacity: int = CAPACITY) -> None:
        self.fd = fd
        self.capacity = capacity
        self.written = self.failed = self.disk_errors = 0  # the writer thread's
        self._writing_since_ns = 0
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._dropped = 0
        # Callers among themselves, for one addition. Reentrant: a signal may interrupt it and log.
        self._drop_lock = threading.RLock()
        self._reported = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._dropped

    def offer(self, line: bytes) -> None:
        """Queue one line (with its newline), or drop it. Never waits for the writer."""
        if self._stopping.is_set() or self._queue.qsize() >= self.capacity:
            with self._drop_lock:
                self._dropped += 1
            return
        self._queue.put(line)

    # The methods that structlog calls with a finished line.
    debug = info = warning = error = critical = offer

    def counters(self) -> dict[str, int]:
        """For export; all but `stalled_ms` only grow."""
        since_ns = self._writing_since_ns
        stalled_ms = (time.monotonic_ns() - since_ns) // 1_000_000 if since_ns else 0
        return {"written": self.written, "dropped": self._dropped, "failed": self.failed,
                "disk_errors": self.disk_errors, "stalled_ms": stalled_ms}

    def stop(self, timeout_s: float = FLUSH_S) -> bool:
        """Write what is queued, for at most `timeout_s`; later lines are dropped. Idempotent.

        False when time ran out; what was left is then counted as dropped.
        """
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        finished = not self._thread.is_alive()
        with self._drop_lock:
            try:
                while True:
                    self._dropped += self._queue.get_nowait() is not None
            except Empty:
                pass
        if not finished:
            self._queue.put(None)
        return finished

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            self._write(line)
            if self._reported != self._dropped:
                self._report()
        if self._reported != self._dropped:
            self._report()

    def _report(self) -> None:
        dropped = self._dropped
        new, self._reported = dropped - self._reported, dropped
        event = {"event": "log_dropped", "lines": new, "dropped_total": dropped}
        self._write(_encode({"t_ns": time.monotonic_ns(), "level": "warning", **event}))

    def _write(self, line: bytes) -> None:
        self._writing_since_ns = time.monotonic_ns()
        while line:
            try:
                line = line[os.write(self.fd, line) :]
            except BlockingIOError:
                if self._stopping.is_set():
                    break
                select.select([], [self.fd], [], STALL_S)
            except (OSError, ValueError) as error:
                self.disk_errors += getattr(error, "errno", None) in DISK_ERRORS
                break
        self._writing_since_ns = 0
        self.written += not line
        self.failed += bool(line)


def start(level: str = "info", *, fd: int = 2, capacity: int = CAPACITY) -> LogWriter:
    """Send structlog's output, from `level` on, through a new writer to `fd`.

    level: debug, info, warning or error. The descriptor stays the caller's.
    """
    writer = LogWriter(fd, capacity)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    return writer


def _render(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> bytes:
    event.setdefault("t_ns", time.monotonic_ns())  # an event that has its own time keeps it
    head = {key: event.pop(key, None) for key in ("t_ns", "level", "event")}
    line = _encode({**head, **event})
    if len(line) <= MAX_LINE_BYTES:
        return line
    head["event"] = str(head["event"])[:256]
    return _encode({**head, "truncated_bytes": len(line)})


def _encode(event: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(event, enc_hook=_plain) + b"\n"
    except (TypeError, ValueError, RecursionError):  # odd keys, lone surrogates, a loop
        return msgspec.json.encode({_text(k): _text(v) for k, v in event.items()}) + b"\n"


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else repr(value)  # NumPy


def _text(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text.encode("utf-8", "replace").decode("utf-8")
