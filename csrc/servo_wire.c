/* From mode and queue to the next goal, its last checks, and the wire. */
#include <errno.h>  /* EAGAIN */
#include <stdlib.h> /* llabs */
#include <string.h> /* memcpy, memcmp */

#include "servo_parts.h"

#define WRITE_FAILURES_LOST 3 /* row 16: then as row 15 */
#define TORQUE_TRIES 20       /* then the servos do not take it: as row 19 */
#define EASE_NS (2 * VLAD_NS_PER_S) /* PARK without a sweep: the torque fades */

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
    if (at < timeline->t0_ns)
        at = timeline->t0_ns;
    if (at < servo->read_at_ns)
        at = servo->read_at_ns;
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
            vlad_servo_emit(servo, VLAD_EV_GAP, servo->starved_cause, 0,
                            now_ns - servo->starved_since_ns);
        servo->starved_since_ns = 0;
        return;
    }
    servo->starved_cause = servo->taken.starve_cause;
    if (!servo->starved_since_ns) {
        servo->starved_since_ns = now_ns;
        counters->gaps++;
    }
    counters->starved[servo->starved_cause]++;
}

/* The nearest to nu that the limits of joint j allow. One found outside them may only move inwards. */
static int64_t inside(const struct vlad_servo *servo, int j, int64_t nu)
{
    const struct vlad_joint_limits *limit = &servo->config.gate.limits.joint[j];
    int64_t last = servo->written_nu[j];
    int64_t min = last < limit->min_nu ? last : limit->min_nu;
    int64_t max = last > limit->max_nu ? last : limit->max_nu;

    return nu < min ? min : nu > max ? max : nu;
}

/* The last checks before the wire. A goal that fails is not written. */
static bool may_write(struct vlad_servo *servo, const int64_t *goal_nu)
{
    for (int j = 0; j < servo->config.gate.limits.n_joints; j++) {
        int64_t step = goal_nu[j] - servo->written_nu[j];

        if (goal_nu[j] != inside(servo, j, goal_nu[j])) {
            servo->now.counters.wire_limit++;
            vlad_servo_emit(servo, VLAD_EV_WIRE, j, 1, goal_nu[j]);
            return false;
        }
        if (step > servo->trajectory.step_nu[j] || -step > servo->trajectory.step_nu[j]) {
            servo->now.counters.wire_step++;
            vlad_servo_emit(servo, VLAD_EV_WIRE, j, 2, goal_nu[j]);
            return false;
        }
    }
    return true;
}

/* Whether a joint answered without the torque it was given: row 44, or a reading that is none. */
static bool unpowered(const struct vlad_servo *servo)
{
    for (int j = 0; j < servo->config.gate.limits.n_joints; j++)
        if (servo->now.arm.answered >> j & 1 && servo->watch.unpowered[j])
            return true;
    return false;
}

void vlad_servo_write_goals(struct vlad_servo *servo, int64_t now_ns)
{
    struct vlad_servo_counters *counters = &servo->now.counters;
    const int64_t *goal_nu = servo->trajectory.goal_nu;
    int64_t deadline_ns = now_ns + servo->config.period_ns / 2, before_ns;
    int rc;

    if (!servo->torque_on)
        return; /* goals mean nothing to a limp arm, and with some firmware they bring torque */
    if (!may_write(servo, goal_nu)) {
        vlad_watchdog_pulse(&servo->watchdog, VLAD_F_ACTION_OUT_OF_LIMITS);
        vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
        vlad_servo_halt(servo);
        return;
    }
    if (unpowered(servo)) { /* a goal might bring it torque, and it jump: the trajectory waits */
        counters->dropped_writes++;
        servo->retry = true;
        return;
    }
    before_ns = servo->ops->now_ns(servo->arm);
    rc = servo->ops->write(servo->arm, deadline_ns, goal_nu);
    servo->bus_ns += servo->ops->now_ns(servo->arm) - before_ns;
    if (rc == 0) {
        counters->writes++;
        servo->write_failures = 0;
        servo->retry = false;
        servo->wrote = true;
        memcpy(servo->written_nu, goal_nu, sizeof servo->written_nu);
        return;
    }
    if (rc == -EAGAIN) { /* the same goal again next tick: the trajectory waits for the wire */
        counters->dropped_writes++;
        servo->retry = true;
        if (++servo->write_failures < WRITE_FAILURES_LOST)
            return; /* told in the next tick */
    }
    counters->write_errors++;
    vlad_servo_release_bus(servo);
    vlad_watchdog_pulse(&servo->watchdog, VLAD_F_SERIAL_UNPLUGGED);
}

