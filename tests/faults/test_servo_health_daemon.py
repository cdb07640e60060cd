"""Rows of the servos against the whole daemon over the simulated bus, in real time: what the fault
port does to a servo shows in registers, and the real codec reads them. Exact bounds are in
test_servo_health_rows.py and csrc/tests/test_servo_rows.c."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import daemons, simulator
from tests.daemons import ScriptedPolicy, engage, wait_for
from tests.survival import Survival
from vlad.daemon import Daemon
from vlad.errors import Refused

JUMP_TICKS = 400  # 0.6 rad
SETTLE_S = 0.5


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[simulator.Simulator]:
    with simulator.running(tmp_path_factory.mktemp("sim"), "--width", "96", "--height", "96") as s:
        yield s


@pytest.fixture
def daemon(sim: simulator.Simulator, tmp_path: Path) -> Iterator[Daemon]:
    sim.command("clear_all")
    tight = "[arm]\nfollowing_limit_rad = 0.1\n"  # the scripted waves are small
    config = daemons.config_for(sim, tmp_path, edit=lambda text: text.replace("[arm]\n", tight))
    with daemons.running(config, ScriptedPolicy()) as d:
        yield d
    sim.command("clear_all")


def fault(daemon: Daemon, name: str) -> dict[str, object]:
    return next((f for f in daemon.status()["faults"] if f["name"] == name), {})


def since_ms(started: float) -> float:
    return (time.monotonic() - started) * 1e3


def torque(sim: simulator.Simulator) -> list[bool]:
    return list(sim.command("status")["torque"].values())


def test_f21_a_hot_servo_warns_and_then_lets_the_arm_down(
    daemon: Daemon, sim: simulator.Simulator, survival: Survival
) -> None:
    engage(daemon)
    sim.command("heat", id=2, celsius=62)
    wait_for(lambda: fault(daemon, "servo_over_temperature").get("reaction") == "warn", 5)
    assert daemon.status()["mode"] == "engaged"
    started = time.monotonic()
    sim.command("heat", id=2, celsius=70.4)
    wait_for(lambda: daemon.status()["mode"] != "engaged", 5)
    react_ms = since_ms(started)
    wait_for(lambda: not any(torque(sim)), 8, "torque off")
    survival(21, react_ms=react_ms, rest_ms=since_ms(started), clock="machine",
             note="no rest pose: let down")
    assert fault(daemon, "servo_over_temperature")["latched"]
    names = [e["event"] for e in daemon.events.since(0)]
    assert "let_down" in names
    sim.command("heat", id=2, celsius=30)
    wait_for(lambda: not fault(daemon, "servo_over_temperature")["active"], 12)
    daemon.clear()
    engage(daemon)
    limits = [j["torque_limit"] for j in daemon.status()["arm"]["joints"].values()]
    assert limits == [1.0] * 6
    assert all(torque(sim))


def test_f23_a_lying_encoder_loses_its_torque_and_the_others_hold(
    daemon: Daemon, sim: simulator.Simulator, survival: Survival
) -> None:
    engage(daemon)
    started = time.monotonic()
    sim.command("encoder_jump", id=5, ticks=JUMP_TICKS)
    wait_for(lambda: daemon.status()["mode"] in ("stopping", "faulted"), 5)
    react_ms = since_ms(started)
    wait_for(lambda: torque(sim) == [True, True, True, True, False, True], 5)
    survival(23, react_ms=react_ms, clock="machine", note="torque off for the lying joint only")
    joints = daemon.status()["arm"]["joints"]
    assert [j["lying"] for j in joints.values()] == [False] * 4 + [True, False]
    goal = joints["wrist_roll"]["goal"]
    time.sleep(SETTLE_S)
    assert daemon.status()["arm"]["joints"]["wrist_roll"]["goal"] == pytest.approx(goal, abs=0.1)
    way_out = "the encoder of wrist_roll is not believed: support the arm and `vladctl limp` first"
    with pytest.raises(Refused, match=way_out):
        daemon.clear()
    assert any(why.startswith(way_out) for why in daemon.status()["why_not_engageable"])
    daemon.limp()
    wait_for(lambda: not any(torque(sim)), 5)
    assert "a fault is latched: `vladctl clear` first" in daemon.status()["why_not_engageable"]
    wait_for(lambda: not fault(daemon, "servo_encoder")["active"], 5)
    daemon.clear()
    assert daemon.status()["mode"] == "ready"


def test_f44_a_supply_that_is_gone_for_a_moment_is_found_by_its_torque(
    daemon: Daemon, sim: simulator.Simulator, survival: Survival
) -> None:
    engage(daemon)
    started = time.monotonic()
    sim.command("cut_supply")
    sim.command("restore_supply")  # far less than `silent_ms`
    wait_for(lambda: fault(daemon, "servo_supply_lost"), 5)
    survival(44, react_ms=since_ms(started), clock="machine", note="back before silence told")
    goals = sim.command("status")["goals"]
    wait_for(lambda: daemon.status()["bus"]["reopened"] and daemon.status()["arm"]["bus"], 20)
    assert daemon.status()["mode"] == "faulted"
    assert not any(torque(sim)), "torque stays off"
    assert sim.command("status")["goals"] == goals, "nothing was written"


def test_f20_overload_holds_with_less_torque(
    daemon: Daemon, sim: simulator.Simulator, survival: Survival
) -> None:
    engage(daemon)
    started = time.monotonic()
    sim.command("overload", id=3)
    wait_for(lambda: daemon.status()["mode"] != "engaged", 5)
    survival(20, react_ms=since_ms(started), clock="machine")
    wait_for(lambda: daemon.status()["arm"]["joints"]["elbow_flex"]["torque_limit"] == 0.5, 3)
    sim.command("clear_all")
    wait_for(lambda: not fault(daemon, "servo_overload"), 8)
    engage(daemon)
    wait_for(lambda: daemon.status()["arm"]["joints"]["elbow_flex"]["torque_limit"] == 1.0, 3)


def test_f22_a_low_supply_holds(
    daemon: Daemon, sim: simulator.Simulator, survival: Survival
) -> None:
    engage(daemon)
    assert daemon.status()["arm"]["supply_v"] == pytest.approx(12, abs=0.5)
    started = time.monotonic()
    sim.command("voltage", volts=9.8)
    wait_for(lambda: daemon.status()["mode"] != "engaged", 5)
    survival(22, react_ms=since_ms(started), clock="machine")
    assert fault(daemon, "servo_voltage")["reaction"] == "hold"


def test_f14_an_obstacle_in_the_plant_holds(
    daemon: Daemon, sim: simulator.Simulator, survival: Survival
) -> None:
    def wrist() -> int:
        return int(sim.command("status")["ticks"]["4"])

    first = wrist()
    engage(daemon)
    wait_for(lambda: abs(wrist() - first) > 160, 10, "0.25 rad away")
    there = wrist()
    sim.command("obstacle", id=4, ticks=there - 10 if there > first else there + 10)
    # It comes back 0.25 rad: far more than the limit of a joint that pushes.
    wait_for(lambda: "following_error" in [e.get("name") for e in daemon.events.since(0)], 15)
    wait_for(lambda: daemon.status()["mode"] in ("stopping", "holding"), 5)
    wait_for(lambda: daemon.status()["mode"] == "holding", 5)
    joints = daemon.status()["arm"]["joints"]
    blocked = [j for j in joints.values() if j["torque_limit"] == 0.5]
    assert blocked
    assert all(abs(j["goal"] - j["position"]) < 0.1 for j in blocked), "it is not pushed"
    survival(14, clock="machine", note="the plant's own physics: held, and not pushed")
