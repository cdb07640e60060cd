"""The motion law of the shipped policy: smooth, bounded, on its cycle from wherever it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from sweep_motion import FOLDED, FPS, MIDDLE, TASKS, Task, random_goals

MINUTE = np.arange(60 * FPS) / FPS
tasks = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.instruction)


@tasks
@pytest.mark.parametrize("start", [MIDDLE, FOLDED], ids=["middle", "folded"])
def test_reaches_the_cycle_and_keeps_turning(task: Task, start: np.ndarray) -> None:
    path = task.follow(start, MINUTE)
    np.testing.assert_allclose(path[0], start)
    settled = path[20 * FPS :]
    assert np.abs(settled - task.cycle(task.phase(settled))).max() < 1e-3
    turns = np.ptp(np.unwrap(task.phase(settled))) / 2 / np.pi
    assert turns == pytest.approx(len(settled) / FPS / task.period_s, rel=0.01)


@tasks
def test_is_slow_and_without_jumps_from_anywhere(task: Task) -> None:
    goals = random_goals(task, 4000, np.random.default_rng(1))
    steps = np.diff(task.chunk(goals), axis=1)[..., :5]
    assert np.radians(np.abs(steps).max() * FPS) < 1.5
    changes = np.diff(steps, axis=1)
    assert np.abs(changes).max() < 0.05


@tasks
def test_starting_anew_on_the_cycle_continues_it(task: Task) -> None:
    path = task.follow(task.cycle(np.asarray(0.7)), np.array([0.0, 1.0, 2.5]))
    np.testing.assert_allclose(task.follow(path[1], np.array([1.5]))[0], path[2], atol=1e-9)


@tasks
def test_the_training_goals_are_reachable(task: Task) -> None:
    goals = random_goals(task, 4000, np.random.default_rng(2))
    assert np.abs(goals[:, :5]).max() < 180
    assert goals[:, 5].min() >= 0
    assert goals[:, 5].max() <= 100
