"""The scripted expert: it sees the state of the world and does the task.

It has no memory. Where the goals go next depends on where arm and tea bag are and on the goals in force,
so it goes on from wherever it is put: after a miss it goes back by itself, and a policy that imitates it
never has to guess what happened before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vlad.sim.reach import OutOfReach, Reach, Vector

if TYPE_CHECKING:
    from vlad.sim.task import Task
    from vlad.sim.world import World

FPS = 30
READY_RAD = np.array([0.0, -1.05, 1.25, 1.25, 1.62, 0.9])
"""Where the arm waits, and goes back to: above the table, jaws open."""

OPEN_RAD = 0.9
CLOSED_RAD = 0.0
HELD_RAD = 0.45
"""The jaws stand at 0.33 rad with a tea bag between them, above this they have let go."""
EMPTY_RAD = 0.24
"""Below this they have closed on nothing."""

APPROACH_M = 0.030
"""From the fixed jaw's face to the tea bag's middle on the way down: as much room on either side."""
HOLD_M = 0.019
"""The same when the jaws hold it: half its width."""
HOVER_M = 0.075
GRASP_M = 0.004
CARRY_M = 0.135
CLEAR_M = 0.04

JOINT_RAD_S = np.array([1.5, 1.5, 1.5, 1.5, 2.0, 2.2])
EASE_PER_S = 6.0
RISE_M_S = 0.20
_NEAR_M, _LEVEL_M = 0.10, 0.16
"""Nearer to the pan axis than this the arm cannot lift its hand far."""


def tilt_rad(distance_m: float, height_m: float) -> float:
    """How far the hand leans forward: the farther and the higher, the more, as its joints allow."""
    far = float(np.clip((distance_m - 0.20) / 0.14, 0, 1))
    return 0.05 + 0.4 * far + 4.5 * max(height_m - 0.04, 0.0)


def height_m(distance_m: float, height: float) -> float:
    """`height`, or what is possible near the pan axis."""
    near = float(np.clip((_LEVEL_M - distance_m) / (_LEVEL_M - _NEAR_M), 0, 1))
    return height + (min(height, CLEAR_M + 0.006) - height) * near


class Expert:
    """Does `task` in `world`.

    Args:
        world: whose state it reads; it moves nothing there.
        task: what is to be done.
        offset_m: (2,) by which it misjudges where the tea bag lies, m: the way to make it miss.
    """

    def __init__(self, world: World, task: Task, offset_m: npt.ArrayLike = (0.0, 0.0)) -> None:
        self._world = world
        self._reach = Reach(world.model)
        self.task = task
        self._bag = world.model.geom("tea_bag").id
        self._pads = {world.model.geom(name).id for name in ("fixed_pad", "moving_pad")}
        self.offset_m = np.asarray(offset_m, float)

    def next_goal(self, goal_rad: Vector) -> Vector:
        """The goals (6,), rad, of one period of 1 / FPS after the goals in force were `goal_rad` (6,).

        Raises:
            OutOfReach: when the tea bag lies where the jaws cannot go.
        """
        way = self._waypoint(np.asarray(goal_rad, float))
        step = (way - goal_rad) * min(1.0, EASE_PER_S / FPS)
        excess = float(np.max(np.abs(step) / (JOINT_RAD_S / FPS)))
        return goal_rad + step / max(excess, 1.0)

    def _waypoint(self, goal: Vector) -> Vector:
        data = self._world.data
        present = np.array(data.qpos[:6])
        bag = np.array(data.body("tea_bag").xpos)
        tool = self._reach.tool(present[:5], HOLD_M)
        target = np.array(data.body(self.task.target).xpos)
        jaws = float(present[5])
        falling = math.dist(bag[:2], target[:2]) < self.task.within_m and tool[2] > self.task.release_m - 0.02
        if jaws > HELD_RAD and (falling or self.task.inside(self._world)):
            return self._leave(goal, tool, jaws)
        if self.gripped():
            return self._carry(goal, tool, target)
        return self._fetch(goal, tool, jaws, bag)

    def gripped(self) -> bool:
        """Whether both jaws touch the tea bag."""
        touching = set()
        for contact in self._world.data.contact:
            pair = {int(contact.geom[0]), int(contact.geom[1])}
            if self._bag in pair:
                touching |= pair & self._pads
        return touching == self._pads

    def _leave(self, goal: Vector, tool: Vector, jaws: float) -> Vector:
        """Open where it is, rise, and go to READY_RAD."""
        if jaws < OPEN_RAD - 0.2:
            return np.array([*goal[:5], OPEN_RAD])
        if tool[2] < CARRY_M - 0.01 and math.dist(goal[:5], READY_RAD[:5]) > 0.6:
            return np.array([*self._rise(goal, CARRY_M + 0.02), OPEN_RAD])
        return READY_RAD

    def _carry(self, goal: Vector, tool: Vector, target: Vector) -> Vector:
        """The jaws hold the tea bag: up, across, down, open."""
        away = math.dist(tool[:2], target[:2])
        lifted_m = height_m(self._reach.distance(tool), CARRY_M - 0.04) - 0.008
        if away > (0.015 if tool[2] > lifted_m else 0.03):
            if tool[2] < lifted_m:
                return np.array([*self._rise(goal, CARRY_M), CLOSED_RAD])
            return np.array([*self._above(target[:2], CARRY_M, None, HOLD_M), CLOSED_RAD])
        if tool[2] > self.task.release_m + 0.008:
            now_m = self._reach.tool(goal[:5], HOLD_M)[2]
            height = max(now_m - 1.5 * RISE_M_S / EASE_PER_S, self.task.release_m - 0.004)
            return np.array([*self._above(target[:2], height, None, HOLD_M), CLOSED_RAD])
        return np.array([*goal[:5], OPEN_RAD])

    def _fetch(self, goal: Vector, tool: Vector, jaws: float, bag: Vector) -> Vector:
        """The jaws hold nothing: over the tea bag, down, close; up again after a miss."""
        place = bag[:2] + self.offset_m
        heading = self._heading(bag)
        over = self._reach.tool(np.array(self._world.data.qpos[:5]), APPROACH_M)
        over_m = height_m(self._reach.distance(place), HOVER_M)
        hover = self._above(place, over_m, heading, APPROACH_M)
        error = math.dist(over[:2], place)
        turn = abs(float(self._world.data.qpos[4] - hover[4]))
        low = tool[2] < GRASP_M + 0.012
        if low and error < 0.022 and jaws > EMPTY_RAD:
            return np.array([*goal[:5], CLOSED_RAD])
        if jaws < OPEN_RAD - 0.2 and tool[2] < CLEAR_M:
            return np.array([*self._rise(goal, HOVER_M), min(goal[5], jaws)])
        if error < (0.008 if tool[2] > over_m - 0.02 else 0.018) and turn < 0.15 and jaws > OPEN_RAD - 0.15:
            now_m = self._reach.tool(goal[:5], APPROACH_M)[2]
            height = max(now_m - RISE_M_S / EASE_PER_S, GRASP_M)
            return np.array([*self._above(place, height, heading, APPROACH_M), OPEN_RAD])
        if tool[2] < CLEAR_M and error > 0.03:
            return np.array([*self._rise(goal, HOVER_M), OPEN_RAD])
        return np.array([*hover, OPEN_RAD])

    def _heading(self, bag: Vector) -> float:
        """Along the tea bag's short side, as near as can be to square on the line from the pan axis.

        Square on it, both jaws reach the table however far the hand leans, and the camera is behind them.
        """
        frame = self._world.data.body("tea_bag").xmat.reshape(3, 3)
        across = math.atan2(frame[1, 1], frame[0, 1])
        square = self._reach.bearing(bag) + math.pi / 2
        return square + math.remainder(across - square, math.pi)

    def _above(self, place: Vector, height: float, heading: float | None, offset_m: float) -> Vector:
        distance = self._reach.distance(place)
        point = np.array([*place, height])
        if heading is None:
            heading = self._reach.bearing(point) + math.pi / 2
        return self._reach.nearest(point, heading, offset_m, tilt_rad(distance, height))

    def _rise(self, goal: Vector, height: float) -> Vector:
        """Straight up from the goals in force, towards `height`; where that cannot be, back to READY_RAD."""
        point = self._reach.tool(goal[:5], HOLD_M)
        distance = self._reach.distance(point)
        up = min(point[2] + 1.5 * RISE_M_S / EASE_PER_S, max(height, point[2]))
        heading = self._reach.heading(goal[:5])
        try:
            return self._reach.nearest(np.array([*point[:2], up]), heading, HOLD_M, tilt_rad(distance, up))
        except OutOfReach:
            return READY_RAD[:5]
