/* The trajectory filter: see trajectory.h. */
#include <errno.h>  /* EINVAL, ERANGE */
#include <string.h> /* memcpy, memset */

#include "gate.h" /* vlad_limits_valid */
#include "ratio.h"
#include "trajectory.h"

/* Ticks over which a quantity that may swing by 2 * range changes by at most rate per second:
 * rounded up, at least 1; VLAD_TRAJECTORY_MAX_TICKS when it is that many or more. */
static int window(int64_t range, int64_t rate, int64_t period_ns)
{
    int64_t per_tick = vlad_scale(rate, period_ns, VLAD_NS_PER_S);

    if (per_tick <= 2 * range / VLAD_TRAJECTORY_MAX_TICKS)
        return VLAD_TRAJECTORY_MAX_TICKS;
    return (int)((2 * range + per_tick - 1) / per_tick);
}

int vlad_trajectory_init(struct vlad_trajectory *trajectory, const struct vlad_limits *limits,
                         const int64_t *unit_nu, int64_t period_ns, int *joint)
{
    struct vlad_trajectory *t = trajectory;

    memset(t, 0, sizeof *t);
    *joint = -1;
    if (!vlad_limits_valid(limits) || period_ns < 1 || period_ns > VLAD_MAX_PERIOD_NS)
        return -EINVAL;
    t->n_joints = limits->n_joints;
    for (int j = 0; j < t->n_joints; j++) {
        const struct vlad_joint_limits *limit = &limits->joint[j];
        int64_t ticks;
        int n1, n2;

        *joint = j;
        if (unit_nu[j] < 2)
            return -EINVAL;
        ticks = vlad_scale(limit->v_max_nu_s, period_ns, VLAD_NS_PER_S) / (unit_nu[j] + 1);
        t->step_nu[j] = ticks * (unit_nu[j] - 1);
        n1 = window(limit->v_max_nu_s, limit->a_max_nu_s2, period_ns);
        n2 = window(limit->a_max_nu_s2, limit->j_max_nu_s3, period_ns);
        t->n1 = n1 > t->n1 ? n1 : t->n1;
        t->n2 = n2 > t->n2 ? n2 : t->n2;
        if (ticks < 1 || t->n1 + t->n2 > VLAD_TRAJECTORY_MAX_TICKS ||
            vlad_trajectory_stop_ns(t, period_ns) > VLAD_STOP_MAX_NS)
            return -ERANGE;
    }
    *joint = -1;
    vlad_trajectory_reset(t, t->goal_nu);
    return 0;
}

void vlad_trajectory_reset(struct vlad_trajectory *trajectory, const int64_t *goal_nu)
{
    struct vlad_trajectory *t = trajectory;

    for (int j = 0; j < t->n_joints; j++) {
        t->goal_nu[j] = t->input_nu[j] = t->drained_nu[j] = goal_nu[j];
        t->velocity_nu[j] = 0;
        t->sum1[j] = goal_nu[j] * t->n1;
        t->sum2[j] = t->sum1[j] * t->n2;
        for (int i = 0; i < t->n1; i++)
            t->ring1[i][j] = goal_nu[j];
        for (int i = 0; i < t->n2; i++)
            t->ring2[i][j] = t->sum1[j];
    }
    t->at1 = t->at2 = 0;
    t->still_ticks = t->n1 + t->n2;
    t->stopping = false;
}

/* Both averages one tick on; out = their output. Rounding down the mean of values in [a, b] stays
 * in [a, b], and a change of the mean by at most `step` stays at most `step`. */
static void filter(struct vlad_trajectory *t, int64_t *out)
{
    for (int j = 0; j < t->n_joints; j++) {
        t->sum1[j] += t->input_nu[j] - t->ring1[t->at1][j];
        t->ring1[t->at1][j] = t->input_nu[j];
        t->sum2[j] += t->sum1[j] - t->ring2[t->at2][j];
        t->ring2[t->at2][j] = t->sum1[j];
        out[j] = vlad_floor_div(t->sum2[j], (int64_t)t->n1 * t->n2);
    }
    t->at1 = (t->at1 + 1) % t->n1;
    t->at2 = (t->at2 + 1) % t->n2;
}

void vlad_trajectory_advance(struct vlad_trajectory *trajectory, const int64_t *target_nu,
                             int speed_permille)
{
    struct vlad_trajectory *t = trajectory;
    int64_t goal[VLAD_MAX_JOINTS];
    bool still = true;

    if (t->stopping) {
        vlad_trajectory_stop(t);
        return;
    }
    for (int j = 0; j < t->n_joints; j++) {
        int64_t step = vlad_scale(t->step_nu[j], speed_permille, 1000);
        int64_t change = target_nu[j] - t->input_nu[j];

        change = change > step ? step : change < -step ? -step : change;
        t->input_nu[j] += change;
        still = still && change == 0;
    }
    filter(t, goal);
    for (int j = 0; j < t->n_joints; j++) {
        t->velocity_nu[j] = goal[j] - t->goal_nu[j];
        t->goal_nu[j] = t->drained_nu[j] = goal[j];
    }
    /* Saturates where it no longer matters. */
    t->still_ticks = !still ? 0 : t->still_ticks + (t->still_ticks < t->n1 + t->n2);
}

bool vlad_trajectory_stop(struct vlad_trajectory *trajectory)
{
    struct vlad_trajectory *t = trajectory;
    int64_t drained[VLAD_MAX_JOINTS];
    bool stands = true;

    t->stopping = true;
    filter(t, drained);
    for (int j = 0; j < t->n_joints; j++) {
        int64_t left = drained[j] - t->drained_nu[j], velocity = t->velocity_nu[j];

        /* The smaller of what the filter still wants and the present velocity, never reversed. */
        if (velocity > 0)
            velocity = left < 0 ? 0 : left < velocity ? left : velocity;
        else
            velocity = left > 0 ? 0 : left > velocity ? left : velocity;
        t->drained_nu[j] = drained[j];
        t->velocity_nu[j] = velocity;
        t->goal_nu[j] += velocity;
        stands = stands && velocity == 0;
    }
    if (stands)
        vlad_trajectory_reset(t, t->goal_nu);
    return stands;
}

bool vlad_trajectory_yield(struct vlad_trajectory *trajectory, uint32_t mask,
                           const int64_t *pose_nu)
{
    struct vlad_trajectory *t = trajectory;
    bool there = true;

    for (int j = 0; j < t->n_joints; j++) {
        int64_t change = pose_nu[j] - t->goal_nu[j], step = t->step_nu[j];

        if (!(mask >> j & 1))
            continue;
        t->velocity_nu[j] = 0; /* the stop adds nothing, so it stays one step */
        t->goal_nu[j] += change > step ? step : change < -step ? -step : change;
        there = there && t->goal_nu[j] == pose_nu[j];
    }
    return there;
}

bool vlad_trajectory_at_rest(const struct vlad_trajectory *trajectory)
{
    return !trajectory->stopping && trajectory->still_ticks >= trajectory->n1 + trajectory->n2 - 1;
}

int64_t vlad_trajectory_lookahead_ns(const struct vlad_trajectory *trajectory, int64_t period_ns)
{
    return (trajectory->n1 + trajectory->n2 - 2) * period_ns / 2;
}

int64_t vlad_trajectory_stop_ns(const struct vlad_trajectory *trajectory, int64_t period_ns)
{
    return (trajectory->n1 + trajectory->n2 - 1) * period_ns;
}
