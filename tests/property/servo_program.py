"""Random programs for the servo loop, and the judge of what reaches the wire.

A program is a list of steps: chunks good and bad, requests, faults, injuries of the arm and of the
bus, time. `Run` drives the real C code with it (vlad.servo on a MemoryArm, simulated time) and checks
invariants I1 to I3 after each tick.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from vlad.faults import BY_NAME, FAULTS
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

TICK_NS = 10 * MS
ACTION_NS = 33_333_333
CHUNK = 50
START_NS = 30_000 * ACTION_NS
LOW, HIGH = -1.2, 1.2  # limits of both joints, rad
POSE = (0.1, -0.2)
REST = (-0.3, 0.3)
ALL = 0b11
STOP_TICKS = 31

CONFIG = ServoConfig(
    joints=(JointLimits(LOW, HIGH), JointLimits(LOW, HIGH)),
    action_period_ns=ACTION_NS, chunk_size=CHUNK, rest_pose=REST, allow_non_realtime=True,
    park_c=70, supply_mv=7400,
)  # fmt: skip

CHUNKS = ("good", "cold", "late", "stale", "jump", "beyond", "fast", "nan", "old_epoch", "shape", "future", "old_frame")
Step = tuple[Any, ...]


def _of(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), *arguments)


FAULT_IDS = st.sampled_from([fault.id for fault in FAULTS])
REQUESTS = st.sampled_from([ENGAGE, ENGAGE, ENGAGE, CLEAR, CLEAR, RESUME, HOLD, PARK, LIMP]) | st.integers(1, 63)
JOINTS = st.integers(0, 1)

#: How often, and what.
_WEIGHTED: list[tuple[int, st.SearchStrategy[Step]]] = [
    (6, _of("tick", st.sampled_from([1, 2, 3, 5, 10, 35, 120]))),
    (6, _of("recover")),
    (3, _of("request", REQUESTS)),
    (3, _of("chunk", st.sampled_from(CHUNKS), st.integers(0, 15))),
    (2, _of("drop", st.integers(1, 3))),
    (2, _of("hold", FAULT_IDS)),
    (2, _of("pulse", FAULT_IDS)),
    (2, _of("refuse_torque", st.sampled_from([1, 3, 25]))),
    (2, _of("reopen", st.booleans())),
    (1, _of("release")),
    (1, _of("silent", st.integers(0, ALL))),
    (1, _of("corrupt", st.integers(0, ALL))),
    (1, _of("bus_error", st.sampled_from(("read_error", "write_error")))),
    (1, _of("status", JOINTS, st.sampled_from([1, 2, 4, 8, 32, 255]))),
    (1, _of("heat", st.sampled_from([55, 66, 75]))),
    (1, _of("voltage", st.sampled_from([5000, 6500]))),
    (1, _of("move", JOINTS, st.sampled_from([-1.5, -0.6, 0.02, 0.3, 1.5]))),
    (2, _of("blocked", st.integers(0, ALL))),
    (1, _of("lie", JOINTS, st.sampled_from([-1.0, -0.05, 0.0, 0.4]))),
    (1, _of("drop_limits", st.integers(1, 3))),
    (1, _of("late", st.sampled_from([12, 35, 60, 500, 3_600_000]))),
    (1, _of("stall", st.sampled_from([2, 8, 30, 80]))),
    (1, _of("bound", st.sampled_from(range(len(STAGES) - 1)), st.sampled_from([0, 30, 500]))),
    (1, _of("beat")),
    (1, _of("refusals", st.sampled_from([0, 1 << 8, 1 << 12]))),
    (1, _of("starve", st.integers(0, 7))),
    (1, _of("timing", st.sampled_from([20, 50, 100]))),
]
STEPS = st.sampled_from([step for weight, step in _WEIGHTED for _ in range(weight)]).flatmap(lambda step: step)

#: An arm on the move is what most programs should begin with.
BEGINNINGS = st.sampled_from([
    [("request", ENGAGE), ("tick", 5), ("chunk", "cold", 0), ("tick", 35)],
    [("request", ENGAGE), ("tick", 5), ("chunk", "cold", 0), ("tick", 10)],
    [("request", ENGAGE), ("tick", 2)],
    [],
])  # fmt: skip
PROGRAMS = st.tuples(BEGINNINGS, st.lists(STEPS, min_size=10, max_size=60)).map(
    lambda parts: parts[0] + parts[1]
)


@dataclass(slots=True)
class Run:
    """One program under way. `trace` is what was decided, for comparisons of runs."""

    shift_ns: int = 0
    config: ServoConfig = CONFIG
    arm: MemoryArm = field(init=False)
    servo: Servo = field(init=False)
    now_ns: int = field(init=False)
    trace: list[Any] = field(default_factory=list)
    seq: int = 0
    rate_ns: int = ACTION_NS
    centre: Any = field(default_factory=lambda: np.zeros(2))
    # What the judge knows.
    report: dict[str, Any] = field(init=False)
    wire: dict[str, Any] = field(init=False)
    speed_nu: list[int] = field(default_factory=lambda: [0, 0])
    counted_drops: int = 0
    braking: int = 0
    parking: int = 0
    locked: bool = False  # latched, and not cleared since
    resumable: bool = False

    def __post_init__(self) -> None:
        self.now_ns = START_NS + self.shift_ns
        self.arm = MemoryArm(POSE, self.now_ns)
        self.servo = Servo(self.config, self.now_ns)
        self.servo.adopt_memory(self.arm, True, POSE)
        self.report, self.wire = self.servo.report(), self.arm.judge()
        self.tick(0)
        self.tick(0)

    def run(self, program: list[Step]) -> Run:
        for name, *arguments in program:
            getattr(self, f"do_{name}")(*arguments)
        return self

    # --- steps ---

    def do_tick(self, n: int) -> None:
        for i in range(n):
            if i % 10 == 9 and self.report["mode"] == "engaged" and self.report["queue_depth"] < CHUNK // 2:
                self.do_chunk("good", 1)
            self.tick(0)

    def do_request(self, mask: int) -> None:
        self.tick(mask)

    def do_recover(self) -> None:
        """What an operator does: mend all, wait, clear, engage."""
        self.arm.inject(silent=0, corrupt=0, read_error=0, write_error=0, drop_writes=0, refuse_torque=0,
                        status=[0, 0], temperature_c=30, voltage_mv=7400, bus_ns=0, blocked=0,
                        offset=[0.0, 0.0], drop_limits=0)
        self.do_release()
        for stage in range(len(STAGES)):
            self.servo.bound(stage, 0, self.now_ns)
        self.servo.refusals(0)
        if not self.report["bus_up"]:
            self.do_reopen(True)
        self.do_tick(120)
        self.tick(CLEAR)
        self.tick(ENGAGE)
        self.do_tick(2)
        self.do_chunk("cold", 0)
        self.do_tick(10)

    def do_chunk(self, kind: str, age: int) -> None:
        epoch, at_rest, _, goal = self.servo.command()
        t_obs_ns = self.now_ns // self.rate_ns * self.rate_ns - age * self.rate_ns
        cold = kind == "cold" or (kind == "good" and at_rest)
        # A curve of time through the command in force when the arm last started from rest.
        due_s = (t_obs_ns - self.shift_ns + np.arange(CHUNK)[:, None] * self.rate_ns) / 1e9
        if cold:
            self.centre = np.array(goal) - 0.35 * np.sin(2 * due_s[0])
        actions = np.clip(self.centre + 0.35 * np.sin(2 * due_s), LOW, HIGH)
        if kind == "late":
            t_obs_ns -= CHUNK * self.rate_ns
        elif kind == "stale":
            t_obs_ns -= 20_000 * MS
        elif kind == "future":
            t_obs_ns += 10_000 * MS
        elif kind == "jump":
            actions += np.where(np.array(goal) > 0, -0.7, 0.7)
        elif kind == "beyond":
            actions[CHUNK // 2 :, 1] = 5.0
        elif kind == "fast":
            actions[10:, 0] = -actions[10:, 0] - 0.4
        elif kind == "nan":
            actions[age, 0] = (np.nan, np.inf, -np.inf, 1e300)[age % 4]
        elif kind == "old_epoch":
            epoch = max(0, epoch - 1)
        elif kind == "shape":
            actions = actions[:, :1]
        self.seq += 1
        verdict = self.servo.push(
            actions, seq=self.seq, epoch=epoch, t_obs_ns=max(0, t_obs_ns if not cold else self.now_ns), cold=cold,
            frame_age_ns=500 * MS if kind == "old_frame" else 10 * MS, now_ns=self.now_ns,
        )  # fmt: skip
        if kind in ("nan", "beyond", "shape", "future", "old_frame") or (kind == "stale" and t_obs_ns > 0):
            assert verdict["verdict"] == "rejected", (kind, verdict)
        self.trace.append((verdict["verdict"], verdict["reason"], verdict["joint"], verdict["action"]))

    def do_hold(self, fault: int) -> None:
        self.servo.hold_fault(fault, True)

    def do_release(self) -> None:
        for fault in FAULTS:
            self.servo.hold_fault(fault.id, False)

    def do_pulse(self, fault: int) -> None:
        self.servo.pulse_fault(fault)

    def do_silent(self, mask: int) -> None:
        self.arm.inject(silent=mask)

    def do_corrupt(self, mask: int) -> None:
        self.arm.inject(corrupt=mask)

    def do_drop(self, n: int) -> None:
        self.arm.inject(drop_writes=n)

    def do_refuse_torque(self, n: int) -> None:
        self.arm.inject(refuse_torque=n)

    def do_bus_error(self, which: str) -> None:
        self.arm.inject(**{which: errno.EIO})

    def do_status(self, joint: int, bits: int) -> None:
        self.arm.inject(status=[bits if j == joint else 0 for j in range(2)])

    def do_heat(self, celsius: int) -> None:
        self.arm.inject(temperature_c=celsius)

    def do_voltage(self, mv: int) -> None:
        self.arm.inject(voltage_mv=mv)

    def do_move(self, joint: int, by: float) -> None:
        """By hand, or its encoder lies."""
        pose = list(self.wire["present"])
        pose[joint] += by
        self.arm.inject(present=pose)

    def do_blocked(self, mask: int) -> None:
        self.arm.inject(blocked=mask)

    def do_lie(self, joint: int, by: float) -> None:
        self.arm.inject(offset=[by if j == joint else 0.0 for j in range(2)])

    def do_drop_limits(self, n: int) -> None:
        self.arm.inject(drop_limits=n)

    def do_late(self, ms: int) -> None:
        self.now_ns += ms * MS
        self.tick(0, late_ns=ms * MS)

    def do_stall(self, ms: int) -> None:
        self.arm.inject(bus_ns=ms * MS)
        self.tick(0)
        self.arm.inject(bus_ns=0)
        self.now_ns += ms * MS

    def do_reopen(self, torque_kept: bool) -> None:
        """The supervisor's part: a bus opened anew, with what its servos hold as the command."""
        if self.report["bus_up"]:
            return
        self.arm.inject(read_error=0, write_error=0)
        torque = torque_kept and self.wire["torque_mask"] == ALL
        with suppress(OSError):  # EBUSY: the last one is not taken yet
            self.servo.adopt_memory(self.arm, torque, self.wire["goal"] if torque else self.wire["present"])
        self.wire = self.arm.judge()

    def do_bound(self, stage: int, ms: int) -> None:
        self.servo.bound(stage, ms * MS, self.now_ns)

    def do_beat(self) -> None:
        for stage in range(len(STAGES)):
            self.servo.beat(stage, self.now_ns)

    def do_refusals(self, mask: int) -> None:
        self.servo.refusals(mask)

    def do_starve(self, cause: int) -> None:
        self.servo.starve(cause)

    def do_timing(self, ms: int) -> None:
        self.rate_ns = ms * MS
        self.servo.policy_timing(self.rate_ns, CHUNK * self.rate_ns, 67 * MS)

    def do_back(self, ms: int) -> None:
        self.now_ns = max(self.now_ns - ms * MS, MS)

    # --- one tick, judged ---

    def tick(self, requests: int, late_ns: int = 0) -> None:
        before, wire = self.report, self.wire
        self.now_ns += TICK_NS
        self.servo.request(requests)
        self.servo.tick(self.now_ns, late_ns)
        self.report, self.wire = self.servo.report(), self.arm.judge()
        wrote = self.wire["writes"] - wire["writes"]
        step = [after - was for after, was in zip(self.wire["goal_nu"], wire["goal_nu"], strict=True)]
        powered = wire["torque_mask"] != 0
        assert wrote in (0, 1)
        if wrote:
            self.judge_goal(step, wire)
        elif powered:
            assert step == [0, 0], "the goal in force changed without a write"
        if wrote and powered:
            self.judge_speed(before, wire, step)
        if not powered or self.wire["torque_mask"] == 0 or self.report["adoptions"] != before["adoptions"]:
            self.speed_nu, self.braking, self.parking = [0, 0], 0, 0
        self.judge_authority(requests, before, step if powered else [0, 0])
        self.trace.append((self.report["mode"], self.report["reaction"], tuple(self.report["latched"]),
                           tuple(self.report["active"]), tuple(self.wire["goal_nu"]), self.wire["torque_mask"],
                           self.report["epoch"], tuple(self.report["why_not"])))

    def judge_goal(self, step: list[int], wire: dict[str, Any]) -> None:
        """I1."""
        assert self.wire["limp_writes"] == wire["limp_writes"], "a goal went to a limp arm"
        for j, limit in enumerate(self.servo.step_limits()):
            goal, was = self.wire["goal_nu"][j], wire["goal_nu"][j]
            assert abs(step[j]) <= limit, f"joint {j}: {step[j]} nu in one tick, {limit} allowed"
            low, high = round(LOW * 1e9), round(HIGH * 1e9)
            assert min(low, was) <= goal <= max(high, was), f"joint {j}: goal {goal} outside its limits"

    def judge_speed(self, before: dict[str, Any], wire: dict[str, Any], step: list[int]) -> None:
        """I2: braking, no joint speeds up or turns back, and all stand within 300 ms of writes."""
        report = self.report
        dropped = before["counters"]["dropped_writes"] != self.counted_drops
        self.counted_drops = report["counters"]["dropped_writes"]
        stopping = report["mode"] in ("stopping", "holding", "faulted")
        stopping |= REACTION[report["reaction"]] >= REACTION["hold"]
        if stopping and not report["parking"] and not before["parking"]:
            yields = FOLLOWING in report["active"]  # row 14: the goal goes back to where the arm is
            for j, (now, was) in enumerate(zip(step, self.speed_nu, strict=True)):
                if dropped or (yields and now * (wire["present"][j] * 1e9 - wire["goal_nu"][j]) >= 0):
                    continue
                assert now * was >= 0, f"joint {j} turns back while stopping: {was} -> {now} nu per tick"
                assert abs(now) <= abs(was), f"joint {j} speeds up while stopping: {was} -> {now}"
            self.braking = 0 if yields else self.braking + 1
            assert self.braking <= STOP_TICKS + 1 or step == [0, 0], "not at rest after 300 ms"
        else:
            self.braking = 0
        if report["parking"] and before["parking"] and not dropped:
            self.parking += 1
            for j, limit in enumerate(self.servo.step_limits()):
                slow = limit * self.config.park_permille // 1000 + 2
                assert self.parking <= STOP_TICKS or abs(step[j]) <= slow, f"joint {j} parks at {step[j]} nu per tick"
        else:
            self.parking = 0
        self.speed_nu = step

    def judge_authority(self, requests: int, before: dict[str, Any], step: list[int]) -> None:
        """I3, and who may drive."""
        report = self.report
        engaged = report["epoch"] != before["epoch"]
        if report["mode"] == "engaged":
            assert not report["latched"]
            assert REACTION[report["reaction"]] < REACTION["hold"]
            assert not requests & (HOLD | LIMP)
        if engaged:
            assert report["epoch"] == before["epoch"] + 1
            assert not self.locked, "engaged after a latched fault without clear"
            assert requests & ENGAGE or (requests & RESUME and self.resumable)
            assert before["mode"] in ("ready", "holding")
            self.resumable = True
        if report["latched"]:
            self.locked, self.resumable = True, False
        elif requests & CLEAR:
            self.locked = False
        if self.locked:
            assert report["latched"], "unlatched without clear"
            if report["mode"] == "faulted" == before["mode"]:
                assert step == [0, 0], "a faulted arm moves"
        if not report["bus_up"]:
            self.resumable = False
            assert report["mode"] in ("offline", "faulted")


FOLLOWING = BY_NAME["following_error"].id
REACTION = {name: i for i, name in enumerate(("none", "warn", "slow", "hold", "park", "limp"))}
