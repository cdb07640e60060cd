"""Episodes in real time: `vlad run` drives `vlad sim` over the serial protocol, as an operator would have it.

Between episodes the arm is held and parked, so that each begins from the rest pose, and the objects are put
anew; the arm itself is moved by nobody but the daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlad import config as configuration
from vlad.build.progress import Progress
from vlad.config import Config
from vlad.errors import ConfigError
from vlad.evaluation.pictures import Pictures, Pose
from vlad.evaluation.results import Episode, Result, rms_jerk
from vlad.evaluation.simulated_time import Attempt, cases, tasks_of
from vlad.evaluation.subject import EXPERT
from vlad.evaluation.table import MAX_HOLDS, WATCHDOG, Case, ticks_of
from vlad.servo import now_ns
from vlad.sim import port_client
from vlad.sim.session import READY_S, SimulatedSession, alone, as_toml
from vlad.sim.variation import NONE
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
                                  mode=config.policy.mode, workers=False)  # fmt: skip
        self.demo = SimulatedSession(told, options.out.resolve(), private)
        self.spans: list[tuple[int, int]] = []

    def run(self, wanted: Sequence[Case], films: int, progress: Progress) -> Iterator[Attempt]:
        """One attempt of each case."""
        pictures = Pictures({}) if films else None
        try:
            for number, case in enumerate(wanted):
                if number:
                    self.demo.park()
                port_client.ask(self.demo.port, {"cmd": "reset", "seed": case.start_seed, "cluster": case.cluster})
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

    def _attempt(self, case: Case) -> tuple[Episode, list[Pose]]:
        demo = self.demo
        before, seen = demo.look(), len(demo.events)
        resumed = demo.resumes
        poses: list[Pose] = []

        def end(status: Mapping[str, Any]) -> str | None:
            world = port_client.ask(demo.port, {"cmd": "world"})
            poses.append(Pose(now_ns(), np.array(world["qpos"])))
            if world["done"][case.task.target]:
                return "success"
            return "holds" if demo.resumes - resumed > MAX_HOLDS else None

        ended = demo.engage(self.options.time_limit, end)
        self.spans.append((demo.began_ns, now_ns()))
        demo.hold()
        holds = demo.resumes - resumed
        after = demo.look()
        return self._episode(case, ended, holds, (before, after), demo.events[seen:]), poses

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


def _written(config: Config, options: argparse.Namespace, path: Path) -> Path:
    """The configuration with what options override."""
    from vlad.evaluation.command import policy_keys

    tree: dict[str, Any] = configuration.read_toml(options.config)
    tree["arm"] = {**tree["arm"], "calibration": str(config.arm.calibration)}
    tree["policy"] = {**tree.get("policy", {}), **policy_keys(options)}
    path.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in tree.items()))
    return path
