"""The soak in real time: the daemon with the shipped policy on the simulated robot."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tools.soak.health import started_ticks
from tools.soak.outcome import Outcome
from tools.soak.robot import Ended, Robot
from tools.soak.scenarios import SCENARIOS, STALL, STALLING, Scenario
from tools.soak.verdict import stopping
from tools.soak.watcher import Watcher
from tools.sweep_bundle import build_bundle
from vlad.cli import Declined, Unreachable
from vlad.faults import BY_NAME, Reaction
from vlad.servo import now_ns

WARM_LOADS = 6
RING = 4096  # events that the daemon keeps: full before memory is judged
RECOVER_S = 60.0
OPERATOR_REACT_MS, REST_MS = 20.0, 350.0


class RealSoak:
    """Runs scenarios until the time is over, then ends the daemon in every way and starts it again."""

    def __init__(self, out: Path, *, seed: int, minutes: float, slack_ms: float,
                 camera: tuple[int, int], only: tuple[str, ...] = (), quiet: bool = False) -> None:
        self.out = out
        self.seed, self.minutes, self.slack_ms = seed, minutes, slack_ms
        self.rng = random.Random(seed)
        self.quiet = quiet
        self.scenarios = [s for s in SCENARIOS if not only or s.name in only]
        out.mkdir(parents=True, exist_ok=True)
        build_bundle(out)
        self.robot = Robot(out, seed=seed, camera=camera)
        self.watcher = Watcher(self.robot, out)
        self.outcomes: list[Outcome] = []
        self.problems: list[str] = []
        self.requests: list[tuple[int, str]] = []
        self.unasked_restarts = 0
        self.began_ns = self.steady_ns = self.ended_ns = 0
        self._identity = (0, 0)

    # --- the session ------------------------------------------------------------------------

    def run(self) -> None:
        """Everything but the judgement. Problems are collected; Ended when a process died unasked."""
        self._break_a_bundle()
        try:
            self.robot.start_sim()
            self.robot.start_daemon()
            self._identify()
            self.watcher.start()
            self.ask("load", 180.0, path=str(self.out / "sweep.vlad"))
            self.ask("task", text=self.robot.ask("status")["policy"]["tasks"][0])
            self.began_ns = now_ns()
            self._fill_rings()
            end_ns = self.began_ns + int(self.minutes * 60e9)
            self._scenarios(end_ns)
            self.ended_ns = now_ns()
            self._restarts()
        except (Ended, Unreachable) as error:
            self.problems.append(str(error))
        finally:
            self.ended_ns = self.ended_ns or now_ns()
            self.watcher.stop()
            self.robot.close()

    def _break_a_bundle(self) -> None:
        broken = self.out / "broken.vlad"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(self.out / "sweep.vlad", broken)
        victim = max((p for p in broken.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)

    def _identify(self) -> None:
        process = self.robot.daemon
        assert process is not None
        self._identity = (process.pid, started_ticks(process.pid))

    def ask(self, verb: str, timeout_s: float = 20.0, **args: object) -> dict[str, Any]:
        self.requests.append((now_ns(), verb))
        return self.robot.ask(verb, timeout_s, **args)

    def _fill_rings(self) -> None:
        """What is bounded by a ring grows until the ring is full: full from the start, it does not
        look like a leak, nor hide one. A refused load with a long path weighs what a chunk does."""
        path = "/" + "x" * 500 + "/"
        for number in range(min(RING, int(RING * self.minutes / 10))):
            with contextlib.suppress(Declined, Unreachable):
                self.robot.ask("load", path=f"{path}{number}.vlad")
        # The first loads also take what the heap then keeps for the next ones.
        for _ in range(min(WARM_LOADS, int(self.minutes))):
            self.ask("load", 180.0, path=str(self.out / "sweep.vlad"))
        self.ask("task", text=self.robot.ask("status")["policy"]["tasks"][0])

    def _scenarios(self, end_ns: int) -> None:
        deck: list[Scenario] = []
        number = 0
        while now_ns() < end_ns:
            if not deck:  # every scenario comes up before any comes up more often than its weight
                deck = [s for s in self.scenarios for _ in range(s.weight)]
                self.rng.shuffle(deck)
            if not self._engaged(self.outcomes[-1] if self.outcomes else None):
                self.problems.append(f"no recovery within {RECOVER_S:g} s: {self._state()}")
                self._snapshot(f"recovery-{number}")
                if not self._engaged(None):
                    raise Ended("the arm cannot be engaged any more")
            time.sleep(self.rng.uniform(0.3, 5.0))
            if self.robot.ask("status")["mode"] != "engaged":
                continue  # the machine stalled meanwhile: first back to motion
            number += 1
            self._one(deck.pop(), number)
            self._alive()
            self._progress(end_ns)

    def _alive(self) -> None:
        process = self.robot.daemon
        assert process is not None and self.robot.sim is not None
        if process.poll() is not None:
            self.unasked_restarts += 1
            raise Ended(f"the daemon ended with status {process.returncode}")
        if (process.pid, started_ticks(process.pid)) != self._identity:
            self.unasked_restarts += 1
            raise Ended("another process runs as the daemon")
        if self.robot.sim.poll() is not None:
            raise Ended(f"the simulator ended with status {self.robot.sim.returncode}")

    def _state(self) -> str:
        with contextlib.suppress(Unreachable, Declined):
            s = self.robot.ask("status")
            return f"{s['mode']}, {[f['name'] for f in s['faults']]}, {s['why_not_engageable']}"
        return "no answer"

    def _snapshot(self, name: str) -> None:
        with contextlib.suppress(Unreachable, Declined, OSError, ValueError):
            (self.out / f"{name}.json").write_text(json.dumps({
                "status": self.robot.ask("status"), "sim": self.robot.fault("status"),
                "events": self.watcher.events[-200:]}, indent=1))

    def _engaged(self, last: Outcome | None) -> bool:
        """Back to motion by what an operator may do: clear, engage or resume. False after a minute."""
        began = now_ns()
        if last is not None and not last.recover_ns:
            last.recover_ns = began
        end = time.monotonic() + RECOVER_S
        refused = 0  # clears
        while time.monotonic() < end:
            status = self.robot.ask("status")
            if status["mode"] == "engaged" and status["queue_depth"] > 0:
                if last is not None and last.recovered_s is None:
                    last.recovered_s = (now_ns() - began) / 1e9
                return True
            verb = None
            if any(f["latched"] for f in status["faults"]):
                lying = any(f["name"] == "servo_encoder" for f in status["faults"])
                verb = "limp" if lying and refused % 20 == 19 else "clear"  # FAILSAFE.md, row 23
                refused += 1
            elif status["mode"] in ("holding", "ready") and not status["why_not_engageable"]:
                verb = "resume" if status["mode"] == "holding" and self.rng.random() < 0.3 else "engage"
            if verb:
                try:
                    self.ask(verb)
                    if last is not None:
                        last.asked.append(verb)
                except Declined:
                    if verb == "resume":
                        with contextlib.suppress(Declined):
                            self.ask("engage")
            time.sleep(0.1)
        return False

    def _one(self, scenario: Scenario, number: int) -> None:
        after = len(self.watcher.events)
        outcome = Outcome(scenario.name, number, now_ns(), scenario.rows)
        self.outcomes.append(outcome)
        if scenario.operator:
            self.requests.append((outcome.t_ns, scenario.name))
        try:
            scenario.inject(self.robot, self.rng)
            done_ns = now_ns()
            if scenario.rows:
                self._detection(scenario, outcome, after)
            time.sleep(self.rng.uniform(*scenario.lasts_s))
            scenario.check(self.robot, self.rng)
        except (AssertionError, Declined, Unreachable, OSError, ValueError) as error:
            outcome.problems.append(f"{type(error).__name__}: {error}")
            done_ns = now_ns()
        finally:
            scenario.restore(self.robot, self.rng)
        if not scenario.rows:
            self._goes_on(scenario, outcome, after, done_ns)
        self._excuse(scenario, outcome, after)
        if outcome.problems:
            self._snapshot(f"injection-{number}")

    def _detection(self, scenario: Scenario, outcome: Outcome, after: int) -> None:
        first = BY_NAME[scenario.rows[0]]
        slack = self.slack_ms + scenario.late_ms
        outcome.bound_ms = (first.react_ms if first.react_ms is not None else OPERATOR_REACT_MS) + slack
        # What need not show is not looked for longer than it may take: later it is somebody else's.
        patience = outcome.bound_ms / 1e3 + (0.0 if scenario.may else 3.0)

        def raised(event: Mapping[str, Any]) -> bool:
            if scenario.operator:
                return bool(event["event"] == "mode" and event["from"] == "engaged")
            return bool(event["event"] == "fault" and event["name"] in scenario.rows
                        and (event["active"] or event["latched"]))

        seen = self.watcher.wait_event(after, raised, patience)
        if seen is not None:
            outcome.detected = seen.get("name", "operator")
            outcome.detect_ms = (seen["t_ns"] - outcome.t_ns) / 1e6
        elif not scenario.may:
            raised_names = sorted({e["name"] for e in self.watcher.events[after:]
                                   if e["event"] == "fault" and e["active"]})
            outcome.problems.append(f"{' or '.join(scenario.rows)} not raised within {patience:.1f} s; "
                                    f"raised: {raised_names}; {self._state()}")
        if seen is not None and (scenario.operator or stopping(seen)):
            outcome.rest_bound_ms = (first.rest_ms or outcome.bound_ms - slack + REST_MS) + slack
            left = self.watcher.wait_event(
                after, lambda e: e["event"] == "mode" and e["from"] == "engaged", 2.0)
            if left is not None:
                outcome.stop_ns = left["t_ns"]
                outcome.stop_ms = (left["t_ns"] - outcome.t_ns) / 1e6

    def _excuse(self, scenario: Scenario, outcome: Outcome, after: int) -> None:
        """Where the machine stalled in the middle of it, and the daemon says so with a fault that was
        not injected, an injection shows nothing: it is counted apart, with what was wrong."""
        stalls = [e["name"] for e in self.watcher.events[after:]
                  if e["event"] == "fault" and e["active"] and e["name"] in STALL - set(scenario.rows)
                  and BY_NAME[e["name"]].reaction >= Reaction.HOLD]
        if stalls and outcome.problems and scenario.name not in STALLING:
            outcome.disturbed = [f"{stalls[0]}: {p}" for p in outcome.problems]
            outcome.problems = []

    def _goes_on(self, scenario: Scenario, outcome: Outcome, after: int, done_ns: int) -> None:
        """Nothing of what was done may stop the arm; what does must be a fault of its own."""
        left = [e for e in self.watcher.events[after:]
                if e["event"] == "mode" and e["from"] == "engaged" and e["t_ns"] <= done_ns]
        if left:
            outcome.stop_ns = left[0]["t_ns"]

    # --- ends and restarts that were asked for ------------------------------------------------

    def _restarts(self) -> None:
        """SIGKILL, SIGSEGV and SIGTERM in motion; each daemon after it adopts and moves nothing."""
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
            if not self._engaged(self.outcomes[-1] if self.outcomes else None):
                self.problems.append(f"not engaged before {number.name}: {self._state()}")
                return
            time.sleep(self.rng.uniform(0.5, 2.0))
            process = self.robot.daemon
            assert process is not None
            self.watcher.pause()
            row = {"SIGKILL": "process_killed", "SIGSEGV": "process_crashed",
                   "SIGTERM": "stop_requested"}[number.name]
            outcome = Outcome(number.name, len(self.outcomes) + 1, now_ns(), (row,), row)
            outcome.rest_bound_ms = REST_MS + self.slack_ms
            self.outcomes.append(outcome)
            process.send_signal(number)
            status = process.wait(30)
            if status != (0 if number == signal.SIGTERM else -number):
                outcome.problems.append(f"ended with status {status}")
            outcome.detect_ms = (now_ns() - outcome.t_ns) / 1e6
            outcome.stop_ns = outcome.t_ns
            (self.out / "daemon.log").rename(self.out / f"daemon-until-{number.name}.log")
            self.robot.start_daemon()
            self._identify()
            self.watcher.resume(restarted=True)
            time.sleep(2.0)  # nothing may move by itself
            outcome.recover_ns = now_ns()
            self.ask("load", 180.0, path=str(self.out / "sweep.vlad"))
            self.ask("task", text=self.robot.ask("status")["policy"]["tasks"][0])
            time.sleep(1.0)
            outcome.recover_ns = now_ns()
            if self._engaged(outcome):
                self._progress(0)
        with contextlib.suppress(Declined, Unreachable):
            self.ask("hold")
        time.sleep(1.0)

    # --- what it says -----------------------------------------------------------------------

    def _progress(self, end_ns: int) -> None:
        if self.quiet:
            return
        left_s = max(0.0, (end_ns - now_ns()) / 1e9)
        vital = self.watcher.vitals[-1] if self.watcher.vitals else SimpleNamespace(
            rss_bytes=0, descriptors=0, threads=0)
        bad = len(self.problems) + len(self.watcher.problems) + sum(len(o.problems) for o in self.outcomes)
        last = self.outcomes[-1]
        shown = "-" if last.detect_ms is None else f"{last.detect_ms:.0f} ms"
        print(f"\r{len(self.outcomes):4d} injections, {bad} problems, {left_s / 60:5.1f} min left, "
              f"{vital.rss_bytes / 2**20:.1f} MiB, {vital.descriptors} fds, {vital.threads} threads, "
              f"{last.scenario}: {last.detected or 'goes on'} {shown}".ljust(140)[:140],
              end="" if sys.stdout.isatty() else "\n", flush=True)
