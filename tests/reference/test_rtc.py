"""Real-time chunking beside LeRobot 0.4.4's own: equal where it is right; where it fails, its
failure is shown on its own code and vlad's answer to the same situation beside it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import tiny_smolvla
from tests.reference.test_smolvla_chunks import LEROBOT_PYTHON, checkpoint
from vlad import bundle as bundles
from vlad.action_queue import ActionQueue, Command, GateConfig, JointLimits
from vlad.policy import Policy
from vlad.rtc import (
    RealTimeChunking,
    RtcConfig,
    Schedule,
    consumed_actions,
    guide,
    hold_last,
    prefix_weights,
)
from vlad.scheduler import LatencyWindow

SCHEDULES: tuple[Schedule, ...] = ("linear", "exp", "zeros", "ones")
PERIOD_NS = 33_333_333
DELAY, HORIZON = 3, 6  # of lerobot_rtc.py
Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """What tests/reference/lerobot_rtc.py computed."""
    data = checkpoint("small-1")
    if not LEROBOT_PYTHON.exists():
        pytest.skip(f"no LeRobot in {LEROBOT_PYTHON.parents[1]}: run `make reference`")
    out = tmp_path_factory.mktemp("rtc") / "rtc.npz"
    script = Path(__file__).with_name("lerobot_rtc.py")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    subprocess.run([LEROBOT_PYTHON, script, data, out], check=True, env={**os.environ, **offline})
    with np.load(out) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    data = checkpoint("small-1")
    path = tmp_path_factory.mktemp("rtc") / "p.vlad"
    return Policy(bundles.load(tiny_smolvla.build(path, data=data)))


# --- equal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_prefix_weights(theirs: Arrays, schedule: Schedule) -> None:
    ours = [prefix_weights(schedule, d, h, 12) for d, h in itertools.product(range(15), range(15))]
    expected = theirs[f"weights_{schedule.upper()}"].reshape(-1, 12)
    assert np.abs(np.stack(ours) - expected).max() <= 2e-7


def test_each_step(theirs: Arrays) -> None:
    weights = prefix_weights("linear", DELAY, HORIZON + 10, 50)
    for step in range(10):
        x, velocity, leftover, expected = (
            theirs[f"step_{name}"][step] for name in ("x", "velocity", "leftover", "guided")
        )
        ours = guide(leftover, weights, 10.0)(x, velocity, 1.0 - step / 10, -0.1)
        assert np.abs(ours - expected).max() <= 2e-5  # of values up to 100


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_whole_chunks(theirs: Arrays, policy: Policy, schedule: Schedule) -> None:
    """Same weights, observation, noise and leftover: the same chunk, all 32 columns of it."""
    made = tiny_smolvla.reference(checkpoint("small-1"))
    tokens = [policy.encode_image(0, made["image0_0"])]
    state = tiny_smolvla.DEGREES.to_core(made["state_0"])
    prefix = policy.prefill(tokens, policy.token_ids(str(made["task_0"])), state)
    total, _ = policy.expert.shape
    leftover = theirs["chunk_leftover"]
    assert np.abs(policy.sample_normalised(prefix, theirs["chunk_noise"])[2:] - leftover).max() <= 1e-4
    weights = prefix_weights(schedule, DELAY, HORIZON, total)
    ours = policy.sample_normalised(
        prefix, theirs["chunk_noise"][::-1].copy(), guidance=guide(hold_last(leftover, total), weights, 10.0)
    )
    expected = theirs[f"chunk_{schedule.upper()}"]
    print(f"{schedule}: max |difference| {np.abs(ours - expected).max():.3g} of {np.abs(expected).max():.3g}")
    assert np.abs(ours - expected).max() <= 1e-4
    assert np.abs(expected[:DELAY] - leftover[:DELAY]).max() < 0.2 < np.abs(expected[-1] - leftover[-1]).max()
    assert theirs[f"correction_is_error_{schedule.upper()}"].all(), "its gradient is the identity"


# --- its failures, and vlad in the same place -----------------------------------------------


def test_a_prefix_filled_with_zeros_pulls_to_the_mean_pose(theirs: Arrays) -> None:
    """After an underrun 0.4.4 hands its sampler no rows, which leaves the chunk alone. Versions
    0.6.0 to 0.6.1 fill them up with zeros to the horizon first: given that, the same sampler forces
    the chunk to the mean of the training data."""
    free = theirs["underrun_free"]
    assert np.array_equal(free, theirs["underrun_empty"])
    pulled = theirs["underrun_zeros"]
    print(f"unguided up to {np.abs(free[:HORIZON]).max():.2f}, filled {np.abs(pulled[:HORIZON]).max():.3f}")
    assert np.abs(pulled[:HORIZON]).max() < 0.05
    assert np.abs(free[:HORIZON]).max() > 2.0


def test_vlad_continues_nothing_after_an_underrun_and_pads_with_the_last(theirs: Arrays) -> None:
    free = theirs["underrun_free"]
    rtc = RealTimeChunking(RtcConfig(), period_ns=PERIOD_NS, lookahead_ns=0)
    rtc.judged("here", None, free, joints=6, arrival_ns=0, t0_ns=0)
    end = len(free) * PERIOD_NS
    assert rtc.plan("here", t_obs_ns=end, arrival_ns=end + PERIOD_NS, cold=True) is None
    assert rtc.plan("here", t_obs_ns=end, arrival_ns=end + PERIOD_NS, cold=False) is None
    short = rtc.plan("here", t_obs_ns=6 * PERIOD_NS, arrival_ns=7 * PERIOD_NS, cold=False)
    assert short is not None
    assert short.left == 2
    assert np.array_equal(short.target[2:], np.tile(free[-1], (6, 1)))
    assert not short.weights[2:].any(), "and nothing is drawn to it"


def test_its_running_maximum_never_forgets_a_slow_inference(theirs: Arrays) -> None:
    assert theirs["latency"][1:].max() == 0.1
    assert theirs["latency_seen"][-1, 0] == 0.7, "after a thousand fast ones"


def test_vlad_forgets_it_within_its_window(theirs: Arrays) -> None:
    window = LatencyWindow(50, 0.95)
    delays = []
    for latency_s in theirs["latency"]:
        window.add(round(latency_s * 1e9))
        delays.append(consumed_actions(0, window.predict_ns(), PERIOD_NS))
    assert delays[0] == 22 + 1
    assert set(delays[50:]) == {4 + 1}


def test_its_wall_clock_delay_skips_actions_nobody_consumed(theirs: Arrays) -> None:
    assert theirs["queue_first"][0] == 21, "the arm stood still all the time"
    steady = theirs["queue_steady"]
    assert set(np.diff(steady).tolist()) == {1.0, 2.0}, "it jumps at every merge"
    assert (np.diff(steady) == 2).sum() == 7


def test_vlad_hands_out_every_action_once() -> None:
    """The same two situations: the first chunk begins with its action 0, and 3.2 periods of
    latency skip and repeat nothing, because an action belongs to a time and not to a count."""
    limits = JointLimits(-10, 10, v_max=2.0)
    queue = ActionQueue(GateConfig((limits,), PERIOD_NS, 30 * PERIOD_NS, 30 * PERIOD_NS), "rtc")
    command = Command(at_rest=True, goal=[0.0])
    now = round(0.7e9)
    numbered = np.arange(30)[:, None] * 0.01
    assert queue.push_chunk(numbered, t_obs_ns=0, now_ns=now, cold=True, command=command).accepted
    t0 = queue.timeline().t0_ns
    assert queue.timeline().actions[0] == 0.0
    asked = t0
    for _ in range(8):
        chunk = numbered + (asked - t0) // PERIOD_NS * 0.01
        arrival = asked + round(3.2 * PERIOD_NS)
        assert queue.push_chunk(chunk, t_obs_ns=asked, now_ns=arrival, command=command).accepted
        line = queue.timeline()
        due = line.t0_ns + PERIOD_NS * np.arange(len(line.actions))
        assert line.actions[:, 0] == pytest.approx((due - t0) / PERIOD_NS * 0.01)
        asked = arrival
