"""The plots of the recording checklist, as SVG to stand inside a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from vlad.dataset.check import Checked
from vlad.dataset.motion import gripper_joint
from vlad.dataset.motion_items import COVERED
from vlad.dataset.picture_items import DRIFT, LIGHT, blur_limit_px, reference
from vlad.dataset.time_items import JITTER
from vlad.dataset.views import gain
from vlad.queue_plot import GRID, LATE
from vlad.report_plots import COLOURS, STYLE, WIDTH, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plots(checked: Checked) -> Iterator[tuple[str, str, str]]:
    """(title, what it shows, SVG) of everything that the dataset has data for."""
    import matplotlib

    makers = (
        ("Camera pose drift", "Of each episode's background against the first's. Dashed: the threshold.", _drift),
        ("Lighting", "Brightness of the background against the median episode's; a bar: the range within the episode.",
         _lighting),
        ("Focus", "Radius of the sharpest edges.", _focus),
        ("Start positions", "Joints at the grasp, in the two directions in which they differ most; a colour and number "
         "for each cluster.", _clusters),
        ("Range of each joint", "1st to 99th percentile, in the recording's units; the line: the median.", _joints),
        ("Time between frames", "Of the moments at which joints were read. Dashed: the threshold.", _intervals),
    )  # fmt: skip
    for title, about, make in makers:
        with matplotlib.rc_context(STYLE):
            figure = make(checked)
            if figure is not None:
                yield title, about, svg(figure)


def _axes(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(color=GRID, lw=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _finish(figure: Figure, axes: Axes, across: str, up: str) -> Figure:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, fontsize=8, frameon=False)
    return figure


def _drift(checked: Checked) -> Figure | None:
    if not checked.cameras:
        return None
    figure, axes = _axes(2.6)
    for at, camera in enumerate(checked.cameras):
        share = [np.nan if m is None else 100 * m / camera.width for m in camera.moved_px]
        axes.plot([v.episode for v in camera.views], share, ".-", lw=0.8, ms=4, color=COLOURS[at % len(COLOURS)],
                  label=camera.name)  # fmt: skip
    axes.axhline(100 * DRIFT, color=LATE, lw=0.8, ls="--")
    axes.set_ylim(bottom=0)
    return _finish(figure, axes, "episode", "% of the width")


def _lighting(checked: Checked) -> Figure | None:
    fixed = [c for c in checked.cameras if not c.moving]
    if not fixed:
        return None
    figure, axes = _axes(2.6)
    for at, camera in enumerate(fixed):
        usual = reference([v.usual for v in camera.views])
        levels = np.array([float(gain(v.usual, usual).mean()) for v in camera.views])
        down = [max(0.0, 1 - float(v.gains.mean(axis=1).min())) for v in camera.views]
        up = [max(0.0, float(v.gains.mean(axis=1).max()) - 1) for v in camera.views]
        axes.errorbar([v.episode for v in camera.views], levels, yerr=levels * np.array([down, up]), fmt=".-", lw=0.8,
                      ms=4, elinewidth=0.6, color=COLOURS[at % len(COLOURS)], label=camera.name)  # fmt: skip
    for side in (1 - LIGHT, 1 + LIGHT):
        axes.axhline(side, color=LATE, lw=0.8, ls="--")
    return _finish(figure, axes, "episode", "brightness")


def _focus(checked: Checked) -> Figure | None:
    if not checked.cameras:
        return None
    figure, axes = _axes(2.4)
    for at, camera in enumerate(checked.cameras):
        share = [100 * v.blur_px / blur_limit_px(camera) for v in camera.views]
        axes.plot([v.episode for v in camera.views], share, ".-", lw=0.8, ms=4, color=COLOURS[at % len(COLOURS)],
                  label=camera.name)  # fmt: skip
    axes.axhline(100, color=LATE, lw=0.8, ls="--")
    axes.set_ylim(bottom=0)
    return _finish(figure, axes, "episode", "% of the threshold")


def _clusters(checked: Checked) -> Figure | None:
    at = checked.places
    if len(at.episodes) < 3:
        return None
    labels = at.labels
    centred = at.points - at.points.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions[:2].T
    figure, axes = _axes(4.0)
    for order, name in enumerate(sorted({labels.get(e, -1) for e in at.episodes})):
        inside = np.array([labels.get(e, -1) == name for e in at.episodes])
        axes.plot(*flat[inside].T, ".", ms=6, color=COLOURS[order % len(COLOURS)])
        axes.annotate(str(name) if name >= 0 else "?", flat[inside].mean(axis=0), textcoords="offset points",
                      xytext=(7, 7), fontsize=10)  # fmt: skip
    return _finish(figure, axes, "units of the recording", "")


def _joints(checked: Checked) -> Figure | None:
    states = checked.recording.columns["observation.state"]
    low, middle, high = np.percentile(states, (1, 50, 99), axis=0)
    names = checked.recording.dataset.joints
    gripper = gripper_joint(checked.recording)
    figure, axes = _axes(0.8 + 0.25 * len(names))
    colours = [COLOURS[2] if i == gripper else COLOURS[0] for i in range(len(names))]
    axes.barh(range(len(names)), high - low, left=low, height=0.5, color=colours)
    axes.plot(middle, range(len(names)), "|", color=COLOURS[1], ms=12)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    return _finish(figure, axes, f"units of the recording; less than {COVERED:g} wide is too little", "")


def _intervals(checked: Checked) -> Figure | None:
    recording = checked.recording
    if not recording.clocks:
        return None
    period_ms = 1e3 / recording.dataset.rate_hz
    steps = np.concatenate([np.diff(recording.of("capture_ns", e)[:, 0]) / 1e6 for e in recording.episodes])
    figure, axes = _axes(2.4)
    axes.hist(steps.clip(0, 3 * period_ms), bins=120, color=COLOURS[0])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    for side in (1 - JITTER, 1 + JITTER):
        axes.axvline(side * period_ms, color=LATE, lw=0.8, ls="--")
    return _finish(figure, axes, "ms", "frames")
