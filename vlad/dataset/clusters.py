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
MAX_POINTS = 1500  # of a silhouette: it takes the distance of each to each
_ATTEMPTS = 20


def find(points: Array, count: int | None = None) -> tuple[Labels, float]:
    """A cluster for each point `[n, dimensions]` and their mean silhouette, the best of 2 to MOST clusters (or so many
    as `count` says). The silhouette is 0 where there are too few points to tell.
    """
    most = min(MOST, len(points) // FEWEST_EACH)
    best = np.zeros(len(points), np.int64), 0.0
    for k in [count] if count is not None else range(2, most + 1):
        if not 1 < k < len(points):
            continue
        cv2.setRNGSeed(0)
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
        start = np.zeros((len(points), 1), np.int32)
        _, found, _ = cv2.kmeans(points.astype(np.float32), k, start, criteria, _ATTEMPTS, cv2.KMEANS_PP_CENTERS)
        labels = np.asarray(found, np.int64).ravel()
        score = float(silhouettes(points, labels).mean())
        if score > best[1]:
            best = labels, score
    return best


def silhouettes(points: Array, labels: Labels) -> Array:
    """Of each point: 1 where its cluster is far from the others, below 0 where another cluster is nearer. Of every
    n-th point where there are more than MAX_POINTS."""
    every = -(-len(points) // MAX_POINTS)
    points, labels = points[::every], labels[::every]
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
