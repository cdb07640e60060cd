/* The servo loop on its own thread, at 1 kHz on the machine's clock, while everybody uses it at
 * once: a producer, readers, an operator, a drain of the events, a supervisor that reopens the bus. */
#include "clock.h"
#include "random.h"
#include "servo_rig.h"

#include <pthread.h>
#include <stdatomic.h> /* what the test's threads tell each other */
#include <time.h>      /* nanosleep */

#define PERIOD (1 * MS)
#define SECONDS 3

static _Atomic int stopped, unplugged;
static _Atomic int pushed, refilled, lost, read_by_readers;

static void nap(int64_t ns)
{
    struct timespec pause = { .tv_sec = ns / VLAD_NS_PER_S, .tv_nsec = ns % VLAD_NS_PER_S };

    nanosleep(&pause, NULL);
}

static bool going(int64_t ns)
{
    nap(ns);
    return !atomic_load(&stopped);
}

static int pluggable_read(void *ctx, int64_t deadline_ns, struct vlad_arm_state *state)
{
    return atomic_load(&unplugged) ? -EIO : judged_ops.read(ctx, deadline_ns, state);
}

static void *produce(void *ctx)
{
    struct vlad_servo_report now;

    (void)ctx;
    while (going(3 * MS)) {
        vlad_servo_read(&rig, &now);
        if (push_curve(vlad_clock_now_ns(), 20 * MS, now.at_rest && !now.queue_depth) <
            VLAD_REJECTED)
            atomic_fetch_add(&pushed, 1);
        if (atomic_load(&pushed) % 200 == 199)
            CHECK_EQ(vlad_servo_policy_timing(&rig, ACTION, CHUNK * ACTION, 67 * MS,
                                              VLAD_WEIGHTED_AVERAGE, 0), 0);
    }
    return NULL;
}

/* Every copy is of one moment: words that the loop changes together agree. */
static void *read_reports(void *ctx)
{
    struct vlad_servo_report now;
    struct vlad_command command;
    int64_t t_ns = 0;
    uint64_t ticks_seen = 0;

    (void)ctx;
    while (going(MS / 5)) {
        uint64_t starved = 0;

        vlad_servo_read(&rig, &now);
        vlad_servo_command(&rig, &command);
        CHECK(now.t_ns >= t_ns);
        CHECK(now.counters.ticks >= ticks_seen);
        t_ns = now.t_ns;
        ticks_seen = now.counters.ticks;
        CHECK_EQ(now.wake.count, now.counters.ticks);
        for (int i = 0; i < VLAD_N_STARVES; i++)
            starved += now.counters.starved[i];
        CHECK_EQ(now.counters.engaged_ticks, now.counters.covered_ticks + starved);
        CHECK(now.mode != VLAD_ENGAGED || now.reaction < VLAD_HOLD);
        CHECK(now.counters.accepted <= now.counters.chunks);
        for (int j = 0; j < JOINTS; j++)
            CHECK(llabs(command.goal_nu[j]) <= LIMIT_NU);
        atomic_fetch_add(&read_by_readers, 1);
    }
    return NULL;
}

static void *operate(void *ctx)
{
    (void)ctx;
    while (going(7 * MS)) {
        int64_t roll = random_in(0, 99); /* the only thread that draws */

        vlad_servo_request(&rig, roll < 3    ? VLAD_REQ_HOLD
                                 : roll < 5  ? VLAD_REQ_LIMP
                                 : roll < 6  ? VLAD_REQ_PARK
                                 : roll < 30 ? VLAD_REQ_CLEAR
                                             : VLAD_REQ_ENGAGE);
        vlad_servo_starve(&rig, (int)(roll % VLAD_N_STARVES));
        vlad_servo_refusals(&rig, roll == 50 ? VLAD_WHY_NO_TASK : 0);
        vlad_watchdog_beat(&rig.watchdog, VLAD_STAGE_EXPERT, vlad_clock_now_ns());
        vlad_watchdog_hold(&rig.watchdog, VLAD_F_CAMERA_STALLED, roll == 51);
        if (roll == 52)
            vlad_watchdog_pulse(&rig.watchdog, VLAD_F_INFERENCE_FAILED);
        vlad_watchdog_all_fresh(&rig.watchdog, vlad_clock_now_ns());
    }
    return NULL;
}

static void *drain(void *ctx)
{
    int64_t mode = *(int64_t *)ctx;
    struct vlad_event event;

    do {
        while (vlad_servo_next_event(&rig, &event))
            if (event.kind == VLAD_EV_MODE) {
                CHECK_EQ(event.a, mode);
                mode = event.b;
            }
    } while (going(2 * MS));
    *(int64_t *)ctx = mode;
    return NULL;
}

