"""Keys from a terminal, joints jogged by them, and the speed at which an arm follows."""

from __future__ import annotations

import os
import pty
import termios
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pty_servos import joints as arm_joints
from vlad.record.follow import APPROACH, SPEED, Follow
from vlad.record.keyboard import DOWN_NS, PAIRS, Keyboard
from vlad.record.keyboard import SPEED as JOG
from vlad.servo import MS
from vlad.terminal import Terminal

JOINTS = arm_joints()
V_MAX = np.array([joint.v_max for joint in JOINTS])


def test_keys_come_by_name_and_the_terminal_is_restored() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with Terminal(slave) as terminal:
        assert terminal.keys() == []
        os.write(master, b"q\x1b[C\x1bOD\r\x7f\x1b[1;5Cw")
        time.sleep(0.05)
        assert terminal.keys() == ["q", "right", "left", "enter", "backspace", "w"]
        os.write(master, b"\x1b")
        time.sleep(0.05)
        assert terminal.keys() == ["esc"]
        os.write(master, b"\x1b")
        time.sleep(0.005)
        os.write(master, b"[D")  # a slow line: the bytes of an arrow one after another
        time.sleep(0.05)
        assert terminal.keys() == ["left"]
        assert not terminal.gone
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)


def test_a_terminal_that_hangs_up_is_gone() -> None:
    master, slave = pty.openpty()
    with Terminal(slave) as terminal:
        os.close(master)
        assert terminal.keys() == [] and terminal.gone
    os.close(slave)


@given(st.binary(max_size=40))
def test_no_bytes_confuse_the_keys(data: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    terminal = Terminal(reading)
    for _ in range(3):
        keys = terminal.keys()
        assert all(isinstance(key, str) and key for key in keys)
    assert terminal.gone
    os.close(reading)


def jogged(presses: dict[int, str], until_ms: int) -> list[np.ndarray]:
    """Goals every 33 ms, with keys pressed at so many ms."""
    keyboard = Keyboard(JOINTS)
    keyboard.begin(np.zeros(6))
    goals = []
    waiting = sorted(presses.items())
    for t_ms in range(0, until_ms, 33):
        while waiting and waiting[0][0] <= t_ms:
            assert keyboard.press(waiting.pop(0)[1], t_ms * MS)
        goal = keyboard.goals_rad(t_ms * MS)
        assert goal is not None
        goals.append(goal)
    return goals


def test_a_tap_moves_a_joint_a_little_and_then_it_stands() -> None:
    goals = jogged({300: PAIRS[1][0]}, 1500)
    assert goals[-1][1] == pytest.approx(JOG * V_MAX[1] * DOWN_NS / 1e9, rel=0.25)
    assert (goals[-1][[0, 2, 3, 4, 5]] == 0).all()
    assert goals[-1][1] == goals[16][1], "at rest 200 ms later"


def test_a_held_key_moves_at_a_bounded_speed_until_it_is_let_go() -> None:
    goals = np.array(jogged(dict.fromkeys(range(0, 1000, 33), PAIRS[0][1]), 2000))
    steps = np.diff(goals[:, 0])
    assert steps[2:28] == pytest.approx(-JOG * V_MAX[0] * 0.033, rel=1e-6)
    assert (steps[36:] == 0).all()
    assert np.abs(steps).max() <= JOG * V_MAX[0] * DOWN_NS / 1e9


def test_a_keyboard_that_has_gone_says_nothing_and_keys_of_no_joint_are_left() -> None:
    keyboard = Keyboard(JOINTS)
    assert keyboard.goals_rad(0) is None, "nobody has said where the arm is"
    keyboard.begin(np.full(6, 9.0))
    assert (keyboard.goals_rad(0) <= [joint.max for joint in JOINTS]).all()  # type: ignore[operator]
    assert not keyboard.press("enter", 0) and not keyboard.press("z", 0)
    keyboard.lost()
    assert keyboard.goals_rad(1) is None and keyboard.problem


poses = st.lists(st.floats(-4, 4), min_size=6, max_size=6).map(np.array)


@given(poses.map(lambda pose: pose / 5), st.lists(poses, min_size=1, max_size=60), st.integers(5, 120))
def test_no_action_is_further_than_a_step_or_beyond_a_limit(
    start: np.ndarray, wanted: list[np.ndarray], fps: int
) -> None:
    follow = Follow(JOINTS, fps)
    follow.start(start)
    before, caught_up = np.array(start), False
    for target in wanted:
        goal = follow.toward(target)
        share = SPEED if caught_up else APPROACH
        assert (np.abs(goal - before) <= share * V_MAX / fps + 1e-9).all()
        assert ((goal >= -1.0 - 1e-9) & (goal <= 1.0 + 1e-9)).all(), "the arm began inside its limits"
        before, caught_up = goal, follow.caught_up


def test_it_catches_up_with_a_leader_that_stands_and_counts_what_it_cannot_reach() -> None:
    follow = Follow(JOINTS, 30)
    follow.start(np.zeros(6))
    target = np.array([0.5, -0.5, 0.2, 0.0, 0.0, 3.0])
    actions = 0
    while not follow.caught_up:
        follow.toward(target)
        actions += 1
    assert actions == pytest.approx(1.0 / (APPROACH * 2.5 / 30), abs=2)
    for _ in range(100):
        goal = follow.toward(target)
    np.testing.assert_allclose(goal, [0.5, -0.5, 0.2, 0, 0, 1.0])
    assert follow.limited["gripper"] == actions + 100 and follow.limited["elbow_flex"] == 0
    with pytest.raises(ValueError, match="no pose"):
        follow.toward(np.full(6, np.nan))
