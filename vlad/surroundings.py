"""What happens around the daemon: files, memory, temperature. Watched from a thread of its own,
because every look may wait for a disk; nothing that moves the arm waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vlad.stage import Stage

POLL_S = 0.25


class Watch(Protocol):
    """One thing that is looked at; `poll` may block for as long as the kernel does."""

    def poll(self) -> None: ...


class Surroundings:
    """The body of the stage that polls every watch."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = tuple(watches)

    def body(self, stage: Stage) -> None:
        while True:
            for watch in self._watches:
                watch.poll()
            if stage.wait(POLL_S):
                return
