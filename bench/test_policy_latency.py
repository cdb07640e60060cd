"""A full-size chunk in float32: this project's blocks beside LeRobot's PyTorch, in one run.

The two take turns on the same observation, noise and thread count, so that a busy machine burdens
both. Needs LeRobot (`make reference`). Environment: VLAD_BENCH_THREADS, VLAD_BENCH_ROUNDS.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.lerobot_process import compared, lerobot_chunks
from tests import tiny_smolvla
from tests.reference.test_smolvla_chunks import checkpoint
from vlad import bundle as bundles
from vlad.ladder import FULL, parse_rung
from vlad.pass_cost import measure_pass
from vlad.policy import Policy

ROOT = Path(__file__).parents[1]
THREADS = int(os.environ.get("VLAD_BENCH_THREADS", str(min(4, os.cpu_count() or 1))))
ROUNDS = int(os.environ.get("VLAD_BENCH_ROUNDS", "5"))


@pytest.fixture(scope="module", params=[1, 2], ids=["1-camera", "2-cameras"])
def policy(request: pytest.FixtureRequest) -> Iterator[Policy]:
    path = ROOT / f"build/bench/full-{request.param}.vlad"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        absent = [f"--skip-camera=camera{i}" for i in range(request.param + 1, 4)]
        tiny_smolvla.build(path, *absent, data=checkpoint("full"))
    policy = Policy(bundles.load(path, verify=False), intra_threads=THREADS)
    policy.warm_up()
    yield policy
    policy.close()


@pytest.fixture(scope="module")
def lerobot() -> Iterator[Any]:
    with lerobot_chunks(checkpoint("full"), THREADS) as one_chunk:
        yield one_chunk


def test_full_size_chunk_beside_lerobot(policy: Policy, lerobot: Any, benchmark: Any) -> None:
    made = tiny_smolvla.reference(checkpoint("full"))
    case = len(policy.bundle.manifest.cameras) - 1  # the reference's cases add cameras one by one
    theirs: list[dict[str, Any]] = []
    cpu_s: list[float] = []

    def chunk() -> np.ndarray:
        started = time.process_time()
        normalised, _ = tiny_smolvla.chunk(policy, made, case)
        cpu_s.append(time.process_time() - started)
        return normalised

    chunk()
    cpu_s.clear()
    ours = benchmark.pedantic(chunk, setup=lambda: theirs.append(lerobot(case)), rounds=ROUNDS)
    assert np.abs(ours - np.array(theirs[-1]["chunk"])).max() <= 1e-4
    stats = benchmark.stats.stats
    benchmark.extra_info.update(threads=THREADS, **compared(theirs, stats.median, stats.min, cpu_s))
    print(json.dumps(benchmark.extra_info))


@pytest.mark.parametrize("step", ["encode_image", "prefill", "refresh_state", "flow_step"])
def test_each_step(policy: Policy, benchmark: Any, step: str) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    tokens = [policy.encode_image(0, frame)] * len(policy.bundle.manifest.cameras)
    prefix = policy.prefill(tokens, 1, np.zeros(6))
    x = np.zeros(policy.expert.shape, np.float32)
    call = {
        "encode_image": lambda: policy.encode_image(0, frame),
        "prefill": lambda: policy.prefill(tokens, 1, np.zeros(6)),
        "refresh_state": lambda: policy.refresh_state(prefix, np.zeros(6)),
        "flow_step": lambda: policy.expert.velocity(prefix, x, 1.0),
    }[step]
    benchmark.extra_info["threads"] = THREADS
    result = benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=1)
    assert result is not None


@pytest.mark.parametrize("name", ["full", "reuse", "state_only", "steps:4", "reuse+steps:4", "state_only+steps:4"])
def test_each_rung(policy: Policy, benchmark: Any, name: str) -> None:
    """A pass on each rung of the ladder, every camera's tokens reused where the rung may reuse them."""
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    frames = [frame] * len(policy.bundle.manifest.cameras)
    rung = FULL if name == "full" else parse_rung(name)
    times_ns = benchmark.pedantic(lambda: measure_pass(policy, frames, 1, np.zeros(6), rung), rounds=1)
    benchmark.extra_info.update(threads=THREADS, pass_s=round(statistics.median(times_ns) / 1e9, 3))
    print(name, benchmark.extra_info)
