/* What becomes the next goal, at the bounds: the queue read ahead, its gaps, and what each mode does.
 * Whether it may reach the wire: test_servo_wire.c; PARK without a sweep: test_servo_torque.c. */
#include "noted_arm.h"
#include "ratio.h"

/* --- The reference. --- */

#define N 20
#define PERIOD (30 * MS)
#define T0 (10000 * MS)
#define LAST (T0 + (N - 1) * PERIOD)
#define SLOPE 3000 /* nu from one action to the next: far less than a step */

/* What the loop reads next: action k is (k + 1) * SLOPE in joint 0, and was seen k + 7 ms before. */
static struct vlad_timeline *timeline(uint64_t seq, int64_t t0_ns)
{
    struct vlad_timeline *line = &rig.queue.buffer[rig.queue.front];

    memset(line, 0, sizeof *line);
    line->seq = seq;
    line->epoch = 1;
    line->t0_ns = t0_ns;
    line->period_ns = PERIOD;
    line->overdue_ns = INT64_MAX;
    line->n = N;
    for (int k = 0; k < VLAD_MAX_TIMELINE; k++) {
        line->action_nu[k][0] = (k + 1) * SLOPE;
        line->t_obs_ns[k] = t0_ns - (k + 7) * MS;
        for (int j = JOINTS; j < VLAD_MAX_JOINTS; j++)
            line->action_nu[k][j] = 9; /* there is no such joint */
    }
    return line;
}

/* One engaged tick at at_ns: the goal moves, something is to be written. */
static void engaged_tick(int64_t at_ns)
{
    now_ns = at_ns;
    CHECK(vlad_servo_next_goal(&rig, now_ns));
}

/* Where the trajectory was sent: every reference here is within one step of the last. */
static void check_reference(int64_t read_at_ns)
{
    CHECK_EQ(rig.read_at_ns, read_at_ns);
    CHECK_EQ(rig.trajectory.input_nu[0],
             SLOPE + vlad_scale(read_at_ns - T0, SLOPE, PERIOD));
    CHECK_EQ(rig.trajectory.input_nu[1], 0);
    CHECK_EQ(rig.trajectory.input_nu[JOINTS], 0);
}

/* One tick at T0 + at: read one look-ahead further, but so that the arm rests when the last action is
 * due; covered until it has to brake for that. */
static void test_reading_ahead(void)
{
    const int64_t ahead = 80 * MS, brake = LAST - T0 - ahead; /* where reading ends */
    const struct {
        int64_t at_ns, read_ns;
        bool covered;
        int depth;
        int64_t t_execution_ns;
        int action; /* the one behind the wire age */
    } row[] = {
        { -200 * MS, 0, true, N, 800 * MS, 0 }, /* before the first: its value */
        { -ahead - 1, 0, true, N, 680 * MS + 1, 0 },
        { -ahead + 1, 1, true, N, 680 * MS - 1, 0 },
        { 0, ahead, true, N, 600 * MS, 0 },
        { 1, ahead + 1, true, N - 1, 600 * MS - 1, 0 },
        { PERIOD - 1, ahead + PERIOD - 1, true, N - 1, 570 * MS + 1, 0 },
        { PERIOD, ahead + PERIOD, true, N - 1, 570 * MS, 1 },
        { brake - ahead, brake, true, 6, 190 * MS, 13 }, /* the last covered tick */
        { brake - ahead + 1, brake, false, 6, 190 * MS - 1, 13 },
        { LAST - T0 - 1, brake, false, 1, PERIOD + 1, N - 2 },
        { LAST - T0, brake, false, 1, PERIOD, N - 1 },
        { LAST - T0 + 1, brake, false, 0, 0, N - 1 }, /* none is left */
        { LAST - T0 + PERIOD, brake, false, 0, 0, N - 1 }, /* when action N would be due */
        { LAST - T0 + 5 * PERIOD, brake, false, 0, 0, N - 1 },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        int64_t age_ns = row[i].at_ns + (row[i].action + 7) * MS;

        fresh();
        CHECK_EQ(rig.lookahead_ns, ahead);
        timeline(1, T0);
        rig.now.wire_age_max_ns = -1000 * MS; /* less than any */
        engaged_tick(T0 + row[i].at_ns);
        check_reference(T0 + row[i].read_ns);
        CHECK_EQ(rig.now.last_due_ns, LAST);
        CHECK_EQ(rig.now.queue_depth, row[i].depth);
        CHECK_EQ(rig.now.t_execution_ns, row[i].t_execution_ns);
        CHECK_EQ(rig.now.wire_age_ns, age_ns);
        /* The arm stands where the newest is past: that age is nobody's fault. */
        CHECK_EQ(rig.now.wire_age_max_ns, row[i].depth ? age_ns : -1000 * MS);
        CHECK_EQ(rig.now.counters.engaged_ticks, 1);
        CHECK_EQ(rig.now.counters.covered_ticks, row[i].covered);
        CHECK_EQ(rig.now.counters.overdue, 0);
    }
}

