"""`vlad calibrate`: an arm's calibration in its file (LeRobot's JSON) and in its servos' EEPROM.

Both must say the same, or positions mean something else than the policy was trained on. This command reports how they
differ; which side is right only the caller knows, and says so by a flag. Whatever is replaced is kept as a backup.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlad import config, eeprom
from vlad._native.bus import Bus
from vlad.arm import TICKS_PER_TURN, Calibration, Joint, calibration_json, check_motors, read_calibration
from vlad.bringup import Servo, calibration_differences, read_servos
from vlad.bus import open_port
from vlad.errors import ConfigError, DeviceError
from vlad.terminal import Terminal

SO101 = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")  # ids 1 to 6
FULL_TURN = ("wrist_roll",)  # it turns on and on: its range is the whole turn
LEAST_RANGE = 100  # ticks: a joint that moved less was forgotten
BUS_TIMEOUT_NS = 50_000_000  # EEPROM is slow
MAX_BACKUPS = 999
MIDDLE = (TICKS_PER_TURN - 1) // 2


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="vlad calibrate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compare an arm's calibration file with its servos, and make them agree.",
        epilog="Without a flag nothing is written: exit status 0 when both agree, 1 when they differ.\n"
        "LeRobot keeps its files in ~/.cache/huggingface/lerobot/calibration/robots/so_follower/ID.json\n"
        "(of a leader: .../teleoperators/so_leader/ID.json). docs/calibrate.md says more.",
    )
    p.add_argument("--config", metavar="FILE", help="the daemon's TOML: takes port, joints and file from there")
    p.add_argument("--port", metavar="DEVICE", help="of the servo bus; of a leader, for instance")
    p.add_argument("--calibration", metavar="FILE", type=Path, help="LeRobot's JSON of this arm")
    p.add_argument("--baud", type=int, default=1_000_000)
    side = p.add_mutually_exclusive_group()
    side.add_argument("--file-wins", action="store_true", help="write the file's values to the servos")
    side.add_argument("--servos-win", action="store_true", help="write the servos' values to the file")
    side.add_argument("--measure", action="store_true", help="measure both anew, by moving the arm by hand")
    p.add_argument("--release", action="store_true", help="take the torque off first: THE ARM FALLS, hold it")
    p.add_argument("--json", action="store_true", help="the report as JSON")
    return p


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 they agree (now), 1 they differ or the arm failed, 2 usage, 78 configuration."""
    usage = parser()
    arguments = usage.parse_args(argv)
    if (arguments.config is None) == (arguments.port is None):
        usage.error("give --config FILE, or --port DEVICE and --calibration FILE")
    if arguments.port and arguments.calibration is None:
        usage.error("--port: which --calibration FILE belongs to that arm?")
    if arguments.measure and not sys.stdin.isatty():
        usage.error("--measure is done by hand, with a terminal on stdin; headless, --file-wins and --servos-win work")
    try:
        return _run(arguments)
    except ConfigError as error:
        print(f"vlad calibrate: {error}", file=sys.stderr)
        return config.EXIT_CONFIG


def _run(arguments: argparse.Namespace) -> int:
    port, baud, file, ids = _arm(arguments)
    motors = read_calibration(file) if file.exists() else None
    if motors is not None:
        check_motors(str(file), list(ids), motors)
        if wrong := [f"{n}: {motors[n].id}, not {id}" for n, id in ids.items() if motors[n].id != id]:
            raise ConfigError(f"{file}: ids differ from those that were configured: {'; '.join(wrong)}")
    elif not (arguments.servos_win or arguments.measure):
        raise ConfigError(f"{file}: is not there; --servos-win writes it from the servos, --measure anew")
    with open_port(port, baud) as opened:
        bus = Bus(opened.fd, baud=baud, timeout_ns=BUS_TIMEOUT_NS)
        joints = [_joint(name, id, motors) for name, id in ids.items()]
        servos = read_servos(bus, joints)
        held = eeprom.stored(servos, {n: m.drive_mode for n, m in (motors or {}).items()})
        differences = calibration_differences(joints, servos) if motors is not None else ()
        changed: list[str] = []
        if arguments.measure:
            _release(bus, servos, arguments.release)
            changed = _anew(bus, file, held)
        elif arguments.file_wins and differences:
            assert motors is not None
            _release(bus, servos, arguments.release)
            changed = _to_servos(bus, file, motors, held)
        elif arguments.servos_win and (motors is None or differences):
            changed = [_to_file(file, held)]
        report = {"port": port, "file": str(file), "differences": list(differences), "changed": changed,
                  "servos": {n: msgspec.structs.asdict(m) for n, m in held.items()}}  # fmt: skip
    _tell(report, arguments.json)
    return 1 if differences and not changed else 0


