"""The confidence interval of a share of successes."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054  # of a two-sided 95 % interval


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score; (0, 1) of no trials.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials}")
    if not trials:
        return 0.0, 1.0
    share, z2 = successes / trials, Z_95 * Z_95
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # At either end rounding would leave the share itself outside.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == trials else middle + half)
