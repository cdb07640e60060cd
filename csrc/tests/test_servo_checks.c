/* What the servo loop makes of one reading of the arm, at the bounds: health, truth, the bus. */
#include "servo_rig.h"

#include "servo_parts.h"

static uint8_t own[VLAD_N_FAULTS + 1];
static int64_t now_ns;

/* A powered arm at rest that has not been read yet. */
static void fresh(void)
{
    struct vlad_servo_config config = rig_config();
    int joint;

    now_ns = 1000 * MS;
    CHECK_EQ(vlad_servo_init(&rig, &config, now_ns, &joint), 0);
    rig.mode = VLAD_ENGAGED;
    rig.torque_on = rig.torque_wanted = true;
    rig.now.supply_mv = 7400;
    rig.now.arm.answered = rig.now.arm.powered = ALL;
    for (int j = 0; j < VLAD_MAX_JOINTS; j++) {
        rig.now.limit_permille[j] = rig.now.arm.limit_permille[j] = 1000;
        rig.now.arm.temperature_c[j] = 30;
        rig.now.arm.voltage_mv[j] = j < JOINTS ? 7400 : 90000; /* there is no such joint */
    }
}

/* --- Health: rows 20 to 22 and 45. --- */

static void health(int n)
{
    for (int i = 0; i < n; i++) {
        memset(own, 0, sizeof own);
        rig.now.arm.t_ns = now_ns += TICK;
        vlad_servo_check_health(&rig, own);
    }
}

static void set_voltage(int32_t mv)
{
    for (int j = 0; j < JOINTS; j++)
        rig.now.arm.voltage_mv[j] = mv;
}

static void test_every_degree(void)
{
    for (int32_t c = 55; c < 80; c++) {
        fresh();
        rig.now.arm.temperature_c[1] = c;
        health(VLAD_RECENT - 1);
        CHECK_EQ(own[VLAD_F_SERVO_OVER_TEMPERATURE], VLAD_NONE); /* so many must agree */
        health(1);
        CHECK_EQ(own[VLAD_F_SERVO_OVER_TEMPERATURE],
                 c >= 70 ? VLAD_PARK : c >= 65 ? VLAD_SLOW : c >= 60 ? VLAD_WARN : VLAD_NONE);
    }
}

static void test_every_volt(void)
{
    static const struct { int32_t mv; enum vlad_reaction reaction; } row[] = {
        { 6290, VLAD_NONE }, { 6289, VLAD_HOLD }, { 5550, VLAD_HOLD }, { 5549, VLAD_PARK },
        { 8510, VLAD_NONE }, { 8511, VLAD_HOLD }, { 9250, VLAD_HOLD }, { 9251, VLAD_PARK },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++)
        for (int j = 0; j < JOINTS; j++) { /* one joint is enough */
            fresh();
            rig.now.arm.voltage_mv[j] = row[i].mv;
            health(VLAD_RECENT - 1);
            CHECK_EQ(own[VLAD_F_SERVO_VOLTAGE], VLAD_NONE);
            health(1);
            CHECK_EQ(own[VLAD_F_SERVO_VOLTAGE], row[i].reaction);
        }
}

/* One good reading among bad ones, wherever, is no fault; nor is one that is not there. */
static void test_one_good_reading(void)
{
    for (int good = 0; good < VLAD_RECENT; good++) {
        fresh();
        for (int i = 0; i < VLAD_RECENT; i++) {
            rig.now.arm.temperature_c[0] = i == good ? 40 : 90;
            rig.now.arm.voltage_mv[0] = i == good ? 7400 : 5000;
            rig.now.arm.voltage_mv[1] = i == good ? 7400 : 10000;
            health(1);
        }
        CHECK_EQ(own[VLAD_F_SERVO_OVER_TEMPERATURE], VLAD_NONE);
        CHECK_EQ(own[VLAD_F_SERVO_VOLTAGE], VLAD_NONE);
    }
    fresh();
    rig.now.arm.answered = ALL & ~2u;
    rig.now.arm.status[1] = VLAD_STATUS_OVERLOAD | VLAD_STATUS_VOLTAGE;
    health(VLAD_RECENT);
    CHECK_EQ(own[VLAD_F_SERVO_OVERLOAD], VLAD_NONE);
    CHECK_EQ(own[VLAD_F_SERVO_VOLTAGE], VLAD_NONE);
    CHECK_EQ(rig.watch.answers[1], 0);
}

/* Found: what the best placed joint saw in all of its first readings; no joint's are missing. */
static void test_supply_as_found(void)
{
    for (int most = 0; most < JOINTS; most++)
        for (int odd = 0; odd < VLAD_RECENT; odd++) {
            fresh();
            rig.now.supply_mv = 0;
            for (int i = 0; i < VLAD_RECENT; i++) {
                CHECK_EQ(rig.now.supply_mv, 0);
                CHECK_EQ(rig.sag.n, 0);
                for (int j = 0; j < JOINTS; j++)
                    rig.now.arm.voltage_mv[j] = i == odd ? 9000 : j == most ? 7500 : 7300 + 10 * j;
                health(1);
            }
            CHECK_EQ(rig.now.supply_mv, 7500);
            CHECK_EQ(rig.sag.n, 1);
        }
    for (int late = 0; late < JOINTS; late++) {
        fresh();
        rig.now.supply_mv = 0;
        for (int i = 0; i <= VLAD_RECENT; i++) {
            rig.now.arm.answered = i ? ALL : ALL & ~(1u << late);
            CHECK_EQ(rig.now.supply_mv, 0);
            health(1);
        }
        CHECK_EQ(rig.now.supply_mv, 7400);
    }
    fresh();
    rig.now.supply_mv = 0;
    set_voltage(0); /* who reports none has not found it */
    health(2 * VLAD_RECENT);
    CHECK_EQ(rig.now.supply_mv, 0);
}

