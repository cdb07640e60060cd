"""What a pass costs on this machine, as the stages run it: measured at load, once for each rung."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.inference import RunnablePolicy
from vlad.ladder import FULL, Rung, Vision
from vlad.servo import now_ns

DISCARDED = 2
MEASURED = 8

Frames = Sequence[NDArray[np.uint8]]
State = NDArray[np.float64]


def _timed(run: Callable[[], object]) -> tuple[int, ...]:
    times = []
    for _ in range(DISCARDED + MEASURED):
        start = now_ns()
        run()
        times.append(now_ns() - start)
    return tuple(times[DISCARDED:])


def measure_pass(
    policy: RunnablePolicy, frames: Frames, task: Any, state: State, rung: Rung = FULL
) -> tuple[int, ...]:
    """T_inference of passes on a rung, in ns: 2 discarded, 8 measured. A rung that reuses tokens is
    measured with those of every camera reused."""
    generator = np.random.default_rng(0)
    tokens = [policy.encode_image(i, frame) for i, frame in enumerate(frames)]
    last = policy.prefill(tokens, task, state)

    def run() -> None:
        if rung.vision is Vision.NONE:
            prefix = policy.refresh_state(last, state)
        elif rung.vision is Vision.CHANGED:
            prefix = policy.prefill(tokens, task, state)
        else:
            fresh = [policy.encode_image(i, frame) for i, frame in enumerate(frames)]
            prefix = policy.prefill(fresh, task, state)
        policy.sample(prefix, generator=generator, steps=rung.steps)

    return _timed(run)


def measure_vision(policy: RunnablePolicy, frame: NDArray[np.uint8]) -> int:
    """The tokens of one camera, in ns: the median of 8."""
    return round(statistics.median(_timed(lambda: policy.encode_image(0, frame))))
