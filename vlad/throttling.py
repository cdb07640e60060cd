"""Row 42: a processor that gets hot and slow. The temperature is extrapolated, so that the arm is
at rest before the machine throttles and not after.
"""

from __future__ import annotations

import statistics
from collections import deque
from pathlib import Path

from vlad.faults import BY_NAME
from vlad.small_file import Unreadable, read_small

SLOPE_NS = 5_000_000_000  # the temperature's slope is taken over so much
WARN_AHEAD_S, SLOW_AHEAD_S, HOLD_AHEAD_S = 30.0, 5.0, 2.0
DRIFT = 1.3  # T_inference over its baseline
FIRST, LAST = 8, 5  # inferences


class Throttling:
    """zone: a file with millidegrees Celsius (/sys/class/thermal/thermal_zone0/temp), or None.
    throttle_c: where the processor begins to throttle; critical_c: where the arm must stand still.
    drift: the last five T_inference over their baseline, which the first eight of a policy set; 0
    until then.

    level, the most severe that holds:
    - "warn": throttle_c within 30 s at the present slope, or inference 1.3 times as slow as it was;
    - "slow": throttle_c within 5 s, or both of the above;
    - "hold": critical_c within 2 s.
    """

    fault = BY_NAME["thermal_throttling"].id

    def __init__(self, zone: str | None, throttle_c: float, critical_c: float) -> None:
        self._zone = Path(zone) if zone else None
        self._throttle_c = throttle_c
        self._critical_c = critical_c
        self._first: list[int] = []
        self._last: deque[int] = deque(maxlen=LAST)
        self._seen: deque[tuple[int, float]] = deque()
        self.celsius: float | None = None
        self.slope_c_s = 0.0
        self.drift = 0.0
        self.unreadable = 0
        self.problem = ""

    def forget_inference(self) -> None:
        """Another policy runs from now on. Any thread."""
        self._first = []
        self._last = deque(maxlen=LAST)

    def inference(self, took_ns: int) -> None:
        """A full pass took so long. From one thread."""
        if len(self._first) < FIRST:
            self._first = [*self._first, took_ns]
        else:
            self._last.append(took_ns)

    def _drift(self) -> float:
        first, last = self._first, list(self._last)
        if len(first) < FIRST or len(last) < LAST:
            return 0.0
        return statistics.median(last) / statistics.median(first)

    def poll(self, now_ns: int) -> str:
        self._read(now_ns)
        self.drift = self._drift()
        slow = self.drift > DRIFT
        if self._reaches(self._critical_c, HOLD_AHEAD_S):
            level = "hold"
        elif self._reaches(self._throttle_c, SLOW_AHEAD_S) or (
            slow and self._reaches(self._throttle_c, WARN_AHEAD_S)
        ):
            level = "slow"
        elif slow or self._reaches(self._throttle_c, WARN_AHEAD_S):
            level = "warn"
        else:
            level = "none"
        self.problem = "" if level == "none" else self._text(slow)
        return level

    def _reaches(self, limit_c: float, ahead_s: float) -> bool:
        return self.celsius is not None and (
            self.celsius + max(0.0, self.slope_c_s) * ahead_s >= limit_c
        )

    def _read(self, now_ns: int) -> None:
        if self._zone is None:
            return
        try:
            celsius = int(read_small(self._zone)) / 1000
        except (Unreadable, ValueError):
            self.celsius, self.slope_c_s = None, 0.0
            self.unreadable += 1
            self._seen.clear()
            return
        self.celsius = celsius
        self._seen.append((now_ns, celsius))
        while len(self._seen) > 2 and self._seen[1][0] <= now_ns - SLOPE_NS:
            self._seen.popleft()
        since_ns, before = self._seen[0]
        span_s = (now_ns - since_ns) / 1e9
        self.slope_c_s = (celsius - before) / span_s if span_s >= 1.0 else 0.0

    def _text(self, slow: bool) -> str:
        hot = (f"{self.celsius:.1f} C, {self.slope_c_s:+.2f} C/s, throttles at {self._throttle_c:g} C"
               if self.celsius is not None else "")
        late = f"inference takes {self.drift:.2f} x what it took at first" if slow else ""
        return "; ".join(filter(None, (hot, late)))

    def counters(self) -> dict[str, float | None]:
        return {"celsius": self.celsius, "slope_c_s": self.slope_c_s, "drift": self.drift,
                "unreadable": self.unreadable}
