"""What an evaluation found: episodes, and what they come to in groups. The JSON of `vlad eval --json`.

Times in s unless the name says ms; positions in rad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad.report_figures import quantile
from vlad.wilson import wilson

FORMAT = 1
JERK_WINDOW = 21  # goals of 10 ms
TRAINING, HELD_OUT = "training", "held-out"


class Episode(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One attempt.

    index, cluster: with the seed of the run they name the start. split: whether policies are trained on
    such starts. ended: "success", "time limit", "fault" (a latched one) or "holds" (too many). time_s: from
    engage to success. idle: share of the engaged time without an action to execute. holds: of an operator's
    resume each. faults: activations by name. jerk: root mean square of the goals, rad/s^3, body joints.
    age_ms: of the observation behind the executed actions: p50, p99. t_inference_ms: of each completed
    inference, in order.
    """

    task: str
    cluster: int
    index: int
    split: str
    success: bool
    ended: str
    duration_s: float
    time_s: float | None = None
    idle: float = 0.0
    gaps: int = 0
    longest_gap_s: float = 0.0
    requests: int = 0
    cold_starts: int = 0
    refused: int = 0
    accepted: int = 0
    clamped: int = 0
    rejected: dict[str, int] = {}
    rungs: dict[str, int] = {}
    holds: int = 0
    faults: dict[str, int] = {}
    watchdog: int = 0
    jerk: float | None = None
    age_ms: dict[str, float] = {}
    t_inference_ms: list[float] = []


class Group(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Episodes of one task and split. rate: of successes; low, high: its 95 % interval (Wilson).
    Counts are sums; time_s, jerk: medians, the former of successes alone; time_p90_s likewise.
    fallbacks: cold starts after the first of each episode, refused admissions, requests on a lower
    rung of the ladder, and holds."""

    task: str
    split: str
    episodes: int
    successes: int
    rate: float
    low: float
    high: float
    time_s: float | None
    time_p90_s: float | None
    jerk: float | None
    idle: float
    gaps: int
    longest_gap_s: float
    late: int
    stale: int
    rejected: int
    watchdog: int
    fallbacks: dict[str, int]
    faults: dict[str, int]
    t_inference_ms: dict[str, float]
    by_cluster: dict[int, list[int]]


class Result(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One `vlad eval`. policy, conditions: what ran and under which circumstances. notes: what a reader
    must know before he believes it."""

    format: int = FORMAT
    vlad: str
    policy: dict[str, Any]
    conditions: dict[str, Any]
    groups: list[Group]
    episodes: list[Episode]
    notes: list[str] = []



def rms_jerk(goals: NDArray[np.float64], period_s: float) -> float | None:
    """Root mean square of the third derivative of goals [n, joints], rad/s^3; None of too few.

    Goals are whole ticks on the wire, so the derivative is that of a cubic fitted to a window of them.
    """
    if len(goals) < JERK_WINDOW:
        return None
    at = np.arange(JERK_WINDOW) - JERK_WINDOW // 2
    weights = np.linalg.pinv(np.vander(at, 4, increasing=True))[3] * 6 / period_s**3
    windows = np.lib.stride_tricks.sliding_window_view(goals, JERK_WINDOW, axis=0)
    return float(np.sqrt(np.mean(np.square(windows @ weights))))


def spread_ms(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, max and count; of nothing, nothing."""
    if not values:
        return {}
    return {"p50": quantile(values, 0.5), "p95": quantile(values, 0.95), "p99": quantile(values, 0.99),
            "max": max(values), "count": len(values)}  # fmt: skip


def groups(episodes: Sequence[Episode]) -> list[Group]:
    """One for each task and split, in the order of their first episode."""
    kinds = dict.fromkeys((e.task, e.split) for e in episodes)
    return [group([e for e in episodes if (e.task, e.split) == kind]) for kind in kinds]


def group(episodes: Sequence[Episode]) -> Group:
    """What episodes of one kind come to. ValueError of none."""
    if not episodes:
        raise ValueError("a group of no episodes")
    won = [e for e in episodes if e.success]
    low, high = wilson(len(won), len(episodes))
    rejected = _sum(e.rejected for e in episodes)
    times = [e.time_s for e in won if e.time_s is not None]
    jerks = [e.jerk for e in episodes if e.jerk is not None]
    by_cluster: dict[int, list[int]] = {}
    for e in episodes:
        counts = by_cluster.setdefault(e.cluster, [0, 0])
        counts[0] += e.success
        counts[1] += 1
    engaged = sum(e.duration_s for e in episodes)
    return Group(
        task=episodes[0].task, split=episodes[0].split, episodes=len(episodes), successes=len(won),
        rate=len(won) / len(episodes), low=low, high=high,
        time_s=quantile(times, 0.5) if times else None, time_p90_s=quantile(times, 0.9) if times else None,
        jerk=quantile(jerks, 0.5) if jerks else None,
        idle=sum(e.idle * e.duration_s for e in episodes) / engaged if engaged else 0.0,
        gaps=sum(e.gaps for e in episodes), longest_gap_s=max(e.longest_gap_s for e in episodes),
        late=rejected.get("late", 0), stale=rejected.get("stale", 0) + rejected.get("frame_age", 0),
        rejected=sum(rejected.values()), watchdog=sum(e.watchdog for e in episodes),
        fallbacks={
            "cold_starts": sum(max(0, e.cold_starts - 1) for e in episodes),
            "refused": sum(e.refused for e in episodes),
            "lower_rungs": sum(n for e in episodes for rung, n in e.rungs.items() if rung != "full"),
            "holds": sum(e.holds for e in episodes),
        },
        faults=_sum(e.faults for e in episodes),
        t_inference_ms=spread_ms([t for e in episodes for t in e.t_inference_ms]),
        by_cluster=dict(sorted(by_cluster.items())),
    )  # fmt: skip


def _sum(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return {name: n for name, n in sorted(total.items()) if n}


def heads() -> tuple[str, ...]:
    """Of rows()."""
    return ("task", "starts", "success", "95 % interval", "time to success", "idle", "gaps", "late", "stale",
            "fallbacks", "watchdog", "T_inference p50 / p99", "jerk")  # fmt: skip


def rows(found: Sequence[Group]) -> list[tuple[str, ...]]:
    """The groups in words."""
    return [
        (g.task, g.split, f"{g.successes}/{g.episodes} ({g.rate:.0%})", f"{g.low:.0%} to {g.high:.0%}",
         "-" if g.time_s is None else f"{g.time_s:.1f} s, p90 {g.time_p90_s:.1f} s", f"{g.idle:.1%}", str(g.gaps),
         str(g.late), str(g.stale), said(g.fallbacks), str(g.watchdog),
         f"{g.t_inference_ms['p50']:.0f} / {g.t_inference_ms['p99']:.0f} ms" if g.t_inference_ms else "-",
         "-" if g.jerk is None else f"{g.jerk:.0f} rad/s³")
        for g in found
    ]  # fmt: skip


def said(counts: Mapping[str, int]) -> str:
    """Those that are not 0."""
    return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts.items() if n) or "none"
