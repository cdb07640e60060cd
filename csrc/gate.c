/* The gate: see gate.h. */
#include <errno.h> /* EINVAL */
#include <math.h>  /* isfinite */
#include <stddef.h> /* NULL */

#include "gate.h"
#include "ratio.h"

#define MAX_RATE (1000000 * VLAD_MAX_NU) /* of a_max and j_max */

bool vlad_limits_valid(const struct vlad_limits *limits)
{
    if (limits->n_joints < 1 || limits->n_joints > VLAD_MAX_JOINTS)
        return false;
    for (int j = 0; j < limits->n_joints; j++) {
        const struct vlad_joint_limits *joint = &limits->joint[j];

        if (joint->min_nu < -VLAD_MAX_NU || joint->max_nu > VLAD_MAX_NU ||
            joint->min_nu >= joint->max_nu)
            return false;
        if (joint->v_max_nu_s <= 0 || joint->v_max_nu_s > VLAD_MAX_NU)
            return false;
        if (joint->a_max_nu_s2 <= 0 || joint->a_max_nu_s2 > MAX_RATE)
            return false;
        if (joint->j_max_nu_s3 <= 0 || joint->j_max_nu_s3 > MAX_RATE)
            return false;
    }
    return true;
}

int vlad_gate_check_config(const struct vlad_gate_config *config)
{
    if (!vlad_limits_valid(&config->limits))
        return -EINVAL;
    if (config->period_ns < 1 || config->period_ns > VLAD_MAX_PERIOD_NS)
        return -EINVAL;
    if (config->clamp_permille < 0 || config->clamp_permille > 1000)
        return -EINVAL;
    if (config->max_observation_age_ns < 0 || config->max_cold_age_ns < 0 ||
        config->max_frame_age_ns < 0 || config->max_reuse_age_ns < 0)
        return -EINVAL;
    if (config->max_jump_nu < 0 || config->blend_ns < 0)
        return -EINVAL;
    return 0;
}

void vlad_gate_report_clear(struct vlad_gate_report *report)
{
    *report = (struct vlad_gate_report){
        .verdict = VLAD_ACCEPTED, .reason = VLAD_R_NONE, .joint = -1, .action = -1};
}

static bool reject(struct vlad_gate_report *report, enum vlad_reason reason, int joint, int action,
                   double value, double bound)
{
    report->verdict = VLAD_REJECTED;
    report->reason = reason;
    report->joint = joint;
    report->action = action;
    report->value = value;
    report->bound = bound;
    return false;
}

static double units(int64_t nu)
{
    return (double)nu / (double)VLAD_NU_PER_UNIT;
}

static double seconds(int64_t ns)
{
    return (double)ns / (double)VLAD_NS_PER_S;
}

static bool too_old(struct vlad_gate_report *report, enum vlad_reason reason, int64_t age_ns,
                    int64_t bound_ns)
{
    if (age_ns > bound_ns)
        return !reject(report, reason, -1, -1, seconds(age_ns), seconds(bound_ns));
    return false;
}

bool vlad_gate_time(const struct vlad_gate_config *config, const struct vlad_chunk *chunk,
                    const struct vlad_command *command, int64_t last_due_ns, int64_t now_ns,
                    struct vlad_gate_report *report)
{
    if (chunk->n_joints != config->limits.n_joints)
        return reject(report, VLAD_R_SHAPE, -1, -1, chunk->n_joints, config->limits.n_joints);
    if (chunk->n_actions < 1 || chunk->n_actions > VLAD_MAX_ACTIONS)
        return reject(report, VLAD_R_SHAPE, -1, -1, chunk->n_actions, VLAD_MAX_ACTIONS);
    if (chunk->t_obs_ns < 0)
        return reject(report, VLAD_R_SHAPE, -1, -1, seconds(chunk->t_obs_ns), 0.0);
    if (command->epoch == 0 || chunk->epoch != command->epoch)
        return reject(report, VLAD_R_DISENGAGED, -1, -1, (double)chunk->epoch,
                      (double)command->epoch);
    if (too_old(report, VLAD_R_FUTURE, chunk->t_obs_ns, now_ns))
        return false;
    if (!chunk->cold) {
        /* INT64_MIN, nothing queued, is before every now. */
        if (too_old(report, VLAD_R_LATE, now_ns, last_due_ns))
            return false;
    }
    if (too_old(report, VLAD_R_STALE, now_ns - chunk->t_obs_ns,
                chunk->cold ? config->max_cold_age_ns : config->max_observation_age_ns))
        return false;
    if (too_old(report, VLAD_R_FRAME_AGE, chunk->frame_age_ns, config->max_frame_age_ns) ||
        too_old(report, VLAD_R_FRAME_AGE, chunk->reuse_age_ns, config->max_reuse_age_ns))
        return false;
    if (chunk->cold && (!command->at_rest || command->rest_since_ns > chunk->t_obs_ns))
        return reject(report, VLAD_R_MOVED, -1, -1,
                      seconds(command->at_rest ? command->rest_since_ns : now_ns),
                      seconds(chunk->t_obs_ns));
    return true;
}

