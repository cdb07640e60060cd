"""The range in which each int8 tensor lies, from real observations.

Of each value its extremes are kept and a bounded number of others, at random: at even distances they would be of a
few channels alone. Of the whole range and a few narrower ones that range is taken which leaves the least squared
error, clipping included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from vlad.tflite.model import activation

Array = NDArray[np.float32]

PER_CALL = 8192  # values of one tensor that are kept of a call
_SHARES = (0.0, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3)  # of the values, that a range leaves out on either side


class Seen:
    """One value at all calls."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.count = 0
        self._kept: list[Array] = []
        self._random = np.random.default_rng(0)

    def add(self, values: Array) -> None:
        flat = np.asarray(values, np.float32).ravel()
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.count += flat.size
        some = flat if flat.size <= PER_CALL else flat[self._random.integers(0, flat.size, PER_CALL)]
        self._kept.append(some.copy())

    def range(self) -> tuple[float, float]:
        """Low and high. The extremes count as one value each."""
        values = np.concatenate(self._kept)
        each = self.count / len(values)
        extremes = np.array([self.low, self.high], np.float32)
        best, least = (self.low, self.high), np.inf
        for share in _SHARES:
            low, high = (self.low, self.high) if share == 0 else (
                float(q) for q in np.quantile(values, [share, 1 - share]))  # fmt: skip
            error = each * _error(values, low, high) + _error(extremes, low, high)
            if error < least:
                best, least = (low, high), error
        return best


def _error(values: Array, low: float, high: float) -> float:
    """Squared error of values in int8."""
    scale = activation(low, high)
    step, zero = scale.scale[0], scale.zero
    stored = np.clip(np.rint(values / step) + zero, -128, 127)
    return float(np.sum(np.square((stored - zero) * step - values)))


def capturing(model: onnx.ModelProto, values: Sequence[str], path: Path) -> None:
    """Writes `model` with these inner values as outputs too."""
    have = {v.name for v in (*model.graph.input, *model.graph.output)}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.extend(
        helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in values if v not in have
    )
    path.write_bytes(made.SerializeToString())