/* A reference further away than a step is followed by whole steps, no more and no less. */
static void test_full_speed(void)
{
    int64_t step_nu;

    fresh();
    step_nu = rig.trajectory.step_nu[0];
    timeline(1, T0)->action_nu[0][0] = 3 * step_nu - 1;
    for (int i = 1; i <= 3; i++) {
        engaged_tick(T0 - 1000 * MS);
        CHECK_EQ(rig.trajectory.input_nu[0], i * step_nu - (i == 3));
    }
}

static void test_largest_wire_age(void)
{
    fresh();
    timeline(1, T0);
    engaged_tick(T0 + PERIOD - 1);
    CHECK_EQ(rig.now.wire_age_max_ns, 37 * MS - 1);
    engaged_tick(T0 + PERIOD + 1); /* from the next observation */
    CHECK_EQ(rig.now.wire_age_ns, 38 * MS + 1);
    CHECK_EQ(rig.now.wire_age_max_ns, 38 * MS + 1);
    engaged_tick(T0 + 3 * MS);
    CHECK_EQ(rig.now.wire_age_ns, 10 * MS);
    CHECK_EQ(rig.now.wire_age_max_ns, 38 * MS + 1);
}

/* Whatever the timelines do, what was read is never read again. */
static void test_reading_never_goes_back(void)
{
    struct vlad_timeline *line;

    fresh();
    line = timeline(1, T0);
    engaged_tick(T0 + 3 * PERIOD);
    check_reference(T0 + 3 * PERIOD + 80 * MS);
    line->n = 5; /* now it must brake earlier, but stays where it is */
    engaged_tick(T0 + 3 * PERIOD + 1);
    check_reference(T0 + 3 * PERIOD + 80 * MS);

    line->n = 3; /* all of it is past: nothing is read */
    CHECK(rig.read_at_ns > T0 + 2 * PERIOD);
    rig.now.wire_age_ns = rig.now.wire_age_max_ns = 1;
    engaged_tick(T0 + PERIOD);
    check_reference(T0 + 3 * PERIOD + 80 * MS);
    CHECK_EQ(rig.now.wire_age_ns, 1);
    CHECK_EQ(rig.now.wire_age_max_ns, 1);
    CHECK_EQ(rig.now.counters.covered_ticks, 1); /* of the first tick */
    CHECK_EQ(rig.now.counters.engaged_ticks, 3);

    fresh(); /* its very last action still is */
    timeline(1, T0);
    rig.read_at_ns = LAST;
    engaged_tick(T0);
    check_reference(LAST);
    fresh();
    timeline(1, T0);
    rig.read_at_ns = LAST + 1;
    engaged_tick(T0);
    CHECK_EQ(rig.read_at_ns, LAST + 1);
    CHECK_EQ(rig.trajectory.input_nu[0], 0);
    CHECK_EQ(rig.now.counters.covered_ticks, 0);
    CHECK_EQ(rig.now.queue_depth, N);
}

