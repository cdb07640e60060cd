/* noted_arm.h: an arm that does nothing but note what the last files before the bus ask of it, and
 * answer as it is told. Every call takes a time of its own. */
#ifndef VLAD_TEST_NOTED_ARM_H
#define VLAD_TEST_NOTED_ARM_H

#include "servo_rig.h"

#include "servo_parts.h"

#define WRITE_NS (1 * MS)
#define TORQUE_NS (2 * MS)
#define LIMIT_NS (4 * MS)
#define BUS_NS (16 * MS) /* what the tick had spent on the bus before */

/* n: calls so far; the rest is of the newest. */
static struct {
    int64_t now_ns;
    struct { int n, rc; int64_t deadline_ns, goal_nu[JOINTS]; } write;
    struct { int n, rc; int64_t deadline_ns, goal_nu[JOINTS]; uint32_t mask; bool on; } torque;
    struct { int n, rc; int64_t deadline_ns; uint32_t mask; int32_t permille[JOINTS]; } limit;
} noted;

static int64_t now_ns; /* of the tick */

static int note_write(void *ctx, int64_t deadline_ns, const int64_t *goal_nu)
{
    (void)ctx;
    noted.now_ns += WRITE_NS;
    noted.write.n++;
    noted.write.deadline_ns = deadline_ns;
    memcpy(noted.write.goal_nu, goal_nu, sizeof noted.write.goal_nu);
    return noted.write.rc;
}

static int note_torque(void *ctx, int64_t deadline_ns, uint32_t mask, bool on,
                       const int64_t *goal_nu)
{
    (void)ctx;
    noted.now_ns += TORQUE_NS;
    noted.torque.n++;
    noted.torque.deadline_ns = deadline_ns;
    noted.torque.mask = mask;
    noted.torque.on = on;
    memcpy(noted.torque.goal_nu, goal_nu, sizeof noted.torque.goal_nu);
    return noted.torque.rc;
}

static int note_limit(void *ctx, int64_t deadline_ns, uint32_t mask, const int32_t *permille)
{
    (void)ctx;
    noted.now_ns += LIMIT_NS;
    noted.limit.n++;
    noted.limit.deadline_ns = deadline_ns;
    noted.limit.mask = mask;
    memcpy(noted.limit.permille, permille, sizeof noted.limit.permille);
    return noted.limit.rc;
}

static int64_t noted_now(void *ctx)
{
    (void)ctx;
    return noted.now_ns;
}

static const struct vlad_arm_ops noted_ops = {
    .write = note_write, .torque = note_torque, .limit = note_limit, .now_ns = noted_now
};

/* An engaged and powered arm at rest at 0 that has just been read. Each joint has limits and a step of
 * its own; what is said of joints beyond the last would be wrong of any. */
static inline void fresh(void)
{
    struct vlad_servo_config config = rig_config();
    int joint;

    for (int j = 0; j < JOINTS; j++) {
        config.gate.limits.joint[j].min_nu -= j * 30 * MILLI;
        config.gate.limits.joint[j].max_nu += j * 50 * MILLI;
    }
    now_ns = 1000 * MS;
    memset(&noted, 0, sizeof noted);
    noted.now_ns = 700 * MS;
    CHECK_EQ(vlad_servo_init(&rig, &config, now_ns, &joint), 0);
    rig.ops = &noted_ops;
    rig.bus_ns = BUS_NS;
    rig.mode = VLAD_ENGAGED;
    rig.torque_on = rig.torque_wanted = true;
    rig.now.epoch = 1;
    rig.read_at_ns = INT64_MIN;
    rig.seen_joints = rig.now.arm.answered = rig.now.arm.powered = ALL;
    for (int j = 0; j < VLAD_MAX_JOINTS; j++)
        rig.now.limit_permille[j] = rig.now.arm.limit_permille[j] = 1000;
    for (int j = JOINTS; j < VLAD_MAX_JOINTS; j++) {
        rig.trajectory.goal_nu[j] = 1;
        rig.watch.unpowered[j] = 1;
        rig.now.arm.limit_permille[j] = 0;
    }
    for (int j = 0; j < JOINTS; j++)
        rig.trajectory.step_nu[j] -= j * UNIT_NU;
}

/* The next tick: its time, and the bus time spent before goals and torque. */
static inline void next_tick(void)
{
    rig.now.t_ns = now_ns += TICK;
    rig.bus_ns = BUS_NS;
}

static inline bool is_pulsed(enum vlad_fault fault)
{
    return atomic_load(&rig.watchdog.pulsed) & BIT(fault);
}

/* The next event must be this one. */
static inline void check_event(enum vlad_event_kind kind, int64_t a, int64_t b, int64_t value)
{
    struct vlad_event event;

    CHECK(vlad_servo_next_event(&rig, &event));
    CHECK_EQ(event.kind, kind);
    CHECK_EQ(event.a, a);
    CHECK_EQ(event.b, b);
    CHECK_EQ(event.value, value);
}

static inline void check_no_event(void)
{
    struct vlad_event event;

    CHECK(!vlad_servo_next_event(&rig, &event));
}

#endif
