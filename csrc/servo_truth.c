/* Whether the servos are where they say, hold what they were told, and follow. */
#include <stdlib.h> /* llabs */

#include "ratio.h"
#include "servo_parts.h"

#define LIE_NS (100 * VLAD_NS_PER_MS)    /* row 23: an encoder off for so long lies */
#define BACK 4                           /* so much less off than a tick's reach is back */
#define ASTRAY_NS (100 * VLAD_NS_PER_MS) /* row 14 */
#define ASTRAY_PERMILLE 500              /* torque limit afterwards */
#define NO_LOAD_TICKS_S 3400             /* encoder ticks: what a STS3215 turns at 12 V, + 10 % */
#define SLACK_TICKS 8
#define FULL_LOAD_PERMILLE 250           /* from here the whole following limit counts */
#define POWER_LOST 3                     /* ticks: row 44 within 50 ms */
#define GOAL_LOST_WARN 3                 /* ticks: row 16 */
#define GOAL_LOST_HOLD 10
#define LONGEST_NS VLAD_NS_PER_S         /* between two answers that are compared */

/* How far a joint can have turned within dt_ns. */
static int64_t reach(const struct vlad_servo *servo, int j, int64_t dt_ns)
{
    int64_t fastest = 2 * servo->config.gate.limits.joint[j].v_max_nu_s;
    int64_t no_load = NO_LOAD_TICKS_S * servo->config.unit_nu[j];

    dt_ns = dt_ns < 0 ? 0 : dt_ns > LONGEST_NS ? LONGEST_NS : dt_ns;
    return vlad_scale(fastest > no_load ? fastest : no_load, dt_ns, VLAD_NS_PER_S) +
           SLACK_TICKS * servo->config.unit_nu[j];
}

/* Row 23. What an encoder jumped by and has not jumped back it is off by, however the servo then
 * drives: it takes the joint to where the false reading meets the goal, so that the reading alone
 * looks as if it came back. But no servo changes its speed from one tick to the next so that the reading
 * is at once where its old pace would have brought it: then what was read meanwhile was odd, even where
 * one of the two steps is not beyond the servo. A pace excuses no step that is: where the reading goes on
 * as before, that pace was a lie. True for such a step, unless it leads back. */
static bool take_step(struct vlad_servo *servo, int j, const struct vlad_reading *reading)
{
    struct vlad_joint_watch *watch = &servo->watch;
    int64_t step_nu = servo->now.arm.position_nu[j] - watch->position_nu[j];
    int64_t since_ns = reading->asked_ns - watch->asked_ns[j], period_ns = servo->config.period_ns;
    int64_t reach_nu = reach(servo, j, period_ns);
    int64_t ticks = 2 * since_ns < 3 * period_ns ? 1 : 2;
    bool comparable = 2 * since_ns < 5 * period_ns;
    int64_t change_nu = comparable ? step_nu - ticks * watch->pace_nu[j] : step_nu;
    bool impossible = llabs(step_nu) > reach(servo, j, reading->done_ns - watch->asked_ns[j]);
    bool aside = watch->aside_nu[j] != 0;

    servo->now.counters.encoder_jumps[j] += impossible;
    if (comparable && (aside || watch->jumped_nu[j]) &&
        llabs(watch->jumped_nu[j] + watch->aside_nu[j] + change_nu) <= reach_nu / BACK) {
        watch->jumped_nu[j] = watch->aside_nu[j] = 0;
        return false;
    }
    watch->aside_nu[j] = 0;
    if (impossible)
        watch->jumped_nu[j] += llabs(change_nu) > reach_nu / 2 ? change_nu : step_nu;
    else if (comparable && !aside && llabs(change_nu) > reach_nu / 2)
        watch->aside_nu[j] = change_nu;
    else if (comparable)
        watch->pace_nu[j] = step_nu / ticks;
    return impossible && llabs(step_nu) > reach_nu;
}

static bool doubtful(struct vlad_servo *servo, int j, const struct vlad_reading *reading)
{
    struct vlad_joint_watch *watch = &servo->watch;
    const struct vlad_arm_state *arm = &servo->now.arm;
    bool impossible = false;

    if (!(arm->powered & 1u << j)) /* a hand may turn it faster, and nothing is driven by it */
        watch->jumped_nu[j] = watch->pace_nu[j] = watch->aside_nu[j] = 0;
    else if (watch->asked_ns[j])
        impossible = take_step(servo, j, reading);
    watch->position_nu[j] = arm->position_nu[j];
    watch->asked_ns[j] = reading->asked_ns;
    if (arm->status[j] & VLAD_STATUS_ENCODER)
        return true;
    if (impossible || llabs(watch->jumped_nu[j]) > reach(servo, j, servo->config.period_ns))
        return true;
    watch->jumped_nu[j] = 0;
    return false;
}

static void check_encoder(struct vlad_servo *servo, int j, int64_t now_ns,
                          const struct vlad_reading *reading, uint8_t *own)
{
    struct vlad_joint_watch *watch = &servo->watch;

    if (!doubtful(servo, j, reading)) {
        watch->doubt_since_ns[j] = 0;
        return;
    }
    vlad_servo_raise(own, VLAD_F_SERVO_ENCODER, VLAD_HOLD);
    if (!watch->doubt_since_ns[j])
        watch->doubt_since_ns[j] = now_ns;
    if (now_ns - watch->doubt_since_ns[j] >= LIE_NS && !(servo->now.lying & 1u << j) &&
        servo->torque_on) {
        servo->now.lying |= 1u << j; /* servo_wire.c takes its torque off, and no other's */
        vlad_servo_emit(servo, VLAD_EV_TORQUE, 1 << j, 0, 0);
    }
}

