"""What a block costs in a worker, beside the same block in this process: the shipped policy's blocks.

The two take turns on the same inputs. Once as any process is scheduled, where a second process must wait
for a processor on a busy machine, and once both in SCHED_FIFO, as `stage.*.policy = "fifo"` has it: that
is the cost of the mechanism itself, and what the budget is for. Environment: VLAD_BENCH_CALLS.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.sweep_bundle import build_bundle
from vlad import bundle as bundles
from vlad.backend import CPU, Threads, load_block
from vlad.block_process import Setting
from vlad.block_workers import BlockWorker
from vlad.bundle import Bundle

ROOT = Path(__file__).parents[1]
CALLS = int(os.environ.get("VLAD_BENCH_CALLS", "1000"))
PRIORITY = 5


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    out = ROOT / "build/bench"
    out.mkdir(parents=True, exist_ok=True)
    return bundles.load(build_bundle(out), verify=False)


@pytest.fixture(params=["other", "fifo"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of this thread while the test runs; the worker is told the same."""
    if request.param == "fifo":
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        except PermissionError:
            pytest.skip("SCHED_FIFO is not granted: RLIMIT_RTPRIO")
    yield request.param
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def inputs(bundle: Bundle, name: str) -> dict[str, np.ndarray]:
    """The longest prefix, as the policy hands it on: what came out of a block is read-only."""
    generator, prefix = np.random.default_rng(0), bundle.manifest.prefix
    lengths = {"n": len(bundle.manifest.cameras) * prefix.image_tokens, "past": 0, "s": prefix.max_tokens}
    made = {
        v.name: generator.standard_normal([d if isinstance(d, int) else lengths[d] for d in v.shape], dtype=np.float32)
        for v in bundle.block(name).inputs
    }
    for value in made.values():
        value.flags.writeable = False
    return made


@pytest.mark.parametrize("name", ["vision", "prefill", "context", "expert"])
def test_a_block_in_a_worker_beside_the_same_here(  # noqa: PLR0917
    bundle: Bundle, policy: str, name: str, benchmark: Any, figure: Callable[..., None], judge: Callable[..., None]
) -> None:
    setting = Setting(Threads(), CPU, (), policy, PRIORITY)
    worker = BlockWorker(
        bundle, name, setting, timeout_ns=None, start_timeout_ns=60_000_000_000, on_change=lambda change: None
    )
    worker.wait_up()
    here, given = load_block(bundle, name, Threads()), inputs(bundle, name)
    took: tuple[list[int], list[int]] = ([], [])
    try:
        for _ in range(CALLS):
            for session, into in ((here, took[0]), (worker, took[1])):
                start = time.perf_counter_ns()
                session.run(given)
                into.append(time.perf_counter_ns() - start)
        benchmark.pedantic(worker.run, (given,), rounds=10)
    finally:
        worker.close()
    warm = CALLS // 10
    ours, theirs = (np.array(each[warm:]) / 1e3 for each in took)
    for q in (50, 99):
        figure(f"in this process p{q}", float(np.percentile(ours, q)), "us")
        figure(f"in a worker p{q}", float(np.percentile(theirs, q)), "us")
    added_ms = float(np.percentile(theirs, 50) - np.percentile(ours, 50)) / 1e3
    if policy == "fifo":
        judge("worker_call_p50", added_ms)
    else:
        figure("added at p50", added_ms, "ms")
    figure("added at p99", float(np.percentile(theirs, 99) - np.percentile(ours, 99)) / 1e3, "ms")
