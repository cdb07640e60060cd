/* The record of ticks and chunks: see flight.h. */
#include "flight.h"

#include <errno.h>  /* EBUSY */
#include <stddef.h> /* offsetof, NULL */
#include <string.h> /* memset, memcpy */


#define TYPE(type)                                                                               \
    _Generic((type)0, uint8_t: 'B', int32_t: 'i', uint32_t: 'I', int64_t: 'q', uint64_t: 'Q',    \
             double: 'd')
#define TICK(type, name, count, range, role)                                                     \
    { #name, TYPE(type), offsetof(struct vlad_flight_tick, name), count, VLAD_RANGE_##range,     \
      VLAD_FLIGHT_##role },
#define CHUNK(type, name, count, range, role)                                                    \
    { #name, TYPE(type), offsetof(struct vlad_flight_chunk, name), count, VLAD_RANGE_##range,    \
      VLAD_FLIGHT_##role },
#define TIMING(type, name, count, range, role)                                                   \
    { #name, TYPE(type), offsetof(struct vlad_flight_timing, name), count, VLAD_RANGE_##range,   \
      VLAD_FLIGHT_##role },

const struct vlad_flight_field vlad_flight_tick_fields[] = {
    VLAD_FLIGHT_TICK_FIELDS(TICK) { .name = NULL }
};
const struct vlad_flight_field vlad_flight_chunk_fields[] = {
    VLAD_FLIGHT_CHUNK_FIELDS(CHUNK) { .name = NULL }
};
const struct vlad_flight_field vlad_flight_timing_fields[] = {
    VLAD_FLIGHT_TIMING_FIELDS(TIMING) { .name = NULL }
};

int vlad_flight_attach(struct vlad_servo *servo, struct vlad_flight *flight,
                       struct vlad_flight_ring *loop, struct vlad_flight_ring *producer,
                       int64_t state_every_ns)
{
    if (servo->flight || servo->ops || servo->now.counters.ticks)
        return -EBUSY;
    memset(flight, 0, sizeof *flight);
    flight->loop = loop;
    flight->producer = producer;
    flight->state_every_ns = state_every_ns;
    flight->state_ns = INT64_MIN;
    servo->flight = flight;
    return 0;
}

void vlad_flight_begin(struct vlad_servo *servo, int64_t late_ns)
{
    struct vlad_flight *flight = servo->flight;
    struct vlad_flight_tick *tick;

    if (!flight)
        return;
    tick = &flight->tick;
    memset(tick, 0, sizeof *tick);
    flight->n_clocks = 0;
    tick->number[0] = servo->now.counters.ticks;
    tick->now_ns[0] = servo->now.t_ns;
    tick->late_ns[0] = late_ns;
    if (servo->now.adoptions == flight->adoptions)
        return;
    flight->adoptions = servo->now.adoptions;
    tick->adopted[0] = 1;
    tick->adopted_torque[0] = servo->torque_on;
    memcpy(tick->adopted_nu, servo->written_nu, sizeof tick->adopted_nu);
    flight->ops = servo->ops;
    flight->arm = servo->arm;
    servo->ops = &vlad_flight_arm_ops;
    servo->arm = flight;
}

static void note_decision(const struct vlad_servo *servo, struct vlad_flight_tick *tick)
{
    const struct vlad_servo_report *now = &servo->now;

    tick->pulsed[0] = servo->taken.faults.pulsed;
    memcpy(tick->level, servo->taken.faults.level, sizeof tick->level);
    tick->requests[0] = servo->taken.requests;
    tick->refusals[0] = servo->taken.refusals;
    tick->starve_cause[0] = servo->taken.starve_cause;
    tick->slept_ns[0] = servo->taken.slept_ns;
    tick->realtime[0] = servo->taken.realtime != 0;
    tick->timeline[0] = servo->queue.buffer[servo->queue.front].number;
    tick->mode[0] = (uint8_t)servo->mode;
    tick->reaction[0] = (uint8_t)now->reaction;
    tick->torque_on[0] = servo->torque_on;
    tick->parking[0] = servo->parking;
    tick->letting_down[0] = servo->easing_since_ns != 0;
    tick->lying[0] = now->lying;
    tick->at_rest[0] = servo->at_rest;
    tick->overdue[0] = servo->overdue;
    tick->bus_up[0] = servo->ops != NULL;
    tick->queue_depth[0] = (int32_t)now->queue_depth;
    tick->starved_cause[0] = servo->starved_cause;
    tick->active[0] = now->active;
    tick->latched[0] = now->latched;
    tick->why_not[0] = now->why_not;
    tick->epoch[0] = now->epoch;
    tick->t_execution_ns[0] = now->t_execution_ns;
    tick->rest_since_ns[0] = servo->rest_since_ns;
    memcpy(tick->goal_nu, servo->trajectory.goal_nu, sizeof tick->goal_nu);
    memcpy(tick->written_nu, servo->written_nu, sizeof tick->written_nu);
}

static void record_state(struct vlad_servo *servo, int64_t now_ns)
{
    struct vlad_flight_part parts[VLAD_FLIGHT_STATE_PARTS];

    servo->flight->state_ns = now_ns;
    vlad_flight_ring_add(servo->flight->loop, VLAD_FLIGHT_STATE, now_ns, parts,
                         vlad_flight_state_parts(servo, parts));
}

void vlad_flight_tick(struct vlad_servo *servo, const uint8_t *own)
{
    struct vlad_flight *flight = servo->flight;
    struct vlad_flight_part part;
    int64_t now_ns = servo->now.t_ns;

    if (!flight)
        return;
    note_decision(servo, &flight->tick);
    memcpy(flight->tick.own, own, sizeof flight->tick.own);
    flight->done = flight->tick;
    part = (struct vlad_flight_part){ &flight->tick, sizeof flight->tick };
    vlad_flight_ring_add(flight->loop, VLAD_FLIGHT_TICK, now_ns, &part, 1);
    if (now_ns >= flight->state_ns + flight->state_every_ns || flight->state_ns == INT64_MIN)
        record_state(servo, now_ns);
}

void vlad_flight_before_push(struct vlad_servo *servo)
{
    struct vlad_flight_chunk *record;

    if (!servo->flight)
        return;
    record = &servo->flight->chunk;
    memset(record, 0, sizeof *record);
    memcpy(record->bad_ns, servo->bad_ns, sizeof record->bad_ns);
    record->stale_run[0] = servo->stale_run;
    record->before[0] = servo->queue.published;
}

void vlad_flight_push(struct vlad_servo *servo, const struct vlad_chunk *chunk,
                      const struct vlad_command *command, int64_t now_ns,
                      const struct vlad_gate_report *report, uint64_t raised)
{
    struct vlad_flight *flight = servo->flight;
    const struct vlad_queue *queue = &servo->queue;
    const struct vlad_timeline *timeline = &queue->buffer[queue->newest];
    struct vlad_flight_part parts[5];
    struct vlad_flight_chunk *record;
    int n = 1;

    if (!flight)
        return;
    record = &flight->chunk;
    record->number[0] = ++flight->n_chunks;
    record->now_ns[0] = now_ns;
    record->seq[0] = chunk->seq;
    record->chunk_epoch[0] = chunk->epoch;
    record->t_obs_ns[0] = chunk->t_obs_ns;
    record->frame_age_ns[0] = chunk->frame_age_ns;
    record->reuse_age_ns[0] = chunk->reuse_age_ns;
    record->n_actions[0] = chunk->n_actions;
    record->n_joints[0] = chunk->n_joints;
    record->cold[0] = chunk->cold;
    record->at_rest[0] = command->at_rest;
    record->epoch[0] = command->epoch;
    record->rest_since_ns[0] = command->rest_since_ns;
    memcpy(record->goal_nu, command->goal_nu, sizeof record->goal_nu);
    record->period_ns[0] = queue->gate.period_ns;
    record->max_observation_age_ns[0] = queue->gate.max_observation_age_ns;
    record->max_frame_age_ns[0] = queue->gate.max_frame_age_ns;
    record->merge[0] = 1 + (int32_t)queue->aggregate;
    record->ensemble[0] = queue->ensemble;
    record->timeline[0] = queue->published;
    record->raised[0] = raised;
    record->verdict[0] = (int32_t)report->verdict;
    record->reason[0] = (int32_t)report->reason;
    record->joint[0] = report->joint;
    record->action[0] = report->action;
    record->value[0] = report->value;
    record->bound[0] = report->bound;
    record->n_clamped[0] = report->n_clamped;
    record->n_elapsed[0] = report->n_elapsed;
    record->n_tail_dropped[0] = report->n_tail_dropped;
    record->n_blended[0] = report->n_blended;
    parts[0] = (struct vlad_flight_part){ record, sizeof *record };
    /* A chunk of a wrong shape is rejected for that: its contents do not matter. */
    if (chunk->n_actions > 0 && chunk->n_actions <= VLAD_MAX_ACTIONS &&
        chunk->n_joints == queue->gate.limits.n_joints)
        parts[n++] = (struct vlad_flight_part){
            chunk->actions, (size_t)chunk->n_actions * (size_t)chunk->n_joints * sizeof(double)
        };
    if (record->timeline[0] != record->before[0]) {
        record->t0_ns[0] = timeline->t0_ns;
        record->overdue_ns[0] = timeline->overdue_ns;
        record->n_timeline[0] = timeline->n;
        parts[n++] = (struct vlad_flight_part){
            timeline->action_nu, (size_t)timeline->n * sizeof timeline->action_nu[0]
        };
        parts[n++] = (struct vlad_flight_part){
            timeline->t_obs_ns, (size_t)timeline->n * sizeof timeline->t_obs_ns[0]
        };
        if (queue->aggregate == VLAD_TEMPORAL_ENSEMBLE)
            parts[n++] = (struct vlad_flight_part){
                timeline->opinions, (size_t)timeline->n * sizeof timeline->opinions[0]
            };
    }
    vlad_flight_ring_add(flight->producer, VLAD_FLIGHT_CHUNK, now_ns, parts, n);
}

void vlad_flight_timing(struct vlad_servo *servo)
{
    struct vlad_flight *flight = servo->flight;
    const struct vlad_gate_config *gate = &servo->queue.gate;
    struct vlad_flight_timing record = {
        .period_ns = { gate->period_ns },
        .max_observation_age_ns = { gate->max_observation_age_ns },
        .max_frame_age_ns = { gate->max_frame_age_ns },
        .merge = { 1 + (int32_t)servo->queue.aggregate },
        .ensemble = { servo->queue.ensemble },
        .timeline = { servo->queue.published }
    };
    struct vlad_flight_part part = { &record, sizeof record };
    struct vlad_servo_report report;

    if (!flight)
        return;
    vlad_servo_read(servo, &report); /* the time: this call is given none */
    vlad_flight_ring_add(flight->producer, VLAD_FLIGHT_TIMING, report.t_ns, &part, 1);
}
