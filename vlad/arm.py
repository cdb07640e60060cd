"""The arm: its joints, their limits and what LeRobot's calibration file says about them.

Positions are in units: radians about the middle of the calibrated range for a body joint, 0..1 of
the range for the gripper. Ticks appear here only as what csrc/feetech.c converts with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from vlad.errors import ConfigError

MAX_JOINTS = 8  # VLAD_MAX_JOINTS
TICKS_PER_TURN = 4096  # STS3215
MAX_STOP_NS = 300_000_000  # VLAD_STOP_MAX_NS
MAX_CALIBRATION_BYTES = 65536
NU_PER_UNIT = 1_000_000_000

Kind = Literal["body", "gripper"]
Tick = Annotated[int, msgspec.Meta(ge=0, le=TICKS_PER_TURN - 1)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One motor of LeRobot's calibration JSON; servo ticks.

    drive_mode turns the joint's direction in LeRobot's units only, not in the core's.
    """

    id: Annotated[int, msgspec.Meta(ge=0, le=253)]
    drive_mode: Annotated[int, msgspec.Meta(ge=0, le=1)]
    homing_offset: Annotated[int, msgspec.Meta(ge=-2047, le=2047)]
    range_min: Tick
    range_max: Tick


@dataclass(frozen=True, slots=True)
class Joint:
    """One joint as the core takes it.

    min, max: units, inside the calibrated range. v_max, a_max, j_max: units/s, /s^2, /s^3.
    """

    name: str
    id: int
    kind: Kind
    calibration: Calibration
    min: float
    max: float
    v_max: float
    a_max: float
    j_max: float

    @property
    def gripper(self) -> bool:
        return self.kind == "gripper"

    @property
    def range_min(self) -> int:
        return self.calibration.range_min

    @property
    def range_max(self) -> int:
        return self.calibration.range_max

    @property
    def direction(self) -> int:
        """1: the core counts as the servo does, whatever LeRobot's drive_mode says."""
        return 1

    @property
    def unit_nu(self) -> int:
        """Nano-units of one encoder tick, rounded down."""
        return tick_nu(self.kind, self.calibration)

    def to_ticks(self, position: float) -> int:
        """The tick nearest to a position in units: for logs and checks; csrc/feetech.c is exact."""
        c = self.calibration
        if self.gripper:
            return math.floor(c.range_min + position * (c.range_max - c.range_min) + 0.5)
        middle = (c.range_min + c.range_max) / 2
        return math.floor(middle + position * TICKS_PER_TURN / math.tau + 0.5)


def tick_nu(kind: Kind, calibration: Calibration) -> int:
    """Nano-units of one encoder tick of such a joint, rounded down."""
    if kind == "gripper":
        return NU_PER_UNIT // (calibration.range_max - calibration.range_min)
    return int(math.tau / TICKS_PER_TURN * NU_PER_UNIT)


def span(kind: Kind, calibration: Calibration) -> tuple[float, float]:
    """The calibrated range in units: (0, 1) for a gripper, symmetric radians for a body joint."""
    if kind == "gripper":
        return 0.0, 1.0
    half = (calibration.range_max - calibration.range_min) * math.pi / TICKS_PER_TURN
    return -half, half


def read_calibration(path: Path) -> dict[str, Calibration]:
    """LeRobot's calibration JSON: motor name -> Calibration.

    Raises ConfigError, naming file and key, when it cannot be read, is no such file, an entry lacks
    or has unknown keys, a value is out of range, a range is empty, or two motors share an id.
    Source of the format: `MotorCalibration` in lerobot/motors/motors_bus.py.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CALIBRATION_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; give the JSON file that LeRobot's calibration wrote"
        ) from error
    if len(text) > MAX_CALIBRATION_BYTES:
        raise ConfigError(f"{path}: over {MAX_CALIBRATION_BYTES} bytes is no calibration file")
    try:
        table = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON object of motors: {error}") from error
    if not isinstance(table, dict) or not table:
        raise ConfigError(f"{path}: not a JSON object of motors")
    motors = {name: _entry(path, name, entry) for name, entry in table.items()}
    owner: dict[int, str] = {}
    for name, motor in motors.items():
        if motor.id in owner:
            raise ConfigError(f"{path}: {name}.id: {motor.id} is also the id of {owner[motor.id]}")
        owner[motor.id] = name
    return motors


def calibration_json(motors: Mapping[str, Calibration]) -> bytes:
    """The file that `read_calibration` reads, laid out as LeRobot does."""
    return json.dumps({name: msgspec.structs.asdict(motor) for name, motor in motors.items()}, indent=4).encode()


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError(f"a key occurs twice among {[name for name, _ in pairs]}")
    return table


def _entry(path: Path, name: str, entry: object) -> Calibration:
    try:
        motor = msgspec.convert(entry, Calibration)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {name}: {error}") from error
    if motor.range_min >= motor.range_max:
        raise ConfigError(
            f"{path}: {name}: range_min {motor.range_min} >= range_max {motor.range_max}; "
            "calibrate the arm again"
        )
    return motor


@dataclass(frozen=True, slots=True)
class Stop:
    """How long a stop takes, and the joint and bound that is too much.

    problem: "" when the limits are good. joint: index of the first joint that breaks a bound.
    """

    stop_ns: int
    joint: int = -1
    problem: str = ""


def _window(rate: float, change: float, period_ns: int) -> int:
    """Ticks of the moving average that keeps a swing of 2 * rate within `change` per second."""
    per_tick = max(1, round(change * NU_PER_UNIT) * period_ns // NU_PER_UNIT)
    return -(-2 * round(rate * NU_PER_UNIT) // per_tick)


def stop_time(joints: Sequence[Joint], period_ns: int) -> Stop:
    """The longest stop of an arm, as vlad_trajectory_init() in csrc/trajectory.c computes it.

    The windows n1 = ceil(2 v / (a T)) and n2 = ceil(2 a / (j T)) are the largest of all joints; a
    stop takes n1 + n2 - 1 periods T.
    """
    n1 = n2 = 1
    for index, joint in enumerate(joints):
        ticks = round(joint.v_max * NU_PER_UNIT) * period_ns // NU_PER_UNIT // (joint.unit_nu + 1)
        n1 = max(n1, _window(joint.v_max, joint.a_max, period_ns))
        n2 = max(n2, _window(joint.a_max, joint.j_max, period_ns))
        stop_ns = (n1 + n2 - 1) * period_ns
        if ticks < 1:
            return Stop(stop_ns, index, "the speed limit is below one encoder tick per period")
        if stop_ns > MAX_STOP_NS:
            problem = (
                f"a stop at these limits takes {stop_ns / 1e6:.0f} ms "
                f"({n1} + {n2} - 1 periods), at most {MAX_STOP_NS / 1e6:.0f} ms are allowed: "
                "2 v/a + 2 a/j must be shorter"
            )
            return Stop(stop_ns, index, problem)
    return Stop((n1 + n2 - 1) * period_ns)


def check_motors(source: str, configured: Sequence[str], motors: Mapping[str, Calibration]) -> None:
    """ConfigError unless the calibration has exactly the configured joints."""
    missing = sorted(set(configured) - set(motors))
    extra = sorted(set(motors) - set(configured))
    if missing:
        raise ConfigError(f"{source}: has no motor {missing}; it has {sorted(motors)}")
    if extra:
        raise ConfigError(f"{source}: has motors {extra} that are no joints of this arm")
