"""LeRobot's policies, made as LeRobot makes them, and the configurations of the small ones."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.factory import IMAGENET_STATS
from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
from lerobot.datasets.utils import dataset_to_policy_features
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from safetensors.torch import load_file

from vlad.dataset.reader import Recording
from vlad.errors import ConfigError
from vlad.train.exact_positions import use_exact_positions
from vlad.train.frame_cache import PictureSize
from vlad.train.recipe import Settings
from vlad.train.small_vlm import IMAGE_SIZE, write_vlm

BASE = "lerobot/smolvla_base"
WEIGHTS = "model.safetensors"
_WARM_UP = 150


class Made(NamedTuple):
    """A policy with LeRobot's pre- and post-processor."""

    policy: Any
    before: Any
    after: Any


def configuration(settings: Settings, recording: Recording, vlm: Path) -> PreTrainedConfig:
    """LeRobot's configuration of the policy asked for, with the dataset's cameras and joints.

    vlm: where smolvla-small has its vision-language model; made when it is not there. Raises ConfigError.
    """
    config = _named(settings, recording, vlm)
    known = {f.name for f in dataclasses.fields(config)}
    if unknown := sorted(set(settings.overrides) - known):
        raise ConfigError(f"--policy.{unknown[0]}: {config.type} of this LeRobot has no such setting")
    changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.overrides.items()}
    try:
        config = dataclasses.replace(config, device=settings.device, push_to_hub=False, **changes)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"--policy: {error}") from None
    _take_features(config, settings, recording)
    return config


