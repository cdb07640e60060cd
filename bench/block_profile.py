"""Where the time of a bundle's blocks goes, by kind of operator.

    python -m bench.block_profile BUNDLE [--threads 1] [--rounds 8] [--plain]

Each node's time is its least of all rounds, so that other work on the machine disturbs little; nodes
are summed by kind. With one thread the sum is close to the block's CPU time. `--plain`: without
vlad's own operators.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vlad import bundle as bundles
from vlad.backend import FUSED


def block_inputs(bundle: bundles.Bundle, name: str) -> dict[str, NDArray[np.float32]]:
    """Random inputs of the sizes of a whole chunk with the longest task."""
    longest = bundle.manifest.longest
    sizes = {"n": longest - 1 if name == "prefill" else longest, "past": 0, "s": longest}
    generator = np.random.default_rng(0)
    return {
        value.name: generator.standard_normal([d if isinstance(d, int) else sizes[d] for d in value.shape], np.float32)
        for value in bundle.block(name).inputs
    }


Sums = dict[str, tuple[int, float]]


def profile(bundle: bundles.Bundle, name: str, threads: int, rounds: int, *, plain: bool) -> Sums:
    """Number and milliseconds of the nodes of each kind."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_profiling = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if FUSED.exists() and not plain:
        options.register_custom_ops_library(str(FUSED))
    with tempfile.TemporaryDirectory() as directory:
        options.profile_file_prefix = f"{directory}/profile"
        session = ort.InferenceSession(str(bundle.file(bundle.block(name).file)), options)
        inputs = block_inputs(bundle, name)
        for _ in range(rounds):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    least: dict[str, tuple[str, float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind, us = event["args"]["op_name"], event["dur"]
            least[event["name"]] = (kind, min(us, least.get(event["name"], (kind, us))[1]))
    sums: dict[str, tuple[int, float]] = collections.defaultdict(lambda: (0, 0.0))
    for kind, us in least.values():
        count, ms = sums[kind]
        sums[kind] = count + 1, ms + us / 1000
    return dict(sums)


def main() -> None:
    """Print a table for each block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    bundle = bundles.load(args.bundle, verify=False)
    for block in bundle.manifest.blocks:
        sums = profile(bundle, block.name, args.threads, args.rounds, plain=args.plain)
        total = sum(ms for _, ms in sums.values())
        print(f"{block.name}: {total:.1f} ms, {block.flops / total / 1e9:.2f} Tflop/s")
        for kind, (count, ms) in sorted(sums.items(), key=lambda item: -item[1][1]):
            if ms >= 0.01 * total:
                print(f"  {kind:<28}{count:>5}{ms:>10.2f} ms{ms / total:>7.0%}")


if __name__ == "__main__":
    main()
