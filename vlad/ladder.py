"""The ladder: what a request may leave out so that its chunk arrives in time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rung:
    """One way of making a chunk.

    name: as in the configuration, "full" for a whole pass. steps: flow steps; None: the policy's own.
    """

    name: str
    steps: int | None = None


FULL = Rung("full")
