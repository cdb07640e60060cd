"""csrc/gate.c. Use vlad.gate, which documents it."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RawReport = tuple[str, str, int | None, int | None, float, float, int, int, int, int]

REASONS: tuple[str, ...]

class Gate:
    def __init__(self, config: Any) -> None: ...
    def check(
        self,
        actions: ArrayLike,
        seq: int,
        epoch: int,
        t_obs_ns: int,
        frame_age_ns: int,
        reuse_age_ns: int,
        cold: bool,
        command: Any,
        last_due_ns: int | None,
        now_ns: int,
    ) -> tuple[RawReport, NDArray[np.int64] | None]: ...
    def steps(
        self, before: ArrayLike, actions_nu: NDArray[np.int64], jump_allowed: float
    ) -> RawReport: ...
    def step_nu(self, joint: int) -> int: ...
