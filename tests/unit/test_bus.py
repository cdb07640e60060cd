"""The port, single requests and bring-up over a pseudo-terminal with scripted servos."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pty_servos import CALIBRATION, NAMES, PtyServos, joints
from vlad._native.bus import Bus, Scale, signed
from vlad.bringup import BringUp, bring_up
from vlad.bus import open_port
from vlad.errors import DeviceError

LIMIT_RAD = 0.2  # 130 ticks
TIMEOUT_NS = 200_000_000


@pytest.fixture
def servos(tmp_path: Path) -> Iterator[PtyServos]:
    servos = PtyServos(tmp_path / "bus")
    yield servos
    servos.unplug()


@pytest.fixture
def bus(servos: PtyServos, tmp_path: Path) -> Iterator[Bus]:
    with open_port(tmp_path / "bus") as port:
        yield Bus(port.fd, timeout_ns=TIMEOUT_NS)


def bring(bus: Bus) -> BringUp:
    return bring_up(bus, joints(), LIMIT_RAD)


# --- the port ---


@pytest.mark.fault(49)
def test_port_in_use_is_refused(servos: PtyServos, tmp_path: Path) -> None:
    """F49 at the port: the second opener learns who has it, and changes nothing."""
    path = tmp_path / "bus"
    with open_port(path) as port:
        assert port.device.startswith("/dev/pts/")
        with pytest.raises(
            DeviceError, match=rf"{path}: in use by another process .*{os.getpid()}"
        ):
            open_port(path)
        code = (
            "import sys; from vlad.bus import open_port\n"
            "from vlad.errors import DeviceError\n"
            "try: open_port(sys.argv[1], 115200)\n"
            "except DeviceError as error: print(error); sys.exit(3)\n"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
        )
        assert other.returncode == 3
        assert "in use by another process" in other.stdout
        assert Bus(port.fd, timeout_ns=TIMEOUT_NS).ping(1) == 0
    with open_port(path) as port:  # given free
        assert Bus(port.fd, timeout_ns=TIMEOUT_NS).ping(1) == 0


def test_port_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="nowhere: no such device; is the bus board plugged in"):
        open_port(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="file: not usable as a serial port"):
        open_port(tmp_path / "file")
    with pytest.raises(DeviceError):
        open_port(tmp_path)


def test_close_frees_the_port_and_ends_the_descriptor(servos: PtyServos, tmp_path: Path) -> None:
    port = open_port(tmp_path / "bus")
    fd = port.fd
    assert os.isatty(fd)
    port.close()
    port.close()
    with pytest.raises(DeviceError, match="closed"):
        _ = port.fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.fcntl(fd, fcntl.F_GETFD)


def test_low_latency_is_asked_for_and_not_needed(servos: PtyServos, tmp_path: Path) -> None:
    with open_port(tmp_path / "bus") as port:
        assert port.latency != ""  # a pty has none; the port works all the same


# --- single requests ---


def test_requests(bus: Bus, servos: PtyServos) -> None:
    servos.status[2] = 0x20
    assert bus.ping(1) == 0
    assert bus.ping(2) == 0x20
    assert bus.read(3, 3, 2) == (777).to_bytes(2, "little")
    assert bus.write(4, 42, b"\x34\x12") == 0
    assert servos.get(4, 42) == 0x1234
    answers = bus.sync_read(range(1, 7), 56, 2)
    assert {id: int.from_bytes(data, "little") for id, data in answers.items()} == {
        id: 2040 + id for id in range(1, 7)
    }
    counters = bus.counters()
    assert counters["frames_tx"] == 5
    assert counters["frames_rx"] == 10
    assert counters["status_errors"] == 2  # its ping and its part of the sync read
    assert counters["timeouts"] == counters["errors"] == counters["stale_bytes"] == 0
    assert bus.errors() == {}


def test_silent_and_corrupt(bus: Bus, servos: PtyServos) -> None:
    servos.silent = {2}
    servos.corrupt = {5}
    fast = Bus(_open_terminal(), timeout_ns=30_000_000)
    assert fast.ping(2) is None
    with pytest.raises(DeviceError, match="servo 2, reading 2 bytes at 56"):
        fast.read(2, 56, 2)
    with pytest.raises(DeviceError, match="servo 2, writing 01 at 40"):
        fast.write(2, 40, b"\1")
    assert sorted(fast.sync_read([1, 2, 3, 4, 5, 6], 56, 2)) == [1, 3, 4, 6]
    counters = fast.counters()
    assert counters["timeouts"] == 4
    assert counters["missing_replies"] == 5
    assert counters["checksum_errors"] == 1


def _open_terminal() -> int:
    """The descriptor that the bus fixture has open."""
    for entry in os.listdir("/proc/self/fd"):
        if (path := Path("/proc/self/fd") / entry).is_symlink() and os.readlink(path).startswith(
            "/dev/pts/"
        ):
            return int(entry)
    raise AssertionError("no open terminal")


def test_bad_arguments_send_nothing(bus: Bus, servos: PtyServos) -> None:
    for call in (
        lambda: bus.ping(254),
        lambda: bus.read(1, 56, 0),
        lambda: bus.read(1, 56, 65),
        lambda: bus.write(254, 40, b"\0"),
        lambda: bus.write(1, 40, b""),
        lambda: bus.sync_read([], 56, 2),
    ):
        with pytest.raises(DeviceError, match="Invalid argument"):
            call()
    for call in (
        lambda: bus.ping(256),
        lambda: bus.ping(-1),
        lambda: bus.read(1, 999, 1),
    ):
        with pytest.raises(OverflowError):
            call()
    with pytest.raises(ValueError, match="33 ids"):
        bus.sync_read([1] * 33, 56, 2)
    assert servos.requests == 0


@pytest.mark.fault(15)
def test_unplugged(bus: Bus, servos: PtyServos) -> None:
    assert bus.ping(1) == 0
    servos.unplug()
    with pytest.raises(DeviceError, match="ping of servo 1: Input/output error"):
        bus.ping(1)
    assert bus.errors() == {"EIO": 1}


def test_waiting_leaves_the_interpreter_to_others(bus: Bus, servos: PtyServos) -> None:
    """A request to a dead servo must not stop other Python threads."""
    servos.silent = set(CALIBRATION)
    waiting = threading.Thread(target=bus.ping, args=(1,))
    turns = 0
    waiting.start()
    while waiting.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns > 20  # of 200 ms


# --- ticks ---


def test_scale() -> None:
    body, gripper = Scale(782, 3284), Scale(1422, 2673, gripper=True)
    assert body.to_nu(2033) == 0
    assert body.to_nu(2033 + 1024) == 1570796327
    assert gripper.to_nu(1422) == 0
    assert gripper.to_nu(2673) == 1_000_000_000
    assert all(body.to_ticks(body.to_nu(t)) == t for t in range(4096))
    assert Scale(1422, 2673, gripper=True, direction=-1).to_nu(2673) == 0
    with pytest.raises(ValueError, match=r"not within 0\.\.4095"):
        body.to_ticks(4_000_000_000)
    with pytest.raises(ValueError, match=r"range 3284\.\.782"):
        Scale(3284, 782)
    assert signed(0x0DBE, 11) == -1470


def test_scale_agrees_with_the_joint() -> None:
    """Joint.to_ticks is for logs; it must not disagree with what goes to the wire."""
    for joint in joints():
        c = joint.calibration
        scale = Scale(c.range_min, c.range_max, gripper=joint.gripper)
        for ticks in range(4096):
            assert joint.to_ticks(scale.to_nu(ticks) / 1e9) == ticks


# --- bring-up ---


def test_bring_up_of_a_limp_arm(bus: Bus, servos: PtyServos) -> None:
    arm = bring(bus)
    assert arm.torque_mask == 0 and not arm.torque_on
    assert arm.command_ticks == tuple(2040 + id for id in range(1, 7))
    assert arm.command_nu[0] == Scale(782, 3284).to_nu(2041)
    assert arm.calibration == arm.settings == arm.configured == ()
    assert [servo.name for servo in arm.servos] == list(NAMES)
    assert arm.servos[2].homing_offset_ticks == -612
    assert arm.servos[2].voltage_mv == 7400 and arm.servos[2].temperature_c == 31
    assert servos.sync_writes == []


def test_bring_up_adopts_the_goal_in_force(bus: Bus, servos: PtyServos) -> None:
    """Near the goal the goal stays; far from it the pose; a gripper keeps its grip."""
    for id in CALIBRATION:
        servos.registers[id][40] = 1
    servos.put(1, 42, 2041 + 130)
    servos.put(2, 42, 2042 - 131)
    servos.put(3, 42, 2043)
    servos.put(6, 42, 1422)
    before = {id: bytes(image) for id, image in servos.registers.items()}
    arm = bring(bus)
    assert arm.torque_on
    assert arm.command_ticks == (2171, 2042, 2043, 2048, 2048, 1422)
    assert {id: bytes(image) for id, image in servos.registers.items()} == before
    servos.put(6, 42, 100)  # a gripper goal that was never ours
    assert bring(bus).command_ticks[5] == 2046


def test_bring_up_configures_only_without_torque(bus: Bus, servos: PtyServos) -> None:
    for id in (1, 2):
        servos.registers[id][7] = 250
        servos.registers[id][21] = 32
        servos.put(id, 48, 0)
    servos.put(6, 16, 1000)
    servos.put(6, 48, 1000)
    servos.registers[1][40] = 1
    arm = bring(bus)
    assert arm.torque_mask == 1
    assert servos.registers[1][7] == 250
    assert servos.registers[2][7] == 0 and servos.registers[2][21] == 16
    assert servos.get(2, 48) == 1000
    assert servos.get(6, 16) == 500 and servos.get(6, 48) == 500
    assert all(servos.registers[id][55] == 1 for id in CALIBRATION)
    assert arm.settings == tuple(
        f"shoulder_pan (id 1): {s}"
        for s in ("return delay 250 -> 0", "P 32 -> 16", "torque limit 0 -> 1000")
    )
    assert arm.configured == (
        *(
            f"shoulder_lift (id 2): {s}"
            for s in ("return delay 250 -> 0", "P 32 -> 16", "torque limit 0 -> 1000")
        ),
        "gripper (id 6): max torque 1000 -> 500",
        "gripper (id 6): torque limit 1000 -> 500",
    )
    assert bring(bus).configured == ()  # nothing is written twice: stored registers wear


def test_setting_that_does_not_hold_is_an_error(bus: Bus, servos: PtyServos) -> None:
    servos.registers[4][21] = 99
    servos.stuck = {21}
    with pytest.raises(DeviceError, match=r"wrist_flex \(id 4\): P does not take 16; it reads 99"):
        bring(bus)


@pytest.mark.fault(41)
def test_other_calibration_is_reported(bus: Bus, servos: PtyServos) -> None:
    servos.put(3, 9, 1000)
    servos.put(5, 31, 288)
    arm = bring(bus)
    assert arm.calibration == (
        "elbow_flex (id 3): range_min is 1000 in the servo, 951 in the file",
        "wrist_roll (id 5): homing offset is 288 in the servo, 287 in the file",
    )


def test_missing_and_foreign_servos_are_all_named(bus: Bus, servos: PtyServos) -> None:
    quick = Bus(_open_terminal(), timeout_ns=20_000_000)
    servos.silent = {2, 5}
    servos.put(6, 3, 1284)
    with pytest.raises(DeviceError) as error:
        bring(quick)
    assert str(error.value) == (
        "servo bus: no answer from shoulder_lift (id 2), wrist_roll (id 5); "
        "check its cable and id; gripper (id 6) is model 1284; "
        "STS3215 servos (model 777) are needed"
    )
    servos.silent = set(CALIBRATION)
    with pytest.raises(DeviceError, match="no servo answers; is the servo supply on"):
        bring(quick)


def test_bring_up_of_part_of_an_arm(bus: Bus, servos: PtyServos) -> None:
    """The joints decide, not the ids on the bus; the order is theirs."""
    two = (joints()[4], replace(joints()[1], name="lift"))
    arm = bring_up(bus, two, LIMIT_RAD)
    assert [servo.id for servo in arm.servos] == [5, 2]
    assert arm.command_ticks == (2045, 2042)