/* Whether readings that fall evenly from `before` to `after` (each joint's) within a window count. */
static void sag(int32_t before_mv, const int32_t *after_mv, int counts)
{
    fresh();
    for (int i = 0; i < VLAD_SAG_TICKS; i++) {
        set_voltage(before_mv - (before_mv - after_mv[0]) * i / VLAD_SAG_TICKS);
        health(1);
    }
    CHECK_EQ(own[VLAD_F_BROWN_OUT], VLAD_NONE);
    rig.sag.run = 0;
    for (int j = 0; j < JOINTS; j++)
        rig.now.arm.voltage_mv[j] = after_mv[j];
    health(1);
    CHECK_EQ(rig.sag.run, counts);
}

/* What the mean does at once, by a step of any height or by two in a row, is no slope, wherever it then
 * stays, and before and after it as well as without it. */
static void test_a_step_is_no_slope(void)
{
    for (int32_t to_mv = 7300; to_mv > 5600; to_mv -= 50)
        for (int between = 0; between < 3; between++) {
            fresh();
            health(VLAD_SAG_TICKS);
            set_voltage(between == 2 ? 7400 : (7400 * between + to_mv * (2 - between)) / 2);
            health(1);
            set_voltage(to_mv);
            for (int i = 0; i < 60; i++) {
                health(1);
                CHECK_EQ(own[VLAD_F_BROWN_OUT], VLAD_NONE);
                CHECK_EQ(rig.sag.run, 0);
            }
        }
    fresh();
    health(VLAD_SAG_TICKS);
    for (int i = 1; i <= 3; i++) {
        set_voltage(7400 - 300 * i);
        health(1);
    }
    CHECK_EQ(rig.sag.run, 1); /* three in a row are one */
    fresh(); /* 1 V at once, and then a slope: as if it had begun there */
    health(VLAD_SAG_TICKS);
    for (int i = 1; i <= 20; i++) {
        set_voltage(6600 - 15 * i);
        health(1);
        CHECK_EQ(own[VLAD_F_BROWN_OUT], i >= 16 ? VLAD_HOLD : VLAD_NONE);
    }
}

/* The tick in which a supply that falls by 2 V/s holds the arm, where joint 1 reports `odd` in tick `at`. */
static int held_at(int at, int32_t odd_mv)
{
    fresh();
    health(VLAD_SAG_TICKS);
    for (int i = 0; i < 200; i++) {
        set_voltage(7400 - 100 * (i / 5));
        rig.now.arm.voltage_mv[1] = i == at ? odd_mv : rig.now.arm.voltage_mv[1];
        health(1);
        if (own[VLAD_F_BROWN_OUT] >= VLAD_HOLD)
            return i;
    }
    return 200;
}

/* One odd reading is no step: it does not stay, and hides no slope. */
static void test_an_odd_voltage_hides_no_slope(void)
{
    int held = held_at(-1, 0);

    CHECK(held <= 30 + 20); /* 6.8 V and 200 ms */
    for (int at = 0; at < held; at++)
        for (int32_t odd_mv = 0; odd_mv <= 20000; odd_mv += 1000)
            CHECK(held_at(at, odd_mv) <= held + 6);
}

static void test_brown_out_bounds(void)
{
    sag(7400, (const int32_t[]){ 6845, 6845, 6845 }, 0); /* 7.5 % below */
    sag(7400, (const int32_t[]){ 6845, 6845, 6844 }, 1); /* the mean, rounded down */
    sag(7000, (const int32_t[]){ 6800, 6800, 6800 }, 0); /* 5.55 V in a second */
    sag(6999, (const int32_t[]){ 6799, 6799, 6799 }, 1);
    for (int every = 1; every <= 8; every++) { /* what a servo reports goes down by 100 mV at a time */
        int held = 0;

        fresh();
        for (int i = 0; i < 120 && !held; i++) {
            set_voltage(7400 - 100 * (i / every));
            health(1);
            held = own[VLAD_F_BROWN_OUT] >= VLAD_HOLD ? i : 0;
        }
        CHECK(held > 0 && held <= 6 * every + 20); /* 6.8 V is the first below 7.5 % */
    }

    fresh();
    set_voltage(5000); /* low, but it does not fall: row 22 */
    health(60);
    CHECK_EQ(own[VLAD_F_BROWN_OUT], VLAD_NONE);
    fresh();
    for (int i = 1; i <= 70; i++) {
        set_voltage(7400 - 20 * i);
        health(1);
        CHECK_EQ(own[VLAD_F_BROWN_OUT], i >= 67 ? VLAD_PARK : i >= 32 ? VLAD_HOLD : VLAD_NONE);
    }
    fresh();
    for (int i = 1; i <= 70; i++) {
        set_voltage(7400 - 20 * i);
        rig.now.arm.answered = ALL & ~1u; /* what is old in part is no sample */
        health(1);
        CHECK_EQ(own[VLAD_F_BROWN_OUT], VLAD_NONE);
    }
    CHECK_EQ(rig.sag.n, 0);
    for (int step_ns = 0; step_ns <= 62500; step_ns += 62499) { /* 1 ms of slope is the least */
        fresh();
        for (int i = 0; i < VLAD_SAG_TICKS + 5; i++) {
            set_voltage(7400 - 60 * i);
            now_ns += (step_ns == 62499 ? 62500 : step_ns) - TICK;
            health(1);
        }
        CHECK_EQ(own[VLAD_F_BROWN_OUT], step_ns ? VLAD_HOLD : VLAD_NONE);
    }
}

