"""The action queue over time as a picture: depth, requests, arrivals, merges, gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GRID = "#22303c", "#d9dfe4"
COLD, ARRIVAL, LATE, REQUEST = "#7a4fbf", "#1b7f5c", "#c0392b", "#c98a1b"


def draw(
    path: Path,
    samples: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    *,
    title: str,
    chunk_size: int,
    threshold_actions: float,
) -> None:
    """Writes a PNG. samples: {t_ns, queue_depth}; events: as `vladctl events --json` gives."""
    start_ns = samples[0]["t_ns"]
    figure(samples, events, start_ns=start_ns, title=title, chunk_size=chunk_size,
           threshold_actions=threshold_actions).savefig(path, dpi=110)


def figure(
    samples: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    *,
    start_ns: int,
    title: str,
    chunk_size: int,
    threshold_actions: float,
) -> Figure:
    """The same as a figure; times in s since start_ns. chunk_size, threshold_actions: 0 where not known;
    without a chunk size the upper plot has marks only."""
    from matplotlib.figure import Figure

    start = start_ns
    chunks = [e for e in events if e["event"] == "chunk"]
    drawn = Figure(figsize=(13, 6.5), layout="constrained")
    top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    t = [(s["t_ns"] - start) / 1e9 for s in samples]
    top.fill_between(t, [s["queue_depth"] for s in samples], step="post", color="#9cc3e6", alpha=0.6)
    top.step(t, [s["queue_depth"] for s in samples], where="post", color="#2b6ca3", lw=0.8,
             label="actions in the queue")
    if chunk_size:
        top.axhline(chunk_size, color=GRID, lw=1)
        top.text(t[0] if t else 0, chunk_size, " one chunk", va="bottom", fontsize=8, color=INK)
    elif not samples:
        top.set_yticks([])
    chunk_size = chunk_size or max((s["queue_depth"] for s in samples), default=0) or 1
    if threshold_actions:
        top.axhline(threshold_actions, color=REQUEST, lw=1, ls="--", label="request threshold")

    def mark(rows: Sequence[float], color: str, marker: str, label: str, y: float) -> None:
        if rows:
            top.scatter(rows, [y] * len(rows), color=color, marker=marker, s=22, label=label, zorder=3)

    def times(*, rejected: bool, cold: bool | None = None) -> list[float]:
        return [
            (e["t_ns"] - start) / 1e9 for e in chunks
            if (e["verdict"] == "rejected") == rejected and cold in (None, e["cold"])
        ]

    ceiling = chunk_size * 1.08
    mark([(e["t_request_ns"] - start) / 1e9 for e in chunks], REQUEST, "v", "request", -chunk_size * 0.04)
    mark(times(rejected=False, cold=False), ARRIVAL, "^", "chunk merged", ceiling)
    mark(times(rejected=False, cold=True), COLD, "D", "cold start", ceiling)
    mark(times(rejected=True), LATE, "x", "rejected (late, stale, limits)", ceiling)
    for gap in (e for e in events if e["event"] == "gap"):
        end = (gap["t_ns"] - start) / 1e9
        top.axvspan(end - gap["duration_ms"] / 1e3, end, color=LATE, alpha=0.12)
    if samples:
        top.set_ylabel("actions")
    top.set_ylim(-chunk_size * 0.08, chunk_size * 1.15)
    top.legend(loc="upper center", ncols=6, fontsize=8, frameon=False, bbox_to_anchor=(0.5, 1.1))
    drawn.suptitle(title, color=INK, fontsize=12)

    arrivals = [(e["t_ns"] - start) / 1e9 for e in chunks]
    bottom.plot(arrivals, [e["t_inference_ms"] for e in chunks], ".", color=ARRIVAL, ms=5,
                label="T_inference")
    waiting = [(e["t_ns"] - start) / 1e9 for e in chunks if not e["cold"]]
    bottom.plot(waiting, [e["t_execution_ms"] for e in chunks if not e["cold"]], "_", color=INK,
                ms=8, label="T_execution at admission")
    bottom.set_yscale("log")
    bottom.yaxis.set_major_formatter("{x:g}")
    bottom.yaxis.set_minor_formatter("")
    bottom.set_ylabel("ms")
    bottom.set_xlabel("s")
    bottom.legend(loc="lower right", ncols=2, fontsize=8, frameon=False, bbox_to_anchor=(1, 1))
    for axes in (top, bottom):
        axes.grid(color=GRID, lw=0.5)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return drawn
