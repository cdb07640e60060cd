"""What each rung of the ladder costs and what it does to the chunk, on the shipped policy.

The simulated arm is driven chunk by chunk as in `vlad demo`; every sixth of a second its cameras and
joints are kept. A chunk of a rung is compared with that of a full pass of the same moment from the
same noise, over all 50 actions: rms over actions and joints, and the greatest difference, in rad for
body joints (the gripper's in shares of its range). The yardstick is `other noise`: how far two full
passes of the same moment are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from record_sweep import Recorder
from sweep_motion import FPS, MIDDLE, TASKS

from tools.sweep_bundle import build_bundle
from vlad import bundle as bundles
from vlad.ladder import FULL, parse_rung
from vlad.pass_cost import measure_pass
from vlad.policy import Policy
from vlad.token_cache import change
from vlad.units import RAD_PER_DEGREE_UNIT

SECONDS = 16
EVERY = 5  # steps of the simulation between moments: a sixth of a second
REPLAN, DELAY = 20, 4  # as tests/unit/test_sweep_policy.py
LAGS = (1, 3, 6, 10)  # moments: 0.17, 0.5, 1.0 and 1.67 s, which is N/f
ON_GRID = (5, 2, 1)  # steps that visit only flow times which the shipped network was trained at
OFF_GRID = (6, 4, 3)
NOISE_LEVELS = (0.5, 1.0, 2.0, 4.0)  # standard deviation of a pixel, of 255
TURNS_DEG = (0.05, 0.1, 0.25, 0.5, 1.0)
SHIFTS_MM = (0.5, 1.0, 2.0, 5.0)

Chunk = NDArray[np.float64]


class Moment:
    """What was seen at one time, and the prefix and chunk of a full pass."""

    def __init__(self, policy: Policy, recorder: Recorder, task: int, seed: int) -> None:
        self.task = task
        self.frames = recorder.pictures()
        self.state = to_core(recorder.state())
        self.tokens = [policy.encode_image(k, frame) for k, frame in enumerate(self.frames)]
        self.prefix = policy.prefill(self.tokens, task, self.state)
        self.noise = policy.expert.noise(np.random.default_rng(seed))
        self.chunk = policy.sample(self.prefix, self.noise)


def to_core(goal: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.append(goal[:5] * RAD_PER_DEGREE_UNIT, goal[5] / 100)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    made = Policy(bundles.load(build_bundle(tmp_path_factory.mktemp("bundle"))))
    made.warm_up()
    yield made
    made.close()


@pytest.fixture(scope="module")
def runs(policy: Policy) -> list[list[Moment]]:
    """The moments of a run of each task."""
    recorder, made = Recorder(), []
    noise = np.random.default_rng(0)
    for task in range(len(TASKS)):
        recorder.world.reset(5)
        recorder.settle(MIDDLE)
        moments: list[Moment] = []
        queue: dict[int, NDArray[np.float64]] = {}
        arriving: Chunk = np.zeros((0, 6))
        for now in range(SECONDS * FPS):
            if now % EVERY == 0:
                moments.append(Moment(policy, recorder, task, seed=now))
            if now % REPLAN == 0:
                core = policy.sample(moments[-1].prefix, generator=noise)
                arriving = np.column_stack([core[:, :5] / RAD_PER_DEGREE_UNIT, core[:, 5] * 100])
                queue = queue or dict(enumerate(arriving))
            if now % REPLAN == DELAY:
                for i, action in enumerate(arriving[DELAY:], now):
                    queue[i] = 0.3 * queue.get(i, action) + 0.7 * action
            recorder.send(queue[now])
            recorder.world.step(1 / FPS)
        made.append(moments)
    return made


def effect(pairs: list[tuple[Chunk, Chunk]]) -> dict[str, float]:
    """rms and greatest difference of body joints (rad) and of the gripper (of its range)."""
    off = np.stack([a - b for a, b in pairs])
    body, gripper = off[..., :5], off[..., 5]
    return {
        "rms_rad": float(np.sqrt((body**2).mean())), "max_rad": float(np.abs(body).max()),
        "rms_range": float(np.sqrt((gripper**2).mean())), "max_range": float(np.abs(gripper).max()),
    }  # fmt: skip


def show(figure: Callable[..., None], what: str, found: dict[str, float], remark: str = "") -> None:
    body = f"{found['rms_rad']:.4f} / {found['max_rad']:.3f} rad"
    figure(what, f"{body}, {found['rms_range']:.4f} / {found['max_range']:.3f} of range", remark=remark)


def at_lag(runs: list[list[Moment]], lag: int) -> list[tuple[Moment, Moment]]:
    """(earlier, now) moments of the same run."""
    return [pair for moments in runs for pair in zip(moments, moments[lag:], strict=False)]


def test_other_noise(runs: list[list[Moment]], policy: Policy, benchmark: Any, figure: Callable[..., None]) -> None:
    moments = [m for run in runs for m in run[::4]]
    others = [policy.sample(m.prefix, policy.expert.noise(np.random.default_rng(9000))) for m in moments]
    show(figure, "full, other noise", effect([(m.chunk, o) for m, o in zip(moments, others, strict=True)]))
    benchmark.pedantic(lambda: policy.sample(moments[0].prefix, moments[0].noise), rounds=3)


def test_state_only(runs: list[list[Moment]], policy: Policy, benchmark: Any, figure: Callable[..., None]) -> None:
    same = [(policy.sample(policy.refresh_state(m.prefix, m.state), m.noise), m.chunk) for m in runs[0][::8]]
    exact = effect(same)
    show(figure, "state_only, same images", exact)
    assert max(exact["max_rad"], exact["max_range"]) <= 1e-5
    for lag in LAGS:
        pairs = at_lag(runs, lag)[::2]
        chunks = [policy.sample(policy.refresh_state(old.prefix, m.state), m.noise) for old, m in pairs]
        found = effect([(c, m.chunk) for c, (_, m) in zip(chunks, pairs, strict=True)])
        show(figure, f"state_only, images {lag * EVERY / FPS:.2f} s old", found)
    benchmark.pedantic(lambda: policy.refresh_state(runs[0][0].prefix, runs[0][0].state), rounds=3)


def test_steps(runs: list[list[Moment]], policy: Policy, benchmark: Any, figure: Callable[..., None]) -> None:
    moments = [m for run in runs for m in run[::4]]
    benchmark.pedantic(lambda: policy.sample(moments[0].prefix, moments[0].noise, steps=1), rounds=3)
    last = 0.0
    for steps in (*ON_GRID, *OFF_GRID):
        found = effect([(policy.sample(m.prefix, m.noise, steps=steps), m.chunk) for m in moments])
        trained = "" if steps in ON_GRID else "flow times that the network was never trained at"
        show(figure, f"steps:{steps} of {policy.bundle.manifest.flow.steps}", found, trained)
        if steps in ON_GRID:
            assert found["rms_rad"] > last, "fewer steps must differ more"
            last = found["rms_rad"]


def test_reuse_of_one_camera(
    runs: list[list[Moment]], policy: Policy, benchmark: Any, figure: Callable[..., None]
) -> None:
    """Its tokens from an earlier moment of the motion, the others' from now."""
    chunks, changes = [], []
    for old, m in at_lag(runs, 1)[::3]:
        for k in range(len(m.frames)):
            tokens = [*m.tokens[:k], old.tokens[k], *m.tokens[k + 1 :]]
            chunks.append((policy.sample(policy.prefill(tokens, m.task, m.state), m.noise), m.chunk))
            changes.append(change(old.frames[k], m.frames[k]))
    show(figure, "one camera, 0.17 s old", effect(chunks), f"change {min(changes):.1f} to {max(changes):.0f}")
    frame = runs[0][0].frames[0]
    benchmark.pedantic(lambda: change(frame, frame), rounds=50)
    figure("change() of 320x240", 1e3 * benchmark.stats.stats.median, "ms")


