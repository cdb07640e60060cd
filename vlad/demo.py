"""`vlad demo`: simulated robot + real daemon + shipped policy; ends by itself with a report.

A policy that knows one of the table's two tasks makes attempts at it, each from another start, until the time is over;
any other just moves. Exit status 1 when the arm did not move, no attempt succeeded, a fault was latched, or the
simulator's recording of the bus shows a goal out of limits or more than one step from its predecessor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import vlad
from vlad.argument_types import seconds
from vlad.errors import DeviceError, VladError
from vlad.evaluation.pictures import Pose
from vlad.queue_plot import draw
from vlad.report import gather, write
from vlad.servo import now_ns
from vlad.sim import port_client
from vlad.sim.film import write_film
from vlad.sim.session import READY_S, SimulatedSession, alone
from vlad.sim.start import CLUSTERS
from vlad.sim.task import TASKS, TIME_LIMIT_S, Task
from vlad.wire_witness import Verdict, judge

TEABAG = Path(__file__).resolve().parent / "policies/teabag.vlad"
CONFIG = Path(__file__).resolve().parent.parent / "configs/teabag-sim.toml"
MOVED_TICKS = 100  # about 9 degrees: less is not "the arm moved"
MAX_RESUMES = 5  # holds of a busy PC, each with its event
ENGAGED_SHARE = 0.8  # of the time asked for: such a hold takes a second or two


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="vlad demo", description=__doc__)
    parser.add_argument("--seconds", type=seconds, default=60.0, help="engaged time (60)")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="build/demo")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--bundle", type=Path, default=TEABAG,
                        help="default: the shipped one, which puts a tea bag in a mug")
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
            demo = Demo(options, out.resolve(), options.bundle.resolve(), Path(private))
            with demo.running():
                demo.drive(options.seconds)
            return demo.conclude((now_ns() - started) / 1e9)
    except VladError as error:
        print(f"vlad demo: {error}\n  logs: {out}/daemon.log, {out}/sim.log", file=sys.stderr)
        return 1


@dataclass(slots=True)
class Attempt:
    """One time at the task, from engage on. ended: "success", "time limit" or "fault"."""

    cluster: int
    ended: str = "time limit"
    seconds: float = 0.0
    poses: list[Pose] = field(default_factory=list)


class Demo(SimulatedSession):
    """A session with one bundle, and the verdict on it."""

    def __init__(self, options: argparse.Namespace, out: Path, bundle: Path, private: Path) -> None:
        super().__init__(options, out, private)
        self.bundle = bundle
        self.attempts: list[Attempt] = []
        self.view = _View(options.seconds)

    def drive(self, seconds: float) -> None:
        """load, task, attempts."""
        loaded = self.call("load", READY_S, path=str(self.bundle))
        print(f"loaded {loaded['name']}: {loaded['load_check']}")
        text = self.options.task or loaded["tasks"][0]
        self.call("task", text=text)
        task = next((task for task in TASKS if task.instruction == text), None)
        print(f"task: {text!r}")
        if task is None:
            self.engage(seconds, self._show)
        else:
            self.attempt_for(seconds, task)
        self.hold()
        self.view.close()
        self.final = self.look()
        try:
            self.call("dump")
        except DeviceError as error:
            print(f"no flight record: {error}")

    def attempt_for(self, seconds: float, task: Task) -> None:
        """Attempts until they took so long: the objects put anew, the arm parked in between."""
        for number in itertools.count():
            if self.engaged_s >= seconds:
                return
            if number:
                self.park()
            cluster = number % len(CLUSTERS) + 1
            port_client.ask(self.port, {"cmd": "reset", "seed": self.options.seed * 1000 + number, "cluster": cluster})
            attempt = Attempt(cluster)

            def end(status: Mapping[str, Any], attempt: Attempt = attempt) -> str | None:
                world = port_client.ask(self.port, {"cmd": "world"})
                self._show(status)
                attempt.poses.append(Pose(now_ns(), np.array(world["qpos"])))
                return "success" if world["done"][task.target] else None

            attempt.ended = self.engage(TIME_LIMIT_S, end)
            attempt.seconds = (now_ns() - self.began_ns) / 1e9
            self.attempts.append(attempt)
            self.hold()
            self.view.close()
            print(f"attempt {number + 1}, from cluster {cluster}: {attempt.ended} after {attempt.seconds:.1f} s")
            if attempt.ended == "fault":
                return

    def _show(self, status: Mapping[str, Any]) -> None:
        self.view.show(self.engaged_s, status)

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
            "attempts": [{"cluster": a.cluster, "ended": a.ended, "seconds": round(a.seconds, 2)}
                         for a in self.attempts],
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
        if self.attempts:
            write_film(self.out / "demo.mp4", [attempt.poses for attempt in self.attempts])
        write(self.out / "report.html", "vlad demo", *gather(self.out))
        films = ("demo.mp4",) if self.attempts else ()
        print("".join(f"\n{self.out}/{name}" for name in ("report.json", "queue.png", "report.html", *films)))
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
        if self.attempts and not any(a.ended == "success" for a in self.attempts):
            problems.append(f"none of {len(self.attempts)} attempts succeeded")
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
        *([_task(report["attempts"])] if report["attempts"] else []),
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


def _task(attempts: Sequence[Mapping[str, Any]]) -> str:
    times = [a["seconds"] for a in attempts if a["ended"] == "success"]
    median = f", median {statistics.median(times):.1f} s" if times else ""
    return f"task          done in {len(times)} of {len(attempts)} attempts{median}"


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