/* The servos do not take it: power that was to come does not. */
static void give_up(struct vlad_servo *servo)
{
    servo->torque_repeats = 0;
    servo->torque_wanted = servo->torque_on;
    vlad_watchdog_pulse(&servo->watchdog, VLAD_F_SERVO_SILENT);
}

/* Joints that may not get the torque limit asked for: their register shows less, and more torque only
 * while engaged: later it would pull. What it shows is not adopted: it may have been misread. */
static uint32_t kept_low(const struct vlad_servo *servo)
{
    uint32_t low = 0;

    for (int j = 0; j < servo->config.gate.limits.n_joints; j++)
        if (servo->mode != VLAD_ENGAGED &&
            servo->now.arm.limit_permille[j] < servo->now.limit_permille[j])
            low |= 1u << j;
    return low;
}

/* True when every joint has the torque limit that it was given, as its register shows, or may not
 * have it. What did not arrive goes out again. */
static bool write_limits(struct vlad_servo *servo, int64_t now_ns)
{
    uint32_t may = servo->seen_joints & ~kept_low(servo);
    uint32_t missing = servo->now.arm.limited & servo->now.arm.answered & may;
    uint32_t due = (servo->limits_due & may) | missing;

    servo->limit_tries = missing ? servo->limit_tries + 1 : 0;
    if (servo->limit_tries == TORQUE_TRIES) {
        if (servo->torque_wanted && !servo->torque_on)
            give_up(servo);
        else
            vlad_watchdog_pulse(&servo->watchdog, VLAD_F_SERVO_SILENT);
    }
    if (!due)
        return true;
    if (servo->ops->limit(servo->arm, now_ns + servo->config.period_ns, due,
                          servo->now.limit_permille) == 0)
        servo->limits_due &= ~due;
    return false;
}

/* Row 23: a servo whose encoder lies drives to wherever that says, so it gets no torque. */
static void cut_liars(struct vlad_servo *servo, int64_t now_ns)
{
    const struct vlad_arm_state *arm = &servo->now.arm;
    uint32_t cut = servo->now.lying & (arm->powered | ~arm->answered);

    if (servo->torque_on && cut)
        servo->ops->torque(servo->arm, now_ns + servo->config.period_ns, cut, false,
                           servo->written_nu);
}

static void write_torque(struct vlad_servo *servo, int64_t now_ns, bool limits_hold)
{
    const struct vlad_arm_state *arm = &servo->now.arm;
    uint32_t all = (1u << servo->config.gate.limits.n_joints) - 1;
    bool power = servo->torque_wanted && !servo->torque_on;
    int rc = -EAGAIN;

    if (servo->torque_repeats == 0 || (power && !limits_hold))
        return;
    if (power)
        vlad_servo_take_pose(servo); /* a limp arm may have sagged since the last try */
    if (!power || arm->answered == all) /* power comes with a pose of this very tick */
        rc = servo->ops->torque(servo->arm, now_ns + servo->config.period_ns, all,
                                servo->torque_wanted, servo->written_nu);
    if (!servo->torque_wanted && servo->torque_repeats == 1 && arm->powered & arm->answered)
        rc = -EAGAIN; /* said twice before this tick's reading, and not done */
    if (rc) {
        if (++servo->torque_tries == TORQUE_TRIES)
            give_up(servo);
        return; /* tried again next tick; a dead bus shows in the next read */
    }
    servo->torque_repeats--;
    servo->torque_on = servo->torque_wanted;
    if (!servo->torque_on)
        servo->now.lying = 0; /* whether it is repaired, only its operator knows: `clear` */
}

void vlad_servo_write_torque(struct vlad_servo *servo, int64_t now_ns)
{
    int64_t before_ns;
    bool limits_hold;

    if (!servo->ops)
        return;
    before_ns = servo->ops->now_ns(servo->arm);
    limits_hold = write_limits(servo, now_ns);
    cut_liars(servo, now_ns);
    write_torque(servo, now_ns, limits_hold);
    servo->bus_ns += servo->ops->now_ns(servo->arm) - before_ns;
}

