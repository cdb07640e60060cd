"""The sampler of a policy: with real-time chunking, which chunk is told to go on from which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import tiny_smolvla
from vlad import bundle as bundles
from vlad.expert import Guidance
from vlad.ladder import FULL, Rung, parse_rung
from vlad.policy import Policy
from vlad.rtc import RealTimeChunking, RtcConfig
from vlad.sampler import GuidablePolicy, Sampler
from vlad.scheduler import Request
from vlad.servo import MS

PERIOD, LOOKAHEAD = 50 * MS, 75 * MS
CHUNK, WIDTH, JOINTS = 12, 4, 2
T0 = 10_000 * MS


class Space:
    def actions(self, normalised: NDArray[np.float32], /) -> NDArray[np.float64]:
        return normalised[:, :JOINTS].astype(np.float64) * 10


class Constant:
    """Always the same opinion, in one flow step, from no noise at all."""

    joint_space = Space()

    def __init__(self) -> None:
        self.opinion = 1.0
        self.guided: list[bool] = []
        self.steps: list[int | None] = []

    def sample_normalised(
        self, prefix: Any, *, generator: np.random.Generator, steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> NDArray[np.float32]:
        self.guided.append(guidance is not None)
        self.steps.append(steps)
        x = np.zeros((CHUNK, WIDTH), np.float32)
        velocity = x - np.float32(self.opinion)
        return x - (velocity if guidance is None else guidance(x, velocity, 1.0, -1.0))

    def sample(self, prefix: Any, **options: Any) -> NDArray[np.float64]:
        return self.joint_space.actions(self.sample_normalised(prefix, **options))


def request(at_ns: int, *, cold: bool = False, epoch: int = 1, rung: Rung = FULL, predicted_ms: int = 100) -> Request:
    return Request(1, epoch, cold, at_ns, predicted_ms * MS, 500 * MS, rung)


def sampler(policy: Constant, **config: Any) -> Sampler:
    rtc = RealTimeChunking(RtcConfig(**config), period_ns=PERIOD, lookahead_ns=LOOKAHEAD)
    return Sampler(policy, np.random.default_rng(0), rtc)


def one(of: Sampler, asked: Request, *, task: object = 0, verdict: str = "accepted",
        took_ms: int = 100) -> NDArray[np.float64]:
    """A chunk and the gate's word on it, at once where the request is cold, else after `took_ms`."""
    t_obs = asked.admitted_ns - asked.admitted_ns % PERIOD
    actions = of.sample(None, asked, task=task, t_obs_ns=asked.admitted_ns, now_ns=asked.admitted_ns)
    arrival = asked.admitted_ns + took_ms * MS
    t0 = -(-arrival // PERIOD) * PERIOD if asked.cold else t_obs
    of.judged({"verdict": verdict, "t0_ns": t0 if verdict != "rejected" else 0, "now_ns": arrival})
    return actions


def test_without_rtc_the_policy_samples_as_it_likes() -> None:
    policy = Constant()
    plain = Sampler(policy, np.random.default_rng(0))
    for _ in range(2):
        assert one(plain, request(T0)).tolist() == [[10.0] * JOINTS] * CHUNK
    assert policy.guided == [False, False]


def test_a_chunk_goes_on_from_the_one_before() -> None:
    policy = Constant()
    of = sampler(policy, schedule="zeros")
    assert one(of, request(T0, cold=True)).tolist() == [[10.0] * JOINTS] * CHUNK
    policy.opinion = 3.0
    second = one(of, request(T0 + 200 * MS))
    # 100 ms of inference and 75 ms of lookahead: 200, 250, 300, 350 and 400 ms are read by then.
    assert second[:, 0].tolist() == [10.0] * 5 + [30.0] * (CHUNK - 5)
    assert policy.guided == [False, True]
    assert of.rtc is not None
    assert of.rtc.counts.delay == of.rtc.counts.consumed == 5
    assert list(of.rtc.counts.prefix_rms) == [0.0]


def test_a_late_beginning_moves_the_predicted_arrival() -> None:
    """A vision stage that took longer than all of the prediction: the chunk comes now at best."""
    of = sampler(Constant())
    one(of, request(T0, cold=True))
    asked = request(T0 + 200 * MS, predicted_ms=10)
    of.sample(None, asked, task=0, t_obs_ns=asked.admitted_ns, now_ns=asked.admitted_ns + 150 * MS)
    of.judged({"verdict": "rejected", "t0_ns": 0, "now_ns": asked.admitted_ns + 160 * MS})
    assert of.rtc is not None
    assert of.rtc.counts.delay == 6


@pytest.mark.parametrize("verdict", ["accepted", "clamped", "rejected"])
def test_only_what_the_queue_took_is_continued(verdict: str) -> None:
    policy = Constant()
    of = sampler(policy, schedule="ones")
    one(of, request(T0, cold=True))
    policy.opinion = 3.0
    assert of.rtc is not None
    one(of, request(T0 + 100 * MS), task="other", verdict=verdict)  # unguided: 30 everywhere
    third = one(of, request(T0 + 300 * MS), task="other" if verdict != "rejected" else 0)
    assert third[0, 0] == (10.0 if verdict == "rejected" else 30.0)
    assert of.rtc.counts.unguided["changed"] == 1


def test_nothing_is_continued_over_a_cold_start_or_an_engagement() -> None:
    policy = Constant()
    of = sampler(policy)
    one(of, request(T0, cold=True))
    one(of, request(T0 + 100 * MS, cold=True))
    one(of, request(T0 + 200 * MS, epoch=2))
    assert policy.guided == [False] * 3
    one(of, request(T0 + 300 * MS, epoch=2))
    assert policy.guided[-1]


def test_an_inference_that_failed_leaves_nothing_behind() -> None:
    policy = Constant()
    of = sampler(policy, schedule="ones")
    one(of, request(T0, cold=True))
    of.judged({"verdict": "accepted", "t0_ns": T0 + 900 * MS, "now_ns": T0 + 900 * MS})  # of no chunk
    assert one(of, request(T0 + 200 * MS))[0, 0] == 10.0


# --- with the real network ------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy(bundles.load(tiny_smolvla.build(tmp_path_factory.mktemp("sampler") / "p.vlad")))


@pytest.mark.parametrize("rung", ["full", "steps:4", "state_only", "state_only+steps:2"])
def test_rtc_works_on_every_rung(policy: Policy, rung: str) -> None:
    """Fewer flow steps and a prefix with only the state refreshed still go on from the old chunk."""
    assert isinstance(policy, GuidablePolicy)
    made = tiny_smolvla.reference()
    state = tiny_smolvla.DEGREES.to_core(made["state_0"])
    tokens = [policy.encode_image(i, made[f"image{i}_0"]) for i in range(2)]
    prefix = policy.prefill(tokens, policy.token_ids(str(made["task_0"])), state)
    rtc = RealTimeChunking(RtcConfig(), period_ns=PERIOD, lookahead_ns=0)
    of = Sampler(policy, np.random.default_rng(3), rtc)
    first = of.sample(prefix, request(T0, cold=True), task=0, t_obs_ns=T0, now_ns=T0)
    of.judged({"verdict": "accepted", "t0_ns": T0, "now_ns": T0})
    took = FULL if rung == "full" else parse_rung(rung)
    moved = state + 0.02
    later = policy.refresh_state(prefix, moved) if "state_only" in rung else policy.prefill(
        tokens, policy.token_ids(str(made["task_0"])), moved
    )  # fmt: skip
    asked = request(T0 + 2 * PERIOD, rung=took, predicted_ms=100)
    guided = of.sample(later, asked, task=0, t_obs_ns=asked.admitted_ns, now_ns=asked.admitted_ns)
    free = Sampler(policy, np.random.default_rng(4)).sample(
        later, asked, task=0, t_obs_ns=asked.admitted_ns, now_ns=asked.admitted_ns
    )
    near, far = (np.abs(chunk[:3] - first[2:5]).max() for chunk in (guided, free))
    assert rtc.counts.guided == 1
    assert near < 0.35 * far
