"""Everything that a training run needs to be repeated, in one file: recipe.json. No torch is imported here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from vlad.build.safetensors import sha256
from vlad.errors import ConfigError
from vlad.whole_file import write_whole

NAME = "recipe.json"
FORMAT = 1
MAX_BYTES = 64 << 20


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What was asked for.

    policy: one of POLICIES, or the `pretrained_model` directory (or hub name) to go on from. vlm: directory of a
    vision-language model for smolvla-small. overrides: fields of LeRobot's policy configuration. val_clusters: never
    trained on. val_freq, val_frames: how often, and on how many frames of either split, the loss is validated.
    image_size: (height, width) of the pictures an ACT is given; None: as they are. threads: of torch on the CPU.

    draws: noises an observation, which share one prefix; ema_decay: of the averaged weights that are saved, 0 without;
    flow_times: as LeRobot draws them, or those that the sampler visits; difference_weight: of the difference between
    consecutive actions in the loss; state_noise: standard deviation added to the state in training, in the dataset's
    units. vision_cache: a frozen vision encoder's tokens are computed once.
    """

    dataset: str
    policy: str
    steps: int
    vlm: str | None = None
    overrides: dict[str, Any] = {}
    batch_size: int = 8
    save_freq: int = 20_000
    log_freq: int = 200
    val_freq: int = 20_000
    val_frames: int = 256
    val_clusters: tuple[int, ...] = (6,)
    seed: int = 1
    device: str = "cpu"
    threads: int = 1
    image_size: tuple[int, int] | None = None
    draws: int = 1
    ema_decay: float = 0.0
    flow_times: Literal["lerobot", "sampler"] = "lerobot"
    difference_weight: float = 0.0
    state_noise: float = 0.0
    vision_cache: bool = False


class Recipe(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Settings, and what they were applied to. dataset_sha256: `tree_sha256` of the dataset. sources: hashes of the
    weights that training began from, by what they are. versions: of every package that computes something."""

    format: int = FORMAT
    settings: Settings
    dataset_sha256: str
    frames: int
    train_episodes: tuple[int, ...]
    val_episodes: tuple[int, ...]
    sources: dict[str, str]
    versions: dict[str, str]
    device_name: str


# What the small policies need that LeRobot's own do not: they start from nothing, and see little data.
_SMALL_FLOW: Mapping[str, Any] = {
    "draws": 3, "ema_decay": 0.998, "flow_times": "sampler", "difference_weight": 0.5,
}  # fmt: skip
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "smolvla": {},
    "act": {},
    "smolvla-small": _SMALL_FLOW,
    "act-small": {"image_size": (96, 128), "ema_decay": 0.998},
}


def write(recipe: Recipe, file: Path) -> None:
    """Put in place at once."""
    write_whole(file, msgspec.json.format(msgspec.json.encode(recipe), indent=1) + b"\n")


def read(file: Path) -> Recipe:
    """Raises ConfigError naming the file and the key."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file}: over {MAX_BYTES} bytes")
        recipe = msgspec.json.decode(file.read_bytes(), type=Recipe)
    except OSError as error:
        raise ConfigError(f"{file}: not readable: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: not a recipe of vlad train: {error}") from None
    if recipe.format != FORMAT:
        raise ConfigError(f"{file}: recipe of format {recipe.format}; this vlad reads {FORMAT}")
    return recipe


def differences(wanted: Recipe, here: Recipe) -> tuple[list[str], list[str]]:
    """What makes `here` another run than `wanted` though their settings are equal: other data or weights; another
    machine or other versions."""
    given, machine = [], []
    if wanted.dataset_sha256 != here.dataset_sha256:
        given.append(f"{here.settings.dataset}: has other contents")
    given += [f"weights of {k}: other ones" for k in _other(wanted.sources, here.sources)]
    machine += [f"{k}: {wanted.versions.get(k)} there, {here.versions.get(k)} here"
                for k in _other(wanted.versions, here.versions)]  # fmt: skip
    if wanted.device_name != here.device_name:
        machine.append(f"device: {wanted.device_name} there, {here.device_name} here")
    return given, machine


def _other(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]


def tree_sha256(root: Path, directories: Iterable[str] = ("meta", "data", "videos", "images")) -> str:
    """Of names and contents of all files in these directories of `root`; hidden ones are left out."""
    whole = hashlib.sha256()
    for directory in directories:
        for file in sorted(p for p in (root / directory).rglob("*") if p.is_file()):
            name = file.relative_to(root)
            if not any(part.startswith(".") for part in name.parts):
                whole.update(f"{name}\0{sha256(file)}\n".encode())
    return whole.hexdigest()
