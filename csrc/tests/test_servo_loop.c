/* The servo loop in simulated time: its modes, requests, last checks and books. */
#include "servo_rig.h"

static uint64_t bit(enum vlad_fault fault)
{
    return UINT64_C(1) << fault;
}

static bool next_of(enum vlad_event_kind kind, struct vlad_event *event)
{
    while (vlad_servo_next_event(&rig, event))
        if (event->kind == (int64_t)kind)
            return true;
    return false;
}

static void test_init(void)
{
    struct vlad_servo_config config = rig_config();
    struct vlad_event event;
    int joint = -7;

    CHECK_EQ(vlad_servo_init(&rig, &config, 5, &joint), 0);
    vlad_servo_read(&rig, &seen);
    CHECK_EQ(seen.mode, VLAD_OFFLINE); /* published before the first tick */
    CHECK_EQ(seen.why_not, VLAD_WHY_BUS);
    CHECK_EQ(seen.t_ns, 5);
    CHECK(!vlad_servo_next_event(&rig, &event));

    config.gate.limits.joint[1].v_max_nu_s = 100 * UNIT_NU; /* one encoder tick per period: no */
    CHECK_EQ(vlad_servo_init(&rig, &config, 0, &joint), -ERANGE);
    CHECK_EQ(joint, 1);
    config = rig_config();
    config.gate.limits.joint[2].a_max_nu_s2 = 1000 * MILLI; /* 2.5 s to stop */
    CHECK_EQ(vlad_servo_init(&rig, &config, 0, &joint), -ERANGE);
    config = rig_config();
    config.gate.limits.n_joints = 0;
    CHECK_EQ(vlad_servo_init(&rig, &config, 0, &joint), -EINVAL);
    config = rig_config();
    config.aggregate = VLAD_N_AGGREGATES;
    CHECK_EQ(vlad_servo_init(&rig, &config, 0, &joint), -EINVAL);
}

/* Without a bus nothing is granted, and a limp that cannot reach the servos says so. */
static void test_offline(void)
{
    struct vlad_servo_config config = rig_config();
    struct vlad_event event;
    int joint;

    memset(&arm, 0, sizeof arm);
    CHECK_EQ(vlad_servo_init(&rig, &config, 1000 * MS, &joint), 0);
    for (uint32_t request = VLAD_REQ_LIMP; request <= VLAD_REQ_ENGAGE; request <<= 1) {
        bool granted = request == VLAD_REQ_HOLD || request == VLAD_REQ_CLEAR;

        ask(request);
        CHECK_EQ(seen.mode, VLAD_OFFLINE);
        CHECK_EQ(next_of(VLAD_EV_REFUSED, &event), !granted);
        if (!granted) {
            CHECK_EQ(event.a, request);
            CHECK(event.b & VLAD_WHY_BUS);
        }
    }
    CHECK_EQ(seen.handled, 6);
    CHECK_EQ(seen.counters.refused_requests, 4);
    CHECK_EQ(seen.counters.reads + seen.counters.writes, 0);
}

static void test_adopt(void)
{
    int64_t pose_nu[JOINTS] = { 100 * MILLI, 0, -100 * MILLI };
    uint64_t writes;

    begin_moving();
    CHECK_EQ(adopt(pose_nu, true), 0);
    CHECK_EQ(adopt(pose_nu, true), -EBUSY);
    writes = seen.counters.writes;
    ticks(5);
    CHECK_EQ(seen.mode, VLAD_READY); /* whatever moved before, a new bus starts at rest */
    CHECK_EQ(seen.counters.writes, writes);
    CHECK(seen.torque_on);
    CHECK_EQ(seen.goal_nu[0], pose_nu[0]);
    ask(VLAD_REQ_ENGAGE);
    ticks(20);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    CHECK_EQ(seen.goal_nu[2], pose_nu[2]); /* nothing queued: it is held */
    CHECK_EQ(adopt(pose_nu, true), 0);
}

/* Torque that is refused is tried again; torque off has no answer, so it goes out three times. */
static void test_torque(void)
{
    begin();
    arm.torque_refusals = 2;
    ask(VLAD_REQ_ENGAGE);
    CHECK(!seen.torque_on);
    CHECK_EQ(seen.counters.writes, 0); /* no goal before power */
    ticks(10);
    CHECK(seen.torque_on);
    CHECK_EQ(arm.torque_on, 1);
    CHECK(seen.counters.writes > 0);
    ask(VLAD_REQ_LIMP);
    CHECK_EQ(arm.memory.torque_mask, 0);
    ticks(10);
    CHECK_EQ(arm.torque_commands, 4);
    CHECK_EQ(seen.mode, VLAD_READY);
}

