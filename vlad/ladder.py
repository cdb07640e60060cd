"""The ladder: what a request may leave out so that its chunk arrives in time.

A rung is one way of making a chunk, said in full by its name: nothing adds up from one rung to the
next, so that a rung whose prerequisites are missing takes none of those below it with it. Above
them all stands `full`: every camera encoded, the whole prefix, all flow steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

NOTHING_TO_REUSE = "nothing_to_reuse"
GRAMMAR = "`reuse`, `state_only`, `steps:N`, `reuse+steps:N` or `state_only+steps:N`"
_RUNG = re.compile(r"(?:(reuse|state_only)|(reuse|state_only)\+steps:([1-9][0-9]?)|steps:([1-9][0-9]?))")


class Vision(Enum):
    """Which cameras a rung encodes."""

    ALL = "all"
    CHANGED = "changed"  # the others' tokens are reused: exact as far as the pictures are the same
    NONE = "none"  # the last prefix with a fresh state token: the policy sees the scene as it was


@dataclass(frozen=True, slots=True)
class Rung:
    """One way of making a chunk.

    name: as in the configuration, "full" for a whole pass. steps: flow steps; None: the policy's own.
    """

    name: str
    vision: Vision = Vision.ALL
    steps: int | None = None

    def least_encoded(self, cameras: int) -> int:
        """How many of the policy's cameras it encodes at least."""
        return cameras if self.vision is Vision.ALL else 0


FULL = Rung("full")


def parse_rung(name: str) -> Rung:
    """The rung of a name as GRAMMAR has it. Raises ValueError."""
    match = _RUNG.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no rung of the ladder: use {GRAMMAR}")
    vision = {"reuse": Vision.CHANGED, "state_only": Vision.NONE, None: Vision.ALL}[match[1] or match[2]]
    steps = match[3] or match[4]
    return Rung(name, vision, int(steps) if steps else None)


def parse_ladder(names: Sequence[str]) -> tuple[Rung, ...]:
    """The rungs below `full`, best first. Raises ValueError for an unknown or repeated one."""
    rungs = tuple(parse_rung(name) for name in names)
    for i, rung in enumerate(rungs):
        if rung in rungs[:i]:
            raise ValueError(f"{rung.name!r} is declared twice")
    return rungs


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """Whether a rung can be taken now: how many cameras it would encode, or what it lacks."""

    encode: int = 0
    lacking: str = ""
