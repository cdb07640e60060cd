"""Rows of the fault table that the servo loop decides, on a simulated arm and clock: the real C code,
bounds counted in ticks."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import CHUNK, PERIOD_NS, sweep, sweep_policy
from tests.survival import Survival, stop_times
from vlad.faults import BY_NAME
from vlad.scheduler import SchedulerConfig
from vlad.servo import (
    CLEAR,
    ENGAGE,
    HOLD,
    LIMP,
    MS,
    PARK,
    RESUME,
    STAGES,
    JointLimits,
    MemoryArm,
    Servo,
    ServoConfig,
)
from vlad.simulation import Simulation

TICK_NS = 10 * MS
STOP_TICKS = 30  # 300 ms
START_NS = 1_000_000 * MS


def ids(*names: str) -> list[int]:
    return [BY_NAME[name].id for name in names]


@pytest.fixture
def moving(servo_config: ServoConfig, scheduler_config: SchedulerConfig) -> Simulation:
    """An arm engaged and on the move."""
    sim = Simulation(servo_config, scheduler_config, sweep_policy, lambda _: 100 * MS,
                     start_ns=START_NS, pose=tuple(sweep(START_NS)[0]))
    assert sim.engage() == "engaged"
    sim.run(sim.now_ns + 3_000 * MS)
    assert not sim.servo.report()["at_rest"]
    return sim


def speeds_until_rest(sim: Simulation, ticks: int) -> list[np.ndarray]:
    """|goal_k - goal_(k-1)| per joint, tick by tick, over `ticks` ticks."""
    speeds = []
    before = np.array(sim.arm.judge()["goal_nu"])
    for _ in range(ticks):
        sim._advance(sim.now_ns + TICK_NS)
        goal = np.array(sim.arm.judge()["goal_nu"])
        speeds.append(np.abs(goal - before))
        before = goal
    return speeds


def assert_stops(sim: Simulation, within_ticks: int = STOP_TICKS + 1) -> None:
    """Invariant I2: from the first tick on no joint speeds up, and all stand still in time."""
    speeds = speeds_until_rest(sim, within_ticks + 5)
    for slower, faster in zip(speeds[1:], speeds, strict=False):
        assert (slower <= faster).all()
    assert not any(s.any() for s in speeds[within_ticks:])


def tick(sim: Simulation, n: int = 1) -> dict[str, object]:
    sim._advance(sim.now_ns + n * TICK_NS)
    return sim.servo.report()


@pytest.mark.fault(48)
def test_hold_brakes_on_the_next_tick_and_resume_continues(
    moving: Simulation, survival: Survival
) -> None:
    moving.servo.request(HOLD)
    react_ms, rest_ms = stop_times(moving, moving.now_ns)
    survival(48, react_ms=react_ms, rest_ms=rest_ms)
    tick(moving, 3)
    assert moving.servo.report()["mode"] == "holding"
    assert moving.arm.judge()["torque_mask"] == 0b111111
    moving.servo.request(RESUME)
    assert tick(moving)["mode"] == "engaged"


@pytest.mark.fault(48)
def test_limp_is_torque_off_on_the_next_tick(moving: Simulation) -> None:
    moving.servo.request(LIMP)
    report = tick(moving)
    assert moving.arm.judge()["torque_mask"] == 0
    assert report["mode"] == "ready"
    writes = moving.arm.judge()["writes"]
    tick(moving, 50)
    assert moving.arm.judge()["writes"] == writes, "a limp arm gets no goals"


def test_hold_wins_over_engage_in_the_same_tick(moving: Simulation) -> None:
    moving.servo.request(ENGAGE | HOLD | RESUME)
    assert tick(moving)["mode"] == "stopping"


@pytest.mark.fault(15)
@pytest.mark.parametrize("direction", ["read_error", "write_error"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV, errno.EBADF])
def test_f15_bus_errors_latch_and_stop_commanding(
    moving: Simulation, direction: str, number: int, survival: Survival
) -> None:
    writes = moving.arm.judge()["writes"]
    moving.arm.inject(**{direction: number})
    tick(moving)
    react_ms = 10.0 if not moving.servo.report()["bus_up"] else 20.0
    survival(15, react_ms=react_ms, note="EIO, ENODEV, EBADF of a read or a write: nothing more is written")
    report = tick(moving)
    assert report["latched"] == ids("serial_unplugged")
    assert report["mode"] == "faulted"
    assert not report["bus_up"]
    moving.arm.inject(read_error=0, write_error=0)
    tick(moving, 50)
    assert moving.arm.judge()["writes"] <= writes + 1, "nothing is written to a bus that failed"
    # Reopened: adopted, still latched, and motion needs clear and then engage.
    moving.servo.adopt_memory(moving.arm, True, moving.arm.judge()["goal"])
    assert tick(moving, 2)["mode"] == "faulted"
    moving.servo.request(ENGAGE)
    assert tick(moving)["mode"] == "faulted"
    tick(moving, 100)
    moving.servo.request(CLEAR)
    assert tick(moving)["mode"] == "holding"
    moving.servo.request(ENGAGE)
    assert tick(moving)["mode"] == "engaged"


@pytest.mark.fault(16)
def test_f16_a_dropped_write_waits_for_the_wire(moving: Simulation, survival: Survival) -> None:
    moving.arm.inject(drop_writes=1)
    report = tick(moving)
    survival(16, react_ms=10, note="one write dropped: counted, the same goal again one tick later")
    assert report["counters"]["dropped_writes"] == 1
    assert report["mode"] == "engaged"
    tick(moving, 20)
    judge = moving.arm.judge()
    assert all(a <= b for a, b in zip(judge["step_max_nu"], moving.servo.step_limits(), strict=True))


@pytest.mark.fault(16)
def test_f16_three_in_a_row_are_a_dead_bus(moving: Simulation) -> None:
    moving.arm.inject(drop_writes=3)
    report = tick(moving, 4)
    assert ids("serial_unplugged")[0] in report["latched"]


@pytest.mark.fault(17)
def test_f17_five_corrupt_replies_hold(moving: Simulation) -> None:
    moving.arm.inject(corrupt=0b000100)
    assert tick(moving, 4)["mode"] == "engaged"
    report = tick(moving)
    assert report["mode"] == "stopping"
    assert report["active"] == ids("reply_corrupt")
    assert report["counters"]["corrupt"][2] == 5
    moving.arm.inject(corrupt=0)
    tick(moving, STOP_TICKS + 105)
    assert moving.servo.report()["mode"] == "holding"
    assert moving.servo.report()["active"] == []


@pytest.mark.fault(17)
@pytest.mark.fault(18)
def test_f18_ten_corrupt_replies_latch(moving: Simulation, survival: Survival) -> None:
    moving.arm.inject(corrupt=0b111111)
    react_ms, rest_ms = stop_times(moving, moving.now_ns)
    survival(17, react_ms=react_ms, rest_ms=rest_ms)
    survival(18, react_ms=react_ms, rest_ms=rest_ms)
    tick(moving, 3)
    report = moving.servo.report()
    assert report["latched"] == ids("bus_garbage")
    assert report["mode"] == "faulted"


@pytest.mark.fault(19)
def test_f19_a_silent_servo_stops_all_within_50_ms_and_latches(
    moving: Simulation, survival: Survival
) -> None:
    injected_ns = moving.now_ns
    moving.arm.inject(silent=0b010000)
    assert tick(moving, 4)["mode"] == "engaged"
    react_ms, rest_ms = stop_times(moving, injected_ns)
    survival(19, react_ms=react_ms, rest_ms=rest_ms)
    report = moving.servo.report()
    assert report["latched"] == ids("servo_silent")
    assert report["counters"]["missed"][4] >= 5


def test_f44_all_silent_is_a_cut_supply(moving: Simulation, survival: Survival) -> None:
    moving.arm.inject(silent=0b111111)
    react_ms, _ = stop_times(moving, moving.now_ns)
    survival(44, react_ms=react_ms)
    assert moving.servo.report()["latched"] == ids("servo_supply_lost")


@pytest.mark.fault(19)
def test_a_silent_servo_never_costs_more_than_the_read_budget(moving: Simulation) -> None:
    moving.arm.inject(silent=0b010000)
    tick(moving, 20)
    assert moving.servo.report()["bus_us"]["max"] <= 4_000 + 10


@pytest.mark.fault(24)
def test_f24_one_wake_up_50_ms_late_holds(moving: Simulation, survival: Survival) -> None:
    moving.now_ns += 60 * MS
    moving.servo.tick(moving.now_ns, 51 * MS)
    assert moving.servo.report()["mode"] == "stopping"
    assert moving.servo.report()["active"] == ids("servo_deadline_missed")
    _, rest_ms = stop_times(moving, moving.now_ns)
    survival(24, react_ms=0, rest_ms=rest_ms, note="51 ms late: the tick that wakes up brakes")


@pytest.mark.fault(24)
def test_f24_after_skipped_ticks_still_one_step(moving: Simulation) -> None:
    for gap in (2, 5, 3, 4):
        moving.now_ns += gap * TICK_NS
        moving.servo.tick(moving.now_ns, (gap - 1) * TICK_NS)
    judge = moving.arm.judge()
    assert all(a <= b for a, b in zip(judge["step_max_nu"], moving.servo.step_limits(), strict=True))


@pytest.mark.fault(25)
def test_f25_without_real_time_engage_is_refused_unless_allowed(servo_config: ServoConfig) -> None:
    strict = ServoConfig(servo_config.joints, PERIOD_NS, CHUNK)
    servo, arm = Servo(strict, START_NS), MemoryArm([0.0] * 6, START_NS)
    servo.adopt_memory(arm, True, [0.0] * 6)
    servo.simulate(START_NS + 5 * TICK_NS)
    servo.request(ENGAGE)
    servo.simulate(START_NS + 7 * TICK_NS)
    report = servo.report()
    assert report["mode"] == "ready"
    assert report["why_not"] == ["realtime"]
    assert report["counters"]["refused_requests"] == 1
    assert arm.judge()["writes"] == 0


@pytest.mark.fault(26)
@pytest.mark.fault(31)
@pytest.mark.parametrize(("stage", "name"), [
    ("capture", "camera_stalled"), ("vision", "inference_hung"), ("expert", "inference_hung"),
    ("supervisor", "supervisor_hung"),
])
def test_a_missed_heartbeat_holds_within_its_bound(
    moving: Simulation, stage: str, name: str, survival: Survival
) -> None:
    number = STAGES.index(stage)
    last_beat_ns = moving.now_ns
    moving.servo.bound(number, 500 * MS, last_beat_ns)
    moving.run(moving.now_ns + 490 * MS)
    assert moving.servo.report()["mode"] == "engaged"
    assert not moving.servo.report()["active"]
    react_ms, rest_ms = stop_times(moving, last_beat_ns)
    if stage == "supervisor":
        survival(31, react_ms=react_ms, rest_ms=rest_ms)
    assert moving.servo.report()["active"] == ids(name)
    assert not moving.servo.all_fresh(moving.now_ns)
    moving.servo.beat(number, moving.now_ns)
    assert moving.servo.all_fresh(moving.now_ns)


@pytest.mark.fault(26)
def test_f26_a_dead_thread_holds_and_latches(moving: Simulation, survival: Survival) -> None:
    moving.servo.hold_fault(BY_NAME["thread_died"].id, True)
    react_ms, rest_ms = stop_times(moving, moving.now_ns)
    survival(26, react_ms=react_ms, rest_ms=rest_ms)
    assert moving.servo.report()["latched"] == ids("thread_died")
    moving.servo.request(CLEAR)
    assert tick(moving)["latched"] == ids("thread_died"), "still dead: clear does not unlatch"


def push(sim: Simulation, actions: np.ndarray, *, age_ns: int = 50 * MS, frame_age_ns: int = 0,
         cold: bool = False) -> dict[str, object]:
    epoch = sim.servo.queue_view()[2]
    t_obs = (sim.now_ns - age_ns) // PERIOD_NS * PERIOD_NS
    return dict(sim.servo.push(actions, seq=10_000, epoch=epoch, t_obs_ns=t_obs, cold=cold,
                               frame_age_ns=frame_age_ns, now_ns=sim.now_ns))


@pytest.mark.fault(11)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_f11_not_finite_rejects_whole_and_three_latch(
    moving: Simulation, value: float, survival: Survival
) -> None:
    depth = moving.servo.queue_view()[5]
    survival(11, note="one NaN or infinity among 300 values: the whole chunk rejected, naming joint and "
                      "action; the third within 60 s latches")
    for i in range(3):
        actions = sweep_policy(moving.now_ns - 50 * MS, np.zeros(6))
        actions[40, 3] = value
        report = push(moving, actions)
        assert (report["verdict"], report["reason"]) == ("rejected", "not_finite")
        assert (report["joint"], report["action"]) == (3, 40)
        moving.run(moving.now_ns + 1_200 * MS)  # long enough for the warning to clear
        state = moving.servo.report()
        assert (state["latched"] == ids("action_not_finite")) == (i == 2)
    assert depth > 0
    assert moving.servo.report()["mode"] == "faulted"


@pytest.mark.fault(12)
def test_f12_a_little_outside_is_clamped_and_counted(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig
) -> None:
    moving = Simulation(replace(servo_config, aggregate="latest_only"), scheduler_config,
                        sweep_policy, lambda _: 100 * MS, start_ns=START_NS,
                        pose=tuple(sweep(START_NS)[0]))
    assert moving.engage() == "engaged"
    moving.run(moving.now_ns + 3_000 * MS)
    actions = sweep_policy(moving.now_ns // PERIOD_NS * PERIOD_NS, np.zeros(6))
    ramp = np.clip((np.arange(CHUNK) - 8) / 35, 0, 1)
    actions[:, 2] += ramp * (1.9 * 1.01 - actions[-1, 2])
    report = push(moving, actions, age_ns=0)
    assert report["verdict"] == "clamped", report
    assert report["n_clamped"] > 0
    counters = moving.servo.report()["counters"]
    assert counters["clamped_elements"] == report["n_clamped"]
    moving._advance(moving.now_ns + 1_700 * MS)
    assert max(moving.arm.judge()["seen_max"]) <= 1.9


@pytest.mark.fault(12)
def test_f12_beyond_is_rejected_by_name_and_three_in_10_s_hold(
    moving: Simulation, survival: Survival
) -> None:
    survival(12, note="a position beyond limit and clamp: rejected with joint, action, value and bound; "
                      "the third within 10 s holds")
    for i in range(3):
        actions = sweep_policy(moving.now_ns - 50 * MS, np.zeros(6))
        actions[7:, 1] = 2.2
        report = push(moving, actions)
        assert (report["reason"], report["joint"], report["action"]) == ("position", 1, 7)
        assert report["value"] == pytest.approx(2.2)
        assert report["bound"] == pytest.approx(1.9 + 0.02 * 3.8)
        assert (tick(moving)["active"] == ids("action_out_of_limits")) == (i == 2)
    assert moving.servo.report()["mode"] == "stopping"
    assert moving.servo.report()["latched"] == []


@pytest.mark.fault(12)
def test_f12_a_step_faster_than_v_max_is_rejected(moving: Simulation) -> None:
    actions = sweep_policy(moving.now_ns - 50 * MS, np.zeros(6))
    actions[20:, 0] += 0.3
    report = push(moving, actions)
    assert (report["reason"], report["joint"], report["action"]) == ("step", 0, 20)


@pytest.mark.fault(13)
def test_f13_a_jump_is_blended_or_rejected(moving: Simulation, survival: Survival) -> None:
    survival(13, note="0.12 rad away: blended within one step a tick; 0.6 rad away: rejected")
    small = sweep_policy(moving.now_ns - 50 * MS, np.zeros(6))
    small[:, 0] += 0.12
    assert push(moving, small)["verdict"] == "accepted"
    moving._advance(moving.now_ns + 100 * MS)
    far = sweep_policy(moving.now_ns - 50 * MS, np.zeros(6))
    far[:, 0] += 0.6 if far[0, 0] < 0 else -0.6
    report = push(moving, far)
    assert (report["verdict"], report["reason"]) == ("rejected", "jump")
    tick(moving, 30)
    judge = moving.arm.judge()
    assert all(a <= b for a, b in zip(judge["step_max_nu"], moving.servo.step_limits(), strict=True))
    assert moving.servo.report()["counters"]["wire_step"] == 0


@pytest.mark.fault(10)
def test_f10_stale_chunks_are_discarded_and_five_in_a_row_hold(
    moving: Simulation, survival: Survival
) -> None:
    survival(10, note="chunks from 1.8 s ago: discarded at arrival; the fifth in a row holds")
    for i in range(5):
        report = push(moving, sweep_policy(moving.now_ns - 1_800 * MS, np.zeros(6)),
                      age_ns=1_800 * MS)
        assert report["reason"] == "stale"
        assert (tick(moving)["mode"] == "stopping") == (i == 4)
    assert moving.servo.report()["active"] == ids("stale_chunk")


@pytest.mark.fault(10)
def test_f10_an_old_frame_makes_a_chunk_stale(moving: Simulation) -> None:
    report = push(moving, sweep_policy(moving.now_ns - 50 * MS, np.zeros(6)), frame_age_ns=80 * MS)
    assert report["reason"] == "frame_age"


@pytest.mark.fault(9)
def test_f09_a_drained_queue_comes_to_rest_when_its_last_action_is_due(
    moving: Simulation, survival: Survival
) -> None:
    last_due_ns = moving.servo.queue_view()[4]
    assert last_due_ns is not None
    moving._advance(last_due_ns + 2 * TICK_NS)
    report = moving.servo.report()
    assert report["at_rest"]
    assert report["mode"] == "engaged"
    assert moving.arm.judge()["last_motion_ns"] <= last_due_ns + TICK_NS
    late_ms = max(0.0, (moving.arm.judge()["last_motion_ns"] - last_due_ns) / 1e6)
    survival(9, react_ms=0, rest_ms=late_ms, note="at rest, after the last queued action was due; "
                                                  "braking began before")
    assert report["counters"]["starved"]["inference"] + report["counters"]["starved"]["cold"] > 0


@pytest.mark.fault(46)
def test_f46_a_first_chunk_far_from_the_arm_is_refused(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig, survival: Survival
) -> None:
    survival(46, note="a first chunk 1.5 rad away: rejected, the engagement ends, no goal moves")
    sim = Simulation(servo_config, scheduler_config, sweep_policy, lambda _: 50 * MS,
                     start_ns=START_NS, pose=(1.5, 0.0, 0.0, 0.0, 0.0, 0.5))
    assert sim.engage() == "engaged"
    sim.run(sim.now_ns + 200 * MS)
    report = sim.servo.report()
    assert report["active"] == ids("unexpected_initial_pose")
    assert report["mode"] == "holding"
    assert sim.arm.judge()["step_max_nu"] == [0] * 6, "the arm did not move"


def test_engage_from_limp_writes_the_present_pose_before_torque(servo_config: ServoConfig) -> None:
    servo, arm = Servo(servo_config, START_NS), MemoryArm([0.3] * 6, START_NS)
    servo.adopt_memory(arm, False, [0.0] * 6)
    servo.simulate(START_NS + 3 * TICK_NS)
    servo.request(ENGAGE)
    servo.simulate(START_NS + 6 * TICK_NS)
    judge = arm.judge()
    assert judge["torque_mask"] == 0b111111
    assert judge["goal"] == pytest.approx([0.3] * 6, abs=1e-9)
    assert max(abs(p - 0.3) for p in judge["present"]) < 1e-6


def test_an_arm_beyond_its_limits_is_not_engaged(servo_config: ServoConfig) -> None:
    servo, arm = Servo(servo_config, START_NS), MemoryArm([2.2, 0, 0, 0, 0, 0.5], START_NS)
    servo.adopt_memory(arm, False, [0.0] * 6)
    servo.simulate(START_NS + 3 * TICK_NS)
    servo.request(ENGAGE)
    servo.simulate(START_NS + 5 * TICK_NS)
    assert servo.report()["why_not"] == ["limits"]
    assert servo.report()["mode"] == "ready"


def test_park_goes_slowly_to_rest_and_only_there_lets_go(servo_config: ServoConfig) -> None:
    rest = (0.0, -0.4, 0.4, 0.0, 0.0, 0.2)
    joints = tuple(JointLimits(j.min, j.max, j.v_max, j.a_max, j.j_max, j.unit_nu)
                   for j in servo_config.joints)
    config = ServoConfig(joints, PERIOD_NS, CHUNK, rest_pose=rest, allow_non_realtime=True)
    servo, arm = Servo(config, START_NS), MemoryArm([0.3] * 6, START_NS)
    servo.adopt_memory(arm, True, [0.3] * 6)
    servo.simulate(START_NS + 3 * TICK_NS)
    servo.request(PARK)
    servo.simulate(START_NS + 10 * TICK_NS)
    assert servo.report()["parking"]
    servo.request(HOLD)  # an operator may stop it on the way
    servo.simulate(START_NS + 60 * TICK_NS)
    assert servo.report()["mode"] == "holding"
    servo.request(PARK)
    servo.simulate(START_NS + 500 * TICK_NS)
    judge = arm.judge()
    assert judge["goal"] == pytest.approx(rest, abs=1e-9)
    assert judge["torque_mask"] == 0
    slow = [limit // 5 + 1 for limit in servo.step_limits()]
    assert all(a <= b for a, b in zip(judge["step_max_nu"], slow, strict=True))


@pytest.mark.fault(12)
def test_f12_a_policy_of_another_shape_holds_after_three(moving: Simulation) -> None:
    for i in range(3):
        assert push(moving, np.zeros((CHUNK, 5)))["reason"] == "shape"
        assert (tick(moving)["mode"] == "stopping") == (i == 2)


def test_rest_counts_from_a_reading_of_all_joints(moving: Simulation) -> None:
    """A cold chunk observed before the arm came to rest would be rejected as `moved`."""
    servo = moving.servo
    for _ in range(400):  # the queue runs dry, and whenever it does, a joint is silent for three ticks
        if tick(moving)["at_rest"]:
            break
        moving.arm.inject(silent=0b000010 if servo.queue_view()[5] == 0 else 0)
    report = servo.report()
    assert report["at_rest"] and report["mode"] == "engaged"
    assert servo.joint_state()[0] < report["rest_since_ns"]
    assert not servo.queue_view()[3]
    moving.arm.inject(silent=0)
    tick(moving)
    assert servo.queue_view()[3] and servo.joint_state()[0] >= report["rest_since_ns"]


def test_a_pose_that_is_old_in_part_keeps_its_time(moving: Simulation) -> None:
    heard_ns = moving.servo.joint_state()[0]
    moving.arm.inject(silent=0b000010)
    tick(moving, 3)
    assert moving.servo.joint_state()[0] == heard_ns
    moving.arm.inject(silent=0)
    tick(moving)
    assert moving.servo.joint_state()[0] > heard_ns
