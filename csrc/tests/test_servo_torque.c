/* Torque and its limits on the way to the bus, at the bounds: what goes out, to which joints, how often
 * it is tried, and the let-down. Goals: test_servo_goal.c and test_servo_wire.c. */
#include "noted_arm.h"

#define TRIES 20 /* then the servos do not take it */

static int calls(void)
{
    return noted.write.n + noted.torque.n + noted.limit.n;
}

/* One tick's part of the bus; how much longer it was used than before. */
static int64_t torque_tick(void)
{
    next_tick();
    vlad_servo_write_torque(&rig, now_ns);
    return rig.bus_ns - BUS_NS;
}

/* A limp arm whose pose is j + 5 and that is to get torque. */
static void powering(void)
{
    fresh();
    rig.torque_on = false;
    rig.now.arm.powered = 0;
    for (int j = 0; j < JOINTS; j++)
        rig.now.arm.position_nu[j] = j + 5;
    vlad_servo_set_torque(&rig, true);
    check_event(VLAD_EV_TORQUE, ALL, 1, 0);
}

/* Power that was to come does not, or what is on stays wanted; and the fault is raised. */
static void check_given_up(bool torque_on)
{
    CHECK_EQ(rig.torque_repeats, 0);
    CHECK_EQ(rig.torque_wanted, torque_on);
    CHECK(is_pulsed(VLAD_F_SERVO_SILENT));
}

/* --- Torque. --- */

static void test_nothing_to_say(void)
{
    fresh();
    CHECK_EQ(torque_tick(), 0);
    CHECK_EQ(calls(), 0);
    rig.ops = NULL; /* nor anybody to say it to */
    rig.torque_repeats = 1;
    rig.limits_due = ALL;
    CHECK_EQ(torque_tick(), 0);
    CHECK_EQ(rig.torque_repeats, 1);
}

/* Power comes once, to all, with the pose of this very tick. */
static void test_torque_on(void)
{
    powering();
    rig.now.lying = 2;
    rig.retry = true;
    CHECK_EQ(torque_tick(), TORQUE_NS);
    CHECK_EQ(calls(), 1);
    CHECK_EQ(noted.torque.deadline_ns, now_ns + TICK);
    CHECK_EQ(noted.torque.mask, ALL);
    CHECK(noted.torque.on && rig.torque_on && !rig.retry);
    for (int j = 0; j < JOINTS; j++) {
        CHECK_EQ(noted.torque.goal_nu[j], j + 5);
        CHECK_EQ(rig.written_nu[j], j + 5);
        CHECK_EQ(rig.trajectory.goal_nu[j], j + 5);
    }
    CHECK_EQ(rig.torque_repeats, 0);
    CHECK_EQ(rig.now.lying, 2); /* power repairs no encoder */
    rig.now.arm.powered = ALL;
    rig.now.lying = 0;
    torque_tick();
    CHECK_EQ(noted.torque.n, 1);
}

/* Refused: again in the next tick, with the pose of that one, twenty times. */
static void test_torque_refused(void)
{
    for (int takes = TRIES - 1; takes <= TRIES; takes++) {
        powering();
        for (int i = 1; i <= TRIES; i++) {
            rig.now.arm.position_nu[1] = 100 * i; /* it sags */
            noted.torque.rc = i > takes ? 0 : -EAGAIN;
            CHECK(rig.torque_wanted);
            torque_tick();
            CHECK_EQ(noted.torque.n, i);
            CHECK_EQ(noted.torque.goal_nu[1], 100 * i);
            CHECK_EQ(rig.written_nu[1], 100 * i);
            CHECK_EQ(rig.torque_on, i > takes);
        }
        CHECK_EQ(is_pulsed(VLAD_F_SERVO_SILENT), takes == TRIES);
        CHECK_EQ(rig.torque_wanted, takes < TRIES);
        CHECK_EQ(rig.torque_repeats, 0);
        torque_tick();
        CHECK_EQ(noted.torque.n, TRIES);
    }
    check_given_up(false);
}

/* Without every joint's pose there is no power, and each such tick is a try. */
static void test_no_torque_without_the_whole_pose(void)
{
    for (int j = 0; j < JOINTS; j++) {
        powering();
        rig.now.arm.answered = ALL & ~(1u << j);
        for (int i = 1; i < TRIES; i++) {
            CHECK_EQ(torque_tick(), 0);
            CHECK(rig.torque_wanted && !rig.torque_on);
            CHECK_EQ(rig.torque_tries, i);
        }
        CHECK_EQ(torque_tick(), 0);
        CHECK_EQ(calls(), 0);
        check_given_up(false);
    }
}

