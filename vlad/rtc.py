"""Real-time chunking (RTC): a chunk sampled so that it goes on from the one that is being executed.

At every flow step the estimate of the final chunk is drawn towards the old actions: wholly where
they will have been read when the new chunk arrives, less and less behind that. Pure: no clock.

Sources: Black, Galliker and Levine, "Real-Time Execution of Action Chunking Flow Policies" (2025);
lerobot/policies/rtc/modeling_rtc.py, where x is detached from the velocity: its gradient is the
identity, so none is computed here.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlad.errors import BundleError
from vlad.expert import Guidance

Array = NDArray[np.float32]
Schedule = Literal["linear", "exp", "zeros", "ones"]
UNGUIDED = ("cold", "changed", "elapsed")


@dataclass(frozen=True, slots=True)
class RtcConfig:
    """horizon: actions from t_obs on that are drawn towards the old ones, "auto" for all that are
    left of them; what will have been read by the arrival always is. schedule: the weights between
    the two. max_weight: bound of the guidance weight. docs/seams.md says why these."""

    horizon: int | Literal["auto"] = "auto"
    schedule: Schedule = "exp"
    max_weight: float = 10.0


def prefix_weights(schedule: Schedule, delay: int, horizon: int, total: int) -> Array:
    """How much each action of a new chunk is drawn to the old one, `[total]` in 0..1: 1 before
    `delay`, 0 from `horizon` on. Between them `linear` and `exp` fall, `zeros` is 0, `ones` is 1.
    """
    end = min(horizon, total)
    start = min(delay, end)
    weights = np.zeros(total, dtype=np.float32)
    weights[:start] = 1.0
    if schedule == "ones":
        weights[start:end] = 1.0
    elif schedule != "zeros":
        fall = np.linspace(1.0, 0.0, end - start + 2)[1:-1]
        weights[start:end] = fall * np.expm1(fall) / (math.e - 1.0) if schedule == "exp" else fall
    return weights


def guidance_weight(time: float, max_weight: float) -> float:
    """The factor on the correction at flow time `time` (1 = noise, 0 = actions), at most
    `max_weight`."""
    done = 1.0 - time
    if done * time <= 0.0:
        return max_weight
    return min((time * time + done * done) / (done * time), max_weight)


def hold_last(rows: Array, total: int) -> Array:
    """`rows` `[k, ...]` with its last one repeated to `[total, ...]`; cut where it is longer. Zeros
    would be a pose: the mean of the training data. Raises BundleError where there is no row."""
    if len(rows) == 0:
        raise BundleError("real-time chunking from no actions at all")
    return rows[np.minimum(np.arange(total), len(rows) - 1)]


def guide(target: Array, weights: Array, max_weight: float) -> Guidance:
    """Steers `[chunk, max_action_dim]` towards `target` of the same shape as far as `weights`
    `[chunk]` say.

    A flow step of length dt moves the estimate by dt * weight of its distance, so with few steps a
    weight above 1/dt would throw it past the target: that is its bound too.
    """
    column = weights[:, None]

    def steer(x: Array, velocity: Array, time: float, dt: float) -> Array:
        error = column * (target - (x - np.float32(time) * velocity))
        guided: Array = velocity - np.float32(guidance_weight(time, min(max_weight, 1.0 / abs(dt)))) * error
        return guided

    return steer


def consumed_actions(t_obs_ns: int, read_ns: int, period_ns: int) -> int:
    """How many actions of a chunk observed at `t_obs_ns` (on the grid) the trajectory needs to be
    at `read_ns`: all due until then and the one that it is on its way to."""
    return max(0, -(-(read_ns - t_obs_ns) // period_ns) + 1)


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a new chunk observed at t_obs_ns has to go on from. target: the old actions by the new
    chunk's indices, float32 `[chunk, max_action_dim]`, `left` of them real."""

    t_obs_ns: int
    delay: int  # actions that will have been read at the predicted arrival
    left: int
    target: Array
    weights: Array
    max_weight: float

    @property
    def guidance(self) -> Guidance:
        return guide(self.target, self.weights, self.max_weight)


