"""Where an episode begins: 11 clusters of 10 x 10 cm, the tea bag's heading, the mug's handle.

The grid fills what the arm reaches from above: four cells far from it, five in the middle, one on each
side. Cells do not overlap, so that a policy that never saw cluster 6 never saw a tea bag there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vlad.errors import ConfigError

# Centres of the cells on the table, m: x forward from the base, y to the arm's left. Clusters count from 1.
CLUSTERS = (
    (0.28, 0.15),
    (0.28, 0.05),
    (0.28, -0.05),
    (0.28, -0.15),
    (0.18, 0.20),
    (0.18, 0.10),
    (0.18, 0.00),
    (0.18, -0.10),
    (0.18, -0.20),
    (0.08, 0.15),
    (0.08, -0.15),
)
HALF_CELL_M = 0.05
HELD_OUT = 6
TRAINING = tuple(number for number in range(1, len(CLUSTERS) + 1) if number != HELD_OUT)
MAX_TURN_RAD = 0.8
PAN_AXIS_M = (0.0388353, 0.0)
MUG_M = (0.03, -0.275)
_MUG_SPREAD_M = 0.01


@dataclass(frozen=True, slots=True)
class Start:
    """Where the objects are at the beginning.

    cluster: 1..11. bag_m, mug_m: (x, y) on the table, m. bag_yaw_rad, mug_yaw_rad: headings.
    """

    cluster: int
    bag_m: tuple[float, float]
    bag_yaw_rad: float
    mug_m: tuple[float, float]
    mug_yaw_rad: float


def draw_start(random: np.random.Generator, cluster: int | None = None) -> Start:
    """A start in `cluster`, or in any of them.

    The tea bag lies along the line from the arm's pan axis to it, turned by up to MAX_TURN_RAD.

    Raises:
        ConfigError: when there is no such cluster.
    """
    number = int(random.integers(1, len(CLUSTERS) + 1)) if cluster is None else cluster
    if not 1 <= number <= len(CLUSTERS):
        raise ConfigError(f"cluster {number}: there are clusters 1 to {len(CLUSTERS)}")
    x, y = np.array(CLUSTERS[number - 1]) + random.uniform(-HALF_CELL_M, HALF_CELL_M, 2)
    bearing = math.atan2(y - PAN_AXIS_M[1], x - PAN_AXIS_M[0])
    turn = float(random.uniform(-MAX_TURN_RAD, MAX_TURN_RAD))
    mug = np.array(MUG_M) + random.uniform(-_MUG_SPREAD_M, _MUG_SPREAD_M, 2)
    return Start(
        number,
        (float(x), float(y)),
        bearing + turn,
        (float(mug[0]), float(mug[1])),
        float(random.uniform(-math.pi, 0.0)),
    )
