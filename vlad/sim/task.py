"""The two things that can be asked for on the simulated table, and when they are done.

Success is judged from the state of the world and from nothing that the policy says: the tea bag is where
it belongs, at rest, and the jaws are open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlad.sim.world import World

TIME_LIMIT_S = 15.0
REST_M_S = 0.02
OPEN_RAD = 0.5
"""Jaws at least so far open have let go: a tea bag between them keeps them at 0.33."""


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction.

    target: the body where the tea bag belongs. within_m: how far from its axis. below_m: how high above the
    table the tea bag's centre may be. release_m: how high the jaws' tips let go.
    """

    instruction: str
    target: str
    within_m: float
    below_m: float
    release_m: float

    def inside(self, world: World) -> bool:
        """Whether the tea bag is in (or on) the target, held or not."""
        bag, target = (world.data.body(name).xpos for name in ("tea_bag", self.target))
        return math.dist(bag[:2], target[:2]) < self.within_m and bool(bag[2] < self.below_m)

    def done(self, world: World) -> bool:
        """Success: inside, jaws open, tea bag at rest."""
        at = int(world.model.joint("tea_bag").dofadr[0])
        speed = math.hypot(*world.data.qvel[at : at + 3])
        return self.inside(world) and bool(world.data.qpos[5] > OPEN_RAD) and speed < REST_M_S


MUG = Task("Put the tea bag in the mug.", "mug", within_m=0.040, below_m=0.060, release_m=0.105)
PLATE = Task("Put the tea bag on the plate.", "plate", within_m=0.055, below_m=0.020, release_m=0.020)
TASKS = (MUG, PLATE)
