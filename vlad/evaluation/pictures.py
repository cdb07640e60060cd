"""What the cameras of the simulated table show, drawn from a World's positions in a World of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlad.sim.variation import Appearance, Variation
from vlad.sim.world import World

Picture = NDArray[np.uint8]
FILM_SIZE = (160, 120)
FILM_CAMERA = "left"
FILM_PICTURES = 10
FILM_QUALITY = 75


@dataclass(frozen=True, slots=True)
class Pose:
    """Everything that can be seen at a time: MuJoCo's position vector."""

    t_ns: int
    qpos: NDArray[np.float64]


class Pictures:
    """Cameras of one table. sizes: (width, height) of each, by name."""

    def __init__(self, sizes: dict[str, tuple[int, int]]) -> None:
        self._world = World(0)
        self._appearance = Appearance(self._world.model)
        self._sizes = sizes

    def vary(self, extents: Variation, random: np.random.Generator) -> None:
        """Light, colours and camera poses of the next episode."""
        self._appearance.vary(extents, random)

    def draw(self, pose: Pose) -> dict[str, Picture]:
        """A picture [height, width, 3] of every camera."""
        self._world.show(pose.qpos)
        return {name: self._world.render(name, *size) for name, size in self._sizes.items()}

    def film(self, poses: Sequence[Pose], begin_ns: int) -> list[tuple[float, bytes]]:
        """Some pictures of one camera, evenly in time: seconds since `begin_ns`, JPEG."""
        import simplejpeg

        if not poses:
            return []
        chosen = sorted({round(i) for i in np.linspace(0, len(poses) - 1, FILM_PICTURES)})
        strip = []
        for pose in (poses[i] for i in chosen):
            self._world.show(pose.qpos)
            picture = np.ascontiguousarray(self._world.render(FILM_CAMERA, *FILM_SIZE))
            strip.append(((pose.t_ns - begin_ns) / 1e9, simplejpeg.encode_jpeg(picture, quality=FILM_QUALITY)))
        return strip

    def close(self) -> None:
        self._world.close()