@dataclass(slots=True)
class RtcCounts:
    """For status. unguided by cause: `cold` (nothing to go on from: first chunk, underrun, new
    engagement), `changed` (the task, since the old chunk), `elapsed` (nothing is left of it)."""

    guided: int = 0
    unguided: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(UNGUIDED, 0)))
    underestimated: int = 0  # more was read by the arrival than predicted
    delay: int = 0  # actions, predicted, of the newest guided chunk
    consumed: int = 0  # what it came to
    # How far guided chunks are from the old ones over what was read: rms, normalised units.
    prefix_rms: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    def prefix_rms_quantile(self, q: float) -> float | None:
        """Of the newest hundred guided chunks."""
        return float(np.quantile(list(self.prefix_rms), q)) if self.prefix_rms else None


class RealTimeChunking:
    """The newest accepted chunk of one policy, and how the next one continues it. One thread."""

    def __init__(self, config: RtcConfig, *, period_ns: int, lookahead_ns: int) -> None:
        """period_ns: 1/f of the policy. lookahead_ns: how far ahead of now the queue is read."""
        self._config = config
        self._period_ns = period_ns
        self._lookahead_ns = lookahead_ns
        self._context: object = None
        self._t0_ns = 0
        self._actions: Array | None = None  # [chunk, max_action_dim], action 0 due at _t0_ns
        self.counts = RtcCounts()

    def plan(
        self, context: object, *, t_obs_ns: int, arrival_ns: int, cold: bool
    ) -> Continuation | None:
        """What a chunk observed at `t_obs_ns` and expected at `arrival_ns` continues; None where
        there is nothing valid to continue. context: whatever makes an old chunk another intention
        (engagement, task)."""
        t_obs_ns -= t_obs_ns % self._period_ns
        first = (t_obs_ns - self._t0_ns) // self._period_ns
        if cold or self._actions is None:
            self.counts.unguided["cold"] += 1
            return None
        if context != self._context:
            self.counts.unguided["changed"] += 1
            return None
        total = len(self._actions)
        left = total - first
        if left < 1:
            self.counts.unguided["elapsed"] += 1
            return None
        delay = consumed_actions(t_obs_ns, arrival_ns + self._lookahead_ns, self._period_ns)
        config = self._config
        # Before its first action a timeline stands at it, behind its last one at that.
        target = hold_last(self._actions[np.maximum(np.arange(first, total), 0)], total)
        horizon = left if config.horizon == "auto" else min(max(delay, config.horizon), left)
        weights = prefix_weights(config.schedule, delay, horizon, total)
        self.counts.guided += 1
        return Continuation(t_obs_ns, delay, left, target, weights, config.max_weight)

    def judged(
        self, context: object, continuation: Continuation | None, actions: Array,
        *, joints: int, arrival_ns: int, t0_ns: int | None,
    ) -> None:  # fmt: skip
        """The chunk that was planned so has reached the queue: `actions` normalised, `[chunk,
        max_action_dim]`, the arm's being the first `joints`. t0_ns: when its action 0 is due; None
        when it was rejected, and the old chunk goes on."""
        read_ns = arrival_ns + self._lookahead_ns
        if continuation is not None:
            self._measure(continuation, actions[:, :joints], read_ns)
        if t0_ns is None:
            return
        if continuation is not None:
            kept = min(consumed_actions(t0_ns, read_ns, self._period_ns), continuation.left)
            # As the queue merges (VLAD_RTC): what has been read stays what it was.
            actions = np.concatenate([continuation.target[:kept], actions[kept:]])
        self._context, self._t0_ns, self._actions = context, t0_ns, actions

    def _measure(self, continuation: Continuation, actions: Array, read_ns: int) -> None:
        counts = self.counts
        counts.delay = continuation.delay
        counts.consumed = consumed_actions(continuation.t_obs_ns, read_ns, self._period_ns)
        counts.underestimated += counts.consumed > counts.delay
        n = min(counts.consumed, continuation.left)
        off = actions[:n] - continuation.target[:n, : actions.shape[1]]
        rms = float(np.sqrt(np.mean(np.square(off))))
        if math.isfinite(rms):  # the gate refuses the others; one of them would blot out a hundred
            counts.prefix_rms.append(rms)
