"""Fault commands: what each does to the line, and that bad ones are refused by name."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlad.errors import ConfigError
from vlad.sim.feetech_slave import Parser, packet
from vlad.sim.injection import CAMERA_DARK, CAMERA_LIVE, Injection
from vlad.sim.line_faults import LineFaults
from vlad.sim.start import draw_start
from vlad.sim.world import World

pytestmark = pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")
REPLY = packet(3, 0, b"\x10\x08")


@functools.cache
def shared_world() -> World:
    return World(0)


class Rig:
    def __init__(self) -> None:
        self.line = LineFaults(1)
        self.plugs: list[bool] = []
        self.modes: dict[int, int] = {}
        self.injection = Injection(
            shared_world(),
            self.line,
            plug=self.plugs.append,
            camera_mode=self.modes.__setitem__,
            power_cut=lambda: None,
            status=dict,
        )

    def __call__(self, cmd: str, **fields: Any) -> dict[str, Any]:
        return self.injection.apply({"cmd": cmd, **fields})


@pytest.fixture
def rig() -> Any:
    made = Rig()
    yield made
    made("clear_all")


def test_drop_by_count_rate_and_for_good(rig: Rig) -> None:
    rig("drop", id=3, count=2)
    assert [rig.line.on_reply(3, REPLY) for _ in range(3)] == [None, None, REPLY]
    assert rig.line.on_reply(2, REPLY) == REPLY
    rig("drop", rate=0.5)
    lost = sum(rig.line.on_reply(2, REPLY) is None for _ in range(2000))
    assert 850 < lost < 1150
    rig("restore")
    rig("drop", forever=True)
    assert all(rig.line.on_reply(i, REPLY) is None for i in range(1, 7))


def test_corruption_never_leaves_a_valid_reply(rig: Rig) -> None:
    rig("corrupt", forever=True)
    for _ in range(300):
        bad = rig.line.on_reply(3, REPLY)
        assert bad is not None
        assert bad != REPLY
        assert REPLY not in [i.raw for i in Parser().feed(bad, 0)]


def test_silence_ends_with_restore_of_that_id(rig: Rig) -> None:
    rig("silence", id=3)
    assert rig.line.on_reply(3, REPLY) is None
    rig("restore", id=2)
    assert rig.line.on_reply(3, REPLY) is None
    rig("restore", id=3)
    assert rig.line.on_reply(3, REPLY) == REPLY


def test_garbage_comes_once_and_delay_is_kept(rig: Rig) -> None:
    rig("garbage", bytes=40)
    assert len(rig.line.take_garbage()) == 40
    assert rig.line.take_garbage() == b""
    rig("delay", ms=7.5)
    assert rig.line.delay_ns == 7_500_000


def test_servo_faults_reach_the_servo_and_clear_all_ends_them(rig: Rig) -> None:
    world = shared_world()
    rig("heat", id=2, celsius=72)
    rig("voltage", volts=5.0)
    rig("overload", id=6)
    rig("encoder_jump", id=1, ticks=-300)
    rig("obstacle", id=1, ticks=2200)
    rig("camera_dark", camera="left")
    rig("unplug")
    assert world.servo(2).forced_celsius == 72
    assert [servo.forced_volts for servo in world.servos] == [5.0] * 6
    assert world.servo(6).forced_overload
    assert world.servo(1).encoder_jump_ticks == -300
    assert rig.modes == {2: CAMERA_DARK}
    limits = world.model.jnt_range[0].copy()
    rig("clear_all")
    assert world.servo(2).forced_celsius is None
    assert world.servo(1).encoder_jump_ticks == 0
    assert rig.modes == dict.fromkeys(range(3), CAMERA_LIVE)
    assert rig.plugs == [False, True]
    assert (world.model.jnt_range[0] != limits).any()


def test_cut_supply_is_reported_and_restored(rig: Rig) -> None:
    rig("cut_supply")
    assert rig("status")["powered"] is False
    rig("restore_supply")
    status = rig("status")
    assert status["powered"] is True
    assert set(status["ticks"]) == {"1", "2", "3", "4", "5", "6"}
    assert not any(status["torque"].values())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({}, "cmd: missing"),
        ({"cmd": 3}, "cmd: must be a string"),
        ({"cmd": "explode"}, "explode.*there are camera_dark"),
        ({"cmd": "silence"}, "id: missing"),
        ({"cmd": "silence", "id": 9}, r"id 9.*\[1, 2, 3, 4, 5, 6\]"),
        ({"cmd": "silence", "id": True}, "id: must be an integer"),
        ({"cmd": "drop", "count": 0}, "count: must be an integer from 1"),
        ({"cmd": "drop", "count": 1, "rate": 0.5}, "one of count, rate, forever"),
        ({"cmd": "drop", "rate": 1.5}, "rate: must be a number from 0"),
        ({"cmd": "drop", "forever": False}, "forever"),
        ({"cmd": "delay", "ms": float("nan")}, "ms: must be a number"),
        ({"cmd": "delay", "ms": 5, "id": 2}, "unknown field id"),
        ({"cmd": "garbage", "bytes": 10**9}, "bytes: must be an integer"),
        ({"cmd": "camera_stall", "camera": "front"}, "front.*top, gripper, left"),
        ({"cmd": "unplug", "now": 1}, "unknown field now"),
    ],
)
def test_bad_commands_are_refused_by_field(command: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rig().injection.apply(command)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = ["drop", "delay", "silence", "restore", "garbage", "heat", "voltage", "obstacle"]


@given(
    cmd=st.sampled_from(NAMES),
    fields=st.dictionaries(
        st.sampled_from(["id", "count", "rate", "ms", "bytes", "celsius", "volts", "ticks"]), JSON
    ),
)
def test_any_fields_are_taken_or_refused(cmd: str, fields: dict[str, Any]) -> None:
    rig = Rig()
    apply: Callable[[dict[str, Any]], dict[str, Any]] = rig.injection.apply
    try:
        assert json.dumps(apply({"cmd": cmd, **fields})) == "{}"
    except ConfigError as error:
        assert str(error)
    finally:
        rig("clear_all")


def test_reset_puts_objects_and_leaves_the_arm(rig: Rig) -> None:
    world = shared_world()
    pose = world.joint_rad()
    rig("reset", seed=5, cluster=6)
    start = draw_start(np.random.default_rng(5), 6)
    world.step(0.01)
    seen = rig("world")
    assert seen["cluster"] == 6 and seen["done"] == {"mug": False, "plate": False}
    assert seen["objects"]["tea_bag"][:2] == pytest.approx(start.bag_m, abs=1e-3)
    assert seen["objects"]["mug"][:2] == pytest.approx(start.mug_m, abs=1e-3)
    assert len(seen["qpos"]) == world.qpos().size
    assert np.abs(world.joint_rad() - pose).max() < 1e-2
    at = world.model.joint("tea_bag").qposadr[0]
    world.data.qpos[at : at + 3] = (*start.mug_m, 0.02)
    world.data.qpos[5] = 1.0  # jaws open
    world.step(0.3)
    assert rig("world")["done"] == {"mug": True, "plate": False}


@pytest.mark.parametrize("fields", [{}, {"seed": -1}, {"seed": 0, "cluster": 12}, {"seed": 0, "task": "mug"}])
def test_a_bad_reset_is_refused(rig: Rig, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        rig("reset", **fields)