/* Neither a stop while power is refused, nor a goal that was dropped before the arm went limp. */
static void test_a_limp_arm_gets_no_goals(void)
{
    begin();
    arm.torque_refusals = 10;
    ask(VLAD_REQ_ENGAGE);
    ask(VLAD_REQ_HOLD);
    ticks(5);
    CHECK_EQ(seen.mode, VLAD_HOLDING);
    CHECK_EQ(arm.memory.writes, 0);
    ticks(10);
    CHECK(seen.torque_on);

    begin_moving();
    arm.memory.drop_writes = 1;
    ticks(1);
    ask(VLAD_REQ_LIMP);
    ticks(5);
    arm.torque_refusals = 3;
    ask(VLAD_REQ_ENGAGE);
    ticks(10);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    CHECK(seen.torque_on);
    CHECK_EQ(arm.memory.limp_writes, 0);
}

/* One reply that is missing does not refuse an engage, and power waits for the pose of its tick. */
static void test_power_comes_with_a_fresh_pose(void)
{
    begin();
    arm.memory.silent = 2;
    ticks(1);
    CHECK_EQ(seen.why_not, 0);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    arm.memory.present_nu[1] += 50 * MILLI; /* it sags unseen; the judge knows where it is */
    ticks(2);
    CHECK(!seen.torque_on);
    CHECK_EQ(arm.torque_commands, 0);
    arm.memory.silent = 0;
    ticks(1);
    CHECK(seen.torque_on);
    CHECK_EQ(seen.goal_nu[1], arm.memory.present_nu[1]);
    CHECK_EQ(seen.counters.writes, 0);
}

/* Until torque off has gone out nobody knows what the servos hold: no engaging yet. */
static void test_engage_while_torque_off_is_pending(void)
{
    begin_moving();
    arm.torque_refusals = 1;
    ask(VLAD_REQ_LIMP);
    CHECK(seen.torque_on);
    CHECK_EQ(seen.why_not, VLAD_WHY_MOVING);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_READY);
    CHECK_EQ(seen.counters.refused_requests, 1);
    CHECK(!seen.torque_on);
    ask(VLAD_REQ_ENGAGE);
    ticks(10);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    CHECK(seen.torque_on);
    CHECK_EQ(arm.memory.torque_mask, ALL);
}

/* Servos that never take a torque command are as good as silent, and the books stay true. */
static void test_torque_not_taken(void)
{
    for (int limp = 0; limp < 2; limp++) {
        begin();
        if (limp)
            begin_moving();
        arm.torque_refusals = 1000;
        ask(limp ? VLAD_REQ_LIMP : VLAD_REQ_ENGAGE);
        ticks(25);
        CHECK_EQ(seen.mode, VLAD_FAULTED);
        CHECK_EQ(seen.latched, bit(VLAD_F_SERVO_SILENT));
        CHECK_EQ(seen.torque_on, limp);
        CHECK_EQ(arm.torque_refusals, 980);
        arm.torque_refusals = 0;
        ticks(60);
        ask(VLAD_REQ_CLEAR);
        CHECK_EQ(seen.mode, limp ? VLAD_HOLDING : VLAD_READY);
        ask(VLAD_REQ_ENGAGE);
        ticks(10);
        CHECK_EQ(seen.mode, VLAD_ENGAGED);
        CHECK_EQ(arm.memory.torque_mask, ALL);
    }
}

/* A command to the old bus is not repeated on the new one. */
static void test_new_bus_gets_no_old_torque(void)
{
    int64_t pose_nu[JOINTS] = { 0 };
    uint64_t before;

    begin();
    ask(VLAD_REQ_ENGAGE);
    arm.memory.read_error = -EIO;
    ticks(2);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    CHECK(!seen.bus_up);
    CHECK(seen.latched & bit(VLAD_F_SERIAL_UNPLUGGED));
    arm.memory.read_error = 0;
    before = arm.torque_commands;
    CHECK_EQ(adopt(pose_nu, false), 0);
    ticks(20);
    CHECK_EQ(arm.torque_commands, before);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    ticks(60);
    ask(VLAD_REQ_CLEAR);
    CHECK_EQ(seen.mode, VLAD_READY);
}