/* A torque limit that was lowered before the bus was taken over is the one asked for. */
static void test_limits_as_found(void)
{
    fresh();
    rig.now.arm.limit_permille[1] = 400;
    health(1);
    CHECK_EQ(rig.now.limit_permille[0], 1000);
    CHECK_EQ(rig.now.limit_permille[1], 400);
    rig.now.arm.limit_permille[1] = 300;
    health(1);
    CHECK_EQ(rig.now.limit_permille[1], 400);
    fresh();
    rig.now.limit_permille[1] = 500;
    health(1);
    CHECK_EQ(rig.now.limit_permille[1], 500);
}

/* --- Truth: rows 14, 16 and 23. --- */

#define SLACK (INT64_C(8) * UNIT_NU)
#define NO_LOAD (INT64_C(3400) * UNIT_NU) /* per second */

/* A reading that began at now_ns and was done after_ns after the one before began. */
static void truth(int64_t after_ns)
{
    struct vlad_reading reading = { .asked_ns = now_ns, .done_ns = now_ns - TICK + after_ns };

    memset(own, 0, sizeof own);
    vlad_servo_check_truth(&rig, now_ns, &reading, own);
    now_ns += TICK;
}

static void truths(int n)
{
    for (int i = 0; i < n; i++)
        truth(TICK);
}

static uint64_t jumps(int j)
{
    return rig.now.counters.encoder_jumps[j];
}

static void test_reach(void)
{
    static const struct { int64_t after_ns, counts_ns; } row[] = {
        { TICK, TICK }, { 25 * MS, 25 * MS }, { -5 * MS, 0 }, { 0, 0 },
        { 3000 * MS, 1000 * MS }, { 1000 * MS, 1000 * MS },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++)
        for (int over = 0; over < 2; over++)
            for (int sign = -1; sign <= 1; sign += 2) {
                fresh();
                rig.config.following_nu = 0;
                rig.config.gate.limits.joint[1].v_max_nu_s = 3000 * MILLI;
                truth(TICK);
                rig.now.arm.position_nu[0] =
                    sign * (NO_LOAD / 1000 * (row[i].counts_ns / MS) + SLACK + over);
                rig.now.arm.position_nu[1] = sign * (6 * (row[i].counts_ns) + SLACK + over);
                truth(row[i].after_ns);
                CHECK_EQ(jumps(0), over);
                CHECK_EQ(jumps(1), over);
                CHECK_EQ(jumps(2), 0);
                CHECK_EQ(own[VLAD_F_SERVO_ENCODER],
                         over && row[i].counts_ns >= TICK ? VLAD_HOLD : VLAD_NONE);
            }
}

/* What came back by less than a tick's reach is believed, and such steps do not add up. */
static void test_small_jumps(void)
{
    int64_t reach_nu = NO_LOAD / 100 + SLACK;

    fresh();
    rig.config.following_nu = 0;
    truths(2);
    for (int over = 0; over < 2; over++) {
        rig.now.arm.position_nu[0] += reach_nu + over;
        truth(0);
        CHECK_EQ(own[VLAD_F_SERVO_ENCODER], over ? VLAD_HOLD : VLAD_NONE);
    }
    fresh();
    rig.config.following_nu = 0;
    truth(TICK);
    for (int i = 1; i <= 10; i++) {
        rig.now.arm.position_nu[2] += 30 * MILLI;
        truth(0);
        CHECK_EQ(jumps(2), i);
        CHECK_EQ(own[VLAD_F_SERVO_ENCODER], VLAD_NONE);
    }
    for (int j = 0; j < JOINTS; j++) { /* a hand may turn a limp joint, and only that */
        fresh();
        rig.config.following_nu = 0;
        rig.torque_wanted = false;
        rig.now.arm.powered = ALL & ~(1u << j);
        truth(TICK);
        for (int k = 0; k < JOINTS; k++)
            rig.now.arm.position_nu[k] += 500 * MILLI;
        rig.now.arm.status[j] = VLAD_STATUS_ENCODER;
        truth(TICK);
        for (int k = 0; k < JOINTS; k++) {
            CHECK_EQ(jumps(k), k != j);
            CHECK_EQ(rig.watch.jumped_nu[k], k != j ? 500 * MILLI : 0);
        }
    }
}