/* Row 44: a servo that lost its power for less than silence tells has lost its torque and its goal. */
static bool lost_power(struct vlad_servo *servo, int j)
{
    struct vlad_joint_watch *watch = &servo->watch;
    bool expected = servo->torque_on && servo->torque_wanted && !(servo->now.lying & 1u << j);

    watch->unpowered[j] = expected && !(servo->now.arm.powered & 1u << j) ? watch->unpowered[j] + 1 : 0;
    return watch->unpowered[j] >= POWER_LOST;
}

/* Row 16: a sync write has no answer; what arrived shows in the goal register a tick later. */
static void check_goal(struct vlad_servo *servo, int j, uint8_t *own)
{
    struct vlad_joint_watch *watch = &servo->watch;
    bool told = servo->wrote && servo->now.arm.powered & 1u << j && !(servo->now.lying & 1u << j);
    int64_t off_nu = servo->now.arm.goal_nu[j] - servo->written_nu[j];

    if (!told || llabs(off_nu) <= servo->config.unit_nu[j]) {
        watch->goal_lost[j] = 0;
        return;
    }
    servo->now.counters.goals_lost[j]++;
    watch->goal_lost[j]++;
    if (watch->goal_lost[j] >= GOAL_LOST_WARN)
        vlad_servo_raise(own, VLAD_F_SHORT_WRITE,
                         watch->goal_lost[j] >= GOAL_LOST_HOLD ? VLAD_HOLD : VLAD_WARN);
}

/* Row 14: how far joint j may be from its goal; INT64_MAX where nobody looks. A joint that bears a
 * load sags by it (there is no integral term), so the limit grows with the load that the servo
 * reports; one that is off without bearing any does not try. */
static int64_t following_limit(const struct vlad_servo *servo, int j)
{
    int64_t limit_nu = servo->config.following_nu;
    int64_t load = llabs(servo->now.arm.load_permille[j]);

    if (limit_nu == 0 || !servo->torque_on || !servo->torque_wanted || servo->easing_since_ns ||
        servo->watch.doubt_since_ns[j] || servo->now.lying & 1u << j ||
        servo->config.gripper_mask & 1u << j)
        return INT64_MAX;
    if (load < FULL_LOAD_PERMILLE)
        limit_nu = limit_nu / 2 + limit_nu / 2 * load / FULL_LOAD_PERMILLE;
    return limit_nu;
}

/* True for a joint that is beyond the limit from its goal and does not come near any goal since it
 * got there. One that lags behind a fast motion does: it follows. */
static bool astray(struct vlad_servo *servo, int j, int64_t now_ns)
{
    struct vlad_joint_watch *watch = &servo->watch;
    int64_t limit_nu = following_limit(servo, j), goal_nu = servo->written_nu[j];
    int64_t pose_nu = servo->now.arm.position_nu[j];
    int64_t since_ns = watch->astray_since_ns[j], near_nu;

    watch->astray_since_ns[j] = 0;
    if (llabs(pose_nu - goal_nu) <= limit_nu)
        return false;
    near_nu = limit_nu / 4 * 3; /* an obstacle that yields a little is one */
    if (since_ns == 0 || (pose_nu > watch->low_nu[j] - near_nu &&
                          pose_nu < watch->high_nu[j] + near_nu)) {
        since_ns = now_ns;
        watch->low_nu[j] = watch->high_nu[j] = goal_nu;
    }
    if (goal_nu < watch->low_nu[j])
        watch->low_nu[j] = goal_nu;
    if (goal_nu > watch->high_nu[j])
        watch->high_nu[j] = goal_nu;
    watch->astray_since_ns[j] = since_ns;
    return now_ns - since_ns >= ASTRAY_NS;
}

static void check_following(struct vlad_servo *servo, int j, int64_t now_ns, uint8_t *own)
{
    const struct vlad_joint_limits *limit = &servo->config.gate.limits.joint[j];
    int64_t pose_nu = servo->now.arm.position_nu[j];

    if (!astray(servo, j, now_ns))
        return;
    vlad_servo_raise(own, VLAD_F_FOLLOWING_ERROR, VLAD_HOLD);
    vlad_servo_limit(servo, 1u << j, ASTRAY_PERMILLE);
    /* Only where the arm was moving, and once: giving way again and again would let it down. */
    if (servo->mode != VLAD_ENGAGED && !servo->parking)
        return;
    servo->yielding |= 1u << j;
    servo->yield_nu[j] = pose_nu < limit->min_nu   ? limit->min_nu
                         : pose_nu > limit->max_nu ? limit->max_nu
                                                   : pose_nu;
}

bool vlad_servo_check_truth(struct vlad_servo *servo, int64_t now_ns,
                            const struct vlad_reading *reading, uint8_t *own)
{
    bool lost = false;

    for (int j = 0; j < servo->config.gate.limits.n_joints; j++) {
        if (!(servo->now.arm.answered & 1u << j))
            continue;
        check_encoder(servo, j, now_ns, reading, own);
        check_goal(servo, j, own);
        check_following(servo, j, now_ns, own);
        lost |= lost_power(servo, j);
    }
    if (servo->now.lying == (1u << servo->config.gate.limits.n_joints) - 1 && servo->torque_wanted)
        vlad_servo_set_torque(servo, false); /* no other joint is left to hold */
    if (servo->now.lying && servo->torque_on)
        vlad_servo_raise(own, VLAD_F_SERVO_ENCODER, VLAD_HOLD);
    return lost;
}