def _arm(arguments: argparse.Namespace) -> tuple[str, int, Path, dict[str, int]]:
    """Port, speed, file and the ids by name. A configuration whose calibration file is still missing will do."""
    if arguments.config is None:
        file = arguments.calibration
        ids = {name: 1 + i for i, name in enumerate(SO101)}
        if file.exists():
            ids = {name: motor.id for name, motor in read_calibration(file).items()}
        return arguments.port, arguments.baud, file, ids
    path = Path(arguments.config).absolute()
    arm = config.read_keys(config.read_toml(path), path).arm
    file = arguments.calibration or path.parent / arm.calibration
    return str(path.parent / arm.port), arm.baud, file, {joint.name: joint.id for joint in arm.joints}


def _joint(name: str, id: int, motors: Mapping[str, Calibration] | None) -> Joint:
    calibration = motors[name] if motors is not None else Calibration(id, 0, 0, 0, TICKS_PER_TURN - 1)
    return Joint(name, id, "body", calibration, min=0.0, max=0.0, v_max=1.0, a_max=1.0, j_max=1.0)


def _release(bus: Bus, servos: Sequence[Servo], allowed: bool) -> None:
    on = [servo for servo in servos if servo.torque_on]
    if on and not allowed:
        raise DeviceError(f"{', '.join(servo.name for servo in on)}: the torque is on, and a servo would move when its "
                          "calibration changes; hold the arm and add --release")  # fmt: skip
    for servo in on:
        eeprom.release(bus, servo.name, servo.id)


def _to_servos(bus: Bus, file: Path, motors: Mapping[str, Calibration], held: Mapping[str, Calibration]) -> list[str]:
    kept = _keep(file, held)
    for name, motor in motors.items():
        if motor != held[name]:
            eeprom.store(bus, name, motor)
    return [f"the servos hold what {file} says; what they held is in {kept}"]


def _to_file(file: Path, held: Mapping[str, Calibration]) -> str:
    """Whole or not at all; what is written is what can be read again. Raises ConfigError."""
    text = calibration_json(held)
    made = file.with_name(f".{file.name}.new")
    _write(made, text)
    try:
        read_calibration(made)
    except ConfigError as error:
        made.unlink()
        raise ConfigError(f"the servos hold no calibration that could be used: {error}") from error
    kept = ""
    if file.exists():
        backup = backup_path(file)
        _write(backup, file.read_bytes())
        kept = f"; what it said is in {backup}"
    os.replace(made, file)
    return f"{file} says what the servos hold{kept}"


def _anew(bus: Bus, file: Path, held: Mapping[str, Calibration]) -> list[str]:
    """Measures, and writes both sides; the file first, so that `--file-wins` goes on where a servo failed."""
    kept = _keep(file, held)
    try:
        measured = measure(bus, held)
        said = _to_file(file, measured)
        for name, motor in measured.items():
            eeprom.store(bus, name, motor)
    except DeviceError as error:
        raise DeviceError(f"{error}. What the servos held is in {kept}: --calibration {kept} --file-wins puts it "
                          "back") from error  # fmt: skip
    return [said, f"what the servos held before is in {kept}"]


def _keep(file: Path, held: Mapping[str, Calibration]) -> Path:
    """A backup of what the servos hold, beside the file."""
    kept = backup_path(file.with_name(f"{file.stem}.servos{file.suffix}"))
    _write(kept, calibration_json(held))
    return kept


