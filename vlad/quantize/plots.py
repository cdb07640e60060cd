"""The plots of the quantisation report, as SVG to stand inside a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlad.queue_plot import GRID, LATE
from vlad.report_plots import COLOURS, STYLE, WIDTH, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Any]
ORDER = ("float16", "bfloat16", "static8", "dynamic8", "token8", "weights4")
SOLVER_ORDER = ("euler", "ab2", "heun", "midpoint")
MARKS = "oPs^Dv"
_LEAST = 1e-7  # drawn for an error of nothing, on a logarithmic axis


def pareto(found: Results) -> str:
    """Predicted and measured error by what is saved."""

    def draw(figure: Figure, axes: Axes) -> None:
        path, verified = found["path"], found["verified"]
        axes.plot([0, *(m["saved"] * 100 for m in path)], [_LEAST, *(max(m["predicted_error"], _LEAST) for m in path)],
                  color=COLOURS[0], marker=".", ms=5, lw=1, label="predicted")  # fmt: skip
        kinds = (True, COLOURS[2], "measured, holds"), (False, LATE, "measured, misses the gate")
        for holds, colour, label in kinds:
            points = [v for v in verified if v["holds"] is holds]
            if points:
                axes.plot([v["saved"] * 100 for v in points], [v["errors"]["chunk_mae"] for v in points], "x",
                          ms=9, mew=2, color=colour, label=label)  # fmt: skip
        kept = sum(m["kept"] for m in path)
        if kept:
            axes.axvline(path[kept - 1]["saved"] * 100, color=COLOURS[3], lw=0.8, label="chosen")
        _gate(axes, found["settings"]["budget"], "budget")
        axes.set_xlabel("saved of the policy's cost, % (model)")
        _error_axis(axes)

    return _drawn(draw, 3.2)


def error_growth(found: Results) -> str:
    """Error after each flow step, a panel for each block."""
    blocks = [b["name"] for b in found["blocks"]]

    def draw(figure: Figure, *every: Axes) -> None:
        for axes, block in zip(every, blocks, strict=True):
            for whole in (w for w in found["wholes"] if w["block"] == block):
                at = _place(ORDER, whole["scheme"])
                axes.plot(range(1, len(whole["steps"]) + 1), [max(e, _LEAST) for e in whole["steps"]], lw=1, ms=4,
                          color=COLOURS[at], marker=MARKS[at % len(MARKS)], label=whole["scheme"])  # fmt: skip
            axes.set_title(block, loc="left")
            axes.set_xlabel("flow step")
            _error_axis(axes, legend=False)
            if axes is not every[0]:
                axes.set_ylabel("")
        handles, labels = every[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=6, fontsize=8, frameon=False)

    return _drawn(draw, 3.0, columns=len(blocks))


def flow_plot(found: Results) -> str:
    """Distance from the policy's own flow and from the fine solution, by evaluations."""

    def draw(figure: Figure, *every: Axes) -> None:
        titles = {"own_mae": "from the policy's own flow", "chunk_mae": "from the fine solution"}
        for axes, (key, title) in zip(every, titles.items(), strict=True):
            for at, solver in enumerate(SOLVER_ORDER):
                rows = [f for f in found["flow"]["table"] if f["solver"] == solver and f[key] > 0]
                rows.sort(key=lambda f: f["evaluations"])
                if rows:
                    axes.plot([f["evaluations"] for f in rows], [f[key] for f in rows], lw=1, ms=4, color=COLOURS[at],
                              marker=MARKS[at], label=solver)  # fmt: skip
            _gate(axes, found["settings"]["gate"]["chunk_mae"], None)
            axes.set_title(title, loc="left")
            axes.set_xlabel("evaluations of the expert")
            _error_axis(axes, legend=False)
            if axes is not every[0]:
                axes.set_ylabel("")
        handles, labels = every[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=6, fontsize=8, frameon=False)

    return _drawn(draw, 3.0, columns=2)


def groups_plot(found: Results) -> str:
    """A row for each group: the chunk error of each scheme."""
    names = list(dict.fromkeys((g["block"], g["group"]) for g in found["groups"]))
    rows = {name: i for i, name in enumerate(names)}

    def places(groups: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[int]]:
        return ([max(g["errors"]["chunk_mae"], _LEAST) for g in groups],
                [rows[g["block"], g["group"]] for g in groups])  # fmt: skip

    def draw(figure: Figure, axes: Axes) -> None:
        for at, scheme in enumerate(ORDER):
            each = [g for g in found["groups"] if g["scheme"] == scheme and g["errors"] is not None]
            if each:
                axes.plot(*places(each), ls="", ms=4, color=COLOURS[at], marker=MARKS[at], label=scheme)
        chosen = [g for g in found["groups"] if g["chosen"]]
        axes.plot(*places(chosen), ls="", ms=9, mfc="none", mec=COLOURS[3], marker="o")
        axes.axvline(found["settings"]["gate"]["chunk_mae"], color=LATE, lw=0.8, ls="--")
        axes.set_yticks(range(len(names)), [f"{block} {group}" for block, group in names], fontsize=7)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_percent)
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("mean error of a chunk, of each joint's range")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, fontsize=8, frameon=False)

    return _drawn(draw, 0.9 + 0.16 * len(names))


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _gate(axes: Axes, value: float, label: str | None) -> None:
    axes.axhline(value, color=LATE, lw=0.8, ls="--", label=label)


def _percent(value: float, _: object) -> str:
    return f"{100 * value:.2g} %"


def _error_axis(axes: Axes, *, legend: bool = True) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_percent)
    axes.yaxis.set_minor_formatter("")
    axes.set_ylabel("of each joint's range")
    if legend:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, fontsize=8, frameon=False)


def _drawn(draw: Any, height: float, columns: int = 1) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        found = figure.subplots(1, columns, sharey=True, squeeze=False)
        for axes in found[0]:
            axes.grid(color=GRID, lw=0.5)
            axes.set_axisbelow(True)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        draw(figure, *found[0])
        return svg(figure)
