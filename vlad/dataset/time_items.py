"""Checklist items about time: frames that are not there, jitter, cameras behind. Why so: docs/dataset-check.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vlad.dataset.item import Item, item, some
from vlad.dataset.reader import TOLERANCE_S, Recording
from vlad.dataset.views import CameraView

GAPS = 0.01  # of the frames
REPEATS = 0.02
JITTER = 0.2  # of a period
SKEW = 1.0  # periods, between cameras
AGE = 2.0  # periods, of a picture: vlad's own max_frame_age
_NOT_RECORDED = "not recorded"
_RECORD = "LeRobot's timestamp is frame_index / fps and hides it: record with vlad, which adds capture_ns"


def time_items(recording: Recording, cameras: Sequence[CameraView]) -> Iterator[Item]:
    """Of the tables, and of the videos' frames."""
    yield dropped(recording, cameras)
    yield jitter(recording)
    yield skew(recording)


def dropped(recording: Recording, cameras: Sequence[CameraView]) -> Item:
    """Frames that the videos lack, that the tables lack, that were captured late or twice."""
    rate = recording.dataset.rate_hz
    absent = {c.name: c.missing for c in cameras if c.missing}
    skipped, late, intervals = [], {}, 0
    twice: dict[str, list[int]] = {name: [] for name in recording.clocks[1:]}
    for episode in recording.episodes:
        numbers, times = recording.of("frame_index", episode), recording.of("timestamp", episode)
        on_grid = np.abs(times - np.arange(episode.length) / rate) <= TOLERANCE_S
        if (numbers != np.arange(episode.length)).any() or not on_grid.all():
            skipped.append(episode.index)
        if recording.clocks:
            clocks = recording.of("capture_ns", episode)
            steps = np.diff(clocks, axis=0)
            intervals += len(steps)
            if gaps := int((steps[:, 0] > 1.5e9 / rate).sum()):
                late[episode.index] = gaps
            for at, name in enumerate(recording.clocks[1:], start=1):
                twice[name].append(int((steps[:, at] == 0).sum()))
    gap_share = sum(late.values()) / max(intervals, 1)
    repeats = {name: sum(each) / max(intervals, 1) for name, each in twice.items()}
    lost = sum(sum(each.values()) for each in absent.values())
    words = [f"{lost} missing in the videos"]
    if skipped:
        words.append(f"frame_index or timestamp skips in episodes {some(skipped)}")
    if recording.clocks:
        words.append(f"{gap_share:.1%} captured late, {max(repeats.values(), default=0):.1%} seen twice")
    else:
        words.append("late ones not recorded")
    good = not lost and not skipped and gap_share <= GAPS and all(share <= REPEATS for share in repeats.values())
    where = [f"{name} lacks frames of episodes {some(list(each))}" for name, each in absent.items()]
    where += [f"gaps in episodes {some(list(late))}"] if late else []
    where += [f"{name} gave a picture twice" for name, share in repeats.items() if share > REPEATS]
    return item("dropped_frames", ", ".join(words),
                f"none missing, {GAPS:.0%} late, {REPEATS:.0%} twice", good,
                "fewer or smaller pictures, another USB port, a faster disk; record again: " + "; ".join(where),
                missing=absent, skipped=skipped, late=late, twice=repeats)  # fmt: skip


def jitter(recording: Recording) -> Item:
    """Of the intervals between frames, gaps aside."""
    threshold = f"p99 within {JITTER:.0%} of a period"
    if not recording.clocks:
        return item("timestamp_jitter", _NOT_RECORDED, threshold, None, _RECORD)
    period = 1e9 / recording.dataset.rate_hz
    steps = {e.index: np.abs(np.diff(recording.of("capture_ns", e)[:, 0]) / period - 1) for e in recording.episodes}
    off = {episode: each[each <= 0.5] for episode, each in steps.items()}  # the others are dropped frames
    every = np.concatenate(list(off.values()))
    p99 = float(np.quantile(every, 0.99)) if len(every) else 0.0
    worst = sorted((e for e in off if len(off[e])), key=lambda e: -float(off[e].max()))[:3]
    return item("timestamp_jitter", f"p99 {p99:.1%} of a period ({p99 * period / 1e6:.1f} ms)", threshold,
                p99 <= JITTER, "fewer programs beside the recording; worst: episodes " + some(worst), p99=p99,
                p50=float(np.median(every)) if len(every) else 0.0)  # fmt: skip


def skew(recording: Recording) -> Item:
    """Between the pictures of one frame, and between them and the joints."""
    threshold = f"p95 {SKEW:g} period between cameras, {AGE:g} periods of age"
    if not recording.clocks:
        return item("camera_skew", _NOT_RECORDED, threshold, None, _RECORD)
    if len(recording.clocks) < 2:
        return item("camera_skew", "no cameras", threshold, None, "record with cameras")
    period = 1e9 / recording.dataset.rate_hz
    clocks = recording.columns["capture_ns"]
    ages = (clocks[:, :1] - clocks[:, 1:]) / period
    apart = float(np.quantile(np.ptp(ages, axis=1), 0.95))
    old = np.quantile(np.abs(ages), 0.95, axis=0)
    names = [name.removeprefix("observation.images.") for name in recording.clocks[1:]]
    worst = names[int(old.argmax())]
    value = f"p95 {apart:.2f} periods between cameras, {float(old.max()):.2f} of age ({worst})"
    return item("camera_skew", value, threshold, apart <= SKEW and float(old.max()) <= AGE,
                f"{worst} is behind: give it a port of its own, MJPG instead of YUYV, less light-hungry exposure",
                apart=apart, age=dict(zip(names, old.tolist(), strict=True)), period_ns=period)  # fmt: skip
