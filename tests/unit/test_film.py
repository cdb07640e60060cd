"""The film of a demonstration: as many pictures as the attempts lasted, of another scene when the arm moved."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")


def test_a_film_lasts_as_long_as_its_attempts(tmp_path: Path) -> None:
    import av

    from vlad.evaluation.pictures import Pose
    from vlad.sim.film import FPS, LARGE, SMALL, STILL_S, write_film
    from vlad.sim.world import World

    world = World(0)
    rest = world.qpos().copy()
    raised = rest.copy()
    raised[1] += 1.0
    first = [Pose(0, rest), Pose(400_000_000, raised)]
    second = [Pose(9_000_000_000, rest)]
    world.close()
    write_film(tmp_path / "film.mp4", [first, [], second])
    with av.open(str(tmp_path / "film.mp4")) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(pictures) == pytest.approx((0.4 + 2 * STILL_S) * FPS, abs=2)
    assert pictures[0].shape == (LARGE[1], LARGE[0] + SMALL[0], 3)
    moved = [np.abs(p.astype(int) - pictures[0]).mean() for p in pictures]
    assert max(moved[:5]) < 1
    assert moved[8] > 3
    assert moved[-1] < 1


def test_of_nothing_there_is_no_film(tmp_path: Path) -> None:
    from vlad.sim.film import write_film

    write_film(tmp_path / "film.mp4", [[]])
    assert not (tmp_path / "film.mp4").exists()