/* Joint 1 turns at pace_nu a tick, and n of its readings are off by off_nu; `missing` answers before the
 * first good one. How many ticks its encoder was doubted. */
static int doubted(int64_t pace_nu, int64_t off_nu, int n, int missing)
{
    int doubts = 0;

    fresh();
    rig.config.following_nu = 0;
    for (int i = 0; i < 30; i++) {
        rig.now.arm.answered = i >= 5 + n && i < 5 + n + missing ? ALL & ~2u : ALL;
        if (rig.now.arm.answered == ALL)
            rig.now.arm.position_nu[1] = i * pace_nu + (i >= 5 && i < 5 + n ? off_nu : 0);
        truth(TICK);
        doubts += own[VLAD_F_SERVO_ENCODER] == VLAD_HOLD;
    }
    return doubts;
}

/* A reading that is off by any more than a servo turns, and then is where it would be without that, was odd:
 * the joint holds. Neither way need not be further than a servo turns. */
static void test_odd_readings(void)
{
    int64_t reach_nu = NO_LOAD / 100 + SLACK;

    for (int sign = -1; sign <= 1; sign += 2)
        for (int64_t pace_nu = -SPEED_NU_S / 100; pace_nu <= SPEED_NU_S / 100; pace_nu += SPEED_NU_S / 100)
            for (int64_t off_nu = reach_nu + 1; off_nu < 4 * reach_nu; off_nu += UNIT_NU)
                for (int n = 1; n < 9; n++) {
                    bool seen_at_once = llabs(sign * off_nu + pace_nu) > reach_nu;

                    if (!seen_at_once && n > 1) /* it shows where the reading comes back: too late to tell */
                        continue;
                    CHECK_EQ(doubted(pace_nu, sign * off_nu, n, n % 2), seen_at_once ? n : 0);
                    CHECK_EQ(rig.now.lying, 0);
                    CHECK_EQ(rig.watch.jumped_nu[1], 0);
                }
    for (int64_t pace_nu = UNIT_NU; pace_nu <= reach_nu / 4; pace_nu += UNIT_NU) { /* off by less, along its way */
        CHECK_EQ(doubted(pace_nu, reach_nu - pace_nu + 1, 1, 1), 1);
        CHECK_EQ(rig.now.lying, 0);
        CHECK_EQ(rig.watch.jumped_nu[1], 0);
    }
    CHECK_EQ(doubted(0, reach_nu + 1, 1, 1), 1);
    doubted(0, reach_nu + 1, 1, 2); /* nobody saw what it did meanwhile */
    CHECK_EQ(rig.now.lying, 2);
    for (int over = 0; over < 2; over++) /* back means back: to a quarter of that */
        for (int sign = -1; sign <= 1; sign += 2) {
            fresh();
            rig.config.following_nu = 0;
            truths(2);
            rig.now.arm.position_nu[1] = sign * (reach_nu + 5);
            truth(TICK);
            rig.now.arm.position_nu[1] = sign * (reach_nu / 4 + over);
            truth(TICK);
            CHECK_EQ(own[VLAD_F_SERVO_ENCODER], over ? VLAD_HOLD : VLAD_NONE);
            truths(10);
            CHECK_EQ(rig.now.lying, over ? 2 : 0);
        }
}

/* Joint 1 is read at `nu`, since_ns after the reading before. */
static void read_at(int64_t since_ns, int64_t nu)
{
    now_ns += since_ns - TICK;
    rig.now.arm.position_nu[1] = nu;
    truth(TICK);
}

/* What one reading says of the next. */
static void test_pace(void)
{
    static const struct { int64_t since_ns, pace_nu; } row[] = {
        { TICK, 6000 }, { 15 * MS - 1, 6000 }, { 15 * MS, 3000 }, { 25 * MS - 1, 3000 }, { 25 * MS, 0 },
    };
    int64_t reach_nu = NO_LOAD / 100 + SLACK;

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        fresh();
        truth(TICK);
        read_at(row[i].since_ns, 6000);
        CHECK_EQ(rig.watch.pace_nu[1], row[i].pace_nu);
    }
    for (int over = 0; over < 2; over++) {
        fresh();
        truth(TICK);
        read_at(TICK, 1000);
        read_at(TICK, 2000 + reach_nu / 2 + over);
        CHECK_EQ(rig.watch.aside_nu[1], over ? reach_nu / 2 + 1 : 0);
        CHECK_EQ(rig.watch.pace_nu[1], over ? 1000 : 1000 + reach_nu / 2);
        read_at(TICK, 9000 + reach_nu / 2);
        CHECK_EQ(rig.watch.aside_nu[1], 0);
    }
    fresh();
    truth(TICK);
    read_at(TICK, 1000);
    read_at(TICK, reach_nu / 4 * 3);
    read_at(TICK, 3000); /* back */
    CHECK_EQ(rig.watch.aside_nu[1], 0);
    read_at(30 * MS, 900 * MILLI); /* what it did meanwhile is not known */
    CHECK_EQ(rig.watch.jumped_nu[1], 900 * MILLI - 3000);
    fresh();
    read_at(TICK, 7000 * MILLI); /* the first one */
    CHECK_EQ(jumps(1), 0);
}

