"""Has a camera moved between episodes? Features of a picture without the arm, matched with the first episode's.

What a feature moved by is measured where the feature is. Nothing is extrapolated to the rest of the picture: where
features are few, that is what goes wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vlad.observation import Pixels

FEATURES = 1500
MIN_MATCHES = 5
_CONTRAST, _EDGE = 0.01, 20.0  # of SIFT: a table has few corners, and the edges of its planks count too
_RATIO = 0.8  # Lowe 2004, 7.1
_FAR = 0.5  # of the picture's width: further apart it is another thing that looks the same
_INLIER_PX = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Matches:
    """which: features of the first episode, int `[n]`. a, b: where they are there and here, px `[n, 2]`."""

    which: NDArray[np.int64]
    a: NDArray[np.float32]
    b: NDArray[np.float32]


class Drift:
    """Fed with one picture of each episode, the first of which all others are compared with."""

    def __init__(self) -> None:
        self._sift = cv2.SIFT.create(FEATURES, contrastThreshold=_CONTRAST, edgeThreshold=_EDGE)
        self._reference: tuple[NDArray[np.float32], NDArray[np.float32] | None] | None = None
        self._matches: list[Matches] = []
        self.width = 0

    def add(self, picture: NDArray[np.uint8]) -> None:
        """picture: grey `[height, width]`, of the size of the first."""
        points, described = self._described(picture)
        if self._reference is None:
            self._reference = points, described
            self.width = picture.shape[1]
        first, reference = self._reference
        nothing = np.empty((0, 2), np.float32)
        if reference is None or described is None or len(described) < 2:
            self._matches.append(Matches(np.empty(0, np.int64), nothing, nothing))
            return
        pairs = [
            (near.queryIdx, near.trainIdx)
            for near, next_ in cv2.BFMatcher().knnMatch(reference, described, k=2)
            if near.distance < _RATIO * next_.distance
        ]
        which, here = np.array(pairs, np.int64).reshape(-1, 2).T
        close = np.linalg.norm(first[which] - points[here], axis=1) < _FAR * self.width
        which, here = which[close], here[close]
        self._matches.append(Matches(which, first[which], points[here]))

    def moved_px(self) -> list[float | None]:
        """Of each episode how far its picture has moved, px; None where too few features say so.

        A feature counts if in most of the episodes that have it it moves along with most others: what is carried
        about between episodes does not.
        """
        if self._reference is None:
            return []
        seen = np.zeros(len(self._reference[0]))
        together = np.zeros_like(seen)
        for m in self._matches:
            seen[m.which] += 1
            together[m.which[_consensus(m)]] += 1
        fixed = (seen > 0) & (together >= 0.5 * seen)
        return [self._moved(m, fixed) for m in self._matches]

    def _moved(self, m: Matches, fixed: NDArray[np.bool_]) -> float | None:
        kept = fixed[m.which]
        m = Matches(m.which[kept], m.a[kept], m.b[kept])
        same = _consensus(m)
        if same.sum() < max(MIN_MATCHES, len(same) / 2):
            return None
        return float(np.median(np.linalg.norm(m.b[same] - m.a[same], axis=1)))

    def _described(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        points, described = self._sift.detectAndCompute(picture, None)
        found = None if described is None else np.asarray(described, np.float32)
        return np.array([p.pt for p in points], np.float32).reshape(-1, 2), found


def _consensus(m: Matches) -> NDArray[np.bool_]:
    """Those that one shift, turn and scale explains."""
    if len(m.which) < MIN_MATCHES:
        return np.zeros(len(m.which), np.bool_)
    cv2.setRNGSeed(0)
    _, kept = cv2.estimateAffinePartial2D(m.a, m.b, ransacReprojThreshold=_INLIER_PX, maxIters=5000, confidence=0.999)
    return np.zeros(len(m.which), np.bool_) if kept is None else kept.ravel().astype(np.bool_)


def grey(pictures: Sequence[Pixels], width: int) -> NDArray[np.uint8]:
    """Luma `[n, height, width]` of pictures, made smaller where they are wider."""
    found = []
    for picture in pictures:
        luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if luma.shape[1] > width:
            luma = cv2.resize(luma, (width, round(luma.shape[0] * width / luma.shape[1])), interpolation=cv2.INTER_AREA)
        found.append(luma)
    return np.asarray(np.stack(found), np.uint8)
