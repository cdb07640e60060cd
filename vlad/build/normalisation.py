"""Statistics of a checkpoint as an affine map, whichever of LeRobot's normalisations they are for.

Sources: `_apply_transform` in lerobot/processor/normalize_processor.py (0.4.4, 0.6.1).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from vlad.build.safetensors import SafeTensors
from vlad.errors import BundleError

Array = NDArray[np.float32]

# The two statistics that each mode needs; of a range, its ends become -1 and 1.
_STATISTICS = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
    "IDENTITY": (),
}
ANY_MODE = tuple(_STATISTICS)


@dataclasses.dataclass(frozen=True, slots=True)
class Normalisation:
    """(x - mean) / (std + eps): of a range, its middle and half of it.

    seen: what the checkpoint knows of the feature's values, by name (mean, std, min, max), as far as it does.
    """

    mean: Array
    std: Array
    eps: float
    seen: dict[str, Array]


def read_normalisation(
    tensors: SafeTensors, prefix: str, feature: str, shape: tuple[int, ...], *, mode: str, eps: float
) -> Normalisation:
    """The statistics of `feature`, flat; in `tensors` each is called by its own name after `prefix`.

    Raises BundleError for those that are missing or cannot be used.
    """
    needed = _STATISTICS[mode]
    if any(prefix + statistic not in tensors for statistic in needed):
        spellings = tuple(f"{name}.{needed[0]}" for name in (feature, feature.replace(".", "_")))
        others = sorted(name for name in tensors.names() if name.endswith(spellings))
        hint = f" (it has {others[:3]}: statistics of the pre-training mixture; fine-tune first)" if others else ""
        wanted = " and ".join(f"{feature}.{statistic}" for statistic in needed)
        raise BundleError(f"{tensors.path}: statistics {wanted} are missing, which {mode} needs{hint}")

    def read(statistic: str) -> Array:
        name = prefix + statistic
        # Statistics of pixels may also be flat, since LeRobot 0.6.
        flat = len(shape) > 1 and tensors.shape(name) == shape[:1]
        return tensors.read(name, shape[:1] if flat else shape).reshape(-1)

    seen = {name: read(name) for name in ("mean", "std", "min", "max") if prefix + name in tensors}
    if mode == "IDENTITY":
        size = math.prod(shape)
        return Normalisation(np.zeros(size, np.float32), np.ones(size, np.float32), 0.0, seen)
    first, second = (read(statistic) for statistic in needed)
    half = np.float32(0.5)
    is_range = mode != "MEAN_STD"
    mean: Array = (first + second) * half if is_range else first
    std: Array = (second - first) * half if is_range else second
    _check_divisor(tensors, f"{feature}.{needed[1]}{f' - {needed[0]}' if is_range else ''}", std, shape)
    return Normalisation(mean, std, 0.0 if is_range else eps, seen)


def _check_divisor(tensors: SafeTensors, what: str, std: Array, shape: tuple[int, ...]) -> None:
    if (std < 0).any():
        raise BundleError(f"{tensors.path}: {what} has negative values")
    if (std > 0).all():
        return
    if len(shape) > 1:
        raise BundleError(
            f"{tensors.path}: {what} is 0 for channel {int(np.argmin(std))}: pictures of one colour cannot be "
            "normalised"
        )
    raise BundleError(
        f"{tensors.path}: {what} is 0 for joint {int(np.argmin(std))}: a joint that never moved in the "
        "recording cannot be normalised; record it moving, or leave it out"
    )