/* What the loop does not execute it does not show either; the arm stays on its way to where it was. */
static void test_timelines_that_are_not_executed(void)
{
    enum { EMPTY, OTHER_EPOCH, OVERDUE, GOOD };

    for (int why = EMPTY; why <= GOOD; why++) {
        struct vlad_timeline *line;

        fresh();
        line = timeline(5, T0);
        rig.trajectory.input_nu[0] = 77;
        rig.now.queue_depth = rig.now.t_execution_ns = rig.now.last_due_ns = 99;
        if (why == EMPTY)
            line->n = 0;
        if (why == OTHER_EPOCH)
            line->epoch = 2;
        line->overdue_ns = T0 - (why != GOOD); /* only looked at where the timeline is ours */
        engaged_tick(T0);
        CHECK_EQ(rig.now.queue_depth, why == GOOD ? N : 0);
        CHECK_EQ(rig.now.t_execution_ns, why == GOOD ? N * PERIOD : 0);
        CHECK_EQ(rig.now.last_due_ns, why == GOOD ? LAST : INT64_MIN);
        CHECK_EQ(rig.now.counters.covered_ticks, why == GOOD);
        CHECK_EQ(rig.now.counters.overdue, why == OVERDUE);
        CHECK_EQ(rig.trajectory.input_nu[0],
                 why == GOOD ? SLOPE + vlad_scale(80 * MS, SLOPE, PERIOD) : 77);
    }
}

/* A timeline is judged once, when it is first seen; by its chunk and its start, as either may change. */
static void test_overdue_is_judged_once(void)
{
    static const struct {
        uint64_t seq;
        int64_t t0_ns, overdue_ns;
        int overdue;
        bool executed;
    } row[] = {
        { 5, T0, T0 + 50 * MS, 0, true },
        { 5, T0, T0 - 1, 0, true }, /* seen already */
        { 6, T0, T0 - 1, 1, false },
        { 6, T0, T0 + 50 * MS, 1, false },
        { 6, T0 - 1, T0 + 50 * MS, 1, true },
        { 6, T0 - 2, T0 - 1, 2, false },
        { 7, T0 - 2, T0 - 1, 3, false },
        { 7, T0, T0 - 1, 4, false },
        { 8, T0, T0, 4, true }, /* on time to the nanosecond */
    };

    fresh();
    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        timeline(row[i].seq, row[i].t0_ns)->overdue_ns = row[i].overdue_ns;
        engaged_tick(T0);
        CHECK_EQ(rig.now.counters.overdue, row[i].overdue);
        CHECK_EQ(rig.now.queue_depth > 0, row[i].executed);
    }
}

/* --- Gaps. --- */

static void test_gaps(void)
{
    static const struct {
        bool covered;
        int cause, gaps, starved[VLAD_N_STARVES];
        int64_t told; /* cause; -1 = no gap ends */
        int64_t ticks;
    } row[] = {
        { true, VLAD_STARVE_COLD, 0, { 0 }, -1, 0 },
        { false, VLAD_STARVE_COLD, 1, { 1 }, -1, 0 },
        { false, VLAD_STARVE_INFERENCE, 1, { 1, 1 }, -1, 0 }, /* the same gap */
        { false, VLAD_STARVE_INFERENCE, 1, { 1, 2 }, -1, 0 },
        { true, VLAD_STARVE_LATE, 1, { 1, 2 }, VLAD_STARVE_INFERENCE, 3 },
        { true, VLAD_STARVE_LATE, 1, { 1, 2 }, -1, 0 },
        { false, VLAD_STARVE_SYNC, 2, { 1, 2, [VLAD_STARVE_SYNC] = 1 }, -1, 0 },
        { true, VLAD_STARVE_COLD, 2, { 1, 2, [VLAD_STARVE_SYNC] = 1 }, VLAD_STARVE_SYNC, 1 },
    };
    int covered = 0;

    fresh();
    for (int i = 0; i < (int)(sizeof row / sizeof *row); i++) {
        int64_t since_ns = rig.starved_since_ns;

        rig.taken.starve_cause = row[i].cause;
        timeline(1, T0)->n = row[i].covered ? N : 0;
        engaged_tick(T0 + i * TICK);
        covered += row[i].covered;
        CHECK_EQ(rig.now.counters.engaged_ticks, i + 1);
        CHECK_EQ(rig.now.counters.covered_ticks, covered);
        CHECK_EQ(rig.now.counters.gaps, row[i].gaps);
        for (int cause = 0; cause < VLAD_N_STARVES; cause++)
            CHECK_EQ(rig.now.counters.starved[cause], row[i].starved[cause]);
        if (row[i].told >= 0)
            check_event(VLAD_EV_GAP, row[i].told, 0, row[i].ticks * TICK);
        check_no_event();
        CHECK_EQ(rig.starved_since_ns, row[i].covered ? 0 : since_ns ? since_ns : now_ns);
    }
}

