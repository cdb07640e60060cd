"""Roll-ins: the policy acts for a while, then the expert goes on from where that has led, and is recorded.

What the expert does where a policy gets itself into is what the expert's own episodes do not show (DAgger: Ross, Gordon
and Bagnell, 2011). Several tables at once, because the policy answers eight observations in little more time than one.
"""

from __future__ import annotations

import numpy as np
import torch

from tools.teabag import moments
from tools.teabag import policy as policies
from tools.teabag.expert_episodes import EXTENT, Disturbance
from tools.teabag.moments import Moments
from tools.teabag.peers import Peers
from tools.teabag.places import Places
from tools.teabag.run import report
from tools.teabag.sampler import Sampler
from tools.teabag.table import Episode, Table
from vlad.build.progress import Progress
from vlad.sim.expert import FPS, Expert
from vlad.sim.reach import OutOfReach
from vlad.sim.task import TASKS, Task

TABLES = 8
PLATE_SHARE = 0.35
NOISE_RAD = (0.0, 0.002, 0.004)
LOOK_EVERY, LOOK_ALSO = 4, (1, 2, 6)
"""More often just after taking over: that is where the policy is."""
TIME_LIMIT_S = 12
AFTER_STEPS = 15
PER_GROUP = 100
"""Seeds of episodes of one group lie within so many."""


def record(peers: Peers, places: Places, stage: int) -> None:
    """All groups of round `stage` (from 1) that are not there yet, with the policy of the round before."""
    policy = policies.new(places.vlm, places.settings.seed)
    policies.load(policy, places.motion(stage - 1))
    sampler = Sampler(policy.eval(), Moments(places.expert).statistics())
    todo = [shard for shard in peers.share(places.rollin(stage)) if not shard.exists()]
    tables = [Table() for _ in range(TABLES)]
    with Progress(f"roll-ins {stage}", len(todo), quiet=not peers.first) as progress:
        for shard in todo:
            progress.advance(f"group {shard.name}")
            won, episodes = group(tables, sampler, int(shard.name))
            moments.write(shard, [episode.moments() for episode in episodes])
            report(places.out, f"rollin-{stage}", int(shard.name), won=won, kept=len(episodes))
    for table in tables:
        table.close()


def group(tables: list[Table], sampler: Sampler, seed: int) -> tuple[int, list[Episode]]:
    """How often the policy did the task before the expert's turn, and what the expert then did elsewhere."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    tasks = [TASKS[int(rng.random() < PLATE_SHARE)] for _ in tables]
    turns = [int(turn) for turn in rng.integers(15, 270, len(tables))]
    for table in tables:
        table.begin(0.0 if rng.random() < 0.7 else EXTENT, rng)
        if rng.random() < 0.25:
            table.ready(rng)
        else:
            table.rest(rng)
    acting, won, step = list(range(len(tables))), 0, 0
    ended: list[int] = []
    while acting:
        seen = sampler.see(np.stack([tables[i].look() for i in acting]))
        states = torch.from_numpy(np.stack([tables[i].state() for i in acting])).float()
        chunks = sampler.chunks(seen, states, np.array([TASKS.index(tasks[i]) for i in acting]))
        horizon = int(rng.integers(8, 26))
        for i, chunk in zip(list(acting), chunks, strict=True):
            for k, action in enumerate(chunk[:horizon]):
                tables[i].obey(action)
                if tasks[i].done(tables[i].world):
                    won += 1
                    acting.remove(i)
                    break
                if step + k >= turns[i]:
                    ended.append(i)
                    acting.remove(i)
                    break
        step += horizon
    taken = (_take_over(tables[i], tasks[i], (seed * PER_GROUP) + i, rng) for i in sorted(ended))
    return won, [episode for episode in taken if episode is not None]


def _take_over(table: Table, task: Task, number: int, rng: np.random.Generator) -> Episode | None:
    """The expert's way from here; None where it does not get there."""
    expert = Expert(table.world, task)
    disturbance = Disturbance(float(rng.choice(NOISE_RAD)), rng)
    episode, done_at = Episode(table, expert, number), None
    for step in range(TIME_LIMIT_S * FPS):
        try:
            goal = expert.next_goal(table.goal_rad)
        except OutOfReach:
            return None
        episode.note(goal, look=step % LOOK_EVERY == 0 or step in LOOK_ALSO)
        table.move(goal + disturbance.next())
        if done_at is None and task.done(table.world):
            done_at = step
        if done_at is not None and step - done_at >= AFTER_STEPS:
            return episode
    return episode if done_at is not None else None
