"""What T_inference to expect of each rung, from the newest inferences of all of them."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlad.ladder import FULL, Rung

OWN_ENOUGH = 4


@dataclass(frozen=True, slots=True)
class _Measured:
    """One completed inference."""

    rung: Rung
    encoded: int  # cameras
    value_ns: int


class LatencyWindow:
    """The newest completed inferences, rejected ones too. Times in ns.

    A window over all rungs, so that what was measured of a rung is forgotten also while others run:
    a spike of the full pass must not forbid it for ever. A rung with fewer than OWN_ENOUGH entries
    in it is predicted from all entries, each scaled by what the two rungs cost at load: a processor
    that slows down slows all of them. Values of the warm-up, given per rung, hold until the first
    real one. Written by one thread; `status` and the flight record read it from theirs, which is why
    they look at a copy.
    """

    def __init__(self, window: int, quantile: float, cameras: int = 1) -> None:
        self._values: deque[_Measured] = deque(maxlen=window)
        self._warm: dict[Rung, list[int]] = {}
        self._vision_ns = 0
        self._quantile = quantile
        self._cameras = cameras
        self._predicted: dict[tuple[Rung, int, int], int] = {}  # by rung, cameras and `count`
        self.count = 0

    def warm(self, values_ns: Mapping[Rung, Sequence[int]], vision_ns: int = 0) -> None:
        """What each rung cost at load, with as few cameras encoded as it can; one camera's tokens."""
        self._warm = {rung: list(values) for rung, values in values_ns.items()}
        self._vision_ns = vision_ns
        self._predicted.clear()

    def add(self, value_ns: int, rung: Rung = FULL, encoded: int | None = None) -> None:
        at = rung.least_encoded(self._cameras) if encoded is None else encoded
        self._values.append(_Measured(rung, at, value_ns))
        self.count += 1
        self._predicted.clear()

    def load_ns(self, rung: Rung, encoded: int) -> float:
        """The median cost at load; 1 for a rung that was not measured, so that it stands alone."""
        warm = self._warm.get(rung)
        if not warm:
            return 1.0
        extra = (encoded - rung.least_encoded(self._cameras)) * self._vision_ns
        return max(1.0, statistics.median(warm) + extra)

    def quantile_ns(self, q: float) -> int:
        """The q-quantile (nearest rank) of all rungs' entries; of the full pass's warm-up while
        there are none; 0 if it was not measured."""
        return quantile([m.value_ns for m in self._entries()] or self._warm.get(FULL, []), q)

    def predict_ns(self, rung: Rung = FULL, encoded: int | None = None) -> int:
        """T_inference of a rung that encodes so many cameras, by the configured quantile; 0 when
        nothing is known."""
        at = rung.least_encoded(self._cameras) if encoded is None else encoded
        known = rung, at, self.count
        if (predicted := self._predicted.get(known)) is None:  # it is asked every few ms
            predicted = self._predicted[known] = quantile(self._expected(rung, at), self._quantile)
        return predicted

    def likely_ns(self, rung: Rung, encoded: int) -> int:
        """The same for want of anything better: the median of the rung's own entries, however few,
        or what it cost at load, so that a rung is tried at all when another's block is slow."""
        base = self.load_ns(rung, encoded)
        own = [m.value_ns * base / self.load_ns(rung, m.encoded) for m in self._entries() if m.rung == rung]
        if own or rung in self._warm:
            return round(statistics.median(own or [base]))
        return self.predict_ns(rung, encoded)

    def _entries(self) -> list[_Measured]:
        return list(self._values)

    def _expected(self, rung: Rung, encoded: int) -> list[int]:
        entries = self._entries()
        if not entries:
            extra = (encoded - rung.least_encoded(self._cameras)) * self._vision_ns
            return [value + extra for value in self._warm.get(rung, [])]
        own = [m for m in entries if m.rung == rung]
        base = self.load_ns(rung, encoded)
        return [round(m.value_ns * base / self.load_ns(m.rung, m.encoded))
                for m in (own if len(own) >= OWN_ENOUGH else entries)]


def quantile(values: Sequence[int], q: float) -> int:
    """By the nearest rank; 0 of nothing."""
    if not values:
        return 0
    return sorted(values)[min(len(values) - 1, max(0, math.ceil(q * len(values)) - 1))]
