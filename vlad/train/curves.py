"""Losses over steps: curves.json, and curves.svg to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlad.whole_file import write_whole

NAME, PLOT = "curves.json", "curves.svg"
Point = dict[str, Any]


class Curves:
    """training: `step`, mean `loss` since the point before, `grad_norm`, `lr`. validation: `step`, and the loss of
    each split. What a resumed run will do again is forgotten.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._out = out
        held = json.loads((out / NAME).read_text()) if step and (out / NAME).exists() else {}
        self.training: list[Point] = [p for p in held.get("training", []) if p["step"] <= step]
        self.validation: list[Point] = [p for p in held.get("validation", []) if p["step"] <= step]

    def write(self) -> None:
        text = json.dumps({"training": self.training, "validation": self.validation}, indent=1)
        write_whole(self._out / NAME, text.encode() + b"\n")

    def plot(self) -> None:
        import matplotlib
        from matplotlib.figure import Figure

        from vlad.report_plots import COLOURS, STYLE, WIDTH, svg

        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
            axes = figure.subplots()
            if self.training:
                axes.plot(*_line(self.training, "loss"), lw=0.8, color="#888888", label="training batches")
            names = sorted({k for p in self.validation for k in p} - {"step"})
            for colour, name in zip(COLOURS, names, strict=False):
                points = [p for p in self.validation if name in p]
                axes.plot(*_line(points, name), "o-", ms=4, lw=1.2, color=colour, label=f"{name}, fixed noise")
            axes.set_xlabel("step")
            axes.set_ylabel("loss")
            axes.set_yscale("log")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, frameon=False)
            text = svg(figure)
        if "xmlns=" not in text[:400]:
            text = text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        write_whole(self._out / PLOT, text.encode())


def _line(points: list[Point], name: str) -> tuple[list[float], list[float]]:
    return [p["step"] for p in points], [p[name] for p in points]
