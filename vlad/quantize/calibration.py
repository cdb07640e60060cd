"""What the inputs of the linear layers look like on real observations, and the range that static8 gives each.

Of each input a bounded number of rows is kept, evenly over everything that was seen, and the most extreme rows
besides: outliers sit in few tokens, and a range is judged by what it does to them and to all others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlad.quantize.schemes import Array, Linear, Range, int8_channels

MAX_ROWS = 256
EXTREMES = 16
_PERCENTILES = (99.999, 99.99, 99.9, 99.5, 99.0)
_SHARES = (0.8, 0.65, 0.5, 0.35, 0.25)


class Sample:
    """Rows of one tensor `[..., inputs]`: every n-th of all, n growing as they come, and the most extreme."""

    def __init__(self) -> None:
        self.calls = 0
        self.rows_seen = 0
        self.rows_of_call = 0
        self.low = self.high = 0.0
        self._stride = 1
        self._rows: list[Array] = []
        self._extremes: Array | None = None

    def add(self, values: Array) -> None:
        """The tensor of one call."""
        rows = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
        self.calls += 1
        self.rows_of_call = max(self.rows_of_call, len(rows))
        self.low, self.high = min(self.low, float(rows.min())), max(self.high, float(rows.max()))
        worst = np.argsort(-np.abs(rows).max(axis=1), kind="stable")[:EXTREMES]
        both = rows[worst] if self._extremes is None else np.concatenate([self._extremes, rows[worst]])
        self._extremes = both[np.argsort(-np.abs(both).max(axis=1), kind="stable")[:EXTREMES]].copy()
        first = -self.rows_seen % self._stride
        self._rows += [row.copy() for row in rows[first :: self._stride]]
        self.rows_seen += len(rows)
        while len(self._rows) > MAX_ROWS:
            self._rows = self._rows[::2]
            self._stride *= 2

    def rows(self) -> tuple[Array, NDArray[np.float32]]:
        """The rows `[n, inputs]` and how many of those seen each stands for `[n]`."""
        assert self._extremes is not None, "nothing was added"
        usual = np.stack(self._rows)
        each = max(1.0, (self.rows_seen - len(self._extremes)) / len(usual))
        weights = np.concatenate([np.full(len(usual), each), np.ones(len(self._extremes))])
        return np.concatenate([usual, self._extremes]), weights.astype(np.float32)

    @property
    def outlier_ratio(self) -> float:
        """Greatest magnitude over the 99.9th percentile of the magnitudes: about 1.5 for a normal distribution."""
        usual = float(np.quantile(np.abs(np.stack(self._rows)), 0.999))
        return max(-self.low, self.high) / usual if usual > 0 else 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class ChosenRange:
    """A range, and the relative squared error that it leaves in the results of the layers that read the tensor."""

    range: Range
    error: float
    greatest_error: float


def choose_range(sample: Sample, weights: Sequence[tuple[Linear, Array]]) -> ChosenRange:
    """Of the whole range, percentiles and shares of it, the one with the least error in the layers' results."""
    rows, counts = sample.rows()
    quantised = []
    for _, weight in weights:
        values, scale = int8_channels(weight)
        exact = rows @ np.asarray(weight)
        quantised.append((values.astype(np.float32) * scale, exact, float(np.sum(np.square(exact).sum(1) * counts))))
    best: tuple[float, Range] | None = None
    greatest = 0.0
    for tried in _tried(sample, rows):
        unit, point = tried.quantum()
        zero = np.float32(point)
        x = (np.clip(np.rint(rows / unit) + zero, 0, 255) - zero) * unit
        error = 0.0
        for weight, exact, power in quantised:
            off = np.square(x @ weight - exact).sum(1)
            error += float(np.sum(off * counts)) / max(power, 1e-30)
        if best is None:
            greatest = error
        if best is None or error < best[0]:
            best = error, tried
    assert best is not None
    return ChosenRange(best[1], best[0], greatest)


def _tried(sample: Sample, rows: Array) -> list[Range]:
    tried = [Range(sample.low, sample.high)]
    for percent in _PERCENTILES:
        low, high = np.percentile(rows, [100 - percent, percent])
        tried.append(Range(min(0.0, float(low)), max(0.0, float(high)), f"percentile {percent:g}"))
    tried += [Range(s * sample.low, s * sample.high, f"{s:.0%} of the greatest") for s in _SHARES]
    return tried
