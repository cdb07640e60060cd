"""The STS3215's registers, position loop and protections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlad.sim import registers as reg
from vlad.sim.registers import decode_sign_magnitude, encode_sign_magnitude
from vlad.sim.servo import TICKS_PER_RAD, Servo

DT_S = 0.0025


def word(servo: Servo, address: int) -> int:
    return int.from_bytes(servo.read(address, 2), "little")


def put_word(servo: Servo, address: int, value: int) -> None:
    servo.write(address, value.to_bytes(2, "little"))


def servo_at(ticks: float, homing_offset: int = 0) -> Servo:
    servo = Servo(1, homing_offset, 0, 4095)
    servo.power_up(ticks)
    servo.write(reg.TORQUE_ENABLE, b"\1")
    return servo


def turn(servo: Servo, seconds: float, start: float, inertia: float = 0.03) -> float:
    """A free shaft with an STS3215's friction under the servo's torque; where it ends, ticks."""
    position, speed = start / TICKS_PER_RAD, 0.0
    for _ in range(round(seconds / DT_S)):
        torque = servo.step(DT_S, position * TICKS_PER_RAD, speed * TICKS_PER_RAD, 12.0)
        speed = (speed + torque / inertia * DT_S) / (1 + 0.6 / inertia * DT_S)
        position += speed * DT_S
    return position * TICKS_PER_RAD


@pytest.mark.parametrize("bit", [10, 11, 15])
@given(data=st.data())
def test_sign_magnitude_round_trips(bit: int, data: st.DataObject) -> None:
    limit = (1 << bit) - 1
    value = data.draw(st.integers(-limit, limit))
    assert decode_sign_magnitude(encode_sign_magnitude(value, bit), bit) == value
    assert encode_sign_magnitude(-limit - 50, bit) == (1 << bit) | limit


def test_identity_is_that_of_a_calibrated_sts3215() -> None:
    servo = Servo(4, -612, 951, 3153)
    assert (word(servo, reg.MODEL), servo.id) == (777, 4)
    assert decode_sign_magnitude(word(servo, reg.HOMING_OFFSET), 11) == -612
    assert (word(servo, reg.MIN_POSITION), word(servo, reg.MAX_POSITION)) == (951, 3153)
    assert servo.read(reg.P_COEFFICIENT, 3) == bytes((16, 32, 0))
    assert servo.read(120, 20) == bytes(20)


def test_present_position_is_actual_minus_offset_and_wraps() -> None:
    servo = servo_at(100.0, homing_offset=1470)
    assert servo.present_ticks == (100 - 1470) % 4096
    put_word(servo, reg.HOMING_OFFSET, encode_sign_magnitude(-50, 11))
    assert servo.present_ticks == 150


def test_read_only_registers_keep_their_value() -> None:
    servo = servo_at(2000.0)
    before = servo.read(0, 5) + servo.read(reg.PRESENT_POSITION, 15)
    servo.write(0, b"\xff" * 5)
    servo.write(reg.PRESENT_POSITION, b"\xff" * 15)
    assert servo.read(0, 5) + servo.read(reg.PRESENT_POSITION, 15) == before


def test_it_goes_to_the_goal_and_not_past_its_limits() -> None:
    servo = servo_at(2048.0)
    put_word(servo, reg.GOAL_POSITION, 2600)
    assert turn(servo, 2.0, 2048.0) == pytest.approx(2600, abs=4)
    put_word(servo, reg.MAX_POSITION, 2400)
    put_word(servo, reg.GOAL_POSITION, 3900)
    assert turn(servo, 2.0, 2600.0) == pytest.approx(2400, abs=4)


def test_goal_velocity_and_acceleration_bound_the_motion() -> None:
    servo = servo_at(1000.0)
    put_word(servo, reg.GOAL_VELOCITY, 400)
    servo.write(reg.ACCELERATION, b"\x05")  # 500 ticks/s^2: 0.8 s to 400 ticks/s
    put_word(servo, reg.GOAL_POSITION, 3000)
    end = turn(servo, 1.8, 1000.0)
    ideal = 1000 + 400 * 0.4 + 400 * 1.0
    assert ideal - 60 < end < ideal + 10


def test_gravity_makes_it_sag_with_p_16_and_less_with_p_32() -> None:
    load_nm = 0.5
    sag = {}
    for p in (16, 32):
        servo = servo_at(2048.0)
        servo.write(reg.P_COEFFICIENT, bytes([p]))
        low, high = 1900.0, 2048.0
        while high - low > 0.5:  # the position at which the servo's torque holds the load
            middle = (low + high) / 2
            held = servo.step(DT_S, middle, 0.0, 12.0) >= load_nm
            low, high = (middle, high) if held else (low, middle)
        sag[p] = 2048 - low
    assert 7 < sag[32] < sag[16] < 25
    assert sag[16] == pytest.approx(2 * sag[32], abs=2)


def test_torque_off_means_no_torque_and_on_starts_from_where_it_is() -> None:
    servo = servo_at(2000.0)
    put_word(servo, reg.GOAL_POSITION, 3000)
    servo.write(reg.TORQUE_ENABLE, b"\0")
    assert servo.step(DT_S, 1500.0, 0.0, 12.0) == 0.0
    servo.write(reg.TORQUE_ENABLE, b"\1")
    first = servo.step(DT_S, 1500.0, 0.0, 12.0)
    assert 0 <= first < 0.2, "the profile starts at the present position, without a kick"


def test_overload_caps_the_torque_until_the_load_goes() -> None:
    servo = servo_at(2048.0)
    servo.write(reg.OVERLOAD_TORQUE, bytes((40,)))
    servo.write(reg.PROTECTION_TIME, bytes((50,)))  # 0.5 s
    put_word(servo, reg.GOAL_POSITION, 3000)
    for _ in range(400):  # 1 s against a wall at 2048
        torque = servo.step(DT_S, 2048.0, 0.0, 12.0)
    assert servo.status == reg.STATUS_OVERLOAD
    assert torque == pytest.approx(0.20 * 2.94, rel=0.01)
    put_word(servo, reg.GOAL_POSITION, 2050)
    for _ in range(800):
        servo.step(DT_S, 2048.0, 0.0, 12.0)
    assert servo.status == 0


@pytest.mark.parametrize(
    ("attribute", "value", "bit"),
    [
        ("forced_celsius", 71.0, reg.STATUS_TEMPERATURE),
        ("forced_volts", 3.5, reg.STATUS_VOLTAGE),
        ("forced_volts", 15.0, reg.STATUS_VOLTAGE),
        ("forced_overload", True, reg.STATUS_OVERLOAD),
    ],
)
def test_injected_conditions_show_in_status_and_clear(
    attribute: str, value: object, bit: int
) -> None:
    servo = servo_at(2048.0)
    setattr(servo, attribute, value)
    servo.step(DT_S, 2048.0, 0.0, 12.0)
    assert servo.status == servo.read(reg.STATUS, 1)[0] == bit
    servo.clear_faults()
    servo.step(DT_S, 2048.0, 0.0, 12.0)
    assert servo.status == 0


def test_an_overheated_servo_lets_go() -> None:
    servo = servo_at(2048.0)
    put_word(servo, reg.GOAL_POSITION, 2500)
    servo.forced_celsius = 80.0
    servo.step(DT_S, 2048.0, 0.0, 12.0)
    for _ in range(200):
        torque = servo.step(DT_S, 2048.0, 0.0, 12.0)
    assert torque == 0.0


def test_the_lock_decides_what_a_power_cut_forgets() -> None:
    servo = servo_at(2048.0)
    servo.write(reg.MAX_TEMPERATURE, b"\x50")  # locked: RAM only
    servo.power_down()
    servo.power_up(2048.0)
    assert servo.read(reg.MAX_TEMPERATURE, 1) == b"\x46"
    assert not servo.torque_enabled
    servo.write(reg.LOCK, b"\0")
    servo.write(reg.MAX_TEMPERATURE, b"\x50")
    servo.power_down()
    servo.power_up(2048.0)
    assert servo.read(reg.MAX_TEMPERATURE, 1) == b"\x50"


def test_torque_enable_128_makes_here_the_middle() -> None:
    servo = servo_at(3000.0)
    servo.write(reg.TORQUE_ENABLE, b"\x80")
    assert servo.present_ticks == 2048
    assert not servo.torque_enabled


@given(address=st.integers(0, 255), data=st.binary(min_size=1, max_size=250))
def test_no_write_breaks_the_servo(address: int, data: bytes) -> None:
    servo = servo_at(2048.0)
    servo.write(address, data)
    for ticks in (2048.0, 0.0, 4095.0, 1e6):
        torque = servo.step(DT_S, ticks, 100.0, 12.0)
        assert abs(torque) <= 2.94 + 1e-9
    assert len(servo.read(0, 128)) == 128
