/* What the servos say of themselves: heat, voltage, overload, and a supply that sags. */
#include "servo_parts.h"

#define SLOW_BELOW_C 5            /* row 21: park_c, and so much below it SLOW .. */
#define WARN_BELOW_C 10           /* .. and WARN: 70, 65, 60 */
#define WARN_PERMILLE 150         /* row 22: off the supply's nominal voltage */
#define CRITICAL_PERMILLE 250
#define SAG_PERMILLE 75           /* row 45: below this a slope counts .. */
#define SAG_AHEAD_NS VLAD_NS_PER_S /* .. that reaches the critical voltage within this time */
#define SAG_STEP_MV 100           /* what a servo reports in: more at once is no slope */
#define SAG_HOLD 5                /* ticks in a row */
#define SAG_PARK 40               /* the arm has stopped, so it was not its own current */
#define OVERLOAD_PERMILLE 500     /* row 20: torque limit of the joint afterwards */

static int32_t lowest(const int32_t *recent)
{
    int32_t low = recent[0];

    for (int i = 1; i < VLAD_RECENT; i++)
        low = recent[i] < low ? recent[i] : low;
    return low;
}

static int32_t highest(const int32_t *recent)
{
    int32_t high = recent[0];

    for (int i = 1; i < VLAD_RECENT; i++)
        high = recent[i] > high ? recent[i] : high;
    return high;
}

/* Row 21. */
static enum vlad_reaction heat_level(const struct vlad_servo *servo, int32_t celsius)
{
    int64_t margin = servo->config.park_c - celsius;

    return margin <= 0              ? VLAD_PARK
           : margin <= SLOW_BELOW_C ? VLAD_SLOW
           : margin <= WARN_BELOW_C ? VLAD_WARN
                                    : VLAD_NONE;
}

/* Row 22. */
static enum vlad_reaction voltage_level(int64_t nominal_mv, int32_t low_mv, int32_t high_mv)
{
    int64_t below = (nominal_mv - high_mv) * 1000, above = (low_mv - nominal_mv) * 1000;
    int64_t off = below > above ? below : above;

    return off > CRITICAL_PERMILLE * nominal_mv ? VLAD_PARK
           : off > WARN_PERMILLE * nominal_mv   ? VLAD_HOLD
                                                : VLAD_NONE;
}

/* Without a configured voltage: what the servos see when the bus is taken over, an odd reading apart. */
static void take_nominal(struct vlad_servo *servo)
{
    int32_t most_mv = 0;

    for (int j = 0; j < servo->config.gate.limits.n_joints; j++) {
        if (servo->watch.answers[j] < VLAD_RECENT)
            return;
        if (lowest(servo->watch.voltage_mv[j]) > most_mv)
            most_mv = lowest(servo->watch.voltage_mv[j]);
    }
    servo->now.supply_mv = most_mv;
}

/* How far the mean fell since the oldest of the window, apart from its steepest two ticks: a load that is
 * switched on takes it down at once, and there it stays: below all before, so an odd reading is no step. Two,
 * because such a step may fall into a reading. */
static int64_t fallen(const struct vlad_sag *sag, int oldest, int64_t mean_mv)
{
    int64_t highest_mv[VLAD_SAG_TICKS + 1]; /* from there on */
    int64_t lowest_mv = INT64_MAX, steepest_mv = 0;

    highest_mv[VLAD_SAG_TICKS] = mean_mv;
    for (int i = VLAD_SAG_TICKS - 1; i >= 0; i--) {
        int64_t mv = sag->mean_mv[(oldest + i) % VLAD_SAG_TICKS];

        highest_mv[i] = mv > highest_mv[i + 1] ? mv : highest_mv[i + 1];
    }
    for (int i = 0; i + 2 <= VLAD_SAG_TICKS; i++) {
        int64_t mv = sag->mean_mv[(oldest + i) % VLAD_SAG_TICKS];

        lowest_mv = mv < lowest_mv ? mv : lowest_mv;
        if (lowest_mv - highest_mv[i + 2] > steepest_mv)
            steepest_mv = lowest_mv - highest_mv[i + 2];
    }
    return sag->mean_mv[oldest] - mean_mv - (steepest_mv > SAG_STEP_MV ? steepest_mv : 0);
}

