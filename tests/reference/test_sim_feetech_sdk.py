"""The simulated bus against the servo maker's own SDK (PyPI: feetech-servo-sdk)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.simulator import Simulator, running

scs = pytest.importorskip("scservo_sdk", reason="feetech-servo-sdk is not installed")

pytestmark = pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")

IDS = range(1, 7)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running(tmp_path_factory.mktemp("sim"), "--no-cameras", "--seed", "3") as started:
        yield started


@pytest.fixture
def port(simulator: Simulator) -> Iterator[Any]:
    simulator.command("clear_all")
    handler = scs.PortHandler(simulator.bus)
    assert handler.openPort()
    yield handler
    handler.closePort()


@pytest.fixture
def sdk() -> Any:
    return scs.PacketHandler(0)


def test_ping_finds_six_sts3215(port: Any, sdk: Any) -> None:
    for servo_id in IDS:
        assert sdk.ping(port, servo_id) == (777, scs.COMM_SUCCESS, 0)
    assert sdk.ping(port, 9)[1] == scs.COMM_RX_TIMEOUT


def test_reads_and_writes_of_one_two_and_four_bytes(port: Any, sdk: Any) -> None:
    assert sdk.write1ByteTxRx(port, 2, 41, 17) == (scs.COMM_SUCCESS, 0)
    assert sdk.read1ByteTxRx(port, 2, 41) == (17, scs.COMM_SUCCESS, 0)
    assert sdk.write2ByteTxRx(port, 2, 48, 812) == (scs.COMM_SUCCESS, 0)
    assert sdk.read2ByteTxRx(port, 2, 48) == (812, scs.COMM_SUCCESS, 0)
    assert sdk.write4ByteTxRx(port, 2, 44, 0x00640007) == (scs.COMM_SUCCESS, 0)
    assert sdk.read2ByteTxRx(port, 2, 46)[0] == 0x64
    assert sdk.read1ByteTxRx(port, 2, 62)[0] in range(110, 121)
    before = sdk.read2ByteTxRx(port, 2, 56)[0]
    assert sdk.write2ByteTxRx(port, 2, 56, 99) == (scs.COMM_SUCCESS, 0)
    assert abs(sdk.read2ByteTxRx(port, 2, 56)[0] - before) <= 2, "a read-only register took a write"


def test_sync_write_moves_the_arm_and_sync_read_sees_it(
    port: Any, sdk: Any, simulator: Simulator
) -> None:
    goals = {1: 2300, 2: 1400, 3: 2500, 4: 2400, 5: 1800, 6: 1900}
    for servo_id in IDS:
        assert sdk.write1ByteTxRx(port, servo_id, 40, 1) == (scs.COMM_SUCCESS, 0)
    writer = scs.GroupSyncWrite(port, sdk, 42, 2)
    for servo_id, ticks in goals.items():
        assert writer.addParam(servo_id, [ticks & 0xFF, ticks >> 8])
    assert writer.txPacket() == scs.COMM_SUCCESS
    reader = scs.GroupSyncRead(port, sdk, 56, 8)
    for servo_id in IDS:
        assert reader.addParam(servo_id)
    deadline = time.monotonic() + 20.0
    positions: dict[int, int] = {}
    while time.monotonic() < deadline:
        assert reader.txRxPacket() == scs.COMM_SUCCESS
        positions = {servo_id: reader.getData(servo_id, 56, 2) for servo_id in IDS}
        if all(abs(positions[servo_id] - goals[servo_id]) < 60 for servo_id in IDS):
            break
        time.sleep(0.02)
    else:
        pytest.fail(f"asked for {goals}, reached {positions}")
    written = [packet["goals"] for packet in simulator.packets() if "goals" in packet]
    assert {str(servo_id): ticks for servo_id, ticks in goals.items()} in written


def test_reg_write_waits_for_action(port: Any, sdk: Any) -> None:
    before = sdk.read2ByteTxRx(port, 5, 42)[0]
    assert sdk.regWriteTxRx(port, 5, 42, 2, [0x08, 0x07]) == (scs.COMM_SUCCESS, 0)
    assert sdk.read2ByteTxRx(port, 5, 42)[0] == before
    sdk.action(port, scs.BROADCAST_ID)
    assert sdk.read2ByteTxRx(port, 5, 42)[0] == 0x0708


def test_corrupt_silent_and_overheated_are_what_the_sdk_calls_them(
    port: Any, sdk: Any, simulator: Simulator
) -> None:
    simulator.command("corrupt", id=3, count=1)
    assert sdk.read2ByteTxRx(port, 3, 56)[1] != scs.COMM_SUCCESS
    port.ser.reset_input_buffer()
    assert sdk.read2ByteTxRx(port, 3, 56)[1] == scs.COMM_SUCCESS
    simulator.command("silence", id=4)
    assert sdk.ping(port, 4)[1] == scs.COMM_RX_TIMEOUT
    simulator.command("restore", id=4)
    assert sdk.ping(port, 4)[1] == scs.COMM_SUCCESS
    simulator.command("heat", id=2, celsius=75)
    deadline = time.monotonic() + 5.0
    error = 0
    while not error and time.monotonic() < deadline:
        _, result, error = sdk.read1ByteTxRx(port, 2, 63)
        assert result == scs.COMM_SUCCESS
    assert sdk.getRxPacketError(error) == "[RxPacketError] Overheat error!"


def test_a_second_client_finds_a_clean_line(simulator: Simulator, sdk: Any) -> None:
    first = os.open(simulator.bus, os.O_RDWR | os.O_NOCTTY)
    os.write(first, bytes.fromhex("fffffe0a8238"))  # dies in the middle of a packet
    os.close(first)
    time.sleep(0.05)  # longer than a servo waits for the rest of a packet
    handler = scs.PortHandler(simulator.bus)
    assert handler.openPort()
    assert sdk.ping(handler, 1) == (777, scs.COMM_SUCCESS, 0)
    handler.closePort()


def test_unplug_hangs_up_and_replug_comes_back_under_the_same_name(
    simulator: Simulator, sdk: Any
) -> None:
    handler = scs.PortHandler(simulator.bus)
    assert handler.openPort()
    assert sdk.ping(handler, 1)[1] == scs.COMM_SUCCESS
    simulator.command("unplug")
    with pytest.raises(OSError):
        os.write(handler.ser.fileno(), b"\xff")
    handler.closePort()
    assert not Path(simulator.bus).is_symlink()
    simulator.command("replug")
    again = scs.PortHandler(simulator.bus)
    assert again.openPort()
    assert sdk.ping(again, 1) == (777, scs.COMM_SUCCESS, 0)
    again.closePort()