def backup_path(file: Path) -> Path:
    """The first of FILE.1.bak, FILE.2.bak, ... that is not there."""
    for n in range(1, MAX_BACKUPS + 1):
        candidate = file.with_name(f"{file.name}.{n}.bak")
        if not candidate.exists():
            return candidate
    raise ConfigError(f"{file}: has {MAX_BACKUPS} backups; remove some")


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def measure(bus: Bus, held: Mapping[str, Calibration]) -> dict[str, Calibration]:
    """LeRobot's procedure: the middle of each joint by hand, then each joint through its whole range.

    held: what is known of the servos. They are left with the new homing offsets and the widest range. Needs a terminal
    and servos without torque. Raises DeviceError, also when the operator says Esc.
    """
    ids = {name: motor.id for name, motor in held.items()}
    with Terminal() as terminal:
        _ask(terminal, "move every joint to the middle of its range, then press Enter (Esc leaves all as it was)")
        factory = {n: Calibration(m.id, m.drive_mode, 0, 0, TICKS_PER_TURN - 1) for n, m in held.items()}
        for name, motor in factory.items():
            eeprom.store(bus, name, motor)
        centred = {}
        for (name, motor), ticks in zip(factory.items(), eeprom.positions(bus, list(ids.values())), strict=True):
            offset = ticks - MIDDLE
            if abs(offset) > MIDDLE:
                raise DeviceError(f"{name}: its middle lies on the encoder's zero; turn its horn by a tooth")
            centred[name] = msgspec.structs.replace(motor, homing_offset=offset)
            eeprom.store(bus, name, centred[name])
        moved = [name for name in ids if name not in FULL_TURN]
        print(f"move {', '.join(moved)} through their whole ranges, one by one; then press Enter", file=sys.stderr)
        low, high = _sweep(bus, terminal, {name: ids[name] for name in moved})
    still = [name for name in moved if high[name] - low[name] < LEAST_RANGE]
    if still:
        raise DeviceError(f"{', '.join(still)}: hardly moved; measure again")
    return {n: msgspec.structs.replace(m, range_min=low.get(n, 0), range_max=high.get(n, TICKS_PER_TURN - 1))
            for n, m in centred.items()}  # fmt: skip


def _ask(terminal: Terminal, text: str) -> None:
    print(text, file=sys.stderr)
    while "enter" not in (keys := terminal.keys()):
        if "esc" in keys or terminal.gone:
            raise DeviceError("nothing was measured, and nothing written")
        time.sleep(0.02)


def _sweep(bus: Bus, terminal: Terminal, ids: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Least and greatest position of each joint until Enter."""
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    before: dict[str, int] = {}
    while "enter" not in (keys := terminal.keys()):
        if "esc" in keys or terminal.gone:
            raise DeviceError("the ranges were not measured, and the servos hold new homing offsets")
        now = dict(zip(ids, eeprom.positions(bus, list(ids.values())), strict=True))
        for name, ticks in now.items():
            if abs(ticks - before.get(name, ticks)) > TICKS_PER_TURN // 2:
                raise DeviceError(f"{name}: passed the encoder's zero: it did not begin in the middle; measure again")
            low[name], high[name] = min(low.get(name, ticks), ticks), max(high.get(name, ticks), ticks)
        before = now
        ranges = "  ".join(f"{name} {low[name]}..{high[name]}" for name in ids)
        print(f"\r\x1b[K{ranges}", end="", file=sys.stderr, flush=True)
        time.sleep(0.02)
    print(file=sys.stderr)
    return low, high


def _tell(report: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    for line in report["differences"]:
        print(line)
    for line in report["changed"]:
        print(line)
    if report["differences"] and not report["changed"]:
        print(f"{report['file']} and the servos at {report['port']} differ: --file-wins or --servos-win says who is "
              "right", file=sys.stderr)  # fmt: skip
    elif not report["changed"]:
        print(f"{report['file']} and the servos at {report['port']} agree")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
