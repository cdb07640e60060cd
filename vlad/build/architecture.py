"""The sizes and settings of a SmolVLA, read from its weights and configuration and checked against
each other.

What is not supported is refused by name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlad.build.safetensors import SafeTensors, read_json
from vlad.build.settings import Settings, read_settings
from vlad.errors import BundleError

_VLM = "model.vlm_with_expert."
EMBEDDING = f"{_VLM}vlm.model.text_model.embed_tokens.weight"


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


@dataclasses.dataclass(frozen=True, slots=True)
class ImageMarks:
    """Token ids before and after the tokens of a picture."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """Both."""
        return self.before + self.after


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """Every size and setting of one SmolVLA, read from its weights and configuration.

    Lengths are counts; `image` and `patch` are pixels; `image_side` is the resized, padded square
    that vision sees. layers: of the language model, as many as the expert attends to; of the others nothing
    is computed. expert_at: the language layer of each expert layer; cross_layers: those of them whose keys and
    values alone the expert sees. pictures: cameras that config.json has, with the empty ones.
    image_marks: tokens before and after the tokens of each picture.
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
    expert_at: tuple[int, ...]
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
    pictures: int
    empty_cameras: int
    image_marks: ImageMarks | None
    max_task_tokens: int

    @property
    def patch_tokens(self) -> int:
        """Tokens of one picture."""
        return (self.image_side // self.patch // self.pixel_shuffle) ** 2

    @property
    def image_tokens(self) -> int:
        """Tokens of one camera, with the marks around them."""
        return self.patch_tokens + (0 if self.image_marks is None else len(self.image_marks.all))

    @property
    def marks_of_absent(self) -> tuple[int, ...]:
        """Tokens between those of the last camera and of the task. LeRobot masks the picture of a camera that
        is not there, but not the marks around it.
        """
        absent = max(0, min(self.pictures - len(self.cameras), self.empty_cameras))
        return () if self.image_marks is None else self.image_marks.all * absent

    @property
    def max_prefix(self) -> int:
        """Longest prefix: all cameras, the longest task and the state token."""
        return len(self.cameras) * self.image_tokens + len(self.marks_of_absent) + self.max_task_tokens + 1


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


def _expert_at(file: Path, settings: Settings, layers: int, expert_layers: int) -> tuple[int, ...]:
    """The language layer of each expert layer. Raises BundleError for what config.json says otherwise, and for
    arrangements with which LeRobot trains, but cannot infer.
    """
    if 0 < settings.vlm_layers < layers:
        raise BundleError(f"{file}: num_vlm_layers = {settings.vlm_layers}, and the weights have {layers}")
    wanted = settings.expert_layers if settings.expert_layers > 0 else layers
    if wanted != expert_layers:
        raise BundleError(
            f"{file}: num_expert_layers = {settings.expert_layers} on {layers} language layers, and the weights have "
            f"{expert_layers} expert layers"
        )
    if layers < 1 or expert_layers < 1 or layers % expert_layers:
        raise BundleError(f"{file}: {expert_layers} expert layers on {layers} language layers: not a divisor")
    at = tuple(range(0, layers, layers // expert_layers))
    for index in range(layers):
        if _is_self(settings, index) and index not in at:
            raise BundleError(
                f"{file}: num_expert_layers = {expert_layers} leaves language layer {index} without an expert layer, "
                "and it is one of self-attention (self_attn_every_n_layers): LeRobot's own inference fails there"
            )
    return at


def _is_self(settings: Settings, index: int) -> bool:
    """Whether expert and language layer `index` attend as one."""
    every = settings.self_attention_every
    return not settings.cross_attention or (every > 0 and index % every == 0)


def read_architecture(
    file: Path,
    config: dict[str, Any],
    weights: SafeTensors,
    constants: VlmConstants,
    image_marks: Callable[[], ImageMarks],
) -> Architecture:
    """Derive every size from the weights; `file` is where `config` came from, for messages. `image_marks` is
    asked only where the policy has them.

    Raises BundleError for what is unsupported or does not fit together.
    """
    settings = read_settings(file, config)
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
    image_side = settings.side
    _divide(_divide(image_side, patch, "image by patch"), shuffle, "patches by pixel shuffle")

    layers, expert_layers = _count_layers(weights, text), _count_layers(weights, expert)
    expert_at = _expert_at(file, settings, layers, expert_layers)
    head_dim = constants.head_dim
    heads = _divide(weights.shape(f"{text}0.self_attn.q_proj.weight")[0], head_dim, "query heads")
    kv_heads = _divide(weights.shape(f"{text}0.self_attn.k_proj.weight")[0], head_dim, "key heads")
    _divide(heads, kv_heads, "query heads by key heads")
    _divide(vision_hidden, constants.vision_heads, "vision width by vision heads")
    expert_hidden = weights.shape(f"{_VLM}lm_expert.norm.weight")[0]
    for index, language in enumerate(expert_at):
        projected = weights.shape(f"{expert}{index}.self_attn.k_proj.weight")[1:]
        if _is_self(settings, language) and projected != (expert_hidden,):
            raise BundleError(
                f"{file}: language layer {language} is one of self-attention (self_attn_every_n_layers), and its "
                f"expert layer {index} was made for cross-attention (num_expert_layers): LeRobot cannot run that"
            )
    if expert_hidden % 2 or head_dim % 2:
        raise BundleError(f"{file}: an odd expert width or head_dim is not supported")

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
        layers=expert_at[-1] + 1,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp=weights.shape(f"{text}0.mlp.gate_proj.weight")[0],
        rms_eps=constants.rms_eps,
        expert_hidden=expert_hidden,
        expert_mlp=weights.shape(f"{expert}0.mlp.gate_proj.weight")[0],
        expert_at=expert_at,
        cross_layers=tuple(index for index in expert_at if not _is_self(settings, index)),
        chunk_size=settings.chunk_size,
        flow_steps=settings.num_steps,
        min_period=settings.min_period,
        max_period=settings.max_period,
        max_state_dim=settings.max_state_dim,
        max_action_dim=settings.max_action_dim,
        state_dim=settings.state_dim,
        action_dim=settings.action_dim,
        cameras=settings.cameras,
        pictures=settings.pictures,
        empty_cameras=settings.empty_cameras,
        image_marks=image_marks() if settings.image_special_tokens else None,
        max_task_tokens=settings.tokenizer_max_length,
    )