def _named(settings: Settings, recording: Recording, vlm: Path) -> PreTrainedConfig:
    if settings.vlm and settings.policy != "smolvla-small":
        raise ConfigError("--vlm: only --policy smolvla-small takes its vision-language model from a directory")
    if settings.policy == "smolvla-small":
        _small_vlm(settings, recording, vlm)
        return SmolVLAConfig(
            vlm_model_name=str(vlm), resize_imgs_with_padding=(IMAGE_SIZE, IMAGE_SIZE), max_state_dim=8,
            max_action_dim=8, num_vlm_layers=4, num_expert_layers=0, prefix_length=0, pad_language_to="longest",
            freeze_vision_encoder=settings.vlm is not None, train_expert_only=False, optimizer_lr=1.5e-3,
            optimizer_weight_decay=1e-3, optimizer_grad_clip_norm=1.0, scheduler_decay_lr=1.5e-5,
            scheduler_warmup_steps=min(_WARM_UP, settings.steps // 10), scheduler_decay_steps=settings.steps,
        )  # fmt: skip
    if settings.policy == "act":
        return ACTConfig()
    if settings.policy == "act-small":
        return ACTConfig(
            chunk_size=50, n_action_steps=50, dim_model=128, n_heads=4, dim_feedforward=512, n_encoder_layers=2,
            latent_dim=16, n_vae_encoder_layers=2, optimizer_lr=1e-4, optimizer_lr_backbone=1e-4,
        )  # fmt: skip
    source = BASE if settings.policy == "smolvla" else settings.policy
    try:
        config = PreTrainedConfig.from_pretrained(source)
    except Exception as error:  # of draccus, huggingface_hub, json: whatever cannot be read there
        raise ConfigError(f"--policy {settings.policy}: no configuration of a LeRobot policy: {error}") from None
    if not isinstance(config, (SmolVLAConfig, ACTConfig)):
        raise ConfigError(f"--policy {settings.policy}: is a {config.type}; SmolVLA and ACT can be trained")
    if (Path(source) / "vlm" / "config.json").is_file():
        config.vlm_model_name = str(Path(source).resolve() / "vlm")
    config.pretrained_path = source
    return config


def _small_vlm(settings: Settings, recording: Recording, vlm: Path) -> None:
    if (vlm / "config.json").exists():
        return
    if settings.vlm is None:
        tasks = recording.dataset.tasks
        write_vlm(vlm, [text if text.endswith("\n") else f"{text}\n" for text in tasks])
        return
    source = Path(settings.vlm)
    if not (source / WEIGHTS).is_file() or not (source / "config.json").is_file():
        raise ConfigError(f"--vlm {source}: needs config.json, tokenizer.json and {WEIGHTS}")
    vlm.mkdir(parents=True)
    for file in [*source.glob("*.json"), *source.glob("*.txt")]:
        if not file.name.endswith(".index.json"):
            shutil.copyfile(file, vlm / file.name)


def _take_features(config: PreTrainedConfig, settings: Settings, recording: Recording) -> None:
    """Inputs and outputs from the dataset: neither policy's weights depend on names and number of the cameras."""
    features = dataset_to_policy_features(recording.info["features"])
    images = {k: f for k, f in features.items() if f.type is FeatureType.VISUAL}
    if not images:
        raise ConfigError(f"{recording.path}: has no cameras")
    if config.image_features and set(config.image_features) <= set(images):
        images = {k: images[k] for k in config.image_features}
    if settings.image_size:
        if config.type != "act":
            raise ConfigError("--image-size: SmolVLA scales pictures itself (--policy.resize_imgs_with_padding)")
        images = {k: PolicyFeature(FeatureType.VISUAL, (3, *settings.image_size)) for k in images}
    state, action = features["observation.state"], features["action"]
    given = config.action_feature
    if given is not None and tuple(given.shape) != tuple(action.shape) and config.type == "act":
        raise ConfigError(f"--policy {settings.policy}: moves {given.shape[0]} joints, the dataset {action.shape[0]}")
    config.input_features = {"observation.state": state, **images}
    config.output_features = {"action": action}


def metadata(recording: Recording) -> LeRobotDatasetMetadata:
    """LeRobot's view of the dataset. Statistics of pictures are ImageNet's, as in LeRobot. Raises ConfigError."""
    meta = LeRobotDatasetMetadata(recording.path.resolve().name, root=recording.path)
    wanted = ("observation.state", "action")
    if meta.stats is None or any(name not in meta.stats for name in wanted):
        raise ConfigError(f"{recording.path}/meta/stats.json: needs statistics of observation.state and action")
    for camera in meta.camera_keys:
        found = {kind: torch.tensor(values, dtype=torch.float32).numpy() for kind, values in IMAGENET_STATS.items()}
        meta.stats[camera] = {**meta.stats.get(camera, {}), **found}
    return meta


def make(config: PreTrainedConfig, settings: Settings, meta: LeRobotDatasetMetadata) -> Made:
    """The policy with the weights that training begins from. Draws from torch's random state. Raises ConfigError."""
    use_exact_positions()
    try:
        policy = make_policy(config, ds_meta=meta)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--policy {settings.policy}: {error}") from None
    if settings.policy == "smolvla-small":
        policy.float()
        if settings.vlm is not None:
            _load_vlm(policy, Path(settings.vlm) / WEIGHTS)
            inner = policy.model.vlm_with_expert
            # LeRobot leaves it trainable; frozen as well, a picture's tokens are the same for good.
            inner.get_vlm_model().connector.requires_grad_(False)
    return Made(policy, *make_pre_post_processors(config, dataset_stats=meta.stats))


def _load_vlm(policy: Any, file: Path) -> None:
    inner = policy.model.vlm_with_expert
    wanted = inner.vlm.state_dict()
    held = load_file(file)
    layers = "text_model.layers."
    extra = {k for k in set(held) - set(wanted) if layers not in k}
    wrong = [k for k in wanted if k not in held or held[k].shape != wanted[k].shape]
    if wrong or extra:
        raise ConfigError(f"{file}: is not of the configuration beside it: {(wrong or sorted(extra))[0]}")
    inner.vlm.load_state_dict({k: held[k] for k in wanted})


def picture_size(config: PreTrainedConfig, settings: Settings) -> PictureSize:
    """What the policy does to a picture first, so that it need not be done again."""
    if config.type == "smolvla" and config.resize_imgs_with_padding is not None:
        width, height = config.resize_imgs_with_padding
        return PictureSize(padded=(height, width))
    return PictureSize(exact=settings.image_size)
