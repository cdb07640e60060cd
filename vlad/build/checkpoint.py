"""Reads a LeRobot SmolVLA checkpoint directory: `config.json`, `model.safetensors` and the processor files.

Nothing here needs torch, transformers or the hub. What LeRobot would skip or default silently is an error here.
Sources: lerobot 0.4.4 `policies/smolvla/configuration_smolvla.py`, `processor/normalize_processor.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.errors import BundleError

Array = NDArray[np.float32]

_JSON_LIMIT = 16 << 20
_HEADER_LIMIT = 100_000_000
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`, at most 16 MiB. Raises BundleError naming the file."""
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise BundleError(f"{path}: larger than {_JSON_LIMIT} bytes")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{path}: missing; is {path.parent} what LeRobot's save_pretrained wrote?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise BundleError(f"{path}: expected a JSON object, found {type(document).__name__}")
    return document


class SafeTensors:
    """Tensors of one safetensors file, converted to float32 as they are asked for.

    `unread()` names the tensors that nobody asked for, so that nothing of a checkpoint is dropped unseen.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                    raise BundleError(f"{path}: not a safetensors file (header of {length} bytes)")
                header = json.loads(file.read(length))
        except FileNotFoundError:
            raise BundleError(f"{path}: missing") from None
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path}: not a safetensors file: {error}") from None
        if not isinstance(header, dict):
            raise BundleError(f"{path}: not a safetensors file (header is not an object)")
        # A tensor that shares its memory with another one is stored once; the other name is in the metadata.
        self._shared = {str(k): str(v) for k, v in (header.pop("__metadata__", None) or {}).items()}
        self._entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        self._asked: set[str] = set()
        for name, entry in header.items():
            self._entries[name.replace("model._orig_mod.", "model.")] = self._entry(name, entry, 8 + length, size)
        self._data = np.memmap(path, dtype=np.uint8, mode="r")

    def _entry(self, name: str, entry: Any, base: int, size: int) -> tuple[str, tuple[int, ...], int, int]:
        try:
            kind = entry["dtype"]
            shape = tuple(int(n) for n in entry["shape"])
            start, end = (base + int(n) for n in entry["data_offsets"])
        except (TypeError, KeyError, ValueError) as error:
            raise BundleError(f"{self.path}: bad entry for tensor {name!r}: {error!r}") from None
        width = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "F64": 8}.get(kind)
        if width is None:
            raise BundleError(f"{self.path}: tensor {name!r} has dtype {kind}, which is not supported")
        if min(shape, default=0) < 0 or not base <= start <= end <= size or end - start != width * math.prod(shape):
            raise BundleError(f"{self.path}: tensor {name!r} does not fit the file (truncated download?)")
        return kind, shape, start, end

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """All tensor names, `torch.compile` prefixes removed."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises BundleError when it is missing."""
        return self._find(name)[1]

    def dtype(self, name: str) -> str:
        """Stored dtype (F32, BF16, F16) of one tensor."""
        return self._find(name)[0]

    def _find(self, name: str) -> tuple[str, tuple[int, ...], int, int]:
        if name not in self._entries:
            name = self._shared.get(name, name)
        if name not in self._entries:
            raise BundleError(f"{self.path}: tensor {name!r} is missing: not a SmolVLA checkpoint of LeRobot >= 0.4")
        return self._entries[name]

    def stored(self, name: str) -> NDArray[Any]:
        """One tensor as stored; bfloat16 as its uint16 bits."""
        kind, shape, start, end = self._find(name)
        self._asked.add(name)
        dtype = {"F32": "<f4", "BF16": "<u2", "F16": "<f2", "I64": "<i8", "F64": "<f8"}[kind]
        return np.frombuffer(self._data[start:end], dtype=dtype).reshape(shape)

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """One tensor as float32, checked to be finite and of `shape`. Raises BundleError."""
        kind, found, _, _ = self._find(name)
        if shape is not None and found != shape:
            raise BundleError(f"{self.path}: tensor {name!r} has shape {list(found)}, expected {list(shape)}")
        raw = self.stored(name)
        values = widen(raw) if kind == "BF16" else raw.astype(np.float32)
        if not np.isfinite(values).all():
            raise BundleError(f"{self.path}: tensor {name!r} holds values that are not finite")
        return values

    def ignore(self, *names: str) -> None:
        """Mark tensors that inference does not use."""
        self._asked.update(names)

    def unread(self) -> list[str]:
        """Names that were neither read nor ignored."""
        return sorted(set(self._entries) - self._asked)


