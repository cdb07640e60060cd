"""What the policy saw last: the tokens of each camera with the frame behind them, and the prefix.

The token age that the gate judges is that of the frame that was encoded. Finding a picture unchanged
never renews it, so a frozen camera passes as unchanged for `max_age_ns` and no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlad.camera import Frame
from vlad.ladder import NOTHING_TO_REUSE, Prerequisite, Rung, Vision

OTHER_ENGAGEMENT, OTHER_TASK = "other_engagement", "other_task"
TOO_OLD, ALL_CHANGED = "tokens_too_old", "all_changed"
REASONS = (NOTHING_TO_REUSE, OTHER_ENGAGEMENT, OTHER_TASK, TOO_OLD, ALL_CHANGED)

LINES, CELLS = 120, 12


class Encoder(Protocol):
    """The part of a policy that makes prefixes; see vlad.policy.Policy."""

    def encode_image(self, camera_index: int, image: NDArray[np.uint8]) -> Any: ...
    def prefill(self, tokens_by_camera: Sequence[Any], task: Any, state: Any) -> Any: ...
    def refresh_state(self, prefix: Any, state: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Observation:
    """What a prefix was made from. t_obs_ns: of the arm's state, not yet on the queue's grid. Ages
    are t_obs - t_capture: of the oldest fresh frame, of the oldest reused tokens (0: none of them)."""

    t_obs_ns: int
    frame_age_ns: int
    reuse_age_ns: int = 0


@dataclass(slots=True)
class _Seen:
    """One camera: the frame behind the tokens, and how far the newest one compared differs."""

    frame: Frame
    tokens: Any
    epoch: int
    compared_seq: int
    change: float = 0.0


@dataclass(frozen=True, slots=True)
class _Last:
    """The last prefix."""

    prefix: Any
    epoch: int
    task: Any
    t_capture_ns: int  # of the oldest frame behind it


def change(before: NDArray[np.uint8], now: NDArray[np.uint8]) -> float:
    """How far two pictures [height, width, 3] differ, 0..255; 255 for pictures of unlike sizes.

    The mean absolute difference of that cell, of a grid of about 12 by 16, in which it is greatest:
    noise averages out within a cell, and what moves in a corner does not vanish in the whole. Every
    fourth pixel of a VGA frame is looked at, in both directions.
    """
    if before.shape != now.shape:
        return 255.0
    step = max(1, min(now.shape[:2]) // LINES)
    difference = np.abs(before[::step, ::step].astype(np.int16) - now[::step, ::step]).mean(axis=2)
    side = max(1, min(difference.shape) // CELLS)
    rows, columns = np.arange(0, difference.shape[0], side), np.arange(0, difference.shape[1], side)
    sums = np.add.reduceat(np.add.reduceat(difference, rows, axis=0), columns, axis=1)
    sizes = np.outer(np.diff([*rows, difference.shape[0]]), np.diff([*columns, difference.shape[1]]))
    return float((sums / sizes).max())


class TokenCache:
    """Of one policy; used by the vision stage alone.

    cameras: in the policy's order. max_age_ns: of tokens (N/f). max_change: a camera counts as
    unchanged up to this `change` from the frame behind its tokens.
    """

    def __init__(self, cameras: Sequence[str], max_age_ns: int, max_change: float) -> None:
        self._cameras = tuple(cameras)
        self._max_age_ns = max_age_ns
        self._max_change = max_change
        self._seen: dict[str, _Seen] = {}
        self._last: _Last | None = None

    def prerequisite(
        self, rung: Rung, now_ns: int, epoch: int, task: Any, frames: Mapping[str, Frame]
    ) -> Prerequisite:
        """Whether a rung that reuses tokens can be taken now, and how many cameras it encodes."""
        if rung.vision is Vision.NONE:
            last = self._last
            if last is None:
                return Prerequisite(lacking=NOTHING_TO_REUSE)
            if last.epoch != epoch:
                return Prerequisite(lacking=OTHER_ENGAGEMENT)
            if last.task != task:
                return Prerequisite(lacking=OTHER_TASK)
            if now_ns - last.t_capture_ns > self._max_age_ns:
                return Prerequisite(lacking=TOO_OLD)
            return Prerequisite(0)
        why = [self._why_encode(name, now_ns, epoch, frames[name]) for name in self._cameras]
        if all(why):
            return Prerequisite(lacking=why[0] if len(set(why)) == 1 else ALL_CHANGED)
        return Prerequisite(sum(map(bool, why)))

    def _why_encode(self, name: str, now_ns: int, epoch: int, frame: Frame) -> str:
        """Why a camera must be encoded; empty when its tokens will do."""
        seen = self._seen.get(name)
        if seen is None:
            return NOTHING_TO_REUSE
        if seen.epoch != epoch:
            return OTHER_ENGAGEMENT
        if now_ns - seen.frame.t_capture_ns > self._max_age_ns:
            return TOO_OLD
        if seen.compared_seq != frame.seq:
            seen.compared_seq = frame.seq
            seen.change = change(seen.frame.image, frame.image)
        return "" if seen.change <= self._max_change else ALL_CHANGED

    def assemble(
        self, policy: Encoder, rung: Rung, frames: Mapping[str, Frame], *, now_ns: int, epoch: int,
        task: Any, t_obs_ns: int, state: NDArray[np.float64],
        beat: Callable[[], None] = lambda: None,
    ) -> tuple[Any, Observation]:
        """The prefix of a request and what it was made from. now_ns: of its admission, so that the
        cameras are the same that `prerequisite` counted. beat: called after each camera."""
        if rung.vision is Vision.NONE:
            last = self._last
            assert last is not None, "admitted without a prefix"
            prefix = policy.refresh_state(last.prefix, state)
            self._last = _Last(prefix, epoch, task, last.t_capture_ns)
            return prefix, Observation(t_obs_ns, 0, t_obs_ns - last.t_capture_ns)
        fresh, reused = [], []
        for index, name in enumerate(self._cameras):
            frame = frames[name]
            if rung.vision is Vision.CHANGED and not self._why_encode(name, now_ns, epoch, frame):
                reused.append(t_obs_ns - self._seen[name].frame.t_capture_ns)
                continue
            tokens = policy.encode_image(index, frame.image)
            beat()
            self._seen[name] = _Seen(frame, tokens, epoch, frame.seq)
            fresh.append(t_obs_ns - frame.t_capture_ns)
        tokens = [self._seen[name].tokens for name in self._cameras]
        prefix = policy.prefill(tokens, task, state)
        captured = min(self._seen[name].frame.t_capture_ns for name in self._cameras)
        self._last = _Last(prefix, epoch, task, captured)
        return prefix, Observation(t_obs_ns, max(fresh, default=0), max(reused, default=0))
