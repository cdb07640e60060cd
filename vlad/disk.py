"""Row 34: a disk that is full, read-only or slow. The log writer has met it, or a directory that
vlad writes to says so. Nothing that moves the arm writes to a disk; `load` and dumps are refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from vlad.faults import BY_NAME

STALLED_MS = 1000
LOOK_LATE_NS = 2_000_000_000  # so long after the last look the disk hangs
REMEMBER_NS = 5_000_000_000  # a log that has nothing to say proves no room


class Disk:
    """directories: that vlad writes to. log_counters: those of LogWriter.counters().

    `look` may wait for a disk, and is called again and again on a thread that does; `poll` only judges.
    level "warn" while a write of the log fails for the disk's sake or takes over a second, lines are
    dropped, a directory has no space left or cannot be written, or the last look is over 2 s ago.
    """

    fault = BY_NAME["disk_full"].id

    def __init__(self, directories: Sequence[str], log_counters: Callable[[], Mapping[str, int]]) -> None:
        self._directories = tuple(directories)
        self._log_counters = log_counters
        self._looked: tuple[int, list[str]] | None = None  # when, what was found
        self._before: dict[str, int] = {}
        self._of_log_before = (-REMEMBER_NS, "")  # when, what
        self.problem = ""

    def look(self, now_ns: int) -> None:
        self._looked = now_ns, self.of_directories()

    def poll(self, now_ns: int) -> str:
        if self._looked is None:
            self._looked = now_ns, []
        looked_ns, of_directories = self._looked
        late_ns = now_ns - looked_ns
        if found := "; ".join(self._of_log()):
            self._of_log_before = (now_ns, found)
        seen_ns, of_log = self._of_log_before
        recent = [of_log] if of_log and now_ns - seen_ns < REMEMBER_NS else []
        if late_ns > LOOK_LATE_NS:
            of_directories = [f"a disk has not answered for {late_ns / 1e9:.1f} s"]
        self.problem = "; ".join([*recent, *of_directories])
        return "warn" if self.problem else "none"

    def _of_log(self) -> list[str]:
        now = dict(self._log_counters())
        before, self._before = self._before, now
        problems = []
        if now.get("disk_errors", 0) > before.get("disk_errors", 0):
            problems.append("the disk refuses log lines")
        if now.get("dropped", 0) > before.get("dropped", 0):
            problems.append("log lines are dropped: whatever takes them is too slow")
        if now.get("stalled_ms", 0) > STALLED_MS:
            problems.append(f"a write of the log takes {now['stalled_ms'] / 1000:.0f} s already")
        return problems

    def of_directories(self) -> list[str]:
        problems = []
        for directory in self._directories:
            try:
                found = os.statvfs(directory)
            except OSError as error:
                problems.append(f"{directory}: {error.strerror}")
                continue
            if found.f_flag & os.ST_RDONLY:
                problems.append(f"{directory} is read-only")
            elif found.f_blocks and not found.f_bavail:
                problems.append(f"{directory} is full")
            elif found.f_files and not found.f_favail:
                problems.append(f"{directory} has no inode left")
        return problems
