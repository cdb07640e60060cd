"""The simulated table as episodes need it: an arm that goes where it is told, and moments of what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.teabag.moments import CHUNK, MOMENT, PICTURES
from vlad.sim.environment import TeaBag, carry_out
from vlad.sim.expert import HOLD_M, READY_RAD, Expert
from vlad.sim.reach import OutOfReach, Reach
from vlad.sim.start import TRAINING, draw_start
from vlad.sim.task import TASKS
from vlad.sim.variation import Appearance, Variation
from vlad.sim.world import CAMERAS, REST_POSE_RAD
from vlad.train.frame_cache import PictureSize
from vlad.train.small_vlm import IMAGE_SIZE

WIDTH, HEIGHT = 160, 120
PLACE_RAD = 0.03, 0.08
"""How far an arm at rest, or ready, is from where it should be: standard deviations."""

Angles = NDArray[np.float64]


class Table:
    """One table; begin() before anything else. What happens on it depends on what is called and on nothing else."""

    def __init__(self) -> None:
        self._env = TeaBag(cameras=False)
        self.world = self._env.world
        self._appearance = Appearance(self.world.model)
        self._reach = Reach(self.world.model)
        self._size = PictureSize(padded=(IMAGE_SIZE, IMAGE_SIZE))
        self.goal_rad = np.zeros(6)

    def begin(self, extent: float, rng: np.random.Generator) -> None:
        """Light, colours, cameras and friction within `extent`; objects in a training cluster; the arm at rest."""
        self._appearance.vary(Variation(extent, extent, extent, extent), rng)
        self.world.begin(draw_start(rng, int(rng.choice(TRAINING))))

    def stand(self, pose_rad: ArrayLike) -> None:
        """The arm at joint angles (6,), rad, with torque and its goals where it is."""
        self.world.place(np.asarray(pose_rad, float).tolist())
        self.world.set_torque(True)
        self.goal_rad = self.world.joint_rad()
        self.world.set_goal_rad(self.goal_rad.tolist())

    def rest(self, rng: np.random.Generator) -> None:
        """Stand folded, about as the arm lies without torque."""
        self.stand(np.array(REST_POSE_RAD) + rng.normal(0, PLACE_RAD[0], 6) * (1, 1, 1, 1, 1, 0))

    def ready(self, rng: np.random.Generator) -> None:
        """Stand about where the arm waits between tasks."""
        self.stand(READY_RAD + rng.normal(0, PLACE_RAD[1], 6))

    def move(self, goal_rad: Angles) -> None:
        """One period of 1 / FPS, in which the goals go to `goal_rad` (6,) in a straight line."""
        carry_out(self.world, self.goal_rad, goal_rad)
        self.goal_rad = goal_rad

    def obey(self, degrees: ArrayLike) -> None:
        """move() to an action (6,) in LeRobot's units, within the joints' limits."""
        space: Any = self._env.action_space
        self.move(self._env.to_rad(np.clip(degrees, space.low, space.high)))

    def state(self) -> Angles:
        """Where the joints are (6,), in LeRobot's units."""
        return self.degrees(self.world.joint_rad())

    def degrees(self, angles_rad: ArrayLike) -> Angles:
        """Joint angles (..., 6), rad, in LeRobot's units."""
        return self._env.to_degrees(angles_rad)

    def look(self) -> NDArray[np.uint8]:
        """What the cameras see: PICTURES, uint8 RGB."""
        return np.stack([self._size(self.world.render(camera, WIDTH, HEIGHT)) for camera in CAMERAS])

    def scene(self, expert: Expert) -> NDArray[np.float32]:
        """Where everything is (12,): the tea bag's position, m (3), and the direction of its side (2); the mug's
        position (2); the point between the jaws (3); whether they hold the tea bag, and whether it is where it
        belongs."""
        bag, data = self.world.data.body("tea_bag"), self.world.data
        jaws = self._reach.tool(self.world.joint_rad()[:5], HOLD_M)
        done = (expert.gripped(), expert.task.inside(self.world))
        parts = (bag.xpos, bag.xmat[[0, 3]], data.body("mug").xpos[:2], jaws, done)
        return np.concatenate(parts).astype(np.float32)

    def close(self) -> None:
        self._env.close()


def demonstrate(
    episode: Episode, steps: int, after: int, look: Callable[[int], bool], carried_out: Callable[[int, Angles], Angles]
) -> Episode | None:
    """The expert's way from where things are, and `after` steps beyond the end of its task; None where that is not
    reached within `steps`.

    look: at which steps there is a moment to keep. carried_out: what becomes of the expert's goals at a step.
    """
    table, expert = episode.table, episode.expert
    done_at = None
    for step in range(steps):
        try:
            goal = expert.next_goal(table.goal_rad)
        except OutOfReach:
            return None
        episode.note(goal, look=look(step))
        table.move(carried_out(step, goal))
        if done_at is None and expert.task.done(table.world):
            done_at = step
        if done_at is not None and step - done_at >= after:
            break
    return episode if done_at is not None else None


class Episode:
    """An expert's way through one episode, and the moments of it that are kept."""

    def __init__(self, table: Table, expert: Expert, number: int) -> None:
        self.table, self.expert, self._number = table, expert, number
        self._actions: list[Angles] = []
        self._kept: list[tuple[int, Angles, NDArray[np.float32], NDArray[np.uint8]]] = []

    def note(self, goal_rad: Angles, *, look: bool) -> None:
        """The expert's goals from where things are now; `look`: this is a moment to keep."""
        if look:
            table = self.table
            self._kept.append((len(self._actions), table.state(), table.scene(self.expert), table.look()))
        self._actions.append(self.table.degrees(goal_rad))

    def moments(self) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """MOMENT (n,) and uint8 (n, *PICTURES); beyond the end, a chunk repeats the last action, as LeRobot does."""
        rows = np.zeros(len(self._kept), MOMENT)
        actions = np.array(self._actions)
        for row, (at, state, scene, _) in zip(rows, self._kept, strict=True):
            row["episode"], row["task"] = self._number, TASKS.index(self.expert.task)
            row["cluster"] = self.table.world.start.cluster
            row["state"], row["scene"] = state, scene
            row["chunk"] = actions[np.minimum(np.arange(at, at + CHUNK), len(actions) - 1)]
        pictures = np.array([kept[3] for kept in self._kept], np.uint8).reshape(-1, *PICTURES)
        return rows, pictures
