/* The tick of the servo loop, what it publishes, and the words that cross threads. */
#include <errno.h>  /* EBUSY */
#include <string.h> /* memset, memcpy */

#include "flight.h"
#include "servo_parts.h"

#define SLEPT_NS VLAD_NS_PER_MS /* row 33: more is no reading that was interrupted */
#define PARK_C 70           /* row 21 */
#define OVERRUNS_WARN 3     /* row 24: in a row */
#define OVERRUN_PERMILLE 10 /* in 10 s, of .. */
#define OVERRUN_LEAST 100   /* .. so many ticks at least */

void vlad_servo_emit(struct vlad_servo *servo, enum vlad_event_kind kind, int64_t a, int64_t b,
                     int64_t value)
{
    uint32_t head = atomic_load_explicit(&servo->event_head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&servo->event_tail, memory_order_acquire);

    if (head - tail == VLAD_EVENTS) {
        servo->now.counters.events_dropped++;
        return;
    }
    servo->event[head % VLAD_EVENTS] = (struct vlad_event){
        .t_ns = servo->now.t_ns, .kind = kind, .a = a, .b = b, .value = value
    };
    atomic_store_explicit(&servo->event_head, head + 1, memory_order_release);
}

void vlad_servo_enter(struct vlad_servo *servo, enum vlad_mode mode)
{
    if (servo->mode == mode)
        return;
    if (servo->mode == VLAD_ENGAGED) {
        servo->starved_since_ns = 0;
        servo->now.queue_depth = servo->now.t_execution_ns = 0;
        servo->now.last_due_ns = INT64_MIN;
    }
    vlad_servo_emit(servo, VLAD_EV_MODE, servo->mode, mode, 0);
    servo->mode = mode;
}

int vlad_servo_adopt(struct vlad_servo *servo, const struct vlad_arm_ops *ops, void *arm,
                     bool torque_on, const int64_t *command_nu)
{
    if (vlad_servo_adopting(servo))
        return -EBUSY;
    servo->adoption = (struct vlad_adoption){ .ops = ops, .arm = arm, .torque_on = torque_on };
    memcpy(servo->adoption.command_nu, command_nu,
           (size_t)servo->config.gate.limits.n_joints * sizeof *command_nu);
    atomic_store_explicit(&servo->adoption_ready, 1, memory_order_release);
    return 0;
}

bool vlad_servo_adopting(const struct vlad_servo *servo)
{
    return atomic_load_explicit(&servo->adoption_ready, memory_order_acquire);
}

void vlad_servo_request(struct vlad_servo *servo, uint32_t requests)
{
    atomic_fetch_or_explicit(&servo->requests, requests, memory_order_release);
}

void vlad_servo_refusals(struct vlad_servo *servo, uint32_t why_not)
{
    atomic_store_explicit(&servo->refusals, why_not & ~0xffu, memory_order_release);
}

void vlad_servo_starve(struct vlad_servo *servo, int cause)
{
    if (cause >= 0 && cause < VLAD_N_STARVES)
        atomic_store_explicit(&servo->starve_cause, cause, memory_order_relaxed);
}

void vlad_servo_slept(struct vlad_servo *servo, int64_t slept_ns)
{
    atomic_store_explicit(&servo->slept_ns, slept_ns, memory_order_relaxed);
}

static void publish(struct vlad_servo *servo, enum vlad_reaction reaction, int64_t now_ns)
{
    struct vlad_servo_report *now = &servo->now;
    struct vlad_command command = { .epoch = servo->mode == VLAD_ENGAGED ? now->epoch : 0 };
    bool rest = vlad_trajectory_at_rest(&servo->trajectory);

    if (rest && !servo->at_rest)
        servo->rest_since_ns = now_ns;
    servo->at_rest = rest;
    command.at_rest = rest;
    command.rest_since_ns = servo->rest_since_ns;
    memcpy(command.goal_nu, servo->written_nu, sizeof command.goal_nu);
    now->mode = servo->mode;
    now->reaction = reaction;
    now->why_not = vlad_servo_why_not(servo, reaction);
    now->bus_up = servo->ops != NULL;
    now->torque_on = servo->torque_on;
    now->parking = servo->parking;
    now->letting_down = servo->easing_since_ns != 0;
    now->realtime = servo->taken.realtime;
    now->at_rest = rest;
    now->rest_since_ns = servo->rest_since_ns;
    now->active = servo->watchdog.active;
    now->latched = servo->watchdog.latched;
    for (int f = 1; f <= VLAD_N_FAULTS; f++) {
        now->fault_since_ns[f] = servo->watchdog.state[f].since_ns;
        now->fault_count[f] = servo->watchdog.state[f].count;
        now->fault_reaction[f] = (uint8_t)vlad_watchdog_reaction(&servo->watchdog, (unsigned)f);
    }
    memcpy(now->goal_nu, servo->written_nu, sizeof now->goal_nu);
    vlad_seqlock_write(&servo->command.lock, &servo->command.body, &command, sizeof command);
    vlad_seqlock_write(&servo->report.lock, &servo->report.body, now, sizeof *now);
}

