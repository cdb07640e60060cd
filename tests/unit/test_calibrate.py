"""`vlad calibrate`: a file and servos that differ, who wins, what is kept, and a calibration measured by hand."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import wait_for
from tests.pty_servos import CALIBRATION, NAMES, PtyServos
from tests.simulator import running
from vlad import calibrate
from vlad.arm import Calibration, calibration_json, read_calibration
from vlad.config import EXIT_CONFIG

HELD = {name: Calibration(id, 0, *CALIBRATION[id]) for id, name in enumerate(NAMES, 1)}


@pytest.fixture
def servos(tmp_path: Path) -> Iterator[PtyServos]:
    found = PtyServos(tmp_path / "bus")
    yield found
    found.unplug()


class Arm:
    """The command on these servos and this file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "my_arm.json"
        self.port = directory / "bus"

    def __call__(self, *options: str) -> int:
        try:
            return calibrate.main(["--port", str(self.port), "--calibration", str(self.file), *options])
        except calibrate.DeviceError as error:  # as vlad.main does
            print(error, file=sys.stderr)
            return 1

    def write(self, **changes: dict[str, int]) -> None:
        motors = {name: json.loads(calibration_json(HELD))[name] | changes.get(name, {}) for name in HELD}
        self.file.write_text(json.dumps(motors))

    @property
    def backups(self) -> list[str]:
        return sorted(p.name for p in self.directory.glob("*.bak"))


@pytest.fixture
def arm(tmp_path: Path, servos: PtyServos) -> Arm:
    return Arm(tmp_path)


def test_what_agrees_is_said_to_and_left_alone(arm: Arm, servos: PtyServos, capsys: pytest.CaptureFixture[str]) -> None:
    arm.write()
    before = {id: bytes(registers) for id, registers in servos.registers.items()}
    for options in ((), ("--file-wins",), ("--servos-win",)):
        assert arm(*options) == 0
        assert "agree" in capsys.readouterr().out
    assert before == {id: bytes(registers) for id, registers in servos.registers.items()} and not arm.backups


def test_a_difference_is_reported_and_nothing_is_written(
    arm: Arm, servos: PtyServos, capsys: pytest.CaptureFixture[str]
) -> None:
    arm.write(elbow_flex={"homing_offset": -600}, gripper={"range_max": 2700})
    text = arm.file.read_bytes()
    before = {id: bytes(registers) for id, registers in servos.registers.items()}
    assert arm() == 1
    said = capsys.readouterr()
    assert "elbow_flex (id 3): homing offset is -612 in the servo, -600 in the file" in said.out
    assert "gripper (id 6): range_max is 2673 in the servo, 2700 in the file" in said.out
    assert "--file-wins or --servos-win" in said.err
    assert arm("--json") == 1
    assert len(json.loads(capsys.readouterr().out)["differences"]) == 2
    assert arm.file.read_bytes() == text and not arm.backups
    assert before == {id: bytes(registers) for id, registers in servos.registers.items()}


def test_the_file_wins_and_what_the_servos_held_is_kept(arm: Arm, servos: PtyServos) -> None:
    arm.write(elbow_flex={"homing_offset": -600}, gripper={"range_max": 2700, "drive_mode": 1})
    assert arm("--file-wins") == 0
    assert servos.get(3, 31) == 600 | 0x800 and servos.get(6, 11) == 2700
    assert servos.registers[3][55] == 1, "locked again"
    assert arm() == 0
    kept = arm.directory / "my_arm.servos.json.1.bak"
    assert {n: (m.homing_offset, m.range_max) for n, m in read_calibration(kept).items()} == {
        n: (m.homing_offset, m.range_max) for n, m in HELD.items()}  # fmt: skip
    arm.file = kept  # and it can be put back
    assert arm("--file-wins") == 0 and servos.get(3, 31) == 612 | 0x800


def test_the_servos_win_and_what_the_file_said_is_kept(arm: Arm, servos: PtyServos) -> None:
    arm.write(elbow_flex={"homing_offset": -600}, gripper={"drive_mode": 1})
    text = arm.file.read_bytes()
    assert arm("--servos-win") == 0
    found = read_calibration(arm.file)
    assert found["elbow_flex"].homing_offset == -612
    assert found["gripper"].drive_mode == 1, "servos know of none: the file's stays"
    assert (arm.directory / "my_arm.json.1.bak").read_bytes() == text
    arm.write(elbow_flex={"homing_offset": 1})
    assert arm("--servos-win") == 0
    assert arm.backups == ["my_arm.json.1.bak", "my_arm.json.2.bak"]


