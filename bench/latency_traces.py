"""Latency traces: how fast a machine computes, as a function of time alone.

A trace gives the speed of the machine at every moment, 1 being what was measured at load. A pass
that starts at t with a cost of w takes as long as the speed needs to sum up to w: the same trace is
met by whoever asks, however often he asks and whatever he leaves out, so that two ways of asking can
be compared on it. Times in ns, from the start of the trace; seeded, so the same everywhere. Needs
neither vlad nor LeRobot, so that both can be asked; so does the policy that they are asked to run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

S = 1_000_000_000
PERIOD_NS, CHUNK, JOINTS = 33_333_333, 50, 6
HORIZON_NS = CHUNK * PERIOD_NS
FULL_MS = 550  # just passes the load check: 2 x 1.2 x 550 ms and the braking distance in 1.67 s
TURN_S = 8.0
RADIUS = 0.5
SLOT_NS = S // 20
STALLED = 0.02


def circle(t_obs_ns: int, state: NDArray[np.float64]) -> NDArray[np.float64]:
    """A policy that sees where the arm is: on along a circle of the first two joints, [50, 6] in rad."""
    phase = math.atan2(state[1], state[0]) + 2 * math.pi / TURN_S * np.arange(CHUNK) * PERIOD_NS / S
    chunk = np.zeros((CHUNK, JOINTS))
    chunk[:, 0], chunk[:, 1], chunk[:, 5] = RADIUS * np.cos(phase), RADIUS * np.sin(phase), 0.5
    return chunk


@dataclass(slots=True)
class Trace:
    """speed(rng, t_s) is asked once for each slot of 50 ms, in order."""

    name: str
    about: str
    seconds: int
    seed: int
    speed: Callable[[float], float]
    noise: float = 0.05  # of the speed, slot by slot: relative standard deviation
    stalls: tuple[tuple[float, float], ...] = ()  # start and length in s
    _slots: list[float] = field(default_factory=list)
    _rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"{self.name} {self.seed}")

    def at(self, slot: int) -> float:
        """The speed in a slot."""
        while len(self._slots) <= slot:
            t_s = len(self._slots) * SLOT_NS / S
            stalled = any(begin <= t_s < begin + length for begin, length in self.stalls)
            speed = self.speed(t_s) * max(0.3, self._rng.gauss(1.0, self.noise))
            self._slots.append(STALLED * speed if stalled else speed)
        return self._slots[slot]

    def latency_ns(self, start_ns: int, cost_ns: int) -> int:
        """How long a pass takes that starts at start_ns and would take cost_ns at speed 1."""
        t, left = start_ns, float(cost_ns)
        while True:
            slot = t // SLOT_NS
            end = (slot + 1) * SLOT_NS
            done = (end - t) * self.at(slot)
            if done >= left:
                return round(t + left / self.at(slot)) - start_ns
            left -= done
            t = end


def _steady(t_s: float) -> float:
    return 1.0


def _throttling(t_s: float) -> float:
    """Nominal for a minute, then down to 40 % within five minutes, and back within two."""
    if t_s < 60:
        return 1.0
    if t_s < 360:
        return 1.0 - 0.6 * (t_s - 60) / 300
    return min(1.0, 0.4 + 0.6 * max(0.0, t_s - 480) / 120)


def _doubling(t_s: float) -> float:
    return 0.5 if 60 <= t_s < 660 else 1.0


def _sawtooth(t_s: float) -> float:
    """A governor that lets the clock climb and drops it: 20 s a turn, between 55 % and 100 %."""
    return 0.55 + 0.45 * (t_s % 20) / 20


def _stalls(seed: int, seconds: int, mean_gap_s: float, longest_s: float) -> tuple[tuple[float, float], ...]:
    rng = random.Random(seed)
    t, stalls = 30.0, []
    while (t := t + rng.expovariate(1 / mean_gap_s)) < seconds - 30:
        stalls.append((round(t, 2), round(rng.uniform(0.2, longest_s), 2)))
    return tuple(stalls)


def traces(seed: int = 1) -> tuple[Trace, ...]:
    """All of them, fresh."""
    return (
        Trace("steady", "as at load, 5 % of noise", 300, seed, _steady),
        Trace("throttling", "a minute, then down to 40 % within five, and back", 720, seed, _throttling),
        Trace("doubling", "twice as slow for ten minutes", 780, seed, _doubling),
        Trace("sawtooth", "between 55 % and 100 % every 20 s", 600, seed, _sawtooth),
        Trace("one_spike", "one stall of 2 s", 180, seed, _steady, stalls=((60.0, 2.0),)),
        Trace("spikes", "a stall of up to 1.5 s every 15 s on average", 900, seed, _steady,
              stalls=_stalls(seed, 900, 15.0, 1.5)),
    )  # fmt: skip
