"""LeRobot's checkpoints, put in place whole: a process that is killed at any moment leaves the last one as it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lerobot.configs.train import TrainPipelineConfig
from lerobot.utils.train_utils import get_step_identifier, load_training_state, save_checkpoint
from safetensors.torch import load_file, load_model, save_model

from vlad.build.bundle_directory import replacing
from vlad.train.objective import Objective
from vlad.train.policies import Made

CHECKPOINTS, LAST, MODEL, STATE = "checkpoints", "last", "pretrained_model", "training_state"
TRAINED = "trained.safetensors"  # in STATE, where the weights that are saved are averages
_WEIGHTS = "model.safetensors"


def save(out: Path, config: TrainPipelineConfig, objective: Objective, made: Made, *rest: Any) -> Path:
    """checkpoints/NNNNNN as LeRobot lays it out, and `last` points to it. rest: optimizer, scheduler."""
    step = objective.steps
    target: Path = out / CHECKPOINTS / get_step_identifier(step, config.steps)
    with replacing(target, rooms=()) as partial:
        with objective.averaged():
            save_checkpoint(partial, step, config, made.policy, *rest, made.before, made.after)
        if config_vlm := _vlm(config):
            # vlad build looks for it there; LeRobot, where config.json says.
            shutil.copytree(config_vlm, partial / MODEL / "vlm", ignore=shutil.ignore_patterns("*.safetensors"))
        if objective.averages:
            save_model(made.policy, str(partial / STATE / TRAINED))
    point(out, LAST, target)
    return target


def point(out: Path, name: str, target: Path) -> None:
    """The link checkpoints/NAME, replaced at once."""
    link = out / CHECKPOINTS / f".{name}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    os.replace(link, out / CHECKPOINTS / name)


def remove_partial(out: Path) -> None:
    """What a process that was killed left of a checkpoint. Only for who holds the run's lock."""
    for left in (out / CHECKPOINTS).glob(".*.partial-*"):
        shutil.rmtree(left)


def whole(out: Path) -> dict[int, Path]:
    """Checkpoints by step, in order. None is ever partial: names without a dot appear by renaming."""
    return dict(sorted(_whole(out)))


def _whole(out: Path) -> Iterator[tuple[int, Path]]:
    for path in (out / CHECKPOINTS).glob("[0-9]*"):
        if path.name.isdigit() and not path.is_symlink():
            yield int(path.name), path


def resume(path: Path, objective: Objective, made: Made, *rest: Any) -> None:
    """Weights, averages, optimizer, scheduler and random states as they were. rest: optimizer, scheduler."""
    saved = path / MODEL / _WEIGHTS
    load_model(made.policy, str(path / STATE / TRAINED if objective.averages else saved))
    objective.steps, _, _ = load_training_state(path, *rest)
    if objective.averages:
        objective.set_average(load_file(saved))


def _vlm(config: TrainPipelineConfig) -> Path | None:
    name = getattr(config.policy, "vlm_model_name", None)
    return Path(name) if name and (Path(name) / "config.json").is_file() else None