/* Torque off goes out three times, whether or not the joints answer, and takes over no pose. */
static void test_torque_off(void)
{
    fresh();
    rig.written_nu[0] = 5;
    rig.now.arm.position_nu[0] = 9;
    rig.now.arm.answered = 0;
    vlad_servo_set_torque(&rig, false);
    for (int i = 1; i <= 5; i++) {
        CHECK_EQ(rig.torque_repeats, i < 4 ? 4 - i : 0);
        CHECK_EQ(torque_tick(), i < 4 ? TORQUE_NS : 0);
        CHECK_EQ(noted.torque.n, i < 4 ? i : 3);
        CHECK_EQ(noted.torque.mask, ALL);
        CHECK(!noted.torque.on && !rig.torque_on && !rig.torque_wanted);
        CHECK_EQ(rig.written_nu[0], 5); /* nothing is taken over */
    }
    CHECK(!is_pulsed(VLAD_F_SERVO_SILENT));
    CHECK_EQ(rig.torque_tries, 0);

    fresh(); /* which joints lie is forgotten once none has torque, and not before */
    rig.now.lying = 2;
    rig.now.arm.powered = ALL & ~2u;
    vlad_servo_set_torque(&rig, false);
    noted.torque.rc = -EAGAIN;
    torque_tick();
    CHECK_EQ(rig.now.lying, 2);
    CHECK_EQ(rig.torque_repeats, 3);
    CHECK(rig.torque_on);
    noted.torque.rc = 0;
    torque_tick();
    CHECK_EQ(rig.now.lying, 0);
}

/* The last of the three is only done when no joint answers that it still has torque. */
static void test_torque_that_stays_on(void)
{
    for (int j = 0; j < JOINTS; j++)
        for (int answers = 0; answers < 2; answers++) {
            fresh();
            rig.now.arm.powered = 1u << j;
            rig.now.arm.answered = answers ? ALL : ALL & ~(1u << j);
            vlad_servo_set_torque(&rig, false);
            for (int i = 1; i <= 2; i++) {
                torque_tick();
                CHECK_EQ(rig.torque_repeats, 3 - i);
                CHECK_EQ(rig.torque_tries, 0);
            }
            torque_tick();
            CHECK_EQ(rig.torque_repeats, answers); /* what a silent one said is old */
            if (!answers)
                continue;
            for (int i = 1; i < TRIES; i++) {
                CHECK_EQ(rig.torque_tries, i);
                CHECK(!is_pulsed(VLAD_F_SERVO_SILENT));
                torque_tick();
                CHECK_EQ(noted.torque.n, 3 + i);
            }
            check_given_up(false);
        }
    fresh(); /* it goes off late: then it is done */
    vlad_servo_set_torque(&rig, false);
    for (int i = 1; i < TRIES; i++)
        torque_tick();
    rig.now.arm.powered = 0;
    torque_tick();
    CHECK_EQ(rig.torque_repeats, 0);
    CHECK(!is_pulsed(VLAD_F_SERVO_SILENT));

    fresh(); /* refused all along: what is on stays wanted, so that it is told as it is */
    vlad_servo_set_torque(&rig, false);
    noted.torque.rc = -EAGAIN;
    for (int i = 0; i < TRIES; i++)
        torque_tick();
    CHECK(rig.torque_on);
    check_given_up(true);
}

/* Row 23: a joint whose encoder lies gets no torque, while its register says it has, or says nothing. */
static void test_liars_are_cut(void)
{
    static const struct { bool on; uint32_t lying, powered, answered, cut; } row[] = {
        { true, 0, ALL, ALL, 0 },
        { true, 0, ALL, 0, 0 },
        { true, 2, ALL, ALL, 2 },
        { true, 2, ALL & ~2u, ALL, 0 },
        { true, 2, ALL & ~2u, ALL & ~2u, 2 },
        { true, 5, ALL & ~4u, ALL, 1 },
        { true, 5, 0, ALL & ~4u, 4 },
        { false, 2, ALL, ALL, 0 },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        fresh();
        rig.torque_on = rig.torque_wanted = row[i].on;
        rig.now.lying = row[i].lying;
        rig.now.arm.powered = row[i].powered;
        rig.now.arm.answered = row[i].answered;
        noted.torque.on = true;
        CHECK_EQ(torque_tick(), row[i].cut ? TORQUE_NS : 0);
        CHECK_EQ(noted.torque.n, row[i].cut != 0);
        if (row[i].cut) {
            CHECK_EQ(noted.torque.mask, row[i].cut);
            CHECK(!noted.torque.on);
            CHECK_EQ(noted.torque.deadline_ns, now_ns + TICK);
        }
        CHECK_EQ(rig.torque_on, row[i].on); /* the others hold */
        CHECK_EQ(rig.now.lying, row[i].lying);
    }
}

/* --- Torque limits. --- */

