"""Every number that the policy depends on. No torch is imported here."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from vlad.errors import ConfigError


class Settings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is asked for.

    seed: of weights, batches and noise. processes: that generate and train, a core each. compiled: torch.compile for
    training; without it the same is computed, slower.

    expert_seed, expert_episodes: episode i of the expert has the seed expert_seed + i. shard: episodes that are put on
    the disk together.

    vision_steps, vision_batch, vision_rate: of stage 1, observations a step and process, learning rate at most.
    motion_steps, motion_batch, draws, motion_rate: of stage 2, with the noises an observation. near_weight: how much
    more often a moment near the grasp is drawn, besides once.

    rollins: rounds of roll-ins, each followed by `rollin_steps` more of stage 2 at `rollin_rate`. rollin_seed,
    rollin_groups: group i of round r (from 0) has the seed rollin_seed + 10,000 r + i. rollin_weight: how much more
    often a moment of a roll-in is drawn.
    """

    seed: int = 1
    processes: int = 2
    compiled: bool = True
    expert_seed: int = 500_000
    expert_episodes: int = 2200
    shard: int = 50
    vision_steps: int = 6400
    vision_batch: int = 32
    vision_rate: float = 1e-3
    motion_steps: int = 9000
    motion_batch: int = 48
    draws: int = 3
    motion_rate: float = 1.5e-3
    near_weight: float = 1.5
    rollins: int = 1
    rollin_seed: int = 700_000
    rollin_groups: int = 120
    rollin_steps: int = 4000
    rollin_rate: float = 1.2e-3
    rollin_weight: float = 2.5

    def __post_init__(self) -> None:
        for name in ("processes", "expert_episodes", "shard", "vision_steps", "vision_batch", "motion_steps",
                     "motion_batch", "draws", "rollin_groups", "rollin_steps"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, is {getattr(self, name)}")
        if not 0 <= self.rollins <= 9 or self.rollin_groups > 10_000:
            raise ConfigError("rollins: 0 to 9, of at most 10,000 groups")
        if self.expert_seed + self.expert_episodes > self.rollin_seed:
            raise ConfigError("rollin_seed: must be beyond the expert's seeds, so that no two episodes have one number")


def changed(words: Sequence[str]) -> Settings:
    """The settings with NAME=VALUE for each of `words`, VALUE being JSON. Raises ConfigError naming the word."""
    given = {}
    for word in words:
        name, mark, value = word.partition("=")
        try:
            if not mark:
                raise ValueError("NAME=VALUE is expected")
            given[name] = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"--set {word}: {error}") from None
    try:
        return msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--set: {error}; there are {', '.join(Settings.__struct_fields__)}") from None
