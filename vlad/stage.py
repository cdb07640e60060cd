"""One stage = one thread: pinned as configured, with a heartbeat, and its death is a fault."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from vlad.faults import BY_NAME
from vlad.servo import STAGES, Servo, now_ns

THREAD_DIED = BY_NAME["thread_died"].id


class Placement(Protocol):
    """Where a stage's thread runs: cores (empty = any), "other" | "fifo" | "rr", FIFO priority."""

    @property
    def affinity(self) -> Sequence[int]: ...
    @property
    def policy(self) -> str: ...
    @property
    def priority(self) -> int: ...


class Stage:
    """A named thread that runs `body(stage)` until `stop()`.

    `beat()` must be called at least once within the stage's heartbeat bound. An exception out of
    `body`, or its return before stop, raises fault 26 (HOLD, latched) and calls `on_death`.
    """

    def __init__(
        self,
        name: str,
        servo: Servo,
        body: Callable[[Stage], None],
        *,
        heartbeat: str | None,
        placement: Placement | None = None,
        on_death: Callable[[str, BaseException | None], None] | None = None,
    ) -> None:
        self.name = name
        self._servo = servo
        self._body = body
        self._heartbeat = STAGES.index(heartbeat) if heartbeat else None
        self._placement = placement
        self._on_death = on_death
        self._stop = threading.Event()
        self.beat_ns = now_ns()  # written by the stage, read by the supervisor
        self._log = structlog.get_logger("vlad.stage").bind(stage=name)
        self._thread = threading.Thread(target=self._run, name=f"vlad-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat(self) -> None:
        self.beat_ns = now_ns()
        if self._heartbeat is not None:
            self._servo.beat(self._heartbeat, self.beat_ns)

    def wait(self, seconds: float) -> bool:
        """Sleeps; True when the stage is to stop."""
        return self._stop.wait(seconds)

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def ask_to_stop(self) -> None:
        self._stop.set()

    def stop(self, timeout_s: float) -> bool:
        """Asks the thread to end; False when it has not within `timeout_s`."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _place(self) -> None:
        if self._placement is None:
            return
        try:
            if self._placement.affinity:
                os.sched_setaffinity(0, self._placement.affinity)
            if self._placement.policy != "other":
                policy = os.SCHED_FIFO if self._placement.policy == "fifo" else os.SCHED_RR
                os.sched_setscheduler(0, policy, os.sched_param(self._placement.priority))
        except OSError as error:
            self._log.warning("placement_refused", error=str(error))

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._place()
            self._body(self)
        except BaseException as caught:
            error = caught
            self._log.exception("stage_died")
        if self._stop.is_set() and error is None:
            return
        self._servo.hold_fault(THREAD_DIED, True)
        if self._on_death is not None:
            self._on_death(self.name, error)
