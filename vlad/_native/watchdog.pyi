"""The watchdog (csrc/watchdog.c): heartbeats and fault conditions in, one reaction out.

Pure: every time is passed in, int ns. Faults are their ids, 1..50 of vlad.faults; an unknown fault
or stage is a ValueError. beat, hold and pulse may come from any thread.
"""

from collections.abc import Iterable, Mapping

STAGES: tuple[str, ...]
REACTIONS: tuple[str, ...]  # least severe first

class Watchdog:
    def __init__(self) -> None: ...
    def beat(self, stage: str, now_ns: int) -> None: ...
    def bound(self, stage: str, bound_ns: int, now_ns: int) -> None:
        """Watches a stage from now on: a beat older than bound_ns is its fault. 0 = not watched."""
    def hold(self, fault: int, condition: bool) -> None:
        """The condition holds until it is said not to."""
    def hold_at(self, fault: int, level: str) -> None:
        """It holds at a level of REACTIONS: the fault reacts with that, or as its row says if that
        is less, and only at the row's own reaction latches at once. "none": it does not hold."""
    def pulse(self, fault: int) -> None:
        """It happened, once."""
    def evaluate(
        self, now_ns: int, own: Iterable[int] | Mapping[int, str] = ()
    ) -> tuple[str, frozenset[int]]:
        """(most severe reaction of the active and latched faults, faults that changed).
        own: conditions that the servo loop sees itself, or the level of each."""
    def clear(self) -> frozenset[int]:
        """Unlatches every fault whose condition is gone; returns those still latched."""
    def all_fresh(self, now_ns: int) -> bool: ...
    @property
    def active(self) -> frozenset[int]: ...
    @property
    def latched(self) -> frozenset[int]: ...
    def reaction(self, fault: int) -> str:
        """What the fault reacts with now."""
    def count(self, fault: int) -> int:
        """Times it became active, and each further pulse."""
    def since_ns(self, fault: int) -> int: ...
