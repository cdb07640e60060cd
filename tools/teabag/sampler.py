"""A policy's answer in degrees, by the ten flow steps that LeRobot's sampler makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tools.teabag import policy as policies
from tools.teabag.forward import Forward, pixels
from tools.teabag.moments import TOKENS, Floats, Statistics


class Sampler:
    """`policy` with the statistics that it was trained with. Noise is drawn from torch's random state."""

    def __init__(self, policy: Any, statistics: Statistics) -> None:
        self._words = policies.words(policy)
        self.forward = Forward(policy, self._words.shape[1], TOKENS[0])
        self._steps, self._chunk = policy.config.num_steps, policy.config.chunk_size
        self._padding = policies.PADDED - len(statistics.state_mean)
        self.means = {name: torch.from_numpy(getattr(statistics, name)) for name in Statistics.__slots__}

    def state(self, degrees: Tensor) -> Tensor:
        """States (n, 6), degrees, as the policy takes them (n, 8)."""
        return F.pad((degrees - self.means["state_mean"]) / self.means["state_std"], (0, self._padding))

    def actions(self, degrees: Tensor) -> Tensor:
        """Chunks (n, chunk, 6), degrees, as the policy makes them (n, chunk, 8)."""
        return F.pad((degrees - self.means["action_mean"]) / self.means["action_std"], (0, self._padding))

    def words(self, tasks: NDArray[np.int64]) -> Tensor:
        """Token ids (n, words) of tasks (n,), numbers in vlad.sim.task.TASKS."""
        return self._words[torch.from_numpy(np.ascontiguousarray(tasks))]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def chunks(self, seen: Tensor, states: Tensor, tasks: NDArray[np.int64]) -> Floats:
        """Chunks (n, chunk, 6), degrees, from pictures' tokens (n, 27, 128), states (n, 6), degrees, and tasks (n,)."""
        prefix = self.forward.prefix(seen, self.words(tasks), self.state(states))
        x = torch.randn(len(seen), 1, self._chunk, policies.PADDED)
        for step in range(self._steps):
            x = x - self.forward.velocity(prefix, x, torch.full((len(seen), 1), 1 - step / self._steps)) / self._steps
        joints = x[:, 0, :, : len(self.means["action_mean"])]
        found: Floats = (joints * self.means["action_std"] + self.means["action_mean"]).numpy()
        return found

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def see(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Tokens (n, 27, 128) of pictures (n, 3, 3, 72, 96)."""
        return self.forward.see(pixels(torch.from_numpy(pictures))).view(-1, *TOKENS)
