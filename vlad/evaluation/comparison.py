"""What an experiment found: the same starts under several conditions, as a table, JSON and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vlad.evaluation.results import Episode, Group, group, groups, said
from vlad.html_page import document, grid, text
from vlad.report_plots import COLOURS, STYLE, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
HEADS = ("series", "at", "success", "95 % interval", "time to success", "idle", "gaps", "late", "fallbacks",
         "chunk error", "note")  # fmt: skip


class Point(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Episodes under one condition. series: what is compared. at: where on the axis. chunk_error: mean absolute
    difference of chunks from those of the reference, as a share of each joint's range. admitted: whether the daemon
    would engage so. whole: of all episodes; groups: by task and split."""

    series: str
    at: float | str
    whole: Group
    groups: list[Group]
    chunk_error: float | None = None
    admitted: bool = True


class Comparison(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One experiment. axis: what `at` is. log: it is drawn on a logarithmic axis. paired: of two series on the same
    starts, how many only the one and only the other did."""

    format: int = FORMAT
    experiment: str
    about: str
    axis: str
    log: bool
    policy: dict[str, Any]
    conditions: dict[str, Any]
    points: list[Point]
    paired: dict[str, int] = {}


def point(
    series: str, at: float | str, episodes: Sequence[Episode], *, chunk_error: float | None = None,
    admitted: bool = True,
) -> Point:  # fmt: skip
    """Raises ValueError of no episodes."""
    whole = msgspec.structs.replace(group(episodes), task="all", split="all")
    return Point(series=series, at=at, whole=whole, groups=groups(episodes), chunk_error=chunk_error, admitted=admitted)


def rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """Of HEADS."""
    return [
        (p.series, f"{p.at:g}" if isinstance(p.at, float) else str(p.at),
         f"{p.whole.successes}/{p.whole.episodes} ({p.whole.rate:.0%})", f"{p.whole.low:.0%} to {p.whole.high:.0%}",
         "-" if p.whole.time_s is None else f"{p.whole.time_s:.1f} s", f"{p.whole.idle:.0%}", str(p.whole.gaps),
         str(p.whole.late), said(p.whole.fallbacks), "-" if p.chunk_error is None else f"{p.chunk_error:.5f}",
         "" if p.admitted else "refused at load")
        for p in points
    ]  # fmt: skip


def lines(found: Comparison) -> str:
    """For a terminal."""
    table = [HEADS, *rows(found.points)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([found.about, "", *shown, *(f"{name}: {n}" for name, n in found.paired.items())])


def figure(found: Comparison) -> Figure:
    """Success with its interval, time to success, idle share (or error of the chunks), over the axis."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11.0, 3.6), layout="constrained")
    errors = any(p.chunk_error is not None for p in found.points)
    success, time, third = drawn.subplots(1, 3)
    series = list(dict.fromkeys(p.series for p in found.points))
    places = list(dict.fromkeys(p.at for p in found.points))
    numeric = all(isinstance(at, float) for at in places)
    for number, name in enumerate(series):
        of = [p for p in found.points if p.series == name]
        colour = COLOURS[number % len(COLOURS)]
        x: list[float] = [float(p.at) if numeric else places.index(p.at) + 0.08 * number for p in of]
        rate = np.array([p.whole.rate for p in of])
        reach = np.array([[p.whole.rate - p.whole.low, p.whole.high - p.whole.rate] for p in of]).T
        line = "-" if numeric else ""
        success.errorbar(x, rate, np.maximum(reach, 0), color=colour, fmt=f"o{line}", ms=4, lw=1, capsize=2, label=name)
        for at, p in zip(x, of, strict=True):
            if not p.admitted:  # the daemon would not engage so
                success.plot([at], [p.whole.rate], "o", ms=9, mfc="none", color=colour)
        time.plot(x, [np.nan if p.whole.time_s is None else p.whole.time_s for p in of], f"o{line}", color=colour, ms=4)
        third.plot(x, [np.nan if p.chunk_error is None else p.chunk_error for p in of] if errors
                   else [p.whole.idle for p in of], f"o{line}", color=colour, ms=4)  # fmt: skip
    for axes, title in ((success, "success"), (time, "time to success, s"),
                        (third, "chunk error, of a joint's range" if errors else "idle share")):  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel(found.axis)
        if found.log and numeric:
            axes.set_xscale("log")
        if not numeric:
            axes.set_xticks(range(len(places)), [str(at) for at in places], rotation=20)
        axes.grid(alpha=0.4)
    success.set_ylim(-0.03, 1.03)
    success.legend(fontsize=7)
    return drawn


def page(found: Comparison) -> str:
    """HTML, the plot in it."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn = svg(figure(found))
    body = (
        f"<p>{text(found.about, 2000)}</p><figure>{drawn}</figure>"
        "<p class=about>Bars are 95 % intervals (Wilson). A ring: the daemon would refuse to engage at such a "
        "latency.</p>" + grid(HEADS, rows(found.points))
        + "".join(f"<p>{text(name)}: {n}</p>" for name, n in found.paired.items())
    )  # fmt: skip
    return document(f"vlad eval experiment {found.experiment}", body, "All points have the same starts.")
