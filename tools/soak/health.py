"""Memory, descriptors and threads of a process over time, and how steep they are."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Vital:
    """One look at a process. rss_bytes: resident, anon_bytes: of it, what no file backs."""

    t_ns: int
    rss_bytes: int
    anon_bytes: int
    descriptors: int
    threads: int


def look(pid: int, t_ns: int) -> Vital:
    """From /proc. Raises OSError when the process is gone."""
    proc = Path(f"/proc/{pid}")
    pages = (proc / "statm").read_text().split()
    return Vital(t_ns, int(pages[1]) * PAGE, (int(pages[1]) - int(pages[2])) * PAGE,
                 len(os.listdir(proc / "fd")), len(os.listdir(proc / "task")))


def started_ticks(pid: int) -> int:
    """Start time of the process, in clock ticks after boot: with the pid, its identity."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@dataclass(frozen=True, slots=True)
class Slope:
    """Theil-Sen: the median slope of all pairs, per hour, and its 95 % interval (Sen 1968)."""

    per_hour: float
    low: float
    high: float
    points: int
    hours: float


def theil_sen(hours: Sequence[float], values: Sequence[float]) -> Slope | None:
    """None for fewer than 8 points. A third of the points may be wild without moving it."""
    n = len(values)
    if n < 8:
        return None
    slopes = sorted(
        (values[j] - values[i]) / (hours[j] - hours[i])
        for i in range(n) for j in range(i + 1, n) if hours[j] > hours[i]
    )
    # Kendall's statistic is normal with this variance; ties only narrow it.
    half = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, math.floor((len(slopes) - half) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + half) / 2))
    return Slope(median(slopes), slopes[low], slopes[high], n, hours[-1] - hours[0])


def binned(vitals: Sequence[Vital], field: str, seconds: float) -> tuple[list[float], list[float]]:
    """(hours, values): the median of each so many seconds. Neighbouring samples are the same memory
    seen twice; medians of half a minute are closer to independent, which the interval assumes."""
    bins: dict[int, list[Vital]] = {}
    for vital in vitals:
        bins.setdefault(int((vital.t_ns - vitals[0].t_ns) / (seconds * 1e9)), []).append(vital)
    hours = [median(v.t_ns - vitals[0].t_ns for v in b) / 3.6e12 for b in bins.values()]
    return hours, [float(median(getattr(v, field) for v in b)) for b in bins.values()]


def usual(vitals: Sequence[Vital], field: str) -> float:
    """The median: clients come and go and a bus may be away for a moment; what leaks stays."""
    return float(median(getattr(v, field) for v in vitals))