/* Pulls the plug, waits until the loop has let go of the arm, and hands it back. */
static void *supervise(void *ctx)
{
    const struct vlad_arm_ops *ops = ctx;
    struct vlad_servo_report now;
    int64_t pose_nu[JOINTS];

    while (going(100 * MS)) {
        atomic_store(&unplugged, 1);
        do
            vlad_servo_read(&rig, &now);
        while (now.bus_up && going(MS));
        if (now.bus_up)
            break;
        atomic_fetch_add(&lost, 1);
        atomic_store(&unplugged, 0);
        memcpy(pose_nu, arm.memory.goal_nu, sizeof pose_nu); /* the arm is ours while no bus is up */
        memcpy(arm.in_force_nu, pose_nu, sizeof pose_nu);
        CHECK_EQ(vlad_servo_adopt(&rig, ops, &arm, arm.memory.torque_mask == ALL, pose_nu), 0);
        do
            vlad_servo_read(&rig, &now);
        while (!now.bus_up && going(MS));
        atomic_fetch_add(&refilled, now.bus_up != 0);
    }
    return NULL;
}

static void begin_on_thread(const struct vlad_arm_ops *ops)
{
    struct vlad_servo_config config = rig_config();
    int64_t pose_nu[JOINTS], start_ns = vlad_clock_now_ns();
    int joint;

    config.period_ns = PERIOD;
    config.overrun_hold_ns = 10000 * MS; /* of a machine under a sanitizer nothing is asked */
    config.silent_ns = 10000 * MS;
    for (int j = 0; j < JOINTS; j++)
        pose_nu[j] = (int64_t)(curve(start_ns, j) * 1e9);
    vlad_memory_arm_init(&arm.memory, JOINTS, pose_nu, start_ns);
    arm.memory.real_time = true;
    CHECK_EQ(vlad_servo_init(&rig, &config, start_ns, &joint), 0);
    CHECK_EQ(vlad_servo_adopt(&rig, ops, &arm, false, pose_nu), 0);
}

static void test_everybody_at_once(void)
{
    static struct vlad_arm_ops ops;
    int64_t mode = VLAD_OFFLINE;
    char reason[400];
    struct { void *(*run)(void *); void *ctx; pthread_t thread; } user[] = {
        { .run = produce }, { .run = read_reports }, { .run = read_reports }, { .run = operate },
        { .run = drain, .ctx = &mode }, { .run = supervise, .ctx = &ops }
    };
    int n = sizeof user / sizeof *user;

    ops = judged_ops;
    ops.read = pluggable_read;
    begin_on_thread(&ops);
    CHECK_EQ(vlad_servo_start(&rig, 0, -1, reason, sizeof reason), 0);
    for (int i = 0; i < n; i++)
        CHECK_EQ(pthread_create(&user[i].thread, NULL, user[i].run, user[i].ctx), 0);
    nap(SECONDS * VLAD_NS_PER_S);
    atomic_store(&stopped, 1);
    for (int i = 0; i < n; i++)
        pthread_join(user[i].thread, NULL);
    vlad_servo_stop(&rig);
    vlad_servo_stop(&rig);

    vlad_servo_read(&rig, &seen);
    CHECK(seen.counters.ticks > 100);
    CHECK(seen.counters.ticks + seen.counters.skipped_periods >= SECONDS * 1000 - 1);
    CHECK(seen.counters.covered_ticks > 20);
    CHECK(seen.counters.accepted == (uint64_t)atomic_load(&pushed) && seen.counters.accepted > 5);
    CHECK(atomic_load(&lost) > 2 && atomic_load(&refilled) > 2);
    CHECK(atomic_load(&read_by_readers) > 100);
    CHECK_EQ(seen.counters.wire_limit + seen.counters.wire_step, 0);
    CHECK_EQ(seen.counters.events_dropped, 0);
}

/* A stopped loop does nothing, and a second start goes on where it stopped. */
static void test_restart(void)
{
    char reason[400] = "";
    uint64_t before;

    begin_on_thread(&judged_ops);
    CHECK_EQ(vlad_servo_start(&rig, 0, -1, reason, sizeof reason), 0);
    nap(50 * MS);
    vlad_servo_stop(&rig);
    vlad_servo_read(&rig, &seen);
    before = seen.counters.ticks;
    CHECK(before > 2 && before <= 60);
    CHECK_EQ(seen.realtime, 0); /* FIFO was not asked for */
    nap(20 * MS);
    vlad_servo_read(&rig, &seen);
    CHECK_EQ(seen.counters.ticks, before);
    CHECK_EQ(vlad_servo_start(&rig, 0, -1, reason, sizeof reason), 0);
    nap(50 * MS);
    vlad_servo_stop(&rig);
    vlad_servo_read(&rig, &seen);
    CHECK(seen.counters.ticks > before);
    CHECK(seen.compute.count > 0 && seen.compute.max_ns > 0); /* the arm's clock is the machine's */
}

int main(void)
{
    test_everybody_at_once();
    test_restart();
    CHECK_DONE();
}