int vlad_servo_init(struct vlad_servo *servo, const struct vlad_servo_config *config,
                    int64_t now_ns, int *joint)
{
    int rc;

    memset(servo, 0, sizeof *servo);
    servo->config = *config;
    if (servo->config.park_c == 0)
        servo->config.park_c = PARK_C;
    servo->now.t_ns = servo->rest_since_ns = now_ns;
    servo->at_rest = true;
    rc = vlad_trajectory_init(&servo->trajectory, &config->gate.limits, config->unit_nu,
                              config->period_ns, joint);
    if (rc)
        return rc;
    servo->lookahead_ns = vlad_trajectory_lookahead_ns(&servo->trajectory, config->period_ns);
    vlad_watchdog_init(&servo->watchdog);
    rc = vlad_queue_init(&servo->queue, &config->gate, config->aggregate, servo->lookahead_ns);
    publish(servo, VLAD_NONE, now_ns); /* so that nobody reads an empty report as engageable */
    return rc;
}

/* What the faults of this tick demand; every change is told. */
static enum vlad_reaction judge(struct vlad_servo *servo, int64_t now_ns, const uint8_t *own)
{
    struct vlad_watchdog *watchdog = &servo->watchdog;
    struct vlad_watchdog_input *input = &servo->taken.faults;
    uint64_t changed, halting = 0;
    enum vlad_reaction worst;

    vlad_watchdog_gather(watchdog, now_ns, own, input);
    worst = vlad_watchdog_judge(watchdog, now_ns, input, &changed);
    for (unsigned f = 1; f <= VLAD_N_FAULTS; f++) {
        enum vlad_reaction reaction = vlad_watchdog_reaction(watchdog, f);
        int64_t state = (watchdog->active & BIT(f) ? 1 : 0) | (watchdog->latched & BIT(f) ? 2 : 0);

        if (reaction >= VLAD_HOLD)
            halting |= BIT(f);
        if (changed & BIT(f))
            vlad_servo_emit(servo, VLAD_EV_FAULT, f, state, reaction);
    }
    servo->raised = halting & ~servo->halting;
    servo->halting = halting;
    return worst;
}

/* Row 33. While the machine sleeps CLOCK_MONOTONIC stands still: chunks and frames look fresh. */
static void check_sleep(struct vlad_servo *servo, uint8_t *own)
{
    int64_t slept_ns = atomic_load_explicit(&servo->slept_ns, memory_order_relaxed);

    servo->taken.slept_ns = slept_ns;
    if (slept_ns > servo->slept_seen_ns + SLEPT_NS)
        vlad_servo_raise(own, VLAD_F_SUSPENDED, VLAD_HOLD);
    if (slept_ns > servo->slept_seen_ns)
        servo->slept_seen_ns = slept_ns;
}

/* Row 24. gap_ns: how much longer than a period it is since the last tick. */
static void check_deadline(struct vlad_servo *servo, int64_t now_ns, int64_t late_ns,
                           int64_t gap_ns, uint8_t *own)
{
    int64_t hold_ns = servo->config.overrun_hold_ns, period_ns = servo->config.period_ns;
    bool overrun = late_ns > period_ns || gap_ns >= period_ns;

    servo->now.counters.late_wakes += late_ns > period_ns / 2;
    servo->overruns_run = overrun ? servo->overruns_run + 1 : 0;
    vlad_rate_add(&servo->wakes, now_ns, VLAD_NS_PER_S, overrun, 1);
    if (servo->overruns_run >= OVERRUNS_WARN)
        vlad_servo_raise(own, VLAD_F_SERVO_DEADLINE_MISSED, VLAD_WARN);
    if (vlad_rate_above(&servo->wakes, OVERRUN_PERMILLE, OVERRUN_LEAST))
        vlad_servo_raise(own, VLAD_F_SERVO_DEADLINE_MISSED, VLAD_SLOW);
    if (late_ns > hold_ns || gap_ns > hold_ns)
        vlad_servo_raise(own, VLAD_F_SERVO_DEADLINE_MISSED, VLAD_HOLD);
}

