"""The solvers of the flow: their order on a flow whose solution is known, their price, and guidance with each."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.typing import NDArray

from vlad.backend import Arrays
from vlad.expert import EVALUATIONS, FlowExpert, time_embedding
from vlad.manifest import SOLVERS, Flow
from vlad.rtc import guide

Array = NDArray[np.float32]
SHAPE = (8, 3)
NOTHING: Any = MagicMock()  # a prefix: the block below does not look at it


class Decay:
    """A block whose velocity is x + cos(3 time): x(0) follows from x(1) in closed form. It reads the time out of
    its embedding, as the expert has to."""

    def __init__(self, flow: Flow) -> None:
        self.calls = 0
        self._times = np.linspace(0, 1, 4001)
        self._embeddings = np.concatenate([time_embedding(flow, float(t)) for t in self._times])

    def run(self, inputs: Arrays) -> dict[str, Array]:
        self.calls += 1
        time = self._times[np.abs(self._embeddings - inputs["time_embedding"]).sum(1).argmin()]
        return {"velocity": (inputs["x"] + np.float32(math.cos(3 * time))).astype(np.float32)}

    def close(self) -> None:
        pass


def exact(noise: Array) -> NDArray[np.float64]:
    """The solution of dx/dt = x + cos(3 t) from t = 1 back to 0."""

    def particular(t: float) -> float:
        return (3 * math.sin(3 * t) - math.cos(3 * t)) / 10

    return (noise.astype(np.float64) - particular(1.0)) * math.exp(-1.0) + particular(0.0)


def expert(solver: str, steps: int) -> tuple[FlowExpert, Decay]:
    flow = Flow(solver=solver, steps=steps, min_period=4e-3, max_period=4.0, embedding=32)  # type: ignore[arg-type]
    block = Decay(flow)
    return FlowExpert(_Sizes(flow), block), block  # type: ignore[arg-type]


class _Sizes:
    """As much of a manifest as the expert reads."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.chunk_size, self.max_action_dim = flow, *SHAPE


def error(solver: str, steps: int) -> float:
    noise = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    return float(np.abs(expert(solver, steps)[0].sample(NOTHING, noise) - exact(noise)).max())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("ab2", 2), ("heun", 2), ("midpoint", 2)])
def test_twice_the_steps_divide_the_error_by_two_to_the_order(solver: str, order: int) -> None:
    ratio = error(solver, 10) / error(solver, 20)
    assert 0.75 * 2**order < ratio < 1.5 * 2**order


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_price_of_a_step_is_what_the_search_takes_it_for(solver: str) -> None:
    sampler, block = expert(solver, 6)
    seen: list[Array] = []
    chunk = sampler.sample(NOTHING, np.zeros(SHAPE, np.float32), watch=lambda x, _: seen.append(x))
    assert block.calls == 6 * EVALUATIONS[solver]
    assert len(seen) == 6
    assert np.array_equal(seen[-1], chunk)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [3, 10])
def test_guidance_holds_the_old_actions_with_every_solver(solver: str, steps: int) -> None:
    target = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    weights = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)
    noise = np.random.default_rng(2).standard_normal(SHAPE, dtype=np.float32)
    free = expert(solver, steps)[0].sample(NOTHING, noise)
    guided = expert(solver, steps)[0].sample(NOTHING, noise, guidance=guide(target, weights, 10.0))
    assert np.abs(guided[:3] - target[:3]).max() < 0.15 * np.abs(free[:3] - target[:3]).max()
    assert np.array_equal(guided[3:], free[3:])
