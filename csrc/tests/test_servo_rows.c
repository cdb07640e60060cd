/* The rows of the fault table that the servos themselves show, tick by tick, with their bounds. */
#include "servo_rig.h"

static uint64_t bit(enum vlad_fault fault)
{
    return UINT64_C(1) << fault;
}

/* Ticks until `fault` is active, at most `most`. */
static int ticks_until(enum vlad_fault fault, int most)
{
    int n = 0;

    do
        ticks(1);
    while (++n < most && !(seen.active & bit(fault)));
    CHECK(seen.active & bit(fault));
    return n;
}

static int64_t goals_apart(const int64_t *goal_nu)
{
    int64_t most = 0;

    for (int j = 0; j < JOINTS; j++)
        if (llabs(seen.goal_nu[j] - goal_nu[j]) > most)
            most = llabs(seen.goal_nu[j] - goal_nu[j]);
    return most;
}

/* --- Row 21: heat. --- */

static void test_heat_by_degree(void)
{
    begin_moving();
    arm.memory.temperature_c = 60;
    CHECK_EQ(ticks_until(VLAD_F_SERVO_OVER_TEMPERATURE, 20), VLAD_RECENT);
    CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_OVER_TEMPERATURE], VLAD_WARN);
    arm.memory.temperature_c = 65;
    ticks(VLAD_RECENT);
    CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_OVER_TEMPERATURE], VLAD_SLOW);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    CHECK_EQ(seen.latched, 0);
    arm.memory.temperature_c = 70;
    ticks(VLAD_RECENT); /* 50 ms of the row's 200 */
    CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_OVER_TEMPERATURE], VLAD_PARK);
    CHECK_EQ(seen.latched, bit(VLAD_F_SERVO_OVER_TEMPERATURE));
    CHECK_EQ(seen.mode, VLAD_STOPPING);
}

static void test_one_hot_reading_is_none(void)
{
    begin_moving();
    for (int i = 0; i < 50; i++) {
        arm.memory.temperature_c = i % VLAD_RECENT ? 90 : 40;
        ticks(1);
    }
    CHECK_EQ(seen.active, 0);
}

static void test_the_status_bit_is_heat(void)
{
    begin_moving();
    arm.memory.status[1] = VLAD_STATUS_TEMPERATURE;
    ticks(VLAD_RECENT);
    CHECK_EQ(seen.latched, bit(VLAD_F_SERVO_OVER_TEMPERATURE));
}

