"""vlad._native.servo: the servo loop for Python. Converts and checks; decides nothing.

The shapes, units and meanings are in servo.pyi.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint16_t, uint32_t, uintptr_t
from libc.string cimport memset

from vlad._native.gate_c cimport *
from vlad._native.servo_c cimport *

import errno
import os

import numpy as np

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)
    void free(void *)

cdef extern from "clock.h" nogil:
    int64_t vlad_clock_now_ns()

cdef extern from "feetech_arm.h" nogil:
    struct vlad_feetech_scale:
        pass
    struct vlad_feetech_joint:
        uint8_t id
        uint16_t max_torque_permille
        vlad_feetech_scale scale
    enum:
        VLAD_SERIAL_N_COUNTERS
    enum vlad_serial_counter:
        pass
    struct vlad_serial_bus:
        pass
    const char *vlad_serial_counter_name(vlad_serial_counter)
    uint64_t vlad_serial_count(const vlad_serial_bus *, vlad_serial_counter)
    struct vlad_feetech_arm:
        vlad_serial_bus bus
        uint64_t unencodable_goals
    int vlad_feetech_scale_body(vlad_feetech_scale *, int, int, int)
    int vlad_feetech_scale_gripper(vlad_feetech_scale *, int, int, int)
    int vlad_feetech_arm_init(vlad_feetech_arm *, int, int, const vlad_feetech_joint *, int,
                              int64_t, int64_t)
    void vlad_feetech_arm_adopt(vlad_feetech_arm *, uint32_t)
    const vlad_arm_ops vlad_feetech_arm_ops

ABI = VLAD_ABI
MAX_JOINTS = VLAD_MAX_JOINTS
MAX_ACTIONS = VLAD_MAX_ACTIONS
NU = 1_000_000_000

LIMP, HOLD, PARK, CLEAR, RESUME, ENGAGE = 1, 2, 4, 8, 16, 32
MODES = ("offline", "ready", "holding", "engaged", "stopping", "faulted")
REACTIONS = ("none", "warn", "slow", "hold", "park", "limp")
AGGREGATES = ("weighted_average", "latest_only", "average", "conservative", "rtc", "temporal_ensemble")
STAGES = ("capture", "vision", "expert", "supervisor", "servo")
STARVES = ("cold", "inference", "refused", "late", "stale", "gate", "stage", "sync")
REASONS = tuple(
    vlad_reason_name(<vlad_reason>i).decode() for i in range(VLAD_N_REASONS)
)
EVENTS = ("mode", "fault", "refused", "gap", "wire", "torque", "parked", "let_down")
WHY_NOT = {
    1 << 0: "bus", 1 << 1: "latched", 1 << 2: "fault", 1 << 3: "realtime", 1 << 4: "limits",
    1 << 5: "moving", 1 << 8: "no_policy", 1 << 9: "no_task", 1 << 10: "too_slow",
    1 << 11: "camera", 1 << 12: "mismatch", 1 << 13: "calibration", 1 << 14: "stopping",
    1 << 15: "memory",
}
WHY_BIT = {name: bit for bit, name in WHY_NOT.items()}


def now_ns():
    """CLOCK_MONOTONIC in ns, as the C core reads it."""
    return vlad_clock_now_ns()


cdef dict _histogram(const vlad_histogram *h):
    if h.count == 0:
        return {"count": 0, "min": 0.0, "mean": 0.0, "max": 0.0, "p50": 0.0, "p99": 0.0,
                "p999": 0.0}
    return {
        "count": h.count, "min": h.min_ns / 1e3, "mean": h.sum_ns / h.count / 1e3,
        "max": h.max_ns / 1e3, "p50": vlad_histogram_quantile(h, 0.5) / 1e3,
        "p99": vlad_histogram_quantile(h, 0.99) / 1e3,
        "p999": vlad_histogram_quantile(h, 0.999) / 1e3,
    }


cdef class MemoryArm:
    """The simulated arm of csrc/memory_arm.h."""

    cdef vlad_memory_arm c
    cdef int n

    def __cinit__(self, pose, now_ns=None):
        cdef int64_t start[8]
        if not 1 <= len(pose) <= VLAD_MAX_JOINTS:
            raise ValueError(f"{len(pose)} joints: 1 to {VLAD_MAX_JOINTS} are possible")
        self.n = len(pose)
        read_pose(pose, self.n, start, "pose")
        vlad_memory_arm_init(&self.c, self.n, start,
                             vlad_clock_now_ns() if now_ns is None else now_ns)
        self.c.real_time = now_ns is None

    def inject(self, *, silent=None, corrupt=None, read_error=None, write_error=None,
               drop_writes=None, refuse_torque=None, status=None, temperature_c=None, voltage_mv=None,
               bus_ns=None, present=None, blocked=None, offset=None, load_permille=None,
               deaf=None, drop_limits=None, torque_mask=None):
        if silent is not None:
            self.c.silent = silent
        if corrupt is not None:
            self.c.corrupt = corrupt
        if read_error is not None:
            self.c.read_error = -abs(read_error)
        if write_error is not None:
            self.c.write_error = -abs(write_error)
        if drop_writes is not None:
            self.c.drop_writes = drop_writes
        if refuse_torque is not None:
            self.c.refuse_torque = refuse_torque
        if status is not None:
            for j in range(self.n):
                self.c.status[j] = status[j]
        if temperature_c is not None:
            self.c.temperature_c = temperature_c
        if voltage_mv is not None:
            self.c.voltage_mv = voltage_mv
        if bus_ns is not None:
            self.c.bus_ns = bus_ns
        if present is not None:
            read_pose(present, self.n, self.c.present_nu, "present")
        if blocked is not None:
            self.c.blocked = blocked
        if deaf is not None:
            self.c.deaf = deaf
        if drop_limits is not None:
            self.c.drop_limits = drop_limits
        if torque_mask is not None:
            self.c.torque_mask = torque_mask
        for j in range(self.n):
            if offset is not None:
                self.c.offset_nu[j] = round(offset[j] * NU)
            if load_permille is not None:
                self.c.load_permille[j] = load_permille[j]

    def watch(self, function, watcher):
        self.c.watch = <void (*)(void *) noexcept nogil><uintptr_t>function
        self.c.watcher = <void *><uintptr_t>watcher

    def address(self):
        return <uintptr_t>&self.c

    def judge(self):
        return {
            "writes": self.c.writes, "reads": self.c.reads, "limp_writes": self.c.limp_writes,
            "writers": self.c.writers,
            "step_max_nu": [self.c.step_max_nu[j] for j in range(self.n)],
            "seen_min": [self.c.seen_min_nu[j] / 1e9 for j in range(self.n)],
            "seen_max": [self.c.seen_max_nu[j] / 1e9 for j in range(self.n)],
            "first_write": [self.c.first_write_nu[j] / 1e9 for j in range(self.n)],
            "goal": [self.c.goal_nu[j] / 1e9 for j in range(self.n)],
            "goal_nu": [self.c.goal_nu[j] for j in range(self.n)],
            "present": [self.c.present_nu[j] / 1e9 for j in range(self.n)],
            "last_motion_ns": self.c.last_motion_ns, "torque_mask": self.c.torque_mask,
            "now_ns": self.c.now_ns,
            "limit_permille": [self.c.limit_permille[j] for j in range(self.n)],
        }


cdef void _lower(void *servo, uint32_t requests) noexcept nogil:
    vlad_servo_request(<vlad_servo *>servo, requests)


cdef class Servo:
    cdef vlad_servo *c
    cdef vlad_feetech_arm *feetech  # two: the one in use and the one being prepared
    cdef int feetech_at
    cdef int n
    cdef vlad_aggregate aggregate
    cdef object _arm
    cdef list _kept
    cdef bint _started

    def __cinit__(self):
        cdef size_t size = (sizeof(vlad_servo) + 4095) & ~(<size_t>4095)
        self.c = <vlad_servo *>aligned_alloc(4096, size)
        self.feetech = <vlad_feetech_arm *>PyMem_Malloc(2 * sizeof(vlad_feetech_arm))
        if self.c is NULL or self.feetech is NULL:
            raise MemoryError()
        memset(self.c, 0, size)
        memset(self.feetech, 0, 2 * sizeof(vlad_feetech_arm))

    def __dealloc__(self):
        if self._started:
            with nogil:
                vlad_servo_stop(self.c)
        free(self.c)
        PyMem_Free(self.feetech)

    def __init__(self, config, now_ns=None):
        cdef vlad_servo_config c
        cdef int joint = -1, rc, j
        memset(&c, 0, sizeof(c))
        read_config(config, &c.gate)
        self.n = c.gate.limits.n_joints
        for j, limit in enumerate(config.joints):
            c.unit_nu[j] = limit.unit_nu
        self.aggregate = <vlad_aggregate>(<int>AGGREGATES.index(config.aggregate))
        c.aggregate = self.aggregate
        c.period_ns = config.period_ns
        c.read_budget_ns = config.read_budget_ns
        c.silent_ns = config.silent_ns
        c.overrun_hold_ns = config.overrun_hold_ns
        c.has_rest_pose = config.rest_pose is not None
        if config.rest_pose is not None:
            read_pose(config.rest_pose, self.n, c.rest_nu, "rest_pose")
        c.park_permille = config.park_permille
        c.allow_non_realtime = config.allow_non_realtime
        c.park_c = config.park_c
        c.supply_mv = config.supply_mv
        c.following_nu = round(config.following_limit * NU)
        c.gripper_mask = sum(1 << j for j, limit in enumerate(config.joints) if limit.gripper)
        rc = vlad_servo_init(self.c, &c, vlad_clock_now_ns() if now_ns is None else now_ns, &joint)
        if rc == -errno.ERANGE:
            if joint >= 0:
                raise ValueError(f"joint {joint}: v_max is below one encoder tick per servo period")
            raise ValueError("the velocity, acceleration and jerk limits need more than 300 ms to stop")
        if rc:
            raise ValueError(f"servo configuration refused: {os.strerror(-rc)} (joint {joint})")

    # --- the arm ---

    def adopt_memory(self, MemoryArm arm, torque_on, command):
        cdef int64_t goal[8]
        if arm.n != self.n:
            raise ValueError(f"the arm has {arm.n} joints, the loop {self.n}")
        read_pose(command, self.n, goal, "command")
        self._refuse_two_at_once()
        self._arm = arm
        arm.c.torque_mask = (1 << self.n) - 1 if torque_on else 0
        self._check(vlad_servo_adopt(self.c, &vlad_memory_arm_ops, &arm.c, torque_on, goal))

    def adopt_feetech(self, fd, baud, joints, command_nu, torque_mask, write_budget_ns,
                      read_budget_ns, max_torque_permille):
        cdef vlad_feetech_joint joint[8]
        cdef int64_t goal[8]
        cdef vlad_feetech_arm *arm
        if {len(joints), len(command_nu), len(max_torque_permille)} != {self.n}:
            raise ValueError(f"{len(joints)} joints, {len(command_nu)} goals and "
                             f"{len(max_torque_permille)} torques, {self.n} are wanted")
        self._refuse_two_at_once()
        self.feetech_at ^= 1
        arm = self.feetech + self.feetech_at
        memset(joint, 0, sizeof(joint))
        for j, spec in enumerate(joints):
            joint[j].id = spec.id
            joint[j].max_torque_permille = max_torque_permille[j]
            scale = vlad_feetech_scale_gripper if spec.gripper else vlad_feetech_scale_body
            self._check(scale(&joint[j].scale, spec.calibration.range_min,
                              spec.calibration.range_max, 1))
            goal[j] = command_nu[j]
        self._check(vlad_feetech_arm_init(arm, fd, baud, joint, self.n, read_budget_ns,
                                          write_budget_ns))
        vlad_feetech_arm_adopt(arm, torque_mask)
        self._check(vlad_servo_adopt(self.c, &vlad_feetech_arm_ops, arm,
                                     torque_mask == (1 << self.n) - 1, goal))

    cdef _refuse_two_at_once(self):
        """Before the arm of the one that is not taken yet, or still in use, is touched."""
        if vlad_servo_adopting(self.c):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def bus_counters(self):
        cdef vlad_feetech_arm *arm = self.feetech + self.feetech_at
        counters = {
            vlad_serial_counter_name(<vlad_serial_counter>i).decode():
                vlad_serial_count(&arm.bus, <vlad_serial_counter>i)
            for i in range(VLAD_SERIAL_N_COUNTERS)
        }
        counters["unencodable_goals"] = arm.unencodable_goals
        return counters

    # --- words that cross threads ---

    def request(self, requests):
        vlad_servo_request(self.c, requests)

    def refusals(self, why_not):
        vlad_servo_refusals(self.c, why_not)

    def starve(self, cause):
        vlad_servo_starve(self.c, cause)

    def slept(self, slept_ns):
        vlad_servo_slept(self.c, slept_ns)

    def beat(self, stage, now_ns=None):
        vlad_watchdog_beat(&self.c.watchdog, <vlad_stage>(<int>stage),
                           vlad_clock_now_ns() if now_ns is None else now_ns)

    def bound(self, stage, bound_ns, now_ns=None):
        vlad_watchdog_bound(&self.c.watchdog, <vlad_stage>(<int>stage), bound_ns,
                            vlad_clock_now_ns() if now_ns is None else now_ns)

    def hold_fault(self, fault, condition):
        self.level_fault(fault, "limp" if condition else "none")

    def level_fault(self, fault, level):
        if not 1 <= fault <= VLAD_N_FAULTS:
            raise ValueError(f"no fault {fault}")
        if level not in REACTIONS:
            raise ValueError(f"level {level!r}: one of {', '.join(REACTIONS)} is wanted")
        vlad_watchdog_hold_at(&self.c.watchdog, <vlad_fault>(<int>fault),
                              <vlad_reaction>(<int>REACTIONS.index(level)))

    def pulse_fault(self, fault):
        if not 1 <= fault <= VLAD_N_FAULTS:
            raise ValueError(f"no fault {fault}")
        vlad_watchdog_pulse(&self.c.watchdog, <vlad_fault>(<int>fault))

    def all_fresh(self, now_ns=None):
        return vlad_watchdog_all_fresh(&self.c.watchdog,
                                       vlad_clock_now_ns() if now_ns is None else now_ns)

    def lower_callback_address(self):
        return <uintptr_t>&_lower

    def keep(self, thing):
        """Keeps `thing` alive for as long as the loop, which refers to its memory."""
        if self._kept is None:
            self._kept = []
        self._kept.append(thing)

    def lower_context_address(self):
        return <uintptr_t>self.c

    # --- chunks ---

    def policy_timing(self, period_ns, horizon_ns, max_frame_age_ns, aggregate=None, coefficient=0.0):
        cdef vlad_aggregate merge = self.aggregate
        if aggregate is not None:
            merge = <vlad_aggregate>(<int>AGGREGATES.index(aggregate))
        self._check(vlad_servo_policy_timing(self.c, period_ns, horizon_ns, max_frame_age_ns, merge,
                                             round(coefficient * VLAD_ENSEMBLE_UNIT)))

    def push(self, actions, *, seq, epoch, t_obs_ns, frame_age_ns=0, reuse_age_ns=0, cold=False,
             now_ns=None):
        cdef double[:, ::1] view = np.ascontiguousarray(actions, dtype=np.float64)
        cdef vlad_chunk chunk
        cdef vlad_gate_report report
        cdef int64_t now
        memset(&report, 0, sizeof(report))
        read_chunk(seq, epoch, t_obs_ns, frame_age_ns, reuse_age_ns, cold, &chunk)
        chunk.n_actions = <int>view.shape[0]
        chunk.n_joints = <int>view.shape[1]
        chunk.actions = &view[0, 0] if view.shape[0] and view.shape[1] else NULL
        now = vlad_clock_now_ns() if now_ns is None else now_ns
        with nogil:
            vlad_servo_push(self.c, &chunk, now, &report)
        return {
            "verdict": vlad_verdict_name(report.verdict).decode(),
            "reason": vlad_reason_name(report.reason).decode(),
            "joint": report.joint, "action": report.action, "value": report.value,
            "bound": report.bound, "n_clamped": report.n_clamped,
            "n_tail_dropped": report.n_tail_dropped, "n_blended": report.n_blended,
            "t0_ns": report.t0_ns, "now_ns": now,
        }

    def command(self):
        cdef vlad_command c
        vlad_servo_command(self.c, &c)
        return (c.epoch, bool(c.at_rest), c.rest_since_ns,
                [c.goal_nu[j] / 1e9 for j in range(self.n)])

    # --- what it shows ---

    def step_limits(self):
        return [self.c.trajectory.step_nu[j] for j in range(self.n)]

    @property
    def lookahead_ns(self):
        return self.c.lookahead_ns

    def joint_state(self):
        """(t_ns, answered mask, positions float64[n_joints]) of the newest reading."""
        cdef vlad_servo_report read
        cdef vlad_servo_report *r = &read
        vlad_servo_read(self.c, r)
        out = np.empty(self.n)
        for j in range(self.n):
            out[j] = r.arm.position_nu[j] / 1e9
        return r.arm.t_ns, r.arm.answered, out

    def queue_view(self):
        """(t_ns, mode, epoch or 0, at_rest, last_due_ns or None, depth, t_execution_ns, why_not).

        at_rest: and all joints were read since, so that a chunk observed now is one observed at rest."""
        cdef vlad_servo_report read
        cdef vlad_servo_report *r = &read
        vlad_servo_read(self.c, r)
        engaged = MODES[r.mode] == "engaged"
        empty = not engaged or r.queue_depth == 0
        at_rest = r.at_rest and r.arm.t_ns >= r.rest_since_ns
        return (r.t_ns, MODES[r.mode], r.epoch if engaged else 0, at_rest,
                None if empty else r.last_due_ns, 0 if empty else r.queue_depth,
                0 if empty else r.t_execution_ns, r.why_not)

    def report(self):
        cdef vlad_servo_report read
        cdef vlad_servo_report *r = &read
        cdef vlad_servo_counters *k = &r.counters
        vlad_servo_read(self.c, r)
        n = self.n
        faults = {
            f: (bool(r.active >> f & 1), bool(r.latched >> f & 1), r.fault_since_ns[f],
                r.fault_count[f], REACTIONS[r.fault_reaction[f]])
            for f in range(1, VLAD_N_FAULTS + 1) if r.fault_count[f]
        }
        return {
            "t_ns": r.t_ns, "mode": MODES[r.mode], "reaction": REACTIONS[r.reaction],
            "why_not": [name for bit, name in WHY_NOT.items() if r.why_not & <uint64_t>bit],
            "epoch": r.epoch, "bus_up": bool(r.bus_up), "torque_on": bool(r.torque_on),
            "realtime": bool(r.realtime), "at_rest": bool(r.at_rest), "parking": bool(r.parking),
            "letting_down": bool(r.letting_down), "supply_mv": r.supply_mv,
            "lying": [bool(r.lying >> j & 1) for j in range(n)],
            "limit_permille": [r.limit_permille[j] for j in range(n)],
            "rest_since_ns": r.rest_since_ns, "queue_depth": r.queue_depth,
            "t_execution_ns": r.t_execution_ns, "wire_age_ns": r.wire_age_ns,
            "wire_age_max_ns": r.wire_age_max_ns, "faults": faults,
            "active": [f for f in range(1, VLAD_N_FAULTS + 1) if r.active >> f & 1],
            "latched": [f for f in range(1, VLAD_N_FAULTS + 1) if r.latched >> f & 1],
            "goal": [r.goal_nu[j] / 1e9 for j in range(n)],
            "arm": {
                "t_ns": r.arm.t_ns, "answered": r.arm.answered,
                "position": [r.arm.position_nu[j] / 1e9 for j in range(n)],
                "velocity": [r.arm.velocity_nu_s[j] / 1e9 for j in range(n)],
                "load_permille": [r.arm.load_permille[j] for j in range(n)],
                "voltage_mv": [r.arm.voltage_mv[j] for j in range(n)],
                "temperature_c": [r.arm.temperature_c[j] for j in range(n)],
                "status": [r.arm.status[j] for j in range(n)],
            },
            "counters": {
                "ticks": k.ticks, "overruns": k.overruns, "skipped_periods": k.skipped_periods,
                "writes": k.writes, "dropped_writes": k.dropped_writes,
                "write_errors": k.write_errors, "wire_limit": k.wire_limit,
                "wire_step": k.wire_step, "reads": k.reads, "read_errors": k.read_errors,
                "missed": [k.missed[j] for j in range(n)],
                "corrupt": [k.corrupt[j] for j in range(n)],
                "goals_lost": [k.goals_lost[j] for j in range(n)],
                "encoder_jumps": [k.encoder_jumps[j] for j in range(n)],
                "late_wakes": k.late_wakes, "let_down": k.let_down,
                "chunks": k.chunks, "accepted": k.accepted, "clamped": k.clamped,
                "clamped_elements": k.clamped_elements, "tails_dropped": k.tails_dropped,
                "rejected": {REASONS[i]: k.rejected[i] for i in range(1, VLAD_N_REASONS)},
                "starved": {STARVES[i]: k.starved[i] for i in range(VLAD_N_STARVES)},
                "gaps": k.gaps, "engaged_ticks": k.engaged_ticks,
                "covered_ticks": k.covered_ticks, "negative_ages": k.negative_ages,
                "overdue": k.overdue,
                "events_dropped": k.events_dropped, "engagements": k.engagements,
                "refused_requests": k.refused_requests,
            },
            "wake_us": _histogram(&r.wake), "compute_us": _histogram(&r.compute),
            "bus_us": _histogram(&r.bus), "handled": r.handled, "adoptions": r.adoptions,
        }

    def next_event(self):
        cdef vlad_event e
        if not vlad_servo_next_event(self.c, &e):
            return None
        return (e.t_ns, EVENTS[e.kind], e.a, e.b, e.value)

    # --- running ---

    def tick(self, now_ns, late_ns=0):
        cdef int64_t now = now_ns, late = late_ns
        if self._arm is not None:
            (<MemoryArm>self._arm).c.now_ns = now
        with nogil:
            vlad_servo_tick(self.c, now, late)
        if self._arm is not None and (<MemoryArm>self._arm).c.watch is not NULL:
            (<MemoryArm>self._arm).c.watch((<MemoryArm>self._arm).c.watcher)

    def simulate(self, until_ns):
        cdef int64_t until = until_ns
        cdef MemoryArm arm = self._arm
        if arm is None:
            raise ValueError("adopt_memory() first")
        with nogil:
            vlad_servo_simulate(self.c, &arm.c, until)

    def start(self, priority, cpu=-1):
        cdef char reason[1024]
        cdef int p = priority, on = cpu, rc
        reason[0] = 0
        if self._started:
            raise RuntimeError("the servo loop runs already")
        with nogil:
            rc = vlad_servo_start(self.c, p, on, reason, sizeof(reason))
        self._check(rc)
        self._started = True
        return (<bytes>reason).decode()

    def stop(self):
        if self._started:
            self._started = False
            with nogil:
                vlad_servo_stop(self.c)

    def trim_heap(self):
        cdef char reason[1024]
        with nogil:
            vlad_servo_trim(self.c, reason, sizeof(reason))
        return (<bytes>reason).decode()

    cdef _check(self, int rc):
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))
