"""The scripted sweep: two smooth cycles of six joints, and the way onto them.

A task is a motion law without memory: where the goals go next depends on where the arm is and on
nothing else, so one state is enough to continue the motion and a policy can learn it. Two joints
give the phase, an angle round the centre of their ellipse. What the arm is off the cycle shrinks at
CONVERGE_S, and never faster than CONVERGE_DEG_S.

Units: degrees for the body joints (0 = middle of the range), 0..100 for the gripper: LeRobot's
DEGREES mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
CAMERAS = ("top", "gripper", "left")
FPS = 30
CHUNK = 50
LAG_S = 2 / FPS
"""How long the simulated servos take to follow: a measured state belongs to the goal of LAG_S ago.
"""
CONVERGE_S = 1.2
CONVERGE_DEG_S = 24.0
MIDDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])
"""Every joint at the middle of its range. Both cycles begin near it: it has phase 0."""
FOLDED = np.array([0.0, -98.5, 95.1, 63.0, 0.0, 9.1])
"""Where the simulated arm starts: folded, as a switched-off arm lies."""


@dataclass(frozen=True, slots=True)
class Task:
    """One cycle. The joints PLANE give its phase: centre + (radii[0] sin phase, radii[1] cos
    phase).
    """

    instruction: str
    period_s: float
    centre: tuple[float, float]
    radii: tuple[float, float]
    cycle: Callable[[Array], Array]

    def phase(self, goal: Array) -> Array:
        """Phase in radians (...,) of goals (..., 6)."""
        u, v = ((goal[..., j] - c) / r for j, c, r in zip(PLANE, self.centre, self.radii, strict=True))
        return np.arctan2(u, v)

    def follow(self, goal: Array, times_s: Array) -> Array:
        """Goals (..., T, 6) at `times_s` (T,) after the goal was `goal` (..., 6)."""
        phase = self.phase(goal)
        offset = goal - self.cycle(phase)
        far = np.abs(offset).max(axis=-1)[..., None] + 1e-9
        near = CONVERGE_DEG_S * CONVERGE_S
        straight_s = np.maximum(far - near, 0) / CONVERGE_DEG_S
        left = np.maximum(far - CONVERGE_DEG_S * times_s, 0)
        left = np.where(
            times_s < straight_s,
            left,
            np.minimum(far, near) * np.exp(-(times_s - straight_s) / CONVERGE_S),
        )
        later = phase[..., None] + 2 * np.pi / self.period_s * times_s
        return self.cycle(later) + offset[..., None, :] * (left / far)[..., None]

    def chunk(self, goal: Array) -> Array:
        """The actions (..., CHUNK, 6) from the moment on when the arm has reached `goal` (..., 6)."""
        return self.follow(goal, LAG_S + np.arange(CHUNK) / FPS)


PLANE = (0, 4)


def _sweep(phase: Array) -> Array:
    s, c, s2 = np.sin(phase), np.cos(phase), np.sin(2 * phase)
    return np.stack([28 * s, -14 + 14 * c, 10 + 10 * s2, 12 + 8 * s, -15 + 15 * c, 35 + 15 * c], axis=-1)


def _wave(phase: Array) -> Array:
    s, c, s2 = np.sin(phase), np.cos(phase), np.sin(2 * phase)
    return np.stack([12 * s, -4 + 4 * c, 8 + 6 * s2, 8 + 20 * s, 20 - 20 * c, 50 + 20 * s2], axis=-1)


TASKS = (
    Task("Sweep the arm over the table.", 9.0, (0.0, -15.0), (28.0, 15.0), _sweep),
    Task("Wave the gripper.", 7.0, (0.0, 20.0), (12.0, -20.0), _wave),
)


def random_goals(task: Task, count: int, rng: np.random.Generator) -> Array:
    """Goals (count, 6) to learn `task` from: on its cycle (two fifths), off it, on the way from the
    folded pose, on the other cycles, where a change of the instruction finds the arm, and about the
    two poses where it starts.
    """
    kind = rng.choice(6, size=count, p=(0.4, 0.2, 0.15, 0.15, 0.05, 0.05))
    phase = rng.uniform(-np.pi, np.pi, size=count)
    cycle = task.cycle(phase)
    off = rng.uniform(-1, 1, size=(count, 6)) * np.array([0, 15, 18, 15, 0, 30])
    radius = rng.uniform(-0.5, 0.5, size=count)
    off[:, PLANE[0]] = task.radii[0] * radius * np.sin(phase)
    off[:, PLANE[1]] = task.radii[1] * radius * np.cos(phase)
    unfolding = rng.random((count, 1)) * (FOLDED - task.cycle(np.zeros(count)))
    others = [other for other in TASKS if other is not task]
    elsewhere = np.stack([other.cycle(phase) for other in others])[
        rng.integers(len(others), size=count), np.arange(count)
    ]
    kinds = [
        cycle,
        cycle + off,
        cycle + unfolding,
        elsewhere,
        np.tile(MIDDLE, (count, 1)),
        np.tile(FOLDED, (count, 1)),
    ]
    goals = np.choose(kind[:, None], kinds) + rng.normal(0, 1.5, size=(count, 6))
    low, high = (
        np.array([-100.0, -99.5, -95, -94, -179, 0]),
        np.array([100.0, 99.5, 95, 94, 179, 100]),
    )
    return np.clip(goals, low, high)