/* With a rest pose: there, and torque off there. Clear needs it cool. */
static void test_heat_parks(void)
{
    begin_moving();
    arm.memory.temperature_c = 70;
    ticks(40);
    CHECK(seen.parking);
    ticks(460); /* 5 s in all */
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    CHECK(!seen.torque_on && !seen.parking);
    for (int j = 0; j < JOINTS; j++)
        CHECK_EQ(seen.goal_nu[j], rig.config.rest_nu[j]);
    CHECK_EQ(arm.memory.limit_permille[0], 1000);
    ask(VLAD_REQ_CLEAR | VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    arm.memory.temperature_c = 50;
    ticks(510);
    ask(VLAD_REQ_CLEAR);
    CHECK_EQ(seen.mode, VLAD_READY);
}

/* Without one the torque fades within 2 s after the stop, and no goal moves. Engaging gives it back,
 * and only with the limits read back does power come. */
static void test_heat_lets_down(void)
{
    int64_t goal_nu[JOINTS];
    int32_t before = 1000;

    begin_moving();
    rig.config.has_rest_pose = false;
    arm.memory.temperature_c = 75;
    ticks(VLAD_RECENT + 31);
    CHECK(seen.letting_down);
    memcpy(goal_nu, seen.goal_nu, sizeof goal_nu);
    for (int i = 0; i < 195; i++) {
        ticks(1);
        for (int j = 0; j < JOINTS; j++)
            CHECK(arm.memory.limit_permille[j] <= before);
        before = arm.memory.limit_permille[0];
        CHECK(seen.torque_on || i > 180);
    }
    CHECK(before <= 50);
    ticks(10);
    CHECK_EQ(arm.memory.torque_mask, 0);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    CHECK_EQ(goals_apart(goal_nu), 0);
    CHECK_EQ(seen.counters.let_down, 1);

    arm.memory.temperature_c = 40;
    ticks(510);
    ask(VLAD_REQ_CLEAR);
    CHECK_EQ(seen.mode, VLAD_READY);
    arm.memory.drop_limits = 3; /* a sync write is not acknowledged */
    arm.memory.present_nu[0] += 100 * MILLI; /* it hangs elsewhere now */
    ask(VLAD_REQ_ENGAGE);
    ticks(3);
    CHECK(!seen.torque_on);
    CHECK_EQ(arm.memory.limit_permille[1], before < 50 ? arm.memory.limit_permille[0] : 0);
    ticks(5);
    CHECK(seen.torque_on);
    for (int j = 0; j < JOINTS; j++)
        CHECK_EQ(arm.memory.limit_permille[j], 1000);
}

/* After a restart some joints may hold and others not: a hot one is let down all the same. */
static void test_heat_lets_down_what_holds(void)
{
    begin();
    arm.memory.torque_mask = ALL & ~1u; /* as found */
    ticks(2);
    arm.memory.temperature_c = 75;
    ticks(VLAD_RECENT + 1);
    CHECK(seen.letting_down && !seen.parking);
    CHECK_EQ(arm.memory.torque_mask, ALL & ~1u);
    ticks(210);
    CHECK_EQ(arm.memory.torque_mask, 0);
    CHECK_EQ(arm.memory.writes, 0);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    ticks(300);
    CHECK_EQ(seen.counters.let_down, 1);
}

/* An operator's hold ends it, and the torque that is left stays: more would pull the arm up. */
static void test_hold_ends_letting_down(void)
{
    int32_t left;

    begin_moving();
    rig.config.has_rest_pose = false;
    arm.memory.temperature_c = 75;
    ticks(100);
    CHECK(seen.letting_down);
    ask(VLAD_REQ_HOLD);
    ticks(2);
    left = arm.memory.limit_permille[2];
    CHECK(left > 300 && left < 900);
    ticks(300);
    CHECK(!seen.letting_down && seen.torque_on);
    CHECK_EQ(arm.memory.limit_permille[2], left);
    ask(VLAD_REQ_PARK);
    CHECK(!seen.parking); /* no rest pose */
    ask(VLAD_REQ_LIMP);
    CHECK_EQ(arm.memory.torque_mask, 0);
}

/* Whoever said hold may be at the arm: a motor that gets hot later lets it down, and sweeps nothing. */
static void test_no_sweep_after_hold(void)
{
    begin_moving();
    ask(VLAD_REQ_HOLD);
    ticks(50);
    CHECK_EQ(seen.mode, VLAD_HOLDING);
    arm.memory.temperature_c = 75;
    ticks(10);
    CHECK(seen.letting_down && !seen.parking);
    ticks(210);
    CHECK(!seen.torque_on);
}

/* PARK wins over a silent or lying joint, but is no sweep then. */
static void test_an_unsure_arm_is_not_swept(void)
{
    for (int kind = 0; kind < 3; kind++) {
        begin_moving();
        arm.memory.temperature_c = 75;
        if (kind == 0) { /* first the heat, and the sweep is on its way */
            ticks(60);
            CHECK(seen.parking);
        }
        if (kind < 2)
            arm.memory.silent = 2;
        else
            arm.memory.offset_nu[1] = 400 * MILLI;
        for (int i = 0; i < 60; i++) {
            ticks(1);
            CHECK(!seen.parking || (kind == 0 && i < 5));
        }
        CHECK(seen.letting_down);
        arm.memory.silent = 0;
        ticks(250);
        CHECK(!seen.torque_on || !seen.bus_up);
        CHECK_EQ(arm.memory.torque_mask & 1, 0);
    }
}

/* --- Row 20: overload. --- */

static void test_overload(void)
{
    begin_moving();
    arm.memory.status[1] = VLAD_STATUS_OVERLOAD;
    CHECK_EQ(ticks_until(VLAD_F_SERVO_OVERLOAD, 10), 1); /* of two */
    CHECK_EQ(seen.mode, VLAD_STOPPING);
    ticks(2);
    CHECK_EQ(arm.memory.limit_permille[1], 500);
    CHECK_EQ(arm.memory.limit_permille[0], 1000);
    ticks(40);
    CHECK_EQ(seen.mode, VLAD_HOLDING);
    arm.memory.status[1] = 0;
    ticks(199);
    CHECK(seen.active);
    ticks(3);
    CHECK_EQ(seen.active | seen.latched, 0);
    CHECK_EQ(arm.memory.limit_permille[1], 500); /* until somebody engages */
    ask(VLAD_REQ_ENGAGE);
    ticks(2);
    CHECK_EQ(arm.memory.limit_permille[1], 1000);
    ticks(30); /* its goal went to where it is: nothing starts before that stands */
    CHECK_EQ(push_curve(rig.now.t_ns, 0, true), VLAD_ACCEPTED);
    for (int i = 2; i <= 3; i++) { /* twice more within the minute */
        arm.memory.status[2] = VLAD_STATUS_CURRENT;
        ticks(2);
        CHECK_EQ(seen.latched, i == 3 ? bit(VLAD_F_SERVO_OVERLOAD) : 0);
        arm.memory.status[2] = 0;
        ticks(210);
    }
    CHECK_EQ(seen.reaction, VLAD_PARK);
}

/* A gripper closed on something is overloaded by design: it warns, however often. */
static void test_a_gripper_may_be_overloaded(void)
{
    begin_moving();
    rig.config.gripper_mask = 1u << 2;
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
        arm.memory.status[2] = VLAD_STATUS_OVERLOAD;
        ticks(2);
        CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_OVERLOAD], VLAD_WARN);
        arm.memory.status[2] = 0;
        for (int k = 0; k < 3; k++) {
            CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
            ticks(70);
        }
        CHECK_EQ(seen.active | seen.latched, 0);
    }
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    CHECK_EQ(arm.memory.limit_permille[2], 1000);
}

