"""A checkpoint on the simulated table: LeRobot's own policy, its chunk carried out open loop and then planned anew.

No daemon, no bundle and no time: inference takes none here. `vlad eval` measures what the arm does with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from numpy.typing import NDArray

from vlad.errors import ConfigError
from vlad.sim.environment import TeaBag
from vlad.sim.start import draw_start
from vlad.sim.world import CAMERAS
from vlad.train.exact_positions import use_exact_positions
from vlad.train.frame_cache import PictureSize
from vlad.train.selection import Attempt, Setting

_PREFIX = "observation.images."


def evaluate(checkpoint: Path, attempts: Sequence[Attempt], setting: Setting) -> list[bool]:
    """Whether each attempt succeeded, in order. The same attempts begin alike for every checkpoint, and the flow's
    noise is drawn from the attempt's seed. Raises ConfigError for a policy of another robot."""
    use_exact_positions()
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.device = setting.device
    policy = get_policy_class(config.type).from_pretrained(checkpoint, config=config).eval()
    processors = make_pre_post_processors(config, pretrained_path=str(checkpoint))
    cameras = [name.removeprefix(_PREFIX) for name in config.image_features]
    if unknown := sorted(set(cameras) - set(CAMERAS)):
        raise ConfigError(f"{checkpoint}: looks through camera {unknown[0]}; the simulation has {', '.join(CAMERAS)}")
    size = PictureSize(exact=setting.exact)
    envs = {task: TeaBag(task, cameras=False) for task in {attempt.task for attempt in attempts}}
    try:
        return [
            _succeeds(envs[attempt.task], attempt, policy, processors, cameras, size, setting) for attempt in attempts
        ]
    finally:
        for env in envs.values():
            env.close()


@torch.no_grad()  # type: ignore[untyped-decorator]
def _succeeds(  # noqa: PLR0917
    env: TeaBag, attempt: Attempt, policy: Any, processors: tuple[Any, Any], cameras: Sequence[str],
    size: PictureSize, setting: Setting,
) -> bool:  # fmt: skip
    start = draw_start(np.random.default_rng(attempt.seed), attempt.cluster)
    seen, info = env.reset(seed=attempt.seed, options={"start": start})
    torch.manual_seed(attempt.seed)
    height, width = setting.camera
    while True:
        batch: dict[str, Any] = {
            "observation.state": torch.from_numpy(seen["agent_pos"])[None],
            "task": [info["instruction"]],
        }
        for camera in cameras:
            picture: NDArray[np.uint8] = size(env.world.render(camera, width, height))
            batch[_PREFIX + camera] = torch.from_numpy(picture)[None].float() / 255
        policy.reset()
        chunk = processors[1](policy.predict_action_chunk(processors[0](batch)))[0].float().cpu().numpy()
        for action in chunk[: setting.actions or policy.config.n_action_steps]:
            seen, _, done, over, info = env.step(action)
            if done or over:
                return bool(done)
