"""From a port to an arm that may be controlled: who answers, is it calibrated, what holds it.

Nothing here moves the arm: torque is neither turned on nor off, and no goal is written. Settings
are written only to servos whose torque is off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlad._native.bus import Bus, Scale, signed
from vlad.arm import TICKS_PER_TURN, Joint
from vlad.errors import DeviceError

MODEL_NUMBER = 777  # STS3215
_ATTEMPTS = 3

# The control table in two reads: address of the first byte, number of bytes.
_STORED = (3, 36)
_VOLATILE = (40, 24)
_LOCK = 55
_TORQUE_LIMIT = 48


@dataclass(frozen=True, slots=True)
class Setting:
    """A register and the value it is to have."""

    name: str
    address: int
    size: int
    value: int


# As LeRobot's SO-101 follower configures them (robots/so_follower/so_follower.py).
SETTINGS = (
    Setting("return delay", 7, 1, 0),
    Setting("P", 21, 1, 16),
    Setting("D", 22, 1, 32),
    Setting("I", 23, 1, 0),
    Setting("operating mode", 33, 1, 0),
    Setting("acceleration", 41, 1, 254),
)
GRIPPER_SETTINGS = (
    Setting("max torque", 16, 2, 500),  # it closes on objects: bounded by torque, not by position
    Setting("protection current", 28, 2, 250),
    Setting("overload torque", 36, 1, 25),
)


@dataclass(frozen=True, slots=True)
class Servo:
    """One servo as found. Ticks; permille of full torque; status: its error byte."""

    name: str
    id: int
    status: int
    torque_on: bool
    goal_ticks: int
    present_ticks: int
    homing_offset_ticks: int
    range_min_ticks: int
    range_max_ticks: int
    torque_limit_permille: int
    max_torque_permille: int
    voltage_mv: int
    temperature_c: int
    registers: bytes  # of addresses 3..63; 39 is read as 0

    def value(self, setting: Setting) -> int:
        at = setting.address - _STORED[0]
        return int.from_bytes(self.registers[at : at + setting.size], "little")


@dataclass(frozen=True, slots=True)
class BringUp:
    """What the servo loop adopts. All in joint order.

    torque_mask: bit j = joint j has torque. command_ticks, command_nu: the command in force, where
    the arm is or is driven to already, so that adopting it moves nothing.
    calibration: how servos and calibration file differ; the arm must not be engaged unless empty.
    settings: what is not as it should be and stays so, because torque is on. configured: what was
    changed.
    """

    servos: tuple[Servo, ...]
    torque_mask: int
    command_ticks: tuple[int, ...]
    command_nu: tuple[int, ...]
    calibration: tuple[str, ...]
    settings: tuple[str, ...]
    configured: tuple[str, ...]

    @property
    def torque_on(self) -> bool:
        return self.torque_mask == (1 << len(self.servos)) - 1

    @property
    def max_torque_permille(self) -> tuple[int, ...]:
        return tuple(servo.max_torque_permille for servo in self.servos)


@dataclass(frozen=True, slots=True)
class Examined:
    """What `examine` found. In joint order; calibration and settings as in BringUp."""

    servos: tuple[Servo, ...]
    calibration: tuple[str, ...]
    settings: tuple[str, ...]


def examine(bus: Bus, joints: Sequence[Joint]) -> Examined:
    """Find and read every servo; nothing is written. Raises DeviceError as bring_up()."""
    servos = read_servos(bus, joints)
    return Examined(servos, calibration_differences(joints, servos), _all_changes(joints, servos))


def bring_up(bus: Bus, joints: Sequence[Joint], following_limit_rad: float) -> BringUp:
    """Find every servo, compare it with the calibration, configure those without torque.

    following_limit_rad: how far a body joint may be from its goal before the goal counts as not in
    force (arm.following_limit_rad of the config).

    Raises:
        DeviceError: a servo is missing or no STS3215 (all are named), or the line failed.
    """
    found = read_servos(bus, joints)
    configured = [
        f"{joint.name} (id {joint.id}): {change}"
        for joint, servo in zip(joints, found, strict=True)
        for change in _configure(bus, joint, servo)
    ]
    servos = tuple(_read_servo(bus, joint) for joint in joints)
    limit_ticks = round(following_limit_rad * TICKS_PER_TURN / math.tau)
    command = tuple(
        command_ticks(servo, limit_ticks, gripper=joint.gripper)
        for joint, servo in zip(joints, servos, strict=True)
    )
    return BringUp(
        servos=servos,
        torque_mask=sum(1 << j for j, servo in enumerate(servos) if servo.torque_on),
        command_ticks=command,
        command_nu=tuple(
            _scale(joint).to_nu(ticks) for joint, ticks in zip(joints, command, strict=True)
        ),
        calibration=calibration_differences(joints, servos),
        settings=_all_changes(joints, servos),
        configured=tuple(configured),
    )


def read_servos(bus: Bus, joints: Sequence[Joint]) -> tuple[Servo, ...]:
    """Every servo as it is, in joint order; nothing is written. Raises as `bring_up`."""
    _find(bus, joints)
    return tuple(_read_servo(bus, joint) for joint in joints)


def calibration_differences(joints: Sequence[Joint], servos: Sequence[Servo]) -> tuple[str, ...]:
    """How the servos' EEPROM differs from the calibration of the joints, in words."""
    return tuple(
        difference
        for joint, servo in zip(joints, servos, strict=True)
        for difference in _calibration_differences(joint, servo)
    )


