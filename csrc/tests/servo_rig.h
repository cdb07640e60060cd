/* servo_rig.h: a servo loop on an arm in memory that judges every goal and every torque command as
 * it reaches the wire, and whose torque command can be refused. */
#ifndef VLAD_TEST_SERVO_RIG_H
#define VLAD_TEST_SERVO_RIG_H

#include <errno.h>  /* EAGAIN */
#include <math.h>   /* sin */
#include <string.h> /* memset */

#include "check.h"
#include "memory_arm.h"
#include "servo_loop.h"

#define MS VLAD_NS_PER_MS
#define MILLI (VLAD_NU_PER_UNIT / 1000) /* rad */
#ifndef JOINTS
#define JOINTS 3
#endif
#define ALL ((1u << JOINTS) - 1)
#define TICK (10 * MS)
#define ACTION INT64_C(33333333)
#define CHUNK 50
#define LIMIT_NU (1900 * MILLI)
#define SPEED_NU_S (2500 * MILLI)
#define UNIT_NU 1533980

static struct vlad_servo rig;
static struct vlad_servo_report seen;

/* The arm, and what its judge remembers. Only the loop's thread touches it while that runs. */
struct judged_arm {
    struct vlad_memory_arm memory;
    int torque_refusals;            /* so many torque commands end with -EAGAIN */
    uint64_t torque_commands, torque_on;
    int64_t in_force_nu[JOINTS];    /* last goal that a powered servo got */
    int64_t lowest_nu[JOINTS], highest_nu[JOINTS]; /* where it was read since it was engaged */
};
static struct judged_arm arm;

static int judged_read(void *ctx, int64_t deadline_ns, struct vlad_arm_state *state)
{
    struct judged_arm *judged = ctx;
    int rc = vlad_memory_arm_ops.read(&judged->memory, deadline_ns, state);

    for (int j = 0; j < JOINTS; j++) {
        int64_t nu = state->position_nu[j];
        bool first = rig.mode != VLAD_ENGAGED;

        nu = nu < -LIMIT_NU ? -LIMIT_NU : nu > LIMIT_NU ? LIMIT_NU : nu;
        if (first || nu < judged->lowest_nu[j])
            judged->lowest_nu[j] = nu;
        if (first || nu > judged->highest_nu[j])
            judged->highest_nu[j] = nu;
    }
    return rc;
}

static int judged_write(void *ctx, int64_t deadline_ns, const int64_t *goal_nu)
{
    struct judged_arm *judged = ctx;
    int rc = vlad_memory_arm_ops.write(&judged->memory, deadline_ns, goal_nu);

    for (int j = 0; rc == 0 && j < JOINTS; j++) {
        if (judged->memory.torque_mask == ALL) { /* one step, and inside the limits */
            CHECK(llabs(goal_nu[j] - judged->in_force_nu[j]) <= rig.trajectory.step_nu[j]);
            CHECK(llabs(goal_nu[j]) <= LIMIT_NU);
        }
        judged->in_force_nu[j] = goal_nu[j];
    }
    return rc;
}

static int judged_torque(void *ctx, int64_t deadline_ns, uint32_t mask, bool on,
                         const int64_t *goal_nu)
{
    struct judged_arm *judged = ctx;
    uint32_t powered = judged->memory.torque_mask;
    int rc;

    if (judged->torque_refusals > 0) {
        judged->torque_refusals--;
        return -EAGAIN;
    }
    rc = vlad_memory_arm_ops.torque(&judged->memory, deadline_ns, mask, on, goal_nu);
    if (rc)
        return rc;
    CHECK(mask == ALL || (!on && !(mask & ~rig.now.lying)));
    judged->torque_commands += mask == ALL;
    judged->torque_on += on;
    for (int j = 0; on && powered != ALL && j < JOINTS; j++) {
        if (powered >> j & 1) /* what it holds it goes on holding .. */
            CHECK_EQ(goal_nu[j], judged->memory.goal_nu[j]);
        else /* .. and power comes with the present pose */
            CHECK_EQ(goal_nu[j], judged->memory.present_nu[j] + judged->memory.offset_nu[j]);
        judged->in_force_nu[j] = goal_nu[j];
    }
    return 0;
}

static int judged_limit(void *ctx, int64_t deadline_ns, uint32_t mask, const int32_t *permille)
{
    struct judged_arm *judged = ctx;

    for (int j = 0; j < JOINTS; j++) {
        const struct vlad_memory_arm *memory = &judged->memory;
        int64_t step_nu = rig.trajectory.step_nu[j];

        if (mask >> j & 1) /* raised only where an operator engages .. */
            CHECK(permille[j] <= memory->limit_permille[j] || rig.mode == VLAD_ENGAGED);
        if (!(mask >> j & 1) || permille[j] <= memory->asked_permille[j] ||
            !(memory->torque_mask >> j & 1))
            continue;
        CHECK(memory->goal_nu[j] >= judged->lowest_nu[j] - step_nu); /* .. and nothing pulls it elsewhere */
        CHECK(memory->goal_nu[j] <= judged->highest_nu[j] + step_nu);
    }
    return vlad_memory_arm_ops.limit(&judged->memory, deadline_ns, mask, permille);
}