/* --- The modes. --- */

/* Whether a goal is written, and whether the trajectory moves towards what is queued. */
static void test_what_each_mode_writes(void)
{
    static const struct { enum vlad_mode mode; bool on, wanted, writes, moves; } row[] = {
        { VLAD_OFFLINE, true, true, false, false }, { VLAD_READY, true, true, false, false },
        { VLAD_FAULTED, true, true, false, false }, { VLAD_HOLDING, true, true, true, false },
        { VLAD_HOLDING, true, false, false, false }, { VLAD_ENGAGED, true, true, true, true },
        { VLAD_ENGAGED, false, true, false, false },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        fresh();
        timeline(1, T0);
        rig.mode = row[i].mode;
        rig.torque_on = row[i].on;
        rig.torque_wanted = row[i].wanted;
        CHECK_EQ(vlad_servo_next_goal(&rig, T0), row[i].writes);
        CHECK_EQ(rig.trajectory.input_nu[0] != 0, row[i].moves);
        CHECK_EQ(rig.now.counters.engaged_ticks, row[i].moves);
        CHECK_EQ(rig.mode, row[i].mode);
    }
}

/* An arm that joint 0 moves, and that was told to stop or to park. */
static void stopping(bool parking)
{
    int64_t target_nu[JOINTS] = { LIMIT_NU };

    fresh();
    for (int i = 0; i < 30; i++)
        vlad_trajectory_advance(&rig.trajectory, target_nu, 1000);
    CHECK(rig.trajectory.velocity_nu[0] > 0);
    rig.mode = VLAD_STOPPING;
    rig.parking = parking;
}

/* Braking ends where nothing is latched in a hold, or where there is no torque in READY. */
static void test_coming_to_rest(void)
{
    static const struct { bool latched, wanted; enum vlad_mode mode; } row[] = {
        { false, true, VLAD_HOLDING }, { false, false, VLAD_READY },
        { true, true, VLAD_FAULTED }, { true, false, VLAD_FAULTED },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        int64_t velocity_nu;
        int n = 0;

        stopping(false);
        rig.watchdog.latched = row[i].latched ? BIT(VLAD_F_SUSPENDED) : 0;
        rig.torque_wanted = row[i].wanted;
        for (velocity_nu = rig.trajectory.velocity_nu[0]; velocity_nu; n++) {
            CHECK_EQ(rig.mode, VLAD_STOPPING);
            CHECK(vlad_servo_next_goal(&rig, now_ns)); /* the last one too: a goal that stands */
            CHECK(rig.trajectory.velocity_nu[0] <= velocity_nu);
            velocity_nu = rig.trajectory.velocity_nu[0];
        }
        CHECK(n > 5);
        CHECK_EQ(rig.mode, row[i].mode);
        check_event(VLAD_EV_MODE, VLAD_STOPPING, row[i].mode, 0);
        check_no_event();
    }
}

