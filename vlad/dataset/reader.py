"""What a LeRobot dataset v3.0 holds: its episodes, its table of frames, its pictures.

What vlad records besides LeRobot's columns is read where it is there: `capture_ns`, and `success`, `recovery` and
`cluster` of each episode.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.build.dataset import Dataset, read_dataset
from vlad.build.safetensors import read_json
from vlad.errors import BundleError
from vlad.observation import Pixels

MAX_FRAMES = 10_000_000
MAX_EPISODES = 1_000_000
TOLERANCE_S = 1e-4  # of LeRobot: how far a timestamp may be from frame_index / fps

_EPISODE = ("episode_index", "length", "success", "recovery", "cluster")


@dataclasses.dataclass(frozen=True, slots=True)
class Episode:
    """One row of meta/episodes. rows: of the table of frames. success, recovery, cluster: None where not recorded
    (a cluster of -1 is not known either). places: the row's `videos/...` columns.
    """

    index: int
    rows: slice
    success: bool | None
    recovery: bool | None
    cluster: int | None
    places: Mapping[str, Any]

    @property
    def length(self) -> int:
        """Frames."""
        return int(self.rows.stop - self.rows.start)


@dataclasses.dataclass(frozen=True, slots=True)
class Recording:
    """A dataset without its pictures.

    columns: of all frames in the order of their episodes: `observation.state` and `action` float32
    `[frames, joints]`, `timestamp` s, `frame_index`, and, where vlad recorded it, `capture_ns` int64
    `[frames, 1 + cameras]`, CLOCK_MONOTONIC. clocks: whose the columns of `capture_ns` are: "state", then cameras by
    their features. splits: episodes by name, of meta/info.json. info: the whole of that file.
    """

    dataset: Dataset
    episodes: tuple[Episode, ...]
    columns: Mapping[str, NDArray[Any]]
    clocks: tuple[str, ...]
    splits: Mapping[str, tuple[int, ...]]
    info: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The dataset's directory."""
        return self.dataset.path

    @property
    def frames(self) -> int:
        """Of all episodes together."""
        return len(self.columns["frame_index"])

    def of(self, column: str, episode: Episode) -> NDArray[Any]:
        """The rows of one episode."""
        return self.columns[column][episode.rows]


def read_recording(path: Path) -> Recording:
    """Everything but the pictures. Raises BundleError naming the file for what is not LeRobot's, cannot be read, or
    does not agree with the rest."""
    dataset = read_dataset(path)
    info = read_json(path / "meta" / "info.json")
    entries = episode_table(path)
    has_clocks = isinstance(info["features"].get("capture_ns"), dict)
    columns = _columns(dataset, has_clocks)
    starts = np.flatnonzero(np.diff(columns["episode_index"], prepend=-1))
    bounds = [*starts.tolist(), len(columns["episode_index"])]
    found = {int(columns["episode_index"][a]): slice(a, b) for a, b in itertools.pairwise(bounds)}
    if len(found) != len(starts):
        raise BundleError(f"{path}: the frames of an episode do not follow one another in data/")
    if sorted(found) != sorted(entries):
        odd = sorted(set(found) ^ set(entries))[0]
        where = "data/ has no frames of" if odd in entries else "meta/episodes has no row for"
        raise BundleError(f"{path}: {where} episode {odd}; is a file missing, or was recording interrupted?")
    episodes = tuple(_episode(path, entries[index], rows) for index, rows in sorted(found.items()))
    for what, here, have in (("total_episodes", info.get("total_episodes"), len(episodes)),
                             ("total_frames", info.get("total_frames"), bounds[-1])):  # fmt: skip
        if here is not None and here != have:
            raise BundleError(f"{path}: meta/info.json says {what} = {here}, its tables hold {have}")
    clocks = _clocks(path, dataset.cameras, info, columns)
    return Recording(dataset, episodes, columns, clocks, _splits(path, info, found), info)


