"""The timeline as a picture: a row for each thread, accelerator and the arm; what is idle in colour, with its
length."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlad.errors import Refused
from vlad.plan.timeline import ARM, Bar, Timeline
from vlad.queue_plot import ARRIVAL, GRID, INK, LATE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 11.0
CAMERA, PREFILL, EXPERT, PICTURE, PAUSE, WAITS = "#2b6ca3", "#4aa5b5", "#7a4fbf", "#9aa5ae", "#c98a1b", "#c5cdd4"
COLOURS = {"motion": ARRIVAL, "picture": PICTURE, "prefill": PREFILL, "context": PREFILL, "expert": EXPERT,
           "policy": EXPERT, "inference": CAMERA}  # fmt: skip
LABELS = {"motion": "arm moves", "camera": "vision, a camera", "picture": "picture to input",
          "prefill": "prefill, context", "expert": "expert, a flow step"}  # fmt: skip
LEGIBLE = 0.035  # of the width: shorter gaps have no label


def figure(timeline: Timeline, title: str = "") -> Figure:
    """Time in s from engage on."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = {row: i for i, row in enumerate(timeline.rows)}
    drawn = Figure(figsize=(WIDTH, 1.4 + 0.55 * len(rows)), layout="constrained")
    axes = drawn.subplots()
    seen: dict[str, str] = {}
    for bar in timeline.bars:
        y, length = rows[bar.row], bar.end_s - bar.start_s
        if bar.what == "waits":
            seen.setdefault("thread waits for the unit", WAITS)
            axes.barh(y, length, left=bar.start_s, height=0.12, color=WAITS)
            continue
        kind = "camera" if bar.what.startswith("camera") else bar.what
        colour = COLOURS.get(kind, CAMERA)
        seen.setdefault(LABELS.get("prefill" if kind == "context" else kind, kind), colour)
        axes.barh(y, length, left=bar.start_s, height=0.62, color=colour, edgecolor="#ffffff", linewidth=0.3)
    for gap in timeline.idle:
        _gap(axes, gap, rows[gap.row], timeline.seconds)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, timeline.seconds)
    axes.set_xlabel("s from engage")
    axes.grid(color=GRID, lw=0.5, axis="x")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles = [Patch(color=colour, label=label) for label, colour in seen.items()]
    handles += [Patch(facecolor=LATE, alpha=0.3, label="no action: the arm rests"),
                Patch(facecolor=PAUSE, alpha=0.18, label="thread idle")]  # fmt: skip
    drawn.legend(handles=handles, loc="outside lower left", ncols=8, fontsize=8, frameon=False)
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=10)
    return drawn


def _gap(axes: Axes, gap: Bar, y: int, seconds: float) -> None:
    of_arm = gap.row == ARM
    length = gap.end_s - gap.start_s
    axes.barh(y, length, left=gap.start_s, height=0.62, color=LATE if of_arm else PAUSE, alpha=0.3 if of_arm else 0.18)
    if length >= LEGIBLE * seconds:
        text = f"{length:.2f} s" if length < 10 else f"{length:.0f} s"
        axes.text(gap.start_s + length / 2, y, text, ha="center", va="center", fontsize=7, color=INK)


def write(path: Path, timeline: Timeline, title: str) -> None:
    """Writes a PNG. Raises Refused."""
    try:
        figure(timeline, title).savefig(path, dpi=110, format="png")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