/* A register that reads low for once is not written back: that would take the torque for good. */
static void test_a_torque_limit_misread(void)
{
    for (int low = 0; low < 2; low++) {
        begin_moving();
        if (low) {
            arm.memory.status[1] = VLAD_STATUS_OVERLOAD;
            ticks(2);
            arm.memory.status[1] = 0;
        } else {
            ask(VLAD_REQ_HOLD);
        }
        ticks(60);
        CHECK_EQ(seen.mode, VLAD_HOLDING);
        arm.memory.limit_permille[1] = 0;
        ticks(1);
        CHECK_EQ(arm.memory.asked_permille[1], low ? 500 : 1000);
        arm.memory.limit_permille[1] = arm.memory.asked_permille[1];
        ticks(3);
        CHECK_EQ(arm.memory.limit_permille[1], low ? 500 : 1000);
        arm.memory.limit_permille[1] = 0; /* and it does: nothing is pulled up before somebody engages */
        ticks(100);
        CHECK_EQ(arm.memory.limit_permille[1], 0);
        CHECK_EQ(seen.latched, 0);
    }
}

/* Power that waits for its torque limits is not switched on once a fault has ended the engagement. */
static void test_limits_that_never_arrive(void)
{
    begin();
    arm.memory.limit_permille[1] = arm.memory.asked_permille[1] = 300;
    arm.memory.drop_limits = 1000;
    ask(VLAD_REQ_ENGAGE);
    ticks(40);
    CHECK_EQ(seen.latched, bit(VLAD_F_SERVO_SILENT));
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    arm.memory.drop_limits = 0;
    ticks(100);
    CHECK_EQ(arm.memory.torque_mask, 0);
    ticks(100);
    ask(VLAD_REQ_CLEAR);
    CHECK_EQ(seen.mode, VLAD_READY);
    ask(VLAD_REQ_ENGAGE);
    ticks(4);
    CHECK_EQ(arm.memory.torque_mask, ALL);
    CHECK_EQ(arm.memory.limit_permille[1], 1000);
}

