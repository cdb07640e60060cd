"""The two policies of the seam benchmark: the shipped one on the simulated arm, and a noisy one.

The noisy one is flow matching without a network: its actions are a mixture of Gaussian processes,
so that the velocity is known exactly. It cannot decide between two ways, as a policy does that was
taught both: each chunk, with its own noise, takes one of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.bundle import load
from vlad.expert import Guidance
from vlad.policy import Policy
from vlad.units import RAD_PER_DEGREE_UNIT

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

Array = NDArray[np.float64]
JOINTS, CHUNK, RATE_HZ, STEPS = 6, 50, 30.0, 10


class TwoWays:
    """Round a slow circle, on one of two lanes `apart` rad from each other, whichever the noise says.

    apart: of the lanes in the first joint; the others have a share of it. jitter: rad, standard
    deviation of the smooth wobble that every chunk has of its own. The arm follows in 30 ms.
    """

    STD = 0.35  # rad, what 1 is in the policy's normalised space
    LAG_S = 0.03
    APPROACH_S = 0.8
    WOBBLE_S = 0.4
    SHARE = np.array([1.0, -0.6, 0.5, 0.3, -0.4, 0.2])

    def __init__(
        self, apart: float, jitter: float = 0.02, *, moved: Array | None = None, every_s: float = 6.37
    ) -> None:
        """moved: what the circle is shifted by, there and back, every `every_s`: unforeseen."""
        self._moved = np.zeros(JOINTS) if moved is None else moved
        self.every_s = every_s
        self._lanes = np.array([0.5, -0.5])[:, None] * apart * self.SHARE  # [2, joints]
        t = np.arange(CHUNK) / RATE_HZ
        kernel = np.exp(-np.square((t[:, None] - t) / self.WOBBLE_S) / 2) * (jitter / self.STD) ** 2
        self._spread, self._basis = np.linalg.eigh(kernel)
        self._spread = np.maximum(self._spread, 0.0)
        self._at = self.circle(0.0)
        self.now_s = 0.0

    @staticmethod
    def circle(t: float | Array) -> Array:
        phase = 2 * np.pi * np.asarray(t)[..., None] / 9.0 + np.arange(JOINTS)
        circle: Array = 0.35 * np.sin(phase)
        circle[..., 5] = 0.5 + 0.2 * np.sin(phase[..., 5])
        return circle

    def is_moved(self, t: float | Array) -> Any:
        return np.floor(np.asarray(t) / self.every_s) % 2

    def step(self, goal: Array, seconds: float) -> Array:
        self.now_s += seconds
        self._at = self._at + (goal - self._at) * seconds / (seconds + self.LAG_S)
        return self._at

    def position(self) -> Array:
        return self._at

    @property
    def policy(self) -> TwoWays:
        return self

    joint_space = policy

    def observe(self) -> Array:
        """The means of both ways, normalised, [2, chunk, joints]."""
        t = self.now_s + np.arange(CHUNK) / RATE_HZ
        lanes = self._lanes + self._moved * self.is_moved(self.now_s)
        off = self._at - self.circle(self.now_s - self.LAG_S)
        fade = np.exp(-(t - self.now_s) / self.APPROACH_S)[:, None]
        means: Array = self.circle(t) + lanes[:, None] + (off - lanes)[:, None] * fade
        return (means - self.circle(0.0)) / self.STD

    def _velocity(self, means: Array, x: Array, time: float) -> Array:
        """(x - E[actions | x]) / time, where x = (1 - time) * actions + time * noise."""
        done = 1.0 - time
        variance = np.square(done) * self._spread + time * time  # in the basis of the wobble
        off = np.einsum("ki,mij->mkj", self._basis.T, x - done * means)
        likely = -0.5 * (np.square(off) / variance[:, None]).sum(axis=(1, 2))
        weight = np.exp(likely - likely.max())
        drawn = np.einsum("ik,mkj->mij", self._basis, (done * self._spread / variance)[:, None] * off)
        expected = np.tensordot(weight / weight.sum(), means + drawn, axes=1)
        return (x - expected) / time

    def sample_normalised(
        self, prefix: Array, *, generator: np.random.Generator, steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> NDArray[np.float32]:
        x = generator.standard_normal((CHUNK, JOINTS)).astype(np.float32)
        dt = -1.0 / (steps or STEPS)
        for step in range(steps or STEPS):
            time = 1.0 + step * dt
            velocity = self._velocity(prefix, x.astype(np.float64), time).astype(np.float32)
            if guidance is not None:
                velocity = guidance(x, velocity, time, dt)
            x = x + np.float32(dt) * velocity
        return x

    def sample(
        self, prefix: Array, *, generator: np.random.Generator, steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> Array:
        return self.actions(
            self.sample_normalised(prefix, generator=generator, steps=steps, guidance=guidance)
        )

    def actions(self, normalised: NDArray[np.float32]) -> Array:
        actions: Array = normalised.astype(np.float64) * self.STD + self.circle(0.0)
        return actions


class SweepArm:
    """The shipped policy on the simulated arm: MuJoCo, the servos' model, rendered pictures."""

    def __init__(self, policy: Policy, *, task: int = 0) -> None:
        from record_sweep import Recorder
        from sweep_motion import MIDDLE

        self.policy = policy
        self._task = task
        self._recorder = Recorder()
        self._recorder.world.reset(5)
        self._recorder.settle(MIDDLE)

    def step(self, goal: Array, seconds: float) -> Array:
        self._recorder.send(np.append(goal[:5] / RAD_PER_DEGREE_UNIT, goal[5] * 100))
        self._recorder.world.step(seconds)
        return self.position()

    def position(self) -> Array:
        state = self._recorder.state()
        return np.append(state[:5] * RAD_PER_DEGREE_UNIT, state[5] / 100)

    def observe(self) -> Any:
        pictures = self._recorder.pictures()
        tokens = [self.policy.encode_image(i, picture) for i, picture in enumerate(pictures)]
        return self.policy.prefill(tokens, self._task, self.position())

    def close(self) -> None:
        self._recorder.world.close()


def shipped_policy() -> Policy:
    """The shipped checkpoint, built once into build/bench."""
    from vlad.build.command import main as build

    sweep, path = ROOT / "assets/sweep", ROOT / "build/bench/sweep.vlad"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        words = [sweep / "checkpoint", "--dataset", sweep / "dataset", "--units", "degrees", "-o", path]
        assert build([*map(str, words), "--json"]) == 0
    return Policy(load(path))
