"""The judge of the bus recording must find every kind of wrong goal, so each is put before it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlad import config as configuration
from vlad.wire_witness import Verdict, judge, step_ticks

CONFIG = configuration.load(
    Path(__file__).resolve().parents[2] / "configs/so101-sim.toml", machine=False
)
JOINTS = CONFIG.joints
PERIOD_S = 0.01
STEP = step_ticks(JOINTS[0], PERIOD_S)
Packet = dict[str, Any]


def frame(body: bytes) -> str:
    return (b"\xff\xff" + body + bytes([~sum(body) & 0xFF])).hex()


def goal(number: int, ticks: int) -> Packet:
    data = ticks.to_bytes(2, "little")
    body = bytes([0xFE, 7, 0x83, 42, 2, number, *data])
    return {"dir": "tx", "hex": frame(body), "goals": {str(number): ticks}}


def power(number: int, on: bool = True) -> Packet:
    return {"dir": "tx", "hex": frame(bytes([0xFE, 6, 0x83, 40, 1, number, on]))}


def power_alone(number: int) -> Packet:
    return {"dir": "tx", "hex": frame(bytes([number, 4, 3, 40, 1]))}


def feedback(number: int, present: int) -> Packet:
    data = present.to_bytes(2, "little") + bytes(6)
    return {"dir": "rx", "hex": frame(bytes([number, 10, 0, *data]))}


def found(number: int, present: int, on: bool) -> Packet:
    """The answer of bring-up's read of registers 40..63."""
    data = bytes([on, *bytes(15)]) + present.to_bytes(2, "little") + bytes(6)
    return {"dir": "rx", "hex": frame(bytes([number, 26, 0, *data]))}


def verdict(path: Path, *packets: Packet, end: str = "") -> Verdict:
    lines = [json.dumps({"t_ns": 1000 + i, **p}) + "\n" for i, p in enumerate(packets)]
    record = path / "bus.jsonl"
    record.write_text("".join(lines) + end)
    return judge(record, JOINTS, PERIOD_S)


def test_small_steps_inside_the_limits_are_fine(tmp_path: Path) -> None:
    seen = verdict(tmp_path, *[goal(1, 2000 + k * STEP) for k in range(10)], end='{"t_ns": 10')
    assert seen.ok, seen.violations
    assert seen.goals == 10
    assert seen.moved_ticks == 9 * STEP
    assert seen.worst_step["shoulder_pan"] == (STEP, STEP)


@pytest.mark.parametrize("direction", [1, -1])
def test_more_than_one_step_is_found(tmp_path: Path, direction: int) -> None:
    seen = verdict(tmp_path, goal(1, 2000), goal(1, 2000 + direction * (STEP + 1)))
    assert "step" in seen.violations[0]


def test_a_goal_outside_the_limits_is_found_whatever_came_before(tmp_path: Path) -> None:
    low = JOINTS[0].to_ticks(JOINTS[0].min)
    assert not verdict(tmp_path, goal(1, low), goal(1, low - 1)).ok
    assert verdict(tmp_path, feedback(1, low - 9), goal(1, low - 9), goal(1, low - 5)).ok
    assert not verdict(tmp_path, feedback(1, low - 9), goal(1, low - 10)).ok
    # Tick 0 is a position like any other.
    everywhere = replace(JOINTS[0], min=-9.0, max=9.0)
    narrow = [replace(JOINTS[0], min=JOINTS[0].max / 2), *JOINTS[1:]]
    record = tmp_path / "bus.jsonl"
    verdict(tmp_path, goal(1, 0), goal(1, 1), goal(1, 0), goal(1, 4))
    assert judge(record, [everywhere, *JOINTS[1:]], PERIOD_S).ok
    verdict(tmp_path, feedback(1, 0), goal(1, 0), goal(1, 0), goal(1, 0))
    assert judge(record, narrow, PERIOD_S).ok
    verdict(tmp_path, feedback(1, 1), goal(1, 0), goal(1, 0))
    assert not judge(record, narrow, PERIOD_S).ok


@pytest.mark.parametrize("switch", [power, power_alone])
def test_power_far_from_the_goal_is_a_jump(tmp_path: Path, switch: Any) -> None:
    off = found(1, 2000, on=False)
    assert verdict(tmp_path, off, goal(1, 2000 + STEP), switch(1)).ok
    assert not verdict(tmp_path, off, goal(1, 2001 + STEP), switch(1)).ok
    assert not verdict(tmp_path, off, goal(1, 2000), feedback(1, 1900), switch(1)).ok
    assert "unknown" in verdict(tmp_path, off, switch(1)).violations[0]
    # It had power already: a sagging arm may be far from its goal.
    assert verdict(tmp_path, found(1, 2000, on=True), goal(1, 2100), switch(1)).ok
    # Off and on again.
    again = (goal(1, 2000), power(1), power(1, on=False), feedback(1, 1900))
    assert not verdict(tmp_path, off, *again, switch(1)).ok


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bus\.jsonl:2"):
        verdict(tmp_path, goal(1, 2000), end='{"t_ns": 10\n')