/* Requests first: whoever asks has set the refusals before. */
static void take_words(struct vlad_servo *servo)
{
    servo->taken.requests = atomic_exchange_explicit(&servo->requests, 0, memory_order_acquire);
    servo->taken.refusals = atomic_load_explicit(&servo->refusals, memory_order_acquire);
    servo->taken.starve_cause = atomic_load_explicit(&servo->starve_cause, memory_order_relaxed);
    servo->taken.realtime = atomic_load_explicit(&servo->realtime, memory_order_relaxed);
}

void vlad_servo_tick(struct vlad_servo *servo, int64_t now_ns, int64_t late_ns)
{
    struct vlad_servo_report *now = &servo->now;
    uint8_t own[VLAD_N_FAULTS + 1] = { 0 };
    enum vlad_reaction reaction;
    /* A stall inside a tick skips periods, so the next wake-up is not late: the gap tells. */
    int64_t gap_ns = now->counters.ticks ? now_ns - now->t_ns - servo->config.period_ns : 0;

    now->t_ns = now_ns;
    now->counters.ticks++;
    vlad_histogram_add(&now->wake, late_ns);
    vlad_watchdog_beat(&servo->watchdog, VLAD_STAGE_SERVO, now_ns);
    check_deadline(servo, now_ns, late_ns, gap_ns, own);
    check_sleep(servo, own);

    vlad_servo_take_adoption(servo);
    vlad_flight_begin(servo, late_ns);
    vlad_servo_sense(servo, now_ns, own);
    if (servo->mode == VLAD_ENGAGED && servo->starved_since_ns &&
        servo->starved_cause != VLAD_STARVE_COLD && servo->starved_cause != VLAD_STARVE_SYNC)
        vlad_servo_raise(own, VLAD_F_QUEUE_DRAINED, VLAD_SLOW);

    reaction = judge(servo, now_ns, own);
    take_words(servo);
    if (servo->taken.requests)
        now->handled++;
    vlad_servo_decide(servo, servo->taken.requests, reaction);
    servo->wrote = false;
    if (vlad_servo_next_goal(servo, now_ns) && servo->ops)
        vlad_servo_write_goals(servo, now_ns);
    vlad_servo_write_torque(servo, now_ns);

    if (servo->ops) {
        int64_t spent_ns = servo->ops->now_ns(servo->arm) - now_ns;

        vlad_histogram_add(&now->bus, servo->bus_ns);
        vlad_histogram_add(&now->compute, spent_ns - servo->bus_ns);
    }
    publish(servo, reaction, now_ns);
    vlad_flight_tick(servo, own);
}

void vlad_servo_read(struct vlad_servo *servo, struct vlad_servo_report *report)
{
    struct vlad_servo_counters *counters = &report->counters;

    vlad_seqlock_read(&servo->report.lock, &servo->report.body, report, sizeof *report);
    counters->chunks = atomic_load_explicit(&servo->p_chunks, memory_order_relaxed);
    counters->accepted = atomic_load_explicit(&servo->p_accepted, memory_order_relaxed);
    counters->clamped = atomic_load_explicit(&servo->p_clamped, memory_order_relaxed);
    counters->clamped_elements =
        atomic_load_explicit(&servo->p_clamped_elements, memory_order_relaxed);
    counters->tails_dropped = atomic_load_explicit(&servo->p_tails, memory_order_relaxed);
    counters->negative_ages = atomic_load_explicit(&servo->p_negative, memory_order_relaxed);
    for (int r = 0; r < VLAD_N_REASONS; r++)
        counters->rejected[r] = atomic_load_explicit(&servo->producer[r], memory_order_relaxed);
}

void vlad_servo_command(struct vlad_servo *servo, struct vlad_command *command)
{
    vlad_seqlock_read(&servo->command.lock, &servo->command.body, command, sizeof *command);
}

bool vlad_servo_next_event(struct vlad_servo *servo, struct vlad_event *event)
{
    uint32_t tail = atomic_load_explicit(&servo->event_tail, memory_order_relaxed);

    if (tail == atomic_load_explicit(&servo->event_head, memory_order_acquire))
        return false;
    *event = servo->event[tail % VLAD_EVENTS];
    atomic_store_explicit(&servo->event_tail, tail + 1, memory_order_release);
    return true;
}