/* What is due goes out once, to those joints only; what the bus refused is due still. */
static void test_limits_go_out(void)
{
    fresh();
    rig.now.limit_permille[0] = 300;
    rig.now.limit_permille[2] = 700;
    rig.limits_due = 5;
    noted.limit.rc = -EAGAIN;
    for (int i = 1; i <= 2; i++) {
        CHECK_EQ(torque_tick(), LIMIT_NS);
        CHECK_EQ(calls(), i);
        CHECK_EQ(noted.limit.deadline_ns, now_ns + TICK);
        CHECK_EQ(noted.limit.mask, 5);
        CHECK_EQ(noted.limit.permille[0], 300);
        CHECK_EQ(noted.limit.permille[2], 700);
        CHECK_EQ(rig.limits_due, i == 1 ? 5 : 0);
        noted.limit.rc = 0;
    }
    CHECK_EQ(torque_tick(), 0);
    CHECK_EQ(calls(), 2);
}

/* To a joint that has never answered nothing goes out, and it waits till it does. */
static void test_limits_of_joints_not_seen(void)
{
    fresh();
    rig.seen_joints = 3;
    rig.limits_due = 6;
    torque_tick();
    CHECK_EQ(noted.limit.mask, 2);
    CHECK_EQ(rig.limits_due, 4);
    torque_tick();
    CHECK_EQ(noted.limit.n, 1);
    rig.seen_joints = ALL;
    torque_tick();
    CHECK_EQ(noted.limit.mask, 4);
    CHECK_EQ(rig.limits_due, 0);
}

/* A register that shows another limit than was asked for gets it again: while it is read, and more
 * torque only while engaged; what shows less then is left, whatever was due. */
static void test_limits_that_did_not_arrive(void)
{
    static const struct {
        enum vlad_mode mode;
        int32_t shows, asked;
        bool answers, due, goes_out;
    } row[] = {
        { VLAD_ENGAGED, 300, 500, true, false, true },
        { VLAD_ENGAGED, 700, 500, true, false, true },
        { VLAD_HOLDING, 700, 500, true, false, true },
        { VLAD_HOLDING, 500, 500, true, false, true }, /* as much as was asked is not less */
        { VLAD_HOLDING, 499, 500, true, false, false },
        { VLAD_STOPPING, 499, 500, true, true, false },
        { VLAD_STOPPING, 500, 500, true, true, true },
        { VLAD_ENGAGED, 300, 500, false, false, false },
        { VLAD_ENGAGED, 300, 500, false, true, true },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++)
        for (int j = 0; j < JOINTS; j++) {
            uint32_t bit = 1u << j;

            fresh();
            rig.mode = row[i].mode;
            rig.now.arm.limited = bit;
            rig.now.arm.limit_permille[j] = row[i].shows;
            rig.now.limit_permille[j] = row[i].asked;
            rig.now.arm.answered = row[i].answers ? ALL : ALL & ~bit;
            rig.limits_due = row[i].due ? bit : 0;
            torque_tick();
            CHECK_EQ(noted.limit.n, row[i].goes_out);
            if (row[i].goes_out) {
                CHECK_EQ(noted.limit.mask, bit);
                CHECK_EQ(noted.limit.permille[j], row[i].asked);
            }
            CHECK_EQ(rig.limit_tries, row[i].goes_out && row[i].answers);
            CHECK_EQ(rig.limits_due, row[i].due && !row[i].goes_out ? bit : 0);
        }
    fresh();
    rig.mode = VLAD_HOLDING;
    rig.seen_joints = rig.now.arm.answered = rig.limits_due = 0xff; /* there are no such joints */
    torque_tick();
    CHECK_EQ(noted.limit.mask, 0xff);
}

/* Power waits until every limit is in force: one tick for what went out, and as many as it takes. */
static void test_power_waits_for_limits(void)
{
    powering();
    rig.limits_due = ALL;
    CHECK_EQ(torque_tick(), LIMIT_NS);
    CHECK_EQ(noted.torque.n, 0);
    rig.now.arm.limited = 2;
    for (int i = 0; i < 5; i++)
        CHECK_EQ(torque_tick(), LIMIT_NS);
    CHECK_EQ(noted.torque.n, 0);
    CHECK_EQ(rig.torque_tries, 0);
    rig.now.arm.limited = 0;
    CHECK_EQ(torque_tick(), TORQUE_NS);
    CHECK(rig.torque_on);

    fresh(); /* torque off waits for nothing */
    rig.limits_due = ALL;
    vlad_servo_set_torque(&rig, false);
    CHECK_EQ(torque_tick(), LIMIT_NS + TORQUE_NS);
    CHECK(!rig.torque_on);
}

