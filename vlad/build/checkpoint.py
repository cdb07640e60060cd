"""Reads a LeRobot checkpoint directory, of a SmolVLA or an ACT: `config.json`, `model.safetensors` and, since
LeRobot 0.4, the processor files.

Nothing here needs torch, transformers or the hub. What LeRobot would skip or default silently is an
error here. Sources: lerobot 0.4.4 `policies/smolvla/configuration_smolvla.py`,
`policies/act/processor_act.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vlad.build.act_architecture import ActArchitecture, read_act
from vlad.build.architecture import Architecture, ImageMarks, read_architecture, vlm_constants
from vlad.build.normalisation import ANY_MODE, Normalisation
from vlad.build.processors import read_processors
from vlad.build.safetensors import SafeTensors, is_file, read_json
from vlad.build.setting import read_setting
from vlad.errors import BundleError
from vlad.llm import token_id

_LANGUAGE_STEPS = ("smolvla_new_line_processor", "tokenizer_processor")


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
    file = path / "config.json"
    name = read_setting(file, config, "vlm_model_name", str) if "vlm_model_name" in config else ""
    directory = _vlm_directory(path, name, vlm)
    constants = vlm_constants(name, directory)
    tokenizer_file = _tokenizer_file(path, directory, tokenizer)
    architecture = read_architecture(file, config, weights, constants, lambda: _image_marks(path, tokenizer_file))
    modes = {"STATE": ANY_MODE, "ACTION": ANY_MODE, "VISUAL": ("IDENTITY",)}
    processors = read_processors(path, config, weights, _LANGUAGE_STEPS, modes)
    if processors.max_tokens not in (None, architecture.max_task_tokens):
        raise BundleError(
            f"{path}: tokenizer_max_length is {architecture.max_task_tokens}, and the pre-processor cuts tasks off at "
            f"{processors.max_tokens} tokens: which of them it was trained with is unknown"
        )
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
        tokenizer_file=tokenizer_file,
        notes=notes,
    )


def _read_act(path: Path, config: dict[str, Any], weights: SafeTensors) -> ActCheckpoint:
    architecture = read_act(path / "config.json", config, weights)
    vector = ("MEAN_STD", "MIN_MAX")
    modes = {"STATE": vector, "ACTION": vector, "VISUAL": ("MEAN_STD", "IDENTITY")}
    processors = read_processors(path, config, weights, (), modes)
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


def _image_marks(path: Path, tokenizer: Path | None) -> ImageMarks:
    """Ids of the tokens around a picture, by the names that SmolVLM's tokenizer has for them."""
    if tokenizer is None:
        raise BundleError(
            f"{path / 'config.json'}: add_image_special_tokens: the tokenizer says which they are: give its "
            "tokenizer.json with --tokenizer"
        )
    around, whole = token_id(tokenizer, "<fake_token_around_image>"), token_id(tokenizer, "<global-img>")
    return ImageMarks(before=(around, whole), after=(around,))
