"""The action queue: the timeline of accepted actions, indexed by time.

The code is csrc/action_queue.c, the same that the daemon runs. `push_chunk` is the only way in and
runs the gate, so an ungated action cannot be queued. One thread pushes (and may ask depth and
last_due_ns), one other thread samples; neither ever waits for the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlad._native import action_queue as _native
from vlad.gate import NU_PER_UNIT, Command, GateConfig, JointLimits, Report

__all__ = [
    "AGGREGATES",
    "ActionQueue",
    "Command",
    "GateConfig",
    "JointLimits",
    "Report",
    "Timeline",
]

AGGREGATES = (
    _native.AGGREGATES
)  # LeRobot's names; weights of old and new: 0.3/0.7, 0/1, 1/2, 0.7/0.3; rtc (vlad/rtc.py); ACT's ensemble


@dataclass(frozen=True, slots=True)
class Timeline:
    """Actions due at t0_ns + k * period_ns. actions_nu int64 [n, n_joints], nano-units; t_obs_ns
    int64 [n], the newest observation behind each action. opinions int64 [n]: of how many chunks each
    is the mean, in an ensemble. seq: of the newest chunk in it."""

    seq: int
    epoch: int
    t0_ns: int
    period_ns: int
    actions_nu: NDArray[np.int64]
    t_obs_ns: NDArray[np.int64]
    opinions: NDArray[np.int64]

    @property
    def actions(self) -> NDArray[np.float64]:
        """The same in units, [n, n_joints]."""
        return self.actions_nu / NU_PER_UNIT


class ActionQueue:
    """A queue for one policy. lookahead_ns: how far ahead of now the trajectory reads it."""

    def __init__(
        self, config: GateConfig, aggregate: str = "weighted_average", lookahead_ns: int = 0,
        coefficient: float = 0.0,
    ) -> None:
        """coefficient: of `temporal_ensemble`. ValueError, naming what is wrong, when a limit,
        `aggregate` or `coefficient` cannot be used."""
        self._native = _native.ActionQueue(config, aggregate, lookahead_ns, coefficient)

    def push_chunk(
        self,
        actions: ArrayLike,
        *,
        t_obs_ns: int,
        now_ns: int,
        command: Command,
        seq: int = 0,
        epoch: int | None = None,
        cold: bool = False,
        frame_age_ns: int = 0,
        reuse_age_ns: int = 0,
    ) -> Report:
        """Gates actions [n_actions, n_joints] (units), merges them, gates the merge, publishes.

        Action i belongs to t_obs_ns (rounded down to the grid) + i/f; a cold chunk is re-anchored
        to the first grid point at or after now. What is due before now is dropped. A rejected chunk
        changes nothing. How seams are blended is in csrc/action_queue.h. ValueError: not
        two-dimensional, or an argument that is no time or position. Releases the GIL.
        """
        raw = self._native.push(
            actions, seq, command.epoch if epoch is None else epoch, t_obs_ns, frame_age_ns,
            reuse_age_ns, cold, command, now_ns,
        )  # fmt: skip
        return Report(*raw)  # type: ignore[arg-type]

    def clear(self) -> None:
        """Publishes an empty timeline."""
        self._native.clear()

    def last_due_ns(self, epoch: int = 1) -> int | None:
        """When the last action of this engagement is due; None when there is none."""
        return self._native.last_due_ns(epoch)

    def depth(self, now_ns: int, epoch: int = 1) -> int:
        """Actions of this engagement that are due at or after now."""
        return self._native.depth(now_ns, epoch)

    def sample(self, t_ns: int) -> NDArray[np.float64] | None:
        """Consumer. The position [n_joints] at t_ns, interpolated between actions, in units; before
        the first action the first, after the last the last. None when the queue is empty."""
        return self._native.sample(t_ns)

    def timeline(self) -> Timeline:
        """Consumer. A copy of the newest published timeline."""
        return Timeline(*self._native.timeline())
