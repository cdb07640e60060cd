"""The simulated robot and the daemon of a soak: two processes, their configuration, what is asked of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vlad import config as configuration
from vlad.cli import ask

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/so101-sim.toml"
READY_S = 180.0
WORKER_LIMIT_MS = 1000  # of a call, on a machine that is shared


class Ended(Exception):
    """A process that should run has ended, or was not ready in time."""


class Robot:
    """`vlad sim` and `vlad run` under names of their own.

    out: logs, recording, configuration. camera: (width, height) of the simulated cameras.
    `daemon` is the running process; a restart replaces it.
    """

    def __init__(self, out: Path, *, seed: int, camera: tuple[int, int]) -> None:
        self.out = out
        self.seed = seed
        self.short = Path(tempfile.mkdtemp(prefix="vlad-soak-"))  # socket paths have 107 bytes
        self.bus = self.short / "bus"
        self.socket = str(self.short / "vlad.sock")
        self.port = str(self.short / "faults")
        self.recording = out / "bus.jsonl"
        self.config_path = out / "vlad.toml"
        self.config_path.write_text(self._config(camera))
        self.config = configuration.load(self.config_path, machine=False)
        self.camera = camera
        self.sim: subprocess.Popen[bytes] | None = None
        self.daemon: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def _config(self, camera: tuple[int, int]) -> str:
        text = CONFIG.read_text()
        for old, new in (
            ("/tmp/vlad-sim/bus", str(self.bus)), ("/tmp/vlad-sim/vlad.sock", self.socket),
            ('"../vlad', f'"{ROOT}/vlad'), ("shm:vlad-sim-", f"shm:{self.short.name}-"),
            ("width = 320\nheight = 240", f"width = {camera[0]}\nheight = {camera[1]}"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        # One block in a worker, the others in the daemon: both ways of running one are there.
        return text + f"\n[block.expert]\nworker = true\ntimeout_ms = {WORKER_LIMIT_MS}\n"

    def workers(self) -> list[int]:
        """Process ids of the daemon's children."""
        assert self.daemon is not None
        found = []
        for children in Path(f"/proc/{self.daemon.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in children.read_text().split()]
        return sorted(found)

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.out / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "vlad.main", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
                env={**os.environ, "RUNTIME_DIRECTORY": str(self.short)},
            )

    def start_sim(self) -> None:
        """Raises Ended."""
        self.recording.unlink(missing_ok=True)
        (self.out / "sim.log").unlink(missing_ok=True)
        self.sim = self._spawn(
            "sim", "sim", "--bus", str(self.bus), "--seed", str(self.seed), "--record", str(self.recording),
            "--faults", self.port, "--camera-prefix", self.short.name,
            "--width", str(self.camera[0]), "--height", str(self.camera[1]),
        )
        log = self.out / "sim.log"
        self._until(self.sim, lambda: b"READY" in log.read_bytes(), "the simulator")

    def start_daemon(self) -> None:
        """Raises Ended."""
        self.starts += 1
        self.daemon = self._spawn("daemon", "run", "--config", str(self.config_path))
        self._until(self.daemon, self.answers, "the daemon")

    def _until(self, process: subprocess.Popen[bytes], done: Any, what: str) -> None:
        end = time.monotonic() + READY_S
        while not done():
            if process.poll() is not None:
                raise Ended(f"{what} ended with status {process.returncode}: see {self.out}")
            if time.monotonic() > end:
                raise Ended(f"{what} was not ready after {READY_S:g} s")
            time.sleep(0.05)

    def answers(self) -> bool:
        with contextlib.suppress(Exception):
            ask(self.socket, "version", {}, 1.0)
            return True
        return False

    def ask(self, verb: str, timeout_s: float = 20.0, **args: object) -> dict[str, Any]:
        """One request as vladctl makes it. Raises vlad.cli.Unreachable and Declined."""
        return ask(self.socket, verb, args, timeout_s)

    def fault(self, cmd: str, **fields: object) -> dict[str, Any]:
        """One command at the simulator's fault port. Raises OSError, or ValueError when it refuses."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(20.0)
            client.connect(self.port)
            client.sendall(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")
            with client.makefile("rb") as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
        if not answer["ok"]:
            raise ValueError(f"{cmd} {fields}: {answer['error']}")
        return answer

    def beside(self, *arguments: str, timeout_s: float = 60.0) -> tuple[int, str]:
        """Another `vlad` beside the daemon, to its end: (exit status, what it said)."""
        done = subprocess.run(
            [sys.executable, "-m", "vlad.main", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def close(self) -> None:
        """SIGTERM, the daemon first; SIGKILL for what is left after 20 s."""
        for process in (self.daemon, self.sim):
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.short, ignore_errors=True)
