"""Reads a LeRobot SmolVLA checkpoint directory: `config.json`, `model.safetensors` and the
processor files.

Nothing here needs torch, transformers or the hub. What LeRobot would skip or default silently is an
error here. Sources: lerobot 0.4.4 `policies/smolvla/configuration_smolvla.py`,
`processor/normalize_processor.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad.build.architecture import Architecture, read_architecture, vlm_constants
from vlad.build.safetensors import SafeTensors, is_file, read_json
from vlad.errors import BundleError

Array = NDArray[np.float32]


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


def read_checkpoint(path: Path, *, vlm: Path | None = None, tokenizer: Path | None = None) -> Checkpoint:
    """Read and check a checkpoint directory. Raises BundleError saying what is missing or
    unsupported.

    `vlm` is a directory with the `config.json` (and `tokenizer.json`) of the vision-language model;
    without it the checkpoint's own `vlm/`, its `vlm_model_name` where that is a directory, or the
    published constants are used.
    """
    config = read_json(path / "config.json")
    if config.get("type") != "smolvla":
        raise BundleError(f"{path / 'config.json'}: policy type {config.get('type')!r} is not supported; use smolvla")
    weights = SafeTensors(path / "model.safetensors")
    name = str(config.get("vlm_model_name", ""))
    directory = _vlm_directory(path, name, vlm)
    constants = vlm_constants(name, directory)
    architecture = read_architecture(path / "config.json", config, weights, constants)
    state, action, rename = _normalisation(path, architecture)
    notes: tuple[str, ...] = ()
    if not architecture.vision_in_bfloat16:
        notes = (
            "vision ran in float32 in training (load_vlm_weights is false): if that was with transformers 4.55.1 to "
            "4.57, which number the patches wrongly then, build with --position-ids transformers-4.57-float32",
        )
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
        if name and is_file(candidate / "config.json"):
            return candidate
    return None


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


def _normalisation(path: Path, arch: Architecture) -> tuple[Normalisation, Normalisation, dict[str, str]]:
    rename: dict[str, str] = {}
    pre, pre_steps = _steps(path, "policy_preprocessor.json")
    _, post_steps = _steps(path, "policy_postprocessor.json")
    if "rename_observations_processor" in pre_steps:
        rename = pre_steps["rename_observations_processor"].config.rename_map
    known = {
        "rename_observations_processor",
        "to_batch_processor",
        "smolvla_new_line_processor",
        "tokenizer_processor",
        "device_processor",
        "normalizer_processor",
    }
    strange = sorted(set(pre_steps) - known) + sorted(set(post_steps) - {"unnormalizer_processor", "device_processor"})
    if strange:
        raise BundleError(f"{pre.parent}: processing steps {strange} are not supported")
    state = _statistics(path, pre_steps, "normalizer_processor", "observation.state", arch.state_dim)
    action = _statistics(path, post_steps, "unnormalizer_processor", "action", arch.action_dim)
    return state, action, rename


class _StepConfig(msgspec.Struct):
    rename_map: dict[str, str] = {}
    norm_map: dict[str, str] = {}
    eps: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-8


class _Step(msgspec.Struct):
    """One step of a processor file; settings that do not matter here are left out."""

    registry_name: str
    config: _StepConfig = msgspec.field(default_factory=_StepConfig)
    state_file: str | None = None


def _steps(path: Path, name: str) -> tuple[Path, dict[str, _Step]]:
    file = path / name
    if not file.exists():
        raise BundleError(
            f"{file}: missing, so the normalisation statistics are unknown; checkpoints older than LeRobot 0.4 need "
            "lerobot/processor/migrate_policy_normalization.py first"
        )
    try:
        steps = msgspec.convert(read_json(file)["steps"], list[_Step])
    except (KeyError, msgspec.ValidationError) as error:
        raise BundleError(f"{file}: not a LeRobot processor file: {error}") from None
    return file, {step.registry_name: step for step in steps}


def _statistics(path: Path, steps: dict[str, _Step], step: str, feature: str, size: int) -> Normalisation:
    entry = steps.get(step)
    kind = "ACTION" if feature == "action" else "STATE"
    if entry is None or not entry.state_file:
        raise BundleError(f"{path}: {step} has no state file, so {feature} cannot be normalised; train with statistics")
    modes = entry.config.norm_map
    if modes.get(kind) != "MEAN_STD" or modes.get("VISUAL", "IDENTITY") != "IDENTITY":
        raise BundleError(f"{path}: normalisation {modes} is not supported; {kind} MEAN_STD and VISUAL IDENTITY are")
    if Path(entry.state_file).name != entry.state_file:
        raise BundleError(f"{path}: state file {entry.state_file!r} is not inside the checkpoint")
    tensors = SafeTensors(path / entry.state_file)
    if f"{feature}.mean" not in tensors or f"{feature}.std" not in tensors:
        others = sorted(n for n in tensors.names() if n.endswith(f"{feature}.mean"))
        hint = f" (it has {others[:3]}: statistics of the pre-training mixture; fine-tune first)" if others else ""
        raise BundleError(f"{tensors.path}: statistics {feature}.mean and {feature}.std are missing{hint}")
    mean = tensors.read(f"{feature}.mean", (size,))
    std = tensors.read(f"{feature}.std", (size,))
    if (std < 0).any():
        raise BundleError(f"{tensors.path}: {feature}.std has negative values")
    if (std == 0).any():
        raise BundleError(
            f"{tensors.path}: {feature}.std is 0 for joint {int(np.argmin(std))}: a joint that never moved in the "
            "recording cannot be normalised; record it moving, or leave it out"
        )
    limits = [tensors.read(f"{feature}.{k}", (size,)) if f"{feature}.{k}" in tensors else None for k in ("min", "max")]
    return Normalisation(mean, std, limits[0], limits[1], entry.config.eps)
