"""`vlad plan`: T_inference against T_execution before there is a board, and what to change so that it fits.

What is asked is a bundle, a published policy (--policy), or a T_inference that is known (--latency). Exit status: 0 it
fits, 1 it does not, 2 it cannot be told (wrong usage, a bad file). Formulas and profiles: docs/plan.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vlad import bundle as bundles
from vlad.errors import Refused, VladError
from vlad.ladder import parse_ladder
from vlad.plan.advice import Advice, advise
from vlad.plan.board import DTYPES, NAME, built_in, load_board, to_toml
from vlad.plan.prediction import Outcome, Setup, evaluate
from vlad.plan.text import as_json, text, verdict
from vlad.plan.timeline import Timeline, simulate
from vlad.plan.work import PUBLISHED, PolicyWork, of_manifest, published

UNFIT, UNKNOWN = 1, 2
BUSY = 0.5  # of the cores
RATE_HZ, CHUNK = 30.0, 50  # where nothing says it


def main(argv: Sequence[str]) -> int:
    """See above."""
    parser = _parser()
    options = parser.parse_args(argv)
    asked = [name for name in ("bundle", "policy", "latency", "measure") if getattr(options, name) is not None]
    if len(asked) != 1:
        parser.error("give one of BUNDLE, --policy, --latency and --measure")
    try:
        return _measure(options) if options.measure is not None else _plan(options)
    except VladError as error:
        print(f"vlad plan: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vlad"):
            raise
        extra = "report" if error.name == "matplotlib" else "build"
        print(f"vlad plan: needs {error.name}: pip install 'vlad[{extra}]'", file=sys.stderr)
    return UNKNOWN


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="vlad plan", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE")
    p.add_argument("--policy", choices=sorted(PUBLISHED), help="a policy of published sizes, in float32")
    p.add_argument("--latency", type=_positive, metavar="SECONDS", help="T_inference, instead of a prediction")
    p.add_argument("--board", metavar="NAME|FILE", help=f"profile: {', '.join(built_in())}, or a TOML file")
    p.add_argument("--threads", type=_count, metavar="N", help="CPU threads: rates go with them")
    p.add_argument("--fps", type=_positive, metavar="HZ", help="action rate, instead of the policy's")
    p.add_argument("--chunk", type=_count, metavar="N", help="actions of a chunk, likewise")
    p.add_argument("--steps", type=_count, metavar="K", help="flow steps, likewise")
    p.add_argument("--cameras", type=_count, metavar="C", help="cameras, likewise")
    p.add_argument("--threshold", type=_threshold, default="auto", metavar="Q",
                   help="share of a chunk left when the next is asked for, or auto (the default)")  # fmt: skip
    p.add_argument("--mode", choices=("async", "sync"), default="async", help="as policy.mode; async")
    p.add_argument("--ladder", default="", metavar="RUNG,...", help="as policy.ladder")
    p.add_argument("--dtype", action="append", default=[], type=_pair, metavar="BLOCK=TYPE",
                   help=f"what if a block's weights were {', '.join(DTYPES)}")  # fmt: skip
    p.add_argument("--on", action="append", default=[], type=_pair, metavar="BLOCK=UNIT", help="what if it ran there")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--gantt", type=Path, metavar="FILE.png", help="who is busy when, over the first chunks")
    p.add_argument("--html", type=Path, metavar="FILE.html", help="all of it as one page")
    p.add_argument("--measure", type=Path, metavar="OUT.toml", help="measure the profile of this machine")
    return p


def _number(word: str, low: float, high: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{word!r} is no number from {low:g} to {high:g}")
    return value


def _positive(word: str) -> float:
    return _number(word, 1e-6, 1e6)


def _count(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word[:6]) <= 10_000:
        raise argparse.ArgumentTypeError(f"{word!r} is no count from 1 to 10000")
    return int(word)


def _threshold(word: str) -> float | str:
    return word if word == "auto" else _number(word, 0.001, 0.999)


def _pair(word: str) -> tuple[str, str]:
    left, _, right = word.partition("=")
    if not (left and right):
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form A=B")
    return left, right


def _refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Options that would be ignored."""
    if given := [name for name in names if getattr(options, name)]:
        raise Refused(f"{why}: --{given[0]} has no meaning beside it")


