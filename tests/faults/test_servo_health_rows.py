"""Rows that the servos themselves show, on a simulated arm and clock; csrc/tests/test_servo_rows.c has
each of them tick by tick."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import sweep, sweep_policy
from tests.survival import Survival, stop_times
from vlad.faults import BY_NAME
from vlad.scheduler import SchedulerConfig
from vlad.servo import CLEAR, ENGAGE, LIMP, MS, ServoConfig
from vlad.simulation import Simulation

TICK_NS = 10 * MS
START_NS = 1_000_000 * MS
OVERLOAD, ENCODER = 0x20, 0x02
REST = (0.0, -0.4, 0.4, 0.0, 0.0, 0.2)


def arm_on_the_move(config: ServoConfig, scheduler: SchedulerConfig) -> Simulation:
    sim = Simulation(config, scheduler, sweep_policy, lambda _: 100 * MS, start_ns=START_NS,
                     pose=tuple(sweep(START_NS)[0]))
    assert sim.engage() == "engaged"
    sim.run(sim.now_ns + 3_000 * MS)
    assert not sim.servo.report()["at_rest"]
    assert not sim.servo.report()["active"]
    return sim


@pytest.fixture
def moving(servo_config: ServoConfig, scheduler_config: SchedulerConfig) -> Simulation:
    return arm_on_the_move(servo_config, scheduler_config)


def ids(*names: str) -> list[int]:
    return [BY_NAME[name].id for name in names]


def reaction(sim: Simulation, name: str) -> str:
    return str(sim.servo.report()["faults"][BY_NAME[name].id][4])


def run_ms(sim: Simulation, ms: int) -> dict[str, object]:
    sim.run(sim.now_ns + ms * MS)
    return sim.servo.report()


def test_f14_an_obstacle_is_not_pushed(moving: Simulation, survival: Survival) -> None:
    moving.arm.inject(blocked=0b000010, load_permille=[0, 700, 0, 0, 0, 0])
    limit = moving.config.following_limit
    beyond_ns = None
    while not moving.servo.report()["active"]:
        before = moving.arm.judge()["goal"]
        moving.run(moving.now_ns + TICK_NS)
        judge = moving.arm.judge()
        if beyond_ns is None and abs(judge["goal"][1] - judge["present"][1]) > limit:
            beyond_ns = moving.now_ns  # this goal went out too far
        assert moving.now_ns < START_NS + 20_000 * MS
    assert beyond_ns is not None
    assert moving.servo.report()["active"] == ids("following_error")
    judge = moving.arm.judge()
    assert abs(judge["goal"][1] - judge["present"][1]) < abs(before[1] - judge["present"][1])
    react_ms = (moving.now_ns - beyond_ns) / MS
    while moving.arm.judge()["goal"][1] != pytest.approx(judge["present"][1], abs=1e-9):
        moving.run(moving.now_ns + TICK_NS)
    assert moving.now_ns - beyond_ns <= 200 * MS, "the goal is where the joint is"
    while not moving.servo.report()["at_rest"]:
        moving.run(moving.now_ns + TICK_NS)
    survival(14, react_ms=react_ms, rest_ms=(moving.now_ns - beyond_ns) / MS)
    report = run_ms(moving, 300)
    assert report["mode"] == "holding"
    assert moving.arm.judge()["limit_permille"] == [1000, 500, 1000, 1000, 1000, 1000]
    judge = moving.arm.judge()
    assert all(a <= b for a, b in zip(judge["step_max_nu"], moving.servo.step_limits(), strict=True))


def test_f14_a_closed_gripper_may_be_anywhere(moving: Simulation) -> None:
    moving.arm.inject(blocked=0b100000)
    assert run_ms(moving, 4_000)["active"] == []
    assert moving.servo.report()["mode"] == "engaged"


def test_f20_overload_holds_and_three_in_a_minute_let_down(
    moving: Simulation, survival: Survival
) -> None:
    moving.arm.inject(status=[0, OVERLOAD, 0, 0, 0, 0])
    react_ms, rest_ms = stop_times(moving, moving.now_ns)
    survival(20, react_ms=react_ms, rest_ms=rest_ms)
    assert moving.arm.judge()["limit_permille"][1] == 500
    for i in range(2):
        moving.arm.inject(status=[0] * 6)
        assert not run_ms(moving, 2_100)["active"]
        moving.arm.inject(status=[0, OVERLOAD, 0, 0, 0, 0])
        assert run_ms(moving, 20)["latched"] == (ids("servo_overload") if i else [])
    assert run_ms(moving, 20)["letting_down"], "no rest pose: the torque fades"
    assert not run_ms(moving, 2_200)["torque_on"]
    moving.arm.inject(status=[0] * 6)
    run_ms(moving, 2_200)
    moving.servo.request(CLEAR)
    assert run_ms(moving, 20)["mode"] == "ready"
    moving.servo.request(ENGAGE)
    run_ms(moving, 60)
    assert moving.arm.judge()["limit_permille"] == [1000] * 6


def test_f20_the_grippers_overload_only_warns(moving: Simulation) -> None:
    for _ in range(5):
        moving.arm.inject(status=[0, 0, 0, 0, 0, OVERLOAD])
        run_ms(moving, 30)
        assert reaction(moving, "servo_overload") == "warn"
        moving.arm.inject(status=[0] * 6)
        run_ms(moving, 2_100)
    assert moving.servo.report()["mode"] == "engaged"


@pytest.mark.parametrize("rest", [REST, None])
def test_f21_heat_warns_slows_and_parks(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig, survival: Survival,
    rest: tuple[float, ...] | None,
) -> None:
    moving = arm_on_the_move(replace(servo_config, rest_pose=rest, park_permille=400),
                             scheduler_config)
    for celsius, level in ((59, "none"), (60, "warn"), (65, "slow")):
        moving.arm.inject(temperature_c=celsius)
        report = run_ms(moving, 60)
        assert report["mode"] == "engaged"
        assert level == "none" or reaction(moving, "servo_over_temperature") == level
    injected_ns = moving.now_ns
    moving.arm.inject(temperature_c=70)
    while moving.servo.report()["mode"] == "engaged":
        moving.run(moving.now_ns + TICK_NS)
    react_ms = (moving.now_ns - injected_ns) / MS
    assert moving.servo.report()["latched"] == ids("servo_over_temperature")
    while moving.servo.report()["torque_on"]:
        moving.run(moving.now_ns + TICK_NS)
    note = "swept to the rest pose" if rest else "let down: the torque faded"
    survival(21, react_ms=react_ms, rest_ms=(moving.now_ns - injected_ns) / MS, note=note)
    judge = moving.arm.judge()
    assert judge["torque_mask"] == 0
    if rest:
        assert judge["goal"] == pytest.approx(rest, abs=1e-9)
    else:
        assert max(judge["limit_permille"]) <= 10


def test_f22_voltage_off_holds_and_far_off_parks(moving: Simulation, survival: Survival) -> None:
    injected_ns = moving.now_ns
    moving.arm.inject(voltage_mv=6_200)
    react_ms, rest_ms = stop_times(moving, injected_ns)
    survival(22, react_ms=react_ms, rest_ms=rest_ms)
    assert reaction(moving, "servo_voltage") == "hold"
    moving.arm.inject(voltage_mv=5_400)
    report = run_ms(moving, 100)
    assert reaction(moving, "servo_voltage") == "park"
    assert report["letting_down"]


def test_f23_a_jump_holds_and_a_lie_is_limp_alone(moving: Simulation, survival: Survival) -> None:
    injected_ns = moving.now_ns
    moving.arm.inject(offset=[0, 0, 0.5, 0, 0, 0])
    react_ms, rest_ms = stop_times(moving, injected_ns)
    survival(23, react_ms=react_ms, rest_ms=rest_ms, note="the lying joint limp within 120 ms")
    assert moving.servo.report()["latched"] == ids("servo_encoder")
    assert moving.arm.judge()["torque_mask"] == 0b111011, "the others hold"
    assert moving.servo.report()["lying"] == [False, False, True, False, False, False]
    run_ms(moving, 2_000)
    for request in (CLEAR, ENGAGE):
        moving.servo.request(request)
        assert run_ms(moving, 20)["mode"] == "faulted"
    goal = moving.arm.judge()["goal"]
    moving.servo.request(LIMP)
    run_ms(moving, 1_200)
    assert moving.arm.judge()["goal"] == goal, "what it reads was never a command"
    moving.servo.request(CLEAR)
    assert run_ms(moving, 20)["mode"] == "ready"


def test_f23_one_false_reading_latches_and_is_no_lie(moving: Simulation) -> None:
    moving.arm.inject(offset=[0, 0, 0.5, 0, 0, 0])
    run_ms(moving, 10)
    moving.arm.inject(offset=[0] * 6)
    report = run_ms(moving, 500)
    assert report["latched"] == ids("servo_encoder")
    assert moving.arm.judge()["torque_mask"] == 0b111111
    assert not any(report["lying"])


def test_f16_a_servo_that_is_deaf_to_goals_is_found(moving: Simulation, survival: Survival) -> None:
    injected_ns = moving.now_ns
    moving.arm.inject(deaf=0b000001)
    stop_times(moving, injected_ns)
    report = moving.servo.report()
    assert report["active"] == ids("short_write")
    assert report["counters"]["goals_lost"][0] >= 10
    survival(16, note="held after 10 ticks whose goal did not arrive")


def test_f33_a_machine_that_slept_holds_and_latches(moving: Simulation, survival: Survival) -> None:
    injected_ns = moving.now_ns
    moving.servo.slept(3_600_000 * MS)
    react_ms, rest_ms = stop_times(moving, injected_ns)
    survival(33, react_ms=react_ms, rest_ms=rest_ms)
    assert moving.servo.report()["latched"] == ids("suspended")
    assert moving.servo.report()["mode"] == "faulted"
    moving.servo.request(CLEAR)
    assert run_ms(moving, 20)["mode"] == "holding"


def test_f44_servos_that_answer_without_torque_had_no_supply(
    moving: Simulation, survival: Survival
) -> None:
    injected_ns = moving.now_ns
    moving.arm.inject(torque_mask=0)
    writes = None
    while moving.servo.report()["bus_up"]:
        moving.run(moving.now_ns + TICK_NS)
        writes = moving.arm.judge()["writes"]
    survival(44, react_ms=(moving.now_ns - injected_ns) / MS)
    assert moving.servo.report()["latched"] == ids("servo_supply_lost")
    run_ms(moving, 1_000)
    assert moving.arm.judge()["writes"] == writes
    assert moving.arm.judge()["torque_mask"] == 0


def test_f45_a_supply_that_falls_holds_and_then_parks(moving: Simulation, survival: Survival) -> None:
    volts, sagging_ns, held_ns = 7_400, None, None
    while volts > 5_600:
        volts -= 25  # 2.5 V/s
        moving.arm.inject(voltage_mv=volts)
        if volts < 0.925 * 7_400 and sagging_ns is None:
            sagging_ns = moving.now_ns
        report = run_ms(moving, 10)
        if held_ns is None and report["mode"] != "engaged":
            held_ns = moving.now_ns
        if ids("brown_out")[0] in report["latched"]:
            break
    assert sagging_ns is not None
    assert held_ns is not None
    assert volts > 0.75 * 7_400, "parked before the cut-off"
    while moving.servo.report()["torque_on"]:
        moving.run(moving.now_ns + TICK_NS)
    survival(45, react_ms=(held_ns - sagging_ns) / MS, rest_ms=(moving.now_ns - sagging_ns) / MS)


@pytest.mark.fault(17)
def test_a_share_of_lost_replies_warns(moving: Simulation) -> None:
    for i in range(200):
        moving.arm.inject(corrupt=0b000111 if i % 5 == 0 else 0)
        run_ms(moving, 10)
    assert reaction(moving, "reply_corrupt") == "warn"
    assert moving.servo.report()["mode"] == "engaged"


@pytest.mark.fault(24)
def test_overruns_in_a_row_warn_and_a_share_slows(moving: Simulation) -> None:
    for _ in range(3):
        moving.now_ns += 2 * TICK_NS
        moving.servo.tick(moving.now_ns, TICK_NS)
    assert reaction(moving, "servo_deadline_missed") == "warn"
    for i in range(1_000):
        moving.now_ns += TICK_NS * (2 if i % 50 == 0 else 1)
        moving.servo.tick(moving.now_ns, TICK_NS if i % 50 == 0 else 0)
    assert reaction(moving, "servo_deadline_missed") == "slow"
    report = moving.servo.report()
    assert report["counters"]["late_wakes"] >= 20
    step = np.array(moving.arm.judge()["step_max_nu"])
    assert (step <= np.array(moving.servo.step_limits())).all()
