"""Which episodes are trained on: whole clusters of start positions are held out, not frames or episodes by chance.

Neighbouring frames are nearly equal, and so are two episodes from the same place: a loss on either would fall whatever
the policy learns. Cluster numbers are the column `cluster` of meta/episodes, which vlad record writes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlad.dataset.reader import Episode, Recording
from vlad.errors import ConfigError

Rows = NDArray[np.int64]


def by_cluster(recording: Recording, held_out: Sequence[int]) -> tuple[tuple[Episode, ...], tuple[Episode, ...]]:
    """(training, validation). Episodes that failed are in neither.

    Raises ConfigError: an episode without a cluster, a cluster that the dataset lacks, nothing left on either side.
    """
    usable = [e for e in recording.episodes if e.success is not False]
    if held_out:
        if unknown := [e.index for e in usable if e.cluster is None]:
            raise ConfigError(
                f"{recording.path}: meta/episodes gives no cluster for episode {unknown[0]} and {len(unknown) - 1} "
                "more, so none can be held out; record with clusters, or give --val-clusters none")  # fmt: skip
        if missing := sorted(set(held_out) - {e.cluster for e in usable}):
            there = sorted({e.cluster for e in usable if e.cluster is not None})
            raise ConfigError(f"--val-clusters {missing[0]}: {recording.path} has clusters {there}")
    training = tuple(e for e in usable if e.cluster not in held_out)
    if not training:
        raise ConfigError(f"{recording.path}: no episodes are left to train on")
    return training, tuple(e for e in usable if e.cluster in held_out)


def rows_of(episodes: Sequence[Episode]) -> Rows:
    """Their rows in the table of frames."""
    spans = [np.arange(e.rows.start, e.rows.stop, dtype=np.int64) for e in episodes]
    return np.concatenate(spans) if spans else np.empty(0, np.int64)


class Order:
    """Which rows a training step takes: another permutation of all of them each epoch.

    It depends on the seed and the step alone, so a resumed run goes on where it would have been.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int) -> None:
        self._rows, self._batch, self._seed = rows, batch_size, seed
        self._epoch, self._shuffled = -1, rows

    def step(self, step: int) -> Rows:
        """[batch_size]; steps count from 0."""
        at = np.arange(step * self._batch, (step + 1) * self._batch)
        return np.array([self._at(*divmod(int(i), len(self._rows))) for i in at])

    def _at(self, epoch: int, place: int) -> int:
        if epoch != self._epoch:
            self._shuffled = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
            self._epoch = epoch
        return int(self._shuffled[place])