/* PARK without a sweep: less torque from tick to tick, then none. */
static void let_down(struct vlad_servo *servo, int64_t now_ns)
{
    int64_t left_ns = EASE_NS - (now_ns - servo->easing_since_ns);

    if (left_ns > 0) {
        vlad_servo_limit(servo, ~0u, (int32_t)(left_ns * 1000 / EASE_NS));
        return;
    }
    servo->easing_since_ns = 0;
    vlad_servo_set_torque(servo, false);
    vlad_servo_enter(servo, servo->watchdog.latched ? VLAD_FAULTED : VLAD_READY);
}

/* True when the arm has stopped and given way. */
static bool come_to_rest(struct vlad_servo *servo)
{
    bool there = vlad_trajectory_yield(&servo->trajectory, servo->yielding, servo->yield_nu);
    bool stands = vlad_trajectory_stop(&servo->trajectory) && there;

    if (stands)
        servo->yielding = 0;
    return stands;
}

/* Engaging a joint whose torque limit is low: raised, it would pull the joint from where it sagged to, to
 * its goal. So the goal goes to where the joint was when it was engaged, one step a tick, and the limit is
 * raised once the goal register shows it there. Not to where the joint is: under a load it hangs below its
 * goal, and would be followed down. True while there is such a joint, or one whose register does not show
 * the raised limit: the queue, once begun, waits for none. Nor is the arm at rest: no chunk of this time is
 * executed. */
static bool take_up(struct vlad_servo *servo)
{
    const struct vlad_arm_state *arm = &servo->now.arm;
    bool low = false;

    if (servo->read_at_ns != INT64_MIN)
        return false;
    for (int j = 0; j < servo->config.gate.limits.n_joints; j++) {
        uint32_t joint = 1u << j;

        if (servo->now.limit_permille[j] == 1000 && !(arm->limited & joint))
            continue;
        low = true;
        if (servo->now.limit_permille[j] == 1000 || !(arm->answered & joint))
            continue;
        if (!(servo->yielding & joint)) {
            servo->yielding |= joint;
            servo->yield_nu[j] = inside(servo, j, arm->position_nu[j]);
        }
        if (llabs(arm->goal_nu[j] - servo->yield_nu[j]) <= servo->trajectory.step_nu[j]) {
            servo->now.limit_permille[j] = 1000;
            servo->limits_due |= joint;
        }
    }
    if (low) {
        vlad_trajectory_yield(&servo->trajectory, servo->yielding, servo->yield_nu);
        vlad_trajectory_stop(&servo->trajectory);
        servo->trajectory.still_ticks = 0;
    } else {
        servo->yielding = 0;
    }
    return low;
}

/* Moves the goal by one tick as the mode demands; true when there is something to write. */
bool vlad_servo_next_goal(struct vlad_servo *servo, int64_t now_ns)
{
    int64_t target_nu[VLAD_MAX_JOINTS];

    if (servo->retry && servo->torque_wanted)
        return true;
    switch (servo->mode) {
    case VLAD_ENGAGED:
        if (!servo->torque_on)
            return false; /* the present pose goes out together with the torque */
        if (take_up(servo))
            return true;
        count_coverage(servo, queue_reference(servo, now_ns, target_nu), now_ns);
        vlad_trajectory_advance(&servo->trajectory, target_nu, 1000);
        return true;
    case VLAD_STOPPING:
        if (servo->easing_since_ns) {
            let_down(servo, now_ns);
            return false;
        }
        if (!servo->parking) {
            if (come_to_rest(servo))
                vlad_servo_enter(servo, servo->watchdog.latched ? VLAD_FAULTED
                                        : servo->torque_wanted ? VLAD_HOLDING
                                                               : VLAD_READY);
            return true;
        }
        vlad_trajectory_advance(&servo->trajectory, servo->config.rest_nu,
                                servo->config.park_permille); /* a stop under way ends first */
        if (vlad_trajectory_at_rest(&servo->trajectory) &&
            memcmp(servo->trajectory.goal_nu, servo->config.rest_nu,
                   (size_t)servo->config.gate.limits.n_joints * sizeof(int64_t)) == 0) {
            servo->parking = false;
            vlad_servo_emit(servo, VLAD_EV_PARKED, 0, 0, 0);
            vlad_servo_set_torque(servo, false);
            vlad_servo_enter(servo, servo->watchdog.latched ? VLAD_FAULTED : VLAD_READY);
        }
        return true;
    case VLAD_HOLDING:
        return servo->torque_wanted;
    default:
        return false;
    }
}
