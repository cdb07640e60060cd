"""The sizes and settings of an ACT, read from its weights and configuration and checked against each
other.

What is not supported is refused by name. Sources: lerobot 0.4.4 `policies/act/configuration_act.py`
and `modeling_act.py`; torchvision's `models/resnet.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vlad.build.safetensors import SafeTensors
from vlad.build.setting import Chunk, Count, Size, read_features, read_setting, read_width, refuse_unknown
from vlad.errors import BundleError
from vlad.manifest import Coefficient

# Blocks of each of the four stages; both are made of BasicBlock, two 3x3 convolutions.
_BACKBONES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}

# Settings of config.json that change the computation, with the only values that are supported.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "n_obs_steps": (1,),
    "use_peft": (False, None),
    "vision_backbone": tuple(_BACKBONES),
    # LeRobot cannot make it either: a BasicBlock has no dilation.
    "replace_final_stride_with_dilation": (False, 0),
    # glu halves the width, which LeRobot's second linear layer does not take.
    "feedforward_activation": ("relu", "gelu"),
}

# Read, and built as it says.
_READ = frozenset(
    {
        "type", "input_features", "output_features", "normalization_mapping", "chunk_size", "n_action_steps",
        "dim_model", "n_heads", "dim_feedforward", "pre_norm", "n_encoder_layers", "n_decoder_layers",
        "use_vae", "latent_dim", "temporal_ensemble_coeff",
    }
)  # fmt: skip

# No trace in the chunk of one observation: of training (the encoder of its latent included), of the hub, of a device.
_WITHOUT_EFFECT = frozenset(
    {
        "pretrained_backbone_weights", "n_vae_encoder_layers", "dropout", "kl_weight",
        "optimizer_lr", "optimizer_weight_decay", "optimizer_lr_backbone",
        "device", "use_amp", "push_to_hub", "repo_id", "private", "tags", "license", "pretrained_path",
        "pretrained_revision",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class ActArchitecture:
    """Every size and setting of one ACT.

    sizes: height and width of each camera's frames in pixels. blocks, widths: of the backbone's four
    stages. actions: how many of `chunk_size` are kept.
    """

    cameras: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    dim: int
    heads: int
    feedforward: int
    activation: str
    pre_norm: bool
    encoder_layers: int
    decoder_layers: int
    uses_vae: bool
    latent_dim: int
    chunk_size: int
    actions: int
    temporal_ensemble_coeff: float | None
    state_dim: int
    action_dim: int

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each camera's feature map: five times halved, rounded up."""
        return tuple((-(-height // 32), -(-width // 32)) for height, width in self.sizes)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Image tokens of each camera."""
        return tuple(rows * columns for rows, columns in self.grids)


def read_act(file: Path, config: dict[str, Any], weights: SafeTensors) -> ActArchitecture:
    """Derive every size; `file` is where `config` came from, for messages.

    Raises BundleError for what is unsupported or does not fit together.
    """
    for key, accepted in _SUPPORTED.items():
        if key in config and config[key] not in accepted:
            raise BundleError(f"{file}: {key} = {config[key]!r} is not supported (accepted: {list(accepted)})")

    refuse_unknown(file, config, _READ | _SUPPORTED.keys() | _WITHOUT_EFFECT)

    def read(key: str, kind: Any) -> Any:
        return read_setting(file, config, key, kind)

    cameras, sizes = _cameras(file, config)
    coefficient = read("temporal_ensemble_coeff", Coefficient | None)
    chunk_size, actions = read("chunk_size", Chunk), read("n_action_steps", Chunk)
    found = ActArchitecture(
        cameras=cameras,
        sizes=sizes,
        blocks=_BACKBONES[read("vision_backbone", str)],
        widths=_widths(weights),
        dim=read("dim_model", Size),
        heads=read("n_heads", Count),
        feedforward=read("dim_feedforward", Size),
        activation=read("feedforward_activation", str),
        pre_norm=read("pre_norm", bool),
        encoder_layers=read("n_encoder_layers", Count),
        decoder_layers=read("n_decoder_layers", Count),
        uses_vae=read("use_vae", bool),
        latent_dim=read("latent_dim", Size),
        chunk_size=chunk_size,
        # An ensemble is of whole chunks, one at each step: n_action_steps is 1 there and means that.
        actions=actions if coefficient is None else chunk_size,
        temporal_ensemble_coeff=coefficient,
        state_dim=read_width(file, config, "input_features", "observation.state", "STATE"),
        action_dim=read_width(file, config, "output_features", "action", "ACTION"),
    )
    wrong = {
        f"dim_model = {found.dim}, n_heads = {found.heads} (the width must be a multiple of 4 and of the "
        "heads)": found.dim % 4 > 0 or found.dim % found.heads > 0,
        f"chunk_size = {found.chunk_size}, n_action_steps = {found.actions}": found.actions > found.chunk_size,
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise BundleError(f"{file}: {what} is not supported")
    return found


def _cameras(file: Path, config: dict[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Features of the cameras, in policy order, with the sizes of their frames."""
    inputs = read_features(file, config, "input_features")
    visual = {name: list(feature.shape) for name, feature in inputs.items() if feature.type == "VISUAL"}
    others = sorted(set(inputs) - set(visual) - {"observation.state"})
    if others:
        raise BundleError(f"{file}: input features {others} are not supported: a robot's daemon has none of them")
    if not 1 <= len(visual) <= 4:
        raise BundleError(f"{file}: {len(visual)} cameras; 1 to 4 are supported")
    for name, shape in visual.items():
        if len(shape) != 3 or shape[0] != 3 or not all(side <= 8192 for side in shape[1:]):
            raise BundleError(f"{file}: {name} of shape {shape}; [3, height, width] is supported")
    return tuple(visual), tuple((height, width) for _, height, width in visual.values())


def _widths(weights: SafeTensors) -> tuple[int, ...]:
    """Channels of the backbone's four stages."""
    widths = []
    for stage in range(1, 5):
        shape = weights.shape(f"model.backbone.layer{stage}.0.conv2.weight")
        if len(shape) != 4 or shape[2:] != (3, 3):
            raise BundleError(f"{weights.path}: backbone.layer{stage} has kernels {list(shape)}, not of a BasicBlock")
        widths.append(shape[0])
    return tuple(widths)
