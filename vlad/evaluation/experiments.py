"""`vlad eval experiment NAME BUNDLE`: comparisons in simulated time, every point on the same starts."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad.argument_types import count
from vlad.build.progress import Progress
from vlad.config import Config
from vlad.errors import ConfigError, Refused, VladError
from vlad.evaluation import latency
from vlad.evaluation.command import about, arguments, asked, configured, loaded
from vlad.evaluation.comparison import Comparison, Point, lines, page, point
from vlad.evaluation.pictures import Pictures, Pose
from vlad.evaluation.results import Episode
from vlad.evaluation.simulated_time import SimulatedTime, cases, clusters_of, tasks_of
from vlad.evaluation.subject import EXPERT, FlowSteps, Subject
from vlad.evaluation.table import Case, Planner
from vlad.inference import Merge
from vlad.manifest import ActManifest
from vlad.policy_loading import merge_of
from vlad.scheduler import Choice, Scheduler
from vlad.sim.world import World

LATENCIES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0)
AGGREGATES = ("weighted_average", "latest_only", "average", "conservative", "rtc")
SCHEMES = {"int8": "token8", "4 bits": "weights4"}
QUANTISED = ("vision", "prefill", "expert", "policy")
STEPS = (1, 2, 3, 4, 5, 6, 8, 10)
LADDER = ("reuse", "state_only")
FEWER_STEPS = ("steps:4", "state_only+steps:4")
OBSERVATIONS = 8
Floats = NDArray[np.float64]


class Eager(Scheduler):
    """Without the check at admission: what is due is asked for, however late it will come."""

    def _best_rung(self, t_execution_ns: int, prerequisite: Any) -> Choice | None:
        choice = super()._best_rung(t_execution_ns, prerequisite)
        return choice or Choice(self.rungs[0], self.config.cameras, self.latency.predict_ns())


def parser() -> argparse.ArgumentParser:
    """Of an experiment."""
    p = argparse.ArgumentParser(prog="vlad eval experiment", description=__doc__)
    p.add_argument("experiment", choices=tuple(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    arguments(p)
    p.add_argument("--latencies", type=_latencies, default=LATENCIES_S, metavar="S,S,...",
                   help="of `latency` (0.1 to 10 s); of the others the first one given, else as measured")
    p.add_argument("--calibrate", type=Path, metavar="DATASET", help="of `quantize`: as `vlad quantize` needs it")
    p.add_argument("--observations", type=count, default=OBSERVATIONS, metavar="N",
                   help=f"of chunk errors ({OBSERVATIONS})")
    p.add_argument("--against", metavar="BUNDLE", help="of `policies`: the other one")
    p.add_argument("--plot", type=Path, metavar="FILE", help="the plot alone, as its suffix says (.png, .svg)")
    return p  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """0 when every point was made."""
    options = parser().parse_args(argv)
    config = configured(options.config, {})
    bench = Bench(options, config, clusters_of(options.clusters))
    found = EXPERIMENTS[options.experiment](bench)
    if options.json == Path("-"):
        print(msgspec.json.encode(found).decode())
    else:
        print(lines(found))
    try:
        if options.json is not None and options.json != Path("-"):
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        if options.html is not None:
            options.html.write_text(page(found), encoding="utf-8")
        if options.plot is not None:
            from vlad.evaluation.comparison import figure

            figure(found).savefig(options.plot, dpi=110)
    except OSError as error:
        raise VladError(f"{error.filename}: {error.strerror}") from error
    return 0


class Bench:
    """What the experiments of one command have in common."""

    def __init__(self, options: argparse.Namespace, config: Config, clusters: Sequence[int]) -> None:
        self.options, self.config, self.clusters = options, config, clusters
        self.given = (latency.of_seconds(options.latencies[0]) if options.latencies is not LATENCIES_S else None)

    def cases(self, subject: Subject) -> list[Case]:
        o = self.options
        return cases(tasks_of(o.task, subject.loaded.tasks, o.instruction), self.clusters, o.episodes, o.seed)

    def episodes(
        self, subject: Subject, what: str, *, machine: str = "steady", planner: Planner = Scheduler
    ) -> list[Episode]:
        """Of all cases."""
        wanted = self.cases(subject)
        table = SimulatedTime(self.config, subject, time_limit_s=self.options.time_limit,
                              variation=self.options.variation, machine=machine, planner=planner)  # fmt: skip
        with contextlib.closing(table), Progress(what, len(wanted)) as progress:
            return [attempt.episode for attempt in table.run(wanted, 0, progress.advance)]

    def conclude(self, text: str, axis: str, subject: Subject, points: list[Point], **more: Any) -> Comparison:
        conditions = asked(self.options) | {"latency": subject.latency.spec}
        return Comparison(experiment=self.options.experiment, about=text, axis=axis, log=more.pop("log", False),
                          policy=about(subject, self.config, self.options.steps), conditions=conditions,
                          points=points, **more)  # fmt: skip

    @contextlib.contextmanager
    def subject(self, bundle: str | None = None, ladder: Sequence[str] = ()) -> Iterator[Subject]:
        """Loaded, and closed again."""
        config = configured(self.options.config, {"ladder": list(ladder)}) if ladder else self.config
        it = loaded(bundle or self.options.bundle, config, self.given, self.options.steps)
        try:
            yield it
        finally:
            it.loaded.policy.close()


def merge(subject: Subject, config: Config, aggregate: str) -> Merge | None:
    """None for what such a policy cannot do."""
    if subject.policy_type == EXPERT:
        return None if aggregate == "rtc" else Merge(aggregate)
    policy: Any = subject.loaded.policy
    try:
        return merge_of(msgspec.structs.replace(config.policy, aggregate=aggregate), policy.bundle.manifest)
    except Refused:
        return None


def over_latency(bench: Bench) -> Comparison:
    """(a) sync against async, for every way to merge."""
    points = []
    with bench.subject() as subject:
        ways = {f"async, {name}": ("async", way) for name in AGGREGATES if (way := merge(subject, bench.config, name))}
        ways["sync"] = ("sync", Merge("latest_only"))
        for seconds in bench.options.latencies:
            for name, (mode, way) in ways.items():
                it = subject.with_latency(latency.of_seconds(seconds)).merged(mode, way)
                found = bench.episodes(it, f"{name} at {seconds:g} s")
                points.append(point(name, seconds, found, admitted=it.check.fits))
        return bench.conclude("Sync against async, for every way of merging chunks, over the latency of inference.",
                              "T_inference, s", subject, points, log=True)  # fmt: skip


def quantised(bench: Bench) -> Comparison:
    """(b) one block at a time in fewer bits."""
    if bench.options.calibrate is None:
        raise ConfigError("experiment quantize: needs --calibrate DATASET, as `vlad quantize` does")
    points = []
    with bench.subject() as own, tempfile.TemporaryDirectory(prefix="vlad-eval-") as scratch:
        policy: Any = own.loaded.policy
        if own.policy_type == EXPERT:
            raise ConfigError("experiment quantize: the expert has no blocks")
        points.append(point("float32", "none", bench.episodes(own, "as it is"), chunk_error=0.0))
        for block in (b.name for b in policy.bundle.manifest.blocks if b.name in QUANTISED):
            for name, scheme in SCHEMES.items():
                target = Path(scratch) / f"{block}-{scheme}.vlad"
                _quantise(bench.options, block, scheme, target)
                with bench.subject(str(target)) as it:
                    same = it.with_latency(own.latency)  # what differs is what it says, not when
                    points.append(point(name, block, bench.episodes(same, f"{block} in {name}"),
                                        chunk_error=chunk_error(bench, own, it)))  # fmt: skip
        return bench.conclude("One block at a time in fewer bits: all its layers, no error gate.", "block", own,
                              points)  # fmt: skip


def _quantise(options: argparse.Namespace, block: str, scheme: str, target: Path) -> None:
    """All of one block in one scheme, whatever the error. Raises VladError."""
    from vlad.quantize.command import main as quantize

    words = [options.bundle, "--calibrate", options.calibrate, "-o", target, "--blocks", block, "--schemes", scheme,
             "--budget", 1, "--gate", 1, "--cosine", -1, "--integer-expert", "--prefer", "size"]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        quantize([str(word) for word in words])
    print(f"{block} in {scheme}: made", file=sys.stderr)


def flow_steps(bench: Bench) -> Comparison:
    """(b) fewer flow steps."""
    points = []
    with bench.subject() as own:
        if own.policy_type != "smolvla":
            raise ConfigError(f"experiment steps: a policy of type {own.policy_type} has no flow steps")
        for steps in STEPS:
            policy = FlowSteps(own.loaded.policy, steps)
            it = dataclasses.replace(own, loaded=dataclasses.replace(own.loaded, policy=policy))
            points.append(point("flow steps", float(steps), bench.episodes(it, f"{steps} steps"),
                                chunk_error=chunk_error(bench, own, it)))  # fmt: skip
        return bench.conclude("Fewer flow steps, at the latency of the policy's own: what they cost in quality alone.",
                              "flow steps", own, points)  # fmt: skip


def chunk_error(bench: Bench, own: Subject, other: Subject) -> float:
    """Mean |difference| of the chunks of two policies on the same observations and noise, of each joint's range."""
    errors = []
    span = np.array([joint.max - joint.min for joint in bench.config.joints])
    for number, (pictures, state, task) in enumerate(observations(bench, own)):
        chunks = [_chunk(it, pictures, state, task, number) for it in (own, other)]
        errors.append(np.abs(chunks[0] - chunks[1]) / span)
    return float(np.mean(errors))


