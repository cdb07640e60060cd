"""The servo bus: its adapter, how fast it answers, and what the servos hold. Nothing is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlad._native.bus import Bus
from vlad.arm import Joint
from vlad.bringup import Examined
from vlad.bringup import examine as examine_servos
from vlad.bus import Port, open_port
from vlad.config import Config
from vlad.doctor.finding import Finding
from vlad.doctor.root import Root
from vlad.errors import DeviceError
from vlad.servo import MS, now_ns
from vlad.small_file import Unreadable

AREA = "bus"
READS = 100
TIMEOUT_NS = 50 * MS
POSITION = 56, 2  # what the servo loop reads each period, at least
FIRMWARE = 0, 2  # major, minor
BOARD = ("1a86", "55d3")  # the SO-101's bus board


def examine(root: Root, config: Config) -> Iterator[Finding]:
    """Reads a hundred times from every servo, unless another process has the bus."""
    arm = config.arm
    yield from _adapter(root, arm.port)
    try:
        port = open_port(arm.port, arm.baud)
    except DeviceError as error:
        if "in use" in str(error):
            yield Finding(AREA, "servos", "note", f"{error}: not looked at",
                          "`vladctl status` has what the daemon knows; with `systemctl stop vlad` more is looked at")
        else:
            yield Finding(AREA, "port", "fail", str(error), "`vlad doctor` as root, or the remedy named there")
        return
    with port:
        yield from probe(port, config)


def probe(port: Port, config: Config) -> Iterator[Finding]:
    """The servos behind an open port."""
    bus = Bus(port.fd, baud=port.baud, timeout_ns=TIMEOUT_NS)
    try:
        found = examine_servos(bus, config.joints)
        yield _firmware(bus, config.joints)
        yield _latency(bus, config)
    except DeviceError as error:
        yield Finding(AREA, "servos", "fail", str(error), "supply, cables, ids and speed of the bus")
        return
    yield from _registers(found)


def _adapter(root: Root, port: str) -> Iterator[Finding]:
    device = root.target(root.at(port)).rpartition("/")[2]
    if not device:
        return  # opening it says why
    driver = root.target(root.at(f"/sys/class/tty/{device}/device/driver")).rpartition("/")[2]
    if driver == "ftdi_sio":
        try:
            timer_ms = root.number(f"/sys/class/tty/{device}/device/latency_timer")
        except Unreadable:
            timer_ms = 16
        if timer_ms > 1:
            yield Finding(AREA, "adapter", "fail", f"{device}: FTDI, keeps replies back for up to {timer_ms} ms",
                          "systemd/70-vlad.rules sets latency_timer to 1; or echo 1 > "
                          f"/sys/class/tty/{device}/device/latency_timer")
            return
    if not Path(port).name.startswith(("vlad-bus", "usb-")) and re.match(r"tty(ACM|USB)\d", Path(port).name):
        yield Finding(AREA, "adapter", "warn", f"{port} is another device after the next plug-in",
                      "arm.port = /dev/vlad-bus, or its name in /dev/serial/by-id")
        return
    yield Finding(AREA, "adapter", "ok", f"{device}{f', {driver}' if driver else ''}")


def boards(root: Root) -> Iterator[Finding]:
    """Bus boards that are plugged in: with two of them a name must say which is whose."""
    found = {}
    for tty in root.glob("/sys/class/tty/ttyACM*"):
        usb = root.target(tty / "device").rpartition("/")[0]  # of the interface, the device
        try:
            ids = tuple(root.text(f"{usb}/{name}") for name in ("idVendor", "idProduct"))
            if ids == BOARD:
                found[tty.name] = root.text(f"{usb}/serial")
        except Unreadable:
            continue
    if len(found) > 1:
        lines = "; ".join(f'SUBSYSTEM=="tty", ENV{{ID_SERIAL_SHORT}}=="{serial}", ENV{{VLAD_NAME}}="NAME"'
                          for serial in found.values())
        yield Finding(AREA, "boards", "warn", f"{len(found)} bus boards: {', '.join(found.values())}; /dev/vlad-bus is "
                      "one of them", f"/etc/udev/rules.d/69-vlad-names.rules: {lines}")


def _firmware(bus: Bus, joints: Sequence[Joint]) -> Finding:
    versions = {joint.name: "{}.{}".format(*bus.read(joint.id, *FIRMWARE)) for joint in joints}
    if len(set(versions.values())) > 1:
        return Finding(AREA, "firmware", "warn", ", ".join(f"{name} {v}" for name, v in versions.items()),
                       "one version for all servos, with Feetech's FD software")
    return Finding(AREA, "firmware", "ok", f"{next(iter(versions.values()))} in all servos")


def _latency(bus: Bus, config: Config) -> Finding:
    ids = [joint.id for joint in config.joints]
    took_ms, missing = [], 0
    for _ in range(READS):
        begin = now_ns()
        missing += len(ids) - len(bus.sync_read(ids, *POSITION))
        took_ms.append((now_ns() - begin) / MS)
    took_ms.sort()
    budget_ms = config.servo.read_budget_ms
    said = (f"{len(ids)} servos answer in {took_ms[READS // 2]:.2f} ms, p99 {took_ms[READS * 99 // 100]:.2f} ms, "
            f"of servo.read_budget_ms = {budget_ms:g}")
    if missing:
        return Finding(AREA, "latency", "fail", f"{missing} of {READS * len(ids)} replies did not come; {said}",
                       "cables and supply; a hub or a long USB cable in between")
    if took_ms[READS * 99 // 100] > budget_ms:
        return Finding(AREA, "latency", "warn", said, "an adapter without a latency timer, Return_Delay_Time 0, "
                       "a lower servo.rate_hz, or a larger budget")
    return Finding(AREA, "latency", "ok", said)


def _registers(found: Examined) -> Iterator[Finding]:
    if found.calibration:
        yield Finding(AREA, "calibration", "fail", "; ".join(found.calibration),
                      "calibrate the arm anew, or name the file that it was calibrated with (arm.calibration)")
    else:
        yield Finding(AREA, "calibration", "ok", "servos and file agree")
    if found.settings:
        yield Finding(AREA, "eeprom", "note", "; ".join(found.settings),
                      "the daemon writes these when it starts and the servo has no torque")
    else:
        yield Finding(AREA, "eeprom", "ok", "as LeRobot and vlad configure an SO-101")
    hot = [f"{servo.name} {servo.temperature_c} C" for servo in found.servos if servo.temperature_c >= 60]
    volts = sorted({servo.voltage_mv / 1000 for servo in found.servos})
    yield Finding(AREA, "supply", "warn" if hot else "ok", f"{volts[0]:g} to {volts[-1]:g} V"
                  + (f"; {', '.join(hot)}" if hot else ""), "let it cool down" if hot else "")
