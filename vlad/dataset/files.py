"""Files of a data set: each appears whole or not at all, also when the power goes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from vlad.whole_file import sync_directory

CHUNK_FILES = 1000  # LeRobot's chunks_size: so many files in a directory


def place(running: int) -> tuple[int, int]:
    """chunk_index and file_index of a file's running number."""
    return divmod(running, CHUNK_FILES)


def number(chunk_index: int, file_index: int) -> int:
    """The other way round."""
    return CHUNK_FILES * chunk_index + file_index


def data_file(root: Path, running: int) -> Path:
    """Frames."""
    chunk, file = place(running)
    return root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"


def video_file(root: Path, key: str, running: int) -> Path:
    """Pictures of the camera `observation.images.NAME`."""
    chunk, file = place(running)
    return root / f"videos/{key}/chunk-{chunk:03d}/file-{file:03d}.mp4"


def episodes_file(root: Path) -> Path:
    """One row an episode, all in one file, which is replaced as a whole."""
    return root / "meta/episodes/chunk-000/file-000.parquet"


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write to the disk that `path` is on."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def put_in_place(made: Path, final: Path) -> None:
    """Renames a finished file of the same disk to its final name, and has both on the disk."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, final)
    sync_directory(final.parent)


def write_whole(final: Path, data: bytes, staging: Path) -> None:
    """The same for bytes; `staging` is a directory on the same disk."""
    made = staging / final.name
    made.write_bytes(data)
    put_in_place(made, final)


def write_json(final: Path, value: Any, staging: Path) -> None:
    write_whole(final, json.dumps(value, indent=4, ensure_ascii=False).encode() + b"\n", staging)


def empty_directory(path: Path) -> None:
    """Makes it, or makes it empty."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