def command_ticks(servo: Servo, limit_ticks: int, *, gripper: bool) -> int:
    """The command in force: where the servo drives to, or where it is.

    Without torque the goal register says nothing. With torque and the arm close to its goal the
    goal is kept, because present positions as goals would let a sagging arm down bit by bit; far
    from it (an obstacle) it would push. A gripper closed on an object never reaches its goal.
    """
    if not servo.torque_on:
        return servo.present_ticks
    if gripper and servo.range_min_ticks <= servo.goal_ticks <= servo.range_max_ticks:
        return servo.goal_ticks
    near = abs(servo.goal_ticks - servo.present_ticks) <= limit_ticks
    return servo.goal_ticks if near else servo.present_ticks


def _scale(joint: Joint) -> Scale:
    c = joint.calibration
    return Scale(c.range_min, c.range_max, gripper=joint.gripper)


def _patiently(bus: Bus, id: int, address: int, n: int) -> bytes:
    """A lone damaged reply at start-up is no reason to give up; the bus counts it."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return bus.read(id, address, n)
        except DeviceError:
            if bus.ping(id) is None:
                break
    return bus.read(id, address, n)


def _find(bus: Bus, joints: Sequence[Joint]) -> None:
    silent, foreign = [], []
    for joint in joints:
        if all(bus.ping(joint.id) is None for _ in range(_ATTEMPTS)):
            silent.append(f"{joint.name} (id {joint.id})")
            continue
        model = int.from_bytes(_patiently(bus, joint.id, _STORED[0], 2), "little")
        if model != MODEL_NUMBER:
            foreign.append(f"{joint.name} (id {joint.id}) is model {model}")
    problems = []
    if len(silent) == len(joints):
        problems.append("no servo answers; is the servo supply on, and the bus speed right?")
    elif silent:
        problems.append(f"no answer from {', '.join(silent)}; check its cable and id")
    if foreign:
        problems.append(f"{', '.join(foreign)}; STS3215 servos (model {MODEL_NUMBER}) are needed")
    if problems:
        raise DeviceError("servo bus: " + "; ".join(problems))


def _read_servo(bus: Bus, joint: Joint) -> Servo:
    stored = _patiently(bus, joint.id, *_STORED)
    volatile = _patiently(bus, joint.id, *_VOLATILE)
    registers = stored + b"\0" + volatile
    status = bus.ping(joint.id)

    def word(address: int) -> int:
        at = address - _STORED[0]
        return int.from_bytes(registers[at : at + 2], "little")

    return Servo(
        name=joint.name,
        id=joint.id,
        status=status or 0,
        torque_on=volatile[0] != 0,
        goal_ticks=signed(word(42), 15),
        present_ticks=signed(word(56), 15),
        homing_offset_ticks=signed(word(31), 11),
        range_min_ticks=word(9),
        range_max_ticks=word(11),
        torque_limit_permille=word(_TORQUE_LIMIT),
        max_torque_permille=word(16),
        voltage_mv=registers[62 - _STORED[0]] * 100,
        temperature_c=registers[63 - _STORED[0]],
        registers=registers,
    )


def _calibration_differences(joint: Joint, servo: Servo) -> list[str]:
    c = joint.calibration
    pairs = (
        ("homing offset", servo.homing_offset_ticks, c.homing_offset),
        ("range_min", servo.range_min_ticks, c.range_min),
        ("range_max", servo.range_max_ticks, c.range_max),
    )
    return [
        f"{joint.name} (id {joint.id}): {name} is {found} in the servo, {wanted} in the file"
        for name, found, wanted in pairs
        if found != wanted
    ]


def _all_changes(joints: Sequence[Joint], servos: Sequence[Servo]) -> tuple[str, ...]:
    return tuple(
        f"{joint.name} (id {joint.id}): {change}"
        for joint, servo in zip(joints, servos, strict=True)
        for _, change in _changes(joint, servo)
    )


def _changes(joint: Joint, servo: Servo) -> list[tuple[Setting, str]]:
    """The settings that are not as they should be, each with the change in words."""
    wanted = (*SETTINGS, *(GRIPPER_SETTINGS if joint.gripper else ()))
    max_torque = next((s.value for s in wanted if s.address == 16), servo.max_torque_permille)
    # After a park that let the arm down, or a fault that halved it, the limit is still lowered.
    wanted = (*wanted, Setting("torque limit", _TORQUE_LIMIT, 2, max_torque))
    return [
        (s, f"{s.name} {servo.value(s)} -> {s.value}") for s in wanted if servo.value(s) != s.value
    ]


def _configure(bus: Bus, joint: Joint, servo: Servo) -> list[str]:
    changes = [] if servo.torque_on else _changes(joint, servo)
    if not changes:
        return []
    bus.write(joint.id, _LOCK, b"\0")  # else stored settings are lost with the power
    for setting, _ in changes:
        data = setting.value.to_bytes(setting.size, "little")
        bus.write(joint.id, setting.address, data)
        if (found := bus.read(joint.id, setting.address, setting.size)) != data:
            raise DeviceError(
                f"{joint.name} (id {joint.id}): {setting.name} does not take {setting.value}; "
                f"it reads {int.from_bytes(found, 'little')}"
            )
    bus.write(joint.id, _LOCK, b"\1")
    return [change for _, change in changes]
