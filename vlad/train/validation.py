"""The loss on frames that were never trained on, and for comparison on as many that were: same frames, noise and flow
times at every step of every run, so that curves can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vlad.train.objective import Objective
from vlad.train.policies import Made
from vlad.train.samples import Samples
from vlad.train.split import Rows

_SEED = 7
_GOLDEN = 0.6180339887498949


class Validation:
    """splits: rows by name; of each, `frames` are taken, spread evenly. Splits without rows are left out."""

    def __init__(self, samples: Samples, splits: Mapping[str, Rows], frames: int, batch_size: int) -> None:
        self._samples, self._batch = samples, batch_size
        self._rows = {
            name: rows[np.linspace(0, len(rows) - 1, min(frames, len(rows))).astype(np.int64)]
            for name, rows in splits.items()
            if len(rows) and frames
        }

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def losses(self, made: Made, objective: Objective) -> dict[str, float]:
        """Mean loss of each split, with the weights that are saved. The random state is left as it was."""
        random = torch.get_rng_state()
        made.policy.eval()
        try:
            with objective.averaged():
                return {name: self._loss(made, rows) for name, rows in self._rows.items()}
        finally:
            torch.set_rng_state(random)

    def _loss(self, made: Made, rows: Rows) -> float:
        generator = torch.Generator().manual_seed(_SEED)
        total = 0.0
        for start in range(0, len(rows), self._batch):
            some = rows[start : start + self._batch]
            # Low-discrepancy: the times of any few frames are spread over 0..1.
            place = (torch.arange(start, start + len(some)) + 0.5) * _GOLDEN % 1
            total += _of_batch(made, made.before(self._samples.batch(some)), generator, place) * len(some)
        return total / len(rows)


def _of_batch(made: Made, batch: dict[str, Any], generator: torch.Generator, place: torch.Tensor) -> float:
    config = made.policy.config
    if config.type == "act":
        # LeRobot's L1, of the chunk that the policy would answer: without the VAE, which training alone has.
        error = (made.policy.predict_action_chunk(batch) - batch["action"]).abs()
        return float((error * ~batch["action_is_pad"].unsqueeze(-1)).mean())
    shape = (len(place), config.chunk_size, config.max_action_dim)
    noise = torch.randn(shape, generator=generator)
    times = place ** (1 / 1.5) * 0.999 + 0.001  # quantiles of LeRobot's Beta(1.5, 1)
    device = batch["action"].device
    loss, _ = made.policy.forward(batch, noise=noise.to(device), time=times.to(device))
    return float(loss)
