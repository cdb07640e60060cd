"""`vlad eval BUNDLE`: how often a policy does the task on the simulated table, and what that took.

In simulated time, where inference takes as long as was measured here or as long as you say, or in real time through
the daemon."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import vlad
from vlad import config as configuration
from vlad.argument_types import count, names, seconds, share
from vlad.build.progress import Progress
from vlad.config import Config
from vlad.errors import ConfigError, VladError
from vlad.evaluation import latency
from vlad.evaluation.results import Result, groups, heads, rows
from vlad.evaluation.simulated_time import Attempt, SimulatedTime, cases, clusters_of, tasks_of
from vlad.evaluation.subject import EXPERT, Subject, of_bundle, of_expert
from vlad.sim.task import TIME_LIMIT_S
from vlad.sim.variation import Variation

CONFIG = Path(__file__).resolve().parents[2] / "configs/teabag-sim.toml"
KEPT = ("mode", "aggregate", "ladder", "threshold", "quantile", "reuse_change")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What a single evaluation and an experiment have in common."""
    parser.add_argument("bundle", metavar="BUNDLE",
                        help=f"a bundle, or the word `{EXPERT}`: the scripted expert in a policy's place")
    parser.add_argument("--env", choices=("teabag",), default="teabag", help="the simulated task (teabag)")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE",
                        help="the daemon's (configs/teabag-sim.toml)")
    parser.add_argument("--episodes", type=count, default=20, metavar="N",
                        help="of each task on training starts, and as many on held-out ones (20)")
    parser.add_argument("--task", choices=("mug", "plate", "both", "known"), default="known",
                        help="what is asked for (known: all that the policy knows)")
    parser.add_argument("--instruction", metavar="TEXT", help="one of the policy's own, instead of the task's words")
    parser.add_argument("--clusters", default="all", metavar="LIST",
                        help="all, training, held-out or numbers: where the tea bag lies (all)")
    parser.add_argument("--seed", type=_seed, default=0,
                        help="of starts, noise and latencies: the same seed, the same starts (0)")
    parser.add_argument("--variation", type=_variation, default=Variation(), metavar="LIST",
                        help="domain randomisation: light, colour, camera, friction; =EXTENT where that is not 1")
    parser.add_argument("--time-limit", type=seconds, default=TIME_LIMIT_S, metavar="S",
                        help=f"of an episode ({TIME_LIMIT_S:g})")
    parser.add_argument("--steps", type=count, metavar="N", help="flow steps instead of the policy's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything; - prints it instead of the table")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Of a single evaluation."""
    p = argparse.ArgumentParser(prog="vlad eval", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter,
                                epilog="exit status: 0 evaluated, 1 not (or --require not met), 2 usage")
    arguments(p)
    p.add_argument("--mode", choices=("async", "sync"), help="overrides policy.mode")
    p.add_argument("--aggregate", help="overrides policy.aggregate")
    p.add_argument("--ladder", type=names, metavar="A,B,...", help="overrides policy.ladder; `off` for none")
    p.add_argument("--latency", default=latency.MEASURED, metavar="S|FILE",
                   help="of inference in simulated time: `measured` here, seconds, or a file with ms (measured)")
    p.add_argument("--machine", choices=tuple(latency.MACHINES), default="steady",
                   help="what becomes of the latency in an episode (steady)")
    p.add_argument("--films", type=_films, default=12, metavar="N", help="failures that are shown on the page (12)")
    p.add_argument("--require", type=share, metavar="SHARE", help="exit status 1 where a group succeeds less often")
    p.add_argument("--real-time", action="store_true", help="through the real daemon and `vlad sim`, over the bus")
    p.add_argument("--out", type=Path, default=Path("build/eval"), metavar="DIR",
                   help="with --real-time: logs, recording, flight records (build/eval)")
    return p  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """0 when every episode was made and --require is met."""
    if argv and argv[0] == "experiment":
        from vlad.evaluation.experiments import main as experiment

        return experiment(argv[1:])
    options = parser().parse_args(argv)
    config = configured(options.config, policy_keys(options))
    clusters = clusters_of(options.clusters)
    if options.real_time:
        from vlad.evaluation.real_time import evaluate as in_real_time

        result, attempts = in_real_time(options, config, clusters)
    else:
        result, attempts = _in_simulated_time(options, config, clusters)
    write(result, attempts, options.json, options.html)
    if options.require is not None and any(g.rate < options.require for g in result.groups):
        return 1
    return 0


def policy_keys(options: argparse.Namespace) -> dict[str, Any]:
    """The `[policy]` keys that options override."""
    given: dict[str, Any] = {"mode": options.mode, "aggregate": options.aggregate}
    if options.ladder is not None:
        given["ladder"] = [] if options.ladder == ("off",) else list(options.ladder)
    return {key: value for key, value in given.items() if value is not None}


def configured(path: Path, policy: dict[str, Any]) -> Config:
    """A configuration with other `[policy]` keys. Raises ConfigError, as loading it does."""
    path = path.absolute()
    tree = configuration.read_toml(path)
    table = tree.get("policy", {})
    if policy and isinstance(table, dict):
        tree["policy"] = {**table, **policy}
    return configuration.from_tree(tree, path)


def loaded(name: str, config: Config, given: latency.Latency | None, steps: int | None = None) -> Subject:
    """The policy to evaluate. Raises VladError."""
    if name != EXPERT:
        return of_bundle(Path(name), config, given, steps)
    if steps is not None:
        raise ConfigError("--steps: the expert has no flow steps")
    return of_expert(config, given)


def _in_simulated_time(
    options: argparse.Namespace, config: Config, clusters: Sequence[int]
) -> tuple[Result, list[Attempt]]:
    subject = loaded(options.bundle, config, latency.parse(options.latency), options.steps)
    table = None
    try:
        tasks = tasks_of(options.task, subject.loaded.tasks, options.instruction)
        wanted = cases(tasks, clusters, options.episodes, options.seed)
        table = SimulatedTime(config, subject, time_limit_s=options.time_limit, variation=options.variation,
                              machine=options.machine)  # fmt: skip
        with Progress("evaluating", len(wanted)) as progress:
            attempts = list(table.run(wanted, options.films if options.html else 0, progress.advance))
    finally:
        if table is not None:
            table.close()
        subject.loaded.policy.close()
    conditions = {
        "time": "simulated", "latency": subject.latency.spec, "machine": options.machine,
        "load_check": subject.check.reason, "admitted_at_load": subject.check.fits,
    } | asked(options)  # fmt: skip
    notes = [] if subject.check.fits else [refused(subject)]
    return result(attempts, about(subject, config, options.steps), conditions, notes), attempts


def refused(subject: Subject) -> str:
    """What is said of a latency with which the daemon would not engage."""
    return (f"The daemon would refuse to engage in this mode: {subject.check.reason}. Simulated nevertheless: "
            "every gap is a stop.")  # fmt: skip


def about(subject: Subject, config: Config, steps: int | None) -> dict[str, Any]:
    """The policy of a result."""
    it, timing = subject.loaded, subject.loaded.scheduler
    return {
        "name": it.name, "path": it.path, "type": subject.policy_type, "manifest_sha256": it.manifest_sha256,
        "chunk_size": timing.chunk_size, "rate_hz": round(1e9 / timing.period_ns, 3), "steps": steps or "own",
        "merge": it.merge.aggregate if it.merge is not None else None,
        **{key: msgspec.to_builtins(getattr(config.policy, key)) for key in KEPT},
    }


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """The conditions that are the same in simulated and in real time."""
    return {
        "env": options.env, "config": str(options.config), "seed": options.seed, "episodes": options.episodes,
        "clusters": options.clusters, "time_limit_s": options.time_limit,
        "instruction": options.instruction,
        "variation": {name: getattr(options.variation, name) for name in ("light", "colour", "camera", "friction")},
    }  # fmt: skip


def result(
    attempts: Sequence[Attempt], policy: dict[str, Any], conditions: dict[str, Any], notes: Sequence[str] = ()
) -> Result:
    """Raises VladError of no episodes."""
    episodes = [attempt.episode for attempt in attempts]
    if not episodes:
        raise VladError("no episode was made")
    return Result(vlad=vlad.__version__, policy=policy, conditions=conditions, groups=groups(episodes),
                  episodes=episodes, notes=list(notes))  # fmt: skip


def write(result: Result, attempts: Sequence[Attempt], to_json: Path | None, to_html: Path | None) -> None:
    """The table on standard output, or JSON with `-`; the files. Raises VladError."""
    data = msgspec.json.format(msgspec.json.encode(result), indent=1)
    if to_json == Path("-"):
        print(data.decode())
    else:
        print(text(result))
    try:
        if to_json is not None and to_json != Path("-"):
            to_json.write_bytes(data + b"\n")
        if to_html is not None:
            from vlad.evaluation.page import page

            to_html.write_text(page(result, attempts), encoding="utf-8")
    except OSError as error:
        raise VladError(f"{error.filename}: {error.strerror}") from error


def text(result: Result) -> str:
    """For a terminal: a block for each group."""
    lines = [f"{result.policy['name']}: {json.dumps(result.conditions['time'])[1:-1]} time, latency "
             f"{result.conditions['latency']}, seed {result.conditions['seed']}"]  # fmt: skip
    for row in rows(result.groups):
        lines.append(f"\n{row[0]}, {row[1]} starts")
        lines += [f"  {head:22} {cell}" for head, cell in zip(heads()[2:], row[2:], strict=True)]
    return "\n".join([*lines, *(f"\nNOTE: {note}" for note in result.notes)])


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _films(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError("0 to 100")
    return value


def _variation(text: str) -> Variation:
    extents: dict[str, float] = {}
    for word in names(text):
        name, _, extent = word.partition("=")
        if name not in Variation.__dataclass_fields__:
            raise argparse.ArgumentTypeError(f"{name!r}: there are {', '.join(Variation.__dataclass_fields__)}")
        extents[name] = float(extent or 1)
    try:
        return Variation(**extents)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