def _chunk(it: Subject, pictures: dict[str, Any], state: Floats, task: int, seed: int) -> Floats:
    policy = it.loaded.policy
    tokens = [policy.encode_image(i, pictures[name]) for i, name in enumerate(it.loaded.cameras)]
    return policy.sample(policy.prefill(tokens, task, state), generator=np.random.default_rng(seed))


def observations(bench: Bench, subject: Subject) -> Iterator[tuple[dict[str, Any], Floats, int]]:
    """Pictures, joint positions and task of the first moments of episodes."""
    from vlad.evaluation.table import ticks_of

    wanted = bench.cases(subject)
    zero, scale = ticks_of(bench.config.joints)
    world = World(0, calibration={j.name: j.calibration for j in bench.config.joints})
    seen = Pictures({c.name: (c.width, c.height) for c in bench.config.cameras if c.name in subject.loaded.cameras})
    with contextlib.closing(world), contextlib.closing(seen):
        for number in range(bench.options.observations):
            case = wanted[number * max(1, len(wanted) // bench.options.observations) % len(wanted)]
            world.begin(case.start())
            ticks = np.array([servo.present_ticks for servo in world.servos])
            yield seen.draw(Pose(0, world.qpos())), (ticks - zero) * scale, subject.loaded.tasks.index(case.text)


def robust(bench: Bench) -> Comparison:
    """(c) what admission, ladder and real-time chunking are worth on a machine that throttles or stalls."""
    points = []
    kind = "" if bench.options.bundle == EXPERT else _kind(bench.options.bundle)
    names = () if kind == "" else LADDER if kind == "act" else (*LADDER, *FEWER_STEPS)
    with bench.subject(ladder=names) as subject:
        plain = merge(subject, bench.config, "weighted_average")
        rtc = merge(subject, bench.config, "rtc")
        assert plain is not None
        ways: dict[str, tuple[Merge, bool, Planner]] = {
            "admission": (plain, False, Scheduler), "no admission": (plain, False, Eager)}  # fmt: skip
        if names:
            ways["admission, ladder"] = (plain, True, Scheduler)
        if rtc is not None:
            ways |= {"admission, rtc": (rtc, False, Scheduler), "admission, ladder, rtc": (rtc, True, Scheduler)}
        for machine in latency.MACHINES:
            for name, (way, ladder, planner) in ways.items():
                it = subject.merged("async", way, None if ladder else ())
                found = bench.episodes(it, f"{name}, {machine}", machine=machine, planner=planner)
                points.append(point(name, machine, found, admitted=it.check.fits))
        return bench.conclude("Admission, ladder and real-time chunking on a steady machine, one that throttles to "
                              "40 % of its speed, and one that stalls now and then.", "machine", subject,
                              points)  # fmt: skip


def _kind(path: str) -> str:
    from vlad import bundle

    return "act" if isinstance(bundle.load(Path(path)).manifest, ActManifest) else "smolvla"


def policies(bench: Bench) -> Comparison:
    """(d) two policies at the same control rate."""
    if bench.options.against is None:
        raise ConfigError("experiment policies: needs --against BUNDLE")
    points, won = [], []
    rates = []
    for bundle in (bench.options.bundle, bench.options.against):
        with bench.subject(bundle) as subject:
            rates.append(subject.loaded.scheduler.period_ns)
            if len(set(rates)) > 1:
                raise ConfigError(f"{bundle}: {1e9 / rates[1]:.4g} Hz, and the other {1e9 / rates[0]:.4g} Hz: "
                                  "they are compared at the same control rate")  # fmt: skip
            found = bench.episodes(subject, subject.loaded.name)
            won.append([e.success for e in found])
            points.append(point(f"{subject.loaded.name} ({subject.policy_type})", subject.policy_type, found,
                                admitted=subject.check.fits))  # fmt: skip
    pairs = list(zip(*won, strict=True))
    paired = {
        f"only {points[0].series}": pairs.count((True, False)), f"only {points[1].series}": pairs.count((False, True)),
        "both": pairs.count((True, True)), "neither": pairs.count((False, False)),
    }  # fmt: skip
    return bench.conclude("Two policies at the same control rate, each at its own latency.", "policy", subject, points,
                          paired=paired)  # fmt: skip


def _latencies(text: str) -> tuple[float, ...]:
    found = tuple(float(word) for word in text.split(","))
    if not all(0 < value <= latency.MAX_S for value in found):
        raise argparse.ArgumentTypeError(f"each more than 0 and at most {latency.MAX_S:g} s")
    return found


EXPERIMENTS = {
    "latency": over_latency, "quantize": quantised, "steps": flow_steps, "robustness": robust, "policies": policies,
}  # fmt: skip