/* Within one tick the lowest authority wins, and what loses is refused. */
static void test_lowest_authority(void)
{
    struct vlad_event event;

    begin_moving();
    ask(VLAD_REQ_HOLD | VLAD_REQ_PARK);
    CHECK_EQ(seen.mode, VLAD_STOPPING);
    CHECK(!seen.parking);
    CHECK(next_of(VLAD_EV_REFUSED, &event));
    CHECK_EQ(event.a, VLAD_REQ_PARK);
    ticks(40);
    CHECK_EQ(seen.mode, VLAD_HOLDING);
    ask(VLAD_REQ_LIMP | VLAD_REQ_PARK | VLAD_REQ_RESUME | VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_READY);
    CHECK(!seen.torque_on);
    CHECK(next_of(VLAD_EV_REFUSED, &event));
    CHECK_EQ(event.a, VLAD_REQ_PARK | VLAD_REQ_RESUME | VLAD_REQ_ENGAGE);
}

/* A hot servo parks the arm, unless an operator's hold came: then a clear that clears nothing does
 * not set the arm in motion, only the operator's own park does. */
static void test_hold_inhibits_parking(void)
{
    begin_moving();
    arm.memory.temperature_c = 75;
    ticks(40);
    CHECK(seen.parking);
    ask(VLAD_REQ_HOLD | VLAD_REQ_CLEAR);
    CHECK(!seen.parking);
    ticks(60);
    CHECK(!seen.parking);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    CHECK(seen.torque_on);
    ask(VLAD_REQ_CLEAR);
    ticks(2);
    CHECK(!seen.parking);
    ask(VLAD_REQ_PARK);
    CHECK(seen.parking);
    ticks(500);
    CHECK(!seen.torque_on);
    for (int j = 0; j < JOINTS; j++)
        CHECK_EQ(seen.goal_nu[j], rig.config.rest_nu[j]);
}

/* Row 30 and I2: what would hold an engaged arm holds one on its way to the rest pose too. */
static void test_faults_end_an_operators_park(void)
{
    struct vlad_event event;
    int64_t goal_nu[JOINTS];

    begin_moving();
    ask(VLAD_REQ_HOLD);
    ticks(40);
    ask(VLAD_REQ_PARK);
    ticks(20);
    CHECK(seen.parking);
    vlad_watchdog_hold(&rig.watchdog, VLAD_F_THREAD_DIED, true);
    ticks(1);
    CHECK(!seen.parking);
    ticks(31);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    memcpy(goal_nu, seen.goal_nu, sizeof goal_nu);
    ask(VLAD_REQ_PARK);
    CHECK(next_of(VLAD_EV_REFUSED, &event));
    CHECK_EQ(event.b, VLAD_WHY_LATCHED);
    ticks(40);
    CHECK(memcmp(goal_nu, seen.goal_nu, sizeof goal_nu) == 0);
    CHECK(seen.torque_on);
}

/* A camera is not needed for parking: but what comes on the way ends it. */
static void test_an_operator_may_park_an_arm_that_a_camera_holds(void)
{
    for (int more = 0; more < 2; more++) {
        begin_moving();
        vlad_watchdog_hold(&rig.watchdog, VLAD_F_CAMERA_LOST, true);
        ticks(40);
        CHECK_EQ(seen.mode, VLAD_HOLDING);
        ask(VLAD_REQ_PARK);
        ticks(20);
        CHECK(seen.parking);
        if (more)
            vlad_watchdog_hold(&rig.watchdog, VLAD_F_CAMERA_STALLED, true);
        ticks(1);
        CHECK_EQ(seen.parking, !more);
        ticks(500);
        CHECK_EQ(seen.mode, more ? VLAD_HOLDING : VLAD_READY);
        CHECK_EQ(seen.torque_on, more);
    }
}

/* Row 41: on a calibration that is not the arm's, neither engage, resume nor park moves it. */
static void test_another_calibration_moves_nothing(void)
{
    const uint32_t requests[] = { VLAD_REQ_ENGAGE, VLAD_REQ_RESUME, VLAD_REQ_PARK };
    int64_t pose_nu[JOINTS] = { 100 * MILLI, 0, -100 * MILLI };

    for (int torque = 0; torque < 2; torque++) {
        begin();
        CHECK_EQ(adopt(pose_nu, torque), 0);
        vlad_servo_refusals(&rig, VLAD_WHY_CALIBRATION);
        ticks(5);
        for (int r = 0; r < 3; r++) {
            struct vlad_event event;

            ask(requests[r]);
            ticks(20);
            CHECK_EQ(seen.mode, VLAD_READY);
            CHECK_EQ(seen.torque_on, torque);
            CHECK_EQ(seen.counters.writes, 0);
            CHECK(next_of(VLAD_EV_REFUSED, &event));
            CHECK(event.b & VLAD_WHY_CALIBRATION);
        }
    }
    vlad_servo_refusals(&rig, 0);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
}

