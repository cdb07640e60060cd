"""What the config.json of a SmolVLA says: every field that LeRobot writes, and what becomes of it here.

docs/smolvla.md has the same list with reasons. A field that is not in it is refused by name, as a LeRobot
that does not know it refuses it. Source: lerobot 0.3.3 to 0.6.1 `configs/policies.py` and
`policies/smolvla/configuration_smolvla.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from vlad.build.setting import Chunk, Count, read_features, read_setting, read_width, refuse_unknown
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

_Pixels = Annotated[list[Annotated[int, Meta(ge=1, le=4096)]], Meta(min_length=2, max_length=2)]
_EmptyCameras = Annotated[int, Meta(ge=0, le=16)]
_Steps = Annotated[int, Meta(ge=1, le=1000)]
_Period = Annotated[float, Meta(ge=1e-6, le=1e6)]  # what it divides stays finite
_Tokens = Annotated[int, Meta(ge=1, le=4096)]  # as many as a task may have characters
_Layers = Annotated[int, Meta(ge=-1024, le=1024)]  # 0 or less is a default


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
    refuse_unknown(file, config, READ | REFUSED.keys() | WITHOUT_EFFECT)

    def read(key: str, kind: Any) -> Any:
        return read_setting(file, config, key, kind)

    inputs = read_features(file, config, "input_features")
    visual = [name for name, feature in inputs.items() if feature.type == "VISUAL"]
    others = sorted(set(inputs) - set(visual) - {"observation.state"})
    resize = read("resize_imgs_with_padding", _Pixels | None)
    found = Settings(
        side=0 if resize is None else resize[0],
        cameras=tuple(k for k in visual if ".empty_camera_" not in k),
        pictures=len(visual),
        empty_cameras=read("empty_cameras", _EmptyCameras),
        image_special_tokens=read("add_image_special_tokens", bool),
        state_dim=read_width(file, config, "input_features", "observation.state", "STATE"),
        action_dim=read_width(file, config, "output_features", "action", "ACTION"),
        max_state_dim=read("max_state_dim", Count),
        max_action_dim=read("max_action_dim", Count),
        chunk_size=read("chunk_size", Chunk),
        num_steps=read("num_steps", _Steps),
        min_period=read("min_period", _Period),
        max_period=read("max_period", _Period),
        tokenizer_max_length=read("tokenizer_max_length", _Tokens),
        vlm_layers=read("num_vlm_layers", _Layers),
        expert_layers=read("num_expert_layers", _Layers),
        self_attention_every=read("self_attn_every_n_layers", _Layers),
        cross_attention="cross" in read("attention_mode", str),  # LeRobot asks no more
        vlm_in_bfloat16=read("load_vlm_weights", bool),
    )
    wrong = {
        f"input features {others}": bool(others),
        f"{len(found.cameras)} cameras (1 to 4 are)": not 1 <= len(found.cameras) <= 4,
        f"resize_imgs_with_padding = {resize} (a square is: the projection of LeRobot takes a square of patches, and "
        "of pictures of another shape it makes one in the wrong order or none)": resize is None
        or resize[0] != resize[1],
        f"a state of {found.state_dim} or an action of {found.action_dim} numbers with max_state_dim = "
        f"{found.max_state_dim} and max_action_dim = {found.max_action_dim}": found.max_state_dim < found.state_dim
        or found.max_action_dim < found.action_dim,
        f"min_period = {found.min_period}, max_period = {found.max_period} (it must not be less)": found.min_period
        > found.max_period,
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise BundleError(f"{file}: {what} is not supported")
    return found
