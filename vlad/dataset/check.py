"""The recording checklist, measured: every item of docs/dataset-check.md for one dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from vlad.dataset.item import TITLES, Item
from vlad.dataset.motion import Motion, motions
from vlad.dataset.motion_items import Places, motion_items, places
from vlad.dataset.picture_items import picture_items
from vlad.dataset.reader import Recording
from vlad.dataset.time_items import time_items
from vlad.dataset.views import CameraView, look


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """items: in the order of TITLES."""

    recording: Recording
    cameras: tuple[CameraView, ...]
    motions: tuple[Motion, ...]
    places: Places
    items: tuple[Item, ...]

    @property
    def ok(self) -> bool:
        """Nothing is bad; what could not be measured is not."""
        return all(item.verdict != "bad" for item in self.items)

    def facts(self) -> list[tuple[str, str]]:
        """What the dataset is, for a person."""
        r = self.recording
        length = f"{r.frames} frames at {r.dataset.rate_hz:g} Hz, {r.frames / r.dataset.rate_hz / 60:.1f} minutes"
        known = [e.success for e in r.episodes if e.success is not None]
        looked = {c.name: sum(len(v.frames) for v in c.views) for c in self.cameras}
        return [
            ("episodes", f"{len(r.episodes)}, {length}"),
            ("success", f"{sum(known)} of {len(known)}" if known else "not recorded"),
            ("tasks", "; ".join(r.dataset.tasks)),
            ("joints", ", ".join(r.dataset.joints)),
            ("cameras", ", ".join(f"{c.name} {c.size[0]}x{c.size[1]}" for c in self.cameras) or "none"),
            ("pictures looked at", ", ".join(f"{n} of {name}" for name, n in looked.items()) or "none"),
        ]


def check(
    recording: Recording, pictures: int, clusters: int | None, validation: Sequence[int] | None,
    report: Callable[[str], None],
) -> Checked:  # fmt: skip
    """Everything. pictures: of each episode and camera. clusters: how many start positions there are, where that is
    known. validation: recorded clusters that are held out. Raises BundleError for videos that cannot be read."""
    cameras = [look(recording, camera, pictures, report) for camera in recording.dataset.cameras]
    return judge(recording, cameras, clusters, validation)


def judge(
    recording: Recording, cameras: Sequence[CameraView], clusters: int | None = None,
    validation: Sequence[int] | None = None,
) -> Checked:  # fmt: skip
    """The same of cameras that were looked at."""
    moved = motions(recording)
    at = places(recording, moved, clusters)
    found = [*picture_items(cameras, moved), *time_items(recording, cameras),
             *motion_items(recording, moved, at, cameras, validation)]  # fmt: skip
    order = list(TITLES)
    return Checked(recording, tuple(cameras), tuple(moved), at, tuple(sorted(found, key=lambda i: order.index(i.key))))


def as_json(checked: Checked) -> dict[str, Any]:
    """For `--json`: see docs/dataset-check.md."""
    return {
        "dataset": str(checked.recording.path),
        "ok": checked.ok,
        "facts": dict(checked.facts()),
        "items": [dataclasses.asdict(item) for item in checked.items],
    }


def in_words(checked: Checked) -> str:
    """For a terminal."""
    rows = [f"{name:<18} {value}" for name, value in checked.facts()]
    marks = {"good": "good   ", "bad": "BAD    ", "unknown": "unknown"}
    for item in checked.items:
        rows.append(f"{marks[item.verdict]} {item.title}: {item.value} [{item.threshold}]")
        if item.advice:
            rows.append(f"        -> {item.advice}")
    counts = {word: sum(i.verdict == word for i in checked.items) for word in marks}
    rows.append(", ".join(f"{n} {word}" for word, n in counts.items() if n))
    return "\n".join("".join(c if c.isprintable() else "?" for c in row) for row in rows)  # names may hold anything