/* A sync write is not acknowledged: torque off counts once the servos say so. */
static void test_torque_off_is_read_back(void)
{
    begin_moving();
    arm.memory.drop_torque = 5;
    ask(VLAD_REQ_LIMP);
    ticks(10);
    CHECK_EQ(arm.memory.torque_mask, 0);
    CHECK_EQ(seen.latched, 0);

    begin_moving();
    arm.memory.drop_torque = 1000;
    ask(VLAD_REQ_LIMP);
    ticks(30);
    CHECK_EQ(seen.latched, bit(VLAD_F_SERVO_SILENT));
}

/* --- Rows 22 and 45: the supply. --- */

static void test_voltage_bands(void)
{
    static const struct { int32_t mv; enum vlad_reaction reaction; } row[] = {
        { 6300, VLAD_NONE }, { 6200, VLAD_HOLD }, { 5400, VLAD_PARK },
        { 8500, VLAD_NONE }, { 8600, VLAD_HOLD }, { 9300, VLAD_PARK },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        begin_moving();
        CHECK_EQ(seen.supply_mv, 7400); /* as found */
        arm.memory.voltage_mv = row[i].mv;
        ticks(VLAD_RECENT - 1);
        CHECK(!(seen.active & bit(VLAD_F_SERVO_VOLTAGE)));
        ticks(1);
        CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_VOLTAGE], row[i].reaction);
        CHECK_EQ(seen.latched, 0);
        if (row[i].reaction == VLAD_HOLD) {
            ticks(40);
            CHECK_EQ(seen.mode, VLAD_HOLDING);
            arm.memory.voltage_mv = 7400;
            ticks(210);
            CHECK(!(seen.active & bit(VLAD_F_SERVO_VOLTAGE)));
            CHECK_EQ(seen.mode, VLAD_HOLDING); /* and not in motion */
        }
    }
    begin_moving();
    arm.memory.status[0] = VLAD_STATUS_VOLTAGE; /* beyond the servo's own limits */
    ticks(1);
    CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_VOLTAGE], VLAD_HOLD);
}

/* The arm's own current: a dip that is over when the arm has stopped neither parks nor drops it. */
static void test_a_dip_lets_nothing_down(void)
{
    for (int rest_pose = 0; rest_pose < 2; rest_pose++) {
        begin_moving();
        rig.config.has_rest_pose = rest_pose;
        arm.memory.voltage_mv = 5400;
        ticks(VLAD_RECENT + 3);
        CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_VOLTAGE], VLAD_PARK);
        arm.memory.voltage_mv = 7400;
        for (int i = 0; i < 300; i++) {
            ticks(1);
            CHECK(!seen.parking && !seen.letting_down);
        }
        CHECK_EQ(seen.mode, VLAD_HOLDING);
        CHECK_EQ(arm.memory.torque_mask, ALL);
        arm.memory.voltage_mv = 5400; /* one that stays does */
        ticks(VLAD_RECENT + 1);
        CHECK(rest_pose ? seen.parking : seen.letting_down);
    }
}

/* One odd reading does not make a supply out of what the servos have. */
static void test_nominal_voltage_misread(void)
{
    struct vlad_servo_config config = rig_config();
    int64_t pose_nu[JOINTS] = { 0 };
    int joint;

    for (int at = 0; at < VLAD_RECENT; at++) {
        memset(&arm, 0, sizeof arm);
        vlad_memory_arm_init(&arm.memory, JOINTS, pose_nu, 1000 * MS);
        CHECK_EQ(vlad_servo_init(&rig, &config, 1000 * MS, &joint), 0);
        CHECK_EQ(adopt(pose_nu, true), 0); /* found holding */
        for (int i = 0; i < 300; i++) {
            arm.memory.voltage_mv = i == at ? 25500 : 7400;
            ticks(1);
            CHECK_EQ(seen.active, 0);
        }
        CHECK_EQ(seen.supply_mv, 7400);
    }
}

