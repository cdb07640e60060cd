"""Weights of unit gain made from their names alone, so that a fixture needs to hold only names and shapes.

The same numbers everywhere: PCG64's bits are fixed, and what follows is exact or rounded once. Attention is far
from uniform with them, and a wrong mask or position shows.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray


def seeded(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The float32 weights of one tensor of a SmolVLA."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    uniform = (bits >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    noise = uniform.reshape(shape) * math.sqrt(12)
    if len(shape) >= 2:
        fan_in = shape[1] if "embed_tokens" in name else math.prod(shape[1:])
        values = noise * (0.9 if "position_embedding" in name else 1.3 / math.sqrt(fan_in))
    else:
        values = noise * 0.15 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return values.astype(np.float32)
