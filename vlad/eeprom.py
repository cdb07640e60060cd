"""A calibration in the servos' own memory: registers 31 (homing offset), 9 and 11 (range)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlad._native.bus import Bus, signed
from vlad.arm import Calibration
from vlad.bringup import Servo
from vlad.errors import DeviceError

TORQUE_ENABLE, LOCK, PRESENT_POSITION = 40, 55, 56
_HOMING_OFFSET, _MIN, _MAX = 31, 9, 11
_SIGN_BIT = 11


def stored(servos: Sequence[Servo], drive_modes: Mapping[str, int]) -> dict[str, Calibration]:
    """What the servos hold, by name. They know of no drive_mode: it is taken from `drive_modes`, else 0."""
    return {
        servo.name: Calibration(
            servo.id, drive_modes.get(servo.name, 0), servo.homing_offset_ticks, servo.range_min_ticks,
            servo.range_max_ticks,
        )
        for servo in servos
    }


def store(bus: Bus, name: str, motor: Calibration) -> None:
    """Writes a servo's calibration for good, and reads it back.

    The servo must have no torque: its present position changes with the offset, and it would drive to a goal that
    means another place now. Raises DeviceError when it has, and when it does not take a value.
    """
    if bus.read(motor.id, TORQUE_ENABLE, 1) != b"\0":
        raise DeviceError(f"{name} (id {motor.id}) has torque: it would move when its calibration changes")
    offset = abs(motor.homing_offset) | (motor.homing_offset < 0) << _SIGN_BIT
    values = {"homing offset": (_HOMING_OFFSET, offset), "range_min": (_MIN, motor.range_min),
              "range_max": (_MAX, motor.range_max)}  # fmt: skip
    bus.write(motor.id, LOCK, b"\0")
    try:
        for what, (address, value) in values.items():
            data = value.to_bytes(2, "little")
            bus.write(motor.id, address, data)
            if (found := bus.read(motor.id, address, 2)) != data:
                raise DeviceError(f"{name} (id {motor.id}): {what} does not take {value}; "
                                  f"it reads {int.from_bytes(found, 'little')}")  # fmt: skip
    finally:
        bus.write(motor.id, LOCK, b"\1")


def release(bus: Bus, name: str, id: int) -> None:
    """Takes the torque off. Raises DeviceError when it stays on."""
    bus.write(id, TORQUE_ENABLE, b"\0")
    if bus.read(id, TORQUE_ENABLE, 1) != b"\0":
        raise DeviceError(f"{name} (id {id}) keeps its torque")


def positions(bus: Bus, ids: Sequence[int]) -> list[int]:
    """Present positions, ticks. Raises DeviceError when one does not answer."""
    replies = bus.sync_read(ids, PRESENT_POSITION, 2)
    if missing := [id for id in ids if id not in replies]:
        raise DeviceError(f"no answer from id {', '.join(map(str, missing))}")
    return [signed(int.from_bytes(replies[id], "little"), 15) for id in ids]
