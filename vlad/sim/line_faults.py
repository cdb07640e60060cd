"""What can happen to the servos' replies on their way to the host."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass


@dataclass(slots=True)
class Rule:
    """One `drop` or `corrupt`: for one id or all, a number of replies, a share of them, or all."""

    servo_id: int | None
    remaining: int | None
    rate: float

    def hits(self, servo_id: int, random_: random.Random) -> bool:
        if self.servo_id not in (None, servo_id) or self.remaining == 0:
            return False
        if self.rate < 1.0 and random_.random() >= self.rate:
            return False
        if self.remaining is not None:
            self.remaining -= 1
        return True


class LineFaults:
    """What the line does to replies. Deterministic for a seed and an order of replies."""

    __slots__ = ("_corrupt", "_drop", "_garbage", "_random", "_silent", "counters", "delay_ns")

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._drop: list[Rule] = []
        self._corrupt: list[Rule] = []
        self._silent: set[int] = set()
        self._garbage = b""
        self.delay_ns = 0
        self.counters: Counter[str] = Counter()

    def on_reply(self, servo_id: int, raw: bytes) -> bytes | None:
        """The reply as it leaves the line, or None when it is lost."""
        if servo_id in self._silent:
            self.counters["silenced"] += 1
            return None
        if any([rule.hits(servo_id, self._random) for rule in self._drop]):
            self.counters["dropped"] += 1
            return None
        if any([rule.hits(servo_id, self._random) for rule in self._corrupt]):
            self.counters["corrupted"] += 1
            bad = bytearray(raw)
            bad[self._random.randrange(len(raw))] ^= 1 << self._random.randrange(8)
            return bytes(bad)
        return raw

    def take_garbage(self) -> bytes:
        """Bytes to write now, once."""
        garbage, self._garbage = self._garbage, b""
        return garbage

    def drop(self, rule: Rule) -> None:
        self._drop = [*(old for old in self._drop if old.remaining != 0), rule]

    def corrupt(self, rule: Rule) -> None:
        self._corrupt = [*(old for old in self._corrupt if old.remaining != 0), rule]

    def silence(self, servo_id: int) -> None:
        self._silent.add(servo_id)

    def garbage(self, count: int) -> None:
        self._garbage += self._random.randbytes(count)
        self.counters["garbage_bytes"] += count

    def restore(self, servo_id: int | None) -> None:
        """End silence, drops and corruption of one id, or of all."""
        if servo_id is None:
            self._silent.clear()
            self._drop.clear()
            self._corrupt.clear()
            return
        self._silent.discard(servo_id)
        self._drop = [rule for rule in self._drop if rule.servo_id != servo_id]
        self._corrupt = [rule for rule in self._corrupt if rule.servo_id != servo_id]
