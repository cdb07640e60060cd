"""Figures of what bench.seams recorded."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.seams import Run

Array = NDArray[np.float64]


def worst_per_chunk(run: Run) -> dict[str, Array]:
    """Of every accepted merge, the largest change from there to the next one, over all joints.

    velocity, acceleration: of the actions as they were read, units/s and units/s^2: second and third
    differences on the policy's grid. servo_acceleration, servo_jerk: of the written goals.
    """
    rate, ticks = 1e9 / run.action_ns, 1e9 / run.period_ns
    second = np.abs(np.diff(run.actions, 2, axis=0)).max(axis=1) * rate
    third = np.abs(np.diff(run.actions, 3, axis=0)).max(axis=1) * rate**2
    bend = np.abs(np.diff(run.goals, 2, axis=0)).max(axis=1) * ticks**2
    jerk = np.abs(np.diff(run.goals, 3, axis=0)).max(axis=1) * ticks**3
    merges = [m for m in run.merges if m.accepted]
    out: dict[str, list[float]] = {k: [] for k in ("velocity", "acceleration", "servo_acceleration", "servo_jerk")}
    for this, following in itertools.pairwise(merges):
        a, b = this.kept - 2, following.kept - 2
        i, j = ((m.t_ns - run.t0_ns) // run.period_ns - 2 for m in (this, following))
        for name, values, span in (
            ("velocity", second, slice(a, b)), ("acceleration", third, slice(a - 1, b - 1)),
            ("servo_acceleration", bend, slice(i, j)), ("servo_jerk", jerk, slice(i, j)),
        ):  # fmt: skip
            if len(values[span]):
                out[name].append(float(values[span].max()))
    return {name: np.array(values) for name, values in out.items()}


def figures(run: Run) -> dict[str, float]:
    """A line of the table."""
    worst = worst_per_chunk(run)
    line = {f"{name}_{label}": float(np.quantile(values, q))
            for name, values in worst.items() for label, q in (("p50", 0.5), ("p95", 0.95))}
    apart = np.array([m.disagreement for m in run.merges])
    return line | {
        "merges": len(run.merges),
        "jump": run.reasons.get("jump", 0) / max(1, len(run.merges)),
        "step": run.reasons.get("step", 0) / max(1, len(run.merges)),
        "apart_p50": float(np.quantile(apart, 0.5)), "apart_p95": float(np.quantile(apart, 0.95)),
        "covered": run.covered, "held": float(run.held),
    }


def text(line: Mapping[str, float]) -> str:
    """The same to read: medians / 95 %."""
    pairs = {"velocity": "rad/s", "acceleration": "rad/s2", "servo_acceleration": "rad/s2", "servo_jerk": "rad/s3"}
    parts = [f"{name} {line[f'{name}_p50']:.3g} / {line[f'{name}_p95']:.3g} {unit}" for name, unit in pairs.items()]
    parts.append(f"apart {line['apart_p50']:.2f} / {line['apart_p95']:.2f} steps")
    parts.append(f"jumps {line['jump']:.0%}, steps {line['step']:.0%} of {line['merges']:.0f}")
    return ", ".join(parts) + (", HELD" if line["held"] else "")


def response_s(run: Run, wanted: Array, moved_at_s: Sequence[float], size: float) -> float:
    """Median time from a shift of what the policy wants, first joint, to half of it being commanded.

    wanted: [ticks] where the goals would be without it. moved_at_s: since the run began.
    """
    ticks = 1e9 / run.period_ns
    off = (run.goals[:, 0] - wanted) / size
    times = []
    for k, at in enumerate(moved_at_s):
        part = off[round(at * ticks) : round((at + 6.0) * ticks)]
        part = part if k % 2 == 0 else 1.0 - part
        times.append(float(np.argmax(part > 0.5)) / ticks)
    return float(np.median(times))
