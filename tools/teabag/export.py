"""What `vlad build` takes: a checkpoint as LeRobot writes one, and a dataset with the same statistics."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lerobot.policies.factory import make_pre_post_processors

from tools.teabag import policy as policies
from tools.teabag.moments import Moments, Statistics
from tools.teabag.places import Places
from vlad.build.bundle_directory import replacing
from vlad.dataset.writer import DatasetWriter
from vlad.sim.environment import TeaBag
from vlad.sim.expert import FPS
from vlad.sim.start import draw_start
from vlad.sim.task import TASKS
from vlad.sim.world import CAMERAS, JOINTS

_PERIOD_NS = 10**9 // FPS
_STATS_MAX_BYTES = 16 << 20


def checkpoint(places: Places, target: Path) -> None:
    """Policy and processors, as save_pretrained writes them, with the backbone where vlad build looks for it."""
    policy = policies.new(places.vlm, places.settings.seed)
    policies.load(policy, places.motion(places.settings.rollins))
    policy.config.vlm_model_name = str(target / "vlm")
    found = asdict(Moments(places.expert).statistics())
    stats = {
        feature: {kind: torch.from_numpy(found[f"{name}_{kind}"]) for kind in ("mean", "std")}
        for feature, name in (("observation.state", "state"), ("action", "action"))
    }
    with replacing(target, rooms=()) as partial:
        policy.save_pretrained(partial)
        for processor in make_pre_post_processors(policy.config, dataset_stats=stats):
            processor.save_pretrained(partial)
        shutil.copytree(places.vlm, partial / "vlm")


def dataset(places: Places, target: Path) -> None:
    """One episode of the expert for each task. Its meta/ tells the rate, the joints and the tasks; means and standard
    deviations in meta/stats.json are those of everything the policy was trained on."""
    with replacing(target, rooms=()) as partial:
        writer = DatasetWriter(partial, FPS, JOINTS, dict.fromkeys(CAMERAS, (120, 160)))
        try:
            for number, task in enumerate(TASKS):
                _episode(writer, task.target, places.settings.expert_seed + number)
        finally:
            writer.close()
        file = partial / "meta" / "stats.json"
        if file.stat().st_size > _STATS_MAX_BYTES:
            raise ValueError(f"{file}: over {_STATS_MAX_BYTES} bytes")
        stats = json.loads(file.read_text(encoding="utf-8"))
        _put(stats, Moments(places.expert).statistics())
        file.write_text(json.dumps(stats, indent=1) + "\n", encoding="utf-8")


def _put(stats: dict[str, dict[str, list[float]]], found: Statistics) -> None:
    for feature, mean, std in (
        ("observation.state", found.state_mean, found.state_std),
        ("action", found.action_mean, found.action_std),
    ):
        stats[feature] |= {"mean": mean.tolist(), "std": std.tolist()}


def _episode(writer: DatasetWriter, target: str, seed: int) -> None:
    env = TeaBag(target)
    try:
        start = draw_start(np.random.default_rng(seed), 7)
        seen, info = env.reset(seed=seed, options={"start": start})
        expert, frame, over = env.expert(), 0, False
        while not over:
            action = env.expert_action(expert)
            frame += 1
            writer.add_frame(seen["agent_pos"], action, seen["pixels"], [frame * _PERIOD_NS] * (1 + len(CAMERAS)))
            seen, _, done, late, info = env.step(action)
            over = done or late
        writer.save_episode(info["instruction"], success=done, cluster=start.cluster)
    finally:
        env.close()
