"""The `expert` block and its sampler: noise to an action chunk in a few steps of flow matching.

Flow time runs from 1 (noise) to 0 (actions). Source of the Euler solver: `sample_actions` in
lerobot/policies/smolvla/modeling_smolvla.py. The others are of second order, for fewer evaluations
at the same error: `ab2` (Adams-Bashforth; one evaluation a step, the first step is Euler's),
`heun` and `midpoint` (two evaluations a step).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Session
from vlad.errors import BundleError, Refused
from vlad.llm import Prefix
from vlad.manifest import Flow, SmolvlaManifest

Array = NDArray[np.float32]

EVALUATIONS = {"euler": 1, "ab2": 1, "heun": 2, "midpoint": 2}
"""Of the block, for one step of each solver."""

Guidance = Callable[[Array, Array, float, float], Array]
"""`(x, velocity, time, dt) -> velocity`: steers the step from flow time `time` to `time + dt` (dt is
negative), as real-time chunking does towards the previous chunk.
"""


def time_embedding(flow: Flow, time: float) -> Array:
    """Sine and cosine features of a flow time, float32 `[1, flow.embedding]`, computed in float64
    as LeRobot does.
    """
    fraction = np.linspace(0.0, 1.0, flow.embedding // 2)
    period = flow.min_period * (flow.max_period / flow.min_period) ** fraction
    angle = (1.0 / period * 2 * math.pi) * float(np.float32(time))
    return np.concatenate([np.sin(angle), np.cos(angle)]).astype(np.float32)[None]


class FlowExpert:
    """The action expert. Pure computation: one caller at a time, no threads of its own."""

    def __init__(self, manifest: SmolvlaManifest, session: Session) -> None:
        self._session = session
        self._flow = manifest.flow
        self.shape = (manifest.chunk_size, manifest.max_action_dim)
        self._embeddings: dict[float, Array] = {}

    def velocity(self, prefix: Prefix, x: Array, time: float) -> Array:
        """The velocity of noisy normalised actions `x` `[chunk, max_action_dim]` at flow time
        `time` in [0, 1].
        """
        embedding = self._embeddings.get(time)
        if embedding is None:
            if len(self._embeddings) >= 1024:
                self._embeddings.clear()
            embedding = self._embeddings[time] = time_embedding(self._flow, time)
        return self._session.run(
            {
                "x": x,
                "time_embedding": embedding,
                **prefix.context,
            }
        )["velocity"]

    def noise(self, generator: np.random.Generator) -> Array:
        """A standard normal starting point `[chunk, max_action_dim]`."""
        return generator.standard_normal(self.shape, dtype=np.float32)

    def sample(
        self,
        prefix: Prefix,
        noise: Array,
        *,
        steps: int | None = None,
        guidance: Guidance | None = None,
        watch: Callable[[Array, Array], None] | None = None,
    ) -> Array:
        """Integrate `noise` to normalised actions, float32 `[chunk, max_action_dim]`, all padded
        dimensions included.

        `steps` defaults to the policy's own; the solver is the policy's. `guidance` steers the velocity
        with which a step is made, whatever the solver made it of. `watch` is given the state after each
        step and that velocity. Raises Refused for less than one step, BundleError for noise of another
        shape.
        """
        count = self._flow.steps if steps is None else steps
        if count < 1:
            raise Refused(f"{count} flow steps: at least one is needed")
        if noise.shape != self.shape:
            raise BundleError(f"noise is {list(noise.shape)}, expected {list(self.shape)}")
        dt = -1.0 / count
        x: Array = noise.astype(np.float32)
        before: Array | None = None  # the velocity at the last step's beginning
        for step in range(count):
            time = 1.0 + step * dt
            here = self.velocity(prefix, x, time)
            velocity = self._of_step(prefix, x, (time, dt), here, before)
            before = here
            if guidance is not None:
                velocity = guidance(x, velocity, time, dt)
            x = x + np.float32(dt) * velocity
            if watch is not None:
                watch(x, velocity)
        return x

    def _of_step(
        self, prefix: Prefix, x: Array, step: tuple[float, float], here: Array, before: Array | None
    ) -> Array:
        """The velocity that carries `x` over the whole `step` (its time and dt), from the one `here` at its beginning
        and the one at the beginning `before`.
        """
        (time, dt), solver = step, self._flow.solver
        if solver == "heun":
            end = self.velocity(prefix, x + np.float32(dt) * here, max(0.0, time + dt))
            return np.float32(0.5) * (here + end)
        if solver == "midpoint":
            return self.velocity(prefix, x + np.float32(dt / 2) * here, time + dt / 2)
        if solver == "ab2" and before is not None:
            return np.float32(1.5) * here - np.float32(0.5) * before
        return here

    def close(self) -> None:
        """Release the block."""
        self._session.close()
