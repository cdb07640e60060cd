/* What the servo loop makes of the bus: taking it over, reading it, giving it up. */
#include <string.h> /* memset, memcpy */

#include "servo_parts.h"

#define CORRUPT_HOLD 5     /* row 17 */
#define CORRUPT_LATCH 10
#define REPLY_SLOT_NS (100 * VLAD_NS_PER_MS) /* of a window of 1 s .. */
#define REPLY_PERMILLE 50                    /* .. in which so many replies may be missing */
#define REPLY_LEAST 60

/* Takes over the bus that the supervisor opened. Whatever the servos hold is the command in force;
 * nothing is written, so a restart never moves the arm. */
void vlad_servo_take_adoption(struct vlad_servo *servo)
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
    servo->parking = servo->commanded = servo->returned = servo->wrote = false;
    servo->now.lying = servo->yielding = servo->limits_due = 0;
    servo->easing_since_ns = 0;
    servo->now.supply_mv = servo->config.supply_mv;
    memset(&servo->watch, 0, sizeof servo->watch);
    memset(&servo->sag, 0, sizeof servo->sag);
    for (int j = 0; j < n; j++)
        servo->now.limit_permille[j] = 1000; /* until it answers */
    atomic_store_explicit(&servo->adoption_ready, 0, memory_order_release);
    vlad_servo_enter(servo, servo->watchdog.latched ? VLAD_FAULTED : VLAD_READY);
}

/* The servos hold the last goal, at most one step away, until the supervisor has opened the bus
 * anew and read what holds them. */
void vlad_servo_release_bus(struct vlad_servo *servo)
{
    servo->ops = NULL;
    servo->parking = servo->wrote = false;
    servo->easing_since_ns = 0;
    servo->yielding = 0;
    vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
    vlad_servo_enter(servo, VLAD_OFFLINE);
}

static bool silent_for_long(const struct vlad_servo *servo, int joint)
{
    return (int64_t)servo->missed_run[joint] * servo->config.period_ns >= servo->config.silent_ns;
}

/* Rows 17 to 19: the answers of one tick. Returns how many servos have been silent for long. */
static int count_answers(struct vlad_servo *servo, uint8_t *own)
{
    struct vlad_servo_report *now = &servo->now;
    int n = servo->config.gate.limits.n_joints, silent = 0;

    for (int j = 0; j < n; j++) {
        uint32_t bit = 1u << j;

        if (now->arm.answered & bit) {
            servo->returned |= silent_for_long(servo, j);
            servo->missed_run[j] = servo->corrupt_run[j] = 0;
        } else if (now->arm.corrupt & bit) {
            now->counters.corrupt[j]++;
            servo->corrupt_run[j]++;
            if (servo->corrupt_run[j] >= CORRUPT_HOLD)
                vlad_servo_raise(own, VLAD_F_REPLY_CORRUPT, VLAD_HOLD);
            if (servo->corrupt_run[j] >= CORRUPT_LATCH)
                vlad_servo_raise(own, VLAD_F_BUS_GARBAGE, VLAD_HOLD);
        } else {
            now->counters.missed[j]++;
            servo->missed_run[j]++;
            silent += silent_for_long(servo, j);
        }
    }
    vlad_rate_add(&servo->replies, now->t_ns, REPLY_SLOT_NS,
                  (uint32_t)(n - __builtin_popcount(now->arm.answered)), (uint32_t)n);
    if (vlad_rate_above(&servo->replies, REPLY_PERMILLE, REPLY_LEAST))
        vlad_servo_raise(own, VLAD_F_REPLY_CORRUPT, VLAD_WARN);
    return silent;
}

void vlad_servo_sense(struct vlad_servo *servo, int64_t now_ns, uint8_t *own)
{
    struct vlad_servo_report *now = &servo->now;
    int n = servo->config.gate.limits.n_joints, silent;
    int64_t heard_ns = now->arm.t_ns;
    struct vlad_reading reading;
    int rc;

    if (!servo->ops)
        return;
    reading.asked_ns = servo->ops->now_ns(servo->arm);
    rc = servo->ops->read(servo->arm, now_ns + servo->config.read_budget_ns, &now->arm);
    reading.done_ns = servo->ops->now_ns(servo->arm);
    servo->bus_ns = reading.done_ns - reading.asked_ns;
    now->counters.reads++;
    if (rc) {
        now->counters.read_errors++;
        vlad_servo_release_bus(servo);
        vlad_servo_raise(own, VLAD_F_SERIAL_UNPLUGGED, VLAD_HOLD);
        return;
    }
    servo->seen_joints |= now->arm.answered;
    if (now->arm.answered != (1u << n) - 1)
        now->arm.t_ns = heard_ns; /* a pose that is old in part must not look fresh */
    if (servo->write_failures)
        vlad_servo_raise(own, VLAD_F_SHORT_WRITE, VLAD_WARN);
    silent = count_answers(servo, own);
    /* Row 44: without power they forget torque and goals, and some firmware turns torque on when a
     * goal is written. */
    if (vlad_servo_check_truth(servo, now_ns, &reading, own) || silent == n) {
        vlad_servo_release_bus(servo);
        vlad_servo_raise(own, VLAD_F_SERVO_SUPPLY_LOST, VLAD_HOLD);
        return;
    }
    if (silent)
        vlad_servo_raise(own, VLAD_F_SERVO_SILENT, VLAD_HOLD);
    vlad_servo_check_health(servo, own);
}
