"""`vlad run` on `vlad sim`, and what an operator does with them: load, engage, look on, hold, resume, park."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlad import config as configuration
from vlad.cli import Declined, Unreachable, ask
from vlad.errors import DeviceError
from vlad.evaluation.rest import rest_pose
from vlad.servo import now_ns

CAMERAS = "vlad-sim"  # prefix of the simulated cameras in a configuration
POLL_S = 0.05
READY_S = 120.0
PARK_S = 30.0
HOLD_S = 5.0
ENGAGEABLE_S = 20.0


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """DeviceError while another demo writes there."""
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DeviceError(f"{out}: another demo writes there: give this one another --out") from None
    finally:
        os.close(descriptor)


def private_config(path: Path, directory: Path, camera_prefix: str) -> Path:
    """A copy of a configuration whose bus, sockets, flight records and cameras are this run's alone, and which has
    a rest pose, so that the arm can be parked.

    Raises ConfigError, as vlad.config.load() does for `path`.
    """
    config = configuration.load(path, machine=False)
    given = tomllib.loads(path.read_text())
    given["arm"] |= {"port": str(directory / "bus"),
                     "calibration": str((path.parent / given["arm"]["calibration"]).resolve())}
    given["control"] = given.get("control", {}) | {"socket": str(directory / "vlad.sock")}
    given["flight"] = given.get("flight", {}) | {"directory": str(directory / "flight")}
    given["flight"].pop("memory", None)
    for camera in given.get("camera", []):
        camera["source"] = camera["source"].replace(f"shm:{CAMERAS}-", f"shm:{camera_prefix}-", 1)
    if "rest_pose" not in given["arm"]:
        given["arm"]["rest_pose"] = rest_pose(config)
    copy = directory / "vlad.toml"
    copy.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in given.items()))
    return copy


def as_toml(value: object) -> str:
    """Of what tomllib gives, dates apart."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


