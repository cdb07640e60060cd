"""A running `vlad sim` for tests: its own process, bus path, camera names and fault port."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 60.0
_NUMBERS = itertools.count()


class Simulator:
    """Paths of a running simulator and its fault port."""

    def __init__(self, directory: Path) -> None:
        self.bus = str(directory / "bus")
        self.record = directory / "bus.jsonl"
        self.faults = str(directory / "faults")
        self.camera_prefix = f"vlad-test-{os.getpid()}-{next(_NUMBERS)}"
        self.process: subprocess.Popen[bytes]

    def command(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """One command at the fault port; fails the test when it is refused."""
        answer = self.send(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")
        assert answer["ok"], answer
        return answer

    def send(self, line: bytes) -> dict[str, Any]:
        """Raw bytes to the fault port; the answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(10.0)
            client.connect(self.faults)
            client.sendall(line)
            with client.makefile("rb") as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
        return answer

    def packets(self) -> list[dict[str, Any]]:
        """The recording so far."""
        return [json.loads(line) for line in self.record.read_text().splitlines()]


@contextlib.contextmanager
def running(directory: Path, *options: str) -> Iterator[Simulator]:
    """Start the simulator, wait for READY, stop it with SIGTERM and expect status 0."""
    simulator = Simulator(directory)
    paths = ["--bus", simulator.bus, "--faults", simulator.faults]
    paths += ["--record", str(simulator.record), "--camera-prefix", simulator.camera_prefix]
    said = directory / "sim.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vlad.sim.command", *paths, *options],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    simulator.process = process
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "READY" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, "no READY"
            time.sleep(0.02)
        yield simulator
        process.send_signal(signal.SIGTERM)
        assert process.wait(20.0) == 0, said.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
