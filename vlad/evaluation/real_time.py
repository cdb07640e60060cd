"""Episodes in real time: `vlad run` drives `vlad sim` over the serial protocol, as an operator would have it.

Between episodes the arm is held and parked, so that each begins from the rest pose, and the objects are put
anew; the arm itself is moved by nobody but the daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlad import config as configuration
from vlad.build.progress import Progress
from vlad.config import Config
from vlad.demo import READY_S, Demo, alone, as_toml
from vlad.errors import ConfigError, DeviceError
from vlad.evaluation.pictures import Pictures, Pose
from vlad.evaluation.results import Episode, Result, rms_jerk
from vlad.evaluation.simulated_time import Attempt, cases, tasks_of
from vlad.evaluation.subject import EXPERT
from vlad.evaluation.table import MAX_HOLDS, WATCHDOG, Case, ticks_of
from vlad.servo import now_ns
from vlad.sim.variation import NONE
from vlad.sim.world import REST_POSE_RAD, World
from vlad.wire_witness import goal_frames, judge

POLL_S = 0.05
PARK_S = 30.0
HOLD_S = 5.0
MAX_REPLY = 1 << 20


def evaluate(options: argparse.Namespace, config: Config, clusters: Sequence[int]) -> tuple[Result, list[Attempt]]:
    """Raises VladError. What is drawn for `--latency` has no place here: inference takes what it takes."""
    from vlad.evaluation.command import asked, result

    given = {"--latency": options.latency != "measured", "--machine": options.machine != "steady",
             "--steps": options.steps is not None, "--variation": options.variation != NONE,
             "the expert": options.bundle == EXPERT}  # fmt: skip
    for name, is_given in given.items():
        if is_given:
            raise ConfigError(f"--real-time: {name} is of simulated time")
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        alone(options.out), tempfile.TemporaryDirectory(prefix="vlad-eval-") as private,
        contextlib.redirect_stdout(sys.stderr),
    ):
        session = Session(options, config, Path(private))
        with session.demo.running():
            loaded = session.demo.call("load", READY_S, path=str(Path(options.bundle).resolve()))
            wanted = cases(tasks_of(options.task, loaded["tasks"], options.instruction), clusters,
                           options.episodes, options.seed)  # fmt: skip
            with Progress("evaluating", len(wanted)) as progress:
                attempts = list(session.run(wanted, options.films if options.html else 0, progress))
            final = session.demo.look()
    verdict = judge(session.demo.recording, config.joints, config.period_ns / 1e9)
    notes = [f"on the wire: {violation}" for violation in verdict.violations]
    attempts = [session.with_jerk(attempt, span) for attempt, span in zip(attempts, session.spans, strict=True)]
    policy = final["policy"]
    about = {name: policy[name] for name in ("name", "path", "manifest_sha256", "mode", "rate_hz", "chunk_size",
                                             "aggregate")} | {"ladder": list(policy["ladder"])}  # fmt: skip
    conditions = {"time": "real", "latency": "as it was", "load_check": policy["load_check"]["reason"],
                  "admitted_at_load": policy["load_check"]["fits"], "servo_realtime": final["servo"]["realtime"]}
    return result(attempts, about, conditions | asked(options), notes), attempts


class Session:
    """A simulator, a daemon and what an operator does with them. spans: of each episode, from engage to its end."""

    def __init__(self, options: argparse.Namespace, config: Config, private: Path) -> None:
        self.options, self.config = options, config
        told = argparse.Namespace(config=_written(config, options, private / "eval.toml"), seed=options.seed,
                                  mode=config.policy.mode, workers=False, task=None)  # fmt: skip
        self.demo = Demo(told, options.out.resolve(), Path(options.bundle).resolve(), private)
        self.spans: list[tuple[int, int]] = []

    def run(self, wanted: Sequence[Case], films: int, progress: Progress) -> Iterator[Attempt]:
        """One attempt of each case."""
        pictures = Pictures({}) if films else None
        try:
            for number, case in enumerate(wanted):
                if number:
                    self._park()
                self._port({"cmd": "reset", "seed": case.start_seed, "cluster": case.cluster})
                self.demo.call("task", text=case.text)
                episode, poses = self._attempt(case)
                strip = []
                if pictures is not None and films and not episode.success:
                    strip, films = pictures.film(poses, self.spans[-1][0]), films - 1
                progress.advance(f"{case.task.target}, cluster {case.cluster}")
                yield Attempt(episode, strip)
        finally:
            if pictures is not None:
                pictures.close()

    def _park(self) -> None:
        """The arm in its rest pose, with no torque."""
        demo = self.demo
        if any(fault["latched"] for fault in demo.look()["faults"]):
            demo.call("clear")
        demo.call("park")
        end = time.monotonic() + PARK_S
        while demo.look()["arm"]["torque"]:
            if time.monotonic() > end:
                raise DeviceError(f"the arm was not parked after {PARK_S:g} s: see {self.options.out}/daemon.log")
            time.sleep(POLL_S)

    def _attempt(self, case: Case) -> tuple[Episode, list[Pose]]:
        demo = self.demo
        demo.wait_engageable()
        before, seen = demo.look(), len(demo.events)
        demo.call("engage")
        begin_ns, holds, ended = now_ns(), 0, "time limit"
        end_ns = begin_ns + round(self.options.time_limit * 1e9)
        poses: list[Pose] = []
        while now_ns() < end_ns:
            world = self._port({"cmd": "world"})
            poses.append(Pose(now_ns(), np.array(world["qpos"])))
            if world["done"][case.task.target]:
                ended = "success"
                break
            status = demo.look()
            if status["mode"] == "faulted" or any(fault["latched"] for fault in status["faults"]):
                ended = "fault"
                break
            if status["mode"] == "holding" and not status["why_not_engageable"]:
                holds += 1
                if holds > MAX_HOLDS:
                    ended = "holds"
                    break
                with contextlib.suppress(DeviceError):  # held again meanwhile
                    demo.call("resume")
            time.sleep(POLL_S)
        self.spans.append((begin_ns, now_ns()))
        self._hold()
        after = demo.look()
        return self._episode(case, ended, holds, (before, after), demo.events[seen:]), poses

    def _hold(self) -> None:
        if self.demo.look()["mode"] == "engaged":
            self.demo.call("hold")
        end = time.monotonic() + HOLD_S
        while self.demo.look()["mode"] in ("engaged", "stopping") and time.monotonic() < end:
            time.sleep(POLL_S)

    def _episode(
        self, case: Case, ended: str, holds: int, looks: tuple[Mapping[str, Any], Mapping[str, Any]],
        events: Sequence[Mapping[str, Any]],
    ) -> Episode:  # fmt: skip
        """looks: before and after, for the daemon's counters only grow."""
        before, after = looks
        begin_ns, end_ns = self.spans[-1]
        seconds = round((end_ns - begin_ns) / 1e9, 3)

        def grew(group: str, name: str) -> int:
            return int(after[group][name]) - int(before[group][name])

        old, new = before["chunks"]["rejected"], after["chunks"]["rejected"]
        rejected = {reason: n - old.get(reason, 0) for reason, n in new.items() if n > old.get(reason, 0)}
        if overdue := grew("chunks", "overdue"):
            rejected["late"] = rejected.get("late", 0) + overdue
        faults = Counter(e["name"] for e in events if e["event"] == "fault" and e["active"])
        chunks = [e for e in events if e["event"] == "chunk"]
        gaps = [e["duration_ms"] / 1e3 for e in events if e["event"] == "gap"]
        engaged = grew("execution", "engaged_ticks")
        rungs = {name: row["requests"] - before["policy"]["ladder"][name]["requests"]
                 for name, row in after["policy"]["ladder"].items()}  # fmt: skip
        return Episode(
            task=case.task.target, cluster=case.cluster, index=case.index, split=case.split,
            success=ended == "success", ended=ended, duration_s=seconds, time_s=seconds if ended == "success" else None,
            idle=1 - grew("execution", "covered_ticks") / engaged if engaged else 0.0,
            gaps=grew("execution", "gaps"), longest_gap_s=max(gaps, default=0.0),
            requests=grew("policy", "requests"), cold_starts=grew("policy", "cold_starts"),
            refused=grew("policy", "refused_admissions"), accepted=grew("chunks", "accepted"),
            clamped=grew("chunks", "clamped"), rejected=rejected, rungs={n: r for n, r in rungs.items() if r},
            holds=holds, faults=dict(faults), watchdog=sum(n for name, n in faults.items() if name in WATCHDOG),
            t_inference_ms=[e["t_inference_ms"] for e in chunks],
        )  # fmt: skip

    def with_jerk(self, attempt: Attempt, span: tuple[int, int]) -> Attempt:
        """From the goals that the simulator's bus recorded."""
        zero, scale = ticks_of(self.config.joints)
        ids = [joint.id for joint in self.config.joints]
        frames = [[goals[i] for i in ids] for t_ns, goals in goal_frames(self.demo.recording)
                  if span[0] <= t_ns <= span[1] and all(i in goals for i in ids)]  # fmt: skip
        if not frames:
            return attempt
        goals = (np.array(frames) - zero) * scale
        attempt.episode.jerk = rms_jerk(goals[:, :-1], self.config.period_ns / 1e9)
        return attempt

    def _port(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """One command at the simulator's port. DeviceError when it is refused."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(10.0)
                client.connect(str(self.demo.port))
                client.sendall(json.dumps(command).encode() + b"\n")
                with client.makefile("rb") as answers:
                    answer: dict[str, Any] = json.loads(answers.readline(MAX_REPLY))
        except (OSError, ValueError) as error:
            raise DeviceError(f"the simulator's port: {command['cmd']}: {error}") from error
        if not answer["ok"]:
            raise DeviceError(f"the simulator's port: {command['cmd']}: {answer['error']}")
        return answer


def _written(config: Config, options: argparse.Namespace, path: Path) -> Path:
    """The configuration with what options override, and with a rest pose, so that the arm can be parked."""
    from vlad.evaluation.command import policy_keys

    tree: dict[str, Any] = configuration.read_toml(options.config)
    tree["arm"] = {**tree["arm"], "calibration": str(config.arm.calibration)}
    tree["policy"] = {**tree.get("policy", {}), **policy_keys(options)}
    if "rest_pose" not in tree["arm"]:
        tree["arm"]["rest_pose"] = rest_pose(config)
    path.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in tree.items()))
    return path


def rest_pose(config: Config) -> dict[str, float]:
    """Where the simulated arm lies without torque, in units, within the joints' limits."""
    world = World(0, calibration={j.name: j.calibration for j in config.joints})
    zero, scale = ticks_of(config.joints)
    ticks = np.array([world.ticks_of(index, angle) for index, angle in enumerate(REST_POSE_RAD)])
    world.close()
    at = (ticks - zero) * scale
    return {j.name: round(min(max(float(p), j.min), j.max), 4) for j, p in zip(config.joints, at, strict=True)}
