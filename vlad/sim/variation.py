"""Domain randomisation: light, colours, camera poses and friction of a World, drawn anew for each episode.

Each of the four has an extent from 0 (as in assets/so101_table.xml) to 1 and beyond, so that each can be
swept alone. At 1 each lamp, and all together, change by up to a fifth, a colour by 0.12 in each channel, a
camera is displaced by 8 mm and turned by 1.2 degrees, and friction changes by a quarter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from vlad.errors import ConfigError

if TYPE_CHECKING:
    pass

LIGHT, COLOUR, FRICTION = 0.2, 0.12, 0.25
CAMERA_M, CAMERA_RAD = 0.008, math.radians(1.2)
MAX_EXTENT = 4.0


@dataclass(frozen=True, slots=True)
class Variation:
    """Extents, 0 to MAX_EXTENT each. Raises ConfigError for another."""

    light: float = 0.0
    colour: float = 0.0
    camera: float = 0.0
    friction: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            extent = getattr(self, field.name)
            if not 0.0 <= extent <= MAX_EXTENT:
                raise ConfigError(f"variation {field.name}: must be 0 to {MAX_EXTENT:g}, is {extent}")


NONE = Variation()
FULL = Variation(1.0, 1.0, 1.0, 1.0)


class Appearance:
    """The model's own light, colours, cameras and friction; vary() sets others, vary(NONE) sets them back."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept = {name: np.array(getattr(model, name)) for name in _FIELDS}

    def vary(self, extents: Variation, random: np.random.Generator) -> None:
        """Draw light, colours, camera poses and friction within `extents`."""
        model, kept = self._model, self._kept
        for name, value in kept.items():
            getattr(model, name)[:] = value
        light = LIGHT * extents.light
        # One lamp for all is the room getting darker; one by one, the sun moving.
        model.light_diffuse[:] *= 1 + random.uniform(-light, light, (model.nlight, 1))
        model.light_diffuse[:] *= 1 + random.uniform(-light, light)
        model.light_dir[:] += random.uniform(-light, light, model.light_dir.shape)
        colour = COLOUR * extents.colour
        tint = random.uniform(-colour, colour, (model.nmat, 3))
        model.mat_rgba[:, :3] = np.clip(kept["mat_rgba"][:, :3] + tint, 0, 1)
        shift = CAMERA_M * extents.camera
        model.cam_pos[:] += random.uniform(-shift, shift, model.cam_pos.shape)
        turn = CAMERA_RAD * extents.camera
        for quaternion in model.cam_quat:
            _turn(quaternion, random.uniform(-turn, turn, 3))
        friction = FRICTION * extents.friction
        model.geom_friction[:] *= 1 + random.uniform(-friction, friction)


_FIELDS = ("light_diffuse", "light_dir", "mat_rgba", "cam_pos", "cam_quat", "geom_friction")


def _turn(quaternion: Any, vector_rad: Any) -> None:
    """Turn a quaternion (4,) in place by a small rotation vector (3,)."""
    w, x, y, z = quaternion
    a, b, c = np.asarray(vector_rad) / 2
    turned = np.array(
        (w - x * a - y * b - z * c, x + w * a + y * c - z * b, y + w * b - x * c + z * a, z + w * c + x * b - y * a)
    )
    quaternion[:] = turned / np.linalg.norm(turned)
