"""`vlad demo`: simulated robot + real daemon + shipped policy; ends by itself with a report.

Exit status 1 when the arm did not move, a fault was latched, or the simulator's recording of the
bus shows a goal out of limits or more than one step from its predecessor.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import vlad
from vlad import config as configuration
from vlad.argument_types import seconds
from vlad.cli import Declined, Unreachable, ask
from vlad.errors import DeviceError, VladError
from vlad.queue_plot import draw
from vlad.report import gather, write
from vlad.servo import now_ns
from vlad.wire_witness import Verdict, judge

ROOT = Path(__file__).resolve().parent.parent
SWEEP = ROOT / "assets/sweep"
CONFIG = ROOT / "configs/so101-sim.toml"
MOVED_TICKS = 100  # about 9 degrees: less is not "the arm moved"
MAX_RESUMES = 5  # holds of a busy PC, each with its event
ENGAGED_SHARE = 0.8  # of the time asked for: such a hold takes a second or two
CAMERAS = "vlad-sim"  # prefix of the simulated cameras in CONFIG
POLL_S = 0.05
READY_S = 120.0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="vlad demo", description=__doc__)
    parser.add_argument("--seconds", type=seconds, default=60.0, help="engaged time (60)")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="build/demo")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--bundle", type=Path, help="default: built from the shipped checkpoint")
    parser.add_argument("--task", help="default: the bundle's first task")
    parser.add_argument("--mode", choices=("async", "sync"), default="async")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", action="store_true", help="run every block of the policy in a worker")
    options = parser.parse_args(argv)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    started = now_ns()
    try:
        with alone(out), tempfile.TemporaryDirectory(prefix="vlad-demo-") as private:  # mode 0700
            bundle = options.bundle or build_bundle(out)
            demo = Demo(options, out.resolve(), bundle.resolve(), Path(private))
            with demo.running():
                demo.drive(options.seconds)
            return demo.conclude((now_ns() - started) / 1e9)
    except VladError as error:
        print(f"vlad demo: {error}\n  logs: {out}/daemon.log, {out}/sim.log", file=sys.stderr)
        return 1


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
    """A copy of a configuration whose bus, sockets, flight records and cameras are this run's alone.

    Raises ConfigError, as vlad.config.load() does for `path`.
    """
    configuration.load(path, machine=False)
    given = tomllib.loads(path.read_text())
    given["arm"] |= {"port": str(directory / "bus"),
                     "calibration": str((path.parent / given["arm"]["calibration"]).resolve())}
    given["control"] = given.get("control", {}) | {"socket": str(directory / "vlad.sock")}
    given["flight"] = given.get("flight", {}) | {"directory": str(directory / "flight")}
    given["flight"].pop("memory", None)
    for camera in given.get("camera", []):
        camera["source"] = camera["source"].replace(f"shm:{CAMERAS}-", f"shm:{camera_prefix}-", 1)
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


def build_bundle(out: Path) -> Path:
    """The shipped checkpoint as a bundle, built once by `vlad build`."""
    from vlad.build.command import main as build

    target = out / "sweep.vlad"
    if target.exists():
        return target
    checkpoint = SWEEP / "checkpoint"
    if not checkpoint.exists():
        raise DeviceError(f"{checkpoint} is not there: run the demo from a source tree")
    print("building the bundle from the shipped LeRobot checkpoint")
    status = build([str(checkpoint), "--dataset", str(SWEEP / "dataset"),
                    "--units", "degrees", "-o", str(target)])
    if status:
        raise DeviceError(f"vlad build ended with status {status}")
    return target


class Demo:
    """The two processes, the session with the daemon, and what was seen of it.

    private: a directory for this run alone.
    """

    def __init__(self, options: argparse.Namespace, out: Path, bundle: Path, private: Path) -> None:
        self.options = options
        self.out = out
        self.bundle = bundle
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

    # --- the session ------------------------------------------------------------------------

    def drive(self, seconds: float) -> None:
        """load, task, engage, watch, hold."""
        loaded = self.call("load", READY_S, path=str(self.bundle))
        print(f"loaded {loaded['name']}: {loaded['load_check']}")
        task = self.options.task or loaded["tasks"][0]
        self.call("task", text=task)
        self.wait_engageable()
        self.call("engage")
        print(f"engaged: {task!r}")
        view = _View(seconds)
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            status = self.look()
            view.show(elapsed, status)
            if status["mode"] == "faulted":
                print(f"\nfaulted: {[f['name'] for f in status['faults']]}")
                break
            if status["mode"] == "holding" and not status["why_not_engageable"]:
                self._resume()
            time.sleep(POLL_S)
        self.call("hold")
        end = time.monotonic() + 2.0
        while time.monotonic() < end and self.look()["mode"] not in ("holding", "faulted"):
            time.sleep(POLL_S)
        view.close()
        self.final = self.look()
        try:
            self.call("dump")
        except DeviceError as error:
            print(f"no flight record: {error}")

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

    def wait_engageable(self) -> None:
        end = time.monotonic() + 20.0
        while why := self.call("status")["why_not_engageable"]:
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

    # --- the verdict ------------------------------------------------------------------------

    def conclude(self, duration_s: float) -> int:
        """Writes report.json and queue.png, prints the summary; the exit status."""
        wire = judge(self.recording, self.config.joints, self.config.period_ns / 1e9)
        problems = self._problems(wire)
        report = {
            **self.final,
            "ok": not problems, "problems": problems,
            "wire": {
                "goals": wire.goals, "moved_ticks": wire.moved_ticks,
                "worst_step_ticks": {k: {"seen": a, "bound": b} for k, (a, b) in wire.worst_step.items()},
                "violations": list(wire.violations), "recording": str(self.recording),
            },
            "resumes": self.resumes, "engaged_s": round(self.engaged_s, 3), "duration_s": round(duration_s, 3),
            "commands": self.commands, "versions": versions(),
            "about": "The policy is a small SmolVLA-architecture network trained for minutes on a "
                     "scripted sweep: it shows the runtime, not a skill.",
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        for name, rows in (("samples", self.samples), ("events", self.events)):
            (self.out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._keep_flights()
        policy = self.final["policy"]
        draw(self.out / "queue.png", self.samples, self.events,
             title=f"Action queue of {policy['name']} ({policy['mode']}, {policy['rate_hz']:.3g} Hz)",
             chunk_size=policy["chunk_size"],
             threshold_actions=policy["threshold_ms"] / 1e3 * policy["rate_hz"])
        print(summary(report))
        write(self.out / "report.html", "vlad demo", *gather(self.out))
        print("".join(f"\n{self.out}/{name}" for name in ("report.json", "queue.png", "report.html")))
        for problem in problems:
            print(f"PROBLEM: {problem}", file=sys.stderr)
        return 1 if problems else 0

    def _keep_flights(self) -> None:
        """The flight records of this run, and of no other."""
        kept = self.out / "flight"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for record in sorted(Path(self.config.flight.directory).glob("*.mcap")):
            shutil.copy2(record, kept)

    def _problems(self, wire: Verdict) -> list[str]:
        problems = list(wire.violations)
        if wire.moved_ticks < MOVED_TICKS:
            problems.append(f"the arm did not move: {wire.moved_ticks} ticks")
        problems += [f"fault {f['id']} {f['name']} is latched"
                     for f in self.final["faults"] if f["latched"]]
        if self.resumes > MAX_RESUMES:
            problems.append(f"held and resumed {self.resumes} times")
        if self.engaged_s < ENGAGED_SHARE * self.options.seconds:
            problems.append(f"engaged for {self.engaged_s:.1f} of {self.options.seconds:g} s")
        rtc = self.final["policy"]["rtc"]
        if rtc and self.options.mode == "async" and not rtc["guided"]:
            problems.append("no chunk was guided, though policy.aggregate is rtc")
        servo = self.final["servo"]
        if wire.goals < 0.99 * servo["writes"]:
            problems.append(f"the recording has {wire.goals} goal frames, {servo['writes']} were sent")
        if servo["wire_limit"] or servo["wire_step"]:
            problems.append(f"refused at the wire: {servo['wire_limit']} beyond limits, "
                            f"{servo['wire_step']} steps")
        oldest, horizon = self.final["execution"]["action_age_max_ms"], self.final["policy"]
        bound = 2e3 * horizon["chunk_size"] / horizon["rate_hz"]
        if self.options.mode == "async" and oldest > bound:
            problems.append(f"an action {oldest:.0f} ms after its observation was executed, "
                            f"more than {bound:.0f} ms")
        return problems


def summary(report: Mapping[str, Any]) -> str:
    """The report in a dozen lines."""
    chunks, servo, t = report["chunks"], report["servo"], report["t_inference_ms"]
    execution, policy, wake = report["execution"], report["policy"], report["servo"]["wake_us"]
    covered = execution["covered_ticks"] / max(1, execution["engaged_ticks"])
    starved = {k: v for k, v in execution["starved_ticks"].items() if v}
    worst = max(w["seen"] / w["bound"] for w in report["wire"]["worst_step_ticks"].values())
    return "\n".join([
        "",
        f"verdict       {'OK' if report['ok'] else 'NOT OK'}",
        f"engaged       {report['engaged_s']:.1f} s, covered by actions {covered:.1%}, "
        f"resumed {report['resumes']} times, gaps {execution['gaps']}, starved ticks {starved or 'none'}",
        f"chunks        accepted {chunks['accepted']}, late {chunks['late']}, stale {chunks['stale']}, "
        f"rejected {chunks['rejected'] or 0}, clamped {chunks['clamped']}",
        *([_guided(policy["rtc"])] if policy["rtc"] else []),
        f"T_inference   p50 {t['p50']:.1f} ms, p99 {t['p99']:.1f} ms, predicted {t['predicted']:.1f} ms",
        f"T_execution   threshold {policy['threshold_ms']:.0f} ms of "
        f"{1e3 * policy['chunk_size'] / policy['rate_hz']:.0f} ms a chunk",
        f"action age    at most {execution['action_age_max_ms']:.0f} ms after its observation",
        f"servo         {servo['rate_hz']} Hz, {'real time' if servo['realtime'] else 'NOT real time'}, "
        f"late p50 {wake['p50']:.0f} us, p99 {wake['p99']:.0f} us, max {wake['max']:.0f} us, "
        f"overruns {servo['overruns']}",
        f"compute       p99 {servo['compute_us']['p99']:.0f} us a tick, bus p99 {servo['bus_us']['p99']:.0f} us",
        f"wire          {report['wire']['goals']} goal frames, largest step {worst:.0%} of its bound, "
        f"{len(report['wire']['violations'])} violations",
        f"faults        {[f['name'] for f in report['faults']] or 'none'}",
        *(f"worker        {name}: {w['calls']} calls, {w['restarts']} restarts, p50 {w['call_ms']['p50']:.2f} ms, "
          f"of it {w['overhead_us']['p50']:.0f} us beside the computation (p99 {w['overhead_us']['p99']:.0f} us)"
          for name, w in report.get("workers", {}).items()),
    ])


def _guided(rtc: Mapping[str, Any]) -> str:
    off = rtc["prefix_rms"]["p95"]
    return (f"rtc           {rtc['guided']} chunks guided, {sum(rtc['unguided'].values())} not; delay "
            f"{rtc['consumed_actions']} actions, {rtc['delay_actions']} predicted; prefix off by "
            f"{'-' if off is None else f'{off:.3g}'} (p95, normalised)")


def versions() -> dict[str, str]:
    """Of everything that matters to the figures."""
    import mujoco
    import numpy
    import onnxruntime

    return {"vlad": vlad.__version__, "python": platform.python_version(), "kernel": platform.release(),
            "machine": platform.machine(), "numpy": numpy.__version__,
            "onnxruntime": onnxruntime.__version__, "mujoco": mujoco.__version__}


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


class _View:
    """A live line on a terminal, one line every five seconds elsewhere."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tty = sys.stdout.isatty()
        self._next = 0.0

    def show(self, elapsed: float, status: Mapping[str, Any]) -> None:
        if not self._tty and elapsed < self._next:
            return
        self._next = elapsed + 5.0
        chunks, t = status["chunks"], status["t_inference_ms"]
        depth = status["queue_depth"]
        size = status["policy"]["chunk_size"] if status["policy"] else 50
        bar = "#" * round(30 * min(1.0, depth / size))
        line = (f"{elapsed:5.1f}/{self._seconds:g} s {status['mode']:8} queue [{bar:30}] {depth:3d}  "
                f"T_inf {t['p50'] or 0:6.1f} ms  T_exec {status['t_execution_ms']:6.0f} ms  "
                f"chunks {chunks['accepted']}+{chunks['late']} late  "
                f"servo p99 {status['servo']['wake_us']['p99']:.0f} us")
        width = shutil.get_terminal_size((120, 24)).columns - 1
        print(("\r" + line[:width].ljust(width)) if self._tty else line,
              end="" if self._tty else "\n", flush=True)

    def close(self) -> None:
        if self._tty:
            print()


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
