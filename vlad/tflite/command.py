"""`vlad tflite BUNDLE --calibrate DATASET -o OUT.vlad`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from vlad import bundle as bundles
from vlad.argument_types import cosine, count, names, share
from vlad.build.bundle_directory import refuse_existing, writing
from vlad.build.progress import Progress
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.quantize.judge import Gate
from vlad.quantize.observations import read_moments
from vlad.tflite.writer import Outcome, write_bundle


def parser() -> argparse.ArgumentParser:
    """The argument parser of `vlad tflite`."""
    p = argparse.ArgumentParser(
        prog="vlad tflite",
        description="Write blocks of a bundle as int8 .tflite files, for a neural processing unit behind LiteRT.",
        epilog="exit status: 0 written, 1 refused (the reason is on standard error), 2 usage. Then, for an i.MX 95: "
        "`vlad convert`. See docs/npu.md",
    )
    p.add_argument("bundle", type=Path, help="bundle whose blocks are ONNX graphs in float32")
    p.add_argument("--calibrate", type=Path, required=True, metavar="DATASET",
                   help="LeRobot dataset v3.0 directory with videos; every second episode is held out to judge with")
    p.add_argument("-o", "--output", type=Path, required=True, help="bundle directory to write, NAME.vlad")
    p.add_argument("--blocks", type=names, default=("vision",), metavar="A,B,...",
                   help="blocks to write (default vision)")
    p.add_argument("--observations", type=count, default=8, metavar="N",
                   help="to calibrate with, and twice as many to judge with (default 8)")
    p.add_argument("--budget", type=share, default=0.01, metavar="SHARE",
                   help="greatest mean error of a chunk, as a share of each joint's range (default 0.01)")
    p.add_argument("--cosine", type=cosine, default=0.99, metavar="C",
                   help="least cosine of any flow step's velocities, or of a chunk without a flow (default 0.99)")
    p.add_argument("--seed", type=int, default=0, help="of the noise that chunks start from (default 0)")
    p.add_argument("--force", action="store_true", help="replace an existing bundle")
    p.add_argument("--json", action="store_true", help="print everything that was measured as one JSON object")
    return p  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """0 when the bundle was written."""
    args = parser().parse_args(argv)
    refuse_existing(args.output, force=args.force)
    bundle = bundles.load(args.bundle)
    for block in (*map(bundle.block, args.blocks), *bundle.manifest.blocks):
        if block.backend != "onnxruntime" or (block.dtype != "float32" and block.name in args.blocks):
            raise BundleError(f"{args.bundle}: block {block.name} is {block.dtype} for {block.backend}: start from the "
                              "bundle that `vlad build` or `vlad quantize` wrote")  # fmt: skip
    with writing(args.output), Progress("writing .tflite", None, quiet=args.json) as progress:
        moments = read_moments(args.calibrate, bundle.manifest, args.observations, args.seed, progress.advance)
        written, outcome = write_bundle(
            bundle, moments, args.blocks, args.output, dataset=args.calibrate, gate=Gate(args.cosine, args.budget),
            report=progress.advance,
        )  # fmt: skip
    if args.json:
        golden = written.manifest.golden
        print(json.dumps({
            "written": str(written.path), "blocks": [asdict(block) for block in outcome.blocks],
            "errors": msgspec.to_builtins(outcome.errors), "observations": outcome.observations,
            "golden_tolerances": {} if golden is None else golden.tolerances,
        }, indent=1))  # fmt: skip
    else:
        print(_text(written, outcome))
    return 0


def _text(written: Bundle, outcome: Outcome) -> str:
    lines = [str(written.path)]
    for block in outcome.blocks:
        lines.append(
            f"  {block.name:8} {block.bytes_after / 1e6:.1f} MB instead of {block.bytes_before / 1e6:.1f} MB, "
            f"{block.latency:.0%} of the CPU time of its ONNX graph; outputs off by {block.error:.2%} (rms), cosine "
            f"{block.cosine:.5f} at least"
        )
        nodes, left = sum(block.operators.values()), sum(block.cpu_operators.values())
        kinds = ", ".join(f"{n} {kind}" for kind, n in block.cpu_operators.items())
        lines.append(f"  {'':8} {nodes - left} of {nodes} operators are known to be taken by a Neutron NPU; on the CPU "
                     f"stay {kinds or 'none'}")  # fmt: skip
    errors = outcome.errors
    lines.append(
        f"  error    chunk {errors.chunk_mae:.5f} mean, {errors.chunk_max:.4f} greatest, of each joint's range; "
        f"cosine {errors.cosine:.5f} at least; {outcome.observations} held-out observations"
    )
    return "\n".join(lines)
