"""The sizes and settings of a SmolVLA, read from its weights and configuration and checked against
each other.

What is not supported is refused by name.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from vlad.build.safetensors import SafeTensors, read_json
from vlad.errors import BundleError

_VLM = "model.vlm_with_expert."


@dataclasses.dataclass(frozen=True, slots=True)
class VlmConstants:
    """What the weights do not say about the vision-language model."""

    vision_heads: int
    vision_eps: float
    head_dim: int
    rms_eps: float


# Published configuration of the default backbone; any other one is read from its own config.json.
_PUBLISHED = {
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": VlmConstants(12, 1e-6, 64, 1e-5),
}

# Settings of config.json that change the computation, with the only value that is supported.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "n_obs_steps": (1,),
    "add_image_special_tokens": (False,),
    "adapt_to_pi_aloha": (False,),
    "use_delta_joint_actions_aloha": (False,),
    "use_peft": (False, None),
    "attention_mode": ("cross_attn", "self_attn"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """Every size and setting of one SmolVLA, read from its weights and configuration.

    Lengths are counts; `image` and `patch` are pixels; `image_side` is the resized, padded square
    that vision sees.
    """

    image_side: int
    position_side: int
    patch: int
    pixel_shuffle: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    vision_eps: float
    vision_in_bfloat16: bool
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    rms_eps: float
    expert_hidden: int
    expert_mlp: int
    cross_layers: tuple[int, ...]
    chunk_size: int
    flow_steps: int
    min_period: float
    max_period: float
    max_state_dim: int
    max_action_dim: int
    state_dim: int
    action_dim: int
    cameras: tuple[str, ...]
    max_task_tokens: int

    @property
    def image_tokens(self) -> int:
        """Tokens of one camera."""
        return (self.image_side // self.patch // self.pixel_shuffle) ** 2

    @property
    def max_prefix(self) -> int:
        """Longest prefix: all cameras, the longest task and the state token."""
        return len(self.cameras) * self.image_tokens + self.max_task_tokens + 1


def vlm_constants(name: str, directory: Path | None) -> VlmConstants:
    if directory is None:
        if name in _PUBLISHED:
            return _PUBLISHED[name]
        raise BundleError(
            f"the checkpoint was built on {name!r}, whose attention heads are not known here: "
            "give its directory (config.json, tokenizer.json) with --vlm"
        )
    file = directory / "config.json"
    config = read_json(file)
    try:
        vision, text = config["vision_config"], config["text_config"]
        act = vision.get("hidden_act", "gelu_pytorch_tanh")
        text_act = text.get("hidden_act", "silu")
        head_dim = text.get("head_dim") or int(text["hidden_size"]) // int(text["num_attention_heads"])
        constants = VlmConstants(
            vision_heads=int(vision["num_attention_heads"]),
            vision_eps=float(vision.get("layer_norm_eps", 1e-6)),
            head_dim=int(head_dim),
            rms_eps=float(text["rms_norm_eps"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(f"{file}: not the configuration of a SmolVLM: {error!r}") from None
    if act != "gelu_pytorch_tanh" or text_act != "silu":
        raise BundleError(f"{file}: activations {act!r} and {text_act!r} are not supported")
    return constants


def _count_layers(weights: SafeTensors, prefix: str) -> int:
    indices = {n[len(prefix) :].split(".", 1)[0] for n in weights.names() if n.startswith(prefix)}
    if indices != {str(i) for i in range(len(indices))}:
        raise BundleError(f"{weights.path}: layers under {prefix} are {sorted(indices)}, not consecutive from 0")
    return len(indices)


def _divide(a: int, b: int, what: str) -> int:
    if b <= 0 or a <= 0 or a % b:
        raise BundleError(f"checkpoint: {what}: {a} is not a multiple of {b}; is --vlm the right directory?")
    return a // b


@dataclasses.dataclass(frozen=True, slots=True)
class _Settings:
    """What config.json says, parsed."""

    resize: tuple[int, ...]
    self_attention_every: int
    attention_mode: str
    visual: tuple[str, ...]
    other_inputs: tuple[str, ...]
    state_dim: int
    action_dim: int
    chunk_size: int
    num_steps: int
    max_state_dim: int
    max_action_dim: int
    tokenizer_max_length: int
    min_period: float
    max_period: float
    vlm_in_bfloat16: bool


def _settings(file: Path, config: dict[str, Any]) -> _Settings:
    for key, accepted in _SUPPORTED.items():
        if key in config and config[key] not in accepted:
            raise BundleError(f"{file}: {key} = {config[key]!r} is not supported (accepted: {list(accepted)})")
    try:
        inputs, outputs = config["input_features"], config["output_features"]
        visual = tuple(str(k) for k, f in inputs.items() if f["type"] == "VISUAL")
        found = _Settings(
            resize=tuple(int(n) for n in config["resize_imgs_with_padding"]),
            self_attention_every=int(config["self_attn_every_n_layers"]),
            attention_mode=str(config["attention_mode"]),
            visual=visual,
            other_inputs=tuple(sorted(set(inputs) - set(visual) - {"observation.state"})),
            state_dim=int(inputs["observation.state"]["shape"][0]),
            action_dim=int(outputs["action"]["shape"][0]),
            chunk_size=int(config["chunk_size"]),
            num_steps=int(config["num_steps"]),
            max_state_dim=int(config["max_state_dim"]),
            max_action_dim=int(config["max_action_dim"]),
            tokenizer_max_length=int(config["tokenizer_max_length"]),
            min_period=float(config["min_period"]),
            max_period=float(config["max_period"]),
            vlm_in_bfloat16=bool(config["load_vlm_weights"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise BundleError(f"{file}: missing or malformed setting: {error!r}") from None
    wrong = {
        f"input features {list(found.other_inputs)}": bool(found.other_inputs),
        f"resize_imgs_with_padding = {list(found.resize)} (not square)": len(found.resize) != 2
        or found.resize[0] != found.resize[1],
        "a state or action wider than max_state_dim or max_action_dim": found.max_state_dim < found.state_dim
        or found.max_action_dim < found.action_dim,
        f"chunk_size = {found.chunk_size}, num_steps = {found.num_steps}": found.chunk_size < 1 or found.num_steps < 1,
        f"periods {found.min_period}..{found.max_period}": not 0 < found.min_period <= found.max_period,
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise BundleError(f"{file}: {what} is not supported")
    return found


def read_architecture(
    file: Path, config: dict[str, Any], weights: SafeTensors, constants: VlmConstants
) -> Architecture:
    """Derive every size from the weights; `file` is where `config` came from, for messages.

    Raises BundleError for what is unsupported or does not fit together.
    """
    settings = _settings(file, config)
    vision, text, expert = (
        f"{_VLM}vlm.model.vision_model.",
        f"{_VLM}vlm.model.text_model.layers.",
        f"{_VLM}lm_expert.layers.",
    )
    kernel = weights.shape(f"{vision}embeddings.patch_embedding.weight")
    positions = weights.shape(f"{vision}embeddings.position_embedding.weight")[0]
    projection = weights.shape(f"{_VLM}vlm.model.connector.modality_projection.proj.weight")
    if len(kernel) != 4 or len(projection) != 2 or kernel[1] != 3 or kernel[2] != kernel[3]:
        raise BundleError(f"{weights.path}: vision patches {list(kernel)} are not supported")
    vision_hidden, patch = kernel[0], kernel[2]
    side = math.isqrt(positions)
    shuffle = math.isqrt(_divide(projection[1], vision_hidden, "connector input by vision width"))
    if side * side != positions or shuffle * shuffle * vision_hidden != projection[1]:
        raise BundleError(f"{weights.path}: vision positions or connector are not square")
    image_side = settings.resize[0]
    _divide(_divide(image_side, patch, "image by patch"), shuffle, "patches by pixel shuffle")

    layers, expert_layers = _count_layers(weights, text), _count_layers(weights, expert)
    if layers < 2 or expert_layers != layers:
        raise BundleError(
            f"{file}: {expert_layers} expert layers on {layers} language layers is not supported; "
            "they must be equal, and at least 2"
        )
    head_dim = constants.head_dim
    heads = _divide(weights.shape(f"{text}0.self_attn.q_proj.weight")[0], head_dim, "query heads")
    kv_heads = _divide(weights.shape(f"{text}0.self_attn.k_proj.weight")[0], head_dim, "key heads")
    _divide(heads, kv_heads, "query heads by key heads")
    _divide(vision_hidden, constants.vision_heads, "vision width by vision heads")
    expert_hidden = weights.shape(f"{_VLM}lm_expert.norm.weight")[0]
    if expert_hidden % 2 or head_dim % 2:
        raise BundleError(f"{file}: an odd expert width or head_dim is not supported")

    cameras = tuple(k for k in settings.visual if ".empty_camera_" not in k)
    if not 1 <= len(cameras) <= 4:
        raise BundleError(f"{file}: {len(cameras)} cameras; 1 to 4 are supported")
    every = settings.self_attention_every
    return Architecture(
        image_side=image_side,
        position_side=side,
        patch=patch,
        pixel_shuffle=shuffle,
        vision_hidden=vision_hidden,
        vision_layers=_count_layers(weights, f"{vision}encoder.layers."),
        vision_heads=constants.vision_heads,
        vision_mlp=weights.shape(f"{vision}encoder.layers.0.mlp.fc1.weight")[0],
        vision_eps=constants.vision_eps,
        vision_in_bfloat16=settings.vlm_in_bfloat16,
        hidden=projection[0],
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp=weights.shape(f"{text}0.mlp.gate_proj.weight")[0],
        rms_eps=constants.rms_eps,
        expert_hidden=expert_hidden,
        expert_mlp=weights.shape(f"{expert}0.mlp.gate_proj.weight")[0],
        cross_layers=()
        if settings.attention_mode == "self_attn"
        else tuple(i for i in range(layers) if every <= 0 or i % every),
        chunk_size=settings.chunk_size,
        flow_steps=settings.num_steps,
        min_period=settings.min_period,
        max_period=settings.max_period,
        max_state_dim=settings.max_state_dim,
        max_action_dim=settings.max_action_dim,
        state_dim=settings.state_dim,
        action_dim=settings.action_dim,
        cameras=cameras,
        max_task_tokens=settings.tokenizer_max_length,
    )
