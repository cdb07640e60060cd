"""Episodes of the scripted expert, with what an imitator has to see besides the straight way: odd poses to begin from,
goals that are not quite carried out, grasps that miss and tea bags that fall.
"""

from __future__ import annotations

import numpy as np

from tools.teabag import moments
from tools.teabag.peers import Peers
from tools.teabag.places import Places
from tools.teabag.run import report
from tools.teabag.table import Episode, Table
from vlad.build.progress import Progress
from vlad.sim.expert import EMPTY_RAD, FPS, OPEN_RAD, Expert
from vlad.sim.reach import OutOfReach
from vlad.sim.task import TASKS

EXTENT = 0.35
"""Of the variation, in four episodes of ten."""
LOOK_EVERY = 4
TIME_LIMIT_S = 15
AFTER_STEPS = 30
"""That an episode goes on after the task is done."""
NOISE_RAD = (0.0, 0.002, 0.004, 0.007)
"""Between which goals that are carried out and the expert's are drawn to differ; correlated over 10 steps."""
MISS_M = 0.02
_LOWEST_M, _MOST_CONTACTS, _TRIES = 0.045, 12, 50


class Disturbance:
    """What is added to goals before they are carried out: noise (6,), rad, that lasts for some steps."""

    def __init__(self, sigma_rad: float, rng: np.random.Generator) -> None:
        self._scale = sigma_rad * 0.44 * np.array((1, 1, 1, 1, 1, 0.5))  # 0.44: the sum of it then has sigma
        self._rng, self._now = rng, np.zeros(6)

    def next(self) -> np.ndarray:
        self._now = 0.9 * self._now + self._rng.normal(0, 1, 6) * self._scale
        return self._now


def record(peers: Peers, places: Places) -> None:
    """All shards that are not there yet."""
    settings = places.settings
    last = settings.expert_seed + settings.expert_episodes
    todo = [shard for shard in peers.share(places.expert) if not shard.exists()]
    table = Table()
    with Progress("expert", len(todo) * settings.shard, quiet=not peers.first) as progress:
        for shard in todo:
            kept = []
            seeds = range(int(shard.name), min(int(shard.name) + settings.shard, last))
            for seed in seeds:
                progress.advance(f"episode {seed}")
                if (made := episode(table, seed)) is not None:
                    kept.append(made.moments())
            moments.write(shard, kept)
            report(places.out, "expert", int(shard.name), episodes=len(seeds), kept=len(kept))
    table.close()


def episode(table: Table, seed: int) -> Episode | None:
    """One episode, or None where the expert did not do the task in time."""
    rng = np.random.default_rng(seed)
    table.begin(0.0 if rng.random() < 0.6 else EXTENT, rng)
    task = TASKS[int(rng.integers(len(TASKS)))]
    if not _stand_somewhere(table, rng):
        return None
    misses = rng.random() < 0.2
    expert = Expert(table.world, task, rng.normal(0, MISS_M, 2) if misses else (0.0, 0.0))
    drop_at = int(rng.integers(60, 160)) if rng.random() < 0.12 else -1
    disturbance = Disturbance(float(rng.choice(NOISE_RAD)), rng)
    episode, done_at, opening = Episode(table, expert, seed), None, 0
    for step in range(TIME_LIMIT_S * FPS):
        try:
            goal = expert.next_goal(table.goal_rad)
        except OutOfReach:
            return None
        if (table.world.data.qpos[5] < EMPTY_RAD and step > 20) or step > 150:
            expert.offset_m = np.zeros(2)  # it has missed, and sees it
        episode.note(goal, look=step % LOOK_EVERY == 0)
        carried_out = goal + disturbance.next()
        if step == drop_at and expert.gripped():
            opening = 12
        if opening:
            carried_out[5] = min(table.goal_rad[5] + 0.08, OPEN_RAD)
            opening -= 1
        table.move(carried_out)
        if done_at is None and task.done(table.world):
            done_at = step
        if done_at is not None and step - done_at >= AFTER_STEPS:
            return episode
    return episode if done_at is not None else None


def _stand_somewhere(table: Table, rng: np.random.Generator) -> bool:
    """At rest, ready, or in three episodes of ten anywhere above the table; False where no such pose was found."""
    kind = rng.random()
    if kind >= 0.55:
        table.rest(rng)
    elif kind >= 0.3:
        table.ready(rng)
    else:
        low, high = np.array((-1.9, -1.6, -0.6, 0.3, 0.3, -0.1)), np.array((1.9, 0.6, 1.6, 1.6, 2.8, 1.1))
        for _ in range(_TRIES):
            table.stand(rng.uniform(low, high))
            data = table.world.data
            if data.site("grasp").xpos[2] > _LOWEST_M and data.ncon <= _MOST_CONTACTS:
                return True
        return False
    return True
