"""What happens where one chunk follows another, for every aggregate. docs/seams.md has the figures.

    python -m pytest bench/test_seams.py

Simulated time: the figures depend on the seeds and not on the machine. Writes build/seams.png and
build/seams.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.seam_figures import figures, response_s, text
from bench.seam_picture import draw
from bench.seam_plants import JOINTS, ROOT, SweepArm, TwoWays, shipped_policy
from bench.seams import Run, SeamLoop
from vlad.config import load
from vlad.daemon import servo_config
from vlad.rtc import RtcConfig, guide, prefix_weights
from vlad.servo import AGGREGATES, ServoConfig

APART = 0.3  # rad between the two ways: 3.6 of the largest steps
SWEEP = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
NOISY_S, SHIPPED_S, MOVED_S = 120.0, 60.0, 600.0
LEROBOT = "rtc, LeRobot's settings"
CASES: dict[str, RtcConfig | None] = {
    **dict.fromkeys(AGGREGATES), "rtc": RtcConfig(), LEROBOT: RtcConfig(10, "linear", 10.0)
}  # fmt: skip
Runs = dict[str, Run]
Rejected = dict[str, list[tuple[float, float, bool]]]
OUT = ROOT / "build"


def config(case: str) -> ServoConfig:
    """The simulated SO-101's limits, as the daemon reads them."""
    read = servo_config(load(ROOT / "configs/so101-sim.toml", machine=False))
    return replace(read, aggregate=case.partition(",")[0], allow_non_realtime=True)


def noisy(case: str, apart: float, seconds: float, **plant: Any) -> Run:
    return SeamLoop(TwoWays(apart, **plant), config(case), rtc=CASES[case]).run(case, seconds)


@pytest.fixture(scope="module")
def noisy_runs() -> Runs:
    return {case: noisy(case, APART, NOISY_S) for case in CASES}


@pytest.fixture(scope="module")
def shipped_runs() -> Runs:
    policy = shipped_policy()
    runs = {}
    for case, rtc in CASES.items():
        arm = SweepArm(policy)
        runs[case] = SeamLoop(arm, config(case), rtc=rtc).run(case, SHIPPED_S)
        arm.close()
    policy.close()
    return runs


@pytest.fixture(scope="module")
def rejected() -> Rejected:
    """By case: over how far the ways are apart, the share of chunks rejected for a jump or a step,
    and whether a fault held the arm for it."""
    shares: Rejected = {}
    for case in CASES:
        for apart in SWEEP:
            line = figures(noisy(case, apart, NOISY_S))
            shares.setdefault(case, []).append((apart, line["jump"] + line["step"], bool(line["held"])))
    return shares


@pytest.fixture(scope="module")
def results() -> Any:
    """Written to build/seams.json when the module is done."""
    made: dict[str, Any] = {}
    yield made
    OUT.mkdir(exist_ok=True)
    (OUT / "seams.json").write_text(json.dumps(made, indent=1) + "\n")


@pytest.fixture(autouse=True)
def cost_of_a_guided_step(benchmark: Any) -> None:
    """The benchmark proper: what guidance adds to one flow step of a chunk of 50 x 32."""
    random = np.random.default_rng(0)
    x, velocity, target = random.standard_normal((3, 50, 32)).astype(np.float32)
    steer = guide(target, prefix_weights("exp", 17, 40, 50), 10.0)
    benchmark.pedantic(steer, (x, velocity, 0.5, -0.1), rounds=200, iterations=5)


def table(runs: Runs, figure: Callable[..., None]) -> dict[str, dict[str, float]]:
    lines = {case: figures(run) for case, run in runs.items()}
    for case, line in lines.items():
        figure(case, text(line))
    return lines


def test_an_undecided_policy(noisy_runs: Runs, figure: Any, judge: Any, results: Any) -> None:
    lines = results["noisy"] = table(noisy_runs, figure)
    judge("seam_noisy", lines["weighted_average"]["velocity_p95"] / lines["rtc"]["velocity_p95"])
    assert lines["rtc"]["jump"] == lines["rtc"]["step"] == 0.0
    assert lines["rtc"]["apart_p95"] < 0.2
    assert lines["weighted_average"]["apart_p95"] > 1.0


def test_the_shipped_policy(shipped_runs: Runs, figure: Any, judge: Any, results: Any) -> None:
    lines = results["shipped"] = table(shipped_runs, figure)
    judge("seam_shipped", lines["weighted_average"]["velocity_p95"] / lines["rtc"]["velocity_p95"])
    from sweep_motion import TASKS

    law = TASKS[0]
    for case, run in shipped_runs.items():
        goals = np.column_stack([np.degrees(run.goals[:, :5]), 100 * run.goals[:, 5]])[800:]
        turns = np.ptp(np.unwrap(law.phase(goals))) / 2 / np.pi * law.period_s / len(goals) * 100
        off = float(np.sqrt(np.square(goals - law.cycle(law.phase(goals))).mean(axis=0)).max())
        figure(f"{case}: off the cycle", off, "deg", f"{turns:.2f} of the turns")
        lines[case] |= {"off_deg": off, "turns": turns}
        assert off < 2.0
        assert 0.8 < turns < 1.25


def test_who_rejects(rejected: Rejected, figure: Any, results: Any) -> None:
    results["rejected"] = rejected
    for case, points in rejected.items():
        figure(case, "  ".join(f"{apart:.1f}: {share:.0%}{' HELD' * held}" for apart, share, held in points))
    assert all(share == 0.0 and not held for _, share, held in rejected["rtc"])
    assert max(share for _, share, _ in rejected["weighted_average"]) > 0.2


def test_a_target_that_moves(figure: Any, judge: Any, results: Any) -> None:
    """Smoothness must not be bought with deafness."""
    size, moved = 0.2, np.zeros(JOINTS)
    moved[0] = size
    half = {}
    for case, rtc in CASES.items():
        plant = TwoWays(0.0, moved=moved)
        loop = SeamLoop(plant, config(case), rtc=rtc)
        begun = plant.now_s
        run = loop.run(case, MOVED_S)
        t = begun + (np.arange(len(run.goals)) + 1) * run.period_ns / 1e9
        wanted = np.array([plant.circle(at)[0] for at in t])
        shifts = [k * plant.every_s - begun for k in range(1, int(MOVED_S / plant.every_s))]
        half[case] = response_s(run, wanted, shifts, size)
        figure(f"{case}: half way after", half[case], "s")
    results["response_s"] = half
    judge("seam_response", half["rtc"] / half["weighted_average"])


def test_the_picture(noisy_runs: Runs, shipped_runs: Runs, rejected: Any, figure: Any) -> None:
    path = OUT / "seams.png"
    draw(path, noisy_runs, shipped_runs, rejected, (20.0, 30.0))
    assert 10_000 < path.stat().st_size < 300_000
    figure("picture", str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def test_the_goals_follow_what_was_read() -> None:
    """The second queue, from which the figures come, says what the servo loop's own one does: the
    trajectory has no lag, so on a calm motion the goals lie on the actions."""
    run = noisy("rtc", 0.0, 20.0, jitter=0.0)
    t = run.t0_ns + (1 + np.arange(len(run.goals))) * run.period_ns
    due = run.first_ns + np.arange(len(run.actions)) * run.action_ns
    calm = (t > run.t0_ns + 5_000_000_000) & (t < due[-1] - 1_000_000_000)
    read = np.column_stack([np.interp(t[calm], due, column) for column in run.actions.T])
    assert calm.sum() > 1000
    assert np.ptp(read[:, 0]) > 0.5
    assert np.abs(run.goals[calm] - read).max() < 0.002
