"""`vlad sim` as a program: READY, recording, cameras, faults over the socket, clean end."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.simulator import Simulator, running
from vlad import config
from vlad.shm_camera import ShmRing
from vlad.sim.feetech_slave import BROADCAST, SYNC_READ, SYNC_WRITE, packet
from vlad.sim.settings import Settings, read_config
from vlad.sim.world import CAMERAS

pytestmark = pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")

DAEMON_CONFIG = Path(__file__).parents[2] / "configs/so101-sim.toml"
DAEMON = DAEMON_CONFIG.read_text().replace("../vlad", f"{DAEMON_CONFIG.parents[1]}/vlad")
PERIOD_NS = 33_333_333


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running(tmp_path_factory.mktemp("sim"), "--width", "160", "--height", "120") as started:
        yield started


def ring(simulator: Simulator, camera: str) -> ShmRing:
    return ShmRing(f"/dev/shm/{simulator.camera_prefix}-{camera}")


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def run_to_end(*options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "vlad.sim.command", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def ask(port: int, request: bytes, length: int) -> bytes:
    os.write(port, request)
    reply = b""
    deadline = time.monotonic() + 5.0
    while len(reply) < length and time.monotonic() < deadline:
        reply += os.read(port, length - len(reply))
    return reply


def test_the_recording_has_both_directions_in_order(simulator: Simulator) -> None:
    port = os.open(simulator.bus, os.O_RDWR | os.O_NOCTTY)
    read = packet(BROADCAST, SYNC_READ, bytes((56, 2, 1, 2)))
    write = packet(BROADCAST, SYNC_WRITE, bytes((42, 2, 1, 0, 8, 6, 0x10, 6)))
    before_ns = time.monotonic_ns()
    reply = ask(port, read, 16)
    os.write(port, write)
    ask(port, read, 16)
    os.close(port)
    packets = simulator.packets()[-5:]
    assert [p["dir"] for p in packets] == ["tx", "rx", "rx", "tx", "tx", "rx", "rx"][2:]
    assert packets[1]["hex"] == write.hex()
    assert packets[1]["goals"] == {"1": 2048, "6": 1552}
    assert "goals" not in packets[0]
    times = [p["t_ns"] for p in packets]
    assert times == sorted(times)
    assert before_ns < times[0] < time.monotonic_ns()
    assert reply[2] == 1
    assert reply[10] == 2


def test_frames_are_stamped_with_the_time_of_the_state(simulator: Simulator) -> None:
    top = ring(simulator, "top")
    assert (top.width, top.height) == (160, 120)
    stamps = []
    last = top.newest()
    while len(stamps) < 15:
        number = top.newest()
        if number != last:
            frame = top.read(number)
            assert frame is not None
            assert frame.t_capture_ns <= time.monotonic_ns()
            stamps.append(frame.t_capture_ns)
            last = number
        time.sleep(0.002)
    steps = np.diff(stamps)
    assert (steps > 0).all()
    assert np.median(steps) == pytest.approx(PERIOD_NS, rel=0.25)


def test_camera_faults(simulator: Simulator) -> None:
    left = ring(simulator, "left")

    def moving_on() -> bool:
        number = left.newest()
        time.sleep(0.3)
        return left.newest() > number

    def newest() -> np.ndarray:
        while (frame := left.read(left.newest())) is None:
            pass
        return frame.image

    assert moving_on()
    simulator.command("camera_stall", camera="left")
    time.sleep(0.2)
    assert not moving_on()
    simulator.command("camera_dark", camera="left")
    eventually(lambda: newest().max() < 10, "dark")
    simulator.command("camera_resume", camera="left")
    eventually(lambda: newest().std() > 15, "bright again")
    simulator.command("camera_freeze", camera="left")
    time.sleep(0.2)
    frozen = newest()
    simulator.command("cut_supply")
    assert moving_on()
    assert np.array_equal(newest(), frozen)
    simulator.command("clear_all")


def test_bad_lines_at_the_fault_port_are_answered(simulator: Simulator) -> None:
    assert "not JSON" in simulator.send(b"{nonsense\n")["error"]
    assert "JSON object" in simulator.send(b"[1]\n")["error"]
    assert "longer than" in simulator.send(b"x" * 70_000)["error"]
    assert "not JSON" in simulator.send(b"[" * 60_000 + b"\n")["error"]
    flood = []
    with pytest.raises(OSError):
        for _ in itertools.count():
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            flood.append(client)
            client.settimeout(0.5)
            client.connect(simulator.faults)
            if len(flood) > 8 and client.recv(1) == b"":
                raise ConnectionResetError("dropped, as it should be")
    for client in flood:
        client.close()
    eventually(lambda: simulator.command("status")["ok"], "it still answers")


def test_answers_keep_coming_at_the_wire_s_pace(simulator: Simulator) -> None:
    """Loose on purpose: the machine may be busy. 98 bytes are 0.98 ms on the wire."""
    port = os.open(simulator.bus, os.O_RDWR | os.O_NOCTTY)
    request = packet(BROADCAST, SYNC_READ, bytes((56, 8, 1, 2, 3, 4, 5, 6)))
    took_ms = []
    for _ in range(100):
        began_ns = time.monotonic_ns()
        assert len(ask(port, request, 84)) == 84
        took_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        time.sleep(0.005)
    os.close(port)
    assert min(took_ms) >= 0.98
    assert np.median(took_ms) < 20.0


def test_a_second_simulator_is_refused_and_the_first_goes_on(simulator: Simulator) -> None:
    status, said = run_to_end("--bus", simulator.bus, "--no-cameras", "--duration", "1")
    assert status == 78
    assert "another vlad sim" in said
    prefix = simulator.camera_prefix
    status, said = run_to_end("--bus", f"{simulator.bus}2", "--camera-prefix", prefix)
    assert status == 78
    assert "another vlad sim" in said
    assert simulator.command("status")["link"] in ("open", "closed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "4"], "width: must be 16"),
        (["--fps", "0"], "fps: must be 1"),
        (["--duration", "-1"], "--duration"),
        (["--bus", "/dev/null"], "no symbolic link"),
        (["--bus", "/nowhere/at/all"], "/nowhere/at/all: No such file"),
        (["--record", "/nowhere/record"], "/nowhere/record: No such file"),
        (["--faults", "/nowhere/faults"], "/nowhere/faults: No such file"),
        (["--config", "/nowhere.toml"], "/nowhere.toml: No such file"),
    ],
)
def test_bad_options_end_with_78_and_say_which(
    tmp_path: Path, options: list[str], message: str
) -> None:
    status, said = run_to_end("--no-cameras", "--bus", str(tmp_path / "bus"), *options)
    assert status == 78
    assert message in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sim]\nwidht = 3", "sim.widht is unknown"),
        ("[sim]\nwidth = true", "sim.width: True is of the wrong type"),
        ("[sim]\nbus = 3", "sim.bus: 3 is of the wrong type"),
        ("[sim\n", "not TOML"),
        ("[sim]\n[arm]", "[sim] alone"),
        ("[arm]\nprot = 3", "arm.prot"),
        (DAEMON.replace("-left", "-front"), "camera[2].source: 'shm:vlad-sim-front'"),
        (DAEMON.replace("height = 240", "height = 200", 1), "one NAME, width, height and fps"),
    ],
)
def test_a_bad_config_file_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    status, said = run_to_end("--config", str(file))
    assert status == 78
    assert message in said
    assert "config.toml" in said


def test_the_daemon_s_configuration_says_what_to_offer() -> None:
    daemon = config.load(DAEMON_CONFIG, machine=False)
    settings = Settings(**read_config(DAEMON_CONFIG))
    assert settings.bus == str(daemon.arm.port)
    assert settings.calibration == str(daemon.arm.calibration)
    offered = {f"shm:{settings.camera_prefix}-{name}" for name in CAMERAS}
    assert {camera.source for camera in daemon.cameras} <= offered
    assert {(c.width, c.height) for c in daemon.cameras} == {(settings.width, settings.height)}


def test_everything_is_gone_after_the_end(tmp_path: Path) -> None:
    with running(tmp_path, "--width", "64", "--height", "64") as simulator:
        names = [Path(simulator.bus), Path(simulator.faults)]
        rings = [Path(f"/dev/shm/{simulator.camera_prefix}-{c}") for c in ("top", "gripper")]
        assert all(os.path.lexists(name) for name in (*names, *rings))
    assert not any(os.path.lexists(name) for name in (*names, *rings))


def test_the_renderer_s_death_ends_the_simulator_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="renderer ended"), running(tmp_path) as simulator:
        children = Path(f"/proc/{simulator.process.pid}/task/{simulator.process.pid}/children")
        os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
        assert simulator.process.wait(20.0) == 1
    assert not list(Path("/dev/shm").glob(f"{simulator.camera_prefix}*"))
