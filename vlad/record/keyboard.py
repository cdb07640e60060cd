"""Joints jogged by keys: a pair a joint, at a bounded speed, only while the key is down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlad.arm import Joint
from vlad.record.rig import Floats
from vlad.servo import MS

# A terminal tells of no release: a key counts as down for a moment, and a held one repeats within it.
DOWN_NS = 150 * MS
SPEED = 0.2  # of v_max: 29 degrees/s by default
PAIRS = ("qa", "ws", "ed", "rf", "tg", "yh", "uj", "ik")


class Keyboard:
    """joints: of the arm; joint i goes up with the first key of PAIRS[i] and down with the second. A key that is
    pressed shortly moves its joint for 150 ms; held, it pauses until the keyboard begins to repeat (`xset r rate`).
    """

    name = "keyboard"

    def __init__(self, joints: Sequence[Joint]) -> None:
        self._low = np.array([joint.min for joint in joints])
        self._high = np.array([joint.max for joint in joints])
        self._speed = np.array([joint.v_max for joint in joints]) * SPEED
        self._names = tuple(joint.name for joint in joints)
        self._goal: Floats | None = None
        self._at_ns = 0
        self._down: dict[int, tuple[int, int]] = {}  # joint: direction, until ns
        self._lost = False

    @property
    def help(self) -> str:
        """One line."""
        return "  ".join(f"{pair[0]}/{pair[1]} {name}" for pair, name in zip(PAIRS, self._names, strict=False))

    def start(self) -> None: ...

    def begin(self, pose: Floats) -> None:
        self._goal = np.clip(pose, self._low, self._high)
        self._down.clear()

    def press(self, key: str, now_ns: int) -> bool:
        """Whether the key jogs a joint."""
        for joint, pair in enumerate(PAIRS[: len(self._names)]):
            if key in pair:
                self._down[joint] = (1 if key == pair[0] else -1, now_ns + DOWN_NS)
                return True
        return False

    def lost(self) -> None:
        """The terminal has gone."""
        self._lost = True

    def goals_rad(self, now_ns: int) -> Floats | None:
        if self._goal is None or self._lost:
            return None
        since_ns = min(now_ns - self._at_ns, DOWN_NS)
        for joint, (direction, until_ns) in list(self._down.items()):
            moved_ns = min(now_ns, until_ns) - (now_ns - since_ns)
            self._goal[joint] += direction * self._speed[joint] * max(0, moved_ns) / 1e9
            if now_ns >= until_ns:
                del self._down[joint]
        self._at_ns = now_ns
        self._goal = np.clip(self._goal, self._low, self._high)
        return self._goal.copy()

    @property
    def problem(self) -> str:
        return "the terminal has gone" if self._lost else ""

    def close(self) -> None: ...
