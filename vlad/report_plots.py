"""The plots of a run as SVG to stand inside a page: their ink is the page's, so dark is dark.

A long run has more samples than pixels. Of those that fall on one pixel the least and the greatest are
drawn, so that no peak is lost.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad.faults import BY_ID
from vlad.queue_plot import ARRIVAL, COLD, GRID, INK, LATE
from vlad.queue_plot import figure as queue_figure
from vlad.report_figures import Episode, episodes, following_error, steps
from vlad.report_run import Array, Run
from vlad.servo import MODES, REACTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = 900
WIDTH = 11.0
MAX_MARKS = 1500  # of chunks; beyond, they are drawn as a picture
PRESENT, GOAL = "#c98a1b", "#2b6ca3"
COLOURS = ("#2b6ca3", "#c98a1b", "#1b7f5c", "#7a4fbf", "#c0392b", "#4aa5b5", "#8a6d3b", "#888888")
PAGE_COLOURS = {INK: "currentColor", "#000000": "currentColor", GRID: "var(--grid)", GOAL: "var(--blue)",
                ARRIVAL: "var(--green)", COLD: "var(--violet)", LATE: "var(--red)"}  # fmt: skip
MODE_COLOURS = {"offline": "#9aa5ae", "ready": "#7fb3d5", "holding": "#c98a1b", "engaged": "#1b7f5c",
                "stopping": "#d9b36c", "faulted": LATE}  # fmt: skip
REACTION_COLOURS = {"warn": "#d9c27a", "slow": "#d9a441", "hold": "#c0392b", "park": "#8e2a6f", "limp": "#5b1a4a"}
STYLE: dict[Any, Any] = {
    "text.parse_math": False, "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "font.size": 9, "axes.titlesize": 9,
    "font.family": "sans-serif", "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip
_PATH = re.compile(r' d="[^"]*"')
_NUMBER = re.compile(r"(\d+\.\d{2})\d+")


def envelope(t: Array, y: Array, pixels: int = PIXELS) -> tuple[Array, Array]:
    """At most two samples a pixel, the least and the greatest, in their order; NaN stays a gap."""
    if len(t) <= 2 * pixels or t[-1] <= t[0]:
        return t, y
    where = np.minimum(((t - t[0]) / (t[-1] - t[0]) * pixels).astype(np.int64), pixels - 1)
    first = np.flatnonzero(np.diff(where, prepend=-1))
    kept: list[int] = []
    for a, b in zip(first, np.append(first[1:], len(t)), strict=True):
        part = y[a:b]
        if np.all(np.isnan(part)):
            kept.append(int(a))
            continue
        low, high = int(a + np.nanargmin(part)), int(a + np.nanargmax(part))
        gap = np.flatnonzero(np.isnan(part))
        kept += sorted({low, high, *(int(a + g) for g in gap[:1])})
    return t[kept], y[kept]


def spans(t: Array, values: Array) -> Iterator[tuple[float, float, int]]:
    """(from, to, value) of a column of indexes that holds from each sample to the next."""
    if not len(t):
        return
    change = np.append(np.flatnonzero(np.diff(values, prepend=values[0] - 1)), len(values))
    for a, b in itertools.pairwise(change):
        yield float(t[a]), float(t[min(b, len(t) - 1)]), int(values[a])


def plots(run: Run) -> Iterator[tuple[str, str, str]]:
    """(title, what it shows, SVG) of everything that the run has data for."""
    import matplotlib

    makers: tuple[tuple[str, str, Callable[[Run], Figure | None]], ...] = (
        ("Mode, reaction and faults", "A bar is the time that a mode or a reaction was in force, or a fault active "
         "or latched.", _timeline),
        ("The action queue", "Depth, requests and arrivals; below, T_inference of each chunk against what was left "
         "to execute when it was asked for.", _queue),
        ("T_execution", "Motion left in the queue.", _execution),
        ("Age of the executed actions", "From the observation behind an action to its execution.", _age),
        ("Joints", "Goal and present position; dashed, the limits. Body joints in rad, the gripper 0 to 1.", _joints),
        ("Following error", "Distance of the present position from the goal.", _following),
        ("Steps on the wire", "Change of the goal from tick to tick, as a share of the greatest that may be written.",
         _steps),
        ("Temperature, voltage, load", "As the servos report them.", _health),
        ("Lateness of the servo loop", "Of the wake-up of each tick.", _lateness),
    )  # fmt: skip
    for title, about, make in makers:
        with matplotlib.rc_context(STYLE):
            figure = make(run)
            if figure is not None:
                for axes in figure.axes:
                    axes.set_xlim(0, max(_seconds(run, run.end_ns), 1e-3))
                yield title, about, svg(figure)


def svg(figure: Figure) -> str:
    """An <svg> element that takes its ink from the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = _PATH.sub(lambda m: _NUMBER.sub(r"\1", m[0]), text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    for colour, of_page in PAGE_COLOURS.items():
        text = text.replace(colour, of_page)
    return text


def _figure(rows: int, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    found = figure.subplots(rows, columns, sharex=True, squeeze=False)
    axes = [a for row in found for a in row]
    for one in axes:
        one.grid(color=GRID, lw=0.5)
        one.set_axisbelow(True)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    for one in found[-1]:
        one.set_xlabel("s")
    return figure, axes


def _seconds(run: Run, t_ns: NDArray[np.int64] | int) -> Any:
    return (t_ns - run.start_ns) / 1e9


def _line(axes: Axes, run: Run, y: Array, colour: str, label: str = "") -> None:
    t, shown = envelope(np.asarray(_seconds(run, run.t_ns)), y)
    axes.plot(t, shown, color=colour, lw=0.9, label=label)


def _empty(run: Run, column: str) -> bool:
    values = run.columns.get(column)
    return values is None or not values.size or bool(np.all(np.isnan(values)))


# --- the plots ------------------------------------------------------------------------------------


def _timeline(run: Run) -> Figure | None:
    found = episodes(run)
    if _empty(run, "mode") and not found:
        return None
    rows: list[str] = []
    faults = list(dict.fromkeys(e.fault for e in found))
    figure, (axes,) = _figure(1, 0.9 + 0.3 * (2 + len(faults)))
    t = np.asarray(_seconds(run, run.t_ns))
    seen: dict[str, str] = {}
    for column, names, colours in (("mode", MODES, MODE_COLOURS), ("reaction", REACTIONS, REACTION_COLOURS)):
        if _empty(run, column):
            continue
        for a, b, value in spans(t, run.columns[column]):
            if colour := colours.get(names[value]):
                axes.barh(len(rows), max(b - a, t[-1] / 2000), left=a, height=0.7, color=colour)
                seen[f"{column} {names[value]}"] = colour
        rows.append(column)
    for fault in faults:
        for e in (e for e in found if e.fault == fault):
            _fault_bar(axes, run, e, len(rows))
        rows.append(f"{fault} {BY_ID[fault].name}")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    handles = [_patch(colour, name) for name, colour in seen.items()]
    if handles:
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=6, fontsize=8, frameon=False)
    return figure


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _fault_bar(axes: Axes, run: Run, e: Episode, row: int) -> None:
    colour = REACTION_COLOURS.get(e.reaction, "#888888")
    a, b = _seconds(run, e.start_ns), _seconds(run, e.end_ns)
    axes.barh(row, max(b - a, _seconds(run, run.end_ns) / 400), left=a, height=0.7, color=colour,
              hatch="///" if e.latched else None, edgecolor=GRID, linewidth=0)  # fmt: skip


def _queue(run: Run) -> Figure | None:
    if not run.chunks and _empty(run, "queue_depth"):
        return None
    samples: list[dict[str, Any]] = []
    if "queue_depth" in run.columns:
        t, depth = envelope(run.t_ns.astype(np.float64), run.columns["queue_depth"])
        samples = [{"t_ns": a, "queue_depth": b} for a, b in zip(t.tolist(), depth.tolist(), strict=True)]
    events = [msgspec.to_builtins(e) for e in (*run.chunks, *run.gaps)]
    figure = queue_figure(samples, events, start_ns=run.start_ns, title="", chunk_size=run.chunk_size,
                          threshold_actions=run.threshold_actions)  # fmt: skip
    figure.set_size_inches(WIDTH, 5)
    if len(run.chunks) + len(run.gaps) > MAX_MARKS:
        figure.set_dpi(110)
        for axes in figure.axes:
            for artist in (*axes.collections, *axes.lines, *axes.patches):
                artist.set_rasterized(True)
    return figure


def _execution(run: Run) -> Figure | None:
    if _empty(run, "t_execution_ms"):
        return None
    figure, (axes,) = _figure(1, 1.9)
    _line(axes, run, run.columns["t_execution_ms"], COLOURS[0])
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    return figure


def _age(run: Run) -> Figure | None:
    if _empty(run, "age_ms"):
        return None
    figure, (axes,) = _figure(1, 1.9)
    _line(axes, run, run.columns["age_ms"], COLOURS[0])
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    return figure


def _joints(run: Run) -> Figure | None:
    if _empty(run, "goal") and _empty(run, "present"):
        return None
    n = len(run.joints)
    figure, every = _figure(-(-n // 2), 1.55 * -(-n // 2) + 0.3, 2)
    for i, axes in enumerate(every):
        if i >= n:
            axes.set_visible(False)
            continue
        for column, colour in (("present", PRESENT), ("goal", GOAL)):
            if column in run.columns:
                _line(axes, run, run.columns[column][:, i], colour, column)
        if run.limits:
            for limit in run.limits[i][:2]:
                axes.axhline(limit, color=LATE, lw=0.7, ls="--")
        axes.set_title(run.joints[i][:60], loc="left")
    every[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, frameon=False)
    return figure


def _each_joint(run: Run, values: Array | None, unit: str) -> Figure | None:
    if values is None or not values.size or np.all(np.isnan(values)):
        return None
    figure, (axes,) = _figure(1, 2.3)
    _all_joints(axes, run, values)
    axes.set_ylabel(unit)
    return figure


def _all_joints(axes: Axes, run: Run, values: Array) -> None:
    t = np.asarray(_seconds(run, run.t_ns[-len(values) :]))
    for i, joint in enumerate(run.joints):
        shown_t, shown = envelope(t, values[:, i])
        axes.plot(shown_t, shown, color=COLOURS[i % len(COLOURS)], lw=0.8, label=_plain(joint))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=8, fontsize=8, frameon=False)


def _plain(label: str) -> str:
    return label[:40].lstrip("_") or "-"  # matplotlib leaves labels with a leading underscore out


def _following(run: Run) -> Figure | None:
    return _each_joint(run, following_error(run), "rad; gripper 0..1")


def _steps(run: Run) -> Figure | None:
    figure = _each_joint(run, steps(run), "share of one step")
    if figure is not None:
        figure.axes[0].axhline(1, color=LATE, lw=0.8, ls="--")
        figure.axes[0].set_ylim(0, 1.08)
    return figure


def _health(run: Run) -> Figure | None:
    shown = [(c, unit) for c, unit in (("temperature_c", "°C"), ("voltage_v", "V"), ("load", "of full load"))
             if not _empty(run, c)]  # fmt: skip
    if not shown:
        return None
    figure, every = _figure(len(shown), 1.5 * len(shown) + 0.4)
    for axes, (column, unit) in zip(every, shown, strict=True):
        _all_joints(axes, run, run.columns[column])
        axes.set_ylabel(unit)
        if axes is not every[0] and (legend := axes.get_legend()) is not None:
            legend.remove()
    return figure


def _lateness(run: Run) -> Figure | None:
    if _empty(run, "late_us"):
        return None
    figure, (axes,) = _figure(1, 1.9)
    _line(axes, run, np.maximum(run.columns["late_us"], 0.1), COLOURS[0])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("µs")
    return figure


def captions(found: Sequence[Episode], run: Run) -> Iterator[tuple[str, ...]]:
    """A row a fault: when, for how long, which, its reaction, what vlad does then."""
    for e in found:
        row = BY_ID[e.fault]
        response = row.response
        if like := re.fullmatch(r"as row (\d+)", response):
            response = BY_ID[int(like[1])].response
        yield (f"{_seconds(run, e.start_ns):.3f}", f"{(e.end_ns - e.start_ns) / 1e9:.3f}", f"{row.test_id} {row.title}",
               (e.reaction or "-") + (", latched" if e.latched else ""), response)  # fmt: skip
