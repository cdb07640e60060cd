"""A picture of what bench.seams recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.seam_figures import worst_per_chunk
from bench.seams import Run

INK, GRID = "#22303c", "#d9dfe4"
COLORS = {
    "weighted_average": "#2b6ca3", "latest_only": "#c98a1b", "average": "#7a4fbf",
    "conservative": "#8c8c8c", "rtc": "#1b7f5c", "rtc, LeRobot's settings": "#c0392b",
}  # fmt: skip
Rejected = Mapping[str, Sequence[tuple[float, float, bool]]]


def draw(path: Path, noisy: Mapping[str, Run], shipped: Mapping[str, Run], rejected: Rejected,
         excerpt_s: tuple[float, float]) -> None:
    """Writes a PNG: an excerpt of the motion, the changes of velocity, the chunks that were rejected.

    rejected: by aggregate, (how far the two ways are apart in rad, share of chunks, was it held).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 8.5), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(2.2, 2.2, 3))
    above = figure.add_subplot(grid[0, :])
    _motion(above, noisy["weighted_average"], excerpt_s)
    _motion(figure.add_subplot(grid[1, :], sharex=above), noisy["rtc"], excerpt_s)
    _changes(figure.add_subplot(grid[2, 0]), noisy, shipped)
    _rejections(figure.add_subplot(grid[2, 1]), rejected)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)
    _few_colours(path)


def _few_colours(path: Path) -> None:
    from PIL import Image  # matplotlib needs it too

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(200, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def _grid(axes: Any) -> None:
    axes.grid(color=GRID, lw=0.5)
    axes.set_axisbelow(True)


def _motion(axes: Any, run: Run, excerpt_s: tuple[float, float]) -> None:
    first, last = excerpt_s
    t = (np.arange(len(run.goals)) + 1) * run.period_ns / 1e9
    keep = (t >= first) & (t <= last)
    speed = np.diff(run.goals[:, 0], prepend=run.goals[0, 0]) * 1e9 / run.period_ns
    goal = axes.plot(t[keep], run.goals[keep, 0], color=COLORS[run.label], lw=1.6)
    right = axes.twinx()
    fast = right.plot(t[keep], speed[keep], color=INK, lw=0.7)
    for merge in run.merges:
        at = (merge.t_ns - run.t0_ns) / 1e9
        if first <= at <= last:
            axes.axvline(at, color="#1b7f5c" if merge.accepted else "#c0392b", lw=0.8, ls=":")
    axes.set_title(f"{run.label}: an undecided policy, a chunk at each dotted line", fontsize=9, loc="left")
    axes.set_ylabel("rad")
    right.set(ylabel="rad/s", ylim=(-2.0, 2.0))
    axes.legend([*goal, *fast], ["goal of joint 1", "its speed"], fontsize=7, frameon=False, loc="lower right",
                ncols=2)
    _grid(axes)


def _changes(axes: Any, noisy: Mapping[str, Run], shipped: Mapping[str, Run]) -> None:
    names = list(noisy)
    for offset, runs, hatch in ((-0.2, noisy, ""), (0.2, shipped, "//")):
        boxes = axes.boxplot(
            [worst_per_chunk(runs[n])["velocity"] for n in names], orientation="horizontal", widths=0.34,
            showfliers=False, positions=np.arange(len(names)) + offset, whis=(5, 95), patch_artist=True,
            medianprops={"color": INK},
        )  # fmt: skip
        for box, name in zip(boxes["boxes"], names, strict=True):
            box.set(facecolor=COLORS[name], alpha=0.35 if hatch else 0.85, hatch=hatch)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("largest change of velocity per chunk, rad/s (5 to 95 %)")
    axes.set_title("at the seams: undecided (plain) and shipped policy (hatched)", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    _grid(axes)


def _rejections(axes: Any, rejected: Rejected) -> None:
    for name, points in rejected.items():
        apart, share, _ = zip(*points, strict=True)
        axes.plot(apart, share, "o-", ms=3, lw=1.2, color=COLORS[name], label=name)
        held = [p for p in points if p[2]]
        axes.plot([p[0] for p in held], [p[1] for p in held], "x", ms=8, color=COLORS[name])
    axes.set_xlabel("the two ways are apart, rad")
    axes.set_ylabel("chunks rejected")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(fontsize=8, frameon=False)
    axes.set_title("jumps and steps too large (x: a fault held the arm)", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    _grid(axes)