def widen(bits: NDArray[np.uint16]) -> Array:
    """bfloat16 bits to the float32 of the same value (exact)."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """Every size and setting of one SmolVLA, read from its weights and configuration.

    Lengths are counts; `image` and `patch` are pixels; `image_side` is the resized, padded square that vision sees.
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
    empty_cameras: int
    max_task_tokens: int

    @property
    def image_tokens(self) -> int:
        """Tokens of one camera."""
        return (self.image_side // self.patch // self.pixel_shuffle) ** 2

    @property
    def max_prefix(self) -> int:
        """Longest prefix: all cameras, the longest task and the state token."""
        return len(self.cameras) * self.image_tokens + self.max_task_tokens + 1


@dataclasses.dataclass(frozen=True, slots=True)
class Normalisation:
    """LeRobot's MEAN_STD statistics of one feature, with what else the state file knows of it."""

    mean: Array
    std: Array
    minimum: Array | None
    maximum: Array | None
    eps: float


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory that has been read and found supported."""

    path: Path
    weights: SafeTensors
    architecture: Architecture
    state: Normalisation
    action: Normalisation
    rename: dict[str, str]
    vlm_name: str
    vlm_directory: Path | None
    tokenizer_file: Path | None
    notes: tuple[str, ...]


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def read_checkpoint(path: Path, *, vlm: Path | None = None, tokenizer: Path | None = None) -> Checkpoint:
    """Read and check a checkpoint directory. Raises BundleError saying what is missing or unsupported.

    `vlm` is a directory with the `config.json` (and `tokenizer.json`) of the vision-language model; without it the
    checkpoint's own `vlm/`, its `vlm_model_name` where that is a directory, or the published constants are used.
    """
    config = read_json(path / "config.json")
    if config.get("type") != "smolvla":
        raise BundleError(f"{path / 'config.json'}: policy type {config.get('type')!r} is not supported; use smolvla")
    for key, accepted in _SUPPORTED.items():
        if key in config and config[key] not in accepted:
            raise BundleError(
                f"{path / 'config.json'}: {key} = {config[key]!r} is not supported (accepted: {list(accepted)})"
            )
    weights = SafeTensors(path / "model.safetensors")
    name = str(config.get("vlm_model_name", ""))
    directory = _vlm_directory(path, name, vlm)
    constants = _vlm_constants(name, directory)
    architecture = _architecture(path / "config.json", config, weights, constants)
    state, action, rename = _normalisation(path, architecture)
    if not architecture.vision_in_bfloat16:
        notes: tuple[str, ...] = ("the vision encoder was not trained in bfloat16 (load_vlm_weights is false)",)
    else:
        notes = ()
    return Checkpoint(
        path=path,
        weights=weights,
        architecture=architecture,
        state=state,
        action=action,
        rename=rename,
        vlm_name=name,
        vlm_directory=directory,
        tokenizer_file=_tokenizer_file(path, directory, tokenizer),
        notes=notes,
    )


def _vlm_directory(path: Path, name: str, given: Path | None) -> Path | None:
    if given is not None:
        if not (given / "config.json").is_file():
            raise BundleError(f"--vlm {given}: no config.json there")
        return given
    for candidate in (path / "vlm", Path(name)):
        if name and (candidate / "config.json").is_file():
            return candidate
    return None


def _vlm_constants(name: str, directory: Path | None) -> VlmConstants:
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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{file}: not the configuration of a SmolVLM: {error!r}") from None
    if act != "gelu_pytorch_tanh" or text_act != "silu":
        raise BundleError(f"{file}: activations {act!r} and {text_act!r} are not supported")
    return constants


def _tokenizer_file(path: Path, vlm: Path | None, given: Path | None) -> Path | None:
    if given is not None:
        file = given / "tokenizer.json" if given.is_dir() else given
        if not file.is_file():
            raise BundleError(f"--tokenizer {given}: no tokenizer.json there")
        return file
    candidates = [path / "tokenizer" / "tokenizer.json", path / "tokenizer.json"]
    if vlm is not None:
        candidates.append(vlm / "tokenizer.json")
    return next((file for file in candidates if file.is_file()), None)


def _count_layers(weights: SafeTensors, prefix: str) -> int:
    indices = {int(n[len(prefix) :].split(".", 1)[0]) for n in weights.names() if n.startswith(prefix)}
    if indices != set(range(len(indices))):
        raise BundleError(f"{weights.path}: layers under {prefix} are {sorted(indices)}, not consecutive from 0")
    return len(indices)


def _divide(a: int, b: int, what: str) -> int:
    if b <= 0 or a <= 0 or a % b:
        raise BundleError(f"checkpoint: {what}: {a} is not a multiple of {b}; is --vlm the right directory?")
    return a // b


def _architecture(
    file: Path, config: dict[str, Any], weights: SafeTensors, constants: VlmConstants
) -> Architecture:
    vision, text, expert = (
        f"{_VLM}vlm.model.vision_model.",
        f"{_VLM}vlm.model.text_model.layers.",
        f"{_VLM}lm_expert.layers.",
    )
    vision_hidden, channels, patch, patch_w = weights.shape(f"{vision}embeddings.patch_embedding.weight")
    positions = weights.shape(f"{vision}embeddings.position_embedding.weight")[0]
    hidden, shuffled = weights.shape(f"{_VLM}vlm.model.connector.modality_projection.proj.weight")
    layers, expert_layers = _count_layers(weights, text), _count_layers(weights, expert)
    if layers < 2 or expert_layers != layers:
        raise BundleError(
            f"{file}: {expert_layers} expert layers on {layers} language layers is not supported; they must be equal"
        )
    try:
        resize = tuple(int(n) for n in config["resize_imgs_with_padding"])
        every, mode = int(config["self_attn_every_n_layers"]), config["attention_mode"]
        inputs, outputs = config["input_features"], config["output_features"]
        visual = [k for k, f in inputs.items() if f["type"] == "VISUAL"]
        others = [k for k, f in inputs.items() if f["type"] not in ("VISUAL",) and k != "observation.state"]
        state_dim = int(inputs["observation.state"]["shape"][0])
        action_dim = int(outputs["action"]["shape"][0])
        numbers = {k: int(config[k]) for k in ("chunk_size", "num_steps", "max_state_dim", "max_action_dim")}
        numbers |= {k: int(config[k]) for k in ("tokenizer_max_length", "empty_cameras")}
        periods = float(config["min_period"]), float(config["max_period"])
        bfloat16 = bool(config["load_vlm_weights"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(f"{file}: missing or malformed setting: {error!r}") from None
    if others:
        raise BundleError(f"{file}: input features {others} are not supported; only images and observation.state")
    if len(resize) != 2 or resize[0] != resize[1]:
        raise BundleError(f"{file}: resize_imgs_with_padding = {list(resize)} is not supported; it must be square")
    if numbers["max_state_dim"] < state_dim or numbers["max_action_dim"] < action_dim:
        raise BundleError(f"{file}: state or action dimension exceeds max_state_dim or max_action_dim")
    cameras = tuple(k for k in visual if ".empty_camera_" not in k)
    if not 1 <= len(cameras) <= 4:
        raise BundleError(f"{file}: {len(cameras)} cameras; 1 to 4 are supported")
    if patch != patch_w or channels != 3:
        raise BundleError(f"{weights.path}: patches of {patch_w}x{patch}, {channels} channels are not supported")
    side = math.isqrt(positions)
    shuffle = math.isqrt(_divide(shuffled, vision_hidden, "connector input by vision width"))
    if side * side != positions or shuffle * shuffle * vision_hidden != shuffled:
        raise BundleError(f"{weights.path}: {positions} vision positions and connector width {shuffled} do not fit")
    _divide(_divide(resize[0], patch, "image size by patch"), shuffle, "patches per side by pixel shuffle")
    expert_hidden = weights.shape(f"{_VLM}lm_expert.norm.weight")[0]
    cross = () if mode == "self_attn" else tuple(i for i in range(layers) if every <= 0 or i % every)
    head_dim = constants.head_dim
    heads = _divide(weights.shape(f"{text}0.self_attn.q_proj.weight")[0], head_dim, "query width by head_dim")
    kv_heads = _divide(weights.shape(f"{text}0.self_attn.k_proj.weight")[0], head_dim, "key width by head_dim")
    _divide(heads, kv_heads, "query heads by key heads")
    _divide(vision_hidden, constants.vision_heads, "vision width by vision heads")
    if expert_hidden % 2 or head_dim % 2 or min(numbers["chunk_size"], numbers["num_steps"]) < 1:
        raise BundleError(f"{file}: expert width, head_dim, chunk_size or num_steps cannot be used")
    return Architecture(
        image_side=resize[0],
        position_side=side,
        patch=patch,
        pixel_shuffle=shuffle,
        vision_hidden=vision_hidden,
        vision_layers=_count_layers(weights, f"{vision}encoder.layers."),
        vision_heads=constants.vision_heads,
        vision_mlp=weights.shape(f"{vision}encoder.layers.0.mlp.fc1.weight")[0],
        vision_eps=constants.vision_eps,
        vision_in_bfloat16=bfloat16,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp=weights.shape(f"{text}0.mlp.gate_proj.weight")[0],
        rms_eps=constants.rms_eps,
        expert_hidden=expert_hidden,
        expert_mlp=weights.shape(f"{expert}0.mlp.gate_proj.weight")[0],
        cross_layers=cross,
        chunk_size=numbers["chunk_size"],
        flow_steps=numbers["num_steps"],
        min_period=periods[0],
        max_period=periods[1],
        max_state_dim=numbers["max_state_dim"],
        max_action_dim=numbers["max_action_dim"],
        state_dim=state_dim,
        action_dim=action_dim,
        cameras=cameras,
        empty_cameras=len(visual) - len(cameras),
        max_task_tokens=numbers["tokenizer_max_length"],
    )


def _normalisation(path: Path, arch: Architecture) -> tuple[Normalisation, Normalisation, dict[str, str]]:
    rename: dict[str, str] = {}
    pre, pre_steps = _steps(path, "policy_preprocessor.json")
    _, post_steps = _steps(path, "policy_postprocessor.json")
    if "rename_observations_processor" in pre_steps:
        rename = dict(pre_steps["rename_observations_processor"].get("config", {}).get("rename_map", {}))
    known = {
        "rename_observations_processor",
        "to_batch_processor",
        "smolvla_new_line_processor",
        "tokenizer_processor",
        "device_processor",
        "normalizer_processor",
    }
    strange = sorted(set(pre_steps) - known) + sorted(
        set(post_steps) - {"unnormalizer_processor", "device_processor"}
    )
    if strange:
        raise BundleError(f"{pre.parent}: processing steps {strange} are not supported")
    state = _statistics(path, pre_steps, "normalizer_processor", "observation.state", arch.state_dim)
    action = _statistics(path, post_steps, "unnormalizer_processor", "action", arch.action_dim)
    return state, action, rename


def _steps(path: Path, name: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    file = path / name
    if not file.exists():
        raise BundleError(
            f"{file}: missing, so the normalisation statistics are unknown; checkpoints older than LeRobot 0.4 need "
            "lerobot/processor/migrate_policy_normalization.py first"
        )
    try:
        return file, {str(step["registry_name"]): step for step in read_json(file)["steps"]}
    except (KeyError, TypeError) as error:
        raise BundleError(f"{file}: not a LeRobot processor file: {error!r}") from None


def _statistics(
    path: Path, steps: dict[str, dict[str, Any]], step: str, feature: str, size: int
) -> Normalisation:
    entry = steps.get(step)
    kind = "ACTION" if feature == "action" else "STATE"
    if entry is None or not entry.get("state_file"):
        raise BundleError(f"{path}: {step} has no state file, so {feature} cannot be normalised; train with statistics")
    settings = entry.get("config", {})
    modes = {str(k): str(v) for k, v in settings.get("norm_map", {}).items()}
    if modes.get(kind) != "MEAN_STD" or modes.get("VISUAL", "IDENTITY") != "IDENTITY":
        raise BundleError(f"{path}: normalisation {modes} is not supported; {kind} MEAN_STD and VISUAL IDENTITY are")
    name = Path(str(entry["state_file"]))
    if name.name != str(name):
        raise BundleError(f"{path}: state file {name} is not inside the checkpoint")
    tensors = SafeTensors(path / name)
    if f"{feature}.mean" not in tensors or f"{feature}.std" not in tensors:
        others = sorted(n for n in tensors.names() if n.endswith(f"{feature}.mean"))
        hint = f" (it has {others[:3]}: statistics of the pre-training mixture; fine-tune first)" if others else ""
        raise BundleError(f"{tensors.path}: statistics {feature}.mean and {feature}.std are missing{hint}")
    mean = tensors.read(f"{feature}.mean", (size,))
    std = tensors.read(f"{feature}.std", (size,))
    if (std < 0).any():
        raise BundleError(f"{tensors.path}: {feature}.std has negative values")
    limits = [
        tensors.read(f"{feature}.{k}", (size,)) if f"{feature}.{k}" in tensors else None for k in ("min", "max")
    ]
    return Normalisation(mean, std, limits[0], limits[1], float(settings.get("eps", 1e-8)))
