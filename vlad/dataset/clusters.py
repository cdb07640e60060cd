"""Where episodes start, told by where the arm grasped: as many clusters as are apart from one another."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

MOST = 40
FEWEST_EACH = 3  # episodes of a cluster, on average
APART = 0.5  # silhouette; Kaufman and Rousseeuw 1990: 0.51 to 0.70 is a reasonable structure
MAX_POINTS = 1500  # that are compared, each with each; the others go to the nearest cluster
_ATTEMPTS = 20


def find(points: Array, count: int | None = None) -> tuple[Labels, float]:
    """A cluster for each point `[n, dimensions]` and their mean silhouette, the best of 2 to MOST clusters (or so many
    as `count` says). The silhouette is 0 where there are too few points to tell.
    """
    some = points[compared(points)]
    most = min(MOST, len(some) // FEWEST_EACH)
    best = np.zeros((1, points.shape[1])), 0.0
    for k in [count] if count is not None else range(2, most + 1):
        if not 1 < k < len(some):
            continue
        cv2.setRNGSeed(0)
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
        start = np.zeros((len(some), 1), np.int32)
        _, found, centres = cv2.kmeans(some.astype(np.float32), k, start, criteria, _ATTEMPTS, cv2.KMEANS_PP_CENTERS)
        score = float(silhouettes(some, np.asarray(found, np.int64).ravel()).mean())
        if score > best[1]:
            best = np.asarray(centres, np.float64), score
    apart = np.stack([np.linalg.norm(points - centre, axis=1) for centre in best[0]])
    return np.asarray(apart.argmin(axis=0), np.int64), best[1]


def compared(points: Array) -> Labels:
    """Which to take so that they are MAX_POINTS at most: all, or some by chance, the same each time."""
    if len(points) <= MAX_POINTS:
        return np.arange(len(points))
    return np.sort(np.random.default_rng(0).choice(len(points), MAX_POINTS, replace=False))


def silhouettes(points: Array, labels: Labels) -> Array:
    """Of each point: 1 where its cluster is far from the others, below 0 where another cluster is nearer."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    names = np.unique(labels)
    if len(names) < 2:
        return np.zeros(len(points))
    sums = np.stack([apart[:, labels == n].sum(axis=1) for n in names], axis=1)
    sizes = np.array([(labels == n).sum() for n in names])
    own = np.searchsorted(names, labels)
    rows = np.arange(len(points))
    inside = sums[rows, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[rows, own] = np.inf
    nearest = means.min(axis=1)
    value = (nearest - inside) / np.maximum(np.maximum(nearest, inside), 1e-12)
    return np.where(sizes[own] > 1, value, 0.0)
