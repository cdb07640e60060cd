"""The first of the three T_inference < T_execution checks: whether a policy fits its own horizon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlad.scheduler import SchedulerConfig


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """Whether a policy fits its own horizon, and what would fit. Times in ns."""

    fits: bool
    t_inference_ns: int
    horizon_ns: int
    rate_hz_that_fits: float
    chunk_size_that_fits: int
    reason: str


def check_load(
    config: SchedulerConfig, measured_ns: Sequence[int], profile_ns: int = 0
) -> LoadCheck:
    """Judges async at load: max(measured, board profile) * safety against the horizon.

    Requests follow one another, so a gap-free run needs 2 * T_inference <= N/f; with a fixed
    threshold q also T_inference <= q * N/f. The arm brakes over twice the lookahead before
    its last action, so that much of the horizon is not usable.
    """
    c = config
    t = math.ceil(max([*measured_ns, profile_ns]) * c.safety)
    need = 2 * t
    if not isinstance(c.threshold, str):
        need = max(need, math.ceil(t / c.threshold))
    need += 2 * c.lookahead_ns
    fits = c.mode == "sync" or need <= c.horizon_ns
    n_fit = math.ceil(need / c.period_ns)
    f_fit = c.chunk_size * 1e9 / need if need else math.inf
    reason = (
        f"T_inference {t / 1e6:.0f} ms (worst of {len(measured_ns)} runs x {c.safety:g}) needs "
        f"{need / 1e6:.0f} ms of actions; {c.chunk_size} actions at "
        f"{1e9 / c.period_ns:.4g} Hz are {c.horizon_ns / 1e6:.0f} ms"
    )
    if not fits:
        reason += (
            f". It would fit at {f_fit:.3g} Hz or slower, or with {n_fit} actions in a chunk, "
            "or with mode = \"sync\""
        )
    return LoadCheck(fits, t, c.horizon_ns, f_fit, n_fit, reason)
