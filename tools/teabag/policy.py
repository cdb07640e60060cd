"""The policy: LeRobot's own SmolVLA in a small size, its weights in files, and the words that it is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from safetensors.torch import load_model, save_model
from torch import Tensor

from tools.teabag.moments import CHUNK
from tools.teabag.table import HEIGHT, WIDTH
from vlad.sim.task import TASKS
from vlad.sim.world import CAMERAS, JOINTS
from vlad.train.exact_positions import use_exact_positions
from vlad.train.small_vlm import IMAGE_SIZE, write_vlm

PADDED = 8
"""Width of state and action inside the policy."""
INSTRUCTIONS = tuple(f"{task.instruction}\n" for task in TASKS)
"""As LeRobot hands them to the tokenizer."""
TEXTS = (*INSTRUCTIONS, *(text.lower().replace(".", "") for text in INSTRUCTIONS))
"""What the tokenizer knows the words of: the instructions, and how one would type them."""


def write_backbone(directory: Path) -> None:
    """The directory that LeRobot's `vlm_model_name` names: sizes and tokenizer."""
    write_vlm(directory, TEXTS)


def config(vlm: Path) -> SmolVLAConfig:
    """LeRobot's configuration, with the backbone of `vlm`."""
    picture = PolicyFeature(type=FeatureType.VISUAL, shape=(3, HEIGHT, WIDTH))
    joints = (len(JOINTS),)
    return SmolVLAConfig(
        input_features={
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=joints),
            **{f"observation.images.{camera}": picture for camera in CAMERAS},
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=joints)},
        vlm_model_name=str(vlm),
        load_vlm_weights=False,
        resize_imgs_with_padding=(IMAGE_SIZE, IMAGE_SIZE),
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        max_state_dim=PADDED,
        max_action_dim=PADDED,
        num_vlm_layers=4,
        num_expert_layers=0,
        prefix_length=0,
        pad_language_to="max_length",
        tokenizer_max_length=16,
        freeze_vision_encoder=False,
        train_expert_only=False,
        device="cpu",
        push_to_hub=False,
    )


def new(vlm: Path, seed: int) -> SmolVLAPolicy:
    """A policy in float32 with the weights that `seed` draws, all of them trainable."""
    use_exact_positions()
    torch.manual_seed(seed)
    policy = SmolVLAPolicy(config(vlm)).float()
    policy.requires_grad_(True)
    return policy


def save(policy: Any, file: Path) -> None:
    """All weights, put in place at once."""
    partial = file.with_name(f"{file.name}.new")
    save_model(policy, str(partial))
    os.replace(partial, file)


def load(policy: Any, file: Path) -> None:
    """All weights, of a file that save() wrote."""
    load_model(policy, str(file))


def words(policy: Any) -> Tensor:
    """The token ids of each of INSTRUCTIONS, int64 (tasks, words). Both have the same number of words."""
    tokenizer = policy.model.vlm_with_expert.processor.tokenizer
    return torch.tensor([tokenizer(text)["input_ids"] for text in INSTRUCTIONS])


def is_vision(name: str) -> bool:
    """Whether a parameter of this name belongs to what makes tokens of pictures."""
    return "vision_model" in name or "connector" in name
