"""Faults 1-6 judged from what a camera delivers. Pure: time is passed in, nothing is opened.

One `CameraHealth` per camera and one `FrameSkew` for all. Both are told about every poll of the
capture stage and answer with the conditions that hold now; reactions and latches are the
watchdog's.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vlad.camera import CameraState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vlad.camera import Frame

WINDOW_NS = 1_000_000_000
DARK_NS = 900_000_000  # and a frame's way to here: known within a second
BAD_SHARE = 0.2
FROZEN_FRAMES = 15
MOVED_RAD = np.deg2rad(2.0)
GOOD_FRAMES_TO_CLEAR = 5  # hysteresis of lost and stalled: one stray frame is no camera
DARK_MEAN, BRIGHT_MEAN, FLAT_SPREAD = 12.0, 243.0, 2.0  # of 0..255
SAMPLES = 4096


class CameraFault(IntEnum):
    """Rows of the fault table."""

    LOST = 1
    STALLED = 2
    FROZEN = 3
    BAD_FRAMES = 4
    DARK = 5
    SKEW = 6


@dataclass(frozen=True, slots=True)
class Look:
    """What a glance at a frame tells. fingerprint: 64 bits of about 4096 sampled bytes.
    mean, spread: of the samples, 0..255; spread is their standard deviation."""

    seq: int
    fingerprint: int
    mean: float
    spread: float

    @property
    def dark(self) -> bool:
        """Nothing can be seen: black, saturated, or of one colour."""
        return not DARK_MEAN <= self.mean <= BRIGHT_MEAN or self.spread < FLAT_SPREAD


def look_at(frame: Frame) -> Look:
    """Sample a frame. The step is prime to 3 and to the row length of no common picture, so that
    all three channels and all columns are met."""
    flat = frame.image.reshape(-1)
    step = max(1, flat.size // SAMPLES) | 1
    while step % 3 == 0 or step % 5 == 0:
        step += 2
    sample = flat[::step]
    digest = hashlib.blake2b(sample.tobytes(), digest_size=8).digest()
    return Look(
        frame.seq, int.from_bytes(digest, "little"), float(sample.mean()), float(sample.std())
    )


class CameraHealth:
    """The conditions of one camera.

    fps: nominal rate, which sets how many frames make a second's verdict.
    """

    __slots__ = (
        "_bad_totals",
        "_conditions",
        "_dark_since_ns",
        "_equal_frames",
        "_good_since_gap",
        "_min_frames",
        "_moved_rad",
        "_newest",
        "_posture",
    )

    def __init__(self, fps: float) -> None:
        self._min_frames = max(3, int(fps / 2))
        self._bad_totals: deque[tuple[int, int, int]] = deque()
        self._newest: Look | None = None
        self._good_since_gap = GOOD_FRAMES_TO_CLEAR
        self._equal_frames = 0
        self._posture: tuple[float, ...] | None = None
        self._moved_rad = 0.0
        self._dark_since_ns: int | None = None
        self._conditions: set[CameraFault] = set()

    def update(
        self,
        now_ns: int,
        state: CameraState,
        look: Look | None,
        *,
        good_total: int,
        bad_total: int,
        joints_rad: Sequence[float],
    ) -> frozenset[CameraFault]:
        """One poll of the camera.

        state: of the camera at now_ns. look: at its newest frame, None while there is none.
        good_total, bad_total: its `frames` and `bad` counters. joints_rad: present positions of
        the body joints, all that move the picture; empty where they are not known.
        """
        new = look is not None and (self._newest is None or look.seq != self._newest.seq)
        if look is not None and new:
            self._judge_motion(look, joints_rad)
            self._judge_light(now_ns, look)
            self._newest = look
        self._judge_link(state, new)
        self._judge_bad_share(now_ns, good_total, bad_total)
        return frozenset(self._conditions)

    def _set(self, fault: CameraFault, holds: bool) -> None:
        if holds:
            self._conditions.add(fault)
        else:
            self._conditions.discard(fault)

    def _judge_link(self, state: CameraState, new: bool) -> None:
        if state is CameraState.OK:
            self._good_since_gap += new
            if self._good_since_gap >= GOOD_FRAMES_TO_CLEAR:
                self._set(CameraFault.LOST, False)
                self._set(CameraFault.STALLED, False)
            return
        self._good_since_gap = 0
        self._equal_frames = 0
        self._posture = None
        self._dark_since_ns = None
        self._conditions.clear()  # one cause at a time: pictures are judged anew when they come
        self._set(CameraFault.LOST, state is CameraState.LOST)
        self._set(CameraFault.STALLED, state is CameraState.STALLED)

    def _judge_motion(self, look: Look, joints_rad: Sequence[float]) -> None:
        same = self._newest is not None and look.fingerprint == self._newest.fingerprint
        same = same and not look.dark  # row 5: black is equal to black, and no sign of repetition
        if not same or self._posture is None or len(self._posture) != len(joints_rad):
            self._equal_frames = 1
            self._posture = tuple(joints_rad)
            self._moved_rad = 0.0
        else:
            self._equal_frames += 1
            moved = (abs(a - b) for a, b in zip(joints_rad, self._posture, strict=True))
            self._moved_rad = max(self._moved_rad, max(moved, default=0.0))
        frozen = self._equal_frames >= FROZEN_FRAMES and self._moved_rad > MOVED_RAD
        self._set(CameraFault.FROZEN, frozen)

    def _judge_light(self, now_ns: int, look: Look) -> None:
        if not look.dark:
            self._dark_since_ns = None
        elif self._dark_since_ns is None:
            self._dark_since_ns = now_ns
        self._set(
            CameraFault.DARK,
            self._dark_since_ns is not None and now_ns - self._dark_since_ns >= DARK_NS,
        )

    def _judge_bad_share(self, now_ns: int, good_total: int, bad_total: int) -> None:
        totals = self._bad_totals
        if not totals or (good_total, bad_total) != totals[-1][1:]:
            totals.append((now_ns, good_total, bad_total))
        # The newest entry at least a window old stays: it is the state when the window began.
        while len(totals) >= 2 and totals[1][0] <= now_ns - WINDOW_NS:
            totals.popleft()
        good = good_total - totals[0][1]
        bad = bad_total - totals[0][2]
        self._set(
            CameraFault.BAD_FRAMES,
            good + bad >= self._min_frames and bad > BAD_SHARE * (good + bad),
        )


class FrameSkew:
    """Fault 6: frames that were to be seen together and were captured over a period apart."""

    __slots__ = ("_min_sets", "_pairs", "_period_ns")

    def __init__(self, fps: float) -> None:
        self._period_ns = int(1e9 / fps)
        self._min_sets = max(3, int(fps / 2))
        self._pairs: deque[tuple[int, bool]] = deque()

    def match(self, t_capture_ns: Iterable[int]) -> bool:
        """The frames were captured within a period."""
        times = list(t_capture_ns)
        return not times or max(times) - min(times) <= self._period_ns

    def together(self, now_ns: int, t_capture_ns: Iterable[int]) -> bool:
        """False when the frames of an observation are more than a period apart: drop them."""
        good = self.match(t_capture_ns)
        self._pairs.append((now_ns, good))
        while self._pairs[0][0] <= now_ns - WINDOW_NS:
            self._pairs.popleft()
        return good

    def fault(self) -> bool:
        """True when over 20 % of the observations of the last second had to be dropped."""
        apart = sum(not good for _, good in self._pairs)
        return apart > BAD_SHARE * max(len(self._pairs), self._min_sets)