static void test_a_configured_voltage(void)
{
    struct vlad_servo_config config = rig_config();
    int64_t pose_nu[JOINTS] = { 0 };
    int joint;

    config.supply_mv = 12000; /* 7.4 V are no such supply */
    memset(&arm, 0, sizeof arm);
    vlad_memory_arm_init(&arm.memory, JOINTS, pose_nu, 1000 * MS);
    CHECK_EQ(vlad_servo_init(&rig, &config, 1000 * MS, &joint), 0);
    CHECK_EQ(adopt(pose_nu, false), 0);
    ticks(10);
    CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_VOLTAGE], VLAD_PARK);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_READY);
}

/* A supply that falls at 2.5 V/s: held within 200 ms of the slope showing, parked before 5.5 V. */
static void test_brown_out(void)
{
    int held = 0, parked = 0;

    begin_moving();
    for (int i = 1; i < 90 && !parked; i++) {
        arm.memory.voltage_mv = 7400 - 25 * i;
        ticks(1);
        if (!held && seen.fault_reaction[VLAD_F_BROWN_OUT] >= VLAD_HOLD)
            held = i;
        if (seen.fault_reaction[VLAD_F_BROWN_OUT] == VLAD_PARK)
            parked = i;
    }
    CHECK(held > 0 && held <= 22 + 20); /* it counts from 7.5 % below, tick 22 */
    CHECK(parked > held && 7400 - 25 * parked > 5550);
    CHECK_EQ(seen.latched, bit(VLAD_F_BROWN_OUT));

    begin_moving(); /* the arm's own current: down, and it stays there */
    arm.memory.voltage_mv = 6700;
    for (int i = 0; i < 100; i++) {
        ticks(1);
        CHECK_EQ(seen.fault_reaction[VLAD_F_BROWN_OUT], VLAD_NONE);
    }
}

/* --- Row 23: an encoder that lies. --- */

static void test_an_encoder_that_jumps(void)
{
    int64_t goal_nu;

    for (int back = 0; back < 2; back++) {
        begin_moving();
        arm.memory.offset_nu[1] = 500 * MILLI;
        CHECK_EQ(ticks_until(VLAD_F_SERVO_ENCODER, 10), 1); /* 20 ms */
        CHECK_EQ(seen.mode, VLAD_STOPPING);
        CHECK_EQ(seen.latched, bit(VLAD_F_SERVO_ENCODER));
        if (back)
            arm.memory.offset_nu[1] = 0;
        ticks(9);
        CHECK_EQ(seen.lying, 0);
        ticks(3);
        CHECK_EQ(seen.lying, back ? 0 : 2);
        CHECK_EQ(arm.memory.torque_mask, back ? ALL : ALL & ~2u);
        goal_nu = seen.goal_nu[1];
        ticks(60);
        CHECK_EQ(seen.mode, VLAD_FAULTED);
        CHECK_EQ(arm.memory.torque_mask, back ? ALL : ALL & ~2u); /* the others hold */
        CHECK(seen.torque_on);
        CHECK(llabs(seen.goal_nu[1] - goal_nu) < 100 * MILLI); /* its reading is no command */
        ticks(200);
        ask(VLAD_REQ_CLEAR);
        CHECK_EQ(seen.mode, back ? VLAD_HOLDING : VLAD_FAULTED); /* a lie is not cleared */
        ask(VLAD_REQ_ENGAGE);
        CHECK_EQ(seen.mode, back ? VLAD_ENGAGED : VLAD_FAULTED);
        if (back)
            continue;
        ask(VLAD_REQ_LIMP); /* from here its operator vouches for it */
        ticks(110);
        ask(VLAD_REQ_CLEAR);
        CHECK_EQ(seen.mode, VLAD_READY);
        ask(VLAD_REQ_ENGAGE); /* from where it says it is, by the pose of that tick */
        ticks(5);
        CHECK_EQ(arm.memory.torque_mask, ALL);
        CHECK(llabs(seen.goal_nu[1] - seen.arm.position_nu[1]) < 5 * MILLI);
    }
}

