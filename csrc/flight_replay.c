/* Recorded inputs into the loop: see flight_replay.h. */
#include "flight_replay.h"

#include <errno.h>  /* EINVAL */
#include <string.h> /* memcpy */

#include "servo_parts.h"

/* Only the loop itself pulses this: a replay must come to it by itself. */
#define LOOPS_OWN BIT(VLAD_F_SERVO_SILENT)

static int read_arm(void *ctx, int64_t deadline_ns, struct vlad_arm_state *state)
{
    const struct vlad_flight_tick *tick = ((struct vlad_flight_replay *)ctx)->tick;

    (void)deadline_ns;
    state->t_ns = tick->read_t_ns[0];
    state->answered = tick->answered[0];
    state->corrupt = tick->corrupt[0];
    memcpy(state->position_nu, tick->position_nu, sizeof state->position_nu);
    memcpy(state->velocity_nu_s, tick->velocity_nu_s, sizeof state->velocity_nu_s);
    memcpy(state->load_permille, tick->load_permille, sizeof state->load_permille);
    memcpy(state->voltage_mv, tick->voltage_mv, sizeof state->voltage_mv);
    memcpy(state->temperature_c, tick->temperature_c, sizeof state->temperature_c);
    memcpy(state->status, tick->status, sizeof state->status);
    memcpy(state->goal_nu, tick->register_nu, sizeof state->goal_nu);
    memcpy(state->limit_permille, tick->limit_permille, sizeof state->limit_permille);
    state->powered = tick->has_torque[0];
    state->limited = tick->limited[0];
    return tick->read_rc[0];
}

static int write_arm(void *ctx, int64_t deadline_ns, const int64_t *goal_nu)
{
    (void)deadline_ns;
    (void)goal_nu;
    return ((struct vlad_flight_replay *)ctx)->tick->write_rc[0];
}

static int torque_arm(void *ctx, int64_t deadline_ns, uint32_t mask, bool on,
                      const int64_t *goal_nu)
{
    (void)deadline_ns;
    (void)mask;
    (void)on;
    (void)goal_nu;
    return ((struct vlad_flight_replay *)ctx)->tick->torque_rc[0];
}

static int limit_arm(void *ctx, int64_t deadline_ns, uint32_t mask, const int32_t *permille)
{
    (void)deadline_ns;
    (void)mask;
    (void)permille;
    return ((struct vlad_flight_replay *)ctx)->tick->limit_rc[0];
}

static int64_t now_arm(void *ctx)
{
    struct vlad_flight_replay *replay = ctx;
    int64_t now_ns = replay->tick->clock_ns[replay->clock];

    if (replay->clock < VLAD_FLIGHT_CLOCKS - 1)
        replay->clock++;
    return now_ns;
}

static const struct vlad_arm_ops recorded_arm = {
    .read = read_arm, .write = write_arm, .torque = torque_arm, .limit = limit_arm,
    .now_ns = now_arm
};

int vlad_flight_replay_begin(struct vlad_flight_replay *replay, struct vlad_servo *servo,
                             const struct vlad_flight_state *state,
                             const int64_t (*ring1)[VLAD_MAX_JOINTS],
                             const int64_t (*ring2)[VLAD_MAX_JOINTS])
{
    *replay = (struct vlad_flight_replay){ .tick = NULL };
    servo->flight->ops = &recorded_arm;
    servo->flight->arm = replay;
    servo->flight->adoptions = state->adoptions[0];
    return vlad_flight_state_restore(servo, state, ring1, ring2, &vlad_flight_arm_ops,
                                     servo->flight);
}

static enum vlad_aggregate aggregate_of(const struct vlad_servo *servo, int32_t merge)
{
    return merge ? (enum vlad_aggregate)(merge - 1) : servo->config.aggregate;
}

