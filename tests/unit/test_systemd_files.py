"""The files of systemd/: what systemd itself says of them, and that they agree with the daemon.

That they work is proved with systemd as PID 1, in tests/systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from vlad.config import EXIT_CONFIG
from vlad.config_keys import ControlKeys, FlightKeys, ServoKeys
from vlad.daemon import PARK_S, STAGES_STOP_NS

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
EXPOSURE = 2.0


def verify(directory: Path) -> str:
    """What `systemd-analyze verify` says of the units in a directory; its status is 0 for unknown keys."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(map(str, directory.glob("vlad*")))],
        capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr + (f"status {done.returncode}" if done.returncode else "")


def copied(directory: Path) -> Path:
    """The units, with programs that are installed everywhere."""
    for path in (SYSTEMD / "vlad.service", SYSTEMD / "vlad-devices.target"):
        text = re.sub(r"^(Exec\w+)=vlad\S*", r"\1=/bin/true", path.read_text(), flags=re.MULTILINE)
        (directory / path.name).write_text(text)
    return directory


def service() -> dict[str, list[str]]:
    """[Service] of vlad.service; a key may be repeated."""
    found: dict[str, list[str]] = {}
    _, _, section = (SYSTEMD / "vlad.service").read_text().partition("\n[Service]\n")
    for line in section.partition("\n[Install]\n")[0].splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@needs_systemd
def test_units_are_right_for_systemd(tmp_path: Path) -> None:
    units = copied(tmp_path)
    assert sorted(path.name for path in units.iterdir()) == ["vlad-devices.target", "vlad.service"]
    assert verify(units) == ""


@needs_systemd
@pytest.mark.parametrize(("line", "said"), [("WatchdocSec=2", "WatchdocSec"), ("Restart=sometimes", "sometimes")])
def test_a_mistake_in_a_unit_is_seen(tmp_path: Path, line: str, said: str) -> None:
    unit = copied(tmp_path) / "vlad.service"
    unit.write_text(unit.read_text().replace("[Service]\n", f"[Service]\n{line}\n"))
    assert said in verify(tmp_path)


@needs_systemd
def test_the_sandbox_is_tight() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}",
         str(SYSTEMD / "vlad.service")],
        capture_output=True, text=True, timeout=60, check=False)
    overall = re.search(r"Overall exposure level for vlad.service: ([\d.]+)", done.stdout)
    assert overall and done.returncode == 0, done.stdout + done.stderr
    assert float(overall[1]) <= EXPOSURE


def test_the_unit_agrees_with_the_daemon() -> None:
    unit = service()
    assert unit["RestartPreventExitStatus"] == [f"2 {EXIT_CONFIG}"]
    priority = next(f for f in msgspec.structs.fields(ServoKeys) if f.name == "priority")
    most = msgspec.json.schema(priority.type)["maximum"]
    assert unit["LimitRTPRIO"] == [str(most)], "servo.priority may be what the unit does not grant"
    assert float(unit["TimeoutStopSec"][0]) > PARK_S + 0.5 + STAGES_STOP_NS / 1e9 + 2
    assert "CPUSchedulingPolicy" not in unit, "the whole process would be real time"
    assert "RestrictRealtime" not in unit
    assert unit["ExecStopPost"] == ["vlad-safe-stop hold --state /run/vlad/safe-stop"]
    run, state = f"/run/{unit['RuntimeDirectory'][0]}/", f"/var/lib/{unit['StateDirectory'][0]}/"
    assert ControlKeys().socket.startswith(run)
    assert FlightKeys().directory.startswith(state)


def test_every_file_is_installed() -> None:
    script = (SYSTEMD / "install.sh").read_text()
    for path in SYSTEMD.iterdir():
        name = "tmpfiles-$board.conf" if path.name.startswith("tmpfiles-") else path.name
        assert name in script, f"install.sh does not know {path.name}"


def test_operator_group_is_the_one_of_the_configuration() -> None:
    text = (SYSTEMD.parent / "configs/imx95.toml").read_text()
    (groups,) = re.findall(r'^operator_groups = \["([\w-]+)"\]', text, flags=re.MULTILINE)
    assert re.search(rf"^g {groups} -$", (SYSTEMD / "sysusers.conf").read_text(), flags=re.MULTILINE)


def test_no_key_twice_by_mistake() -> None:
    repeated = {key for key, values in service().items() if len(values) > 1}
    assert repeated == {"DeviceAllow", "SystemCallFilter"}