/* Twenty readings in a row that show another limit: told once; power that was to come does not. */
static void test_limits_that_never_arrive(void)
{
    for (int power = 0; power < 2; power++)
        for (int late = 0; late < 2; late++) {
            if (power)
                powering();
            else
                fresh();
            rig.now.arm.limited = 2;
            for (int i = 1; i < 2 * TRIES; i++) {
                bool missing = !late || i != TRIES;

                rig.now.arm.limited = missing ? 2 : 0;
                torque_tick();
                CHECK_EQ(rig.limit_tries, i < TRIES || !late ? i : i - TRIES);
                CHECK_EQ(is_pulsed(VLAD_F_SERVO_SILENT), !late && i == TRIES);
                atomic_store(&rig.watchdog.pulsed, 0);
                if (power && late && !missing)
                    CHECK(rig.torque_on); /* just in time */
                CHECK_EQ(rig.torque_wanted, !power || late || i < TRIES);
            }
            CHECK_EQ(noted.limit.n, 2 * TRIES - 1 - late);
            CHECK_EQ(noted.torque.n, power && late);
            CHECK_EQ(rig.torque_on, !power || late);
            CHECK_EQ(rig.torque_repeats, 0);
        }
    fresh(); /* torque off is not given up for it */
    vlad_servo_set_torque(&rig, false);
    rig.torque_on = false;
    rig.torque_repeats = 3;
    noted.torque.rc = -EAGAIN;
    rig.now.arm.limited = 2;
    rig.limit_tries = TRIES - 1;
    torque_tick();
    CHECK(is_pulsed(VLAD_F_SERVO_SILENT));
    CHECK_EQ(rig.torque_repeats, 3);
}

/* --- The let-down: PARK without a sweep. --- */

/* Each joint's torque limit falls by the same share a tick to nothing in two seconds, never rises, and
 * then torque goes off. No goal is written on the way. */
static void test_let_down(void)
{
    for (int latched = 0; latched < 2; latched++) {
        const int n = 200; /* ticks in two seconds */

        fresh();
        rig.mode = VLAD_STOPPING;
        rig.watchdog.latched = latched ? BIT(VLAD_F_SUSPENDED) : 0;
        rig.now.limit_permille[1] = 600;
        rig.easing_since_ns = now_ns;
        for (int i = 0; i < n; i++) {
            int32_t left = 1000 - 5 * i;

            CHECK(!vlad_servo_next_goal(&rig, now_ns));
            CHECK_EQ(rig.now.limit_permille[0], left);
            CHECK_EQ(rig.now.limit_permille[1], left < 600 ? left : 600);
            CHECK_EQ(rig.now.limit_permille[2], left);
            CHECK_EQ(rig.limits_due, i == 0 ? 0 : left < 600 ? ALL : ALL & ~2u);
            CHECK_EQ(rig.easing_since_ns, 1000 * MS);
            CHECK(rig.torque_wanted);
            CHECK_EQ(rig.mode, VLAD_STOPPING);
            rig.limits_due = 0;
            next_tick();
        }
        check_no_event();
        now_ns -= 1; /* one nanosecond is left: rounded down to nothing, and not yet over */
        CHECK(!vlad_servo_next_goal(&rig, now_ns));
        CHECK(rig.torque_wanted);
        CHECK_EQ(rig.now.limit_permille[1], 0);
        now_ns += 1;
        CHECK(!vlad_servo_next_goal(&rig, now_ns));
        CHECK(!rig.torque_wanted);
        CHECK_EQ(rig.torque_repeats, 3);
        CHECK_EQ(rig.easing_since_ns, 0);
        CHECK_EQ(rig.mode, latched ? VLAD_FAULTED : VLAD_READY);
        check_event(VLAD_EV_TORQUE, ALL, 0, 0);
        check_event(VLAD_EV_MODE, VLAD_STOPPING, rig.mode, 0);
        check_no_event();
    }
    fresh(); /* not a whole permille more than is left */
    rig.mode = VLAD_STOPPING;
    rig.easing_since_ns = now_ns;
    vlad_servo_next_goal(&rig, now_ns + 1);
    CHECK_EQ(rig.now.limit_permille[0], 999);

    fresh(); /* braking lowers no torque */
    rig.mode = VLAD_STOPPING;
    CHECK(vlad_servo_next_goal(&rig, now_ns));
    CHECK_EQ(rig.limits_due, 0);
}

int main(void)
{
    test_nothing_to_say();
    test_torque_on();
    test_torque_refused();
    test_no_torque_without_the_whole_pose();
    test_torque_off();
    test_torque_that_stays_on();
    test_liars_are_cut();
    test_limits_go_out();
    test_limits_of_joints_not_seen();
    test_limits_that_did_not_arrive();
    test_power_waits_for_limits();
    test_limits_that_never_arrive();
    test_let_down();
    CHECK_DONE();
}
