"""What a bundle needs beside the weights, cross-checked before anything is written."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.build.architecture import EMBEDDING
from vlad.build.checkpoint import ActCheckpoint, SmolvlaCheckpoint
from vlad.build.dataset import Dataset, FeatureRange
from vlad.build.normalisation import Normalisation
from vlad.build.units import Observed, check_units
from vlad.errors import BundleError, Refused
from vlad.llm import tokenise
from vlad.manifest import MAX_JOINTS, Camera, Task
from vlad.units import Units


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What the checkpoint does not say: rate in Hz, joint names in order, tasks, units, choices.

    actions: of an ACT's chunk to keep; None: as many as LeRobot executes.
    """

    rate_hz: float
    joints: tuple[str, ...]
    tasks: tuple[str, ...]
    units: Units
    skip_cameras: tuple[str, ...] = ()
    position_ids: str = "ordered"
    free_text: bool = False
    other_dataset: bool = False
    actions: int | None = None
    bfloat16: bool = False


AnyCheckpoint = SmolvlaCheckpoint | ActCheckpoint


def policy_cameras(checkpoint: AnyCheckpoint, facts: Facts, dataset: Dataset | None) -> list[Camera]:
    """Cameras in policy order, without the empty and the skipped ones (LeRobot masks those, so they
    are exact).
    """
    source_of = {new: old for old, new in checkpoint.rename.items()}
    cameras = []
    for feature in checkpoint.architecture.cameras:
        name = feature.removeprefix("observation.images.").removeprefix("observation.")
        if feature in facts.skip_cameras or name in facts.skip_cameras:
            continue
        source = source_of.get(feature, feature)
        if dataset is not None and source not in dataset.cameras:
            raise BundleError(
                f"camera {feature} is not in the dataset {dataset.path} (it has "
                f"{list(dataset.cameras)}): give the "
                f"dataset that the policy was trained on, or --skip-camera {name} if it was "
                "trained without it"
            )
        cameras.append(Camera(name=name, feature=feature, source=source))
    unknown = set(facts.skip_cameras) - {c for f in checkpoint.architecture.cameras for c in (f, f.rsplit(".", 1)[-1])}
    if unknown:
        raise BundleError(f"--skip-camera {sorted(unknown)}: the policy has {list(checkpoint.architecture.cameras)}")
    if not cameras:
        raise BundleError("no camera is left: the policy needs at least one")
    return cameras


def check_act(checkpoint: ActCheckpoint, facts: Facts) -> None:
    """What an ACT cannot be built with. Raises BundleError."""
    if facts.skip_cameras:
        raise BundleError("--skip-camera: an ACT attends to all its cameras; train it without the camera")
    if facts.free_text or facts.position_ids != "ordered":
        raise BundleError("--free-text and --position-ids: an ACT has no language model")
    if facts.bfloat16:
        raise BundleError("--bfloat16: an ACT is written in float32; most of its work is convolutions")
    if not facts.tasks:
        raise BundleError("no task: give --dataset or --task TEXT")
    if facts.actions is not None and not 1 <= facts.actions <= checkpoint.architecture.chunk_size:
        raise BundleError(f"--actions {facts.actions}: the policy's chunk has {checkpoint.architecture.chunk_size}")


def check_joints(checkpoint: AnyCheckpoint, facts: Facts, dataset: Dataset | None) -> None:
    arch = checkpoint.architecture
    for what, count in (("state", arch.state_dim), ("action", arch.action_dim)):
        if count != len(facts.joints):
            raise BundleError(f"the policy's {what} has {count} dimensions, but the joints are {list(facts.joints)}")
    if len(facts.joints) > MAX_JOINTS:
        raise BundleError(f"{len(facts.joints)} joints; at most {MAX_JOINTS} are supported")
    if not (math.isfinite(facts.rate_hz) and 0 < facts.rate_hz <= 1000):
        raise BundleError(f"rate {facts.rate_hz} Hz: it must be in 0..1000")
    observed = []
    for feature, normalisation in (
        ("observation.state", checkpoint.state),
        ("action", checkpoint.action),
    ):
        known = normalisation.seen
        is_range = {"min", "max"} <= known.keys()
        if is_range or "mean" in known:
            low, high = (known[name] if is_range else known["mean"] for name in ("min", "max"))
            source = f"checkpoint statistics of {feature}"
            observed.append(Observed(source, low.astype(np.float64), high.astype(np.float64), is_range))
        seen = None if dataset is None else (dataset.state if feature == "observation.state" else dataset.action)
        if seen is not None:
            observed.append(Observed(f"dataset statistics of {feature}", seen.minimum, seen.maximum, True))
            if not facts.other_dataset:
                _check_same_data(feature, normalisation, seen)
    check_units(facts.units, facts.joints, observed)


def _check_same_data(feature: str, trained: Normalisation, seen: FeatureRange) -> None:
    """The checkpoint's statistics must be those of the dataset, within 5 % of a deviation."""
    slack = 0.05 * seen.std + 1e-3 * (1 + np.abs(seen.mean))
    recorded = {"mean": seen.mean, "std": seen.std, "min": seen.minimum, "max": seen.maximum}
    names = ("mean", "std") if "mean" in trained.seen else ("min", "max")
    for name in names:
        if name in trained.seen and (np.abs(trained.seen[name] - recorded[name]) > slack).any():
            raise BundleError(
                f"statistics of {feature} ({name}) in the checkpoint, {_short(trained.seen[name])}, and in the "
                f"dataset, {_short(recorded[name])}, disagree: give the dataset that the policy was trained on, or "
                "--other-dataset if rate, joints, units and tasks are the same there"
            )


def _short(values: NDArray[Any]) -> str:
    return "[" + ", ".join(f"{v:.4g}" for v in values) + "]"


def tokenised_tasks(checkpoint: SmolvlaCheckpoint, facts: Facts) -> tuple[list[Task], Path]:
    if not facts.tasks:
        raise BundleError("no task: give --dataset or --task TEXT")
    tokenizer = checkpoint.tokenizer_file
    if tokenizer is None:
        raise BundleError(
            f"the tokenizer of {checkpoint.vlm_name!r} is needed to tokenise the tasks: give its "
            "tokenizer.json with "
            "--tokenizer, or its directory with --vlm (training keeps a copy under ~/.cache/huggingface/hub)"
        )
    vocabulary = checkpoint.weights.shape(EMBEDDING)[0]
    tasks = []
    for text in dict.fromkeys(facts.tasks):
        try:
            ids = tokenise(tokenizer, text, checkpoint.architecture.max_task_tokens)
        except Refused as error:
            raise BundleError(f"{error} (LeRobot trained on it cut off)") from None
        if max(ids) >= vocabulary:
            raise BundleError(f"{tokenizer}: token {max(ids)} exceeds the policy's vocabulary of {vocabulary}")
        tasks.append(Task(text=text, token_ids=ids))
    return tasks, tokenizer
