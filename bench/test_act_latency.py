"""A full-size chunk of an ACT in float32, three cameras of 480x640 and 100 actions: this project's blocks
beside LeRobot's PyTorch, in one run.

The two take turns on the same observation and thread count, so that a busy machine burdens both. Needs
LeRobot (`make reference`). Environment: VLAD_BENCH_THREADS, VLAD_BENCH_ROUNDS.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.lerobot_process import compared, lerobot_chunks
from bench.test_policy_latency import ROUNDS, THREADS
from tests import tiny_act
from tests.reference.test_act_chunks import checkpoint
from vlad import bundle as bundles
from vlad.act import ActPolicy

ROOT = Path(__file__).parents[1]
CAMERAS = 3


@pytest.fixture(scope="module")
def policy() -> Iterator[ActPolicy]:
    path = ROOT / "build/bench/act-full.vlad"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny_act.build(path, data=checkpoint("act-full"))
    policy = ActPolicy(bundles.load(path, verify=False), intra_threads=THREADS)
    policy.warm_up()
    yield policy
    policy.close()


def test_full_size_chunk_beside_lerobot(policy: ActPolicy, benchmark: Any) -> None:
    saved = tiny_act.made(checkpoint("act-full"))
    theirs: list[dict[str, Any]] = []
    cpu_s: list[float] = []

    def chunk() -> np.ndarray:
        started = time.process_time()
        tokens = [policy.encode_image(i, saved[f"image{i}_0"]) for i in range(CAMERAS)]
        normalised = policy.decode(policy.prefill(tokens, 0, tiny_act.DEGREES.to_core(saved["state_0"])))
        cpu_s.append(time.process_time() - started)
        return normalised

    chunk()
    cpu_s.clear()
    with lerobot_chunks(checkpoint("act-full"), THREADS) as lerobot:
        ours = benchmark.pedantic(chunk, setup=lambda: theirs.append(lerobot(0)), rounds=ROUNDS)
    assert np.abs(ours - np.array(theirs[-1]["chunk"])).max() <= 1e-4
    stats = benchmark.stats.stats
    flops = {b.name: b.flops for b in policy.bundle.manifest.blocks}
    benchmark.extra_info.update(
        threads=THREADS,
        gflop=round((CAMERAS * flops["vision"] + flops["policy"]) / 1e9, 1),
        **compared(theirs, stats.median, stats.min, cpu_s),
    )
    print(json.dumps(benchmark.extra_info))


@pytest.mark.parametrize("step", ["pixels", "encode_image", "decode"])
def test_each_step(policy: ActPolicy, benchmark: Any, step: str) -> None:
    """`decode` alone is what the rung `state_only` costs."""
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    seen = policy.prefill([policy.encode_image(0, frame)] * CAMERAS, 0, np.zeros(6))
    call = {
        "pixels": lambda: policy.pixels[0](frame),
        "encode_image": lambda: policy.encode_image(0, frame),
        "decode": lambda: policy.decode(seen),
    }[step]
    benchmark.extra_info["threads"] = THREADS
    assert benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=1) is not None
