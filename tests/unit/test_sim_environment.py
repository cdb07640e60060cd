"""The simulated table as a Gymnasium environment: what Gymnasium asks of one, the expert, the judge."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vlad.errors import ConfigError
from vlad.sim.environment import TeaBag
from vlad.sim.expert import FPS
from vlad.sim.start import CLUSTERS, HALF_CELL_M, HELD_OUT, TRAINING, draw_start
from vlad.sim.variation import NONE, Appearance, Variation
from vlad.sim.world import World

IDS = ("vlad/TeaBagInMug-v0", "vlad/TeaBagOnPlate-v0")


@pytest.fixture
def blind() -> Iterator[TeaBag]:
    made = TeaBag(cameras=False)
    yield made
    made.close()


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_own_checker_passes(name: str) -> None:
    env = gymnasium.make(name, width=64, height=48, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Its advice for reinforcement learning; these actions are degrees, as LeRobot has them.
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space.*")
        check_env(env.unwrapped, skip_render_check=True)
    assert env.unwrapped.render().shape == (480, 640, 3)
    env.close()


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    env = TeaBag(cameras=False, render_mode="human")
    env.reset()
    with pytest.raises(ConfigError, match="display"):
        env.render()


def finish(env: TeaBag, offset_m: tuple[float, float] = (0.0, 0.0)) -> float:
    """Let the expert work; the time it took, s, inf if it did not succeed. A miss is corrected once it is seen."""
    expert = env.expert(offset_m)
    closed = False
    while True:
        _, reward, done, over, info = env.step(env.expert_action(expert))
        closed = closed or (env.world.data.qpos[5] < 0.3 and info["time_s"] > 1.0)
        if closed:
            expert.offset_m = np.zeros(2)
        if done or over:
            assert info["is_success"] == done == bool(reward)
            return info["time_s"] if done else math.inf


@pytest.mark.parametrize("task", ["mug", "plate"])
@pytest.mark.parametrize("cluster", range(1, 12))
def test_the_expert_does_the_task_from_every_cluster(task: str, cluster: int) -> None:
    env = TeaBag(task, cluster=cluster, cameras=False)
    for seed in (1, 2):
        env.reset(seed=seed)
        assert finish(env) < 10
    env.close()


def test_after_a_miss_it_goes_back(blind: TeaBag) -> None:
    blind.reset(seed=4, options={"pose": np.array([0.0, -1.05, 1.25, 1.25, 1.62, 0.9])})
    straight = finish(blind)
    blind.reset(seed=4, options={"pose": np.array([0.0, -1.05, 1.25, 1.25, 1.62, 0.9])})
    assert straight < finish(blind, (0.0, 0.06)) < 15


def test_a_bag_that_is_let_go_on_the_way_falls_and_is_fetched_again(blind: TeaBag) -> None:
    blind.reset(seed=4)
    expert, high, fell = blind.expert(), 0.0, False
    for _ in range(15 * FPS):
        action = blind.expert_action(expert)
        height = float(blind.world.data.body("tea_bag").xpos[2])
        if height > 0.06 and not fell:
            action[5] = 60.0
            high = max(high, height)
        fell = fell or (high > 0 and height < 0.02)
        if blind.step(action)[2]:
            break
    assert high > 0.06
    assert fell
    assert blind.task.done(blind.world)


def test_success_needs_open_jaws_and_a_bag_at_rest(blind: TeaBag) -> None:
    blind.reset(seed=1)
    world, task = blind.world, blind.task
    at = int(world.model.joint("tea_bag").qposadr[0])
    world.data.qpos[at : at + 3] = (*world.data.body("mug").xpos[:2], 0.02)
    world.data.qpos[5] = 1.0
    world._mujoco.mj_forward(world.model, world.data)
    assert task.done(world) is True  # Python's own: the simulator's port writes it in JSON
    world.data.qpos[5] = 0.3
    assert task.done(world) is False
    world.data.qpos[5] = 1.0
    world.data.qvel[int(world.model.joint("tea_bag").dofadr[0])] = 0.1
    assert task.done(world) is False
    world.data.qpos[at + 2] = 0.2
    world._mujoco.mj_forward(world.model, world.data)
    assert not task.inside(world)


def test_clusters_do_not_overlap_and_starts_stay_in_their_own() -> None:
    for i, a in enumerate(CLUSTERS):
        for b in CLUSTERS[i + 1 :]:
            assert max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 2 * HALF_CELL_M - 1e-9
    random = np.random.default_rng(0)
    drawn = [draw_start(random) for _ in range(500)]
    assert {start.cluster for start in drawn} == {*TRAINING, HELD_OUT}
    for start in drawn:
        centre = CLUSTERS[start.cluster - 1]
        assert np.abs(np.subtract(start.bag_m, centre)).max() <= HALF_CELL_M
    headings = [start.bag_yaw_rad for start in drawn]
    assert max(headings) - min(headings) > 2.0


def test_the_same_seed_gives_the_same_episode() -> None:
    def run(seed: int) -> bytes:
        env = TeaBag(cameras=False, variation=True)
        env.reset(seed=seed)
        expert = env.expert()
        for _ in range(40):
            seen = env.step(env.expert_action(expert))[0]
        return seen["agent_pos"].tobytes() + env.world.qpos().tobytes()

    assert run(3) == run(3) != run(4)


@pytest.mark.parametrize("what", ["light", "colour", "camera", "friction"])
def test_each_variation_can_be_swept_alone_and_undone(what: str) -> None:
    world = World(0)
    appearance = Appearance(world.model)
    def look() -> np.ndarray:
        world.show(world.qpos())
        return world.render("top", 64, 48).copy()

    plain = look()
    friction = world.model.geom_friction.copy()
    appearance.vary(Variation(**{what: 1.0}), np.random.default_rng(1))
    assert np.array_equal(world.model.geom_friction, friction) == (what != "friction")
    assert np.array_equal(look(), plain) == (what == "friction")
    appearance.vary(NONE, np.random.default_rng(1))
    assert np.array_equal(look(), plain)
    world.close()


def test_units_are_lerobots_and_go_both_ways(blind: TeaBag) -> None:
    angles = np.array([0.5, -1.0, 0.3, 1.0, -2.0, 0.9])
    degrees = blind.to_degrees(angles)
    assert degrees[0] == pytest.approx(math.degrees(0.5) * 4096 / 4095)
    assert degrees[5] == pytest.approx(100 * (0.9 + 0.174533) / 1.919, abs=0.1)
    assert np.allclose(blind.to_rad(degrees), angles)


def test_what_is_not_so_is_refused(blind: TeaBag) -> None:
    with pytest.raises(ConfigError, match="mug, plate"):
        TeaBag("cup")
    with pytest.raises(ConfigError, match="clusters 1 to 11"):
        TeaBag(cluster=12, cameras=False).reset()
    with pytest.raises(ConfigError, match="light"):
        Variation(light=-1)
    blind.reset()
    with pytest.raises(ConfigError, match="finite"):
        blind.step(np.full(6, np.nan, np.float32))
