"""Statistics of features, as LeRobot's `meta/stats.json` and the `stats/` columns of its episodes hold them.

Of one episode they are exact; pictures are sampled. Of several, min, max, mean and std are those of all frames, and a
quantile is the mean of the episodes' quantiles by their frames: so does LeRobot (datasets/compute_stats.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = Mapping[str, NDArray[np.float64]]
"""min, max, mean, std, q01 .. q99 of one feature's shape ((3, 1, 1) of pictures), and count `[1]`."""


def of_values(values: NDArray[np.generic]) -> Stats:
    """Of the rows of `[frames, size]`."""
    rows = np.asarray(values, np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
    return found | {"count": np.array([len(rows)], np.float64)}


def of_histogram(histogram: NDArray[np.int64], pictures: int) -> Stats:
    """Of pixels from 0 to 1, counted by their level: `[3, 256]`, of so many pictures."""
    levels = np.arange(256) / 255.0
    share = histogram / histogram.sum(1, keepdims=True)
    mean = share @ levels
    found = {
        "min": np.array([levels[np.flatnonzero(row)[0]] for row in histogram]),
        "max": np.array([levels[np.flatnonzero(row)[-1]] for row in histogram]),
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ levels**2 - mean**2, 0.0)),
    }
    below = np.cumsum(share, axis=1)
    for name, wanted in QUANTILES.items():
        found[name] = np.array([levels[np.searchsorted(row, wanted - 1e-12)] for row in below])
    shaped = {name: value.reshape(3, 1, 1) for name, value in found.items()}
    return shaped | {"count": np.array([pictures], np.float64)}


def of_all(parts: Sequence[Stats]) -> Stats:
    """Of several episodes together."""
    counts = np.array([part["count"][0] for part in parts])

    def mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        average: NDArray[np.float64] = np.average(np.stack(values), axis=0, weights=counts)
        return average

    total = mean([part["mean"] for part in parts])
    found = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": total,
        "std": np.sqrt(mean([part["std"] ** 2 + (part["mean"] - total) ** 2 for part in parts])),
    }
    found |= {name: mean([part[name] for part in parts]) for name in QUANTILES}
    return found | {"count": np.array([counts.sum()])}
