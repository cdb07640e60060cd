#include "servo_loop.h"

#include <errno.h>  /* what the bus says */
#include <string.h> /* memset, memcpy */

#define BIT(fault) (1ULL << (fault))
#define CORRUPT_HOLD 5     /* row 17 */
#define CORRUPT_LATCH 10
#define WRITE_FAILURES_LOST 3 /* row 16: then as row 15 */
#define TORQUE_OFF_REPEATS 3  /* unacknowledged; torque on is read back by the arm */
#define TORQUE_TRIES 20       /* then the servos do not take it: as row 19 */

static void emit(struct vlad_servo *servo, enum vlad_event_kind kind, int64_t a, int64_t b,
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

static void enter(struct vlad_servo *servo, enum vlad_mode mode)
{
    if (servo->mode == mode)
        return;
    if (servo->mode == VLAD_ENGAGED) {
        servo->starved_since_ns = 0;
        servo->now.queue_depth = servo->now.t_execution_ns = 0;
        servo->now.last_due_ns = INT64_MIN;
    }
    emit(servo, VLAD_EV_MODE, servo->mode, mode, 0);
    servo->mode = mode;
}

int vlad_servo_adopt(struct vlad_servo *servo, const struct vlad_arm_ops *ops, void *arm,
                     bool torque_on, const int64_t *command_nu)
{
    if (atomic_load_explicit(&servo->adoption_ready, memory_order_acquire))
        return -EBUSY;
    servo->adoption = (struct vlad_adoption){ .ops = ops, .arm = arm, .torque_on = torque_on };
    memcpy(servo->adoption.command_nu, command_nu,
           (size_t)servo->config.gate.limits.n_joints * sizeof *command_nu);
    atomic_store_explicit(&servo->adoption_ready, 1, memory_order_release);
    return 0;
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

/* Takes over the bus that the supervisor opened. Whatever the servos hold is the command in force;
 * nothing is written, so a restart never moves the arm. */
static void take_adoption(struct vlad_servo *servo)
{
    int n = servo->config.gate.limits.n_joints;

    if (!atomic_load_explicit(&servo->adoption_ready, memory_order_acquire))
        return;
    servo->ops = servo->adoption.ops;
    servo->arm = servo->adoption.arm;
    servo->torque_on = servo->torque_wanted = servo->adoption.torque_on;
    memcpy(servo->written_nu, servo->adoption.command_nu, (size_t)n * sizeof(int64_t));
    vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
    memset(&servo->now.arm, 0, sizeof servo->now.arm);
    memset(servo->missed_run, 0, sizeof servo->missed_run);
    memset(servo->corrupt_run, 0, sizeof servo->corrupt_run);
    servo->seen_joints = 0;
    servo->now.adoptions++;
    servo->write_failures = 0;
    servo->torque_repeats = 0; /* they were meant for the old bus */
    servo->retry = false;
    servo->parking = servo->commanded = servo->returned = false;
    atomic_store_explicit(&servo->adoption_ready, 0, memory_order_release);
    enter(servo, servo->watchdog.latched ? VLAD_FAULTED : VLAD_READY);
}

/* The servos hold the last goal, at most one step away, until the supervisor has opened the bus
 * anew and read what holds them. */
static void release_bus(struct vlad_servo *servo)
{
    servo->ops = NULL;
    servo->parking = false;
    vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
    enter(servo, VLAD_OFFLINE);
}

static bool silent_for_long(const struct vlad_servo *servo, int joint)
{
    return (int64_t)servo->missed_run[joint] * servo->config.period_ns >= servo->config.silent_ns;
}

/* Reads the arm and returns the faults that its answer shows. */
static uint64_t read_arm(struct vlad_servo *servo, int64_t now_ns)
{
    struct vlad_servo_report *now = &servo->now;
    int n = servo->config.gate.limits.n_joints, silent = 0;
    uint64_t faults = 0;
    uint8_t status = 0;
    int64_t before_ns;
    int rc;

    if (!servo->ops)
        return 0;
    before_ns = servo->ops->now_ns(servo->arm);
    rc = servo->ops->read(servo->arm, now_ns + servo->config.read_budget_ns, &now->arm);
    servo->bus_ns = servo->ops->now_ns(servo->arm) - before_ns;
    now->counters.reads++;
    if (rc) {
        now->counters.read_errors++;
        release_bus(servo);
        return BIT(VLAD_F_SERIAL_UNPLUGGED);
    }
    servo->seen_joints |= now->arm.answered;
    for (int j = 0; j < n; j++) {
        uint32_t bit = 1u << j;

        if (now->arm.answered & bit) {
            servo->returned |= silent_for_long(servo, j);
            servo->missed_run[j] = servo->corrupt_run[j] = 0;
            status |= now->arm.status[j];
            if (servo->config.park_c && now->arm.temperature_c[j] >= servo->config.park_c)
                faults |= BIT(VLAD_F_SERVO_OVER_TEMPERATURE);
            if (servo->config.min_voltage_mv &&
                now->arm.voltage_mv[j] < servo->config.min_voltage_mv)
                faults |= BIT(VLAD_F_SERVO_VOLTAGE);
        } else if (now->arm.corrupt & bit) {
            now->counters.corrupt[j]++;
            servo->corrupt_run[j]++;
            if (servo->corrupt_run[j] >= CORRUPT_HOLD)
                faults |= BIT(VLAD_F_REPLY_CORRUPT);
            if (servo->corrupt_run[j] >= CORRUPT_LATCH)
                faults |= BIT(VLAD_F_BUS_GARBAGE);
        } else {
            now->counters.missed[j]++;
            servo->missed_run[j]++;
            silent += silent_for_long(servo, j);
        }
    }
    if (silent == n) { /* row 44: without power they forget torque and goals */
        release_bus(servo);
        return BIT(VLAD_F_SERVO_SUPPLY_LOST);
    }
    if (silent)
        faults |= BIT(VLAD_F_SERVO_SILENT);
    if (status & VLAD_STATUS_OVERLOAD)
        faults |= BIT(VLAD_F_SERVO_OVERLOAD);
    if (status & (VLAD_STATUS_TEMPERATURE))
        faults |= BIT(VLAD_F_SERVO_OVER_TEMPERATURE);
    if (status & VLAD_STATUS_VOLTAGE)
        faults |= BIT(VLAD_F_SERVO_VOLTAGE);
    if (status & VLAD_STATUS_ENCODER)
        faults |= BIT(VLAD_F_SERVO_ENCODER);
    if (status & VLAD_STATUS_CURRENT)
        faults |= BIT(VLAD_F_SERVO_OVERLOAD);
    return faults;
}

static bool beyond_limits(const struct vlad_servo *servo, const int64_t *pose_nu)
{
    const struct vlad_limits *limits = &servo->config.gate.limits;

    for (int j = 0; j < limits->n_joints; j++) {
        const struct vlad_joint_limits *joint = &limits->joint[j];
        int64_t slack = (joint->max_nu - joint->min_nu) / 1000 * servo->config.gate.clamp_permille;

        if (pose_nu[j] < joint->min_nu - slack || pose_nu[j] > joint->max_nu + slack)
            return true;
    }
    return false;
}

static uint64_t why_not(struct vlad_servo *servo, enum vlad_reaction reaction)
{
    int n = servo->config.gate.limits.n_joints;
    uint64_t why = atomic_load_explicit(&servo->refusals, memory_order_acquire);

    if (!servo->ops || servo->seen_joints != (1u << n) - 1)
        why |= VLAD_WHY_BUS;
    else if (beyond_limits(servo, servo->torque_on ? servo->written_nu
                                                   : servo->now.arm.position_nu))
        why |= VLAD_WHY_LIMITS;
    if (servo->watchdog.latched)
        why |= VLAD_WHY_LATCHED;
    else if (reaction >= VLAD_HOLD)
        why |= VLAD_WHY_FAULT;
    if (!servo->config.allow_non_realtime &&
        !atomic_load_explicit(&servo->realtime, memory_order_relaxed))
        why |= VLAD_WHY_REALTIME;
    if (servo->mode == VLAD_STOPPING || (servo->torque_on && !servo->torque_wanted))
        why |= VLAD_WHY_MOVING; /* until torque off has gone out nobody knows what they hold */
    return why;
}

static void set_torque(struct vlad_servo *servo, bool on)
{
    servo->torque_wanted = on;
    servo->torque_repeats = on ? 1 : TORQUE_OFF_REPEATS;
    servo->torque_tries = 0;
    emit(servo, VLAD_EV_TORQUE, (1 << servo->config.gate.limits.n_joints) - 1, on, 0);
}

static void refuse(struct vlad_servo *servo, uint32_t request, uint64_t why)
{
    servo->now.counters.refused_requests++;
    emit(servo, VLAD_EV_REFUSED, request, (int64_t)why, 0);
}

static void take_pose(struct vlad_servo *servo)
{
    memcpy(servo->written_nu, servo->now.arm.position_nu, sizeof servo->written_nu);
    vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
}

/* From READY nothing holds the arm yet: its present pose becomes the command, then torque. */
static void take_hold(struct vlad_servo *servo)
{
    if (servo->torque_on)
        return;
    take_pose(servo);
    set_torque(servo, true);
}

static void engage(struct vlad_servo *servo, uint32_t request, enum vlad_reaction reaction)
{
    uint64_t why = why_not(servo, reaction);
    bool from_here = servo->mode == VLAD_HOLDING ||
                     (servo->mode == VLAD_READY && request == VLAD_REQ_ENGAGE);

    if (request == VLAD_REQ_RESUME && !servo->resumable)
        from_here = false;

    if (servo->mode == VLAD_ENGAGED)
        return;
    if (why || !from_here) {
        refuse(servo, request, why);
        return;
    }
    take_hold(servo);
    servo->commanded = servo->resumable = true;
    servo->now.epoch++;
    servo->now.counters.engagements++;
    servo->read_at_ns = INT64_MIN;
    atomic_store_explicit(&servo->starve_cause, VLAD_STARVE_COLD, memory_order_relaxed);
    enter(servo, VLAD_ENGAGED);
}

static void limp(struct vlad_servo *servo)
{
    if (!servo->ops) {
        refuse(servo, VLAD_REQ_LIMP, VLAD_WHY_BUS);
        return;
    }
    /* Whatever the loop believes: some joints may have had torque when adopted. */
    set_torque(servo, false);
    servo->parking = false;
    vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
    enter(servo, servo->watchdog.latched ? VLAD_FAULTED : VLAD_READY);
}

static bool moving_mode(const struct vlad_servo *servo)
{
    return servo->mode == VLAD_ENGAGED || servo->mode == VLAD_STOPPING;
}

static void halt(struct vlad_servo *servo)
{
    servo->parking = false;
    if (moving_mode(servo))
        enter(servo, VLAD_STOPPING);
}

/* PARK sweeps the arm to the rest pose: an operator's hold ends it until a clear has left nothing
 * latched, and on a bus that was opened anew no fault parks before an operator moved the arm. */
static void park(struct vlad_servo *servo, uint32_t requests, enum vlad_reaction reaction)
{
    bool asked = requests & VLAD_REQ_PARK;

    if ((requests & VLAD_REQ_CLEAR && !servo->watchdog.latched) || asked)
        servo->park_inhibited = false;
    if (requests & VLAD_REQ_HOLD)
        servo->park_inhibited = true;
    if (!asked && (reaction != VLAD_PARK || servo->park_inhibited || !servo->commanded))
        return;
    if (asked && reaction == VLAD_HOLD && (servo->watchdog.latched || servo->raised)) {
        refuse(servo, VLAD_REQ_PARK, servo->watchdog.latched ? VLAD_WHY_LATCHED : VLAD_WHY_FAULT);
        return;
    }
    if (!servo->config.has_rest_pose || !servo->ops || !servo->torque_on ||
        !servo->torque_wanted) {
        if (asked)
            refuse(servo, VLAD_REQ_PARK, servo->ops ? 0 : VLAD_WHY_BUS);
        return;
    }
    if (servo->mode == VLAD_STOPPING && !servo->parking && !asked)
        return; /* a fault parks only once the arm has stopped */
    servo->parking = servo->commanded = true;
    enter(servo, VLAD_STOPPING);
}

/* Within one tick the lowest authority wins: the requests that a lower one overrules. */
static uint32_t overruled(uint32_t requests)
{
    const uint32_t drive = VLAD_REQ_RESUME | VLAD_REQ_ENGAGE;

    if (requests & (VLAD_REQ_LIMP | VLAD_REQ_HOLD))
        return requests & (VLAD_REQ_PARK | drive);
    return requests & VLAD_REQ_PARK ? requests & drive : 0;
}

/* Whether the arm must stop. An operator may park an arm that an unlatched fault holds, a lost
 * camera say; but the next fault ends that, as any latched one does. */
static bool must_halt(const struct vlad_servo *servo, enum vlad_reaction reaction)
{
    if (servo->parking)
        return reaction == VLAD_HOLD && (servo->raised || servo->watchdog.latched);
    return reaction >= VLAD_HOLD;
}

/* Requests and reactions to a mode. */
static void decide(struct vlad_servo *servo, uint32_t requests, enum vlad_reaction reaction)
{
    uint32_t lost;

    if (reaction == VLAD_LIMP && servo->torque_wanted && servo->ops)
        requests |= VLAD_REQ_LIMP;
    lost = overruled(requests);
    if (lost)
        refuse(servo, lost, VLAD_WHY_MOVING);
    requests &= ~lost;
    if (requests & VLAD_REQ_CLEAR)
        vlad_watchdog_clear(&servo->watchdog);
    if (requests & VLAD_REQ_LIMP) {
        limp(servo);
        return;
    }
    if (requests & VLAD_REQ_HOLD || must_halt(servo, reaction))
        halt(servo);
    park(servo, requests, reaction);
    if (servo->mode == VLAD_FAULTED && !servo->watchdog.latched)
        enter(servo, !servo->ops ? VLAD_OFFLINE : servo->torque_on ? VLAD_HOLDING : VLAD_READY);
    if (servo->watchdog.latched && servo->mode != VLAD_FAULTED && !moving_mode(servo))
        enter(servo, VLAD_FAULTED);
    if (servo->watchdog.latched || !servo->ops)
        servo->resumable = false; /* `clear`, then `engage` */
    if (servo->returned && servo->mode == VLAD_FAULTED)
        release_bus(servo); /* a servo that was away may have lost its power, and so its torque */
    if (requests & VLAD_REQ_RESUME)
        engage(servo, VLAD_REQ_RESUME, reaction);
    else if (requests & VLAD_REQ_ENGAGE)
        engage(servo, VLAD_REQ_ENGAGE, reaction);
}

/* The deadline again, where nothing can come between: judged when a timeline is first seen. */
static bool overdue(struct vlad_servo *servo, const struct vlad_timeline *timeline, int64_t now_ns)
{
    if (timeline->seq != servo->seen_seq || timeline->t0_ns != servo->seen_t0_ns) {
        servo->seen_seq = timeline->seq;
        servo->seen_t0_ns = timeline->t0_ns;
        servo->overdue = now_ns > timeline->overdue_ns;
        servo->now.counters.overdue += servo->overdue;
    }
    return servo->overdue;
}

/* The reference for this tick, read ahead so that the filter has no lag. Near the end of the queue
 * it stands still early enough that the arm is at rest when the last action is due. */
static bool queue_reference(struct vlad_servo *servo, int64_t now_ns, int64_t *target_nu)
{
    const struct vlad_timeline *timeline = vlad_queue_newest(&servo->queue);
    int64_t last = vlad_timeline_last_due_ns(timeline), at;
    int n = servo->config.gate.limits.n_joints;

    memcpy(target_nu, servo->trajectory.input_nu, sizeof servo->trajectory.input_nu);
    servo->now.queue_depth = 0;
    servo->now.t_execution_ns = 0;
    servo->now.last_due_ns = INT64_MIN;
    if (timeline->n == 0 || timeline->epoch != servo->now.epoch || overdue(servo, timeline, now_ns))
        return false;
    servo->now.last_due_ns = last;
    servo->now.queue_depth = vlad_timeline_depth(timeline, now_ns);
    if (servo->now.queue_depth > 0)
        servo->now.t_execution_ns = last + timeline->period_ns - now_ns;
    at = now_ns + servo->lookahead_ns;
    if (at > last - servo->lookahead_ns)
        at = last - servo->lookahead_ns;
    if (at < servo->read_at_ns || at < timeline->t0_ns)
        at = servo->read_at_ns > timeline->t0_ns ? servo->read_at_ns : timeline->t0_ns;
    if (at > last)
        return false;
    servo->read_at_ns = at;
    vlad_timeline_at(timeline, n, at, target_nu);
    {
        int64_t k = (now_ns - timeline->t0_ns) / timeline->period_ns;

        k = k < 0 ? 0 : k >= timeline->n ? timeline->n - 1 : k;
        servo->now.wire_age_ns = now_ns - timeline->t_obs_ns[k];
        if (servo->now.queue_depth > 0 && servo->now.wire_age_ns > servo->now.wire_age_max_ns)
            servo->now.wire_age_max_ns = servo->now.wire_age_ns;
    }
    return now_ns + servo->lookahead_ns <= last - servo->lookahead_ns;
}

static void count_coverage(struct vlad_servo *servo, bool covered, int64_t now_ns)
{
    struct vlad_servo_counters *counters = &servo->now.counters;

    counters->engaged_ticks++;
    if (covered) {
        counters->covered_ticks++;
        if (servo->starved_since_ns)
            emit(servo, VLAD_EV_GAP, servo->starved_cause, 0, now_ns - servo->starved_since_ns);
        servo->starved_since_ns = 0;
        return;
    }
    servo->starved_cause = atomic_load_explicit(&servo->starve_cause, memory_order_relaxed);
    if (!servo->starved_since_ns) {
        servo->starved_since_ns = now_ns;
        counters->gaps++;
    }
    counters->starved[servo->starved_cause]++;
}

/* The last checks before the wire. A goal that fails is not written. */
static bool may_write(struct vlad_servo *servo, const int64_t *goal_nu)
{
    const struct vlad_limits *limits = &servo->config.gate.limits;

    for (int j = 0; j < limits->n_joints; j++) {
        int64_t last = servo->written_nu[j], step = goal_nu[j] - last;
        /* An arm found outside its limits may only move inwards. */
        int64_t min = last < limits->joint[j].min_nu ? last : limits->joint[j].min_nu;
        int64_t max = last > limits->joint[j].max_nu ? last : limits->joint[j].max_nu;

        if (goal_nu[j] < min || goal_nu[j] > max) {
            servo->now.counters.wire_limit++;
            emit(servo, VLAD_EV_WIRE, j, 1, goal_nu[j]);
            return false;
        }
        if (step > servo->trajectory.step_nu[j] || -step > servo->trajectory.step_nu[j]) {
            servo->now.counters.wire_step++;
            emit(servo, VLAD_EV_WIRE, j, 2, goal_nu[j]);
            return false;
        }
    }
    return true;
}

static void write_goals(struct vlad_servo *servo, int64_t now_ns)
{
    struct vlad_servo_counters *counters = &servo->now.counters;
    const int64_t *goal_nu = servo->trajectory.goal_nu;
    int64_t deadline_ns = now_ns + servo->config.period_ns / 2, before_ns;
    int rc;

    if (!may_write(servo, goal_nu)) {
        vlad_watchdog_pulse(&servo->watchdog, VLAD_F_ACTION_OUT_OF_LIMITS);
        vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
        halt(servo);
        return;
    }
    before_ns = servo->ops->now_ns(servo->arm);
    rc = servo->ops->write(servo->arm, deadline_ns, goal_nu);
    servo->bus_ns += servo->ops->now_ns(servo->arm) - before_ns;
    if (rc == 0) {
        counters->writes++;
        servo->write_failures = 0;
        servo->retry = false;
        memcpy(servo->written_nu, goal_nu, sizeof servo->written_nu);
        return;
    }
    if (rc == -EAGAIN) { /* the same goal again next tick: the trajectory waits for the wire */
        counters->dropped_writes++;
        servo->retry = true;
        if (++servo->write_failures < WRITE_FAILURES_LOST) {
            vlad_watchdog_pulse(&servo->watchdog, VLAD_F_SHORT_WRITE);
            return;
        }
    }
    counters->write_errors++;
    release_bus(servo);
    vlad_watchdog_pulse(&servo->watchdog, VLAD_F_SERIAL_UNPLUGGED);
}

static void write_torque(struct vlad_servo *servo, int64_t now_ns)
{
    uint32_t all = (1u << servo->config.gate.limits.n_joints) - 1;
    int64_t before_ns;
    bool power = servo->torque_wanted && !servo->torque_on;
    int rc = -EAGAIN;

    if (servo->torque_repeats == 0 || !servo->ops)
        return;
    if (power)
        take_pose(servo); /* a limp arm may have sagged since the last try */
    before_ns = servo->ops->now_ns(servo->arm);
    if (!power || servo->now.arm.answered == all) /* power comes with a pose of this very tick */
        rc = servo->ops->torque(servo->arm, now_ns + servo->config.period_ns, all,
                                servo->torque_wanted, servo->written_nu);
    servo->bus_ns += servo->ops->now_ns(servo->arm) - before_ns;
    if (rc) {
        if (++servo->torque_tries == TORQUE_TRIES) {
            servo->torque_repeats = 0;
            servo->torque_wanted = servo->torque_on;
            vlad_watchdog_pulse(&servo->watchdog, VLAD_F_SERVO_SILENT);
        }
        return; /* tried again next tick; a dead bus shows in the next read */
    }
    servo->torque_repeats--;
    servo->torque_on = servo->torque_wanted;
}

/* Moves the goal by one tick as the mode demands; true when there is something to write. */
static bool next_goal(struct vlad_servo *servo, int64_t now_ns)
{
    int64_t target_nu[VLAD_MAX_JOINTS];

    if (servo->retry && servo->torque_wanted)
        return true;
    switch (servo->mode) {
    case VLAD_ENGAGED:
        if (!servo->torque_on)
            return false; /* the present pose goes out together with the torque */
        count_coverage(servo, queue_reference(servo, now_ns, target_nu), now_ns);
        vlad_trajectory_advance(&servo->trajectory, target_nu, 1000);
        return true;
    case VLAD_STOPPING:
        if (!servo->parking) {
            if (vlad_trajectory_stop(&servo->trajectory))
                enter(servo, servo->watchdog.latched ? VLAD_FAULTED : VLAD_HOLDING);
            return true;
        }
        if (servo->trajectory.stopping) {
            vlad_trajectory_stop(&servo->trajectory);
            return true;
        }
        vlad_trajectory_advance(&servo->trajectory, servo->config.rest_nu,
                                servo->config.park_permille);
        if (vlad_trajectory_at_rest(&servo->trajectory) &&
            memcmp(servo->trajectory.goal_nu, servo->config.rest_nu,
                   (size_t)servo->config.gate.limits.n_joints * sizeof(int64_t)) == 0) {
            servo->parking = false;
            emit(servo, VLAD_EV_PARKED, 0, 0, 0);
            set_torque(servo, false);
            enter(servo, servo->watchdog.latched ? VLAD_FAULTED : VLAD_READY);
        }
        return true;
    case VLAD_HOLDING:
        return servo->torque_wanted;
    default:
        return false;
    }
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
    now->why_not = why_not(servo, reaction);
    now->bus_up = servo->ops != NULL;
    now->torque_on = servo->torque_on;
    now->parking = servo->parking;
    now->realtime = atomic_load_explicit(&servo->realtime, memory_order_relaxed);
    now->at_rest = rest;
    now->rest_since_ns = servo->rest_since_ns;
    now->active = servo->watchdog.active;
    now->latched = servo->watchdog.latched;
    for (int f = 1; f <= VLAD_N_FAULTS; f++) {
        now->fault_since_ns[f] = servo->watchdog.state[f].since_ns;
        now->fault_count[f] = servo->watchdog.state[f].count;
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
    servo->now.t_ns = servo->rest_since_ns = now_ns;
    servo->at_rest = true;
    rc = vlad_trajectory_init(&servo->trajectory, &config->gate.limits, config->unit_nu,
                              config->period_ns, joint);
    if (rc)
        return rc;
    servo->lookahead_ns = vlad_trajectory_lookahead_ns(&servo->trajectory, config->period_ns);
    vlad_watchdog_init(&servo->watchdog, now_ns);
    rc = vlad_queue_init(&servo->queue, &config->gate, config->aggregate, servo->lookahead_ns);
    publish(servo, VLAD_NONE, now_ns); /* so that nobody reads an empty report as engageable */
    return rc;
}

void vlad_servo_tick(struct vlad_servo *servo, int64_t now_ns, int64_t late_ns)
{
    struct vlad_servo_report *now = &servo->now;
    uint64_t own, changed = 0;
    uint32_t requests;
    enum vlad_reaction reaction;
    /* A stall inside a tick skips periods, so the next wake-up is not late: the gap tells. */
    int64_t gap_ns = now->counters.ticks ? now_ns - now->t_ns - servo->config.period_ns : 0;

    now->t_ns = now_ns;
    now->counters.ticks++;
    vlad_histogram_add(&now->wake, late_ns);
    vlad_watchdog_beat(&servo->watchdog, VLAD_STAGE_SERVO, now_ns);
    if (late_ns > servo->config.overrun_hold_ns || gap_ns > servo->config.overrun_hold_ns)
        vlad_watchdog_pulse(&servo->watchdog, VLAD_F_SERVO_DEADLINE_MISSED);

    take_adoption(servo);
    own = read_arm(servo, now_ns);
    if (servo->mode == VLAD_ENGAGED && servo->starved_since_ns &&
        servo->starved_cause != VLAD_STARVE_COLD && servo->starved_cause != VLAD_STARVE_SYNC)
        own |= BIT(VLAD_F_QUEUE_DRAINED);

    reaction = vlad_watchdog_evaluate(&servo->watchdog, now_ns, own, &changed);
    servo->raised = false;
    for (uint64_t rest = changed; rest; rest &= rest - 1) {
        int fault = __builtin_ctzll(rest);
        uint64_t bit = BIT(fault);

        servo->raised |=
            servo->watchdog.active & bit && vlad_fault_rows[fault].reaction >= VLAD_HOLD;
        emit(servo, VLAD_EV_FAULT, fault,
             (servo->watchdog.active & bit ? 1 : 0) | (servo->watchdog.latched & bit ? 2 : 0), 0);
    }
    requests = atomic_exchange_explicit(&servo->requests, 0, memory_order_acquire);
    if (requests)
        now->handled++;
    decide(servo, requests, reaction);
    if (next_goal(servo, now_ns) && servo->ops)
        write_goals(servo, now_ns);
    write_torque(servo, now_ns);

    if (servo->ops) {
        int64_t spent_ns = servo->ops->now_ns(servo->arm) - now_ns;

        vlad_histogram_add(&now->bus, servo->bus_ns);
        vlad_histogram_add(&now->compute, spent_ns - servo->bus_ns);
    }
    publish(servo, reaction, now_ns);
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
