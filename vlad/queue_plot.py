"""The action queue over time as a picture: depth, requests, arrivals, merges, gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """Writes a PNG. samples: {t_ns, queue_depth, mode}; events: as `vladctl events --json` gives."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    start = samples[0]["t_ns"]
    chunks = [e for e in events if e["event"] == "chunk"]
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(13, 6.5), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    t = [(s["t_ns"] - start) / 1e9 for s in samples]
    top.fill_between(t, [s["queue_depth"] for s in samples], step="post", color="#9cc3e6", alpha=0.6)
    top.step(t, [s["queue_depth"] for s in samples], where="post", color="#2b6ca3", lw=0.8,
             label="actions in the queue")
    top.axhline(chunk_size, color=GRID, lw=1)
    top.text(0, chunk_size, " one chunk", va="bottom", fontsize=8, color=INK)
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
    top.set_ylabel("actions")
    top.set_ylim(-chunk_size * 0.08, chunk_size * 1.15)
    top.legend(loc="upper center", ncols=6, fontsize=8, frameon=False, bbox_to_anchor=(0.5, 1.1))
    figure.suptitle(title, color=INK, fontsize=12)

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
    figure.savefig(path, dpi=110)
    plt.close(figure)
