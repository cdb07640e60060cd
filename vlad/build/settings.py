"""What the config.json of a SmolVLA says: every field that LeRobot writes, and what becomes of it here.

docs/smolvla.md has the same list with reasons. A field that is not in it is refused by name, as a LeRobot
that does not know it refuses it. Source: lerobot 0.3.3 to 0.6.1 `configs/policies.py` and
`policies/smolvla/configuration_smolvla.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vlad.errors import BundleError

# Read, and built as it says.
READ = frozenset(
    {
        "type", "input_features", "output_features", "normalization_mapping",
        "chunk_size", "max_state_dim", "max_action_dim",
        "resize_imgs_with_padding", "empty_cameras", "add_image_special_tokens", "tokenizer_max_length",
        "num_steps", "min_period", "max_period",
        "vlm_model_name", "load_vlm_weights", "attention_mode",
        "num_vlm_layers", "num_expert_layers", "self_attn_every_n_layers",
    }
)  # fmt: skip

# The only values that are supported, and why no other is.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "adapt_to_pi_aloha": ((False,), "it turns joints of an Aloha around, and an arm here is none"),
    "use_delta_joint_actions_aloha": ((False,), "LeRobot refuses it too"),
    "use_peft": ((False, None), "the weights are adapters of another checkpoint: merge them into it first"),
    "use_cache": ((True,), "LeRobot's own inference fails without the cache"),
}

# No trace in the chunk of one observation: of training, of the hub, of a device, of what the runtime
# configures by itself; padding that is masked; of the weights, whose shapes say it (expert_width_multiplier).
WITHOUT_EFFECT = frozenset(
    {
        "n_obs_steps", "n_action_steps", "prefix_length", "pad_language_to", "expert_width_multiplier", "rtc_config",
        "compile_model", "compile_mode", "device", "use_amp",
        "freeze_vision_encoder", "train_expert_only", "train_state_proj",
        "optimizer_lr", "optimizer_betas", "optimizer_eps", "optimizer_weight_decay", "optimizer_grad_clip_norm",
        "scheduler_warmup_steps", "scheduler_decay_steps", "scheduler_decay_lr",
        "push_to_hub", "repo_id", "private", "tags", "license", "pretrained_path", "pretrained_revision",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What config.json says, parsed. side: pixels of the square that vision sees."""

    side: int
    cameras: tuple[str, ...]
    pictures: int
    empty_cameras: int
    image_special_tokens: bool
    state_dim: int
    action_dim: int
    max_state_dim: int
    max_action_dim: int
    chunk_size: int
    num_steps: int
    min_period: float
    max_period: float
    tokenizer_max_length: int
    vlm_layers: int
    expert_layers: int
    self_attention_every: int
    cross_attention: bool
    vlm_in_bfloat16: bool


def read_settings(file: Path, config: dict[str, Any]) -> Settings:
    """Parse and check `config`, which came from `file`. Raises BundleError for what is not supported."""
    for key, (accepted, why) in REFUSED.items():
        if key in config and config[key] not in accepted:
            raise BundleError(f"{file}: {key} = {config[key]!r} is not supported: {why}")
    unknown = sorted(config.keys() - READ - REFUSED.keys() - WITHOUT_EFFECT)
    if unknown:
        raise BundleError(
            f"{file}: settings {unknown} are not known: of a LeRobot newer than this vlad? Whether they change what "
            "the policy computes is unknown"
        )
    try:
        inputs, outputs = config["input_features"], config["output_features"]
        visual = [str(k) for k, f in inputs.items() if f["type"] == "VISUAL"]
        others = sorted(set(inputs) - set(visual) - {"observation.state"})
        resize = config["resize_imgs_with_padding"]
        found = Settings(
            side=0 if resize is None else int(resize[0]),
            cameras=tuple(k for k in visual if ".empty_camera_" not in k),
            pictures=len(visual),
            empty_cameras=int(config["empty_cameras"]),
            image_special_tokens=bool(config["add_image_special_tokens"]),
            state_dim=int(inputs["observation.state"]["shape"][0]),
            action_dim=int(outputs["action"]["shape"][0]),
            max_state_dim=int(config["max_state_dim"]),
            max_action_dim=int(config["max_action_dim"]),
            chunk_size=int(config["chunk_size"]),
            num_steps=int(config["num_steps"]),
            min_period=float(config["min_period"]),
            max_period=float(config["max_period"]),
            tokenizer_max_length=int(config["tokenizer_max_length"]),
            vlm_layers=int(config["num_vlm_layers"]),
            expert_layers=int(config["num_expert_layers"]),
            self_attention_every=int(config["self_attn_every_n_layers"]),
            cross_attention="cross" in str(config["attention_mode"]),  # LeRobot asks no more
            vlm_in_bfloat16=bool(config["load_vlm_weights"]),
        )
        is_square = resize is not None and len(resize) == 2 and int(resize[0]) == int(resize[1])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise BundleError(f"{file}: missing or malformed setting: {error!r}") from None
    wrong = {
        f"input features {others}": bool(others),
        f"{len(found.cameras)} cameras (1 to 4 are)": not 1 <= len(found.cameras) <= 4,
        f"resize_imgs_with_padding = {resize} (a square is: the projection of LeRobot takes a square of patches, and "
        "of pictures of another shape it makes one in the wrong order or none)": not is_square,
        "a state or action wider than max_state_dim or max_action_dim": found.max_state_dim < found.state_dim
        or found.max_action_dim < found.action_dim,
        f"chunk_size = {found.chunk_size}, num_steps = {found.num_steps}": found.chunk_size < 1 or found.num_steps < 1,
        f"periods {found.min_period}..{found.max_period}": not 0 < found.min_period <= found.max_period,
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise BundleError(f"{file}: {what} is not supported")
    return found
