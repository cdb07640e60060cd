"""One STS3215: its registers, its position loop and its protections, without a clock or a wire.

Stall torque 2.94 N m at 12 V and 0.222 s per 60 degrees at no load are Feetech's figures. The
stiffness of 17.8 N m/rad at P = 16 is the gain in TheRobotStudio/SO-ARM100,
Simulation/SO101/joints_properties.xml (taken there from Open_Duck_Playground; later revisions of the
arm's model use 998). With I = 0 the stretched arm then sags by about two degrees. Neither was compared
with a real servo here.
"""

from __future__ import annotations

import copy
import math

from vlad.sim import registers as reg
from vlad.sim.registers import decode_sign_magnitude, encode_sign_magnitude

TICKS_PER_TURN = 4096
TICKS_PER_RAD = TICKS_PER_TURN / (2.0 * math.pi)
RATED_V = 12.0
STALL_TORQUE_NM = 2.94
NO_LOAD_RAD_S = math.pi / 3.0 / 0.222
STALL_CURRENT_A = 2.7
CURRENT_UNIT_A = 0.0065
AMBIENT_C = 25.0
_DUTY_PER_RAD_PER_P = 17.8 / STALL_TORQUE_NM / 16.0
_DUTY_PER_RAD_S_PER_D = 0.6 / STALL_TORQUE_NM / 32.0
_DUTY_PER_RAD_S_PER_I = 0.5 / STALL_TORQUE_NM
_HEATING_C = 55.0
_HEATING_S = 240.0


