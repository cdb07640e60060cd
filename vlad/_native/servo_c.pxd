# The servo loop's C declarations: csrc/servo_loop.h, memory_arm.h, feetech_arm.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from vlad._native.gate_c cimport (
    vlad_aggregate, vlad_chunk, vlad_command, vlad_gate_config, vlad_gate_report, vlad_queue,
    vlad_trajectory,
)

cdef extern from "vlad.h" nogil:
    enum:
        VLAD_ABI

cdef extern from "arm.h" nogil:
    struct vlad_arm_state:
        int64_t t_ns
        uint32_t answered, corrupt
        int64_t position_nu[8]
        int64_t velocity_nu_s[8]
        int32_t load_permille[8]
        int32_t voltage_mv[8]
        int32_t temperature_c[8]
        uint8_t status[8]
        int64_t goal_nu[8]
        uint32_t powered, limited
        int32_t limit_permille[8]
    struct vlad_arm_ops:
        pass

cdef extern from "histogram.h" nogil:
    struct vlad_histogram:
        uint64_t count
        int64_t sum_ns, min_ns, max_ns
    int64_t vlad_histogram_quantile(const vlad_histogram *histogram, double q)

cdef extern from "watchdog.h" nogil:
    enum vlad_stage:
        pass
    enum vlad_fault:
        pass
    enum vlad_reaction:
        pass
    struct vlad_watchdog:
        pass
    void vlad_watchdog_beat(vlad_watchdog *, vlad_stage, int64_t)
    void vlad_watchdog_bound(vlad_watchdog *, vlad_stage, int64_t, int64_t)
    void vlad_watchdog_hold_at(vlad_watchdog *, vlad_fault, vlad_reaction)
    void vlad_watchdog_pulse(vlad_watchdog *, vlad_fault)
    bint vlad_watchdog_all_fresh(vlad_watchdog *, int64_t)

cdef extern from "memory_arm.h" nogil:
    struct vlad_memory_arm:
        int64_t now_ns, bus_ns, last_motion_ns, tracking_ns
        int64_t present_nu[8]
        int64_t goal_nu[8]
        bint torque, real_time
        uint32_t torque_mask, silent, corrupt, blocked, deaf
        int64_t offset_nu[8]
        int32_t limit_permille[8]
        int32_t asked_permille[8]
        int32_t load_permille[8]
        int read_error, write_error, drop_writes, refuse_torque, drop_limits
        uint8_t status[8]
        int32_t temperature_c, voltage_mv
        uint64_t writes, reads, limp_writes, writers
        int64_t step_max_nu[8]
        int64_t first_write_nu[8]
        int64_t seen_min_nu[8]
        int64_t seen_max_nu[8]
        void (*watch)(void *) noexcept
        void *watcher
    const vlad_arm_ops vlad_memory_arm_ops
    void vlad_memory_arm_init(vlad_memory_arm *, int, const int64_t *, int64_t)

cdef extern from "servo_loop.h" nogil:
    enum:
        VLAD_N_STARVES
        VLAD_N_FAULTS
    struct vlad_servo_config:
        vlad_gate_config gate
        vlad_aggregate aggregate
        int64_t period_ns, read_budget_ns
        int64_t unit_nu[8]
        int64_t silent_ns, overrun_hold_ns
        bint has_rest_pose
        int64_t rest_nu[8]
        int park_permille
        bint allow_non_realtime
        int64_t park_c, supply_mv, following_nu
        uint32_t gripper_mask
    struct vlad_event:
        int64_t t_ns, kind, a, b, value
    struct vlad_servo_counters:
        uint64_t ticks, overruns, skipped_periods
        uint64_t writes, dropped_writes, write_errors, wire_limit, wire_step
        uint64_t reads, read_errors
        uint64_t missed[8]
        uint64_t corrupt[8]
        uint64_t goals_lost[8]
        uint64_t encoder_jumps[8]
        uint64_t late_wakes, let_down
        uint64_t chunks, accepted, clamped, clamped_elements, tails_dropped
        uint64_t rejected[12]
        uint64_t starved[8]
        uint64_t gaps, engaged_ticks, covered_ticks, negative_ages, overdue
        uint64_t events_dropped, engagements, refused_requests
    struct vlad_servo_report:
        int64_t t_ns, mode, reaction
        uint64_t why_not, epoch
        int64_t bus_up, torque_on, realtime, at_rest, rest_since_ns, parking, letting_down
        int64_t supply_mv
        uint32_t lying
        int32_t limit_permille[8]
        int64_t queue_depth, t_execution_ns, last_due_ns, wire_age_ns, wire_age_max_ns
        uint64_t active, latched
        int64_t fault_since_ns[51]
        uint64_t fault_count[51]
        uint8_t fault_reaction[51]
        int64_t goal_nu[8]
        vlad_arm_state arm
        vlad_servo_counters counters
        vlad_histogram wake, compute, bus
        uint64_t handled, adoptions
    struct vlad_servo:
        vlad_watchdog watchdog
        vlad_queue queue
        vlad_trajectory trajectory
        int64_t lookahead_ns
    int vlad_servo_init(vlad_servo *, const vlad_servo_config *, int64_t, int *)
    bint vlad_servo_adopting(const vlad_servo *)
    int vlad_servo_adopt(vlad_servo *, const vlad_arm_ops *, void *, bint, const int64_t *)
    void vlad_servo_request(vlad_servo *, uint32_t)
    void vlad_servo_refusals(vlad_servo *, uint32_t)
    void vlad_servo_starve(vlad_servo *, int)
    void vlad_servo_slept(vlad_servo *, int64_t)
    int vlad_servo_policy_timing(vlad_servo *, int64_t, int64_t, int64_t, vlad_aggregate, int64_t)
    void vlad_servo_push(vlad_servo *, const vlad_chunk *, int64_t, vlad_gate_report *)
    void vlad_servo_tick(vlad_servo *, int64_t, int64_t)
    void vlad_servo_read(vlad_servo *, vlad_servo_report *)
    void vlad_servo_command(vlad_servo *, vlad_command *)
    bint vlad_servo_next_event(vlad_servo *, vlad_event *)
    void vlad_servo_simulate(vlad_servo *, vlad_memory_arm *, int64_t)
    int vlad_servo_start(vlad_servo *, int, int, char *, int)
    int vlad_servo_trim(vlad_servo *, char *, int)
    void vlad_servo_stop(vlad_servo *)
