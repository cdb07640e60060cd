"""The page of `vlad dataset check --html`: the checklist, its plots, and the pictures that stand out."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np

from vlad.dataset.check import Checked
from vlad.dataset.picture_items import reference
from vlad.dataset.plots import plots
from vlad.dataset.views import CameraView, View, gain, overlaid
from vlad.html_page import document, grid, table, text

VERDICTS = {"good": "good", "bad": "BAD", "unknown": "unknown"}


def page(checked: Checked) -> str:
    """One HTML file without scripts or outside resources."""
    parts = [
        f"<p><strong>{_outcome(checked)}</strong></p>",
        grid(("item", "verdict", "measured", "should be", "what to do"),
             [(i.title, VERDICTS[i.verdict], i.value, i.threshold, i.advice) for i in checked.items]),
        "<h2>The dataset</h2>",
        table(checked.facts()),
        *(f"<figure><h3>{text(title)}</h3><p class=about>{text(about, 2000)}</p>{drawn}</figure>"
          for title, about, drawn in plots(checked)),
        "<h2>Pictures</h2>",
        *(part for camera in checked.cameras for part in _strip(camera)),
    ]  # fmt: skip
    return document(f"Recording checklist: {checked.recording.path.resolve().name}", "\n".join(parts),
                    "What each item measures, and why its threshold is what it is: docs/dataset-check.md.")  # fmt: skip


def _outcome(checked: Checked) -> str:
    bad = [i.title for i in checked.items if i.verdict == "bad"]
    unknown = sum(i.verdict == "unknown" for i in checked.items)
    said = f"Bad: {text('; '.join(bad), 2000)}." if bad else "Nothing is bad."
    return said + (f" {unknown} could not be measured." if unknown else "")


def _strip(camera: CameraView) -> Iterator[str]:
    """The first episode's first picture, and those of the episodes that differ most."""
    usual = reference([v.usual for v in camera.views])
    light = [float(gain(v.usual, usual).mean()) for v in camera.views]
    moved = [m or 0.0 for m in camera.moved_px]
    soft = [v.blur_px if np.isfinite(v.blur_px) else 0.0 for v in camera.views]
    first, shifted = camera.views[0], camera.views[int(np.argmax(moved))]
    yield (f"<p class=about>{text(camera.name)}, {'on the arm' if camera.moving else 'fixed'}. Overlaid: the first "
           "episode red, the most moved one cyan; grey where they are the same.</p><div class=strip>")  # fmt: skip
    yield _figure(first, first.jpeg, "the first")
    yield _figure(shifted, overlaid(first.jpeg, shifted.jpeg), f"most moved, {max(moved):.1f} px, overlaid")
    for at, words in ((np.argmin(light), "darkest"), (np.argmax(light), "brightest"), (np.argmax(soft), "softest")):
        yield _figure(camera.views[int(at)], camera.views[int(at)].jpeg, words)
    yield "</div>"


def _figure(view: View, jpeg: bytes, words: str) -> str:
    return (f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
            f"<figcaption>episode {view.episode}: {text(words)}</figcaption></figure>")  # fmt: skip
