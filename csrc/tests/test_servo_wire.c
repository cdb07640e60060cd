/* The last checks before the servo bus, at their bounds: which goals reach the wire, and what follows
 * when one does not. What becomes the next goal: test_servo_goal.c; torque: test_servo_torque.c. */
#include "noted_arm.h"

/* --- The last checks. --- */

/* Goals of one joint, as (from, to) = (limit + steps * step + nu): what the check makes of them. */
enum { WRITTEN, BEYOND_LIMIT, BEYOND_STEP }; /* the last two as in VLAD_EV_WIRE */
static const struct { bool at_limit; int from_steps, from_nu, to_steps, to_nu, verdict; } bound[] = {
    { false, 0, 0, 0, 0, WRITTEN },
    { false, 0, 0, 1, 0, WRITTEN }, /* exactly one step */
    { false, 0, 0, 1, 1, BEYOND_STEP },
    { false, 0, 0, -1, 0, WRITTEN },
    { false, 0, 0, -1, -1, BEYOND_STEP },
    { false, 3, 7, 4, 7, WRITTEN }, /* from where it is, not from 0 */
    { false, 3, 7, 4, 8, BEYOND_STEP },
    { true, -1, 0, 0, 0, WRITTEN }, /* exactly on the limit */
    { true, 0, 0, 0, 0, WRITTEN },
    { true, -1, 1, 0, 1, BEYOND_LIMIT },
    { true, 0, 0, 0, 1, BEYOND_LIMIT },
    { true, -1, 0, 0, 1, BEYOND_LIMIT }, /* the limit is told, though the step is too large as well */
    { true, 0, 9, 0, 9, WRITTEN }, /* found outside: it may stay there, */
    { true, 0, 9, 0, 8, WRITTEN }, /* or move inwards, */
    { true, 0, 9, 0, 10, BEYOND_LIMIT }, /* and never further out */
    { true, 2, 9, 1, 9, WRITTEN }, /* inwards, too, by one step at most */
    { true, 2, 9, 1, 8, BEYOND_STEP },
    { true, 0, 9, -1, 9, WRITTEN },
};

static void set_goal(int j, int64_t from_nu, int64_t to_nu)
{
    rig.written_nu[j] = from_nu;
    vlad_trajectory_reset(&rig.trajectory, rig.written_nu);
    rig.trajectory.goal_nu[j] = to_nu;
}

static void test_exact_bounds(void)
{
    for (unsigned i = 0; i < sizeof bound / sizeof *bound; i++)
        for (int j = 0; j < JOINTS; j++)
            for (int sign = -1; sign <= 1; sign += 2) {
                const struct vlad_joint_limits *limits;
                int64_t limit_nu, step_nu, from_nu, to_nu;

                fresh();
                limits = &rig.config.gate.limits.joint[j];
                limit_nu = !bound[i].at_limit ? 0 : sign > 0 ? limits->max_nu : -limits->min_nu;
                step_nu = rig.trajectory.step_nu[j];
                from_nu = sign * (limit_nu + bound[i].from_steps * step_nu + bound[i].from_nu);
                to_nu = sign * (limit_nu + bound[i].to_steps * step_nu + bound[i].to_nu);
                set_goal(j, from_nu, to_nu);
                rig.parking = true;
                vlad_servo_write_goals(&rig, now_ns);
                CHECK_EQ(noted.write.n, bound[i].verdict == WRITTEN);
                CHECK_EQ(rig.now.counters.writes, bound[i].verdict == WRITTEN);
                CHECK_EQ(rig.now.counters.wire_limit, bound[i].verdict == BEYOND_LIMIT);
                CHECK_EQ(rig.now.counters.wire_step, bound[i].verdict == BEYOND_STEP);
                CHECK_EQ(is_pulsed(VLAD_F_ACTION_OUT_OF_LIMITS), bound[i].verdict != WRITTEN);
                if (bound[i].verdict != WRITTEN) /* then it stops where the wire has it */
                    check_event(VLAD_EV_WIRE, j, bound[i].verdict, to_nu);
                else
                    CHECK_EQ(noted.write.goal_nu[j], to_nu);
                CHECK_EQ(rig.written_nu[j], bound[i].verdict == WRITTEN ? to_nu : from_nu);
                CHECK_EQ(rig.trajectory.goal_nu[j], rig.written_nu[j]);
                CHECK_EQ(rig.mode, bound[i].verdict == WRITTEN ? VLAD_ENGAGED : VLAD_STOPPING);
                CHECK_EQ(rig.parking, bound[i].verdict == WRITTEN);
                CHECK(rig.ops == &noted_ops);
            }
}

