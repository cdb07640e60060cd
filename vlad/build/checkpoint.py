"""Reads a LeRobot checkpoint directory, of a SmolVLA or an ACT: `config.json`, `model.safetensors` and the
processor files.

Nothing here needs torch, transformers or the hub. What LeRobot would skip or default silently is an
error here. Sources: lerobot 0.4.4 `policies/smolvla/configuration_smolvla.py`,
`policies/act/processor_act.py`, `processor/normalize_processor.py`.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad.build.act_architecture import ActArchitecture, read_act
from vlad.build.architecture import Architecture, read_architecture, vlm_constants
from vlad.build.safetensors import SafeTensors, is_file, read_json
from vlad.errors import BundleError

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Normalisation:
    """(x - mean) / (std + eps), with what else the state file knows of the feature.

    LeRobot's MIN_MAX is the same with the middle of the range and half of it (`is_range`).
    """

    mean: Array
    std: Array
    minimum: Array | None
    maximum: Array | None
    eps: float
    is_range: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory that has been read and found supported."""

    path: Path
    weights: SafeTensors
    state: Normalisation
    action: Normalisation
    rename: dict[str, str]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SmolvlaCheckpoint(Checkpoint):
    """A SmolVLA's, with its vision-language model."""

    architecture: Architecture
    vlm_name: str
    vlm_directory: Path | None
    tokenizer_file: Path | None


@dataclasses.dataclass(frozen=True, slots=True)
class ActCheckpoint(Checkpoint):
    """An ACT's, with the statistics of its cameras' pixels, three numbers each."""

    architecture: ActArchitecture
    images: tuple[Normalisation, ...]


def read_checkpoint(
    path: Path, *, vlm: Path | None = None, tokenizer: Path | None = None
) -> SmolvlaCheckpoint | ActCheckpoint:
    """Read and check a checkpoint directory. Raises BundleError saying what is missing or
    unsupported.

    Of a SmolVLA, `vlm` is a directory with the `config.json` (and `tokenizer.json`) of the
    vision-language model; without it the checkpoint's own `vlm/`, its `vlm_model_name` where that is a
    directory, or the published constants are used.
    """
    config = read_json(path / "config.json")
    kind = config.get("type")
    if kind not in ("smolvla", "act"):
        raise BundleError(f"{path / 'config.json'}: policy type {kind!r} is not supported; smolvla and act are")
    weights = SafeTensors(path / "model.safetensors")
    if kind == "act":
        if vlm is not None or tokenizer is not None:
            raise BundleError("--vlm and --tokenizer: an ACT has no language model")
        return _read_act(path, config, weights)
    name = str(config.get("vlm_model_name", ""))
    directory = _vlm_directory(path, name, vlm)
    constants = vlm_constants(name, directory)
    architecture = read_architecture(path / "config.json", config, weights, constants)
    processors = _Processors(path, _LANGUAGE_STEPS, {"STATE": _MEAN_STD, "ACTION": _MEAN_STD, "VISUAL": _IDENTITY})
    notes: tuple[str, ...] = ()
    if not architecture.vision_in_bfloat16:
        notes = (
            "vision ran in float32 in training (load_vlm_weights is false): if that was with transformers 4.55.1 to "
            "4.57, which number the patches wrongly then, build with --position-ids transformers-4.57-float32",
        )
    return SmolvlaCheckpoint(
        path=path,
        weights=weights,
        architecture=architecture,
        state=processors.input("observation.state", "STATE", (architecture.state_dim,)),
        action=processors.output("action", "ACTION", (architecture.action_dim,)),
        rename=processors.rename,
        vlm_name=name,
        vlm_directory=directory,
        tokenizer_file=_tokenizer_file(path, directory, tokenizer),
        notes=notes,
    )


