"""Real observations out of a LeRobot dataset v3.0: what the policy's cameras and joints gave at chosen moments.

Some episodes calibrate, the others judge: nothing is measured on an episode that ranges were taken from.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlad.build.dataset import Dataset, read_dataset
from vlad.build.safetensors import read_json
from vlad.dataset.reader import decode, episode_table, frame_tables, video_moment, video_pattern
from vlad.errors import BundleError
from vlad.manifest import Manifest, SmolvlaManifest
from vlad.observation import Pixels

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """One moment. images: uint8 RGB of each camera in policy order. state: joint positions in the units of the
    recording, float32 `[joints]`. task: its text. seed: of the noise that a flow starts from.
    """

    episode: int
    frame: int
    images: tuple[Pixels, ...]
    state: Array
    task: str
    seed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Moments:
    """What was chosen: to calibrate with, to judge each group with, and to verify the whole with (those of
    `judge` and more). `joint_range` is of each joint's recorded actions, in the units of the recording.
    """

    dataset: Path
    calibrate: list[Observation]
    judge: list[Observation]
    verify: list[Observation]
    joint_range: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    episode: int
    frame: int
    time_s: float
    task: str
    state: list[float]


def read_moments(path: Path, manifest: Manifest, count: int, seed: int, report: Callable[[str], None]) -> Moments:
    """`count` observations to calibrate with, as many to judge with and twice as many to verify with.

    They lie evenly in time over the episodes of each side; every second episode, from the second on, is
    held out. Raises BundleError for a dataset that is not the policy's, cannot be decoded or has one episode.
    """
    dataset = read_dataset(path)
    _check_fits(dataset, manifest)
    assert dataset.action is not None
    report("frames of the dataset")
    rows = _rows(dataset, manifest)
    episodes = sorted(rows)
    if len(episodes) < 2:
        raise BundleError(f"{path}: {len(episodes)} episode: calibration and judgement need one each at least")
    held = _spread(rows, episodes[1::2], 2 * count)
    calibrate = _spread(rows, episodes[0::2], count)
    chosen = [*calibrate, *held]
    pictures = _pictures(dataset, manifest, chosen, report)
    made = [_observation(row, pictures, manifest, seed + i) for i, row in enumerate(chosen)]
    verify = made[len(calibrate) :]
    return Moments(path, made[: len(calibrate)], verify[::2], verify, dataset.action.maximum - dataset.action.minimum)


def _check_fits(dataset: Dataset, manifest: Manifest) -> None:
    joints = tuple(joint.name for joint in manifest.joints)
    if dataset.joints != joints:
        raise BundleError(f"{dataset.path}: its joints are {list(dataset.joints)}, the bundle's {list(joints)}")
    for camera in manifest.cameras:
        if camera.source not in dataset.cameras:
            raise BundleError(f"{dataset.path}: no camera {camera.source}, which the bundle needs; it has "
                              f"{list(dataset.cameras)}")  # fmt: skip
    if dataset.action is None:
        raise BundleError(f"{dataset.path}: meta/stats.json has no statistics of action: errors are given as shares "
                          "of each joint's range, which is there")  # fmt: skip
    if (dataset.action.maximum <= dataset.action.minimum).any():
        raise BundleError(f"{dataset.path}: a joint never moves, so errors cannot be given as a share of its range")


def _rows(dataset: Dataset, manifest: Manifest) -> dict[int, list[_Row]]:
    """Every frame's row by episode. Raises BundleError for tables that are not LeRobot's."""
    texts = [text.rstrip("\n") for text in dataset.tasks]
    strange = [text for text in texts if text not in manifest.task_texts]
    if strange and isinstance(manifest, SmolvlaManifest) and manifest.tokenizer is None:
        known = list(manifest.task_texts)
        raise BundleError(f"{dataset.path}: its task {strange[0]!r} is none of the bundle's ({known})")
    names = ("episode_index", "frame_index", "timestamp", "task_index", "observation.state")
    rows: dict[int, list[_Row]] = defaultdict(list)
    for file, table in frame_tables(dataset, names):
        columns = table.to_pydict()
        try:
            for episode, frame, time_s, task, state in zip(*(columns[n] for n in names), strict=True):
                if len(state) != len(manifest.joints):
                    raise BundleError(f"{file}: a state has {len(state)} numbers for {len(manifest.joints)} joints")
                rows[episode].append(_Row(episode, frame, float(time_s), texts[task], state))
        except (LookupError, TypeError) as error:
            raise BundleError(f"{file}: not a table of LeRobot frames: {error!r}") from None
    return rows


def _spread(rows: Mapping[int, Sequence[_Row]], episodes: Sequence[int], count: int) -> list[_Row]:
    """`count` rows, evenly over the frames of the episodes one after the other; fewer where there are fewer."""
    every = [row for episode in episodes for row in rows[episode]]
    count = min(count, len(every))
    return [every[int((i + 0.5) * len(every) / count)] for i in range(count)]


def _observation(
    row: _Row, pictures: Mapping[tuple[str, int, int], Pixels], manifest: Manifest, seed: int
) -> Observation:
    state = np.array(row.state, np.float32)
    if not np.isfinite(state).all():
        raise BundleError(f"episode {row.episode} frame {row.frame}: the state is not finite")
    images = tuple(pictures[camera.source, row.episode, row.frame] for camera in manifest.cameras)
    return Observation(row.episode, row.frame, images, state, row.task, seed)


def _pictures(
    dataset: Dataset, manifest: Manifest, rows: Sequence[_Row], report: Callable[[str], None]
) -> dict[tuple[str, int, int], Pixels]:
    """The picture of each camera at each row, by (camera key, episode, frame)."""
    pattern = video_pattern(dataset, read_json(dataset.path / "meta" / "info.json"))
    places = episode_table(dataset.path)
    found: dict[tuple[str, int, int], Pixels] = {}
    for camera in manifest.cameras:
        wanted: dict[Path, dict[tuple[int, int], float]] = defaultdict(dict)
        for row in rows:
            path, start_s = video_moment(dataset, pattern, camera.source, row.episode, places.get(row.episode, {}))
            wanted[path][row.episode, row.frame] = start_s + row.time_s
        for path, moments in wanted.items():
            report(f"video of {camera.name}")
            for (episode, frame), picture in decode(path, moments, dataset.rate_hz).items():
                found[camera.source, episode, frame] = picture
    return found
