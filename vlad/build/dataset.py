"""What a checkpoint does not say and its dataset does: rate, joint names, tasks, cameras, ranges.

Reads the metadata of a LeRobot dataset v3.0 directory (`meta/info.json`, `meta/stats.json`,
`meta/tasks.parquet`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.build.safetensors import read_json
from vlad.errors import BundleError

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureRange:
    """Statistics of one vector feature, in the units of the recording."""

    minimum: Array
    maximum: Array
    mean: Array
    std: Array


@dataclasses.dataclass(frozen=True, slots=True)
class Dataset:
    """The metadata that a bundle needs. `rate_hz` is the dataset's `fps`; joints are without their
    `.pos` suffix.
    """

    path: Path
    rate_hz: float
    joints: tuple[str, ...]
    tasks: tuple[str, ...]
    cameras: tuple[str, ...]
    state: FeatureRange | None
    action: FeatureRange | None


def read_dataset(path: Path) -> Dataset:
    """Read the metadata under `path`. Raises BundleError naming the file and what is wrong."""
    file = path / "meta" / "info.json"
    if not file.is_file():
        raise BundleError(f"{file}: missing; is {path} the directory of a LeRobot dataset?")
    info = read_json(file)
    version = str(info.get("codebase_version", "unknown"))
    if not version.startswith("v3."):
        raise BundleError(f"{file}: dataset format {version} is not supported; convert it to v3.0 with LeRobot")
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= 1000:
        raise BundleError(f"{file}: fps = {fps!r}; the rate of the recording is needed")
    features = info.get("features")
    if not isinstance(features, dict):
        raise BundleError(f"{file}: no features")
    state = joint_names(file, features, "observation.state")
    action = joint_names(file, features, "action")
    if state != action:
        raise BundleError(f"{file}: joints of observation.state {list(state)} and of action {list(action)} differ")
    cameras = tuple(k for k, f in features.items() if isinstance(f, dict) and f.get("dtype") in ("image", "video"))
    stats_file = path / "meta" / "stats.json"
    stats = read_json(stats_file) if stats_file.exists() else {}
    return Dataset(
        path=path,
        rate_hz=float(fps),
        joints=state,
        tasks=_tasks(path / "meta" / "tasks.parquet"),
        cameras=cameras,
        state=_range(stats_file, stats, "observation.state", len(state)),
        action=_range(stats_file, stats, "action", len(state)),
    )


def joint_names(file: Path, features: dict[str, Any], feature: str) -> tuple[str, ...]:
    """Joint names of one vector feature. Raises BundleError when they are missing or repeated."""
    entry = features.get(feature)
    names = entry.get("names") if isinstance(entry, dict) else None
    if isinstance(names, dict) and len(names) == 1:
        names = next(iter(names.values()))
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise BundleError(f"{file}: feature {feature} has no joint names, so the joint order is unknown")
    joints = tuple(n.removesuffix(".pos") for n in names)
    if len(set(joints)) != len(joints):
        raise BundleError(f"{file}: feature {feature} repeats joint names: {list(joints)}")
    return joints


def _tasks(file: Path) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns: dict[str, list[object]] = pq.read_table(file).to_pydict()
    except FileNotFoundError:
        raise BundleError(f"{file}: missing, so the tasks are unknown") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BundleError(f"{file}: not readable as parquet: {error}") from None
    texts = columns.get("task", columns.get("__index_level_0__"))
    indices = columns.get("task_index")
    if texts is None or indices is None:
        raise BundleError(f"{file}: no task and task_index columns (found {list(columns)})")
    rows = [(i, t) for i, t in zip(indices, texts, strict=True) if isinstance(i, int)]
    named = [(i, t) for i, t in rows if isinstance(t, str)]
    if not named or len(named) != len(texts):
        raise BundleError(f"{file}: no tasks, or tasks that are not text")
    return tuple(text for _, text in sorted(named))


def _range(file: Path, stats: dict[str, Any], feature: str, size: int) -> FeatureRange | None:
    entry = stats.get(feature)
    if entry is None:
        return None
    try:
        vectors = [np.asarray(entry[k], dtype=np.float64) for k in ("min", "max", "mean", "std")]
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{file}: statistics of {feature} are malformed: {error!r}") from None
    if any(v.shape != (size,) or not np.isfinite(v).all() for v in vectors):
        raise BundleError(f"{file}: statistics of {feature} are not {size} finite numbers each")
    return FeatureRange(*vectors)