def _episode(path: Path, entry: Mapping[str, Any], rows: slice) -> Episode:
    index, length, cluster = entry["episode_index"], entry.get("length"), entry.get("cluster")
    if length is not None and length != rows.stop - rows.start:
        raise BundleError(f"{path}: meta/episodes says episode {index} has {length} frames, data/ has "
                          f"{rows.stop - rows.start}")  # fmt: skip
    return Episode(
        index=index, rows=rows, success=entry.get("success"), recovery=entry.get("recovery"),
        cluster=None if cluster is None or cluster < 0 else int(cluster),
        places={k: v for k, v in entry.items() if k.startswith("videos/")},
    )  # fmt: skip


def episode_table(root: Path) -> dict[int, dict[str, Any]]:
    """The rows of meta/episodes by episode: the columns that `Episode` has and where its videos are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    entries: dict[int, dict[str, Any]] = {}
    for file in sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        try:
            parquet = pq.ParquetFile(file)
            if len(entries) + parquet.metadata.num_rows > MAX_EPISODES:
                raise BundleError(f"{root}: more than {MAX_EPISODES} episodes")
            names = [n for n in parquet.schema_arrow.names if n in _EPISODE or n.startswith("videos/")]
            for entry in parquet.read(columns=names).to_pylist():
                entries[entry["episode_index"]] = entry
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise BundleError(f"{file}: not a table of LeRobot episodes: {error!r}") from None
    return entries


def frame_tables(dataset: Dataset, names: Sequence[str]) -> Iterator[tuple[Path, Any]]:
    """Each file of data/ and its table (pyarrow) of these columns. Raises BundleError naming the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted((dataset.path / "data").glob("chunk-*/file-*.parquet"))
    if not files:
        raise BundleError(f"{dataset.path}: no data/chunk-*/file-*.parquet: only its metadata is here")
    seen = 0
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
            seen += parquet.metadata.num_rows
            if seen > MAX_FRAMES:
                raise BundleError(f"{dataset.path}: more than {MAX_FRAMES} frames")
            if missing := sorted(set(names) - set(parquet.schema_arrow.names)):
                raise BundleError(f"{file}: not a table of LeRobot frames: no column {missing[0]}")
            table = parquet.read(columns=list(names))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise BundleError(f"{file}: not a table of LeRobot frames: {error!r}") from None
        yield file, table
    if not seen:
        raise BundleError(f"{dataset.path}: has no frames")


def _columns(dataset: Dataset, has_clocks: bool) -> dict[str, NDArray[Any]]:
    vectors = {"observation.state": np.float32, "action": np.float32}
    scalars = {"timestamp": np.float64, "frame_index": np.int64, "episode_index": np.int64}
    kinds: dict[str, Any] = {**vectors, **scalars, **({"capture_ns": np.int64} if has_clocks else {})}
    parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for file, table in frame_tables(dataset, tuple(kinds)):
        for name, kind in kinds.items():
            try:
                part = _array(table.column(name), kind)
            except (TypeError, ValueError) as error:
                raise BundleError(f"{file}: column {name}: {error}") from None
            if name in vectors and (part.ndim != 2 or part.shape[1] != len(dataset.joints)):
                raise BundleError(f"{file}: {name} has {part.shape[1:]} numbers for {len(dataset.joints)} joints")
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                row = int(np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(axis=1))[0])
                raise BundleError(f"{file}: {name} of row {row} is not finite; delete that episode")
            parts[name].append(part)
    return {name: np.concatenate(each) for name, each in parts.items()}


def _array(column: Any, kind: Any) -> NDArray[Any]:
    """A column of numbers `[rows]` or of lists of equal length `[rows, n]`."""
    if column.null_count:
        raise ValueError("has empty cells")
    values = column.combine_chunks()
    if not hasattr(values, "flatten") or not hasattr(values.type, "value_type"):
        return np.asarray(values.to_numpy(zero_copy_only=False), kind)
    flat = np.asarray(values.flatten().to_numpy(zero_copy_only=False), kind)
    if len(values) == 0 or len(flat) % len(values):
        raise ValueError("its lists are of unequal length")
    return flat.reshape(len(values), -1)