def test_change_by_noise(
    runs: list[list[Moment]], policy: Policy, benchmark: Any, figure: Callable[..., None]
) -> None:
    """Two pictures of a scene that stands still, by the noise of the sensor: what the threshold
    `reuse_change` must let pass."""
    rng = np.random.default_rng(0)

    def noisy(frame: NDArray[np.uint8], level: float) -> NDArray[np.uint8]:
        return np.clip(frame + rng.normal(0, level, frame.shape), 0, 255).round().astype(np.uint8)

    for level in NOISE_LEVELS:
        pairs, changes = [], []
        for m in runs[0][::8]:
            shots = [[noisy(frame, level) for frame in m.frames] for _ in range(2)]
            changes += [change(a, b) for a, b in zip(*shots, strict=True)]
            chunks = []
            for frames in shots:
                tokens = [policy.encode_image(k, frame) for k, frame in enumerate(frames)]
                chunks.append(policy.sample(policy.prefill(tokens, m.task, m.state), m.noise))
            pairs.append((chunks[0], chunks[1]))
        show(figure, f"sensor noise {level:g}", effect(pairs), f"change up to {max(changes):.2f}")
    benchmark.pedantic(lambda: noisy(runs[0][0].frames[0], 1.0), rounds=3)


def test_change_by_motion(benchmark: Any, figure: Callable[..., None]) -> None:
    """What must not pass as unchanged: the change in the camera that shows it best."""
    recorder = Recorder()
    recorder.world.reset(5)
    recorder.settle(MIDDLE)
    here, before = recorder.world.qpos(), recorder.pictures()

    def moved(index: int, by: float) -> float:
        there = here.copy()
        there[index] += by
        recorder.world.show(there)
        return max(change(a, b) for a, b in zip(before, recorder.pictures(), strict=True))

    for degrees in TURNS_DEG:
        least = min(moved(j, np.radians(degrees)) for j in range(6))
        figure(f"a joint turned by {degrees:g} degrees", least, "", "the joint that shows least")
    for name in ("tea_bag", "mug"):
        at = int(recorder.world.model.joint(name).qposadr[0])
        for mm in SHIFTS_MM:
            figure(f"{name} moved by {mm:g} mm", moved(at, mm / 1000))
    benchmark.pedantic(lambda: moved(0, 0.001), rounds=1)


@pytest.mark.parametrize("name", ["full", "reuse", "state_only", "steps:5", "reuse+steps:5", "state_only+steps:5"])
def test_cost(runs: list[list[Moment]], policy: Policy, benchmark: Any, figure: Callable[..., None], name: str) -> None:
    m = runs[0][0]
    rung = FULL if name == "full" else parse_rung(name)
    times = benchmark.pedantic(lambda: measure_pass(policy, list(m.frames), 0, m.state, rung), rounds=1)
    figure(f"{name}, every camera reused where it may be", float(np.median(times)) / 1e6, "ms")