/* A bus that was opened anew, at start or later, is not swept by a fault: heat lets it down. */
static void test_a_new_bus_is_not_parked(void)
{
    int64_t pose_nu[JOINTS] = { 0 };
    uint64_t writes;

    begin_moving();
    arm.memory.temperature_c = 75;
    ticks(40);
    CHECK(seen.parking);
    arm.memory.read_error = -EIO;
    ticks(2);
    CHECK(!seen.bus_up);
    arm.memory.read_error = 0;
    writes = seen.counters.writes;
    CHECK_EQ(adopt(pose_nu, true), 0);
    ticks(100);
    CHECK(!seen.parking && seen.letting_down && seen.torque_on);
    ticks(110);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    CHECK_EQ(seen.counters.writes, writes);
    CHECK(!seen.torque_on);
}

/* `resume` leaves an unlatched hold; after a latched fault it takes `clear`, then `engage`. */
static void test_resume(void)
{
    for (int latch = 0; latch < 2; latch++) {
        begin_moving();
        vlad_watchdog_pulse(&rig.watchdog, latch ? VLAD_F_SUSPENDED : VLAD_F_FRAME_BAD);
        ticks(150);
        CHECK_EQ(seen.mode, latch ? VLAD_FAULTED : VLAD_HOLDING);
        ask(VLAD_REQ_CLEAR);
        CHECK_EQ(seen.mode, VLAD_HOLDING);
        ask(VLAD_REQ_RESUME);
        CHECK_EQ(seen.mode, latch ? VLAD_HOLDING : VLAD_ENGAGED);
        ask(VLAD_REQ_ENGAGE);
        CHECK_EQ(seen.mode, VLAD_ENGAGED);
    }
}

/* Rows 19 and 44: servos that come back may have lost their power, and with it their torque. The
 * bus is given up, so that the supervisor reads anew what holds them. */
static void test_servos_that_come_back_are_adopted_anew(void)
{
    int64_t pose_nu[JOINTS];
    struct vlad_event event;
    uint64_t writes;

    for (int all = 0; all < 2; all++) {
        int changes = 0;

        begin_moving();
        arm.memory.silent = all ? ALL : 2;
        ticks(60);
        CHECK_EQ(seen.mode, VLAD_FAULTED);
        CHECK_EQ(seen.latched, bit(all ? VLAD_F_SERVO_SUPPLY_LOST : VLAD_F_SERVO_SILENT));
        CHECK_EQ(seen.bus_up, !all);
        arm.memory.silent = 0;
        ticks(60);
        CHECK(!seen.bus_up);
        while (next_of(VLAD_EV_MODE, &event))
            changes++;
        CHECK(changes < 10); /* given up once, not in every tick */
        writes = seen.counters.writes;
        memcpy(pose_nu, arm.memory.present_nu, sizeof pose_nu);
        CHECK_EQ(adopt(pose_nu, false), 0);
        ticks(5);
        ask(VLAD_REQ_CLEAR);
        CHECK_EQ(seen.mode, VLAD_READY);
        ticks(5);
        CHECK_EQ(seen.counters.writes, writes);
        ask(VLAD_REQ_ENGAGE); /* the judge: power comes with the present pose */
        ticks(5);
        CHECK_EQ(seen.mode, VLAD_ENGAGED);
        CHECK(seen.torque_on);
    }
}

/* The producer lost its processor between the gate's clock and the publication: what the gate found
 * in time comes too late all the same, and the arm does not move on it. */
