"""What `vlad plan` predicts for this machine beside what a chunk takes, in one run.

The probes of the profile and whole passes of the policy take turns, so that a busy machine burdens both.
With one thread, times are of the processor, which others' work changes less. The shipped policy is so
small that overhead decides: its ratio is shown and not judged. Environment: VLAD_BENCH_THREADS (1),
VLAD_BENCH_CAMERAS (3), VLAD_BENCH_ROUNDS (5).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_smolvla
from tests.reference.test_smolvla_chunks import checkpoint
from tools.sweep_bundle import build_bundle
from vlad import bundle as bundles
from vlad.plan.measure import Meter, quantise, session
from vlad.plan.prediction import predict
from vlad.plan.work import of_manifest
from vlad.policy import Policy
from vlad.servo import now_ns

ROOT = Path(__file__).parents[1]
THREADS = int(os.environ.get("VLAD_BENCH_THREADS", "1"))
CAMERAS = int(os.environ.get("VLAD_BENCH_CAMERAS", "3"))
ROUNDS = int(os.environ.get("VLAD_BENCH_ROUNDS", "5"))
CLOCK: Callable[[], int] = time.process_time_ns if THREADS == 1 else now_ns


def full_size() -> bundles.Bundle:
    path = ROOT / f"build/bench/full-{CAMERAS}.vlad"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        absent = [f"--skip-camera=camera{i}" for i in range(CAMERAS + 1, 4)]
        tiny_smolvla.build(path, *absent, data=checkpoint("full"))
    return bundles.load(path, verify=False)


@pytest.fixture(params=["full", "shipped"])
def policy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Policy]:
    bundle = full_size() if request.param == "full" else bundles.load(build_bundle(tmp_path), verify=False)
    made = Policy(bundle, intra_threads=THREADS)
    made.warm_up()
    yield made
    made.close()


def test_prediction_beside_a_measured_chunk(
    policy: Policy, request: pytest.FixtureRequest, benchmark: Any, figure: Callable[..., None],
    judge: Callable[..., None],
) -> None:  # fmt: skip
    manifest = policy.bundle.manifest
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    task = max(range(len(manifest.tasks)), key=lambda i: len(manifest.tasks[i].token_ids))
    took: dict[str, list[int]] = {"vision": [], "prefix": [], "expert": []}
    meter = Meter(THREADS, clock=CLOCK)

    def one_pass() -> None:
        begin = CLOCK()
        tokens = [policy.encode_image(i, frame) for i in range(len(manifest.cameras))]
        seen = CLOCK()
        prefix = policy.prefill(tokens, task, np.zeros(6))
        read = CLOCK()
        policy.sample(prefix, generator=np.random.default_rng(0))
        for name, start, end in (("vision", begin, seen), ("prefix", seen, read), ("expert", read, CLOCK())):
            took[name].append(end - start)

    benchmark.pedantic(one_pass, setup=meter.round, rounds=ROUNDS)
    made = predict(of_manifest(manifest, "bundle"), meter.board("here"), {})
    parts = {b.work.block: b.total_ns for b in made.blocks}
    predicted = {"vision": made.frames_ns + parts["vision"], "prefix": parts["prefill"] + parts["context"],
                 "expert": parts["expert"]}  # fmt: skip
    for name, expected in predicted.items():
        measured = statistics.median(took[name])
        remark = f"measured {measured / 1e6:.0f} ms: {expected / measured:.2f}"
        figure(f"{name}: predicted", expected / 1e6, "ms", remark)
    chunk = statistics.median(map(sum, zip(*took.values(), strict=True)))
    figure("chunk: predicted", made.total_ns / 1e6, "ms", f"measured {chunk / 1e6:.0f} ms")
    ratio = made.total_ns / chunk
    figure("predicted / measured", ratio)
    if request.node.callspec.params["policy"] == "full":
        judge("plan_error", abs(ratio - 1))


def test_int8_blocks_beside_their_prediction(
    tmp_path: Path, benchmark: Any, figure: Callable[..., None], judge: Callable[..., None]
) -> None:
    """The full-size blocks with int8 weights, scales of their inputs found as they run."""
    bundle, work = full_size(), of_manifest(full_size().manifest, "bundle")
    sizes = {"n": work.tokens - 1, "past": 0, "s": work.tokens}
    random = np.random.default_rng(0).standard_normal
    runs: dict[str, Callable[[], object]] = {}
    for block in (b for b in bundle.manifest.blocks if b.name != "context"):
        quantise(bundle.file(block.file), tmp_path / "int8.onnx")
        shapes = {v.name: [d if isinstance(d, int) else sizes[d] for d in v.shape] for v in block.inputs}
        feed = {name: random(shape).astype(np.float32) for name, shape in shapes.items()}
        runs[block.name] = partial(session(tmp_path / "int8.onnx", THREADS).run, None, feed)
        work = work.with_dtype(block.name, "int8")
    took: dict[str, list[int]] = {name: [] for name in runs}
    meter = Meter(THREADS, clock=CLOCK)

    def each() -> None:
        for name, run in runs.items():
            begin = CLOCK()
            run()
            took[name].append(CLOCK() - begin)

    benchmark.pedantic(each, setup=meter.round, rounds=ROUNDS, warmup_rounds=1)
    chunk = {"predicted": 0.0, "measured": 0.0}
    for part in predict(work, meter.board("here"), {}).blocks:
        if part.work.block in runs:
            measured = statistics.median(took[part.work.block])
            remark = f"measured {measured / 1e6:.0f} ms: {part.each_ns / measured:.2f}"
            figure(f"{part.work.block}: predicted", part.each_ns / 1e6, "ms", remark)
            chunk["predicted"] += part.total_ns
            chunk["measured"] += part.work.calls * measured
    ratio = chunk["predicted"] / chunk["measured"]
    figure("predicted / measured", ratio)
    judge("plan_error", abs(ratio - 1))