def test_a_file_that_is_not_there_is_written_only_when_asked(arm: Arm, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ((), ("--file-wins",)):
        assert arm(*options) == EXIT_CONFIG
        assert "--servos-win writes it" in capsys.readouterr().err and not arm.file.exists()
    assert arm("--servos-win") == 0
    assert read_calibration(arm.file) == HELD


def test_servos_with_torque_are_not_written_to_unless_released(
    arm: Arm, servos: PtyServos, capsys: pytest.CaptureFixture[str]
) -> None:
    arm.write(elbow_flex={"homing_offset": -600})
    servos.registers[2][40] = servos.registers[3][40] = 1
    assert arm("--file-wins") == 1
    assert "shoulder_lift, elbow_flex: the torque is on" in capsys.readouterr().err
    assert servos.get(3, 31) == 612 | 0x800 and servos.registers[3][40] == 1
    assert arm("--file-wins", "--release") == 0
    assert servos.get(3, 31) == 600 | 0x800 and servos.registers[2][40] == servos.registers[3][40] == 0


def test_a_servo_that_does_not_take_it_is_named(
    arm: Arm, servos: PtyServos, capsys: pytest.CaptureFixture[str]
) -> None:
    arm.write(elbow_flex={"homing_offset": -600})
    servos.stuck.add(31)
    assert arm("--file-wins") == 1
    assert "elbow_flex (id 3): homing offset does not take" in capsys.readouterr().err
    assert servos.registers[3][55] == 1


def test_servos_of_no_use_leave_the_file_alone(arm: Arm, servos: PtyServos, capsys: pytest.CaptureFixture[str]) -> None:
    arm.write()
    text = arm.file.read_bytes()
    servos.put(3, 9, 3000)
    servos.put(3, 11, 3000)
    assert arm("--servos-win") == EXIT_CONFIG
    assert "elbow_flex: range_min 3000 >= range_max 3000" in capsys.readouterr().err
    assert arm.file.read_bytes() == text and not arm.backups
    assert sorted(p.name for p in arm.directory.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("options", [
    [], ["--port", "x"], ["--port", "x", "--config", "y"],
    ["--port", "x", "--calibration", "y", "--file-wins", "--servos-win"],
    ["--port", "x", "--calibration", "y", "--measure"],
])  # fmt: skip
def test_wrong_usage(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one: measuring is done by hand, and nothing asks where there is no terminal."""
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    with pytest.raises(SystemExit) as ended:
        calibrate.main(options)
    assert ended.value.code == 2


def test_port_ids_and_file_come_from_the_configuration(
    arm: Arm, servos: PtyServos, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before there is a calibration file, without which the daemon does not start."""
    config = arm.directory / "vlad.toml"
    names = "\n".join(f'{{ name = "{n}", id = {i} }},' for i, n in enumerate(NAMES, 1))
    config.write_text(f'[arm]\nport = "bus"\ncalibration = "my_arm.json"\njoints = [\n{names}\n]\n')
    assert calibrate.main(["--config", str(config), "--servos-win"]) == 0
    assert read_calibration(arm.file) == HELD
    config.write_text(config.read_text().replace("id = 3", "id = 7"))
    assert calibrate.main(["--config", str(config)]) == EXIT_CONFIG
    assert "elbow_flex: 3, not 7" in capsys.readouterr().err


MIDDLE = (0.3, -0.2, 0.1, 0.2, 0.5, 0.7)
REACH = (0.9, 0.8, 0.7, 0.6, 0.0, 0.6)  # rad, to both sides


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")
def test_measured_by_hand(tmp_path: Path) -> None:
    """A simulated arm is moved as the procedure says; its servos and the file then hold what was measured."""
    file = tmp_path / "my_arm.json"
    with running(tmp_path, "--no-cameras") as simulator:
        simulator.command("hand", pose=list(MIDDLE))
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "vlad.main", "calibrate", "--port", simulator.bus, "--calibration", str(file),
             "--measure"],
            stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        said = bytearray()

        def hears(text: bytes) -> bool:
            said.extend(process.stderr.read() or b"")  # type: ignore[union-attr]
            return text in said

        wait_for(lambda: hears(b"middle"), 20, "the first question")
        time.sleep(0.2)
        os.write(master, b"\r")
        wait_for(lambda: hears(b"whole ranges"), 20, "the second question")
        for share in [k / 20 for k in (*range(21), *range(20, -21, -1), *range(-20, 1))]:
            simulator.command("hand", pose=[m + share * r for m, r in zip(MIDDLE, REACH, strict=True)])
            time.sleep(0.05)
        os.write(master, b"\r")
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err.decode()
        arm = Arm(tmp_path)
        assert arm() == 0
        ticks: dict[str, Any] = simulator.command("status")["ticks"]
    found = read_calibration(file)
    for j, (name, motor) in enumerate(found.items()):
        assert abs(ticks[str(motor.id)] - 2047) <= 2, "the middle is where it was held"
        if name == "wrist_roll":
            assert (motor.range_min, motor.range_max) == (0, 4095)
            continue
        reach = REACH[j] * 4096 / 6.283185307
        assert abs(motor.range_max - 2047 - reach) < 15 and abs(2047 - motor.range_min - reach) < 15, name
    assert arm.backups == ["my_arm.servos.json.1.bak"]
