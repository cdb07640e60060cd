"""What `vlad sim` is told: its options, and the [sim] table of a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from typing import Any

from vlad.errors import ConfigError
from vlad.sim.servo import RATED_V

MAX_SIDE = 2048


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one simulated robot.

    bus: path of the symbolic link to the pty.
    seed: of the start positions and the random faults.
    record: file for the bus recording; None for none.
    faults: path of the fault port's Unix socket; None for none.
    cameras: whether pictures are made.
    camera_prefix: camera `top` is shm:<camera_prefix>-top.
    width, height: of the pictures, pixels; fps: their rate, 1/s.
    supply_v: open-circuit voltage of the servos' supply.
    """

    bus: str = "/tmp/vlad-sim-bus"
    seed: int = 0
    record: str | None = None
    faults: str | None = None
    cameras: bool = True
    camera_prefix: str = "vlad-sim"
    width: int = 320
    height: int = 240
    fps: float = 30.0
    supply_v: float = RATED_V

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if not 16 <= getattr(self, name) <= MAX_SIDE:
                raise ConfigError(f"{name}: must be 16 to {MAX_SIDE}, is {getattr(self, name)}")
        if not 1.0 <= self.fps <= 120.0:
            raise ConfigError(f"fps: must be 1 to 120, is {self.fps}")
        if not 4.0 <= self.supply_v <= 14.0:
            raise ConfigError(f"supply_v: must be 4 to 14 V, is {self.supply_v}")
        if not self.bus or not self.camera_prefix or "/" in self.camera_prefix:
            raise ConfigError("bus must be a path, camera_prefix a name without a slash")
        if self.seed < 0:
            raise ConfigError(f"seed: must not be negative, is {self.seed}")


_TYPES: dict[str, type | tuple[type, ...]] = {
    "bus": str,
    "seed": int,
    "record": str,
    "faults": str,
    "cameras": bool,
    "camera_prefix": str,
    "width": int,
    "height": int,
    "fps": (int, float),
    "supply_v": (int, float),
}


def read_sim_table(path: str) -> dict[str, Any]:
    """The [sim] table of a TOML file, checked by key and type; {} when the file has none.

    Other tables are the daemon's: one file may serve both ends of the wire.

    Raises:
        ConfigError: naming the file and the key.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file).get("sim", {})
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"--config {path}: sim must be a table")
    known = {field.name for field in fields(Settings)}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"--config {path}: sim.{key} is unknown; known: {sorted(known)}")
        is_number_as_bool = isinstance(value, bool) and _TYPES[key] is not bool
        if is_number_as_bool or not isinstance(value, _TYPES[key]):
            raise ConfigError(f"--config {path}: sim.{key}: {value!r} is of the wrong type")
    return table
