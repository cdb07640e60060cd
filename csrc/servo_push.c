/* The producer's side of the servo loop: how a chunk comes in, and what its rejection counts as. */
#include <errno.h>  /* EINVAL */
#include <string.h> /* memmove */

#include "flight.h"
#include "servo_parts.h"

#define STALE_RUN_HOLD 5                      /* row 10 */
#define BAD_WINDOW_NS (10 * VLAD_NS_PER_S)    /* row 12: three in 10 s */

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* Row 12: three rejections for contents within the window. */
static bool third_bad(struct vlad_servo *servo, int64_t now_ns)
{
    memmove(servo->bad_ns + 1, servo->bad_ns, sizeof servo->bad_ns - sizeof *servo->bad_ns);
    servo->bad_ns[0] = now_ns;
    return servo->bad_ns[2] && now_ns - servo->bad_ns[2] <= BAD_WINDOW_NS;
}

/* The faults that a chunk's verdict raises: a mask. */
static uint64_t faults_of(struct vlad_servo *servo, const struct vlad_chunk *chunk, int64_t now_ns,
                          const struct vlad_gate_report *report)
{
    bool stale = report->verdict == VLAD_REJECTED &&
                 (report->reason == VLAD_R_STALE || report->reason == VLAD_R_FRAME_AGE);
    uint64_t faults = 0;

    servo->stale_run = stale ? servo->stale_run + 1 : 0;
    if (servo->stale_run >= STALE_RUN_HOLD)
        faults |= BIT(VLAD_F_STALE_CHUNK);
    if (report->verdict != VLAD_REJECTED)
        return faults;
    switch (report->reason) {
    case VLAD_R_NOT_FINITE:
        return faults | BIT(VLAD_F_ACTION_NOT_FINITE);
    case VLAD_R_SHAPE:
    case VLAD_R_POSITION:
    case VLAD_R_STEP:
        return third_bad(servo, now_ns) ? faults | BIT(VLAD_F_ACTION_OUT_OF_LIMITS) : faults;
    case VLAD_R_JUMP:
        return faults | BIT(chunk->cold ? VLAD_F_UNEXPECTED_INITIAL_POSE : VLAD_F_CHUNK_JUMP);
    default:
        return faults;
    }
}

void vlad_servo_push_with(struct vlad_servo *servo, const struct vlad_chunk *chunk,
                          const struct vlad_command *command, int64_t now_ns,
                          struct vlad_gate_report *report)
{
    uint64_t raised;

    count(&servo->p_chunks, 1);
    if (chunk->frame_age_ns < 0)
        count(&servo->p_negative, 1);
    vlad_flight_before_push(servo);
    vlad_queue_push(&servo->queue, chunk, command, now_ns, report);
    if (report->verdict == VLAD_REJECTED) {
        count(&servo->producer[report->reason], 1);
    } else {
        count(&servo->p_accepted, 1);
        count(&servo->p_clamped, report->verdict == VLAD_CLAMPED);
        count(&servo->p_clamped_elements, (uint64_t)report->n_clamped);
        count(&servo->p_tails, (uint64_t)report->n_tail_dropped);
    }
    raised = faults_of(servo, chunk, now_ns, report);
    for (uint64_t rest = raised; rest; rest &= rest - 1)
        vlad_watchdog_pulse(&servo->watchdog, (enum vlad_fault)__builtin_ctzll(rest));
    vlad_flight_push(servo, chunk, command, now_ns, report, raised);
}

void vlad_servo_push(struct vlad_servo *servo, const struct vlad_chunk *chunk, int64_t now_ns,
                     struct vlad_gate_report *report)
{
    struct vlad_command command;

    vlad_servo_command(servo, &command);
    vlad_servo_push_with(servo, chunk, &command, now_ns, report);
}

int vlad_servo_set_timing(struct vlad_servo *servo, int64_t period_ns, int64_t horizon_ns,
                          int64_t max_frame_age_ns, enum vlad_aggregate aggregate,
                          int64_t ensemble)
{
    struct vlad_gate_config gate = servo->queue.gate;

    gate.period_ns = period_ns;
    gate.max_observation_age_ns = gate.max_reuse_age_ns = horizon_ns;
    gate.max_frame_age_ns = max_frame_age_ns;
    if (vlad_gate_check_config(&gate) || horizon_ns < period_ns || max_frame_age_ns <= 0 ||
        servo->queue.lookahead_ns > VLAD_MAX_ACTIONS * period_ns ||
        vlad_queue_set_aggregate(&servo->queue, aggregate, ensemble))
        return -EINVAL;
    servo->queue.gate = gate;
    return 0;
}

int vlad_servo_policy_timing(struct vlad_servo *servo, int64_t period_ns, int64_t horizon_ns,
                             int64_t max_frame_age_ns, enum vlad_aggregate aggregate,
                             int64_t ensemble)
{
    int rc = vlad_servo_set_timing(servo, period_ns, horizon_ns, max_frame_age_ns, aggregate,
                                   ensemble);

    if (rc)
        return rc;
    vlad_queue_clear(&servo->queue);
    vlad_flight_timing(servo);
    return 0;
}