/* Its own pace excuses no step that no servo makes, neither once nor from reading to reading. */
static void test_a_pace_that_no_servo_has(void)
{
    int64_t reach_nu = NO_LOAD / 100 + SLACK, at_nu = 0, pace_nu;

    for (int sign = -1; sign <= 1; sign += 2)
        for (int over = 0; over < 2; over++) {
            at_nu = 0;
            fresh();
            rig.config.following_nu = 0;
            truth(TICK);
            for (pace_nu = 0; pace_nu <= reach_nu; pace_nu += reach_nu / 4)
                read_at(TICK, at_nu += sign * pace_nu);
            CHECK_EQ(own[VLAD_F_SERVO_ENCODER], VLAD_NONE);
            for (int i = 1; i <= 12; i++) {
                read_at(TICK, at_nu += sign * (reach_nu + over));
                CHECK_EQ(own[VLAD_F_SERVO_ENCODER], over ? VLAD_HOLD : VLAD_NONE);
                CHECK_EQ(jumps(1), over ? i : 0);
                CHECK_EQ(rig.now.lying, over && i > 10 ? 2 : 0);
            }
        }
}

/* What it is off by: apart from its pace, unless that explains more than half of what a servo can do. */
static void test_how_far_it_jumped(void)
{
    int64_t reach_nu = NO_LOAD / 100 + SLACK;

    for (int over = 0; over < 2; over++) {
        int64_t change_nu = reach_nu / 2 + over, pace_nu = reach_nu + 1 - change_nu;

        fresh();
        truth(TICK);
        read_at(TICK, pace_nu / 2);
        read_at(TICK, pace_nu / 2 + pace_nu);
        CHECK_EQ(rig.watch.pace_nu[1], pace_nu);
        read_at(TICK, pace_nu / 2 + pace_nu + reach_nu + 1);
        CHECK_EQ(rig.watch.jumped_nu[1], over ? change_nu : reach_nu + 1);
    }
}

static int torque_events(int64_t mask)
{
    struct vlad_event event;
    int n = 0;

    while (vlad_servo_next_event(&rig, &event)) {
        CHECK_EQ(event.kind, VLAD_EV_TORQUE);
        CHECK_EQ(event.a, mask);
        CHECK_EQ(event.b, 0);
        CHECK_EQ(event.value, 0);
        n++;
    }
    return n;
}

static void test_liars(void)
{
    static const int order[] = { 1, 0, 2 };
    uint32_t lying = 0;

    fresh();
    rig.now.arm.status[0] = VLAD_STATUS_ENCODER;
    truth(TICK);
    rig.now.arm.status[0] = 0;
    truths(20);
    rig.now.arm.status[0] = VLAD_STATUS_ENCODER; /* another time */
    truths(10);
    CHECK_EQ(rig.now.lying, 0);
    truth(TICK); /* 100 ms */
    CHECK_EQ(rig.now.lying, 1);

    fresh();
    for (int i = 0; i < JOINTS; i++) {
        rig.now.arm.status[order[i]] = VLAD_STATUS_ENCODER;
        truths(10);
        CHECK_EQ(rig.now.lying, lying);
        CHECK(rig.torque_wanted);
        CHECK_EQ(torque_events(0), 0);
        truth(TICK);
        lying |= 1u << order[i];
        CHECK_EQ(rig.now.lying, lying);
        if (lying == ALL)
            break;
        CHECK_EQ(torque_events(1 << order[i]), 1);
        CHECK_EQ(rig.torque_repeats, 0);
    }
    CHECK(!rig.torque_wanted); /* no other joint is left to hold */
    CHECK_EQ(rig.torque_repeats, 3);
    for (lying = 0; lying < ALL; lying++) {
        fresh();
        rig.now.lying = lying;
        truth(TICK);
        CHECK(rig.torque_wanted);
        CHECK_EQ(own[VLAD_F_SERVO_ENCODER], lying ? VLAD_HOLD : VLAD_NONE);
    }
    fresh();
    truth(TICK);
    rig.now.arm.answered = ALL & ~1u; /* what is said of a joint that did not answer is old */
    rig.now.arm.status[0] = VLAD_STATUS_ENCODER;
    truth(TICK);
    CHECK_EQ(own[VLAD_F_SERVO_ENCODER], VLAD_NONE);
}

static void test_goals_lost(void)
{
    for (int except = 0; except <= 3 * JOINTS; except++) { /* no torque, a liar, none written */
        int odd = except % JOINTS;

        fresh();
        rig.config.following_nu = 0;
        rig.torque_wanted = false;
        rig.wrote = except < 2 * JOINTS || except == 3 * JOINTS;
        if (except < JOINTS)
            rig.now.arm.powered &= ~(1u << odd);
        else if (except < 2 * JOINTS)
            rig.now.lying = 1u << odd;
        for (int j = 0; j < JOINTS; j++)
            rig.now.arm.goal_nu[j] = UNIT_NU + 1;
        truth(TICK);
        for (int j = 0; j < JOINTS; j++)
            CHECK_EQ(rig.now.counters.goals_lost[j],
                     rig.wrote && (except == 3 * JOINTS || j != odd));
    }
    fresh();
    rig.wrote = true;
    rig.now.arm.goal_nu[1] = -UNIT_NU; /* an encoder tick of rounding */
    truths(20);
    CHECK_EQ(rig.now.counters.goals_lost[1], 0);
    rig.now.arm.goal_nu[1] = -UNIT_NU - 1;
    truths(2);
    rig.now.arm.goal_nu[1] = 0;
    truth(TICK);
    rig.now.arm.goal_nu[1] = -UNIT_NU - 1;
    for (int i = 1; i <= 12; i++) { /* in a row */
        truth(TICK);
        CHECK_EQ(own[VLAD_F_SHORT_WRITE], i >= 10 ? VLAD_HOLD : i >= 3 ? VLAD_WARN : VLAD_NONE);
    }
}

