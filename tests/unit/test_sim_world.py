"""Physics and pictures: determinism, limits, sag, obstacles, supply."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

from vlad.errors import ConfigError
from vlad.sim import software_gl
from vlad.sim.start import CLUSTERS
from vlad.sim.world import CAMERAS, JOINTS, REST_POSE_RAD, World, default_calibration

pytestmark = pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")

STRETCHED = (0.0, 0.0, 0.0, 0.0, 0.0, 0.3)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(5)
    yield made
    made.close()


def move(world: World, pose_rad: tuple[float, ...], seconds: float = 2.0) -> np.ndarray:
    world.set_torque(True)
    world.set_goal_rad(pose_rad)
    world.step(seconds)
    return world.joint_rad()


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[tuple[dict[int, int], bytes]]:
        world = World(seed)
        states = []
        for pose in (STRETCHED, REST_POSE_RAD, (0.5, -0.4, 0.6, 0.7, 1.0, 1.2)):
            move(world, pose, 0.7)
            states.append((world.joint_ticks(), world.qpos().tobytes()))
        return states

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_steps_are_the_same_however_they_are_cut() -> None:
    whole, cut = World(1), World(1)
    whole.step(0.5)
    for _ in range(150):
        cut.step(1 / 300)
    assert whole.qpos().tobytes() == cut.qpos().tobytes()


def test_every_cluster_lies_on_the_table_clear_of_mug_and_plate() -> None:
    world = World(0)
    for cluster in range(1, len(CLUSTERS) + 1):
        world.reset(cluster, cluster=cluster)
        assert world.start.cluster == cluster
        bag = world.data.body("tea_bag").xpos
        assert 0.0 < bag[2] < 0.015, "the tea bag lies on the table"
        for other in ("mug", "plate"):
            assert math.dist(bag[:2], world.data.body(other).xpos[:2]) > 0.08
    chosen = set()
    for seed in range(200):
        world.reset(seed)
        chosen.add(world.start.cluster)
    assert chosen == set(range(1, 12))


def test_joint_zero_is_the_middle_of_the_range_and_ticks_follow_the_calibration() -> None:
    world = World(0)
    world.place((0.0,) * 6)
    for index, (name, servo) in enumerate(zip(JOINTS, world.servos, strict=True)):
        motor = world.calibration[name]
        if name != "gripper":
            middle = (motor.range_min + motor.range_max) / 2
            assert servo.present_ticks == pytest.approx(middle, abs=1)
        assert world.ticks_of(index, 0.1) - world.ticks_of(index, 0.0) in (65, 66)
    world.place((0.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    assert world.servos[5].present_ticks == pytest.approx(
        world.calibration["gripper"].range_min, abs=1
    )


def test_it_sags_under_gravity_with_i_0(world: World) -> None:
    reached = move(world, STRETCHED)
    sag_deg = math.degrees(reached[1])
    assert 0.8 < sag_deg < 4.0
    assert abs(math.degrees(reached[0])) < 0.3, "no gravity around the vertical axis"


def test_without_torque_the_arm_falls(world: World) -> None:
    move(world, STRETCHED)
    high = world.data.site("grasp").xpos[2]
    world.set_torque(False)
    world.step(2.0)
    assert world.data.site("grasp").xpos[2] < high - 0.1


def test_speed_stays_below_the_servos_no_load_speed(world: World) -> None:
    move(world, REST_POSE_RAD)
    world.set_goal_rad((1.5, *REST_POSE_RAD[1:]))
    fastest = 0.0
    for _ in range(400):
        world.step_once()
        fastest = max(fastest, abs(float(world.data.qvel[0])))
    assert 2.0 < fastest < 5.2


def test_an_obstacle_stops_the_joint_and_goes_away(world: World) -> None:
    lifted = (-1.2, 1.2, 1.0, 0.0, 0.0)
    move(world, (0.0, *lifted))
    world.set_obstacle(0, world.ticks_of(0, 0.3))
    blocked = move(world, (0.8, *lifted))
    assert 0.2 < blocked[0] < 0.4
    world.clear_obstacles()
    assert move(world, (0.8, *lifted))[0] == pytest.approx(0.8, abs=0.05)


def test_a_power_cut_drops_the_arm_and_comes_back_limp(world: World) -> None:
    move(world, STRETCHED)
    world.set_power(False)
    world.step(1.5)
    assert world.joint_rad()[1] > 0.3
    world.set_power(True)
    assert not any(servo.torque_enabled for servo in world.servos)
    assert all(abs(s.goal_ticks - s.present_ticks) <= 1 for s in world.servos)


def test_a_calibration_of_another_arm_is_refused() -> None:
    calibration = default_calibration()
    del calibration["wrist_roll"]
    with pytest.raises(ConfigError, match="wrist_roll"):
        World(0, calibration=calibration)


def test_pictures_show_the_scene_and_repeat_exactly(world: World) -> None:
    try:
        software_gl.require()
    except ConfigError as error:
        pytest.skip(str(error))
    move(world, REST_POSE_RAD)
    for camera in CAMERAS:
        picture = world.render(camera, 160, 120)
        assert picture.shape == (120, 160, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 15, f"{camera} shows nothing"
        assert np.array_equal(picture, world.render(camera, 160, 120))
    top = world.render("top", 320, 240).astype(int)
    red, green, blue = top[..., 0], top[..., 1], top[..., 2]
    assert ((red - blue > 120) & (green - blue > 80)).sum() > 800, "the yellow arm"
    assert (blue - red > 50).sum() > 200, "the blue mug"
    assert ((red - green > 100) & (red - blue > 80)).sum() > 15, "the red tag of the tea bag"
    left = world.render("left", 320, 240)
    move(world, (0.6, *REST_POSE_RAD[1:]))
    changed = np.abs(world.render("left", 320, 240).astype(int) - left).max(axis=2) > 40
    assert changed.mean() > 0.02, "a moved arm changes the picture"
    with pytest.raises(ConfigError, match="top, gripper, left"):
        world.render("front")


def test_a_world_that_takes_anothers_state_goes_on_as_it_does() -> None:
    one, other = World(1), World(2)
    one.set_torque(True)
    one.set_goal_rad([0.3, -1.0, 1.0, 0.5, 0.2, 0.8])
    one.step(0.137)
    other.take_state(one)
    for world in (one, other):
        world.step(0.5)
    assert np.array_equal(one.qpos(), other.qpos())
    assert one.joint_ticks() == other.joint_ticks() and one.start == other.start
    one.servos[0].write(40, b"\x00")
    assert other.servos[0].torque_enabled