def _plan(options: argparse.Namespace) -> int:
    setup = _setup(options)
    outcome = evaluate(setup)
    advice = [] if outcome.fits else advise(outcome)
    timeline = simulate(outcome)
    _charts(options, outcome, advice, timeline)  # first: whoever reads the text may stop reading
    if options.json:
        print(json.dumps(as_json(outcome, advice, timeline)))
    else:
        print(text(outcome, advice, timeline))
    return 0 if outcome.fits else UNFIT


def _charts(options: argparse.Namespace, outcome: Outcome, advice: Sequence[Advice], timeline: Timeline) -> None:
    if options.gantt is not None:
        from vlad.plan import gantt

        gantt.write(options.gantt, timeline, verdict(outcome))
    if options.html is not None:
        from vlad.plan.page import page

        name = outcome.setup.policy.name if outcome.setup.policy is not None else "a given T_inference"
        _write(options.html, page(f"vlad plan: {name}", outcome, advice, timeline))


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error


def _setup(options: argparse.Namespace) -> Setup:
    try:
        ladder = parse_ladder([name for name in options.ladder.split(",") if name])
    except ValueError as error:
        raise Refused(f"--ladder: {error}") from None
    common = {"threshold": options.threshold, "mode": options.mode, "ladder": ladder}
    if options.latency is not None:
        _refuse(options, ("board", "steps", "cameras", "threads", "dtype", "on", "ladder"),
                "--latency says what a pass takes")  # fmt: skip
        return Setup(options.fps or RATE_HZ, options.chunk or CHUNK, latency_ns=round(options.latency * 1e9), **common)
    if options.board is None:
        raise Refused(f"--board is needed: {', '.join(built_in())}, or a file that `vlad plan --measure` wrote")
    policy, board = _policy(options), load_board(options.board)
    if options.threads is not None:
        board = board.with_threads(options.threads)
    for rung in ladder:
        if rung.steps is not None and rung.steps >= policy.steps:
            raise Refused(f"--ladder: {rung.name!r} is no fewer than the policy's {policy.steps} flow steps")
    on = dict(options.on)
    for block in on:
        policy.block(block)
    return Setup(options.fps or policy.rate_hz, policy.chunk_size, policy, board, on=on, **common)


def _policy(options: argparse.Namespace) -> PolicyWork:
    if options.bundle is not None:
        policy = of_manifest(bundles.load(options.bundle, verify=False).manifest, options.bundle.name)
        if options.cameras is not None:
            policy = policy.with_cameras(options.cameras)
    else:
        policy = published(options.policy, options.cameras or 3)
    if options.chunk is not None:
        policy = policy.with_chunk(options.chunk)
    if options.steps is not None:
        policy = policy.with_steps(options.steps)
    for block, dtype in options.dtype:
        policy.block(block)
        if dtype not in DTYPES:
            raise Refused(f"--dtype {block}={dtype}: the types are {', '.join(DTYPES)}")
        policy = policy.with_dtype(block, dtype)
    return policy


def _measure(options: argparse.Namespace) -> int:
    from vlad.plan.measure import measure

    out: Path = options.measure
    _refuse(options, ("board", "fps", "chunk", "steps", "cameras", "ladder", "dtype", "on", "gantt", "html"),
            "--measure measures this machine")  # fmt: skip
    if not re.fullmatch(NAME, out.stem):
        raise Refused(f"{out}: {out.stem!r} will be the board's name: letters, digits, _ . - and at most 64 of them")
    if out.exists():
        raise Refused(f"{out}: exists already: give another name, or remove it")
    if not out.parent.is_dir():
        raise Refused(f"{out.parent}: no such directory")
    cores = len(os.sched_getaffinity(0))
    threads = options.threads or cores
    if (load := os.getloadavg()[0]) > BUSY * cores:
        print(f"vlad plan: the machine is busy (load {load:.1f} on {cores} cores): the profile will be of what others "
              "leave", file=sys.stderr)  # fmt: skip
    board = measure(out.stem, threads, lambda what: print(what, file=sys.stderr))
    _write(out, to_toml(board))
    if options.json:
        print(json.dumps({"board": board.name, "figures": [figure for figure, _ in board.figures()]}))
        return 0
    print(f"{out}: the profile of this machine, {threads} threads")
    for figure, _ in board.figures():
        print(f"  {figure}")
    policy = published("smolvla", 2)
    t_s = evaluate(Setup(policy.rate_hz, policy.chunk_size, policy, board)).t_inference_ns / 1e9
    print(f"  so a published SmolVLA with two cameras in float32 takes {t_s:.2f} s")
    return 0