/* Every joint is off by off_nu at load_permille for 100 ms. */
static enum vlad_reaction follow(int64_t off_nu, int32_t load_permille)
{
    for (int j = 0; j < JOINTS; j++) {
        rig.now.arm.position_nu[j] = off_nu;
        rig.now.arm.load_permille[j] = load_permille;
    }
    truths(10);
    CHECK_EQ(own[VLAD_F_FOLLOWING_ERROR], VLAD_NONE);
    truth(TICK);
    return own[VLAD_F_FOLLOWING_ERROR];
}

static void test_following_limit(void)
{
    static const struct { int32_t load_permille; int64_t limit_nu; } row[] = {
        { 0, 100 * MILLI }, { 100, 140 * MILLI }, { -100, 140 * MILLI },
        { 250, 201 * MILLI - 1 }, { 900, 201 * MILLI - 1 },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++)
        for (int over = 0; over < 2; over++) {
            fresh();
            rig.config.following_nu = row[i].load_permille < 250 ? 200 * MILLI : 201 * MILLI - 1;
            CHECK_EQ(follow(row[i].limit_nu + over, row[i].load_permille),
                     over ? VLAD_HOLD : VLAD_NONE);
            CHECK_EQ(rig.yielding, over ? ALL : 0);
            for (int j = 0; j < JOINTS; j++) {
                CHECK_EQ(rig.now.limit_permille[j], over ? 500 : 1000);
                CHECK_EQ(rig.yield_nu[j], over ? row[i].limit_nu + 1 : 0);
            }
        }
    for (int j = 0; j < JOINTS; j++) { /* the others are left as they are */
        fresh();
        rig.now.arm.position_nu[j] = 150 * MILLI;
        truths(11);
        CHECK_EQ(rig.yielding, 1u << j);
        for (int k = 0; k < JOINTS; k++)
            CHECK_EQ(rig.now.limit_permille[k], k == j ? 500 : 1000);
    }
    fresh();
    follow(150 * MILLI, 0);
    for (int j = 0; j < JOINTS; j++)
        rig.now.arm.position_nu[j] = 0;
    truth(TICK);
    CHECK_EQ(follow(150 * MILLI, 0), VLAD_HOLD); /* counted anew */
}

static void test_no_following(void)
{
    for (int why = 0; why < 5; why++) {
        fresh();
        if (why == 0)
            rig.config.following_nu = 0;
        else if (why == 1)
            rig.torque_on = false;
        else if (why == 2)
            rig.torque_wanted = false;
        else if (why == 3)
            rig.easing_since_ns = 1;
        CHECK_EQ(follow(150 * MILLI, 0), why == 4 ? VLAD_HOLD : VLAD_NONE);
    }
    for (int j = 0; j < JOINTS; j++)
        for (int why = 0; why < 2; why++) {
            fresh();
            if (why == 0)
                rig.config.gripper_mask = 1u << j;
            else
                rig.now.lying = 1u << j;
            follow(150 * MILLI, 0);
            CHECK_EQ(rig.yielding, ALL & ~(1u << j));
        }
    fresh();
    rig.now.arm.position_nu[1] = 150 * MILLI;
    truths(5);
    rig.now.arm.status[1] = VLAD_STATUS_ENCODER; /* where it is nobody knows now */
    truths(9);
    CHECK_EQ(own[VLAD_F_FOLLOWING_ERROR], VLAD_NONE);
}

/* The goal goes back to the joint, inside the limits, where the arm was moving. */
static void test_yielding(void)
{
    static const struct { enum vlad_mode mode; bool parking, yields; } row[] = {
        { VLAD_ENGAGED, false, true }, { VLAD_STOPPING, true, true },
        { VLAD_STOPPING, false, false }, { VLAD_HOLDING, false, false },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        fresh();
        rig.mode = row[i].mode;
        rig.parking = row[i].parking;
        CHECK_EQ(follow(150 * MILLI, 0), VLAD_HOLD);
        CHECK_EQ(rig.yielding, row[i].yields ? ALL : 0);
    }
    for (int sign = -1; sign <= 1; sign += 2) {
        fresh();
        CHECK_EQ(follow(sign * (LIMIT_NU + 100 * MILLI), 0), VLAD_HOLD);
        CHECK_EQ(rig.yield_nu[2], sign * LIMIT_NU);
    }
}