static void test_a_chunk_published_too_late(void)
{
    int64_t due_ns, goal_nu[JOINTS];

    for (int late = 0; late < 2; late++) {
        begin_moving();
        due_ns = seen.last_due_ns;
        ticks((int)((due_ns - rig.now.t_ns) / TICK) - 1 + 2 * late);
        CHECK_EQ(rig.now.t_ns > due_ns, late);
        memcpy(goal_nu, seen.goal_nu, sizeof goal_nu);
        CHECK_EQ(push_curve(due_ns - 10 * MS, 200 * MS, false), VLAD_ACCEPTED);
        ticks(15);
        CHECK_EQ(seen.counters.overdue, late);
        CHECK_EQ(memcmp(goal_nu, seen.goal_nu, sizeof goal_nu) == 0, late);
        CHECK_EQ(seen.queue_depth == 0, late);
        if (late) { /* a cold start follows */
            CHECK_EQ(push_curve(rig.now.t_ns, 0, true), VLAD_ACCEPTED);
            ticks(20);
            CHECK(!seen.at_rest);
        }
    }
    for (int late = 0; late < 2; late++) {
        begin();
        ask(VLAD_REQ_ENGAGE);
        ticks(20);
        CHECK_EQ(push_curve(rig.now.t_ns - (late ? 100 : 10) * MS, 0, true), VLAD_ACCEPTED);
        ticks(20);
        CHECK_EQ(seen.counters.overdue, late);
        CHECK_EQ(seen.at_rest, late);
    }
}

static void test_refusals_and_causes(void)
{
    begin();
    vlad_servo_refusals(&rig, VLAD_WHY_NO_POLICY | VLAD_WHY_BUS); /* the loop's bits are its own */
    ticks(1);
    CHECK_EQ(seen.why_not, VLAD_WHY_NO_POLICY);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_READY);
    vlad_servo_refusals(&rig, 0);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    ticks(5);
    CHECK(seen.counters.starved[VLAD_STARVE_COLD] > 0);
    CHECK(!(seen.active & bit(VLAD_F_QUEUE_DRAINED))); /* waiting for the first is no fault */
    vlad_servo_starve(&rig, VLAD_STARVE_STAGE);
    vlad_servo_starve(&rig, VLAD_N_STARVES);
    vlad_servo_starve(&rig, -1);
    ticks(5);
    CHECK_EQ(seen.counters.starved[VLAD_STARVE_STAGE], 5);
    CHECK(seen.active & bit(VLAD_F_QUEUE_DRAINED));
}

/* What reaches the wire is checked once more, whatever the parts before it did. */
static void test_last_checks(void)
{
    struct vlad_event event;
    int64_t sane_nu;

    for (int limit = 0; limit < 2; limit++) {
        begin_moving();
        sane_nu = seen.goal_nu[1];
        if (limit)
            rig.config.gate.limits.joint[1].max_nu = sane_nu - 1;
        else
            rig.trajectory.step_nu[1] = 0;
        rig.config.gate.limits.joint[1].max_nu -= limit;
        ticks(1);
        if (limit) /* outside already: only inwards from here */
            CHECK(seen.goal_nu[1] <= sane_nu);
        else
            CHECK_EQ(seen.goal_nu[1], sane_nu);
    }
    begin_moving();
    for (int j = 0; j < JOINTS; j++) /* as if a bit had flipped in the filter */
        rig.trajectory.sum2[j] += INT64_C(1) << 40;
    memcpy(arm.in_force_nu, seen.goal_nu, sizeof arm.in_force_nu);
    ticks(1);
    CHECK_EQ(seen.counters.wire_limit + seen.counters.wire_step, 1);
    CHECK_EQ(seen.goal_nu[0], arm.in_force_nu[0]);
    CHECK(next_of(VLAD_EV_WIRE, &event));
    ticks(2);
    CHECK(seen.active & bit(VLAD_F_ACTION_OUT_OF_LIMITS));
    CHECK_EQ(seen.mode, VLAD_HOLDING);
}

/* The ring holds what fits; the rest is counted, and what was kept is whole and in order. */
static void test_events_overflow(void)
{
    struct vlad_event event;
    int64_t before_ns = 0;
    int n = 0;

    begin();
    while (vlad_servo_next_event(&rig, &event))
        ;
    vlad_servo_refusals(&rig, VLAD_WHY_NO_TASK);
    for (int i = 0; i < VLAD_EVENTS + 30; i++)
        ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.counters.events_dropped, 30);
    CHECK_EQ(seen.counters.refused_requests, VLAD_EVENTS + 30);
    for (; vlad_servo_next_event(&rig, &event); n++) {
        CHECK_EQ(event.kind, VLAD_EV_REFUSED);
        CHECK_EQ(event.b, VLAD_WHY_NO_TASK);
        CHECK(event.t_ns > before_ns);
        before_ns = event.t_ns;
    }
    CHECK_EQ(n, VLAD_EVENTS);
}

