"""From the recording of the bus: when goals changed, and how often they were written."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from pathlib import Path

from vlad.wire_witness import goal_frames


class Motion:
    """Every change of a goal on the wire. Times in CLOCK_MONOTONIC ns."""

    def __init__(self, recording: Path) -> None:
        self.changes: list[int] = []
        self.frames: list[int] = []
        last: dict[int, int] = {}
        for t_ns, goals in goal_frames(recording):
            self.frames.append(t_ns)
            if any(last.get(number, goal) != goal for number, goal in goals.items()):
                self.changes.append(t_ns)
            last.update(goals)

    def last_change_ns(self, after_ns: int, before_ns: int) -> int | None:
        """Of the changes in (after, before); None when there was none."""
        at = bisect_left(self.changes, before_ns)
        return self.changes[at - 1] if at and self.changes[at - 1] > after_ns else None

    def count(self, after_ns: int, before_ns: int) -> int:
        """Changes in (after, before)."""
        return bisect_left(self.changes, before_ns) - bisect_right(self.changes, after_ns)
