# C declarations of the gate, queue, trajectory and watchdog, and how Python values become them.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "vlad.h" nogil:
    enum:
        VLAD_MAX_JOINTS
        VLAD_MAX_ACTIONS
        VLAD_MAX_TIMELINE
    struct vlad_joint_limits:
        int64_t min_nu, max_nu, v_max_nu_s, a_max_nu_s2, j_max_nu_s3
    struct vlad_limits:
        int n_joints
        vlad_joint_limits joint[8]

cdef extern from "gate.h" nogil:
    enum:
        VLAD_N_REASONS
    enum vlad_verdict:
        VLAD_REJECTED
    enum vlad_reason:
        pass
    struct vlad_gate_config:
        vlad_limits limits
        int64_t period_ns, clamp_permille
        int64_t max_observation_age_ns, max_cold_age_ns, max_frame_age_ns, max_reuse_age_ns
        int64_t max_jump_nu, blend_ns
    struct vlad_chunk:
        uint64_t seq, epoch
        int64_t t_obs_ns, frame_age_ns, reuse_age_ns
        bint cold
        int n_actions, n_joints
        const double *actions
    struct vlad_gate_report:
        vlad_verdict verdict
        vlad_reason reason
        int joint, action
        double value, bound
        int n_clamped, n_elapsed, n_tail_dropped, n_blended
        int64_t t0_ns
    struct vlad_command:
        uint64_t epoch
        bint at_rest
        int64_t rest_since_ns
        int64_t goal_nu[8]
    int vlad_gate_check_config(const vlad_gate_config *)
    void vlad_gate_report_clear(vlad_gate_report *)
    bint vlad_gate_time(const vlad_gate_config *, const vlad_chunk *, const vlad_command *, int64_t,
                        int64_t, vlad_gate_report *)
    bint vlad_gate_chunk(const vlad_gate_config *, const vlad_chunk *, int64_t (*)[8],
                         vlad_gate_report *)
    bint vlad_gate_steps(const vlad_gate_config *, const int64_t *, const int64_t (*)[8], int,
                         int64_t, vlad_gate_report *)
    int64_t vlad_gate_step_nu(const vlad_gate_config *, int)
    const char *vlad_reason_name(vlad_reason)
    const char *vlad_verdict_name(vlad_verdict)

cdef extern from "action_queue.h" nogil:
    enum vlad_aggregate:
        VLAD_N_AGGREGATES
    struct vlad_timeline:
        uint64_t number, seq, epoch
        int64_t t0_ns, period_ns, overdue_ns
        int n
        int64_t action_nu[512][8]
        int64_t t_obs_ns[512]
        int64_t opinions[512]
    struct vlad_queue:
        vlad_timeline buffer[3]
        uint32_t newest
    int VLAD_ENSEMBLE_UNIT
    int vlad_queue_init(vlad_queue *, const vlad_gate_config *, vlad_aggregate, int64_t)
    int vlad_queue_set_aggregate(vlad_queue *, vlad_aggregate, int64_t)
    void vlad_queue_push(vlad_queue *, const vlad_chunk *, const vlad_command *, int64_t,
                         vlad_gate_report *)
    void vlad_queue_clear(vlad_queue *)
    int64_t vlad_queue_last_due_ns(const vlad_queue *, uint64_t)
    int vlad_queue_depth(const vlad_queue *, uint64_t, int64_t)
    const vlad_timeline *vlad_queue_newest(vlad_queue *)
    bint vlad_timeline_at(const vlad_timeline *, int, int64_t, int64_t *)

cdef extern from "trajectory.h" nogil:
    struct vlad_trajectory:
        int n_joints, n1, n2
        int64_t step_nu[8]
        int64_t goal_nu[8]
        int64_t velocity_nu[8]
        bint stopping
    int vlad_trajectory_init(vlad_trajectory *, const vlad_limits *, const int64_t *, int64_t,
                             int *)
    void vlad_trajectory_reset(vlad_trajectory *, const int64_t *)
    void vlad_trajectory_advance(vlad_trajectory *, const int64_t *, int)
    bint vlad_trajectory_stop(vlad_trajectory *)
    bint vlad_trajectory_at_rest(const vlad_trajectory *)
    int64_t vlad_trajectory_lookahead_ns(const vlad_trajectory *, int64_t)
    int64_t vlad_trajectory_stop_ns(const vlad_trajectory *, int64_t)


# Units to nano-units. `most` keeps the product inside int64; limits are checked again in C.
cdef inline int64_t to_nu(object value, str what, double most=1e3) except? -1:
    cdef double units = value
    if not -most <= units <= most:
        raise ValueError(f"{what} = {value}: a number from {-most:g} to {most:g} is wanted")
    return <int64_t>(units * 1e9 + (0.5 if units >= 0 else -0.5))


