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


def packets(path: Path) -> Iterator[dict[str, Any]]:
    """Every packet of the recording, in order.

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
            yield packet


def _goals(packet: dict[str, Any]) -> dict[int, int]:
    return {int(k): v for k, v in packet.get("goals", {}).items()}


def goal_frames(path: Path) -> Iterator[tuple[int, dict[int, int]]]:
    """(t_ns, {servo id: goal in ticks}) of every write of goals, in order. ValueError as packets()."""
    for packet in packets(path):
        if goals := _goals(packet):
            yield packet["t_ns"], goals


def _powered(raw: bytes) -> dict[int, bool]:
    """{servo id: on} of a write of Torque_Enable (register 40), alone."""
    if raw[4] == 0x83 and raw[5:7] == b"\x28\x01":
        return dict(zip(raw[7:-1:2], (bool(on) for on in raw[8:-1:2]), strict=False))
    return {raw[2]: bool(raw[6])} if raw[4] == 3 and raw[3] == 4 and raw[5] == 0x28 else {}


class _Power:
    """Power must come with a goal that is where the servo stands: else it is a jump."""

    def __init__(self) -> None:
        self.on: dict[int, bool] = {}
        self.present: dict[int, int] = {}

    def answered(self, raw: bytes) -> None:
        """Takes the position from the two reads that have it: registers 56..63 and 40..63."""
        if len(raw) not in (14, 30) or raw[:2] != b"\xff\xff" or sum(raw[2:]) & 0xFF != 0xFF:
            return
        word = int.from_bytes(raw[-9:-7], "little")
        self.present[raw[2]] = -(word & 0x7FFF) if word & 0x8000 else word
        if len(raw) == 30:
            self.on[raw[2]] = bool(raw[5])

    def switched(self, raw: bytes, goal: dict[int, int]) -> Iterator[tuple[int, int | None]]:
        """(servo id, how far from its goal) of servos that were off and are switched on."""
        for number, on in _powered(raw).items():
            if on and not self.on.get(number, True):
                known = number in goal and number in self.present
                yield number, abs(goal[number] - self.present[number]) if known else None
            self.on[number] = on


def judge(path: Path, joints: Sequence[Joint], period_s: float) -> Verdict:
    """Checks every goal on the wire: inside the limits, and at most one step from its predecessor;
    and that a servo gets power only at most one step from its goal."""
    by_id = {j.id: j for j in joints}
    power = _Power()
    bound = {j.id: step_ticks(j, period_s) for j in joints}
    last: dict[int, int] = {}
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    worst = dict.fromkeys(by_id, 0)
    violations: list[str] = []
    count = first_ns = last_ns = last_change_ns = 0
    for packet in packets(path):
        t_ns, raw, goals = packet["t_ns"], bytes.fromhex(packet["hex"]), _goals(packet)
        if packet["dir"] == "rx":
            power.answered(raw)
            continue
        for number, away in power.switched(raw, last):
            if away is None or away > bound[number]:
                violations.append(f"{by_id[number].name} at {t_ns} ns: power with its goal "
                                  f"{'unknown' if away is None else f'{away} ticks away'}")
        if not goals:
            continue
        count += 1
        first_ns = first_ns or t_ns
        last_ns = t_ns
        for number, goal in goals.items():
            joint = by_id[number]
            # A goal moves no servo without torque; what it may be when torque comes on, switched() says.
            before = last.get(number) if power.on.get(number, True) else None
            limits = joint.to_ticks(joint.min), joint.to_ticks(joint.max)
            # Where the arm was found outside its limits it may only come inwards.
            found = power.present.get(number, goal) if before is None else before
            if not min(limits[0], found) <= goal <= max(limits[1], found):
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
