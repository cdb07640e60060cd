"""What happens around the daemon: files, memory, temperature. Watched from two threads: a look at a
file may wait for a disk, and neither what moves the arm nor the look at heat and memory waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from vlad.servo import Servo, now_ns
from vlad.stage import Stage

POLL_S = 0.25


class Watch(Protocol):
    """One thing that is looked at; `poll` may block for as long as the kernel does.

    fault: its row. problem: what is wrong, in words, "" when nothing is.
    """

    @property
    def fault(self) -> int: ...
    @property
    def problem(self) -> str: ...
    def poll(self, now_ns: int) -> str:
        """The level of the fault now: one of vlad.servo.REACTIONS."""


class Surroundings:
    """The body of a stage that polls every watch and holds its fault at its level.

    look: called first in every round; what it is late by, a watch of another thread may judge.
    """

    def __init__(self, servo: Servo, watches: Mapping[str, Watch],
                 look: Callable[[int], None] = lambda now: None) -> None:
        self._look = look
        self._servo = servo
        self._watches = dict(watches)
        self._levels: dict[str, str] = {}
        self._log = structlog.get_logger("vlad.surroundings")

    def poll(self, now: int) -> None:
        self._look(now)
        for name, watch in self._watches.items():
            level = watch.poll(now)
            if level == self._levels.get(name, "none"):
                continue
            self._levels[name] = level
            self._servo.level_fault(watch.fault, level)
            self._log.warning(name, level=level, problem=watch.problem)

    def body(self, stage: Stage) -> None:
        while True:
            self.poll(now_ns())
            if stage.wait(POLL_S):
                return

    def problems(self) -> dict[str, str]:
        return {name: watch.problem for name, watch in self._watches.items() if watch.problem}
