"""The policy that ships with the project: it builds, and moves the simulated arm as it should."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from record_sweep import Recorder
from sweep_motion import FOLDED, FPS, MIDDLE, TASKS, Array

from vlad.build.command import main as build
from vlad.bundle import load
from vlad.policy import Policy
from vlad.units import RAD_PER_DEGREE_UNIT

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets" / "sweep"
EVERY = 20
DELAY = 4


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    bundle = tmp_path_factory.mktemp("bundle") / "sweep.vlad"
    dataset = ASSETS / "dataset"
    words = [ASSETS / "checkpoint", "--dataset", dataset, "--units", "degrees", "-o", bundle]
    assert build([*map(str, words), "--json"]) == 0
    policy = Policy(load(bundle))
    yield policy
    policy.close()


def to_core(goal: Array) -> Array:
    return np.append(goal[:5] * RAD_PER_DEGREE_UNIT, goal[5] / 100)


def from_core(actions: Array) -> Array:
    return np.column_stack([actions[:, :5] / RAD_PER_DEGREE_UNIT, actions[:, 5] * 100])


class Arm:
    """The simulated arm, driven chunk by chunk as in asynchronous control, with fixed noise."""

    def __init__(self, policy: Policy, start: Array) -> None:
        self.policy = policy
        self.recorder = Recorder()
        self.recorder.world.reset(5)
        self.recorder.settle(start)
        self.noise = np.random.default_rng(0)

    def chunk(self, task: int) -> Array:
        pictures = self.recorder.pictures()
        tokens = [self.policy.encode_image(k, picture) for k, picture in enumerate(pictures)]
        prefix = self.policy.prefill(tokens, task, to_core(self.recorder.state()))
        return from_core(self.policy.sample(prefix, generator=self.noise))

    def run(self, task: int, seconds: float) -> Array:
        """Goals (seconds * FPS, 6)."""
        queue = dict(enumerate(self.chunk(task)))
        goals = []
        for now in range(round(seconds * FPS)):
            if now % EVERY == 0 and now:
                arriving = self.chunk(task)
            if now % EVERY == DELAY and now > DELAY:
                for i, action in enumerate(arriving[DELAY:], now):
                    queue[i] = 0.3 * queue.get(i, action) + 0.7 * action
            goals.append(queue[now])
            self.recorder.send(queue[now])
            self.recorder.world.step(1 / FPS)
        return np.stack(goals)


def test_ships_small_and_without_a_path_of_the_machine_that_made_it() -> None:
    assert sum(f.stat().st_size for f in ASSETS.rglob("*") if f.is_file()) <= 12e6
    for file in ASSETS.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert str(ROOT) not in text, file
        assert not re.search(r'"/\w', text), file


@pytest.mark.parametrize("start", [MIDDLE, FOLDED], ids=["middle", "folded"])
@pytest.mark.parametrize("task", range(len(TASKS)))
def test_the_first_chunk_starts_where_the_arm_is(policy: Policy, task: int, start: Array) -> None:
    arm = Arm(policy, start)
    state = arm.recorder.state()
    chunk = arm.chunk(task)
    assert np.abs(chunk[0] - state).max() < 10
    speeds = np.radians(np.abs(np.diff(chunk[:, :5], axis=0)).max() * FPS)
    assert speeds < 1.5
    assert np.abs(chunk - TASKS[task].chunk(start)).max() < 10


def test_a_refreshed_state_is_a_full_pass_with_the_same_images(policy: Policy) -> None:
    arm = Arm(policy, MIDDLE)
    tokens = [policy.encode_image(k, picture) for k, picture in enumerate(arm.recorder.pictures())]
    noise = policy.expert.noise(np.random.default_rng(1))
    prefix = policy.prefill(tokens, 0, to_core(MIDDLE))
    for k, state in enumerate((FOLDED, MIDDLE + 5, (FOLDED + MIDDLE) / 2)):
        whole = policy.prefill(tokens, 0, to_core(state))
        prefix = policy.refresh_state(prefix, to_core(state))  # of one that was refreshed itself
        expected = policy.sample(whole, noise)
        assert np.abs(policy.sample(prefix, noise) - expected).max() <= 1e-5, k
    assert np.abs(policy.sample(policy.prefill(tokens, 0, to_core(MIDDLE)), noise) - expected).max() > 1e-2


@pytest.mark.parametrize("task", range(len(TASKS)))
def test_it_keeps_to_its_cycle(policy: Policy, task: int) -> None:
    goals = Arm(policy, MIDDLE).run(task, 20)
    law = TASKS[task]
    settled = goals[6 * FPS :]
    turned = np.ptp(np.unwrap(law.phase(settled))) / 2 / np.pi
    assert turned == pytest.approx(len(settled) / FPS / law.period_s, rel=0.3)
    off = settled - law.cycle(law.phase(settled))
    assert np.sqrt(np.square(off).mean(axis=0)).max() < 5
    assert np.radians(np.abs(np.diff(goals[:, :5], axis=0)).max() * FPS) < 1.5
