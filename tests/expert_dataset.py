"""A LeRobot dataset v3.0 of the simulated expert's first seconds, written as vlad record writes one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlad.dataset.writer import DatasetWriter
from vlad.sim.environment import TeaBag
from vlad.sim.expert import FPS
from vlad.sim.start import draw_start
from vlad.sim.world import CAMERAS, JOINTS

PERIOD_NS = 10**9 // FPS


def write(
    root: Path, clusters: Sequence[int], frames: int = 40, size: tuple[int, int] = (120, 160), name: str = "mug"
) -> Path:
    """`root` with one episode of each of `clusters`. size: (height, width) of the pictures."""
    env = TeaBag(name, width=size[1], height=size[0])
    writer = DatasetWriter(root, FPS, JOINTS, dict.fromkeys(CAMERAS, size))
    try:
        for number, cluster in enumerate(clusters):
            start = draw_start(np.random.default_rng(number), cluster)
            seen, info = env.reset(seed=number, options={"start": start})
            expert = env.expert()
            for frame in range(frames):
                action = env.expert_action(expert)
                t_ns = (number * frames + frame + 1) * PERIOD_NS
                writer.add_frame(seen["agent_pos"], action, seen["pixels"], [t_ns] * 4)
                seen, *_, info = env.step(action)
            writer.save_episode(info["instruction"], success=True, cluster=cluster)
    finally:
        writer.close()
        env.close()
    return root
