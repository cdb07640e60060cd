"""Writes a LeRobot dataset v3.0, one durable episode at a time.

An episode's files come into being in the directory `.vlad-recording` and are renamed to their places when it is
saved: videos, tasks, its row of meta/episodes, its frames, statistics, and last of all meta/info.json, whose
`total_episodes` says what counts. LeRobot reads no further than that either, so the data set can be loaded at any
moment; a process that was killed has lost the episode under way, and what it left behind goes at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

import vlad
from vlad.arm import Calibration, calibration_json
from vlad.dataset import files, stats, tables
from vlad.dataset.episode import Episode
from vlad.dataset.tables import ACTION, CAPTURE, PICTURES, STATE
from vlad.dataset.video import Picture, header, join
from vlad.errors import DatasetError, DiskShort

STAGING = ".vlad-recording"
ABOUT = "meta/vlad.json"
FORMAT = 1  # of ABOUT
MIN_FREE_BYTES = 1 << 30
DATA_MB, VIDEO_MB = 100, 200  # LeRobot's defaults for the size of a file
MAX_JSON_BYTES = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9_-]+")

Extra = Mapping[str, bool | int | float | str]


class DatasetWriter:
    """One data set directory, locked against a second writer until `close`.

    root: a new directory, or with `resume` one that a DatasetWriter of the same robot began. fps: whole frames a
    second. joints: names in order. cameras: (height, width) of each, even numbers. calibrations: of the arms, by
    name; copied to meta/calibration. about: goes to meta/vlad.json as it is. min_free_bytes: with less than that
    free on the disk nothing is begun, and what was begun is not kept; free_bytes: how that is asked.

    After an exception out of `add_frame` or `save_episode` the episode under way is gone, and no other. Not for two
    threads. Raises DatasetError, DiskShort among them, from every method.
    """

    def __init__(
        self,
        root: Path,
        fps: int,
        joints: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        *,
        robot_type: str = "so101_follower",
        resume: bool = False,
        calibrations: Mapping[str, Mapping[str, Calibration]] | None = None,
        about: Mapping[str, Any] | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
        free_bytes: Callable[[Path], int] = files.free_bytes,
    ) -> None:
        self.root = Path(root)
        self.fps = fps
        self.joints = tuple(joints)
        self.cameras = {name: (int(height), int(width)) for name, (height, width) in cameras.items()}
        self._robot_type = robot_type
        self._min_free, self._free_bytes = min_free_bytes, free_bytes
        self._check_arguments()
        self._features = tables.features(fps, self.joints, self.cameras)
        self._rows: list[dict[str, Any]] = []  # of meta/episodes, one a saved episode
        self._tasks: list[str] = []
        self._next_video = 0
        self._episode: Episode | None = None
        begun = (self.root / "meta/info.json").exists()
        if begun and not resume:
            raise DatasetError(f"{self.root}: is a data set already; resume it, or give another directory")
        if not begun and self.root.exists() and set(os.listdir(self.root)) - {STAGING, "meta"}:
            raise DatasetError(f"{self.root}: exists and is no data set; give a new directory")
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.root)
        try:
            self._staging = self.root / STAGING
            files.empty_directory(self._staging)
            self.check_disk()
            if begun:
                self._read(calibrations or {})
            else:
                self._begin(calibrations or {}, about or {})
        except BaseException:
            self._unlock()
            raise

    # --- what there is ---------------------------------------------------------------------

    @property
    def episodes(self) -> int:
        """Saved so far, in this data set."""
        return len(self._rows)

    @property
    def frames(self) -> int:
        """Of the saved episodes."""
        return int(self._rows[-1]["dataset_to_index"]) if self._rows else 0

    @property
    def frames_under_way(self) -> int:
        """Of the episode that is being recorded."""
        return len(self._episode.states) if self._episode else 0

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """What meta/episodes says of each saved episode."""
        return self._rows

    @property
    def behind(self) -> int:
        """Pictures that the slowest encoder has yet to encode."""
        return max((video.behind for video in self._episode.videos.values()), default=0) if self._episode else 0

    def check_disk(self) -> None:
        """Raises DiskShort when less than `min_free_bytes` is free."""
        free = self._free_bytes(self.root)
        if free < self._min_free:
            raise DiskShort(f"{self.root}: its disk has {free >> 20} MiB left, {self._min_free >> 20} MiB are wanted: "
                            f"make room; {self.episodes} episodes are safe")  # fmt: skip

    # --- one episode -----------------------------------------------------------------------

    def add_frame(
        self, state: ArrayLike, action: ArrayLike, pictures: Mapping[str, Picture], capture_ns: Sequence[int]
    ) -> None:
        """One moment of the episode under way; the first one begins it.

        state, action: in LeRobot's units, `[joints]`. pictures: uint8 RGB `[height, width, 3]` of every camera, not to
        be changed any more. capture_ns: CLOCK_MONOTONIC of the state and of each camera's picture, in the order of
        `cameras`; the state's grows, a picture's never falls. ValueError when something is not as described.
        """
        try:
            if self._episode is None:
                self.check_disk()
                self._episode = Episode(self._staging, self.fps, self.cameras)
            elif len(self._episode.states) % self.fps == 0:
                self.check_disk()
            self._episode.add(self._vector("state", state), self._vector("action", action), pictures, capture_ns)
        except BaseException as error:
            self.discard_episode()
            raise self._explained(error) from error

    def discard_episode(self) -> None:
        """Forgets the episode under way, if there is one."""
        if self._episode is not None:
            episode, self._episode = self._episode, None
            episode.abandon()
            files.empty_directory(self._staging)

    def save_episode(
        self,
        task: str,
        *,
        success: bool,
        recovery: bool = False,
        cluster: int | None = None,
        extra: Extra | None = None,
    ) -> int:
        """Makes the episode under way part of the data set; returns its index.

        task: what was done, in words. success: whether it was achieved. recovery: whether it shows how to come out of
        an error. cluster: of the start positions, None where there are none. extra: more columns of meta/episodes,
        simple values whose names begin neither with `stats/` nor with what LeRobot itself writes.
        """
        if self._episode is None:
            raise DatasetError("there is no episode to save: no frame was added")
        if not task.strip():
            raise ValueError("an episode needs its task in words")
        try:
            row = self._complete(task, self._episode)
            own = {"success": success, "recovery": recovery, "cluster": -1 if cluster is None else cluster}
            more = dict(extra or {})
            if clash := sorted(set(more) & ({*row, *own}) | {name for name in more if "/" in name}):
                raise ValueError(f"columns of meta/episodes that are taken: {clash}")
            self._commit(row | own | more)
        except BaseException as error:
            self.discard_episode()
            with contextlib.suppress(OSError):  # the disk may be full still; the next start does it
                self._remove_leftovers()
            raise self._explained(error) from error
        self._episode = None
        return self.episodes - 1

    def close(self) -> None:
        """Joins the episodes' videos to larger files, and unlocks the directory. An episode under way is dropped.

        Without `close` the data set is as good, but of many small files, all of which LeRobot keeps open.
        """
        if self._lock < 0:
            return
        try:
            self.discard_episode()
            if self._rows:
                self._join_videos()
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------

    def _check_arguments(self) -> None:
        if isinstance(self.fps, bool) or not isinstance(self.fps, int) or not 1 <= self.fps <= 240:
            raise DatasetError(f"fps = {self.fps!r}: a whole number of frames a second is wanted, 1 to 240")
        if not self.cameras:
            raise DatasetError("a data set without cameras is of no use to a policy: configure a [[camera]]")
        for name in (*self.joints, *self.cameras):
            if not _NAME.fullmatch(name):
                raise DatasetError(f"{name!r}: names of joints and cameras are letters, digits, _ and -")
        for name, (height, width) in self.cameras.items():
            if height % 2 or width % 2 or min(height, width) < 16:
                raise DatasetError(f"camera {name}: {width}x{height}: H.264 wants even numbers, 16 at least")

    def _vector(self, what: str, values: ArrayLike) -> NDArray[np.float32]:
        vector = np.asarray(values, np.float32)
        if vector.shape != (len(self.joints),) or not np.isfinite(vector).all():
            raise ValueError(f"{what} {vector}: {len(self.joints)} finite numbers are wanted, one a joint")
        return vector

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, OSError):
            kind = DiskShort if error.errno in (errno.ENOSPC, errno.EDQUOT) else DatasetError
            return kind(f"{self.root}: {error.strerror or error}; {self.episodes} episodes are safe")
        return error

    def _begin(self, calibrations: Mapping[str, Mapping[str, Calibration]], about: Mapping[str, Any]) -> None:
        (self.root / "meta").mkdir(exist_ok=True)
        for name, motors in calibrations.items():
            files.write_whole(self.root / f"meta/calibration/{name}.json", calibration_json(motors), self._staging)
        known = {"format": FORMAT, "vlad": vlad.__version__, "calibrations": sorted(calibrations)}
        files.write_json(self.root / ABOUT, {**about, **known}, self._staging)
        self._write_info()

    def _write_info(self) -> None:
        episodes = len(self._rows)
        files.write_json(self.root / "meta/info.json", {
            "codebase_version": "v3.0", "robot_type": self._robot_type, "total_episodes": episodes,
            "total_frames": self.frames, "total_tasks": len(self._tasks), "chunks_size": files.CHUNK_FILES,
            "data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": VIDEO_MB, "fps": self.fps,
            "splits": {"train": f"0:{episodes}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": self._features,
        }, self._staging)  # fmt: skip

    def _complete(self, task: str, episode: Episode) -> dict[str, Any]:
        """Finishes the files of an episode, in the staging directory; its row of meta/episodes."""
        found = episode.finish()
        index, first, count = self.episodes, self.frames, len(episode.states)
        tasks = self._tasks if task in self._tasks else [*self._tasks, task]
        columns: dict[str, NDArray[Any]] = {
            STATE: np.stack(episode.states), ACTION: np.stack(episode.actions),
            CAPTURE: np.array(episode.capture_ns, np.int64),
            "timestamp": (np.arange(count) / self.fps).astype(np.float32), "frame_index": np.arange(count),
            "episode_index": np.full(count, index), "index": np.arange(first, first + count),
            "task_index": np.full(count, tasks.index(task)),
        }  # fmt: skip
        pq.write_table(tables.frames(columns), self._staging / "data.parquet", compression="snappy")
        data = files.place(index)
        row: dict[str, Any] = {
            "episode_index": index, "tasks": [task], "length": count,
            "data/chunk_index": data[0], "data/file_index": data[1],
            "dataset_from_index": first, "dataset_to_index": first + count,
        }  # fmt: skip
        for name in self.cameras:
            key = f"videos/{PICTURES}{name}"
            video = files.place(self._next_video)
            row |= {f"{key}/chunk_index": video[0], f"{key}/file_index": video[1],
                    f"{key}/from_timestamp": 0.0, f"{key}/to_timestamp": count / self.fps}  # fmt: skip
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for feature, values in columns.items():
            found[feature] = stats.of_values(values.reshape(count, -1))
        for feature, numbers in found.items():
            row |= {f"stats/{feature}/{name}": value.tolist() for name, value in numbers.items()}
        return row

    def _commit(self, row: dict[str, Any]) -> None:
        """In this order, so that the data set can be loaded after each step; `_read` undoes it up to the last."""
        for name in self.cameras:
            video = files.video_file(self.root, PICTURES + name, self._next_video)
            files.put_in_place(self._staging / f"{name}.mp4", video)
        rows = [*self._rows, row]
        task = row["tasks"][0]
        tasks = self._tasks if task in self._tasks else [*self._tasks, task]
        if tasks is not self._tasks:
            self._write_tasks(tasks)
        self._write_rows(rows)
        files.put_in_place(self._staging / "data.parquet", files.data_file(self.root, row["episode_index"]))
        self._write_stats(rows)
        before = self._rows, self._tasks
        self._rows, self._tasks = rows, tasks
        try:
            self._write_info()
        except BaseException:
            self._rows, self._tasks = before
            raise
        self._next_video += 1

    def _write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        made = self._staging / "episodes.parquet"
        pq.write_table(tables.episodes(rows), made, compression="snappy")
        files.put_in_place(made, files.episodes_file(self.root))

    def _write_tasks(self, tasks: Sequence[str]) -> None:
        made = self._staging / "tasks.parquet"
        pq.write_table(tables.tasks(tasks), made)
        files.put_in_place(made, self.root / "meta/tasks.parquet")

    def _write_stats(self, rows: Sequence[Mapping[str, Any]]) -> None:
        files.write_json(self.root / "meta/stats.json", tables.stats_of(rows), self._staging)

    # --- going on with what there is ---------------------------------------------------------

    def _read(self, calibrations: Mapping[str, Mapping[str, Calibration]]) -> None:
        """Takes up a data set; what lies beyond its last episode was under way when a writer was killed."""
        about = self._read_json(self.root / ABOUT, "it was not begun by `vlad record`")
        if about.get("format") != FORMAT:
            raise DatasetError(f"{self.root / ABOUT}: format {about.get('format')!r}, this vlad writes {FORMAT}")
        info_file = self.root / "meta/info.json"
        info = self._read_json(info_file, "")
        wanted = {"codebase_version": "v3.0", "robot_type": self._robot_type, "fps": self.fps}
        for key, value in (wanted | {"features": self._features}).items():
            if info.get(key) != value:
                raise DatasetError(f"{info_file}: {key}: {_difference(info.get(key), value)}; "
                                   "what is recorded now does not fit: record into another directory")  # fmt: skip
        for name, motors in calibrations.items():
            self._check_calibration(name, motors)
        episodes = info.get("total_episodes")
        if isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < 0:
            raise DatasetError(f"{info_file}: total_episodes = {episodes!r}")
        if episodes:
            self._read_rows(episodes)
        self._remove_leftovers()

    def _read_json(self, file: Path, missing: str) -> dict[str, Any]:
        try:
            with file.open("rb") as opened:
                text = opened.read(MAX_JSON_BYTES + 1)
            value = json.loads(text) if len(text) <= MAX_JSON_BYTES else None
        except OSError as error:
            raise DatasetError(": ".join(filter(None, (str(file), error.strerror, missing)))) from error
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{file}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DatasetError(f"{file}: not a JSON object")
        return value

    def _check_calibration(self, name: str, motors: Mapping[str, Calibration]) -> None:
        file = self.root / f"meta/calibration/{name}.json"
        wanted = calibration_json(motors)
        if not file.exists():
            files.write_whole(file, wanted, self._staging)
        elif file.read_bytes() != wanted:
            raise DatasetError(f"{file}: the {name}'s calibration was another when this data set was begun, so "
                               "positions meant something else; record into another directory")  # fmt: skip

    def _read_rows(self, episodes: int) -> None:
        file = files.episodes_file(self.root)
        tasks_file = self.root / "meta/tasks.parquet"
        try:
            rows = pq.read_table(file).to_pylist()[:episodes]
            tasks = pq.read_table(tasks_file).to_pydict()
            ordered = sorted(zip(tasks["task_index"], tasks["task"], strict=True))
            self._tasks = [text for _, text in ordered]
            videos = [_video_number(row, name) for row in rows for name in self.cameras]
            sound = [row["episode_index"] for row in rows] == list(range(episodes))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise DatasetError(f"{file}, {tasks_file}: not as `vlad record` wrote them: {error!r}") from None
        missing = [i for i in range(episodes) if not files.data_file(self.root, i).exists()]
        if not sound or missing:
            raise DatasetError(f"{self.root}: meta/info.json counts {episodes} episodes, but "
                               f"{f'the frames of {missing} are missing' if missing else 'meta/episodes differs'}: "
                               "another program has changed it; record into another directory")  # fmt: skip
        self._rows = rows
        self._next_video = max(videos) + 1

    def _remove_leftovers(self) -> None:
        """Of an episode, or of a joining, that was not completed."""
        kept = {files.data_file(self.root, i) for i in range(self.episodes)}
        kept |= {self._path(row, name) for row in self._rows for name in self.cameras}
        for pattern in ("data/*/*.parquet", "videos/*/*/*.mp4"):
            for file in self.root.glob(pattern):
                if file not in kept:
                    file.unlink()
        if self._rows:
            self._write_rows(self._rows)
            self._write_stats(self._rows)

    # --- videos together ----------------------------------------------------------------------

    def _join_videos(self) -> None:
        """Fewer and larger files, of VIDEO_MB at most, as LeRobot makes them. Of each camera alone."""
        rows = [dict(row) for row in self._rows]
        replaced: list[Path] = []
        for name in self.cameras:
            for group in self._groups(name):
                if self._free_bytes(self.root) < self._min_free + sum(path.stat().st_size for path in group):
                    break  # it can wait until there is room
                self._join(rows, name, group)
                replaced += group
        if not replaced:
            return
        self._write_rows(rows)
        self._rows = rows
        for path in replaced:
            path.unlink()

    def _path(self, row: Mapping[str, Any], name: str) -> Path:
        return files.video_file(self.root, PICTURES + name, _video_number(row, name))

    def _groups(self, name: str) -> list[list[Path]]:
        """Files that become one: in the order of their episodes, encoded alike, two at least."""
        groups: list[list[Path]] = []
        size, before = 0, b""
        for path in dict.fromkeys(self._path(row, name) for row in self._rows):
            bytes_, kind = path.stat().st_size, header(path)
            if not groups or size + bytes_ > VIDEO_MB << 20 or kind != before:
                groups.append([])
                size = 0
            groups[-1].append(path)
            size, before = size + bytes_, kind
        return [group for group in groups if len(group) > 1]

    def _join(self, rows: Sequence[dict[str, Any]], name: str, group: Sequence[Path]) -> None:
        made = self._staging / f"{name}-joined.mp4"
        counts = join(group, made, self.fps)
        starts = dict(zip(group, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))
        number = self._next_video
        files.put_in_place(made, files.video_file(self.root, PICTURES + name, number))
        key = f"videos/{PICTURES}{name}"
        for row in rows:
            start = starts.get(self._path(row, name))
            if start is not None:
                first = start + round(row[f"{key}/from_timestamp"] * self.fps)
                row |= {f"{key}/chunk_index": files.place(number)[0], f"{key}/file_index": files.place(number)[1],
                        f"{key}/from_timestamp": first / self.fps,
                        f"{key}/to_timestamp": (first + row["length"]) / self.fps}  # fmt: skip
        self._next_video += 1

    def _unlock(self) -> None:
        os.close(self._lock)
        self._lock = -1


def _video_number(row: Mapping[str, Any], name: str) -> int:
    key = f"videos/{PICTURES}{name}"
    return files.number(row[f"{key}/chunk_index"], row[f"{key}/file_index"])


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(k for k in {**wanted, **found} if found.get(k) != wanted.get(k))
        return f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} here"
    return f"{found!r} there, {wanted!r} here"


def _locked(root: Path) -> int:
    """A descriptor of the directory, locked. Raises DatasetError when another process has the lock."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DatasetError(f"{root}: another recording is under way there") from error
    return descriptor
