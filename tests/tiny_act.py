"""The small checkpoint under tests/data/act_tiny that LeRobot wrote, and bundles made of it.

Made by `python tests/reference/make_act_checkpoint.py tests/data/act_tiny --size tiny --frames
96x96,96x96,96x96` with lerobot 0.4.4 and torch 2.10.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.tiny_smolvla import DEGREES, reference
from vlad.act import ActPolicy
from vlad.action_queue import ActionQueue, Command, GateConfig, JointLimits
from vlad.build.command import main

DATA = Path(__file__).parent / "data" / "act_tiny"


def arguments(output: Path, *more: str, data: Path = DATA) -> list[str]:
    """Command line of `vlad build` for a data directory that make_act_checkpoint.py wrote."""
    return [
        *(str(data / "checkpoint"), "--dataset", str(data / "dataset")),
        *("--units", "degrees", "-o", str(output), *more),
    ]


def build(output: Path, *more: str, data: Path = DATA) -> Path:
    """Build a bundle and return its path."""
    assert main([*arguments(output, *more, data=data), "--force"]) == 0
    return output


def made(data: Path = DATA) -> dict[str, NDArray[np.generic]]:
    """Observations, LeRobot's chunks and its ensembles, by name and case."""
    return reference(data)


def chunk(
    policy: ActPolicy, saved: dict[str, NDArray[np.generic]], case: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """This project's chunk for a case of the reference: normalised, and in LeRobot's units."""
    cameras = range(len(policy.bundle.manifest.cameras))
    tokens = [policy.encode_image(i, saved[f"image{i}_{case}"]) for i in cameras]
    seen = policy.prefill(tokens, 0, DEGREES.to_core(saved[f"state_{case}"]))
    return policy.decode(seen), DEGREES.from_core(policy.sample(seen))


def compare_ensemble(saved: dict[str, NDArray[np.generic]], coefficient: float) -> None:
    """Asserts that the queue makes of a chunk at every step what LeRobot's ensembler made of them."""
    chunks, expected = saved["ensemble_chunks"], saved[f"ensemble_{coefficient}"]
    n, period = chunks.shape[1], 50_000_000
    limits = (JointLimits(-10, 10, 500.0),) * 6
    config = GateConfig(limits, period, n * period, n * period)
    queue = ActionQueue(config, "temporal_ensemble", coefficient=coefficient)
    command = Command(1, True, 0, chunks[0, 0].tolist())
    for step, actions in enumerate(chunks):
        now = (20 + step) * period
        report = queue.push_chunk(actions, t_obs_ns=now, now_ns=now, cold=step == 0, command=command)
        assert report.accepted and report.n_blended == 0
        found = queue.sample(now)
        assert found is not None
        assert np.abs(found - expected[step]).max() <= 1e-6
    assert len(chunks) > 2 * n, "no action of a whole ensemble was compared"
