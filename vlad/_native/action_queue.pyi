"""csrc/action_queue.c. Use vlad.action_queue, which documents it."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlad._native.gate import RawReport

AGGREGATES: tuple[str, ...]

class ActionQueue:
    def __init__(self, config: Any, aggregate: str, lookahead_ns: int, coefficient: float) -> None: ...
    def push(
        self,
        actions: ArrayLike,
        seq: int,
        epoch: int,
        t_obs_ns: int,
        frame_age_ns: int,
        reuse_age_ns: int,
        cold: bool,
        command: Any,
        now_ns: int,
    ) -> RawReport: ...
    def clear(self) -> None: ...
    def last_due_ns(self, epoch: int) -> int | None: ...
    def depth(self, now_ns: int, epoch: int) -> int: ...
    def timeline(
        self,
    ) -> tuple[int, int, int, int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...
    def sample(self, t_ns: int) -> NDArray[np.float64] | None: ...
