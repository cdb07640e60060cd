"""The flight record of the whole daemon: a fault on the simulated bus writes a file that is decided
the same again, and a daemon that is killed leaves one for its next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import daemons, simulator
from tests.daemons import engage, wait_for
from vlad import flight_memory
from vlad._native.flight import TICK
from vlad.cli import ask
from vlad.control import Control
from vlad.faults import BY_NAME
from vlad.flight_file import read
from vlad.replay import replay

# A loop in real time on an arm in memory, as the daemon runs it, that ends as a crash does.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from vlad.config_keys import FlightKeys
from vlad.flight import FlightRecorder
from vlad.flight_file import About, about_servo
from vlad.servo import ENGAGE, JointLimits, MemoryArm, Servo, ServoConfig

config = ServoConfig((JointLimits(-1.9, 1.9),) * 3, 33_333_333, 50, allow_non_realtime=True,
                     overrun_hold_ns=900_000_000)
servo = Servo(config)
recorder = FlightRecorder(
    FlightKeys(directory=sys.argv[2]), servo,
    About(version="9", board="bench", joints=("a", "b", "c"), servo=about_servo(config)),
    memory=Path(sys.argv[1]), period_ns=config.period_ns, frames=dict, figures=lambda: {"mode": "?"})
recorder.start()
servo.adopt_memory(MemoryArm((0.1, 0.2, 0.3)), True, (0.1, 0.2, 0.3))
servo.start(10)
time.sleep(0.5)
servo.request(ENGAGE)
time.sleep(1.0)
print(recorder.status(), flush=True)
if sys.argv[3] != "0":
    os.kill(os.getpid(), int(sys.argv[3]))
servo.stop()
recorder.stop()
"""


@pytest.fixture
def in_memory() -> Iterator[Path]:
    if flight_memory.file_system(Path("/dev/shm")) not in flight_memory.MEMORY_FILE_SYSTEMS:
        pytest.skip("no tmpfs at /dev/shm")
    path = Path(f"/dev/shm/vlad-test-{os.getpid()}-{time.monotonic_ns()}")
    path.mkdir(mode=0o700)
    yield path
    for left in path.iterdir():
        left.unlink()
    path.rmdir()


@pytest.mark.fault(28)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_f28_a_killed_process_leaves_its_record(number: int, in_memory: Path, tmp_path: Path) -> None:
    memory, files = in_memory / "vlad.sock.flight", tmp_path / "flight"

    def run(how: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, str(memory), str(files), str(how)], capture_output=True,
            text=True, timeout=60, check=False, env={**os.environ, "PYTHONFAULTHANDLER": ""})

    killed = run(number)
    assert killed.returncode == -number, killed.stderr
    assert memory.exists()
    after = run(0)
    assert after.returncode == 0, after.stderr
    (path,) = files.glob("*-crash.mcap")
    flight = read(path)
    assert flight.about.reason == "crash"
    assert len(flight.rows[TICK]) > 30 and flight.rows[TICK][-1]["mode"] == 3
    assert replay(flight).difference is None
    assert list(in_memory.iterdir()) == []


@pytest.mark.fault(19)
def test_a_fault_on_the_bus_writes_a_file_that_replays(tmp_path: Path) -> None:
    with simulator.running(tmp_path, "--width", "96", "--height", "96") as sim:
        config = daemons.config_for(sim, tmp_path)
        with daemons.running(config) as daemon:
            engage(daemon)
            sim.command("silence", id=3)
            name = "servo_silent"
            (path,) = wait_for(lambda: list((tmp_path / "flight").glob(f"*-{name}.mcap")), 20)
            control = Control(config.control, daemon, daemon.servo)
            control.start()
            asked = ask(config.control.socket, "dump", {}, 20.0)
            control.stop()
            status = daemon.status()["flight"]
        assert status["written"] >= 2 and status["failed"] == 0 and status["error"] == ""
    bit = 1 << BY_NAME[name].id
    for file in (path, Path(asked["path"])):
        flight = read(file)
        before = [t for t in flight.rows[TICK] if not t["latched"] & bit]
        since = [t for t in flight.rows[TICK] if t["latched"] & bit]
        assert any(t["mode"] == 3 and not t["at_rest"] for t in before), "the motion before is in it"
        assert since and since[-1]["now_ns"] - since[0]["now_ns"] > 1_500_000_000, "and what followed"
        assert flight.counts["/camera/top"] > 3
        outcome = replay(flight)
        assert outcome.difference is None and outcome.chunks >= 2