/* No joint's goal is written when any other's may not; the first of them is told. */
static void test_one_bad_joint_stops_all(void)
{
    fresh();
    for (int j = 0; j < JOINTS; j++)
        rig.trajectory.goal_nu[j] = j == 0 ? 5 : rig.trajectory.step_nu[j] + 1;
    vlad_servo_write_goals(&rig, now_ns);
    CHECK_EQ(noted.write.n, 0);
    CHECK_EQ(rig.now.counters.wire_step, 1);
    check_event(VLAD_EV_WIRE, 1, BEYOND_STEP, rig.trajectory.step_nu[1] + 1);
    check_event(VLAD_EV_MODE, VLAD_ENGAGED, VLAD_STOPPING, 0);
    check_no_event();
    for (int j = 0; j < JOINTS; j++)
        CHECK_EQ(rig.trajectory.goal_nu[j], 0);
    CHECK(vlad_trajectory_at_rest(&rig.trajectory));
}

/* Goals mean nothing to a limp arm: not even the checks are made. */
static void test_no_goals_without_torque(void)
{
    for (int wanted = 0; wanted < 2; wanted++) {
        fresh();
        rig.torque_on = false;
        rig.torque_wanted = wanted;
        rig.trajectory.goal_nu[0] = 10 * LIMIT_NU;
        vlad_servo_write_goals(&rig, now_ns);
        CHECK_EQ(noted.write.n, 0);
        CHECK_EQ(rig.now.counters.wire_limit + rig.now.counters.dropped_writes, 0);
        CHECK_EQ(rig.mode, VLAD_ENGAGED);
        CHECK(!rig.retry);
        check_no_event();
    }
}

/* A goal might bring torque to a joint that answers without it, so it waits. */
static void test_no_goals_for_a_joint_without_torque(void)
{
    for (int j = 0; j < JOINTS; j++)
        for (int answers = 0; answers < 2; answers++) {
            fresh();
            rig.watch.unpowered[j] = 1;
            rig.now.arm.answered = answers ? ALL : ALL & ~(1u << j);
            rig.trajectory.goal_nu[0] = 5;
            vlad_servo_write_goals(&rig, now_ns);
            CHECK_EQ(noted.write.n, !answers); /* what was known of a silent one is old */
            CHECK_EQ(rig.now.counters.dropped_writes, answers);
            CHECK_EQ(rig.retry, answers);
            CHECK_EQ(rig.wrote, !answers);
            CHECK_EQ(rig.written_nu[0], answers ? 0 : 5);
            CHECK_EQ(rig.trajectory.goal_nu[0], 5);
            CHECK_EQ(rig.mode, VLAD_ENGAGED);
        }
    fresh();
    rig.now.arm.answered = 0xff; /* there are no such joints */
    vlad_servo_write_goals(&rig, now_ns);
    CHECK_EQ(noted.write.n, 1);
}

/* --- The wire. --- */