# Far from the ends of int64, so that no sum of two times and a lookahead overflows.
cdef inline int64_t to_ns(object value, str what) except? -1:
    if not -(1 << 60) < value < 1 << 60:
        raise ValueError(f"{what} = {value}: not a time in ns")
    return value


cdef inline int read_limits(object joints, vlad_limits *limits) except -1:
    cdef int j
    if not 1 <= len(joints) <= VLAD_MAX_JOINTS:
        raise ValueError(f"{len(joints)} joints: 1 to {VLAD_MAX_JOINTS} are possible")
    memset(limits, 0, sizeof(vlad_limits))
    limits.n_joints = <int>len(joints)
    for j, joint in enumerate(joints):
        limits.joint[j].min_nu = to_nu(joint.min, f"joint {j}: min")
        limits.joint[j].max_nu = to_nu(joint.max, f"joint {j}: max")
        limits.joint[j].v_max_nu_s = to_nu(joint.v_max, f"joint {j}: v_max")
        limits.joint[j].a_max_nu_s2 = to_nu(joint.a_max, f"joint {j}: a_max", 1e9)
        limits.joint[j].j_max_nu_s3 = to_nu(joint.j_max, f"joint {j}: j_max", 1e9)
        if limits.joint[j].min_nu >= limits.joint[j].max_nu:
            raise ValueError(f"joint {j}: min {joint.min} is not below max {joint.max}")
        if (limits.joint[j].v_max_nu_s <= 0 or limits.joint[j].a_max_nu_s2 <= 0
                or limits.joint[j].j_max_nu_s3 <= 0):
            raise ValueError(f"joint {j}: v_max, a_max and j_max must be positive")
    return 0


cdef inline int read_config(object config, vlad_gate_config *gate) except -1:
    read_limits(config.joints, &gate.limits)
    gate.period_ns = to_ns(config.action_period_ns, "action_period_ns")
    gate.clamp_permille = config.clamp_permille
    gate.max_observation_age_ns = to_ns(config.max_observation_age_ns, "max_observation_age_ns")
    gate.max_cold_age_ns = to_ns(config.max_cold_age_ns, "max_cold_age_ns")
    gate.max_frame_age_ns = to_ns(config.max_frame_age_ns, "max_frame_age_ns")
    gate.max_reuse_age_ns = to_ns(config.max_reuse_age_ns, "max_reuse_age_ns")
    gate.max_jump_nu = to_nu(config.max_jump, "max_jump")
    gate.blend_ns = to_ns(config.blend_ns, "blend_ns")
    if vlad_gate_check_config(gate):
        raise ValueError(
            "gate refused: action_period_ns must be 1 ns to 1 s, clamp_permille 0 to 1000, "
            "ages, max_jump and blend_ns not negative"
        )
    return 0


cdef inline int read_pose(object pose, int n_joints, int64_t *nu, str what) except -1:
    if len(pose) != n_joints:
        raise ValueError(f"{what} has {len(pose)} joints, {n_joints} are wanted")
    for j, value in enumerate(pose):
        nu[j] = to_nu(value, f"{what}[{j}]")
    return 0


cdef inline int read_command(object command, int n_joints, vlad_command *c) except -1:
    memset(c, 0, sizeof(vlad_command))
    c.epoch = command.epoch
    c.at_rest = command.at_rest
    c.rest_since_ns = to_ns(command.rest_since_ns, "rest_since_ns")
    return read_pose(command.goal, n_joints, c.goal_nu, "goal") if command.goal else 0


# A chunk but for its actions, which the caller keeps alive.
cdef inline int read_chunk(object seq, object epoch, object t_obs_ns, object frame_age_ns,
                           object reuse_age_ns, object cold, vlad_chunk *chunk) except -1:
    memset(chunk, 0, sizeof(vlad_chunk))
    chunk.seq = seq
    chunk.epoch = epoch
    chunk.t_obs_ns = to_ns(t_obs_ns, "t_obs_ns")
    chunk.frame_age_ns = to_ns(frame_age_ns, "frame_age_ns")
    chunk.reuse_age_ns = to_ns(reuse_age_ns, "reuse_age_ns")
    chunk.cold = cold
    return 0


cdef inline tuple report_tuple(const vlad_gate_report *report):
    return (
        vlad_verdict_name(report.verdict).decode(), vlad_reason_name(report.reason).decode(),
        None if report.joint < 0 else report.joint, None if report.action < 0 else report.action,
        report.value, report.bound, report.n_clamped, report.n_elapsed, report.n_tail_dropped,
        report.n_blended,
    )
