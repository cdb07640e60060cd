"""What a bystander sees of the daemon: events, status, memory, and how late this machine runs itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.soak.health import Vital, look
from tools.soak.robot import Robot
from vlad.cli import Declined, Unreachable
from vlad.servo import now_ns

POLL_S = 0.2
# Under these names every number of the status is a count of what has happened: it may only grow.
COUNTERS = ("chunks", "servo", "execution", "control", "bus")
GAUGES = {"rate_hz", "clients", "action_age_max_ms", "p50", "p99", "p999", "mean", "min", "longest_lower_ns",
          "line_delay_ns", "baud"}


def counts(status: Mapping[str, Any]) -> dict[str, float]:
    """Every counter of a status by its dotted name."""
    found: dict[str, float] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key not in GAUGES:
                    walk(f"{path}.{key}", item)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[path] = value

    for name in COUNTERS:
        walk(name, status.get(name))
    return found


class Watcher:
    """A thread of its own. `pause()` while the daemon is stopped or replaced on purpose."""

    def __init__(self, robot: Robot, out: Path, now: Callable[[], int] = now_ns) -> None:
        self.events: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.vitals: list[Vital] = []
        self.late_ms: list[tuple[int, float]] = []
        self.problems: list[str] = []
        self.lost = 0
        self._robot = robot
        self._now = now
        self._log = (out / "events.jsonl").open("w")
        self._samples_log = (out / "samples.jsonl").open("w")
        self._seen = 0
        self._counts: dict[str, float] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._paused = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        self._log.close()
        self._samples_log.close()

    def pause(self) -> None:
        with self._lock:
            self._paused = True

    def resume(self, *, restarted: bool = False) -> None:
        with self._lock:
            if restarted:
                self._seen, self._counts = 0, {}
            self._paused = False

    def _run(self) -> None:
        while True:
            before = time.monotonic_ns()
            if self._stop.wait(POLL_S):
                return
            late = (time.monotonic_ns() - before) / 1e6 - POLL_S * 1e3
            if late > 20:
                self.late_ms.append((self._now(), late))
            with self._lock:
                if not self._paused:
                    self.look()

    def look(self) -> None:
        """Events since the last look; once a second also status and vitals."""
        try:
            self._events()
            if not self.samples or self._now() - self.samples[-1]["t_ns"] > 1e9:
                self._sample()
        except (Unreachable, Declined):
            return  # stopped by a scenario, or flooded; that it lives is judged by its pid
        except OSError as error:
            self.problems.append(f"the daemon is gone: {error}")

    def _events(self) -> None:
        while True:
            reply = self._robot.ask("events", 5.0, since=self._seen)
            self.lost += reply.get("lost", 0)
            if not reply["events"]:
                return
            self._seen = reply["next"]
            for event in reply["events"]:
                self._log.write(json.dumps(event) + "\n")
            self.events.extend(reply["events"])

    def _sample(self) -> None:
        status = self._robot.ask("status", 5.0)
        now = self._now()
        process = self._robot.daemon
        assert process is not None
        self.vitals.append(look(process.pid, now))
        self.samples.append({
            "t_ns": now, "mode": status["mode"], "queue_depth": status["queue_depth"],
            "faults": [f["name"] for f in status["faults"]],
        })
        self._samples_log.write(json.dumps({**self.samples[-1], **asdict(self.vitals[-1])}) + "\n")
        execution = status["execution"]
        starved = sum(execution["starved_ticks"].values())
        if execution["covered_ticks"] + starved != execution["engaged_ticks"]:
            self.problems.append(
                f"{execution['engaged_ticks']} engaged ticks, but {execution['covered_ticks']} covered and "
                f"{starved} with a cause")
        new = counts(status)
        self.problems += [f"counter {name} went from {self._counts[name]:g} to {value:g}"
                          for name, value in new.items() if value < self._counts.get(name, value)]
        self._counts = new

    def wait_event(self, after: int, wanted: Callable[[Mapping[str, Any]], bool],
                   seconds: float) -> dict[str, Any] | None:
        """The first event from index `after` on that is wanted; None after so many seconds."""
        end = time.monotonic() + seconds
        at = after
        while True:
            while at < len(self.events):
                if wanted(self.events[at]):
                    return self.events[at]
                at += 1
            if time.monotonic() > end:
                return None
            time.sleep(0.02)
