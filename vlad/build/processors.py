"""How a checkpoint normalises what its policy takes and gives: in the files of a pre- and a post-processor,
as LeRobot writes them since 0.4, or in buffers inside the weights, as it did before.

Sources: lerobot 0.4.4 `processor/normalize_processor.py`, `processor/migrate_policy_normalization.py`;
0.3.3 `policies/normalize.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np

from vlad.build.normalisation import ANY_MODE, Normalisation, read_normalisation
from vlad.build.safetensors import SafeTensors, read_json
from vlad.build.setting import Feature
from vlad.errors import BundleError

Modes = Mapping[str, tuple[str, ...]]
"""The normalisations that are supported, by type of feature."""

_KINDS = ("ACTION", "ENV", "LANGUAGE", "REWARD", "STATE", "VISUAL")  # LeRobot's FeatureType
_FILES = ("policy_preprocessor.json", "policy_postprocessor.json")
_INPUTS, _TARGETS, _OUTPUTS = "normalize_inputs.", "normalize_targets.", "unnormalize_outputs."
_EPS = 1e-8

# What LeRobot writes about each step (`get_config`), and those of which a second changes nothing.
_NORMALISER = frozenset({"eps", "features", "norm_map", "normalize_observation_keys"})
_SETTINGS: dict[str, frozenset[str]] = {
    "rename_observations_processor": frozenset({"rename_map"}),
    "to_batch_processor": frozenset(),
    "smolvla_new_line_processor": frozenset(),
    "tokenizer_processor": frozenset(
        {"max_length", "task_key", "padding_side", "padding", "truncation", "tokenizer_name"}
    ),
    "device_processor": frozenset({"device", "float_dtype"}),
    "normalizer_processor": _NORMALISER,
    "unnormalizer_processor": _NORMALISER,
}
_REPEATABLE = frozenset({"to_batch_processor", "device_processor"})


class Processors(Protocol):
    """Where statistics come from. rename: the dataset's names of features to the policy's. max_tokens: of a
    task, where it says so.
    """

    rename: dict[str, str]
    max_tokens: int | None

    def input(self, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        """How `feature` of type `kind`, whose statistics have `shape`, is normalised. Raises BundleError."""
        ...

    def output(self, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        """How it is restored. Raises BundleError."""
        ...


def read_processors(
    path: Path, config: dict[str, Any], weights: SafeTensors, steps: tuple[str, ...], modes: Modes
) -> Processors:
    """The files where they are there, else the buffers; of both, the files, which the buffers must not contradict.

    steps: of the pre-processor, besides those that every policy has. Raises BundleError.
    """
    held = any(name.startswith((_INPUTS, _TARGETS, _OUTPUTS)) for name in weights.names())
    buffers = _Buffers(path, config, weights, modes) if held else None
    if buffers is not None and not any((path / name).exists() for name in _FILES):
        return buffers
    return _Files(path, steps, modes, buffers)


class _Buffers:
    """Statistics inside the weights, before LeRobot 0.4; LeRobot itself reads them through its migration."""

    def __init__(self, path: Path, config: dict[str, Any], weights: SafeTensors, modes: Modes) -> None:
        self.rename: dict[str, str] = {}
        self.max_tokens: int | None = None
        self._weights = weights
        mapping = config.get("normalization_mapping")
        if not isinstance(mapping, dict):
            raise BundleError(f"{path / 'config.json'}: no normalization_mapping, so {weights.path} cannot be read")
        self._modes = _checked_modes(f"{path / 'config.json'}: normalization_mapping", mapping, modes)

    def input(self, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        return self._read(_INPUTS, feature, kind, shape)

    def output(self, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        restored = self._read(_OUTPUTS, feature, kind, shape)
        if any(name.startswith(_TARGETS) for name in self._weights.names()):
            _check_alike(self._weights.path, feature, restored, self._read(_TARGETS, feature, kind, shape))
        return restored

    def _read(self, module: str, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        prefix = f"{module}buffer_{feature.replace('.', '_')}."
        return read_normalisation(self._weights, prefix, feature, shape, mode=self._modes[kind], eps=_EPS)


class _StepConfig(msgspec.Struct):
    rename_map: dict[str, str] = {}
    norm_map: dict[str, str] = {}
    eps: Annotated[float, msgspec.Meta(ge=0, le=1)] = _EPS
    max_length: int | None = None
    normalize_observation_keys: list[str] | None = None
    features: dict[str, Feature] = {}
    float_dtype: Literal["float32"] | None = None


class _Step(msgspec.Struct, forbid_unknown_fields=True):
    """One step of a processor file; settings that do not matter here are left out."""

    registry_name: str
    config: _StepConfig = msgspec.field(default_factory=_StepConfig)
    state_file: str | None = None


class _Files:
    """The files of the pre- and the post-processor. Raises BundleError for a step that is not known."""

    def __init__(self, path: Path, steps: tuple[str, ...], modes: Modes, buffers: _Buffers | None) -> None:
        self._path = path
        self._modes = modes
        self._buffers = buffers
        pre = {"rename_observations_processor", "to_batch_processor", "device_processor", "normalizer_processor"}
        self._pre = _steps(path / _FILES[0], pre | set(steps))
        self._post = _steps(path / _FILES[1], {"unnormalizer_processor", "device_processor"})
        self.rename = self._config("rename_observations_processor").rename_map
        self.max_tokens = self._config("tokenizer_processor").max_length

    def _config(self, step: str) -> _StepConfig:
        return self._pre[step].config if step in self._pre else _StepConfig()

    def input(self, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        found = self._read(self._pre, "normalizer_processor", feature, kind, shape)
        normalised = self._config("normalizer_processor").features.get(feature)
        if normalised is None or normalised.type != kind:  # of an action LeRobot does not ask
            raise BundleError(
                f"{self._path}: normalizer_processor: its features have no {feature} of type {kind}: LeRobot would not "
                "normalise it as that"
            )
        if self._buffers is not None:
            _check_alike(self._path, feature, found, self._buffers.input(feature, kind, shape))
        return found

    def output(self, feature: str, kind: str, shape: tuple[int, ...]) -> Normalisation:
        found = self._read(self._post, "unnormalizer_processor", feature, kind, shape)
        if self._buffers is not None:
            _check_alike(self._path, feature, found, self._buffers.output(feature, kind, shape))
        return found

    def _read(
        self, steps: dict[str, _Step], name: str, feature: str, kind: str, shape: tuple[int, ...]
    ) -> Normalisation:
        step = steps.get(name)
        if step is None or not step.state_file:
            raise BundleError(
                f"{self._path}: {name} has no state file, so {feature} cannot be normalised; train with statistics"
            )
        if step.config.normalize_observation_keys is not None:
            raise BundleError(f"{self._path}: {name}: normalize_observation_keys is not supported: all are normalised")
        mode = _checked_modes(f"{self._path}: {name}: norm_map", step.config.norm_map, self._modes)[kind]
        if Path(step.state_file).name != step.state_file:
            raise BundleError(f"{self._path}: state file {step.state_file!r} is not inside the checkpoint")
        tensors = SafeTensors(self._path / step.state_file)
        return read_normalisation(tensors, f"{feature}.", feature, shape, mode=mode, eps=step.config.eps)


def _steps(file: Path, known: set[str]) -> dict[str, _Step]:
    """By name. Raises BundleError for one that is not `known`, has unknown settings or comes twice."""
    if not file.exists():
        raise BundleError(
            f"{file}: missing, and the weights hold no statistics either, so how values are normalised is unknown"
        )
    try:
        entries = read_json(file)["steps"]
        steps = msgspec.convert(entries, list[_Step])
    except (KeyError, msgspec.ValidationError) as error:
        raise BundleError(f"{file}: not a processor file that is supported: {error}") from None
    strange = sorted({step.registry_name for step in steps} - known)
    if strange:
        raise BundleError(f"{file}: processing steps {strange} are not supported")
    found: dict[str, _Step] = {}
    for step, entry in zip(steps, entries, strict=True):
        name = step.registry_name
        unknown = sorted(entry.get("config", {}).keys() - _SETTINGS[name])
        if unknown:
            raise BundleError(
                f"{file}: {name}: settings {unknown} are not known: of a LeRobot newer than this vlad? "
                f"Those of this step are {sorted(_SETTINGS[name])}"
            )
        if name in found and name not in _REPEATABLE:
            raise BundleError(f"{file}: {name} comes twice: LeRobot applies both, which is not supported; one is")
        found[name] = step
    return found


def _checked_modes(where: str, given: dict[str, str], supported: Modes) -> dict[str, str]:
    """Of each type of feature; one that is not named is left as it is. where: in messages."""
    for kind, mode in given.items():
        if kind not in _KINDS:
            raise BundleError(f"{where}: {kind} is no type of feature; {', '.join(_KINDS)} are")
        if mode not in ANY_MODE:
            raise BundleError(f"{where}: {kind} {mode} is no normalisation; {', '.join(ANY_MODE)} are")
    modes = {**dict.fromkeys(supported, "IDENTITY"), **given}
    if any(modes[kind] not in accepted for kind, accepted in supported.items()):
        wanted = ", ".join(f"{kind} {' or '.join(accepted)}" for kind, accepted in supported.items())
        raise BundleError(f"{where}: normalisation {modes} is not supported; {wanted} are")
    return modes


def _check_alike(path: Path, feature: str, one: Normalisation, two: Normalisation) -> None:
    """Statistics that a checkpoint holds twice."""
    if not (np.allclose(one.mean, two.mean, rtol=1e-5) and np.allclose(one.std, two.std, rtol=1e-5)):
        raise BundleError(
            f"{path}: two statistics of {feature} that differ, {one.mean.tolist()} and {two.mean.tolist()}, "
            f"deviations {one.std.tolist()} and {two.std.tolist()}: which of them it was trained with is unknown"
        )