def _clocks(
    path: Path, cameras: Sequence[str], info: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]
) -> tuple[str, ...]:
    if "capture_ns" not in columns:
        return ()
    names = info["features"]["capture_ns"].get("names")
    if not isinstance(names, list) or columns["capture_ns"].ndim != 2 or len(names) != columns["capture_ns"].shape[1]:
        raise BundleError(f"{path}: meta/info.json does not name the columns of capture_ns: {names!r}")
    if not names or names[0] != "state":
        raise BundleError(f"{path}: capture_ns is of {names}; the first must be state")
    features = {camera.rpartition(".")[2]: camera for camera in cameras}
    return ("state", *(features.get(str(name).rpartition(".")[2], str(name)) for name in names[1:]))


def _splits(path: Path, info: Mapping[str, Any], known: Mapping[int, slice]) -> dict[str, tuple[int, ...]]:
    """Episodes by split, from LeRobot's `"name": "first:end"`."""
    found = {}
    for name, word in (info.get("splits") or {}).items():
        try:
            first, end = (int(w) for w in str(word).split(":"))
        except ValueError:
            raise BundleError(f"{path}: meta/info.json: split {name} is {word!r}; \"first:end\" is expected") from None
        found[str(name)] = tuple(e for e in sorted(known) if first <= e < end)
    return found


def video_moment(
    dataset: Dataset, pattern: str, camera: str, episode: int, places: Mapping[str, Any]
) -> tuple[Path, float]:
    """The file with an episode's video and the time in it, s, at which the episode begins. pattern: `video_path` of
    meta/info.json. camera: feature. places: the episode's row of meta/episodes. BundleError."""
    try:
        chunk, file, start = (places[f"videos/{camera}/{k}"] for k in ("chunk_index", "file_index", "from_timestamp"))
        relative = pattern.format(video_key=camera, chunk_index=chunk, file_index=file)
        return dataset.path / relative, float(start)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise BundleError(f"{dataset.path}: meta/episodes does not say where the video {camera} of "
                          f"episode {episode} is: {error!r}") from None  # fmt: skip


def video_pattern(dataset: Dataset, info: Mapping[str, Any]) -> str:
    """`video_path` of meta/info.json. BundleError."""
    pattern = info.get("video_path")
    if not isinstance(pattern, str):
        raise BundleError(f"{dataset.path}: meta/info.json has no video_path: pictures outside of videos are not "
                          "supported")  # fmt: skip
    return pattern


def decode(path: Path, moments: Mapping[tuple[int, int], float], rate_hz: float) -> dict[tuple[int, int], Pixels]:
    """The frames of a video at these times in seconds, within half a frame, uint8 RGB `[height, width, 3]`.

    Raises BundleError when the file cannot be decoded or has no frame there.
    """
    found = dict(pictures(path, moments, rate_hz))
    for (episode, frame_index), at_s in moments.items():
        if (episode, frame_index) not in found:
            raise BundleError(f"{path}: no frame at {at_s:.3f} s, where frame {frame_index} of episode {episode} is")
    return found


def pictures(
    path: Path, moments: Mapping[tuple[int, int], float], rate_hz: float
) -> Iterator[tuple[tuple[int, int], Pixels]]:
    """As `decode`, one after the other in the order of time; what is not there is left out."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            for which, at_s in sorted(moments.items(), key=lambda item: item[1]):
                container.seek(max(0, int((at_s - 0.5 / rate_hz) / stream.time_base)), stream=stream)
                for frame in container.decode(stream):
                    if frame.time is None or frame.time < at_s - 0.5 / rate_hz:
                        continue
                    if frame.time <= at_s + 0.5 / rate_hz:
                        yield which, np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                    break
    except (av.FFmpegError, OSError, IndexError) as error:
        raise BundleError(f"{path}: the video cannot be decoded: {error}") from None


def frame_times(path: Path) -> NDArray[np.float64]:
    """When each frame of a video is shown, s, in order; nothing is decoded. Raises BundleError."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            base = float(stream.time_base)
            return np.sort([packet.pts * base for packet in container.demux(stream) if packet.pts is not None])
    except (av.FFmpegError, OSError, IndexError) as error:
        raise BundleError(f"{path}: the video cannot be read: {error}") from None