/* The servo drives the joint to where the false reading meets the goal, so that the reading comes
 * back by itself: it lies all the same. */
static void test_a_reading_that_is_driven_back_still_lies(void)
{
    begin_moving();
    arm.memory.tracking_ns = 20 * MS;
    arm.memory.offset_nu[0] = 150 * MILLI;
    ticks(15);
    CHECK(llabs(seen.arm.position_nu[0] - seen.goal_nu[0]) < 60 * MILLI);
    CHECK_EQ(seen.lying, 1);
    CHECK_EQ(arm.memory.torque_mask, ALL & ~1u);
}

static void test_the_encoder_bit(void)
{
    begin_moving();
    arm.memory.status[2] = VLAD_STATUS_ENCODER;
    ticks(1);
    CHECK_EQ(seen.latched, bit(VLAD_F_SERVO_ENCODER));
    ticks(12);
    CHECK_EQ(seen.lying, 4);
    CHECK_EQ(arm.memory.torque_mask, ALL & ~4u);
}

/* Judged against the time since that joint's last good answer: what is missing is no jump. */
static void test_missing_answers_are_no_jump(void)
{
    begin_moving();
    arm.memory.tracking_ns = 1;
    for (int i = 0; i < 60; i++) {
        arm.memory.corrupt = i % 4 ? 2 : 0;
        ticks(1);
        CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
    }
    CHECK(!(seen.active & bit(VLAD_F_SERVO_ENCODER)));
    CHECK_EQ(seen.counters.encoder_jumps[1], 0);
}

/* --- Rows 16 and 44: what was written, and the power to hold it. --- */

static void test_goals_that_do_not_arrive(void)
{
    begin_moving();
    arm.memory.deaf = 1;
    for (int i = 0; i < 40 && seen.mode == VLAD_ENGAGED; i++) {
        ticks(1);
        if (seen.counters.goals_lost[0] == 3)
            CHECK_EQ(seen.fault_reaction[VLAD_F_SHORT_WRITE], VLAD_WARN);
    }
    CHECK_EQ(seen.mode, VLAD_STOPPING);
    CHECK_EQ(seen.counters.goals_lost[0], 10);
    CHECK_EQ(seen.counters.goals_lost[1], 0);
    CHECK_EQ(seen.fault_reaction[VLAD_F_SHORT_WRITE], VLAD_HOLD);
}

/* The supply was gone for less than silence tells: the servos answer, without torque. */
static void test_a_short_cut_of_the_supply(void)
{
    uint64_t writes;

    for (int all = 0; all < 2; all++) {
        begin_moving();
        arm.memory.torque_mask = all ? 0 : ALL & ~1u;
        CHECK_EQ(ticks_until(VLAD_F_SERVO_SUPPLY_LOST, 10), 3); /* 50 ms */
        CHECK_EQ(seen.latched, bit(VLAD_F_SERVO_SUPPLY_LOST));
        CHECK(!seen.bus_up);
        CHECK_EQ(arm.memory.limp_writes, 0); /* some firmware turns torque on for a goal */
        writes = arm.memory.writes;
        ticks(100);
        CHECK_EQ(arm.memory.writes, writes);
        CHECK_EQ(arm.memory.torque_mask, all ? 0 : ALL & ~1u);
    }
}

/* Torque that was misread: the arm waits for a tick, and goes on by one step. */
static void test_torque_misread(void)
{
    for (int i = 0; i < 20; i++) {
        begin_moving();
        arm.memory.torque_mask = ALL & ~1u;
        ticks(1);
        CHECK_EQ(seen.counters.dropped_writes, 1);
        arm.memory.torque_mask = ALL;
        ticks(1);
        CHECK_EQ(seen.mode, VLAD_ENGAGED);
        CHECK_EQ(seen.active, 0);
    }
    begin_moving();
    arm.memory.torque_mask = ALL & ~1u;
    ticks(1);
    arm.memory.silent = 1; /* and it is not heard of again: the others are stopped all the same */
    arm.memory.torque_mask = ALL;
    ticks(60);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
}

