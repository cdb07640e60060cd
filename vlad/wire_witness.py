"""What really went over the bus, judged from the simulator's recording and nothing else.

The recording (`vlad sim --record`) is made on the servos' side of the wire, so this shares no code
with what it judges: no counter of the daemon enters here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlad.arm import TICKS_PER_TURN, Joint


@dataclass(frozen=True, slots=True)
class Verdict:
    """goals: frames of goals seen. moved_ticks: largest minus smallest goal of any joint.
    worst_step: per joint, the largest |goal_k - goal_(k-1)| and the bound, in ticks.
    violations: in words, at most 20. rest_s: from the last change of a goal to the last frame."""

    goals: int
    moved_ticks: int
    worst_step: dict[str, tuple[int, int]]
    violations: tuple[str, ...]
    first_ns: int
    last_ns: int
    last_change_ns: int

    @property
    def ok(self) -> bool:
        return not self.violations


def step_ticks(joint: Joint, period_s: float) -> int:
    """One step: what v_max allows in one servo period, in whole ticks."""
    per_unit = (
        joint.calibration.range_max - joint.calibration.range_min
        if joint.gripper else TICKS_PER_TURN / math.tau
    )
    return math.floor(joint.v_max * period_s * per_unit)


def goal_frames(path: Path) -> Iterator[tuple[int, dict[int, int]]]:
    """(t_ns, {servo id: goal in ticks}) of every sync write of goals, in order.

    A last line cut short by the end of the recording is ignored; any other bad line is a ValueError.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                packet: dict[str, Any] = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
            if "goals" in packet:
                yield packet["t_ns"], {int(k): v for k, v in packet["goals"].items()}


def judge(path: Path, joints: Sequence[Joint], period_s: float) -> Verdict:
    """Checks every goal on the wire: inside the limits, and at most one step from its predecessor."""
    by_id = {j.id: j for j in joints}
    bound = {j.id: step_ticks(j, period_s) for j in joints}
    last: dict[int, int] = {}
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    worst = dict.fromkeys(by_id, 0)
    violations: list[str] = []
    count = first_ns = last_ns = last_change_ns = 0
    for t_ns, goals in goal_frames(path):
        count += 1
        first_ns = first_ns or t_ns
        last_ns = t_ns
        for number, goal in goals.items():
            joint = by_id[number]
            before = last.get(number)
            limits = joint.to_ticks(joint.min), joint.to_ticks(joint.max)
            # Where the arm was found outside its limits it may only come inwards.
            if not min(limits[0], before or goal) <= goal <= max(limits[1], before or goal):
                violations.append(f"{joint.name} at {t_ns} ns: goal {goal} outside {limits}")
            if before is not None:
                step = abs(goal - before)
                worst[number] = max(worst[number], step)
                if step > bound[number]:
                    violations.append(
                        f"{joint.name} at {t_ns} ns: step of {step} ticks, one step is {bound[number]}"
                    )
                if step:
                    last_change_ns = t_ns
            last[number] = goal
            low[number] = min(goal, low.get(number, goal))
            high[number] = max(goal, high.get(number, goal))
    return Verdict(
        count,
        max((high[n] - low[n] for n in high), default=0),
        {by_id[n].name: (worst[n], bound[n]) for n in by_id},
        tuple(violations[:20]),
        first_ns, last_ns, last_change_ns,
    )
