"""The link between the servo loop and the arm's bus: opened, brought up, adopted, and reopened.

Adopting never moves the arm: the loop takes over the command that the servos hold already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from vlad._native.bus import Bus
from vlad.bringup import BringUp, bring_up
from vlad.bus import Port, open_port
from vlad.camera import Backoff
from vlad.config import Config
from vlad.errors import DeviceError
from vlad.safe_stop import write_state
from vlad.servo import MS, Servo

BRINGUP_TIMEOUT_NS = 20 * MS
NOT_READ = "the servos' calibration has not been read yet"


class ArmLink:
    """Owned by the supervisor (main thread).

    calibration_problem: how offsets and ranges in the servos differ from the file; "" when they do
    not. calibration_changed: called after every change of it, before the loop gets the bus: no
    torque and no motion on a calibration that was not compared.
    """

    def __init__(
        self, config: Config, servo: Servo, calibration_changed: Callable[[], None]
    ) -> None:
        self._config = config
        self._servo = servo
        self._port: Port | None = None
        self._backoff = Backoff()
        self._handed_over = 0  # buses, to the loop
        self._past: dict[str, int] = {}  # counters of the ports before this one
        self._log = structlog.get_logger("vlad.arm_link")
        self.reopened = 0
        self.calibration_problem = NOT_READ
        self._calibration_changed = calibration_changed

    def connect(self) -> None:
        """Opens and locks the port, brings the servos up, hands the bus to the loop.

        Raises DeviceError: port missing or in use (fault 49), servo missing or foreign.
        """
        arm = self._config.arm
        self.close()
        self._judge_calibration(NOT_READ)
        self._leave_state()
        port = open_port(arm.port, arm.baud)
        try:
            found = bring_up(
                Bus(port.fd, baud=arm.baud, timeout_ns=BRINGUP_TIMEOUT_NS), self._config.joints,
                arm.following_limit_rad,
            )
            self._judge_calibration("; ".join(found.calibration))
            self._servo.adopt_feetech(
                port.fd, arm.baud, self._config.joints, found.command_nu, found.torque_mask,
                self._config.period_ns // 2, round(self._config.servo.read_budget_ms * MS),
                found.max_torque_permille,
            )
        except OSError as error:
            port.close()
            raise DeviceError(f"{arm.port}: {error.strerror}") from error
        except BaseException:
            port.close()
            raise
        self._port = port
        self._handed_over += 1
        self._report(found, port)

    def _leave_state(self) -> None:
        """What vlad-safe-stop needs to know should this process die; in systemd's RuntimeDirectory."""
        if directory := os.environ.get("RUNTIME_DIRECTORY"):
            arm = self._config.arm
            write_state(Path(directory.split(":")[0]) / "safe-stop", arm.port, arm.baud,
                        self._config.joints, arm.following_limit_rad)

    def _judge_calibration(self, problem: str) -> None:
        self.calibration_problem = problem
        self._calibration_changed()

    def _report(self, found: BringUp, port: Port) -> None:
        self._log.info(
            "arm_adopted", port=port.path, device=port.device, torque_mask=found.torque_mask,
            command_ticks=list(found.command_ticks), configured=list(found.configured),
            low_latency=port.latency or "on",
        )
        for problem in (*found.calibration, *found.settings):
            self._log.warning("servo_differs", what=problem)

    def poll(self, now: int) -> None:
        """Reopens a lost bus, with a back-off. The fault that took it stays latched."""
        report = self._servo.report()
        if report["bus_up"] or report["adoptions"] < self._handed_over:
            return  # in use, or about to be: its descriptor must stay open
        if not self._backoff.due(now):
            return
        try:
            self.connect()
        except DeviceError as error:
            self._log.warning("arm_not_there", error=str(error))
            return
        self.reopened += 1
        self._backoff.reset()

    def counters(self) -> Mapping[str, int]:
        """Of the bus since the daemon started, all its openings together."""
        current = self._servo.bus_counters() if self._port is not None else {}
        total = {k: current.get(k, 0) + self._past.get(k, 0) for k in {**current, **self._past}}
        return total | {"reopened": self.reopened}

    def close(self) -> None:
        """Only when the loop does not use the port: stopped, or it has given the bus up."""
        if self._port is not None:
            self._past = {k: v for k, v in self.counters().items() if k != "reopened"}
            self._port.close()
            self._port = None