/* Row 45: the mean voltage falls so fast that the critical one is near. */
static void check_sag(struct vlad_servo *servo, uint8_t *own)
{
    struct vlad_sag *sag = &servo->sag;
    const struct vlad_arm_state *arm = &servo->now.arm;
    int n = servo->config.gate.limits.n_joints, at = (int)(sag->n % VLAD_SAG_TICKS);
    int64_t nominal_mv = servo->now.supply_mv, mean_mv = 0, ahead_mv;
    bool falls;

    if (arm->answered != (1u << n) - 1 || nominal_mv == 0)
        return;
    for (int j = 0; j < n; j++)
        mean_mv += arm->voltage_mv[j];
    mean_mv /= n;
    ahead_mv = mean_mv;
    if (sag->n >= VLAD_SAG_TICKS && arm->t_ns - sag->t_ns[at] >= VLAD_NS_PER_MS)
        ahead_mv -= fallen(sag, at, mean_mv) * SAG_AHEAD_NS / (arm->t_ns - sag->t_ns[at]);
    sag->t_ns[at] = arm->t_ns;
    sag->mean_mv[at] = mean_mv;
    sag->n++;
    falls = ahead_mv < mean_mv && mean_mv * 1000 < (1000 - SAG_PERMILLE) * nominal_mv &&
            ahead_mv * 1000 < (1000 - CRITICAL_PERMILLE) * nominal_mv;
    sag->run = falls ? sag->run + 1 : 0;
    if (sag->run >= SAG_HOLD)
        vlad_servo_raise(own, VLAD_F_BROWN_OUT, sag->run >= SAG_PARK ? VLAD_PARK : VLAD_HOLD);
}

static void check_joint(struct vlad_servo *servo, int j, uint8_t *own)
{
    struct vlad_joint_watch *watch = &servo->watch;
    const struct vlad_arm_state *arm = &servo->now.arm;
    uint64_t at = watch->answers[j]++ % VLAD_RECENT;

    if (watch->answers[j] == 1 && arm->limit_permille[j] < servo->now.limit_permille[j])
        servo->now.limit_permille[j] = arm->limit_permille[j]; /* lowered before the bus was taken over */
    watch->voltage_mv[j][at] = arm->voltage_mv[j];
    watch->temperature_c[j][at] = arm->temperature_c[j];
    if (arm->status[j] & VLAD_STATUS_TEMPERATURE && watch->temperature_c[j][at] < servo->config.park_c)
        watch->temperature_c[j][at] = (int32_t)servo->config.park_c;
    if (watch->answers[j] >= VLAD_RECENT) { /* one odd reading among good ones is none */
        vlad_servo_raise(own, VLAD_F_SERVO_OVER_TEMPERATURE,
                         heat_level(servo, lowest(watch->temperature_c[j])));
        if (servo->now.supply_mv)
            vlad_servo_raise(own, VLAD_F_SERVO_VOLTAGE,
                             voltage_level(servo->now.supply_mv, lowest(watch->voltage_mv[j]),
                                           highest(watch->voltage_mv[j])));
    }
    if (arm->status[j] & VLAD_STATUS_VOLTAGE)
        vlad_servo_raise(own, VLAD_F_SERVO_VOLTAGE, VLAD_HOLD);
    if (!(arm->status[j] & (VLAD_STATUS_OVERLOAD | VLAD_STATUS_CURRENT)))
        return;
    /* A gripper closed on something is bounded by just these. */
    if (servo->config.gripper_mask & 1u << j) {
        vlad_servo_raise(own, VLAD_F_SERVO_OVERLOAD, VLAD_WARN);
        return;
    }
    vlad_servo_raise(own, VLAD_F_SERVO_OVERLOAD, VLAD_HOLD);
    vlad_servo_limit(servo, 1u << j, OVERLOAD_PERMILLE);
}

void vlad_servo_check_health(struct vlad_servo *servo, uint8_t *own)
{
    for (int j = 0; j < servo->config.gate.limits.n_joints; j++)
        if (servo->now.arm.answered & 1u << j)
            check_joint(servo, j, own);
    if (servo->now.supply_mv == 0)
        take_nominal(servo);
    check_sag(servo, own);
}
