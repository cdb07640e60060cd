"""Row 47: a policy that oscillates, or makes no progress. Judged from the goals that drive the arm.

Pure: time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlad.servo import DEG

WINDOW_NS = 1_000_000_000
SAMPLE_NS = 20_000_000
SWING = 1.0 * DEG  # an extreme counts once the goal has come back by so much (gripper: 0.017)
REVERSALS = 6  # of one joint within a second: three whole swings
STILL = 0.5 * DEG


class Progress:
    """Fed with the goal of an engaged arm; `level` is "none", "warn" or "hold".

    timeout_s: engaged for longer is "hold"; None: never. still_s: so long within half a degree,
    while there are actions to execute, is "warn": the policy repeats itself.
    """

    def __init__(self, joints: Sequence[str], timeout_s: float | None, still_s: float) -> None:
        self._joints = tuple(joints)
        self._timeout_s = timeout_s
        self._still_ns = round(still_s * 1e9)
        self._turns = tuple(_Turns() for _ in joints)
        self._since_ns: int | None = None
        self._sampled_ns = 0
        self._pose: NDArray[np.float64] | None = None
        self._pose_ns = 0
        self.oscillations = self.stills = self.timeouts = 0
        self.problem = ""
        self._kind = ""

    def feed(self, now_ns: int, engaged: bool, covered: bool, goal: Sequence[float]) -> str:
        """One look. engaged: the policy drives the arm. covered: it has actions to execute.
        goal: units, in joint order. Returns the level."""
        if not engaged:
            self._since_ns = self._pose = None
            for turns in self._turns:
                turns.forget()
            return self._say("", "none", "")
        if self._since_ns is None:
            self._since_ns = now_ns
        if self._timeout_s is not None and now_ns - self._since_ns > self._timeout_s * 1e9:
            return self._say("timeouts", "hold", f"engaged for over {self._timeout_s:g} s")
        if now_ns - self._sampled_ns >= SAMPLE_NS:
            self._sampled_ns = now_ns
            for turns, value in zip(self._turns, goal, strict=True):
                turns.feed(now_ns, value)
            self._follow(now_ns, covered, np.asarray(goal))
        shaking = [n for n, t in zip(self._joints, self._turns, strict=True) if t.count >= REVERSALS]
        if shaking:
            return self._say("oscillations", "warn", f"{', '.join(shaking)} swings to and fro")
        if self._pose is not None and now_ns - self._pose_ns >= self._still_ns:
            seconds = (now_ns - self._pose_ns) / 1e9
            return self._say("stills", "warn", f"no progress: within half a degree for {seconds:.0f} s")
        return self._say("", "none", "")

    def _follow(self, now_ns: int, covered: bool, goal: NDArray[np.float64]) -> None:
        if self._pose is None or not covered or np.abs(goal - self._pose).max() > STILL:
            self._pose, self._pose_ns = goal, now_ns

    def _say(self, kind: str, level: str, problem: str) -> str:
        if kind and kind != self._kind:
            setattr(self, kind, getattr(self, kind) + 1)
        self._kind, self.problem = kind, problem
        return level

    def counters(self) -> dict[str, int]:
        return {"oscillations": self.oscillations, "stills": self.stills, "timeouts": self.timeouts}


class _Turns:
    """The reversals of one joint within the last second: extremes that it came back from."""

    __slots__ = ("_direction", "_extreme", "_times")

    def __init__(self) -> None:
        self._times: deque[int] = deque()
        self.forget()

    def forget(self) -> None:
        self._times.clear()
        self._extreme: float | None = None
        self._direction = 0

    @property
    def count(self) -> int:
        return len(self._times)

    def feed(self, now_ns: int, value: float) -> None:
        while self._times and self._times[0] <= now_ns - WINDOW_NS:
            self._times.popleft()
        if self._extreme is None:
            self._extreme = value
        back = value - self._extreme
        if self._direction * back >= 0:
            if self._direction == 0 and abs(back) < SWING:
                return
            self._direction = self._direction or (1 if back > 0 else -1)
            self._extreme = value
        elif abs(back) >= SWING:
            self._times.append(now_ns)
            self._direction, self._extreme = -self._direction, value