/* --- Row 14: something stands in the way. --- */

static void test_an_obstacle(void)
{
    int64_t off_nu, limit_nu, goal_nu[JOINTS];
    int beyond = 0, n = 0;

    begin_moving();
    limit_nu = rig.config.following_nu;
    arm.memory.blocked = 1;
    arm.memory.load_permille[0] = 600;
    while (!(seen.active & bit(VLAD_F_FOLLOWING_ERROR)) && ++n < 400) {
        if (n % 20 == 0)
            CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
        ticks(1);
        off_nu = llabs(arm.memory.present_nu[0] - seen.goal_nu[0]);
        beyond += off_nu > limit_nu;
    }
    CHECK(beyond <= 12); /* 110 ms, counted from the goal that went out too far */
    CHECK_EQ(seen.mode, VLAD_STOPPING);
    ticks(9); /* 200 ms: the goal has gone back to where the joint is */
    CHECK_EQ(seen.goal_nu[0], arm.memory.present_nu[0]);
    CHECK_EQ(arm.memory.limit_permille[0], 500);
    CHECK_EQ(arm.memory.limit_permille[1], 1000);
    ticks(30);
    CHECK_EQ(seen.mode, VLAD_HOLDING);
    memcpy(goal_nu, seen.goal_nu, sizeof goal_nu);
    for (int i = 0; i < 10; i++) { /* it gives way further: it is not followed down */
        arm.memory.present_nu[0] -= 30 * MILLI;
        ticks(1);
    }
    ticks(100);
    CHECK(seen.active & bit(VLAD_F_FOLLOWING_ERROR));
    CHECK_EQ(goals_apart(goal_nu), 0);
    arm.memory.blocked = 0;
    ticks(150);
    CHECK_EQ(seen.active | seen.latched, 0);
    ask(VLAD_REQ_RESUME);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    ticks(3);
    CHECK_EQ(arm.memory.limit_permille[0], 1000);
}

/* A joint that is off and bears no load does not try: half the limit. A gripper may be anywhere. */
static void test_load_decides(void)
{
    for (int kind = 0; kind < 3; kind++) {
        begin_moving();
        rig.config.gripper_mask = kind == 2 ? 1 : 0;
        arm.memory.blocked = 1;
        arm.memory.load_permille[0] = kind == 1 ? -300 : 0;
        for (int i = 0; i < 300 && !seen.active; i++) {
            if (llabs(arm.memory.present_nu[0] - seen.goal_nu[0]) < 150 * MILLI && i % 10 == 0)
                CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
            ticks(1);
            if (llabs(arm.memory.present_nu[0] - seen.goal_nu[0]) > 150 * MILLI)
                break;
        }
        ask(VLAD_REQ_HOLD);
        ticks(50);
        CHECK(llabs(arm.memory.present_nu[0] - seen.goal_nu[0]) > 100 * MILLI || kind == 0);
        CHECK_EQ(seen.counters.writes > 0 && seen.fault_count[VLAD_F_FOLLOWING_ERROR] > 0, kind == 0);
    }
}

/* A servo that lags is beyond a tight limit for as long as the motion lasts, and follows all the
 * same. */
static void test_a_lag_is_no_obstacle(void)
{
    int beyond = 0;

    begin_moving();
    rig.config.following_nu = 16 * MILLI; /* half of it without a load */
    arm.memory.tracking_ns = 80 * MS;
    for (int i = 0; i < 300; i++) {
        if (i % 20 == 0)
            CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
        ticks(1);
        for (int j = 0; j < JOINTS; j++)
            beyond += llabs(arm.memory.present_nu[j] - seen.goal_nu[j]) > 8 * MILLI;
        CHECK_EQ(seen.active, 0);
    }
    CHECK(beyond > 300);
}

/* --- Rows 17 and 24: shares of a window. --- */