/* Off since tick 1; near a goal of the meantime in tick 7, or just not: the tick it is told in. */
static int told_in(int64_t sign, int64_t pose_nu)
{
    fresh();
    for (int i = 1; i < 40; i++) {
        rig.written_nu[1] = sign * (i < 6 ? 0 : i < 7 ? 300 : 200) * MILLI;
        rig.now.arm.position_nu[1] = sign * (i < 7 ? 420 * MILLI : pose_nu);
        truth(TICK);
        if (own[VLAD_F_FOLLOWING_ERROR])
            return i;
    }
    return 0;
}

static void test_coming_near_a_goal(void)
{
    for (int sign = -1; sign <= 1; sign += 2) {
        CHECK_EQ(told_in(sign, 375 * MILLI), 11); /* three quarters of the limit are not near */
        CHECK_EQ(told_in(sign, 375 * MILLI - 1), 17); /* counted from there, and from that goal */
    }
}

/* --- The bus: taken over, read, given up. --- */

static struct { int rc; uint32_t answered, corrupt; int64_t deadline_ns, takes_ns, now_ns; } bus;

static int scripted_read(void *ctx, int64_t deadline_ns, struct vlad_arm_state *state)
{
    (void)ctx;
    bus.deadline_ns = deadline_ns;
    bus.now_ns += bus.takes_ns;
    state->t_ns = bus.now_ns;
    state->answered = bus.answered;
    state->corrupt = bus.corrupt;
    return bus.rc;
}

static int64_t scripted_now(void *ctx)
{
    (void)ctx;
    return bus.now_ns;
}

static const struct vlad_arm_ops scripted = { .read = scripted_read, .now_ns = scripted_now };

static void sense(int n)
{
    for (int i = 0; i < n; i++) {
        memset(own, 0, sizeof own);
        rig.now.t_ns = bus.now_ns = now_ns += TICK;
        vlad_servo_sense(&rig, now_ns, own);
    }
}

static void fresh_bus(void)
{
    fresh();
    rig.ops = &scripted;
    bus = (__typeof__(bus)){ .answered = ALL, .takes_ns = 2 * MS };
}

static void test_a_reading(void)
{
    fresh_bus();
    sense(3);
    CHECK_EQ(bus.deadline_ns, now_ns + 4 * MS);
    CHECK_EQ(rig.bus_ns, 2 * MS);
    CHECK_EQ(rig.now.counters.reads, 3);
    CHECK_EQ(rig.now.counters.read_errors, 0);
    CHECK_EQ(rig.now.arm.t_ns, now_ns + 2 * MS);
    CHECK_EQ(rig.seen_joints, ALL);
    CHECK_EQ(own[VLAD_F_SHORT_WRITE], VLAD_NONE);
    rig.write_failures = 1;
    bus.answered = ALL & ~4u;
    sense(2);
    CHECK_EQ(own[VLAD_F_SHORT_WRITE], VLAD_WARN);
    CHECK_EQ(rig.now.arm.t_ns, now_ns - 2 * TICK + 2 * MS); /* as old as the last whole one */
    CHECK_EQ(rig.now.counters.missed[2], 2);
    CHECK_EQ(rig.now.counters.missed[0], 0);
    bus.rc = -EIO;
    sense(1);
    CHECK_EQ(own[VLAD_F_SERIAL_UNPLUGGED], VLAD_HOLD);
    CHECK_EQ(rig.now.counters.read_errors, 1);
    CHECK_EQ(rig.now.counters.reads, 6);
    CHECK_EQ(rig.mode, VLAD_OFFLINE);
}

/* Rows 17 to 19, tick by tick. */
static void test_answers_that_fail(void)
{
    for (int kind = 0; kind < 3; kind++) {
        fresh_bus();
        if (kind == 0)
            bus.corrupt = 2;
        bus.answered = kind == 2 ? 0 : ALL & ~2u;
        for (int i = 1; i <= 12; i++) {
            sense(1);
            if (kind == 0) {
                CHECK_EQ(rig.now.counters.corrupt[1], i);
                CHECK_EQ(rig.now.counters.missed[1], 0);
                CHECK_EQ(own[VLAD_F_REPLY_CORRUPT] >= VLAD_HOLD, i >= 5);
                CHECK_EQ(own[VLAD_F_BUS_GARBAGE], i >= 10 ? VLAD_HOLD : VLAD_NONE);
                CHECK_EQ(own[VLAD_F_SERVO_SILENT], VLAD_NONE);
            } else if (kind == 1) {
                CHECK_EQ(rig.now.counters.missed[1], i);
                CHECK_EQ(rig.now.counters.corrupt[1], 0);
                CHECK_EQ(own[VLAD_F_SERVO_SILENT], i >= 5 ? VLAD_HOLD : VLAD_NONE); /* 50 ms */
            } else {
                CHECK_EQ(own[VLAD_F_SERVO_SUPPLY_LOST], i == 5 ? VLAD_HOLD : VLAD_NONE);
                CHECK_EQ(rig.ops == NULL, i >= 5);
            }
        }
        CHECK(!rig.returned);
        if (kind == 2)
            continue;
        bus.answered = ALL;
        bus.corrupt = 0;
        sense(1);
        CHECK_EQ(rig.returned, kind == 1);
        bus.answered = ALL & ~2u;
        bus.corrupt = kind == 0 ? 2 : 0;
        sense(4); /* in a row */
        CHECK(own[VLAD_F_REPLY_CORRUPT] <= VLAD_WARN);
        CHECK_EQ(own[VLAD_F_SERVO_SILENT], VLAD_NONE);
    }
}

