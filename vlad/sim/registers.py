"""The STS3215's control table: addresses, widths and the values a calibrated servo powers up with.

Source: the STS/SMS memory table of Feetech's manual, as in LeRobot's motors/feetech/tables.py.
"""

from __future__ import annotations

SIZE = 128
MODEL_NUMBER = 777
FIRMWARE = (3, 10)

FIRMWARE_MAJOR = 0
FIRMWARE_MINOR = 1
MODEL = 3  # u16
ID = 5
BAUD_RATE = 6  # 0 is 1 Mbaud
RETURN_DELAY = 7  # 2 us each
RESPONSE_LEVEL = 8  # 0: only ping and read are answered
MIN_POSITION = 9  # u16
MAX_POSITION = 11  # u16
MAX_TEMPERATURE = 13  # Celsius
MAX_VOLTAGE = 14  # 0.1 V
MIN_VOLTAGE = 15  # 0.1 V
MAX_TORQUE = 16  # u16, 0.1 %
PHASE = 18
UNLOADING_CONDITION = 19  # status bits that take the torque off
LED_ALARM = 20
P_COEFFICIENT = 21
D_COEFFICIENT = 22
I_COEFFICIENT = 23
STARTUP_FORCE = 24  # u16
CW_DEAD_ZONE = 26
CCW_DEAD_ZONE = 27
PROTECTION_CURRENT = 28  # u16, 6.5 mA
ANGULAR_RESOLUTION = 30
HOMING_OFFSET = 31  # sign-magnitude, bit 11
OPERATING_MODE = 33
PROTECTIVE_TORQUE = 34  # %
PROTECTION_TIME = 35  # 10 ms
OVERLOAD_TORQUE = 36  # %
OVER_CURRENT_TIME = 38  # 10 ms
TORQUE_ENABLE = 40  # 0 off, 1 on, 128: the present position becomes 2048
ACCELERATION = 41  # 100 ticks/s^2
GOAL_POSITION = 42  # sign-magnitude, bit 15
GOAL_TIME = 44  # u16
GOAL_VELOCITY = 46  # sign-magnitude, bit 15, ticks/s; 0: as fast as it can
TORQUE_LIMIT = 48  # u16, 0.1 %
LOCK = 55  # 1: writes to the EEPROM area are lost with the power
PRESENT_POSITION = 56  # sign-magnitude, bit 15
PRESENT_VELOCITY = 58  # sign-magnitude, bit 15, ticks/s
PRESENT_LOAD = 60  # sign-magnitude, bit 10, 0.1 % of full duty
PRESENT_VOLTAGE = 62  # 0.1 V
PRESENT_TEMPERATURE = 63  # Celsius
STATUS = 65
MOVING = 66
PRESENT_CURRENT = 69  # u16, 6.5 mA
MOVING_THRESHOLD = 80
MAX_ACCELERATION = 85

EEPROM_END = 40
READ_ONLY = frozenset((*range(0, 5), *range(56, 80)))

STATUS_VOLTAGE = 0x01
STATUS_ENCODER = 0x02
STATUS_TEMPERATURE = 0x04
STATUS_CURRENT = 0x08
STATUS_OVERLOAD = 0x20

_DEFAULTS = (
    (FIRMWARE_MAJOR, FIRMWARE[0], 1),
    (FIRMWARE_MINOR, FIRMWARE[1], 1),
    (MODEL, MODEL_NUMBER, 2),
    (RESPONSE_LEVEL, 1, 1),
    (MAX_TEMPERATURE, 70, 1),
    (MAX_VOLTAGE, 140, 1),
    (MIN_VOLTAGE, 40, 1),
    (MAX_TORQUE, 1000, 2),
    (PHASE, 12, 1),
    (UNLOADING_CONDITION, 44, 1),
    (LED_ALARM, 47, 1),
    (P_COEFFICIENT, 16, 1),
    (D_COEFFICIENT, 32, 1),
    (STARTUP_FORCE, 16, 2),
    (CW_DEAD_ZONE, 1, 1),
    (CCW_DEAD_ZONE, 1, 1),
    (PROTECTION_CURRENT, 500, 2),
    (ANGULAR_RESOLUTION, 1, 1),
    (PROTECTIVE_TORQUE, 20, 1),
    (PROTECTION_TIME, 200, 1),
    (OVERLOAD_TORQUE, 80, 1),
    (37, 10, 1),
    (OVER_CURRENT_TIME, 200, 1),
    (39, 10, 1),
    (ACCELERATION, 254, 1),
    (LOCK, 1, 1),
    (MOVING_THRESHOLD, 10, 1),
    (81, 20, 1),
    (82, 1, 1),
    (MAX_ACCELERATION, 254, 1),
)


def factory_image() -> bytearray:
    """The register file of a servo that LeRobot has configured (P 16, D 32, no return delay).

    Returns:
        SIZE bytes; identity and calibration (ID, limits, homing offset) are still zero.
    """
    image = bytearray(SIZE)
    for address, value, width in _DEFAULTS:
        image[address : address + width] = value.to_bytes(width, "little")
    return image


def encode_sign_magnitude(value: int, sign_bit: int) -> int:
    """Magnitude in the bits below `sign_bit`, saturated; the sign in `sign_bit`."""
    magnitude = min(abs(value), (1 << sign_bit) - 1)
    return magnitude | (1 << sign_bit) if value < 0 else magnitude


def decode_sign_magnitude(raw: int, sign_bit: int) -> int:
    """The inverse of encode_sign_magnitude; bits above `sign_bit` are ignored."""
    magnitude = raw & ((1 << sign_bit) - 1)
    return -magnitude if raw >> sign_bit & 1 else magnitude