def _read_act(path: Path, config: dict[str, Any], weights: SafeTensors) -> ActCheckpoint:
    architecture = read_act(path / "config.json", config, weights)
    vector = ("MEAN_STD", "MIN_MAX")
    processors = _Processors(path, (), {"STATE": vector, "ACTION": vector, "VISUAL": ("MEAN_STD", "IDENTITY")})
    return ActCheckpoint(
        path=path,
        weights=weights,
        architecture=architecture,
        state=processors.input("observation.state", "STATE", (architecture.state_dim,)),
        action=processors.output("action", "ACTION", (architecture.action_dim,)),
        images=tuple(processors.input(name, "VISUAL", (3, 1, 1)) for name in architecture.cameras),
        rename=processors.rename,
        notes=(),
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


_MEAN_STD, _IDENTITY = ("MEAN_STD",), ("IDENTITY",)
_LANGUAGE_STEPS = ("smolvla_new_line_processor", "tokenizer_processor")


class _Processors:
    """The pre- and the post-processor of a checkpoint: names and statistics of features.

    steps: of the pre-processor, besides those that every policy has. modes: which normalisations are
    supported, by type of feature. Raises BundleError for any other step.
    """

    def __init__(self, path: Path, steps: tuple[str, ...], modes: dict[str, tuple[str, ...]]) -> None:
        self._path = path
        self._modes = modes
        file, self._pre = _steps(path, "policy_preprocessor.json")
        _, self._post = _steps(path, "policy_postprocessor.json")
        known = {"rename_observations_processor", "to_batch_processor", "device_processor", "normalizer_processor"}
        strange = sorted(set(self._pre) - known - set(steps))
        strange += sorted(set(self._post) - {"unnormalizer_processor", "device_processor"})
        if strange:
            raise BundleError(f"{file.parent}: processing steps {strange} are not supported")
        self.rename: dict[str, str] = {}
        if "rename_observations_processor" in self._pre:
            self.rename = self._pre["rename_observations_processor"].config.rename_map

    def input(self, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        """How the pre-processor normalises `feature` of type `kind`, whose statistics have `shape`."""
        return self._statistics(self._pre, "normalizer_processor", feature, kind, shape)

    def output(self, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        """How the post-processor restores it."""
        return self._statistics(self._post, "unnormalizer_processor", feature, kind, shape)

    def _statistics(
        self, steps: dict[str, _Step], step: str, feature: str, kind: str, shape: tuple[int, ...]
    ) -> Normalisation:
        entry = steps.get(step)
        if entry is None or not entry.state_file:
            raise BundleError(
                f"{self._path}: {step} has no state file, so {feature} cannot be normalised; train with statistics"
            )
        modes = {**dict.fromkeys(self._modes, "IDENTITY"), **entry.config.norm_map}
        for each, accepted in self._modes.items():
            if modes[each] not in accepted:
                wanted = ", ".join(f"{k} {' or '.join(v)}" for k, v in self._modes.items())
                raise BundleError(f"{self._path}: normalisation {modes} is not supported; {wanted} are")
        size = math.prod(shape)
        if modes[kind] == "IDENTITY":
            return Normalisation(np.zeros(size, np.float32), np.ones(size, np.float32), None, None, 0.0)
        if Path(entry.state_file).name != entry.state_file:
            raise BundleError(f"{self._path}: state file {entry.state_file!r} is not inside the checkpoint")
        return _normalisation(
            SafeTensors(self._path / entry.state_file), feature, shape, entry.config.eps, modes[kind] == "MIN_MAX"
        )


def _normalisation(
    tensors: SafeTensors, feature: str, shape: tuple[int, ...], eps: float, is_range: bool
) -> Normalisation:
    """The statistics of `feature`, flat. Raises BundleError for those that are missing or cannot be used."""
    needed = ("min", "max") if is_range else ("mean", "std")
    if any(f"{feature}.{k}" not in tensors for k in needed):
        others = sorted(n for n in tensors.names() if n.endswith(f"{feature}.{needed[0]}"))
        hint = f" (it has {others[:3]}: statistics of the pre-training mixture; fine-tune first)" if others else ""
        raise BundleError(
            f"{tensors.path}: statistics {feature}.{needed[0]} and {feature}.{needed[1]} are missing{hint}"
        )

    def read(name: str) -> Array | None:
        return tensors.read(f"{feature}.{name}", shape).reshape(-1) if f"{feature}.{name}" in tensors else None

    low, high = read("min"), read("max")
    first, second = (tensors.read(f"{feature}.{k}", shape).reshape(-1) for k in needed)
    half = np.float32(0.5)
    mean: Array = (first + second) * half if is_range else first
    std: Array = (second - first) * half if is_range else second
    eps = 0.0 if is_range else eps
    what = "max - min" if is_range else "std"
    if (std < 0).any():
        raise BundleError(f"{tensors.path}: {feature}.{what} has negative values")
    if (std == 0).any():
        if len(shape) > 1:
            raise BundleError(
                f"{tensors.path}: {feature}.{what} is 0 for channel {int(np.argmin(std))}: pictures of one colour "
                "cannot be normalised"
            )
        raise BundleError(
            f"{tensors.path}: {feature}.{what} is 0 for joint {int(np.argmin(std))}: a joint that never moved in the "
            "recording cannot be normalised; record it moving, or leave it out"
        )
    return Normalisation(mean, std, low, high, eps, is_range)
