"""What `vlad sim` is told: its options and its configuration file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vlad import config
from vlad.errors import ConfigError
from vlad.sim.servo import RATED_V
from vlad.sim.world import CAMERAS

MAX_SIDE = 2048


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one simulated robot.

    bus: path of the symbolic link to the pty.
    calibration: LeRobot's calibration JSON that the servos' EEPROM holds; None for vlad's own.
    seed: of the start positions and the random faults.
    record: file for the bus recording; None for none.
    faults: path of the fault port's Unix socket; None for none.
    cameras: whether pictures are made.
    camera_prefix: camera `top` is shm:<camera_prefix>-top.
    width, height: of the pictures, pixels; fps: their rate, 1/s.
    supply_v: open-circuit voltage of the servos' supply.
    """

    bus: str = "/tmp/vlad-sim/bus"
    calibration: str | None = None
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
    "calibration": str,
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


def read_config(path: Path) -> dict[str, Any]:
    """Settings from a TOML file: the daemon's own configuration, or one with a [sim] table only.

    Of the daemon's configuration it takes what lies at the other end: the bus path, the servos'
    calibration, and name, size and rate of the cameras, so that one file serves both programs.

    Raises:
        ConfigError: naming the file and the key.
    """
    tree = config.read_toml(path)
    if "sim" not in tree:
        return _of_daemon(config.from_tree(tree, path.absolute()))
    table = tree.pop("sim")
    if tree or not isinstance(table, dict):
        raise ConfigError(f"{path}: needs the table [sim] alone, has {sorted((*tree, 'sim'))}")
    known = {field.name for field in fields(Settings)}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{path}: sim.{key} is unknown; known: {sorted(known)}")
        is_flag_for_number = isinstance(value, bool) and _TYPES[key] is not bool
        if is_flag_for_number or not isinstance(value, _TYPES[key]):
            raise ConfigError(f"{path}: sim.{key}: {value!r} is of the wrong type")
    return table


def _of_daemon(daemon: config.Config) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bus": str(daemon.arm.port),
        "calibration": str(daemon.arm.calibration),
    }
    shapes = {}
    for index, camera in enumerate(daemon.cameras):
        name = camera.source.removeprefix("shm:")
        prefix, _, ending = name.rpartition("-")
        if name == camera.source or ending not in CAMERAS:
            raise ConfigError(
                f"{daemon.path}: camera[{index}].source: {camera.source!r} is none of a simulator: "
                f"shm:NAME-<{'|'.join(CAMERAS)}>"
            )
        shapes[prefix, camera.width, camera.height, camera.fps] = index
    if len(shapes) > 1:
        raise ConfigError(
            f"{daemon.path}: camera{list(shapes.values())}: the simulator's cameras have one NAME, "
            "width, height and fps"
        )
    for prefix, width, height, fps in shapes:
        found |= {"camera_prefix": prefix, "width": width, "height": height, "fps": fps}
    return found | {"cameras": bool(shapes)}