static void test_a_goal_goes_out(void)
{
    fresh();
    rig.retry = true;
    rig.write_failures = 2;
    for (int j = 0; j < JOINTS; j++)
        rig.trajectory.goal_nu[j] = 10 + j;
    vlad_servo_write_goals(&rig, now_ns);
    CHECK_EQ(noted.write.n, 1);
    CHECK_EQ(noted.write.deadline_ns, now_ns + TICK / 2);
    CHECK_EQ(rig.bus_ns, BUS_NS + WRITE_NS);
    for (int j = 0; j < JOINTS; j++) {
        CHECK_EQ(noted.write.goal_nu[j], 10 + j);
        CHECK_EQ(rig.written_nu[j], 10 + j);
    }
    CHECK_EQ(rig.now.counters.writes, 1);
    CHECK_EQ(rig.now.counters.dropped_writes + rig.now.counters.write_errors, 0);
    CHECK_EQ(rig.write_failures, 0);
    CHECK(rig.wrote && !rig.retry);
    check_no_event();
}

/* What did not go out goes out in the next tick, the same; the third time in a row is a dead bus. */
static void test_the_same_goal_again(void)
{
    static const int rc[] = { -EAGAIN, -EAGAIN, 0, -EAGAIN, -EAGAIN, -EAGAIN };
    int dropped = 0, n = sizeof rc / sizeof *rc;

    fresh();
    rig.trajectory.goal_nu[1] = 33;
    for (int i = 0; i < n; i++) {
        if (i > 0) {
            next_tick();
            CHECK_EQ(vlad_servo_next_goal(&rig, now_ns), true);
        }
        if (i == 3) { /* the one after the retries: the reference stands still, so does the goal */
            CHECK_EQ(rig.now.counters.engaged_ticks, 1);
            rig.trajectory.goal_nu[1] = 34;
        }
        noted.write.rc = rc[i];
        vlad_servo_write_goals(&rig, now_ns);
        dropped += rc[i] != 0;
        CHECK_EQ(noted.write.n, i + 1);
        CHECK_EQ(noted.write.goal_nu[1], i < 3 ? 33 : 34);
        CHECK_EQ(rig.now.counters.dropped_writes, dropped);
        CHECK_EQ(rig.now.counters.write_errors, i == n - 1);
        CHECK_EQ(rig.retry, rc[i] != 0);
        CHECK_EQ(rig.written_nu[1], i < 2 ? 0 : 33);
        CHECK_EQ(rig.ops == NULL, i == n - 1);
        CHECK_EQ(is_pulsed(VLAD_F_SERIAL_UNPLUGGED), i == n - 1);
    }
    CHECK_EQ(rig.mode, VLAD_OFFLINE);
    CHECK_EQ(rig.trajectory.goal_nu[1], 33); /* what the servos hold */
    CHECK_EQ(rig.now.counters.writes, 1);

    fresh(); /* nothing goes out again that no torque is wanted for */
    rig.retry = true;
    rig.torque_wanted = false;
    rig.mode = VLAD_READY;
    CHECK(!vlad_servo_next_goal(&rig, now_ns));
}

static void test_a_dead_bus(void)
{
    fresh();
    rig.trajectory.goal_nu[0] = 5;
    noted.write.rc = -EIO;
    vlad_servo_write_goals(&rig, now_ns);
    CHECK_EQ(rig.now.counters.write_errors, 1);
    CHECK_EQ(rig.now.counters.dropped_writes, 0);
    CHECK_EQ(rig.bus_ns, BUS_NS + WRITE_NS);
    CHECK_EQ(rig.write_failures, 0);
    CHECK(!rig.ops && !rig.retry && !rig.wrote);
    CHECK_EQ(rig.mode, VLAD_OFFLINE);
    CHECK_EQ(rig.written_nu[0], 0);
    CHECK(is_pulsed(VLAD_F_SERIAL_UNPLUGGED));
}

int main(void)
{
    test_exact_bounds();
    test_one_bad_joint_stops_all();
    test_no_goals_without_torque();
    test_no_goals_for_a_joint_without_torque();
    test_a_goal_goes_out();
    test_the_same_goal_again();
    test_a_dead_bus();
    CHECK_DONE();
}