/* A bus slower than the period: whole periods are skipped, every one of them counted. */
static void test_overrun(void)
{
    uint64_t before, n;

    begin_moving();
    before = seen.counters.ticks;
    arm.memory.bus_ns = 12 * MS; /* read 12, write 3: 15 ms of a 10 ms period */
    ticks(100);
    n = seen.counters.ticks - before;
    CHECK_EQ(n, 50);
    CHECK_EQ(seen.counters.overruns, n - 1); /* the last is booked after its report */
    CHECK_EQ(n + seen.counters.skipped_periods, 99);
    ticks(2); /* time never goes back, however the simulation is cut into calls */
    CHECK_EQ(seen.counters.overruns, n);
    CHECK_EQ(seen.counters.ticks - before, n + 1);
    CHECK_EQ(seen.wake.count, seen.counters.ticks);
    CHECK_EQ(seen.bus.max_ns, 15 * MS);
    CHECK_EQ(seen.compute.max_ns, 0); /* no time is both */
}

/* Row 24: the time goes by inside a tick, so the next one wakes up on time. */
static void test_a_stall_inside_a_tick_holds(void)
{
    for (int late = 0; late < 2; late++) {
        begin_moving();
        arm.memory.bus_ns = (late ? 56 : 40) * MS; /* and a quarter of it for the write */
        ticks(1);
        arm.memory.bus_ns = 0;
        ticks(10);
        CHECK_EQ(seen.wake.max_ns, 0);
        CHECK_EQ(seen.mode, late ? VLAD_STOPPING : VLAD_ENGAGED);
        CHECK_EQ(seen.active, late ? bit(VLAD_F_SERVO_DEADLINE_MISSED) : 0);
    }
}

static void test_policy_timing(void)
{
    begin_moving();
    CHECK_EQ(vlad_servo_policy_timing(&rig, 0, CHUNK * ACTION, 67 * MS, VLAD_AVERAGE, 0), -EINVAL);
    CHECK_EQ(vlad_servo_policy_timing(&rig, VLAD_NS_PER_S + 1, 2 * VLAD_NS_PER_S, 67 * MS, VLAD_AVERAGE, 0), -EINVAL);
    CHECK_EQ(vlad_servo_policy_timing(&rig, ACTION, ACTION - 1, 67 * MS, VLAD_AVERAGE, 0), -EINVAL);
    CHECK_EQ(vlad_servo_policy_timing(&rig, ACTION, CHUNK * ACTION, 0, VLAD_AVERAGE, 0), -EINVAL);
    CHECK_EQ(vlad_servo_policy_timing(&rig, ACTION, CHUNK * ACTION, 67 * MS, VLAD_AVERAGE, 1),
             -EINVAL);
    CHECK_EQ(rig.queue.aggregate, VLAD_WEIGHTED_AVERAGE);
    ticks(1);
    CHECK(seen.queue_depth > 0);
    CHECK_EQ(vlad_servo_policy_timing(&rig, 20 * MS, 400 * MS, 67 * MS, VLAD_TEMPORAL_ENSEMBLE, 10000),
             0);
    CHECK_EQ(rig.queue.aggregate, VLAD_TEMPORAL_ENSEMBLE);
    CHECK_EQ(rig.queue.ensemble, 10000);
    ticks(1);
    CHECK_EQ(seen.queue_depth, 0);
    ticks(40);
    CHECK(seen.at_rest);
}

int main(void)
{
    test_init();
    test_offline();
    test_adopt();
    test_torque();
    test_a_limp_arm_gets_no_goals();
    test_power_comes_with_a_fresh_pose();
    test_engage_while_torque_off_is_pending();
    test_torque_not_taken();
    test_new_bus_gets_no_old_torque();
    test_lowest_authority();
    test_hold_inhibits_parking();
    test_another_calibration_moves_nothing();
    test_faults_end_an_operators_park();
    test_an_operator_may_park_an_arm_that_a_camera_holds();
    test_a_new_bus_is_not_parked();
    test_resume();
    test_servos_that_come_back_are_adopted_anew();
    test_a_chunk_published_too_late();
    test_refusals_and_causes();
    test_last_checks();
    test_events_overflow();
    test_overrun();
    test_a_stall_inside_a_tick_holds();
    test_policy_timing();
    CHECK_DONE();
}
