"""The pictures of a dataset as a policy takes them: decoded and resized once, then mapped into memory.

Decoding three videos for each sample is what most of the time goes into on a small machine. An entry belongs to the
contents of one dataset and one size; it appears whole or not at all, and its contents are checked when it is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.smolvla.modeling_smolvla import resize_with_pad
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from vlad.build.bundle_directory import replacing
from vlad.build.safetensors import sha256
from vlad.dataset.reader import Recording, video_moment, video_pattern
from vlad.errors import BundleError, DatasetError

Pictures = NDArray[Any]
Make = Callable[[Path], Mapping[str, Any]]
_ENTRY = "entry.json"


class PictureSize:
    """How a policy's pictures are made from the dataset's.

    padded: (height, width) of SmolVLA, by LeRobot's own resize_with_pad; what it pads, and would pad again in the
    policy, is left out. exact: (height, width) of an ACT whose cameras deliver less than the dataset's. Neither: as
    they are.
    """

    def __init__(self, padded: tuple[int, int] | None = None, exact: tuple[int, int] | None = None) -> None:
        self._padded, self._exact = padded, exact

    @property
    def name(self) -> str:
        for kind, size in (("padded", self._padded), ("exact", self._exact)):
            if size:
                return f"{kind}{size[0]}x{size[1]}"
        return "native"

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 RGB [height, width, 3] to uint8 [3, height, width]."""
        planes = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        if self._padded:
            made = resize_with_pad(planes[None].float(), self._padded[1], self._padded[0], pad_value=0)[0]
            ratio = max(picture.shape[1] / self._padded[1], picture.shape[0] / self._padded[0])
            height, width = int(picture.shape[0] / ratio), int(picture.shape[1] / ratio)
            if (height, width) != tuple(made.shape[1:]) and (height == made.shape[1] or width == made.shape[2]):
                made = made[:, made.shape[1] - height :, made.shape[2] - width :]
        elif self._exact and tuple(planes.shape[1:]) != self._exact:
            made = interpolate(planes[None].float(), self._exact, mode="bilinear", antialias=True)[0]
        else:
            made = planes
        return np.asarray(made.round().to(torch.uint8).numpy())


def frames(
    recording: Recording, cameras: Sequence[str], size: PictureSize, dataset_sha256: str, cache: Path
) -> dict[str, Pictures]:
    """Of each camera the pictures of all rows of the table of frames, uint8 [rows, 3, height, width], read only.

    Raises BundleError naming the video that cannot be decoded, DatasetError for an entry that is damaged.
    """
    name = f"frames-{dataset_sha256[:16]}-{size.name}"

    def make(directory: Path) -> dict[str, str]:
        for camera in cameras:
            made: np.memmap[Any, Any] | None = None
            for row, picture in _decoded(recording, camera):
                planes = size(picture)
                if made is None:
                    made = np.lib.format.open_memmap(
                        directory / _file(camera), "w+", np.uint8, (recording.frames, *planes.shape)
                    )
                made[row] = planes
            assert made is not None
            made.flush()
            print(f"{camera}: {recording.frames} pictures of {made.shape[3]}x{made.shape[2]} cached", flush=True)
        return {camera: _file(camera) for camera in cameras}

    return entry(cache, name, make, cameras)


def entry(cache: Path, name: str, make: Make, wanted: Sequence[str]) -> dict[str, Pictures]:
    """The arrays of an entry, made when it is not there. make: writes them into a directory and says which file holds
    which; `wanted` are those that there must be."""
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / name
    with _locked(cache):
        if not (target / _ENTRY).exists():
            for left in cache.glob(f".{name}.partial-*"):  # of a process that was killed
                shutil.rmtree(left)
            print(f"making {target}", flush=True)
            with replacing(target, rooms=()) as partial:
                files = make(partial)
                (partial / _ENTRY).write_text(json.dumps(
                    {what: {"file": file, "sha256": sha256(partial / file)} for what, file in files.items()}
                ))  # fmt: skip
    kept = json.loads((target / _ENTRY).read_text())
    if missing := sorted(set(wanted) - set(kept)):
        raise DatasetError(f"{target}: has no {missing[0]}; delete it, and it is made again")
    for what in wanted:
        file = target / kept[what]["file"]
        if sha256(file) != kept[what]["sha256"]:
            raise DatasetError(f"{file}: is damaged (its hash is another); delete {target}, and it is made again")
    return {what: np.load(target / kept[what]["file"], mmap_mode="r") for what in wanted}


def _file(camera: str) -> str:
    return f"{camera}.npy"


def _decoded(recording: Recording, camera: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(row, picture RGB) of every row, file by file, each decoded once from its beginning to its end."""
    pattern = video_pattern(recording.dataset, recording.info)
    files: dict[Path, list[tuple[float, int]]] = defaultdict(list)
    for episode in recording.episodes:
        file, start_s = video_moment(recording.dataset, pattern, camera, episode.index, episode.places)
        times_s = start_s + recording.of("timestamp", episode)
        files[file] += zip(times_s.tolist(), range(episode.rows.start, episode.rows.stop), strict=True)
    for file, moments in files.items():
        yield from _film(file, sorted(moments), recording.dataset.rate_hz)


def _film(file: Path, moments: Sequence[tuple[float, int]], rate_hz: float) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    import av

    at, half_s = 0, 0.5 / rate_hz
    try:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                if frame.time is None or at == len(moments) or frame.time < moments[at][0] - half_s:
                    continue
                if frame.time > moments[at][0] + half_s:
                    break
                yield moments[at][1], np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                at += 1
    except (av.FFmpegError, OSError, IndexError) as error:
        raise BundleError(f"{file}: the video cannot be decoded: {error}") from None
    if at < len(moments):
        raise BundleError(f"{file}: no frame at {moments[at][0]:.3f} s, where row {moments[at][1]} of the table is")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time makes entries; another waits for it."""
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
