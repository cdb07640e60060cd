"""`vlad quantize BUNDLE --calibrate DATASET -o OUT.vlad`."""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlad import bundle as bundles
from vlad.argument_types import cosine, count, minutes, names, share
from vlad.build.bundle_directory import refuse_existing
from vlad.build.progress import Progress
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.manifest import SOLVERS
from vlad.quantize.evaluation import evaluation_of
from vlad.quantize.judge import Gate
from vlad.quantize.observations import read_moments
from vlad.quantize.results import results
from vlad.quantize.schemes import SCHEMES
from vlad.quantize.study import Quantiser, Settings
from vlad.quantize.writer import write_bundle
from vlad.whole_file import write_whole


def parser() -> argparse.ArgumentParser:
    """The argument parser of `vlad quantize`."""
    p = argparse.ArgumentParser(
        prog="vlad quantize",
        description="Write a bundle in mixed precision: of each group of layers the cheapest scheme whose measured "
        "effect on the policy is small enough.",
        epilog="exit status: 0 written, 1 refused (the reason is on standard error), 2 usage",
    )
    p.add_argument("bundle", type=Path, help="float32 bundle that `vlad build` wrote")
    p.add_argument("--calibrate", type=Path, required=True, metavar="DATASET",
                   help="LeRobot dataset v3.0 directory with videos; every second episode is held out to judge with")
    p.add_argument("-o", "--output", type=Path, required=True, help="bundle directory to write, NAME.vlad")
    p.add_argument("--report", type=Path, metavar="FILE.html",
                   help="write everything that was measured as a page, and as JSON beside it")
    p.add_argument("--observations", type=count, default=8, metavar="N",
                   help="to calibrate with, as many to judge with, twice as many to verify with (default 8)")
    p.add_argument("--budget", type=share, default=0.002, metavar="SHARE",
                   help="greatest mean error of a chunk, as a share of each joint's range (default 0.002)")
    p.add_argument("--gate", type=share, default=0.002, metavar="SHARE",
                   help="the same for one group alone, and for a choice of flow steps (default 0.002)")
    p.add_argument("--cosine", type=cosine, default=0.999, metavar="C",
                   help="least cosine of any flow step's velocities, of one group and of the whole (default 0.999)")
    p.add_argument("--schemes", type=names, default=tuple(SCHEMES), metavar="A,B,...",
                   help=f"those to try (default all: {','.join(SCHEMES)})")
    p.add_argument("--blocks", type=names, metavar="A,B,...", help="blocks that may be changed (default all)")
    p.add_argument("--integer-expert", action="store_true",
                   help="let the action expert have integers too (it stays floating point otherwise)")
    p.add_argument("--prefer", choices=("latency", "size"), default="latency",
                   help="what a saving is (default latency)")
    p.add_argument("--steps", type=_steps, default="keep", metavar="N|auto|keep",
                   help="flow steps: a number, or the fewest evaluations within the gate (default: as they are)")
    p.add_argument("--solver", choices=SOLVERS, help="with --steps: of the flow (default: as it is; auto: any)")
    p.add_argument("--groups", type=count, default=12, metavar="N",
                   help="of a block at most: neighbouring layers go together where there are more (default 12)")
    p.add_argument("--evaluations", type=count, default=96, metavar="N",
                   help="groups in a scheme to judge at most, the most promising first (default 96)")
    p.add_argument("--minutes", type=minutes, metavar="M",
                   help="about how long it may take, judging fewer; the choice then depends on the clock")
    p.add_argument("--threads", type=count, default=1, metavar="N",
                   help="of each block while it is judged (default 1)")
    p.add_argument("--seed", type=int, default=0, help="of the noise that chunks start from (default 0)")
    p.add_argument("--force", action="store_true", help="replace an existing bundle")
    p.add_argument("--json", action="store_true", help="print everything that was measured as one JSON object")
    return p  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """0 when the bundle was written."""
    args = parser().parse_args(argv)
    refuse_existing(args.output, force=args.force)
    if args.report is not None:
        importlib.import_module("matplotlib")  # missing, it is missed before the work and not after it
    if unknown := set(args.schemes) - set(SCHEMES):
        raise BundleError(f"no scheme {sorted(unknown)[0]!r}: there are {', '.join(SCHEMES)}")
    bundle = bundles.load(args.bundle)
    if any(block.dtype != "float32" for block in bundle.manifest.blocks):
        raise BundleError(f"{args.bundle}: is quantised already: start from the float32 bundle that `vlad build` "
                          "writes without --bfloat16; bfloat16 is one of the schemes here")  # fmt: skip
    settings = Settings(
        schemes=tuple(name for name in SCHEMES if name in args.schemes),
        gate=Gate(args.cosine, args.gate), budget=args.budget,
        blocks=args.blocks or evaluation_of(bundle).blocks, integer_expert=args.integer_expert, prefer=args.prefer,
        steps=args.steps, solver=args.solver, threads=args.threads, seed=args.seed,
        evaluations=args.evaluations, minutes=args.minutes, groups=args.groups,
    )  # fmt: skip
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with (
        Progress("quantising", None, quiet=args.json) as progress,
        tempfile.TemporaryDirectory(prefix=".quantize-", dir=args.output.parent) as scratch,
    ):
        moments = read_moments(args.calibrate, bundle.manifest, args.observations, args.seed, progress.advance)
        quantiser = Quantiser(bundle, moments, settings, Path(scratch), progress.advance)
        quantiser.open()
        progress.expect(quantiser.expected())
        study = quantiser.run()
        written = None
        if study.choice or study.flow != getattr(bundle.manifest, "flow", None):
            written = write_bundle(bundle, quantiser, settings, args.calibrate, args.output, report=progress.advance)
        found = results(bundle, quantiser, settings, moments, written)
    if args.report is not None:
        from vlad.quantize.report import page

        args.report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.report, page(found).encode())
        write_whole(args.report.with_suffix(".json"), json.dumps(found, indent=1).encode())
    if args.json:
        print(json.dumps(found, indent=1))
    if written is None:
        raise BundleError(f"{args.bundle}: no group of layers passes the gate within the budget, and the flow is as "
                          "it was: nothing is written")
    if not args.json:
        print(_text(found, written, args.report))
    return 0