class Servo:
    """The register file and the control loop of one servo.

    step() is called with the shaft's state and returns the torque on it; read() and write() are
    what the bus does. Single-threaded.
    """

    __slots__ = (
        "_actual",
        "_duty",
        "_eeprom",
        "_i_duty",
        "_over_current_s",
        "_overload_s",
        "_registers",
        "_setpoint",
        "_setpoint_speed",
        "_speed",
        "_voltage_v",
        "encoder_jump_ticks",
        "forced_celsius",
        "forced_overload",
        "forced_volts",
        "powered",
        "temperature_c",
    )

    def __init__(self, servo_id: int, homing_offset: int, range_min: int, range_max: int) -> None:
        self._registers = reg.factory_image()
        self._registers[reg.ID] = servo_id
        self._put16(reg.HOMING_OFFSET, encode_sign_magnitude(homing_offset, 11))
        self._put16(reg.MIN_POSITION, range_min)
        self._put16(reg.MAX_POSITION, range_max)
        self._eeprom = bytes(self._registers[: reg.EEPROM_END])
        self._actual = 0.0
        self._speed = 0.0
        self._duty = 0.0
        self._i_duty = 0.0
        self._setpoint = 0.0
        self._setpoint_speed = 0.0
        self._overload_s = 0.0
        self._over_current_s = 0.0
        self._voltage_v = RATED_V
        self.temperature_c = AMBIENT_C
        self.powered = True
        self.encoder_jump_ticks = 0
        self.forced_celsius: float | None = None
        self.forced_volts: float | None = None
        self.forced_overload = False
        self.power_up(0.0)

    @property
    def id(self) -> int:
        return self._registers[reg.ID]

    @property
    def torque_enabled(self) -> bool:
        return self._registers[reg.TORQUE_ENABLE] == 1

    @property
    def status(self) -> int:
        """The status byte that every reply carries."""
        return self._registers[reg.STATUS]

    @property
    def return_delay_ns(self) -> int:
        return self._registers[reg.RETURN_DELAY] * 2_000

    @property
    def answers_writes(self) -> bool:
        return self._registers[reg.RESPONSE_LEVEL] != 0

    @property
    def goal_ticks(self) -> int:
        return decode_sign_magnitude(self._get16(reg.GOAL_POSITION), 15)

    @property
    def present_ticks(self) -> int:
        """Present_Position: the encoder minus the homing offset, 0..4095."""
        return math.floor(self._present())

    @property
    def current_a(self) -> float:
        return abs(self._duty) * STALL_CURRENT_A

    @property
    def load_permille(self) -> int:
        """Present_Load: the motor's duty, signed."""
        return round(self._duty * 1000.0)

    def take_state(self, other: Servo) -> None:
        """Become as `other` is."""
        for name in self.__slots__:
            setattr(self, name, copy.copy(getattr(other, name)))

    def power_up(self, actual_ticks: float) -> None:
        """Start with the saved EEPROM, torque off, and the goal where the shaft is."""
        self._registers[:] = reg.factory_image()
        self._registers[: reg.EEPROM_END] = self._eeprom
        self._put16(reg.TORQUE_LIMIT, self._get16(reg.MAX_TORQUE))
        self.powered = True
        self._actual = actual_ticks
        self._put16(reg.GOAL_POSITION, self.present_ticks)
        self._rest()

    def power_down(self) -> None:
        """Lose the supply: no torque, no answers, RAM gone."""
        self.powered = False
        self._duty = 0.0

    def recalibrate(self, homing_offset: int, range_min: int, range_max: int) -> None:
        """What another servo in its place, or somebody's calibration, would leave."""
        self._put16(reg.HOMING_OFFSET, encode_sign_magnitude(homing_offset, 11))
        self._put16(reg.MIN_POSITION, range_min)
        self._put16(reg.MAX_POSITION, range_max)
        self._eeprom = bytes(self._registers[: reg.EEPROM_END])

    def clear_faults(self) -> None:
        """End every injected fault of this servo."""
        self.encoder_jump_ticks = 0
        self.forced_celsius = None
        self.forced_volts = None
        self.forced_overload = False

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from `address`; addresses past the table read as zero."""
        self._refresh()
        return bytes(self._registers[address : address + length]).ljust(length, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Write registers as the servo does: read-only and missing addresses keep their value."""
        was_on = self.torque_enabled
        for at, value in enumerate(data, address):
            if at < reg.SIZE and at not in reg.READ_ONLY:
                self._registers[at] = value
        if self._registers[reg.LOCK] == 0:
            self._eeprom = bytes(self._registers[: reg.EEPROM_END])
        if self._registers[reg.TORQUE_ENABLE] == 128:
            offset = (int(self._encoder()) - TICKS_PER_TURN // 2 + 2048) % TICKS_PER_TURN - 2048
            self._put16(reg.HOMING_OFFSET, encode_sign_magnitude(offset, 11))
            self._registers[reg.TORQUE_ENABLE] = 0
        if self.torque_enabled and not was_on:
            self._rest()
        if address <= reg.MAX_TORQUE + 1 and address + len(data) > reg.MAX_TORQUE:
            self._put16(reg.TORQUE_LIMIT, self._get16(reg.MAX_TORQUE))

    def step(
        self, dt_s: float, actual_ticks: float, speed_ticks_s: float, supply_v: float
    ) -> float:
        """Advance the control loop by dt_s.

        Args:
            dt_s: time since the last call.
            actual_ticks: the shaft's angle at the encoder, ticks, any turn.
            speed_ticks_s: its speed, ticks/s.
            supply_v: the supply at this servo's connector, V.

        Returns:
            The motor's torque on the shaft, N m; back-EMF and friction are the joint's damping.
        """
        self._actual = actual_ticks
        self._speed = speed_ticks_s
        self._voltage_v = supply_v if self.forced_volts is None else self.forced_volts
        if not self.powered:
            return 0.0
        self._duty = self._control(dt_s) if self.torque_enabled else 0.0
        if not self.torque_enabled:
            self._rest()
        self._protect(dt_s)
        return self._duty * STALL_TORQUE_NM * self._voltage_v / RATED_V

    def _control(self, dt_s: float) -> float:
        registers = self._registers
        if registers[reg.OPERATING_MODE] != 0:
            return 0.0  # Only position mode is modelled: the other modes leave the motor off.
        present = self._present()
        self._advance_setpoint(dt_s)
        error = self._setpoint - present
        dead = registers[reg.CW_DEAD_ZONE if error > 0 else reg.CCW_DEAD_ZONE]
        if -dead < error < dead:
            error = 0.0
        error_rad = error / TICKS_PER_RAD
        slip_rad_s = (self._setpoint_speed - self._speed) / TICKS_PER_RAD
        limit = min(self._get16(reg.TORQUE_LIMIT), self._get16(reg.MAX_TORQUE), 1000) / 1000.0
        gain_i = registers[reg.I_COEFFICIENT]
        if gain_i:
            self._i_duty += error_rad * gain_i * _DUTY_PER_RAD_S_PER_I * dt_s
            self._i_duty = min(max(self._i_duty, -limit), limit)
        else:
            self._i_duty = 0.0
        duty = (
            error_rad * registers[reg.P_COEFFICIENT] * _DUTY_PER_RAD_PER_P
            + slip_rad_s * registers[reg.D_COEFFICIENT] * _DUTY_PER_RAD_S_PER_D
            + self._i_duty
        )
        status = registers[reg.STATUS]
        unload = status & registers[reg.UNLOADING_CONDITION]
        if unload & ~reg.STATUS_OVERLOAD:
            return 0.0
        if unload:
            limit = min(limit, registers[reg.PROTECTIVE_TORQUE] / 100.0)
        return min(max(duty, -limit), limit)

    def _advance_setpoint(self, dt_s: float) -> None:
        """The servo's own trapezoidal profile from where it stands to the clipped goal."""
        goal = float(self.goal_ticks)
        low, high = self._get16(reg.MIN_POSITION), self._get16(reg.MAX_POSITION)
        if high > low:
            goal = min(max(goal, low), high)
        distance = goal - self._setpoint
        top = NO_LOAD_RAD_S * TICKS_PER_RAD * self._voltage_v / RATED_V
        wanted = abs(decode_sign_magnitude(self._get16(reg.GOAL_VELOCITY), 15))
        if wanted:
            top = min(top, float(wanted))
        steps = self._registers[reg.ACCELERATION] or 255
        accel = 100.0 * min(steps, self._registers[reg.MAX_ACCELERATION] or 255)
        change = accel * dt_s
        # The speed from which whole steps of braking end on the goal, not beyond it.
        braking = math.sqrt(2.0 * accel * abs(distance) + 0.25 * change * change) - 0.5 * change
        speed = math.copysign(min(top, braking, abs(distance) / dt_s), distance)
        speed = min(max(speed, self._setpoint_speed - change), self._setpoint_speed + change)
        self._setpoint_speed = speed
        self._setpoint += speed * dt_s

    def _protect(self, dt_s: float) -> None:
        registers = self._registers
        load = abs(self._duty)
        settling_c = AMBIENT_C + _HEATING_C * load * load
        self.temperature_c += (settling_c - self.temperature_c) / _HEATING_S * dt_s
        overloaded = load * 100.0 > registers[reg.OVERLOAD_TORQUE]
        held = registers[reg.STATUS] & reg.STATUS_OVERLOAD
        if held:
            # The protective cap ends when the load no longer asks for it.
            overloaded = load * 100.0 >= registers[reg.PROTECTIVE_TORQUE] and self.torque_enabled
        self._overload_s = self._overload_s + dt_s if overloaded else 0.0
        over_current = self.current_a > self._get16(reg.PROTECTION_CURRENT) * CURRENT_UNIT_A
        self._over_current_s = self._over_current_s + dt_s if over_current else 0.0
        status = 0
        if not registers[reg.MIN_VOLTAGE] <= self._voltage_v * 10.0 <= registers[reg.MAX_VOLTAGE]:
            status |= reg.STATUS_VOLTAGE
        if self._celsius() > registers[reg.MAX_TEMPERATURE]:
            status |= reg.STATUS_TEMPERATURE
        if self._over_current_s * 100.0 > registers[reg.OVER_CURRENT_TIME]:
            status |= reg.STATUS_CURRENT
        if (
            self.forced_overload
            or (held and overloaded)
            or self._overload_s * 100.0 > registers[reg.PROTECTION_TIME]
        ):
            status |= reg.STATUS_OVERLOAD
        registers[reg.STATUS] = status

    def _refresh(self) -> None:
        registers = self._registers
        self._put16(reg.PRESENT_POSITION, encode_sign_magnitude(self.present_ticks, 15))
        self._put16(reg.PRESENT_VELOCITY, encode_sign_magnitude(round(self._speed), 15))
        self._put16(reg.PRESENT_LOAD, encode_sign_magnitude(self.load_permille, 10))
        self._put16(reg.PRESENT_CURRENT, round(self.current_a / CURRENT_UNIT_A))
        registers[reg.PRESENT_VOLTAGE] = min(max(round(self._voltage_v * 10.0), 0), 255)
        registers[reg.PRESENT_TEMPERATURE] = min(max(round(self._celsius()), 0), 255)
        turning = abs(self._speed) > registers[reg.MOVING_THRESHOLD]
        registers[reg.MOVING] = int(
            self.torque_enabled and (turning or abs(self._setpoint_speed) > 0.0)
        )

    def _rest(self) -> None:
        self._setpoint = self._present()
        self._setpoint_speed = 0.0
        self._i_duty = 0.0

    def _celsius(self) -> float:
        return self.temperature_c if self.forced_celsius is None else self.forced_celsius

    def _encoder(self) -> float:
        return (self._actual + self.encoder_jump_ticks) % TICKS_PER_TURN

    def _present(self) -> float:
        offset = decode_sign_magnitude(self._get16(reg.HOMING_OFFSET), 11)
        return (self._encoder() - offset) % TICKS_PER_TURN

    def _get16(self, address: int) -> int:
        return self._registers[address] | self._registers[address + 1] << 8

    def _put16(self, address: int, value: int) -> None:
        self._registers[address] = value & 0xFF
        self._registers[address + 1] = value >> 8 & 0xFF