class SimulatedSession:
    """The two processes, the session with the daemon, and what was seen of it.

    options: config, seed, mode, workers. out: logs and recording. private: a directory for this run alone.
    """

    def __init__(self, options: argparse.Namespace, out: Path, private: Path) -> None:
        self.options = options
        self.out = out
        config = private_config(options.config, private, private.name)
        self.config = configuration.load(config, machine=False)
        self.socket = Path(self.config.control.socket)
        self.recording = out / "bus.jsonl"
        me = [sys.executable, "-m", "vlad.main"]
        self.port = private / "sim.sock"
        shot = self.config.cameras[0] if self.config.cameras else None  # the simulator's are all alike
        shape = () if shot is None else ("--width", shot.width, "--height", shot.height, "--fps", shot.fps)
        self.commands = {
            "sim": [*me, "sim", "--bus", self.config.arm.port, "--seed", str(options.seed),
                    "--record", str(self.recording), "--faults", str(self.port),
                    "--camera-prefix", private.name, *map(str, shape)],
            "daemon": [*me, "run", "--config", str(config), "--socket", str(self.socket),
                       "--mode", options.mode, *(["--workers"] if options.workers else [])],
        }
        self.samples: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.final: dict[str, Any] = {}
        self.resumes = 0
        self.began_ns = 0  # when it was last engaged

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Both processes up and the daemon answering; both down again whatever happens."""
        self.recording.unlink(missing_ok=True)
        processes: list[subprocess.Popen[bytes]] = []
        with contextlib.ExitStack() as stack:
            stack.callback(_end, processes)
            self._start(processes, stack, "sim")
            self._await_file(Path(self.config.arm.port), processes[0], "sim")
            self._start(processes, stack, "daemon")
            self._await_daemon(processes[1])
            yield

    def _start(self, processes: list[subprocess.Popen[bytes]], stack: contextlib.ExitStack,
               name: str) -> None:
        log = stack.enter_context((self.out / f"{name}.log").open("wb"))
        print(f"starting {name}: {' '.join(self.commands[name][2:])}")
        processes.append(
            subprocess.Popen(self.commands[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        )

    def _await_file(self, path: Path, process: subprocess.Popen[bytes], name: str) -> None:
        end = time.monotonic() + READY_S
        while not path.exists():
            self._alive(process, name, end)
        while b"READY" not in (self.out / f"{name}.log").read_bytes():
            self._alive(process, name, end)

    def _alive(self, process: subprocess.Popen[bytes], name: str, end: float) -> None:
        if process.poll() is not None:
            tail = (self.out / f"{name}.log").read_text(errors="replace").strip().splitlines()[-3:]
            raise DeviceError(f"{name} ended with status {process.returncode}: " + " | ".join(tail))
        if time.monotonic() > end:
            raise DeviceError(f"{name} was not ready after {READY_S:g} s")
        time.sleep(0.05)

    def _await_daemon(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + READY_S
        while True:
            self._alive(process, "daemon", end)
            with contextlib.suppress(DeviceError):
                self.call("status")
                return

    def call(self, verb: str, timeout_s: float = 10.0, **args: object) -> dict[str, Any]:
        """One request over the control socket, as vladctl makes it. DeviceError when refused."""
        try:
            return ask(str(self.socket), verb, args, timeout_s)
        except Unreachable as error:
            raise DeviceError(f"{verb}: {error}") from error
        except Declined as error:
            raise DeviceError(f"{verb}: {error.error['message']}") from error

    def engage(self, limit_s: float, end: Callable[[Mapping[str, Any]], str | None]) -> str:
        """Engage and look on until `end` names the end of it: that, "fault", or "time limit". A hold whose cause
        has cleared is resumed."""
        self._begin()
        self.began_ns = now_ns()
        while now_ns() - self.began_ns < limit_s * 1e9:
            status = self.look()
            if status["mode"] == "faulted" or any(fault["latched"] for fault in status["faults"]):
                return "fault"
            if status["mode"] == "holding" and not status["why_not_engageable"]:
                self._resume()
            if (ended := end(status)) is not None:
                return ended
            time.sleep(POLL_S)
        return "time limit"

    def hold(self) -> None:
        """Hold, and wait until the arm does."""
        if self.look()["mode"] == "engaged":
            self.call("hold")
        end = time.monotonic() + HOLD_S
        while self.look()["mode"] in ("engaged", "stopping") and time.monotonic() < end:
            time.sleep(POLL_S)

    def park(self) -> None:
        """The arm in its rest pose, with no torque. DeviceError when it does not get there."""
        if any(fault["latched"] for fault in self.look()["faults"]):
            self.call("clear")
        self.call("park")
        end = time.monotonic() + PARK_S
        while self.look()["arm"]["torque"]:
            if time.monotonic() > end:
                raise DeviceError(f"the arm was not parked after {PARK_S:g} s: see {self.out}/daemon.log")
            time.sleep(POLL_S)

    @property
    def engaged_s(self) -> float:
        """Time from each look that found the arm engaged to the next."""
        total_ns: int = sum(b["t_ns"] - a["t_ns"] for a, b in itertools.pairwise(self.samples)
                            if a["mode"] == "engaged")
        return total_ns / 1e9

    def _resume(self) -> None:
        """What an operator does after a hold whose cause has cleared: it is counted, and shown."""
        self.resumes += 1
        holds = [e["name"] for e in self.events if e["event"] == "fault" and e["active"]]
        print(f"\nheld by {sorted(set(holds))}, cleared: resume")
        with contextlib.suppress(DeviceError):  # held again meanwhile: the next look tells
            self.call("resume")

    def _begin(self) -> None:
        """Engage as soon as nothing speaks against it. DeviceError when something did for 20 s."""
        end = time.monotonic() + ENGAGEABLE_S
        while True:
            why = self.call("status")["why_not_engageable"]
            if not why:
                try:
                    self.call("engage")
                    return
                except DeviceError as error:  # something else meanwhile: a camera's frame grew old
                    why = [str(error)]
            if time.monotonic() > end:
                raise DeviceError("not engageable: " + "; ".join(why))
            time.sleep(0.1)

    def look(self) -> dict[str, Any]:
        """One status, and the events since the last one."""
        status: dict[str, Any] = self.call("status")
        self.samples.append(sample(now_ns(), status))
        while new := self.call("events", since=self._seen)["events"]:
            self.events.extend(new)
        return status

    @property
    def _seen(self) -> int:
        return int(self.events[-1]["seq"]) if self.events else 0


def sample(t_ns: int, status: Mapping[str, Any]) -> dict[str, Any]:
    """What the report draws of one status; lists have a number for each joint, in their order."""
    joints = status["arm"]["joints"]
    of = {"goal": "goal", "present": "position", "temperature_c": "temperature_c", "voltage_v": "voltage_v",
          "load": "load"}  # fmt: skip
    return {
        "t_ns": t_ns, "mode": status["mode"], "reaction": status["reaction"],
        "queue_depth": status["queue_depth"], "t_execution_ms": status["t_execution_ms"],
        **{name: [joint[key] for joint in joints.values()] for name, key in of.items()},
    }  # fmt: skip


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM, the daemon first; SIGKILL for what is left after 15 s."""
    for process in reversed(processes):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
