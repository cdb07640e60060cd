"""Which groups get which scheme: the greatest saving for the least error, within a budget.

Deterministic: it reads measured errors and modelled savings, never a clock, and breaks ties by name. Errors of
different groups are taken to be independent, so their squares add; that is a model, and the whole choice is
measured at the end. What the greedy walk accepts one after the other is a path from float32 to the whole choice:
where the whole misses the gate, the longest part of the path that holds is found by bisection, which gives back
the groups that were the worst bargains.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

Choice = Mapping[tuple[str, str], str]  # (block, group) -> scheme
_LEAST = 1e-12


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """A scheme that a group may take. error: chunk MAE of it alone. saved: share of the policy's cost."""

    block: str
    group: str
    scheme: str
    error: float
    saved: float


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """One step of the walk. error: predicted for everything so far. saved: by everything so far."""

    option: Option
    error: float
    saved: float


def walk(options: Sequence[Option], budget: float) -> list[Move]:
    """Moves, the best bargain first, until none fits into the budget (a chunk MAE) or saves anything."""
    taken: dict[tuple[str, str], Option] = {}
    moves: list[Move] = []
    square = saved = 0.0
    while True:
        best: tuple[float, float, tuple[str, str, str], Option] | None = None
        for option in options:
            before = taken.get((option.block, option.group))
            gain = option.saved - (before.saved if before else 0.0)
            price = option.error**2 - (before.error**2 if before else 0.0)
            if gain <= _LEAST or square + price > budget**2:
                continue
            bargain = math.inf if price <= 0 else gain / price
            key = bargain, gain, (option.block, option.group, option.scheme), option
            if best is None or (-key[0], -key[1], key[2]) < (-best[0], -best[1], best[2]):
                best = key
        if best is None:
            return moves
        option = best[3]
        before = taken.get((option.block, option.group))
        square = max(0.0, square + option.error**2 - (before.error**2 if before else 0.0))
        saved += option.saved - (before.saved if before else 0.0)
        taken[option.block, option.group] = option
        moves.append(Move(option, math.sqrt(square), saved))


def choice(moves: Sequence[Move]) -> dict[tuple[str, str], str]:
    """Where the path stands after these moves."""
    return {(m.option.block, m.option.group): m.option.scheme for m in moves}


def longest_that_holds(moves: Sequence[Move], holds: Callable[[Choice], bool]) -> int:
    """How many of the moves to keep, so that what is kept was seen to hold: all of them if they do, else by
    bisection, which takes for granted that fewer moves hold where more do. 0 holds by itself.
    """
    if not moves or holds(choice(moves)):
        return len(moves)
    good, bad = 0, len(moves)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(choice(moves[:middle])):
            good = middle
        else:
            bad = middle
    return good
