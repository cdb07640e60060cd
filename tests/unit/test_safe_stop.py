"""vlad-safe-stop over a pseudo-terminal: what it writes, what it says, when it gives up."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pty_servos import CALIBRATION, PtyServos, joints
from vlad.errors import DeviceError
from vlad.safe_stop import program, write_state

PROGRAM = program()
IDS = "1,2,3,4,5,6"


@pytest.fixture
def servos(tmp_path: Path) -> Iterator[PtyServos]:
    servos = PtyServos(tmp_path / "bus")
    for id in CALIBRATION:
        servos.registers[id][40] = 1
    yield servos
    servos.unplug()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def stop(servos: PtyServos, path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run(*more, "--port", path / "bus", "--ids", IDS)


@pytest.mark.fault(29)
def test_hold_writes_only_where_it_must(servos: PtyServos, tmp_path: Path) -> None:
    servos.registers[1][40] = 0
    servos.put(1, 56, 3000)  # limp, away from its goal of 2048
    servos.put(2, 56, 2048 + 130)
    servos.put(3, 56, 2048 + 131)
    servos.put(6, 56, 2600)
    done = stop(servos, tmp_path, "hold", "--gripper", "6")
    assert done.returncode == 0, done.stderr
    assert [servos.get(id, 42) for id in CALIBRATION] == [2048, 2048, 2179, 2048, 2048, 2048]
    assert [servos.registers[id][40] for id in CALIBRATION] == [0, 1, 1, 1, 1, 1]
    assert done.stderr == (
        "vlad-safe-stop: hold: no torque, nothing written: 1; goal kept: 2 4 5 6; "
        "goal set to the present position: 3;\n"
    )


def test_hold_ends_in_time_and_names_the_silent(servos: PtyServos, tmp_path: Path) -> None:
    servos.silent = {2, 5}
    servos.put(3, 56, 3000)
    begun = time.monotonic()
    done = stop(servos, tmp_path, "hold")
    assert time.monotonic() - begun < 5  # 0.4 s of its own
    assert done.returncode == 1
    assert "FAILED (silent, or does not take what is written): 2 5;" in done.stderr
    assert servos.get(3, 42) == 3000


def test_limp_and_park(servos: PtyServos, tmp_path: Path) -> None:
    assert stop(servos, tmp_path, "limp").returncode == 0
    assert not any(servos.registers[id][40] for id in CALIBRATION)
    for id in CALIBRATION:
        servos.registers[id][40] = 1
    servos.sync_writes.clear()
    begun = time.monotonic()
    done = stop(servos, tmp_path, "park")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun >= 2
    assert not any(servos.registers[id][40] for id in CALIBRATION)
    assert [servos.get(id, 48) for id in CALIBRATION] == [1000] * 5 + [500]
    limits = [int.from_bytes(w[1], "little") for address, w in servos.sync_writes if address == 48]
    assert limits == sorted(limits, reverse=True) and limits[-1] == 0 and len(limits) == 40


def test_port_of_a_living_daemon_is_left_alone(servos: PtyServos, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "bus", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    fcntl.flock(fd, fcntl.LOCK_EX)
    begun = time.monotonic()
    done = stop(servos, tmp_path, "limp")
    assert time.monotonic() - begun >= 0.5
    assert done.returncode == 3
    assert done.stderr.endswith("in use by another process: left to it\n")
    assert servos.requests == 0
    os.close(fd)


def test_port_of_a_dying_daemon_is_waited_for(servos: PtyServos, tmp_path: Path) -> None:
    holder = subprocess.Popen(["flock", tmp_path / "bus", "sleep", "0.2"])
    time.sleep(0.05)
    assert stop(servos, tmp_path, "hold").returncode == 0
    holder.wait()


def test_state_file(servos: PtyServos, tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = run("hold", "--state", state)
    assert done.returncode == 0
    assert "no daemon had the bus" in done.stderr
    state.write_text(f"port={tmp_path}/bus\nids={IDS}\ngripper=6\nfollowing-limit-ticks=5\n")
    servos.put(1, 56, 2048 + 6)
    servos.put(6, 56, 2600)
    done = run("hold", "--state", state)
    assert done.returncode == 0, done.stderr
    assert servos.get(1, 42) == 2054
    assert servos.get(6, 42) == 2048
    servos.put(1, 56, 2070)
    run("hold", "--state", state, "--following-limit-ticks", "130")  # the command line decides
    assert servos.get(1, 42) == 2054


def test_state_file_of_a_daemon(servos: PtyServos, tmp_path: Path) -> None:
    state = tmp_path / "state"
    write_state(state, f"{tmp_path}/bus", 1_000_000, joints(), 0.2)
    assert sorted(os.listdir(tmp_path)) == ["bus", "state"]
    servos.put(2, 56, 2048 + 131)
    servos.put(6, 56, 2600)
    done = run("hold", "--state", state)
    assert done.returncode == 0, done.stderr
    assert [servos.get(id, 42) for id in CALIBRATION] == [2048, 2179, 2048, 2048, 2048, 2048]
    with pytest.raises(DeviceError, match="no name for a port"):
        write_state(state, "a\nb", 1_000_000, joints(), 0.2)
    with pytest.raises(DeviceError, match="No such file or directory"):
        write_state(tmp_path / "no" / "state", "a", 1_000_000, joints(), 0.2)


def test_lost_line(servos: PtyServos, tmp_path: Path) -> None:
    done = run("hold", "--port", tmp_path / "nothing", "--ids", "1")
    assert done.returncode == 3
    assert "nothing: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["hold"],
        ["hold", "park", "--port", "x", "--ids", "1"],
        ["halt", "--port", "x", "--ids", "1"],
        ["hold", "--port", "x"],
        ["hold", "--ids", "1"],
        ["hold", "--port", "", "--ids", "1"],
        ["hold", "--port", "x" * 300, "--ids", "1"],
        *(
            ["hold", "--port", "x", "--ids", ids]
            for ids in ("", "254", "-1", "1,,2", "1,1", "one", "1 2", "1," * 200)
        ),
        ["hold", "--port", "x", "--ids", ",".join(map(str, range(33)))],
        ["hold", "--port", "x", "--ids", "1", "--baud", "0"],
        ["hold", "--port", "x", "--ids", "1", "--following-limit-ticks", "99999999999999999999"],
        ["hold", "--port", "x", "--ids", "1", "--gripper", "6x"],
        ["hold", "--port", "x", "--ids", "1", "--frobnicate"],
        ["hold", "--state", "/"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr


@pytest.mark.parametrize("line", ["port", "=x", "colour=red", "ids=0x1", "state=/etc/passwd"])
def test_bad_state_file(tmp_path: Path, line: str) -> None:
    (tmp_path / "state").write_text(f"port=/dev/null\n{line}\n")
    done = run("hold", "--state", tmp_path / "state")
    assert done.returncode == 2
    assert "vlad-safe-stop: " in done.stderr


def test_help_lists_the_verbs() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in ("hold", "park", "limp"))
