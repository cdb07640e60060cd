"""Moments to learn from, on the disk: what the arm saw and measured, and what the expert did from there on.

A shard is a directory with moments.npy (MOMENT), pictures.npy (uint8 [n, cameras, 3, 72, 96]) and, once the vision
encoder is trained, tokens-DIGEST.npy (float16 [n, 27, 128]). It appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.build.bundle_directory import replacing
from vlad.errors import DatasetError

CHUNK = 50
PICTURES = (3, 3, 72, 96)
"""Of the cameras: what LeRobot's resize_with_pad leaves of 160x120 in 96x96; it pads 24 rows above."""
TOKENS = (27, 128)
MOMENT = np.dtype(
    [("episode", "i8"), ("task", "i8"), ("cluster", "i8"), ("state", "f4", 6), ("chunk", "f4", (CHUNK, 6)),
     ("scene", "f4", 12)]
)  # fmt: skip
"""state, chunk: degrees, the gripper 0..100. scene: tools.teabag.table.Table.scene()."""
HELD_OUT_EVERY = 20
_MAX_BYTES = 256 << 20

Floats = NDArray[np.float32]
Index = NDArray[np.int64]


def write(directory: Path, episodes: Sequence[tuple[NDArray[Any], NDArray[np.uint8]]]) -> None:
    """One shard of episodes, of each MOMENT (n,) and uint8 (n, *PICTURES); there may be none."""
    moments = np.concatenate([np.zeros(0, MOMENT), *(rows for rows, _ in episodes)])
    pictures = np.concatenate([np.zeros((0, *PICTURES), np.uint8), *(pictures for _, pictures in episodes)])
    with replacing(directory, rooms=()) as partial:
        np.save(partial / "moments.npy", moments, allow_pickle=False)
        np.save(partial / "pictures.npy", pictures, allow_pickle=False)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Means and standard deviations (6,) of state and action, degrees."""

    state_mean: Floats
    state_std: Floats
    action_mean: Floats
    action_std: Floats


class Moments:
    """All moments of some shards, numbered through in their order. rows: MOMENT (n,).

    Raises DatasetError for files that are not what they should be.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        read = [(shard, _rows(shard)) for shard in shards]
        self.shards = [shard for shard, rows in read if len(rows)]
        if not self.shards:
            raise DatasetError(f"{shards[0].parent if shards else 'no shards'}: there is no moment to learn from")
        self.rows = np.concatenate([rows for _, rows in read])
        counts = [len(rows) for _, rows in read if len(rows)]
        self._begins = np.cumsum([0, *counts[:-1]])
        self._counts = counts

    def __len__(self) -> int:
        return len(self.rows)

    def training(self) -> Index:
        """Moments of all episodes but every HELD_OUT_EVERY-th."""
        return np.flatnonzero(~self._held_out())

    def validation(self) -> Index:
        """Moments of the others; of all, where there are too few episodes for that."""
        return np.flatnonzero(self._held_out()) if self._held_out().any() else np.arange(len(self))

    def _held_out(self) -> NDArray[np.bool_]:
        _, number = np.unique(self.rows["episode"], return_inverse=True)
        held: NDArray[np.bool_] = number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        return held

    def statistics(self) -> Statistics:
        """Of all moments, the held-out ones included, as LeRobot has them."""
        states, actions = self.rows["state"].astype(np.float64), self.rows["chunk"][:, 0].astype(np.float64)
        found = (states.mean(0), states.std(0), actions.mean(0), actions.std(0))
        return Statistics(*(x.astype(np.float32) for x in found))

    def mapped(self, name: str, dtype: type, shape: tuple[int, ...]) -> Mapped:
        """NAME.npy of each shard, [n, *shape]."""
        files = [
            _mapped(shard / f"{name}.npy", dtype, (n, *shape))
            for shard, n in zip(self.shards, self._counts, strict=True)
        ]
        return Mapped(files, self._begins)


class Mapped:
    """Arrays of the shards, mapped into memory and read where they are asked for."""

    def __init__(self, files: Sequence[NDArray[Any]], begins: Index) -> None:
        self._files, self._begins = files, begins

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """A copy of the given moments, (len(index), ...)."""
        found = np.empty((len(index), *self._files[0].shape[1:]), self._files[0].dtype)
        which = np.searchsorted(self._begins, index, "right") - 1
        for place, (at, shard) in enumerate(zip(index, which, strict=True)):
            found[place] = self._files[shard][at - self._begins[shard]]
        return found


def _rows(shard: Path) -> NDArray[Any]:
    file = shard / "moments.npy"
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DatasetError(f"{file}: over {_MAX_BYTES} bytes")
        rows: NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: not readable: {error}; remove the shard to make it again") from None
    if rows.dtype != MOMENT or rows.ndim != 1:
        raise DatasetError(f"{file}: holds {rows.dtype} of shape {rows.shape}, not moments")
    return rows


def _mapped(file: Path, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: not readable: {error}; remove the shard to make it again") from None
    if found.dtype != dtype or found.shape != shape:
        raise DatasetError(f"{file}: holds {found.dtype} {found.shape}, not {np.dtype(dtype)} {shape}")
    return found
