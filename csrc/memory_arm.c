#include "memory_arm.h"

#include <errno.h>  /* EAGAIN */
#include <string.h> /* memset */

#include "clock.h"

#define NO_LOAD_RAD_S 4.7 /* of a STS3215 at 12 V */

void vlad_memory_arm_init(struct vlad_memory_arm *arm, int n_joints, const int64_t *pose_nu,
                          int64_t now_ns)
{
    memset(arm, 0, sizeof *arm);
    arm->n_joints = n_joints;
    arm->now_ns = arm->moved_ns = arm->last_motion_ns = now_ns;
    arm->tracking_ns = 30 * VLAD_NS_PER_MS;
    arm->temperature_c = 30;
    arm->voltage_mv = 7400;
    for (int j = 0; j < n_joints; j++) {
        arm->present_nu[j] = arm->goal_nu[j] = pose_nu[j];
        arm->limit_permille[j] = arm->asked_permille[j] = 1000;
        arm->seen_min_nu[j] = arm->seen_max_nu[j] = pose_nu[j];
    }
}

static int64_t now_arm(void *ctx)
{
    struct vlad_memory_arm *arm = ctx;

    if (arm->real_time)
        arm->now_ns = vlad_clock_now_ns();
    return arm->now_ns;
}

/* A first-order servo: covers dt / (dt + tau) of the way to its goal, at most at its no-load speed. */
static void move(struct vlad_memory_arm *arm)
{
    int64_t dt = now_arm(arm) - arm->moved_ns;

    if (dt <= 0)
        return;
    for (int j = 0; j < arm->n_joints; j++)
        if (arm->torque_mask & ~arm->blocked & (1u << j) && arm->limit_permille[j] > 0) {
            double left = (double)(arm->goal_nu[j] - arm->present_nu[j] - arm->offset_nu[j]);
            double way = left * (double)dt / (double)(dt + arm->tracking_ns);
            double most = NO_LOAD_RAD_S * (double)dt;

            arm->present_nu[j] += (int64_t)(way > most ? most : way < -most ? -most : way);
        }
    arm->moved_ns = arm->now_ns;
}

static int read_arm(void *ctx, int64_t deadline_ns, struct vlad_arm_state *state)
{
    struct vlad_memory_arm *arm = ctx;

    arm->reads++;
    if (arm->read_error)
        return arm->read_error;
    move(arm);
    arm->now_ns += arm->bus_ns;
    if (arm->silent && arm->now_ns < deadline_ns)
        arm->now_ns = deadline_ns; /* a silent servo costs the whole budget */
    state->t_ns = arm->now_ns;
    state->answered = ((1u << arm->n_joints) - 1) & ~(arm->silent | arm->corrupt);
    state->corrupt = arm->corrupt & ~arm->silent;
    for (int j = 0; j < arm->n_joints; j++) {
        if (!(state->answered & (1u << j)))
            continue;

        uint32_t bit = 1u << j;

        state->position_nu[j] = arm->present_nu[j] + arm->offset_nu[j];
        state->goal_nu[j] = arm->goal_nu[j];
        state->load_permille[j] = arm->load_permille[j];
        state->powered = (state->powered & ~bit) | (arm->torque_mask & bit);
        state->limited &= ~bit;
        state->limit_permille[j] = arm->limit_permille[j];
        if (arm->limit_permille[j] != arm->asked_permille[j])
            state->limited |= bit;
        state->temperature_c[j] = arm->temperature_c;
        state->voltage_mv[j] = arm->voltage_mv;
        state->status[j] = arm->status[j];
    }
    return 0;
}

/* Goals and torque come from one thread: invariant I4. */
static void note_writer(struct vlad_memory_arm *arm)
{
    static _Thread_local char here;

    arm->writers += arm->writer != &here;
    arm->writer = &here;
}

static int write_arm(void *ctx, int64_t deadline_ns, const int64_t *goal_nu)
{
    struct vlad_memory_arm *arm = ctx;
    bool moved = false;

    (void)deadline_ns;
    note_writer(arm);
    if (arm->write_error)
        return arm->write_error;
    if (arm->drop_writes > 0) {
        arm->drop_writes--;
        return -EAGAIN;
    }
    move(arm);
    arm->now_ns += arm->bus_ns / 4;
    arm->limp_writes += (arm->torque_mask | arm->limp) != (1u << arm->n_joints) - 1 ||
                        arm->torque_mask == 0;
    for (int j = 0; j < arm->n_joints; j++) {
        int64_t step = goal_nu[j] - arm->goal_nu[j];

        if ((arm->deaf | arm->limp) & (1u << j))
            continue;
        if (arm->writes == 0)
            arm->first_write_nu[j] = goal_nu[j];
        moved |= step != 0;
        if (step < 0)
            step = -step;
        if (step > arm->step_max_nu[j])
            arm->step_max_nu[j] = step;
        if (goal_nu[j] < arm->seen_min_nu[j])
            arm->seen_min_nu[j] = goal_nu[j];
        if (goal_nu[j] > arm->seen_max_nu[j])
            arm->seen_max_nu[j] = goal_nu[j];
        arm->goal_nu[j] = goal_nu[j];
    }
    arm->writes++;
    if (moved)
        arm->last_motion_ns = arm->now_ns;
    return 0;
}

static int torque_arm(void *ctx, int64_t deadline_ns, uint32_t mask, bool on,
                      const int64_t *goal_nu)
{
    struct vlad_memory_arm *arm = ctx;

    (void)deadline_ns;
    note_writer(arm);
    if (arm->write_error)
        return arm->write_error;
    if (arm->refuse_torque > 0) {
        arm->refuse_torque--;
        return -EAGAIN;
    }
    if (arm->drop_torque > 0) {
        arm->drop_torque--;
        return 0;
    }
    move(arm);
    for (int j = 0; on && j < arm->n_joints; j++)
        if (mask & ~arm->torque_mask & (1u << j))
            arm->goal_nu[j] = goal_nu[j];
    arm->limp = on ? arm->limp & ~mask : arm->limp | mask;
    arm->torque_mask = on ? arm->torque_mask | mask : arm->torque_mask & ~mask;
    arm->torque = arm->torque_mask != 0;
    return 0;
}

static int limit_arm(void *ctx, int64_t deadline_ns, uint32_t mask, const int32_t *permille)
{
    struct vlad_memory_arm *arm = ctx;
    bool lost = arm->drop_limits > 0;

    (void)deadline_ns;
    if (arm->write_error)
        return arm->write_error;
    arm->drop_limits -= lost;
    move(arm);
    for (int j = 0; j < arm->n_joints; j++)
        if (mask & (1u << j)) {
            arm->asked_permille[j] = permille[j];
            if (!lost)
                arm->limit_permille[j] = permille[j];
        }
    return 0;
}

const struct vlad_arm_ops vlad_memory_arm_ops = {
    .read = read_arm, .write = write_arm, .torque = torque_arm, .limit = limit_arm, .now_ns = now_arm
};