static void test_giving_up(void)
{
    fresh_bus();
    rig.parking = rig.wrote = true;
    rig.easing_since_ns = 7;
    rig.yielding = 2;
    rig.trajectory.velocity_nu[1] = 5;
    rig.written_nu[1] = 300 * MILLI;
    vlad_servo_release_bus(&rig);
    CHECK(!rig.ops && !rig.parking && !rig.wrote);
    CHECK_EQ(rig.easing_since_ns, 0);
    CHECK_EQ(rig.yielding, 0);
    CHECK_EQ(rig.mode, VLAD_OFFLINE);
    CHECK(vlad_trajectory_at_rest(&rig.trajectory));
    CHECK_EQ(rig.trajectory.goal_nu[1], 300 * MILLI); /* what the servos hold */
}

/* Nothing that was known of the old bus is believed of the new one. */
static void test_taking_over(void)
{
    int64_t pose_nu[JOINTS] = { 100 * MILLI, -200 * MILLI, 300 * MILLI };

    for (int latched = 0; latched < 2; latched++) {
        fresh_bus();
        rig.config.supply_mv = 12000;
        vlad_servo_take_adoption(&rig);
        CHECK_EQ(rig.now.adoptions, 0); /* none is there */
        memset(&rig.now.arm, 0x5a, sizeof rig.now.arm);
        memset(rig.missed_run, 0x5a, sizeof rig.missed_run);
        memset(rig.corrupt_run, 0x5a, sizeof rig.corrupt_run);
        memset(&rig.watch, 0x5a, sizeof rig.watch);
        memset(&rig.sag, 0x5a, sizeof rig.sag);
        memset(rig.now.limit_permille, 0, sizeof rig.now.limit_permille);
        rig.seen_joints = rig.now.lying = rig.yielding = rig.limits_due = ALL;
        rig.write_failures = rig.torque_repeats = 2;
        rig.retry = rig.parking = rig.commanded = rig.returned = rig.wrote = true;
        rig.easing_since_ns = 5;
        rig.watchdog.latched = latched ? UINT64_C(1) << VLAD_F_SUSPENDED : 0;
        CHECK_EQ(vlad_servo_adopt(&rig, &scripted, &bus, latched, pose_nu), 0);
        vlad_servo_take_adoption(&rig);
        CHECK(rig.ops == &scripted && rig.arm == &bus);
        CHECK_EQ(rig.mode, latched ? VLAD_FAULTED : VLAD_READY);
        CHECK_EQ(rig.torque_on, latched);
        CHECK_EQ(rig.torque_wanted, latched);
        CHECK_EQ(rig.now.adoptions, 1);
        CHECK_EQ(rig.now.supply_mv, 12000);
        CHECK_EQ(rig.now.arm.answered | rig.now.arm.powered | rig.now.arm.corrupt, 0);
        CHECK_EQ(rig.now.arm.t_ns, 0);
        CHECK_EQ(rig.sag.n, 0);
        CHECK_EQ(rig.sag.run, 0);
        CHECK_EQ(rig.seen_joints | rig.now.lying | rig.yielding | rig.limits_due, 0);
        CHECK_EQ(rig.write_failures | rig.torque_repeats, 0);
        CHECK(!rig.retry && !rig.parking && !rig.commanded && !rig.returned && !rig.wrote);
        CHECK_EQ(rig.easing_since_ns, 0);
        for (int j = 0; j < VLAD_MAX_JOINTS; j++) {
            CHECK_EQ(rig.now.limit_permille[j], j < JOINTS ? 1000 : 0);
            CHECK_EQ(rig.missed_run[j] | rig.corrupt_run[j], 0);
            CHECK_EQ(rig.watch.answers[j], 0);
            CHECK_EQ(rig.watch.asked_ns[j] | rig.watch.jumped_nu[j], 0);
            CHECK_EQ(rig.watch.doubt_since_ns[j] | rig.watch.astray_since_ns[j], 0);
            CHECK_EQ(rig.watch.unpowered[j] | rig.watch.goal_lost[j], 0);
        }
        for (int j = 0; j < JOINTS; j++) {
            CHECK_EQ(rig.written_nu[j], pose_nu[j]);
            CHECK_EQ(rig.trajectory.goal_nu[j], pose_nu[j]);
        }
        CHECK(!vlad_servo_adopting(&rig));
    }
}

int main(void)
{
    test_every_degree();
    test_every_volt();
    test_one_good_reading();
    test_supply_as_found();
    test_a_step_is_no_slope();
    test_an_odd_voltage_hides_no_slope();
    test_brown_out_bounds();
    test_limits_as_found();
    test_reach();
    test_small_jumps();
    test_odd_readings();
    test_pace();
    test_a_pace_that_no_servo_has();
    test_how_far_it_jumped();
    test_liars();
    test_goals_lost();
    test_following_limit();
    test_no_following();
    test_yielding();
    test_coming_near_a_goal();
    test_a_reading();
    test_answers_that_fail();
    test_giving_up();
    test_taking_over();
    CHECK_DONE();
}