def _text(found: dict[str, Any], written: Bundle, report: Path | None) -> str:
    total, errors = found["total"], found["errors"]
    lines = [
        f"{written.path}: {total['bytes'] / 1e6:.1f} MB of blocks instead of {total['bytes_before'] / 1e6:.1f} MB; "
        f"a pass takes {total['latency']:.0%} of the CPU time"
    ]
    for block in found["blocks"]:
        size = f"{block['bytes'] / 1e6:8.1f} MB"
        lines.append(f"  {block['name']:8} {block['dtype']:8} {size}, {block['latency']:.0%} of the time; "
                     f"{block['groups_text']}")  # fmt: skip
    if flow := found["flow"]:
        before = ""
        if flow["chosen"] != flow["own"]:
            off = flow["error_with_choice"]
            before = f" instead of {flow['own']}; with it chunks are {off:.5f} from those of float32 before"
        lines.append(f"  flow     {flow['chosen']}{before}")
    if errors:
        lines.append(f"  error    chunk {errors['chunk_mae']:.5f} mean, {errors['chunk_max']:.4f} greatest, of each "
                     f"joint's range; velocity cosine {errors['cosine']:.5f} at least; "
                     f"{found['observations']['verify']} held-out observations")  # fmt: skip
    lines += [f"  note     {note}" for note in found["notes"]]
    if report is not None:
        lines.append(f"  report   {report}")
    return "\n".join(lines)


def _steps(text: str) -> str:
    if text not in ("keep", "auto"):
        count(text)
    return text


