/* The producer's side of the servo loop: how a chunk comes in, and what its rejection counts as. */
#include <errno.h>  /* EINVAL */
#include <string.h> /* memmove */

#include "servo_loop.h"

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

static void raise_faults(struct vlad_servo *servo, const struct vlad_chunk *chunk, int64_t now_ns,
                         const struct vlad_gate_report *report)
{
    struct vlad_watchdog *watchdog = &servo->watchdog;
    bool stale = report->verdict == VLAD_REJECTED &&
                 (report->reason == VLAD_R_STALE || report->reason == VLAD_R_FRAME_AGE);

    servo->stale_run = stale ? servo->stale_run + 1 : 0;
    if (servo->stale_run >= STALE_RUN_HOLD)
        vlad_watchdog_pulse(watchdog, VLAD_F_STALE_CHUNK);
    if (report->verdict != VLAD_REJECTED)
        return;
    switch (report->reason) {
    case VLAD_R_NOT_FINITE:
        vlad_watchdog_pulse(watchdog, VLAD_F_ACTION_NOT_FINITE);
        break;
    case VLAD_R_SHAPE:
    case VLAD_R_POSITION:
    case VLAD_R_STEP:
        if (third_bad(servo, now_ns))
            vlad_watchdog_pulse(watchdog, VLAD_F_ACTION_OUT_OF_LIMITS);
        break;
    case VLAD_R_JUMP:
        vlad_watchdog_pulse(watchdog, chunk->cold ? VLAD_F_UNEXPECTED_INITIAL_POSE
                                                  : VLAD_F_CHUNK_JUMP);
        break;
    default:
        break;
    }
}

void vlad_servo_push(struct vlad_servo *servo, const struct vlad_chunk *chunk, int64_t now_ns,
                     struct vlad_gate_report *report)
{
    struct vlad_command command;

    vlad_servo_command(servo, &command);
    count(&servo->p_chunks, 1);
    if (chunk->frame_age_ns < 0)
        count(&servo->p_negative, 1);
    vlad_queue_push(&servo->queue, chunk, &command, now_ns, report);
    if (report->verdict == VLAD_REJECTED) {
        count(&servo->producer[report->reason], 1);
    } else {
        count(&servo->p_accepted, 1);
        count(&servo->p_clamped, report->verdict == VLAD_CLAMPED);
        count(&servo->p_clamped_elements, (uint64_t)report->n_clamped);
        count(&servo->p_tails, (uint64_t)report->n_tail_dropped);
    }
    raise_faults(servo, chunk, now_ns, report);
}

int vlad_servo_policy_timing(struct vlad_servo *servo, int64_t period_ns, int64_t horizon_ns,
                             int64_t max_frame_age_ns)
{
    struct vlad_gate_config gate = servo->queue.gate;

    gate.period_ns = period_ns;
    gate.max_observation_age_ns = gate.max_reuse_age_ns = horizon_ns;
    gate.max_frame_age_ns = max_frame_age_ns;
    if (vlad_gate_check_config(&gate) || horizon_ns < period_ns || max_frame_age_ns <= 0 ||
        servo->queue.lookahead_ns > VLAD_MAX_ACTIONS * period_ns)
        return -EINVAL;
    servo->queue.gate = gate;
    vlad_queue_clear(&servo->queue);
    return 0;
}
