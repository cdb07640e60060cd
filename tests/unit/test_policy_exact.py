"""The bundle of a small checkpoint computes what LeRobot computed from it: no LeRobot needed here.

Chunks are compared in the normalised space and in degrees. The weights have unit gain, so that
a wrong mask, position, scale or layer shows as a difference of order one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny_smolvla import DEGREES, build, chunk, reference
from vlad import bundle as bundles
from vlad.policy import Policy

MADE = reference()
CASES = (0, 1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy(bundles.load(build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")))


def _prefix(policy: Policy, case: int, state: np.ndarray):
    tokens = [policy.encode_image(i, MADE[f"image{i}_{case}"]) for i in range(2)]
    return policy.prefill(tokens, policy.token_ids(str(MADE[f"task_{case}"])), state)


@pytest.mark.parametrize("case", CASES)
def test_chunk_equals_lerobot_in_float32(policy: Policy, case: int) -> None:
    normalised, degrees = chunk(policy, MADE, case)
    assert np.abs(normalised - MADE[f"normalised_chunk_{case}"]).max() <= 1e-4
    assert np.abs(degrees - MADE[f"chunk_{case}"]).max() <= 1e-3
    assert np.abs(MADE[f"normalised_chunk_{case}"]).max() > 1, "too small to prove anything"


def test_the_reference_separates_its_cases() -> None:
    assert np.abs(MADE["normalised_chunk_0"] - MADE["normalised_chunk_1"]).max() > 0.1


@pytest.mark.parametrize("case", CASES)
def test_lerobots_mixed_precision_is_near_and_not_equal(policy: Policy, case: int) -> None:
    normalised, _ = chunk(policy, MADE, case)
    difference = np.abs(normalised - MADE[f"normalised_mixed_{case}"]).max()
    assert 1e-4 < difference < 0.25


@pytest.mark.parametrize("case", CASES)
def test_position_id_defect_is_repeated_only_on_request(policy: Policy, tmp_path: Path, case: int) -> None:
    name = "transformers-4.57-float32"
    defective = Policy(bundles.load(build(tmp_path / "d.vlad", "--position-ids", name)))
    expected = MADE[f"normalised_defect_{case}"]
    assert np.abs(chunk(defective, MADE, case)[0] - expected).max() <= 1e-4
    assert np.abs(chunk(policy, MADE, case)[0] - expected).max() > 0.01
    assert defective.bundle.manifest.checkpoint.position_ids == name


def test_refreshed_state_equals_a_whole_prefill(policy: Policy) -> None:
    fresh = DEGREES.to_core(MADE["state_0"])
    stale = fresh + np.array([0.4, -0.3, 0.2, 0.1, -0.5, 0.2])
    whole, old = _prefix(policy, 0, fresh), _prefix(policy, 0, stale)
    refreshed = policy.refresh_state(old, fresh)
    noise = MADE["noise_0"]
    assert refreshed.length == whole.length
    expected = policy.sample_normalised(whole, noise)
    assert np.abs(policy.sample_normalised(refreshed, noise) - expected).max() <= 1e-5
    assert np.abs(policy.sample_normalised(old, noise) - expected).max() > 1e-2


def test_single_steps_compose_to_a_sample(policy: Policy) -> None:
    prefix = _prefix(policy, 1, DEGREES.to_core(MADE["state_1"]))
    x = MADE["noise_1"].astype(np.float32)
    for step in range(policy.bundle.manifest.flow.steps):
        x = x + np.float32(-0.1) * policy.expert.velocity(prefix, x, 1.0 + step * -0.1)
    assert np.array_equal(x, policy.sample_normalised(prefix, MADE["noise_1"]))


def test_guidance_sees_every_step_and_steers(policy: Policy) -> None:
    prefix = _prefix(policy, 0, DEGREES.to_core(MADE["state_0"]))
    times: list[float] = []

    def towards_zero(x: np.ndarray, velocity: np.ndarray, time: float, dt: float) -> np.ndarray:
        assert dt == -0.2
        times.append(time)
        return x / np.float32(time) if len(times) == 5 else velocity

    guided = policy.sample_normalised(prefix, MADE["noise_0"], steps=5, guidance=towards_zero)
    assert times == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert np.abs(guided).max() < 1e-5


def test_fewer_flow_steps_change_the_chunk_and_its_cost_only(policy: Policy) -> None:
    prefix = _prefix(policy, 0, DEGREES.to_core(MADE["state_0"]))
    few = policy.sample(prefix, MADE["noise_0"], steps=4)
    ten = policy.sample(prefix, MADE["noise_0"])
    assert few.shape == ten.shape == (8, 6)
    assert few.dtype == np.float64
    assert np.abs(few - ten).max() > 0


def test_noise_comes_from_the_given_generator(policy: Policy) -> None:
    prefix = _prefix(policy, 0, DEGREES.to_core(MADE["state_0"]))
    chunks = [policy.sample(prefix, generator=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(chunks[0], chunks[1])
    assert not np.array_equal(chunks[0], chunks[2])


def test_two_threads_compute_the_same(policy: Policy) -> None:
    pinned = Policy(policy.bundle, intra_threads={"vision": 2, "expert": 2})
    pinned.warm_up()
    assert np.abs(chunk(pinned, MADE, 0)[0] - chunk(policy, MADE, 0)[0]).max() <= 1e-5
    pinned.close()