static int64_t judged_now(void *ctx)
{
    return vlad_memory_arm_ops.now_ns(&((struct judged_arm *)ctx)->memory);
}

static const struct vlad_arm_ops judged_ops = {
    .read = judged_read, .write = judged_write, .torque = judged_torque, .limit = judged_limit,
    .now_ns = judged_now
};

static inline struct vlad_servo_config rig_config(void)
{
    struct vlad_servo_config config = {
        .gate = { .limits.n_joints = JOINTS, .period_ns = ACTION, .clamp_permille = 20,
                  .max_observation_age_ns = CHUNK * ACTION, .max_cold_age_ns = 10000 * MS,
                  .max_frame_age_ns = 67 * MS, .max_reuse_age_ns = CHUNK * ACTION,
                  .max_jump_nu = 523 * MILLI, .blend_ns = 100 * MS },
        .aggregate = VLAD_WEIGHTED_AVERAGE,
        .period_ns = TICK, .read_budget_ns = 4 * MS, .silent_ns = 50 * MS,
        .overrun_hold_ns = 50 * MS, .has_rest_pose = true, .park_permille = 200,
        .allow_non_realtime = true, .park_c = 70, .following_nu = 200 * MILLI
    };

    for (int j = 0; j < JOINTS; j++) {
        config.unit_nu[j] = UNIT_NU;
        config.rest_nu[j] = (j - 1) * 300 * MILLI;
        config.gate.limits.joint[j] = (struct vlad_joint_limits){
            .min_nu = -LIMIT_NU, .max_nu = LIMIT_NU, .v_max_nu_s = SPEED_NU_S,
            .a_max_nu_s2 = 40000 * MILLI, .j_max_nu_s3 = 1600000 * MILLI
        };
    }
    return config;
}

static inline int adopt(const int64_t *command_nu, bool torque_on)
{
    arm.memory.torque_mask = torque_on ? ALL : 0;
    memcpy(arm.in_force_nu, command_nu, sizeof arm.in_force_nu);
    if (torque_on) /* the command in force is what they hold */
        memcpy(arm.memory.goal_nu, command_nu, sizeof arm.in_force_nu);
    return vlad_servo_adopt(&rig, &judged_ops, &arm, torque_on, command_nu);
}

static inline void ticks(int n)
{
    vlad_servo_simulate(&rig, &arm.memory, rig.now.t_ns + n * TICK);
    vlad_servo_read(&rig, &seen);
}

static inline void ask(uint32_t requests)
{
    vlad_servo_request(&rig, requests);
    ticks(1);
}

/* Where joint j should be at t_ns: a smooth curve well inside the limits and the step. */
static inline double curve(int64_t t_ns, int j)
{
    return 0.25 * sin(0.8 * (double)t_ns / 1e9 + j);
}

static inline enum vlad_verdict push_curve(int64_t now_ns, int64_t age_ns, bool cold)
{
    static uint64_t seq; /* one producer */
    double actions[CHUNK][JOINTS];
    struct vlad_gate_report report;
    struct vlad_command command;
    struct vlad_chunk chunk = { .seq = ++seq, .t_obs_ns = (now_ns - age_ns) / ACTION * ACTION,
                                .cold = cold, .n_actions = CHUNK, .n_joints = JOINTS,
                                .actions = &actions[0][0] };

    vlad_servo_command(&rig, &command);
    chunk.epoch = command.epoch;
    for (int k = 0; k < CHUNK; k++)
        for (int j = 0; j < JOINTS; j++)
            actions[k][j] = curve(chunk.t_obs_ns + k * ACTION, j);
    vlad_servo_push(&rig, &chunk, now_ns, &report);
    return report.verdict;
}

/* A loop with a bus, torque off, at the start of the curve. */
static inline void begin(void)
{
    struct vlad_servo_config config = rig_config();
    int64_t start_ns = 1000000 * MS, pose_nu[JOINTS];
    int joint;

    for (int j = 0; j < JOINTS; j++)
        pose_nu[j] = (int64_t)(curve(start_ns, j) * 1e9);
    memset(&arm, 0, sizeof arm);
    vlad_memory_arm_init(&arm.memory, JOINTS, pose_nu, start_ns);
    CHECK_EQ(vlad_servo_init(&rig, &config, start_ns, &joint), 0);
    CHECK_EQ(adopt(pose_nu, false), 0);
    ticks(2);
    CHECK_EQ(seen.mode, VLAD_READY);
}

/* The same, engaged and on the move. */
static inline void begin_moving(void)
{
    begin();
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    ticks(2);
    CHECK_EQ(push_curve(rig.now.t_ns, 0, true), VLAD_ACCEPTED);
    ticks(50);
    CHECK(!seen.at_rest);
}

#endif
