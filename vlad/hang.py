"""Row 7's last resort: a call in this process that nothing can interrupt ends in abort()."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Mapping

from vlad.servo import MS

UNINTERRUPTIBLE_NS = 5_000 * MS
AWAY_NS = 500 * MS  # the supervisor's own bound: a round later than this proves nothing of the stages
LOG_S = 0.3  # for the log's thread to write why


class HangWatch:
    """Looks at the heartbeats once a round of the supervisor.

    A block in a worker never gets this far: its call ends when the worker is killed. The arm has been
    held since the heartbeat's bound, by the servo loop, which needs nobody's help for it.
    """

    def __init__(self) -> None:
        self._since_ns: dict[str, int] = {}
        self._last_ns = 0

    def stuck(self, now_ns: int, beats_ns: Mapping[str, int], bounds_ns: Mapping[str, int]) -> str | None:
        """The stage that has been beyond its bound for 5 s of the supervisor's own, uninterrupted time."""
        if now_ns - self._last_ns > AWAY_NS:
            self._since_ns.clear()
        self._last_ns = now_ns
        for stage, beat_ns in beats_ns.items():
            bound_ns = bounds_ns.get(stage, 0)
            if not bound_ns or now_ns - beat_ns <= bound_ns:
                self._since_ns.pop(stage, None)
            elif now_ns - self._since_ns.setdefault(stage, now_ns) >= UNINTERRUPTIBLE_NS:
                return stage
        return None


def abort() -> None:
    """Ends the process with the stack of every thread on standard error: systemd starts another one."""
    time.sleep(LOG_S)
    faulthandler.dump_traceback()
    os.abort()
