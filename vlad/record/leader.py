"""A leader arm: a second SO-101 without torque, whose joints the follower copies."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from vlad import eeprom
from vlad._native.bus import Bus, Scale
from vlad.arm import Calibration, Joint, check_motors
from vlad.bringup import calibration_differences, read_servos
from vlad.bus import Port, open_port
from vlad.errors import DeviceError
from vlad.record.rig import Floats
from vlad.servo import MS, now_ns
from vlad.units import JointRange, JointUnits

READ_S = 0.01
SILENT_NS = 150 * MS  # a pose older than this is none
BUS_TIMEOUT_NS = 20 * MS


class Leader:
    """Read at 100 Hz on a thread of its own, so that a bus that does not answer delays nobody.

    port: of the leader's bus. motors: its calibration. joints: of the follower, which they are matched to by name: a
    body joint by its angle about the middle of its range, a gripper by its share of it, as LeRobot does.
    """

    name = "leader"

    def __init__(self, port: str, motors: Mapping[str, Calibration], joints: Sequence[Joint], baud: int) -> None:
        check_motors("the leader's calibration", [joint.name for joint in joints], motors)
        self._joints = tuple(
            dataclasses.replace(joint, id=motors[joint.name].id, calibration=motors[joint.name]) for joint in joints
        )
        self._scales = [Scale(j.range_min, j.range_max, gripper=j.gripper) for j in self._joints]
        self._from_leader, self._to_follower = _units(self._joints), _units(joints)
        self._path, self._baud = port, baud
        self._port: Port | None = None
        self._newest: tuple[int, Floats] | None = None
        self._why = "it has not been read yet"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Opens the bus, takes the torque off, waits for the first pose. Raises DeviceError: the port, a servo, or a
        calibration other than that in the servos' EEPROM."""
        self._port = open_port(self._path, self._baud)
        try:
            bus = Bus(self._port.fd, baud=self._baud, timeout_ns=BUS_TIMEOUT_NS)
            servos = read_servos(bus, self._joints)
            if differences := calibration_differences(self._joints, servos):
                raise DeviceError(f"{self._path}: the leader's calibration is not that of its servos: "
                                  f"{'; '.join(differences)}; see `vlad calibrate --help`")  # fmt: skip
            for joint, servo in zip(self._joints, servos, strict=True):
                if servo.torque_on:
                    eeprom.release(bus, joint.name, joint.id)
            self._newest = now_ns(), self._read(bus)
        except BaseException:
            self._port.close()
            raise
        self._thread = threading.Thread(target=self._run, args=(bus,), name="vlad-leader", daemon=True)
        self._thread.start()

    def begin(self, pose: Floats) -> None:
        """Nothing: the leader is where it is."""

    def goals_rad(self, now_ns: int) -> Floats | None:
        newest = self._newest
        return None if newest is None or now_ns - newest[0] > SILENT_NS else newest[1]

    @property
    def problem(self) -> str:
        return "" if self.goals_rad(now_ns()) is not None else f"the leader at {self._path} is silent: {self._why}"

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
        if self._port is not None:
            with contextlib.suppress(OSError):  # unplugged
                self._port.close()

    def _run(self, bus: Bus) -> None:
        while not self._stop.wait(READ_S):
            t_ns = now_ns()
            try:
                self._newest = t_ns, self._read(bus)
            except (DeviceError, OSError) as error:
                self._why = str(error)

    def _read(self, bus: Bus) -> Floats:
        ticks = eeprom.positions(bus, [joint.id for joint in self._joints])
        own = [scale.to_nu(t) / 1e9 for scale, t in zip(self._scales, ticks, strict=True)]
        return self._to_follower.to_core(self._from_leader.from_core(np.array(own)))


def _units(joints: Sequence[Joint]) -> JointUnits:
    """To and from what both arms mean by the same number: LeRobot's degrees, and 0..100 of a gripper."""
    ranges = {j.name: JointRange(j.range_min, j.range_max, j.calibration.drive_mode) for j in joints}
    return JointUnits("degrees", list(ranges), [j.gripper for j in joints], ranges)