/* Row 14: a joint whose goal goes back to where the arm is gets there one step a tick, and only then
 * is the stop over; from then on it holds. */
static void test_giving_way(void)
{
    for (int steps = 1; steps <= 40; steps += 39) { /* before and after the other joint stands */
        int64_t step_nu, goal_nu;

        stopping(false);
        step_nu = rig.trajectory.step_nu[2];
        rig.yielding = 4;
        rig.yield_nu[0] = -LIMIT_NU; /* not this one's */
        rig.yield_nu[2] = goal_nu = -steps * step_nu;
        for (int i = 1; i < steps; i++) {
            CHECK(vlad_servo_next_goal(&rig, now_ns));
            CHECK_EQ(rig.trajectory.goal_nu[2], -i * step_nu);
            CHECK_EQ(rig.mode, VLAD_STOPPING);
            CHECK_EQ(rig.yielding, 4);
        }
        for (int i = 0; rig.mode == VLAD_STOPPING && i < 40; i++) {
            CHECK_EQ(rig.yielding, 4);
            CHECK(vlad_servo_next_goal(&rig, now_ns));
            CHECK_EQ(rig.trajectory.goal_nu[2], goal_nu);
        }
        CHECK_EQ(rig.mode, VLAD_HOLDING);
        CHECK_EQ(rig.yielding, 0);
        CHECK(rig.trajectory.goal_nu[0] > 0);
        CHECK(vlad_trajectory_at_rest(&rig.trajectory));
    }
}

/* A sweep at park speed to the rest pose, exactly; there, and only there, torque goes off. */
static void test_parking(void)
{
    for (int latched = 0; latched < 2; latched++)
        for (int moving = 0; moving < 2; moving++) {
            struct vlad_trajectory *t = &rig.trajectory;
            int64_t most_nu, at_nu[JOINTS];
            int n = 0;

            stopping(true);
            most_nu = t->step_nu[0] / 5 + 1; /* park_permille = 200, and the rounding */
            rig.watchdog.latched = latched ? BIT(VLAD_F_SUSPENDED) : 0;
            if (!moving)
                vlad_trajectory_reset(t, (const int64_t[VLAD_MAX_JOINTS]){ 0 });
            else
                vlad_trajectory_stop(t); /* it brakes first: where that ends is no rest pose */
            while (rig.parking && n++ < 2000) {
                bool braking = t->stopping;

                memcpy(at_nu, t->goal_nu, sizeof at_nu);
                CHECK(rig.torque_wanted);
                CHECK_EQ(rig.mode, VLAD_STOPPING);
                CHECK(vlad_servo_next_goal(&rig, now_ns));
                for (int j = 0; j < JOINTS; j++)
                    CHECK(braking || llabs(t->goal_nu[j] - at_nu[j]) <= most_nu);
            }
            for (int j = 0; j < JOINTS; j++)
                CHECK_EQ(t->goal_nu[j], rig.config.rest_nu[j]);
            CHECK(vlad_trajectory_at_rest(t));
            CHECK(n >= 300 * MILLI / most_nu);
            CHECK(!rig.torque_wanted && rig.torque_on); /* until it has gone out */
            CHECK_EQ(rig.torque_repeats, 3);
            CHECK_EQ(rig.mode, latched ? VLAD_FAULTED : VLAD_READY);
            check_event(VLAD_EV_PARKED, 0, 0, 0);
            check_event(VLAD_EV_TORQUE, ALL, 0, 0);
            check_event(VLAD_EV_MODE, VLAD_STOPPING, rig.mode, 0);
            check_no_event();
        }
}

int main(void)
{
    test_reading_ahead();
    test_full_speed();
    test_largest_wire_age();
    test_reading_never_goes_back();
    test_timelines_that_are_not_executed();
    test_overdue_is_judged_once();
    test_gaps();
    test_what_each_mode_writes();
    test_coming_to_rest();
    test_giving_way();
    test_parking();
    CHECK_DONE();
}