static bool all_finite(const struct vlad_chunk *chunk, struct vlad_gate_report *report)
{
    for (int i = 0; i < chunk->n_actions; i++)
        for (int j = 0; j < chunk->n_joints; j++) {
            double value = chunk->actions[i * chunk->n_joints + j];

            if (!isfinite(value))
                return reject(report, VLAD_R_NOT_FINITE, j, i, value, 0.0);
        }
    return true;
}

/* One position, to the nearest nano-unit. Compared as a double first: a huge value has no int64. */
static bool position(const struct vlad_gate_config *config, int joint, int action, double value,
                     int64_t *out_nu, struct vlad_gate_report *report)
{
    const struct vlad_joint_limits *limits = &config->limits.joint[joint];
    int64_t slack = vlad_scale(limits->max_nu - limits->min_nu, config->clamp_permille, 1000);
    int64_t min_nu = limits->min_nu - slack, max_nu = limits->max_nu + slack, nu, bound_nu;
    double exact = value * (double)VLAD_NU_PER_UNIT;

    if (exact <= (double)min_nu - 0.5)
        return reject(report, VLAD_R_POSITION, joint, action, value, units(min_nu));
    if (exact >= (double)max_nu + 0.5)
        return reject(report, VLAD_R_POSITION, joint, action, value, units(max_nu));
    nu = (int64_t)(exact < 0 ? exact - 0.5 : exact + 0.5);
    bound_nu = nu < limits->min_nu ? limits->min_nu : nu > limits->max_nu ? limits->max_nu : nu;
    if (nu != bound_nu && report->n_clamped++ == 0) {
        report->verdict = VLAD_CLAMPED;
        report->joint = joint;
        report->action = action;
        report->value = value;
        report->bound = units(bound_nu);
    }
    *out_nu = bound_nu;
    return true;
}

static bool steps(const struct vlad_gate_config *config, const int64_t *before_nu,
                  const int64_t *after_nu, int action, int64_t allowed_nu, enum vlad_reason reason,
                  struct vlad_gate_report *report)
{
    for (int j = 0; j < config->limits.n_joints; j++) {
        int64_t step = after_nu[j] - before_nu[j];
        int64_t bound = allowed_nu > 0 ? allowed_nu : vlad_gate_step_nu(config, j);

        if (step > bound || -step > bound)
            return reject(report, reason, j, action, units(step < 0 ? -step : step), units(bound));
    }
    return true;
}

bool vlad_gate_chunk(const struct vlad_gate_config *config, const struct vlad_chunk *chunk,
                     int64_t out_nu[][VLAD_MAX_JOINTS], struct vlad_gate_report *report)
{
    int n = chunk->n_joints;

    if (!all_finite(chunk, report))
        return false;
    for (int i = 0; i < chunk->n_actions; i++)
        for (int j = 0; j < n; j++)
            if (!position(config, j, i, chunk->actions[i * n + j], &out_nu[i][j], report))
                return false;
    for (int i = 1; i < chunk->n_actions; i++)
        if (!steps(config, out_nu[i - 1], out_nu[i], i, 0, VLAD_R_STEP, report))
            return false;
    return true;
}

bool vlad_gate_steps(const struct vlad_gate_config *config, const int64_t *before_nu,
                     const int64_t (*merged_nu)[VLAD_MAX_JOINTS], int n, int64_t jump_allowed_nu,
                     struct vlad_gate_report *report)
{
    for (int i = 0; i < n; i++) {
        bool jump = i == 0 && jump_allowed_nu > 0;

        if (!steps(config, i ? merged_nu[i - 1] : before_nu, merged_nu[i], i,
                   jump ? jump_allowed_nu : 0, jump ? VLAD_R_JUMP : VLAD_R_STEP, report))
            return false;
    }
    return true;
}

int64_t vlad_gate_step_nu(const struct vlad_gate_config *config, int joint)
{
    int64_t step = vlad_scale(config->limits.joint[joint].v_max_nu_s, config->period_ns,
                              VLAD_NS_PER_S);

    return step > 0 ? step : 1;
}

const char *vlad_reason_name(enum vlad_reason reason)
{
    static const char *const names[VLAD_N_REASONS] = {
        [VLAD_R_NONE] = "none",
        [VLAD_R_SHAPE] = "shape",
        [VLAD_R_DISENGAGED] = "disengaged",
        [VLAD_R_FUTURE] = "future",
        [VLAD_R_LATE] = "late",
        [VLAD_R_STALE] = "stale",
        [VLAD_R_FRAME_AGE] = "frame_age",
        [VLAD_R_MOVED] = "moved",
        [VLAD_R_NOT_FINITE] = "not_finite",
        [VLAD_R_POSITION] = "position",
        [VLAD_R_STEP] = "step",
        [VLAD_R_JUMP] = "jump",
    };

    return (unsigned)reason < VLAD_N_REASONS ? names[reason] : NULL;
}

const char *vlad_verdict_name(enum vlad_verdict verdict)
{
    static const char *const names[] = {
        [VLAD_ACCEPTED] = "accepted", [VLAD_CLAMPED] = "clamped", [VLAD_REJECTED] = "rejected"};

    return (unsigned)verdict <= VLAD_REJECTED ? names[verdict] : NULL;
}
