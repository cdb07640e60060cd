"""The gate: what an action chunk must pass before it may be queued.

The checks are csrc/gate.c, the same code that the daemon runs; this module gives it Python types.
Positions are in units (rad for body joints, 0..1 for the gripper), times in integer ns of one
monotonic clock that the caller reads: nothing here does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlad._native import gate as _native
from vlad.servo import JointLimits

__all__ = ["REASONS", "Command", "Gate", "GateConfig", "JointLimits", "Report"]

MS = 1_000_000
NU_PER_UNIT = 1_000_000_000

REASONS = _native.REASONS  # in the order of the checks

_AGES = {"future", "late", "stale", "frame_age", "moved"}
_UNITS = {"not_finite", "position", "step", "jump"}


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Limits and ages. ValueError from Gate or ActionQueue, naming the key, when one is unusable.

    action_period_ns: 1/f of the policy; actions are due on its multiples. clamp_permille: of a
    joint's span; a position beyond a limit by this much or less is clamped, farther is rejected.
    max_observation_age_ns, max_reuse_age_ns: N/f by definition (chunk_size * action_period_ns).
    """

    joints: tuple[JointLimits, ...]
    action_period_ns: int
    max_observation_age_ns: int
    max_reuse_age_ns: int
    clamp_permille: int = 20
    max_cold_age_ns: int = 10_000 * MS
    max_frame_age_ns: int = 67 * MS
    max_jump: float = 0.5235987755982988  # rad: 30 degrees
    blend_ns: int = 100 * MS


@dataclass(frozen=True, slots=True)
class Command:
    """The command in force. epoch: of the engagement, 0 = not engaged. rest_since_ns counts while
    at_rest. goal [n_joints]: last written goal in units; empty = all 0."""

    epoch: int = 1
    at_rest: bool = False
    rest_since_ns: int = 0
    goal: Sequence[float] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one chunk.

    joint, action: indices of the first offender (of the first clamped element when accepted with a
    clamp), None where they do not apply. value, bound: units for not_finite, position, step and
    jump, seconds for ages. str() says it in a line.
    """

    verdict: Literal["accepted", "clamped", "rejected"]
    reason: str  # one of REASONS; "none" unless rejected
    joint: int | None
    action: int | None
    value: float
    bound: float
    n_clamped: int  # elements clamped to their limit
    n_elapsed: int  # actions dropped because they were due before now
    n_tail_dropped: int  # old actions behind the chunk, dropped: over one step away from it
    n_blended: int  # actions moved to make a seam smooth

    @property
    def accepted(self) -> bool:
        """The chunk may be executed, clamped or not."""
        return self.verdict != "rejected"

    def __str__(self) -> str:
        if self.verdict == "accepted":
            return "accepted"
        where = "" if self.joint is None else f", joint {self.joint}"
        where += "" if self.action is None else f", action {self.action}"
        if self.verdict == "clamped":
            return f"clamped {self.n_clamped}{where}: {self.value:g} to {self.bound:g}"
        unit = " s" if self.reason in _AGES else " units" if self.reason in _UNITS else ""
        return f"rejected: {self.reason}{where}: {self.value:g}{unit}, bound {self.bound:g}{unit}"


class Gate:
    """The checks on their own. Pure: the same arguments give the same answer."""

    def __init__(self, config: GateConfig) -> None:
        self._native = _native.Gate(config)

    def check(
        self,
        actions: ArrayLike,
        *,
        t_obs_ns: int,
        now_ns: int,
        command: Command,
        last_due_ns: int | None = None,
        epoch: int | None = None,
        cold: bool = False,
        frame_age_ns: int = 0,
        reuse_age_ns: int = 0,
    ) -> tuple[Report, NDArray[np.int64] | None]:
        """Judges a raw chunk: epoch, deadline, ages, then finite, position, per-action step.

        actions [n_actions, n_joints], units. last_due_ns: when the last queued action is due, None
        when none is queued (then only a cold chunk passes). epoch: of the request, by default the
        command's. frame_age_ns may be negative. Returns the report and, unless rejected, the gated
        actions int64 [n_actions, n_joints] in nano-units. ValueError: not two-dimensional, or an
        argument that is no time or position.
        """
        raw, gated = self._native.check(
            actions, 0, command.epoch if epoch is None else epoch, t_obs_ns, frame_age_ns,
            reuse_age_ns, cold, command, last_due_ns, now_ns,
        )  # fmt: skip
        return Report(*raw), gated  # type: ignore[arg-type]

    def check_steps(
        self, before: Sequence[float], actions_nu: NDArray[np.int64], jump_allowed: float = 0.0
    ) -> Report:
        """The per-action step of merged actions [n, n_joints] (nano-units) that follow `before`
        [n_joints] (units); the first may be as large as jump_allowed where that is above 0."""
        return Report(*self._native.steps(before, actions_nu, jump_allowed))  # type: ignore[arg-type]

    def step_nu(self, joint: int) -> int:
        """v_max / f in nano-units: the largest step of a joint from one action to the next."""
        return self._native.step_nu(joint)
