"""Row 35: memory that gets short. Pressure stall information says that the machine waits for it, the
cgroup says how near the kernel is to killing the daemon.

Sources: Documentation/accounting/psi.rst and admin-guide/cgroup-v2.rst of Linux.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from vlad.faults import BY_NAME
from vlad.small_file import Unreadable, read_small

WINDOW_NS = 1_000_000_000
HOLD_SHARE = 0.9  # of the cgroup's limit


class MemoryPressure:
    """pressure: a PSI file (/proc/pressure/memory). cgroup: a directory of cgroup v2, or None for
    that of this process. warn_share: of the last second in which something waited for memory.

    level: "warn" above it, "hold" where the working set (memory in use less the page cache that the
    kernel would give up first) has reached 90 % of the cgroup's limit.
    """

    fault = BY_NAME["memory_pressure"].id

    def __init__(self, pressure: str, cgroup: str | None, warn_share: float) -> None:
        self._pressure = Path(pressure)
        self._cgroup = Path(cgroup) if cgroup else own_cgroup()
        self._warn_share = warn_share
        self._stalled_us: deque[tuple[int, int]] = deque()  # (time, total)
        self.stalled_share: float | None = None  # None where it cannot be told
        self.cgroup_share: float | None = None
        self.problem = ""

    def poll(self, now_ns: int) -> str:
        self.stalled_share = self._stalled(now_ns)
        self.cgroup_share = self._used()
        if self.cgroup_share is not None and self.cgroup_share >= HOLD_SHARE:
            self.problem = f"{self.cgroup_share:.0%} of the cgroup's memory limit is in use"
            return "hold"
        if self.stalled_share is not None and self.stalled_share >= self._warn_share:
            self.problem = f"something waited for memory in {self.stalled_share:.0%} of the last second"
            return "warn"
        self.problem = ""
        return "none"

    def _stalled(self, now_ns: int) -> float | None:
        try:
            some = read_small(self._pressure).split("\n", 1)[0].split()
            total_us = int(some[-1].removeprefix("total="))
        except (Unreadable, ValueError, IndexError):  # a kernel without CONFIG_PSI
            self._stalled_us.clear()
            return None
        seen = self._stalled_us
        seen.append((now_ns, total_us))
        while len(seen) > 2 and seen[1][0] <= now_ns - WINDOW_NS:
            seen.popleft()
        since_ns, before_us = seen[0]
        if now_ns - since_ns < WINDOW_NS // 2:
            return 0.0
        return max(0.0, (total_us - before_us) * 1000 / (now_ns - since_ns))

    def _used(self) -> float | None:
        if self._cgroup is None:
            return None
        try:
            limit = int(read_small(self._cgroup / "memory.max"))
            used = int(read_small(self._cgroup / "memory.current"))
            cache = [line.split()[1] for line in read_small(self._cgroup / "memory.stat").splitlines()
                     if line.startswith("inactive_file ")]
            return max(0, used - int(cache[0])) / limit
        except (Unreadable, ValueError, IndexError, ZeroDivisionError):  # "max": no limit
            return None

    def counters(self) -> dict[str, float | None]:
        return {"stalled_share": self.stalled_share, "cgroup_share": self.cgroup_share}


def own_cgroup() -> Path | None:
    """The directory of this process's cgroup, where cgroup v2 is mounted in its usual place."""
    try:
        lines = read_small(Path("/proc/self/cgroup")).splitlines()
    except Unreadable:
        return None
    for line in lines:
        if line.startswith("0::/"):
            return Path("/sys/fs/cgroup") / line[4:]
    return None