static void test_some_replies_are_missing(void)
{
    begin_moving();
    for (int i = 0; i < 200; i++) {
        arm.memory.corrupt = i % 5 == 0 ? 2 : 0; /* 1 of 15 */
        if (i % 20 == 0)
            CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
        ticks(1);
    }
    CHECK_EQ(seen.fault_reaction[VLAD_F_REPLY_CORRUPT], VLAD_WARN);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    begin_moving();
    for (int i = 0; i < 200; i++) {
        arm.memory.corrupt = i % 10 == 0 ? 2 : 0; /* 1 of 30 */
        if (i % 20 == 0)
            CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
        ticks(1);
        CHECK_EQ(seen.active, 0);
    }
}

static void test_late_ticks(void)
{
    begin_moving();
    for (int i = 1; i <= 3; i++) { /* three overruns in a row */
        arm.memory.now_ns = rig.now.t_ns + 2 * TICK;
        vlad_servo_tick(&rig, arm.memory.now_ns, TICK);
        vlad_servo_read(&rig, &seen);
        CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_DEADLINE_MISSED], i == 3 ? VLAD_WARN : VLAD_NONE);
    }
    CHECK_EQ(seen.counters.late_wakes, 3);
    begin_moving();
    for (int i = 0; i < 400; i++) { /* one in fifty */
        if (i % 20 == 0)
            CHECK_EQ(push_curve(rig.now.t_ns, 0, false), VLAD_ACCEPTED);
        if (i % 50 == 0) {
            arm.memory.now_ns = rig.now.t_ns + 2 * TICK;
            vlad_servo_tick(&rig, arm.memory.now_ns, TICK);
        } else {
            ticks(1);
        }
    }
    CHECK_EQ(seen.fault_reaction[VLAD_F_SERVO_DEADLINE_MISSED], VLAD_SLOW);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
}

/* Row 33: the clock stood still, so nothing else looks different. */
static void test_the_machine_slept(void)
{
    begin_moving();
    vlad_servo_slept(&rig, MS); /* a reading that is a little off */
    ticks(1);
    CHECK_EQ(seen.active, 0);
    vlad_servo_slept(&rig, 60 * VLAD_NS_PER_S);
    ticks(1);
    CHECK_EQ(seen.latched, bit(VLAD_F_SUSPENDED));
    CHECK_EQ(seen.mode, VLAD_STOPPING);
    vlad_servo_slept(&rig, 59 * VLAD_NS_PER_S); /* a reading that was interrupted */
    ticks(40);
    vlad_servo_slept(&rig, 60 * VLAD_NS_PER_S);
    ticks(40);
    CHECK_EQ(seen.fault_count[VLAD_F_SUSPENDED], 1);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    ask(VLAD_REQ_RESUME);
    CHECK_EQ(seen.mode, VLAD_FAULTED);
    ask(VLAD_REQ_CLEAR);
    CHECK_EQ(seen.mode, VLAD_HOLDING);
    ask(VLAD_REQ_RESUME); /* latched: it takes `engage` */
    CHECK_EQ(seen.mode, VLAD_HOLDING);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
}

int main(void)
{
    test_the_machine_slept();
    test_heat_by_degree();
    test_one_hot_reading_is_none();
    test_the_status_bit_is_heat();
    test_heat_parks();
    test_heat_lets_down();
    test_heat_lets_down_what_holds();
    test_hold_ends_letting_down();
    test_no_sweep_after_hold();
    test_an_unsure_arm_is_not_swept();
    test_overload();
    test_a_gripper_may_be_overloaded();
    test_a_torque_limit_misread();
    test_limits_that_never_arrive();
    test_torque_off_is_read_back();
    test_voltage_bands();
    test_a_dip_lets_nothing_down();
    test_nominal_voltage_misread();
    test_a_configured_voltage();
    test_brown_out();
    test_an_encoder_that_jumps();
    test_a_reading_that_is_driven_back_still_lies();
    test_the_encoder_bit();
    test_missing_answers_are_no_jump();
    test_goals_that_do_not_arrive();
    test_a_short_cut_of_the_supply();
    test_torque_misread();
    test_an_obstacle();
    test_load_decides();
    test_a_lag_is_no_obstacle();
    test_some_replies_are_missing();
    test_late_ticks();
    CHECK_DONE();
}