int vlad_flight_replay_timeline(struct vlad_servo *servo, const struct vlad_timeline *timeline)
{
    struct vlad_queue *queue = &servo->queue;

    if (timeline->n < 0 || timeline->n > VLAD_MAX_TIMELINE || timeline->period_ns <= 0)
        return -EINVAL;
    for (int i = 0; i < timeline->n; i++)
        if (timeline->opinions[i] < 1 || timeline->opinions[i] >= VLAD_MAX_ACTIONS)
            return -EINVAL;
    queue->published = timeline->number;
    queue->buffer[queue->newest] = *timeline;
    queue->buffer[queue->front] = *timeline;
    return 0;
}

void vlad_flight_replay_tick(struct vlad_flight_replay *replay, struct vlad_servo *servo,
                             const struct vlad_flight_tick *tick)
{
    uint64_t pulsed = replay->begun ? tick->pulsed[0] & ~LOOPS_OWN : tick->pulsed[0];

    replay->tick = tick;
    replay->clock = 0;
    replay->begun = true;
    if (tick->adopted[0])
        vlad_servo_adopt(servo, &recorded_arm, replay, tick->adopted_torque[0], tick->adopted_nu);
    for (int f = 0; f <= VLAD_N_FAULTS; f++) /* what the loop sees itself it must see again */
        atomic_store(&servo->watchdog.held[f], tick->level[f] > tick->own[f] ? tick->level[f] : 0);
    atomic_fetch_or(&servo->watchdog.pulsed, pulsed);
    atomic_store(&servo->requests, tick->requests[0]);
    atomic_store(&servo->refusals, tick->refusals[0]);
    atomic_store(&servo->starve_cause, tick->starve_cause[0]);
    atomic_store(&servo->slept_ns, tick->slept_ns[0]);
    atomic_store(&servo->realtime, tick->realtime[0]);
    vlad_servo_tick(servo, tick->now_ns[0], tick->late_ns[0]);
}

int vlad_flight_replay_push(struct vlad_servo *servo, const struct vlad_flight_chunk *record,
                             const double *actions, bool first)
{
    struct vlad_chunk chunk = {
        .seq = record->seq[0], .epoch = record->chunk_epoch[0], .t_obs_ns = record->t_obs_ns[0],
        .frame_age_ns = record->frame_age_ns[0], .reuse_age_ns = record->reuse_age_ns[0],
        .cold = record->cold[0], .n_actions = record->n_actions[0],
        .n_joints = record->n_joints[0], .actions = actions
    };
    struct vlad_command command = {
        .epoch = record->epoch[0], .at_rest = record->at_rest[0],
        .rest_since_ns = record->rest_since_ns[0]
    };
    struct vlad_gate_report report;
    uint64_t pulsed = atomic_load(&servo->watchdog.pulsed);

    if (!actions && chunk.n_actions > 0 && chunk.n_actions <= VLAD_MAX_ACTIONS &&
        chunk.n_joints == servo->config.gate.limits.n_joints)
        return -EINVAL;
    if (first) {
        int rc = vlad_servo_set_timing(servo, record->period_ns[0],
                                       record->max_observation_age_ns[0],
                                       record->max_frame_age_ns[0],
                                       aggregate_of(servo, record->merge[0]),
                                       record->ensemble[0]);

        if (rc)
            return rc;
        if (servo->queue.published < record->before[0]) {
            servo->queue.published = record->before[0] - 1;
            vlad_queue_clear(&servo->queue);
        }
        servo->stale_run = record->stale_run[0];
        memcpy(servo->bad_ns, record->bad_ns, sizeof servo->bad_ns);
    }
    memcpy(command.goal_nu, record->goal_nu, sizeof command.goal_nu);
    vlad_servo_push_with(servo, &chunk, &command, record->now_ns[0], &report);
    atomic_store(&servo->watchdog.pulsed, pulsed); /* which tick sees them is in the record */
    return 0;
}

int vlad_flight_replay_timing(struct vlad_servo *servo, const struct vlad_flight_timing *record)
{
    return vlad_servo_policy_timing(servo, record->period_ns[0], record->max_observation_age_ns[0],
                                    record->max_frame_age_ns[0],
                                    aggregate_of(servo, record->merge[0]), record->ensemble[0]);
}
