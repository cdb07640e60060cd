/* The filter's promises: speed, acceleration, jerk, position, exact rest, and a stop that only ever
 * slows down. */
#include <errno.h>  /* EINVAL, ERANGE */
#include <math.h>   /* floorl */
#include <string.h> /* memcpy */

#include "check.h"
#include "gate.h"
#include "random.h"
#include "ratio.h"
#include "trajectory.h"

#define MS VLAD_NS_PER_MS
#define UNIT VLAD_NU_PER_UNIT
#define TICK_NU 1533981 /* 2 pi / 4096 rad = 1533980.79 nu */

static const int64_t unit_nu[VLAD_MAX_JOINTS] = {TICK_NU, TICK_NU, TICK_NU, TICK_NU,
                                                 TICK_NU, TICK_NU, TICK_NU, TICK_NU};

static struct vlad_trajectory t;

static struct vlad_limits limits_of(int n, int64_t v, int64_t a, int64_t j)
{
    struct vlad_limits limits = {.n_joints = n};

    for (int i = 0; i < n; i++)
        limits.joint[i] = (struct vlad_joint_limits){-2 * UNIT, 2 * UNIT, v, a, j};
    return limits;
}

/* Any speed, and windows of 10..150 and 10..130 ms: together they stop within 300 ms. */
static struct vlad_limits random_limits(int n)
{
    int64_t v = random_in(1700, 5000) * (UNIT / 1000);
    int64_t a = 2 * v * 1000 / random_in(10, 150);

    return limits_of(n, v, a, 2 * a / random_in(10, 130) * 1000);
}

static void test_windows(void)
{
    struct vlad_limits limits = limits_of(2, 2 * UNIT, 40 * UNIT, 800 * UNIT);
    int joint;

    memset(&t, 0xa5, sizeof t);
    /* T1 = 2 v / a = 0.1 s, T2 = 2 a / j = 0.1 s. */
    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, 10 * MS, &joint), 0);
    CHECK_EQ(joint, -1);
    CHECK_EQ(t.n1, 10);
    CHECK_EQ(t.n2, 10);
    CHECK_EQ(t.step_nu[0], 13 * (TICK_NU - 1)); /* 20e6 nu are 13.04 ticks */
    CHECK_EQ(vlad_trajectory_lookahead_ns(&t, 10 * MS), 90 * MS);
    CHECK_EQ(vlad_trajectory_stop_ns(&t, 10 * MS), 190 * MS);
    CHECK(vlad_trajectory_at_rest(&t));
    CHECK_EQ(t.goal_nu[1], 0);

    /* Windows are rounded up, and the slowest joint rules. */
    limits.joint[1].a_max_nu_s2 = 39 * UNIT;
    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, 10 * MS, &joint), 0);
    CHECK_EQ(t.n1, 11);
    CHECK_EQ(t.n2, 10);
    limits.joint[0].j_max_nu_s3 = 799 * UNIT;
    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, 10 * MS, &joint), 0);
    CHECK_EQ(t.n1, 11);
    CHECK_EQ(t.n2, 11);
    CHECK_EQ(vlad_trajectory_lookahead_ns(&t, 10 * MS), 100 * MS);

    /* Rounded up by a single nano-unit too: 2 v = 11 * 181818181 + 1. */
    limits = limits_of(1, 999999996, 18181818100, 800 * UNIT);
    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, 10 * MS, &joint), 0);
    CHECK_EQ(t.n1, 12);

    /* No smoothing asked for: no delay. */
    limits = limits_of(1, 2 * UNIT, 1000000 * UNIT, 1000000000 * UNIT);
    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, 10 * MS, &joint), 0);
    CHECK_EQ(t.n1, 1);
    CHECK_EQ(t.n2, 1);
    CHECK_EQ(vlad_trajectory_lookahead_ns(&t, 10 * MS), 0);
}

static int init_rc(struct vlad_limits limits, int64_t unit, int64_t period_ns, int expected_joint)
{
    int64_t units[VLAD_MAX_JOINTS];
    int joint = 99, rc;

    for (int j = 0; j < VLAD_MAX_JOINTS; j++)
        units[j] = unit;
    rc = vlad_trajectory_init(&t, &limits, units, period_ns, &joint);
    CHECK_EQ(joint, expected_joint);
    return rc;
}

static void test_init_refuses(void)
{
    struct vlad_limits good = limits_of(3, 2 * UNIT, 40 * UNIT, 800 * UNIT), limits = good;

    CHECK_EQ(init_rc(good, TICK_NU, 0, -1), -EINVAL);
    CHECK_EQ(init_rc(good, TICK_NU, VLAD_MAX_PERIOD_NS + 1, -1), -EINVAL);
    /* The bounds of the period themselves are no nonsense, only too short or too long to do. */
    CHECK_EQ(init_rc(good, TICK_NU, 1, 0), -ERANGE);
    CHECK_EQ(init_rc(good, TICK_NU, VLAD_MAX_PERIOD_NS, 0), -ERANGE);
    CHECK_EQ(init_rc(good, 2, 10 * MS, -1), 0);
    limits.n_joints = 0;
    CHECK_EQ(init_rc(limits, TICK_NU, 10 * MS, -1), -EINVAL);
    CHECK_EQ(init_rc(good, 1, 10 * MS, 0), -EINVAL);

    limits = good;
    limits.joint[2].v_max_nu_s = UNIT / 10; /* 1e6 nu in a period: less than a tick */
    CHECK_EQ(init_rc(limits, TICK_NU, 10 * MS, 2), -ERANGE);
    limits.joint[2].v_max_nu_s = (TICK_NU + 1) * 100;
    CHECK_EQ(init_rc(limits, TICK_NU, 10 * MS, -1), 0);
    limits.joint[2].v_max_nu_s--;
    CHECK_EQ(init_rc(limits, TICK_NU, 10 * MS, 2), -ERANGE);

    limits = good; /* 30 ticks of 10 ms are the most that can stop within 300 ms: 31 windows */
    limits.joint[1].a_max_nu_s2 = 20 * UNIT;  /* 20 ticks */
    limits.joint[1].j_max_nu_s3 = 364 * UNIT; /* 40 / 3.64 = 10.99: 11 */
    CHECK_EQ(init_rc(limits, TICK_NU, 10 * MS, -1), 0);
    CHECK_EQ(t.n1 + t.n2, 31);
    CHECK_EQ(vlad_trajectory_stop_ns(&t, 10 * MS), VLAD_STOP_MAX_NS);
    limits.joint[1].j_max_nu_s3 = 363 * UNIT;
    CHECK_EQ(init_rc(limits, TICK_NU, 10 * MS, 1), -ERANGE);
    for (int64_t jerk = 1; jerk < 363 * UNIT; jerk = jerk * 3 / 2 + 1) { /* up to 8e10 ticks */
        limits.joint[1].j_max_nu_s3 = jerk;
        CHECK_EQ(init_rc(limits, TICK_NU, 10 * MS, 1), -ERANGE);
    }
    limits = good;
    limits.joint[0].a_max_nu_s2 = 1;
    CHECK_EQ(init_rc(limits, TICK_NU, 10 * MS, 0), -ERANGE);
    /* At a very short period the ring would be too small long before 300 ms. */
    limits = limits_of(1, 200 * UNIT, 10000 * UNIT, 1000000 * UNIT);
    CHECK_EQ(init_rc(limits, TICK_NU, MS / 10, 0), -ERANGE);
    /* 1000 Hz with windows of 300 ms in all fills the ring. */
    limits = limits_of(1, 3 * UNIT, 40 * UNIT, 533333334000);
    CHECK_EQ(init_rc(limits, TICK_NU, MS, -1), 0);
    CHECK_EQ(t.n1 + t.n2, 300);
    /* Nearly all of it in one window; and 304 ticks, the whole ring, at a shorter period. */
    limits = limits_of(1, 29 * UNIT / 10, 20 * UNIT, 4000 * UNIT);
    CHECK_EQ(init_rc(limits, TICK_NU, MS, -1), 0);
    CHECK_EQ(t.n1, 290);
    CHECK_EQ(t.n2, 10);
    limits = limits_of(1, 4 * UNIT, 8000 * UNIT / 147, 16000 * UNIT);
    CHECK_EQ(init_rc(limits, TICK_NU, MS / 2, 0), -ERANGE);
    limits.joint[0].a_max_nu_s2 = 55172414000; /* 8000 / 145 units */
    CHECK_EQ(init_rc(limits, TICK_NU, MS / 2, -1), 0);
    CHECK_EQ(t.n1, 290);
    CHECK_EQ(t.n2, 14);
}

struct trace {
    int64_t v[VLAD_MAX_JOINTS], a[VLAD_MAX_JOINTS];
};

/* One tick on; the derivatives must keep their bounds, in whole nano-units per tick^n. */
static void checked_advance(const struct vlad_limits *limits, struct trace *trace,
                            int64_t period_ns, const int64_t *target, int permille)
{
    int64_t before[VLAD_MAX_JOINTS];
    long double s = (long double)period_ns / (long double)VLAD_NS_PER_S;

    memcpy(before, t.goal_nu, sizeof before);
    vlad_trajectory_advance(&t, target, permille);
    for (int j = 0; j < t.n_joints; j++) {
        int64_t v = t.goal_nu[j] - before[j], a = v - trace->v[j], jerk = a - trace->a[j];
        long double a_max = (long double)limits->joint[j].a_max_nu_s2 * s * s;
        long double j_max = (long double)limits->joint[j].j_max_nu_s3 * s * s * s;

        CHECK_EQ(v, t.velocity_nu[j]);
        CHECK(v <= t.step_nu[j] && v >= -t.step_nu[j]);
        CHECK((long double)a <= a_max + 2 && (long double)a >= -a_max - 2);
        CHECK((long double)jerk <= j_max + 4 && (long double)jerk >= -j_max - 4);
        trace->v[j] = v;
        trace->a[j] = a;
    }
}

/* Targets that jump about the whole range, follow ramps, stand still; speed scaled at times. */
static void test_bounds(void)
{
    static const int64_t periods[] = {MS, 5 * MS, 10 * MS, 50 * MS};

    for (int round = 0; round < 60; round++) {
        int64_t period = periods[round % 4];
        struct vlad_limits limits = random_limits(1 + round % VLAD_MAX_JOINTS);
        int64_t low[VLAD_MAX_JOINTS], high[VLAD_MAX_JOINTS], target[VLAD_MAX_JOINTS];
        struct trace trace = {0};
        int joint, permille = 1000;

        CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, period, &joint), 0);
        for (int j = 0; j < t.n_joints; j++)
            low[j] = high[j] = target[j] = random_in(-2 * UNIT, 2 * UNIT);
        vlad_trajectory_reset(&t, target);
        for (int tick = 0; tick < 1500; tick++) {
            int64_t kind = random_in(0, 60);

            permille = kind == 0 ? (int)random_in(1, 1000) : kind == 1 ? 1000 : permille;
            for (int j = 0; j < t.n_joints; j++) {
                if (kind > 1 && kind < 6)
                    target[j] = random_in(-2 * UNIT, 2 * UNIT);
                else if (kind > 40)
                    target[j] = target[j] < 0 ? 2 * UNIT : -2 * UNIT;
                low[j] = target[j] < low[j] ? target[j] : low[j];
                high[j] = target[j] > high[j] ? target[j] : high[j];
            }
            checked_advance(&limits, &trace, period, target, permille);
            for (int j = 0; j < t.n_joints; j++)
                CHECK(t.goal_nu[j] >= low[j] && t.goal_nu[j] <= high[j]);
        }
    }
}

static void init_plain(int64_t period)
{
    struct vlad_limits limits = limits_of(2, 2 * UNIT, 40 * UNIT, 800 * UNIT);
    int joint;

    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, period, &joint), 0);
}

/* A far target is reached exactly, at the top speed on the way, and stays. */
static void test_reaches_exactly(void)
{
    int64_t start[2] = {-UNIT, 123456789}, target[2] = {UNIT + 1, 123456789}, top = 0;
    int rest_after = -1, last_move = 0;

    init_plain(10 * MS);
    vlad_trajectory_reset(&t, start);
    CHECK(vlad_trajectory_at_rest(&t));
    for (int tick = 1; tick <= 400; tick++) {
        vlad_trajectory_advance(&t, target, 1000);
        top = t.velocity_nu[0] > top ? t.velocity_nu[0] : top;
        CHECK_EQ(t.goal_nu[1], 123456789);
        if (t.velocity_nu[0])
            last_move = tick;
        if (vlad_trajectory_at_rest(&t) && rest_after < 0)
            rest_after = tick;
        if (!vlad_trajectory_at_rest(&t))
            CHECK_EQ(rest_after, -1);
    }
    CHECK_EQ(top, t.step_nu[0]);
    CHECK_EQ(t.goal_nu[0], UNIT + 1);
    CHECK_EQ(t.input_nu[0], UNIT + 1);
    /* 2e9 + 1 nu in steps of 19941740: 101 ticks of input, then n1 + n2 - 2 = 18 of the filter. */
    CHECK_EQ(last_move, 101 + 18);
    CHECK_EQ(rest_after, 101 + 19);
}

static void test_speed_scale(void)
{
    int64_t start[2] = {0, 0}, target[2] = {UNIT, -UNIT}, top = 0;

    init_plain(10 * MS);
    vlad_trajectory_reset(&t, start);
    for (int tick = 0; tick < 100; tick++) {
        vlad_trajectory_advance(&t, target, 100);
        top = -t.velocity_nu[1] > top ? -t.velocity_nu[1] : top;
    }
    CHECK_EQ(top, t.step_nu[1] / 10);
}

/* Read (n1 + n2 - 2) / 2 ticks ahead, a ramp comes out without lag. */
static void test_no_lag(void)
{
    init_plain(10 * MS);
    for (int even = 0; even < 2; even++) {
        int64_t start[2] = {0, 0}, per_tick = 1000000, ahead;

        t.n2 -= even;
        ahead = (t.n1 + t.n2 - 2) * per_tick / 2;
        vlad_trajectory_reset(&t, start);
        for (int64_t tick = 1; tick < 200; tick++) {
            int64_t target[2] = {tick * per_tick + ahead, 0};

            vlad_trajectory_advance(&t, target, 1000);
            if (tick > 40)
                CHECK_EQ(t.goal_nu[0], tick * per_tick);
        }
    }
}

/* Stopped at any moment of any motion: never faster, never back, at rest in time, in the range of
 * where it was going, and from there on at rest for good. */
static void test_stop_property(void)
{
    static const int64_t periods[] = {MS, 10 * MS, 50 * MS};

    for (int round = 0; round < 600; round++) {
        struct vlad_limits limits = random_limits(6);
        int64_t target[VLAD_MAX_JOINTS], low[VLAD_MAX_JOINTS], high[VLAD_MAX_JOINTS];
        int64_t velocity[VLAD_MAX_JOINTS], goal[VLAD_MAX_JOINTS];
        int joint, ticks = (int)random_in(0, 120), calls = 0;
        bool done = false;

        CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, periods[round % 3], &joint), 0);
        for (int j = 0; j < 6; j++)
            low[j] = high[j] = target[j] = random_in(-2 * UNIT, 2 * UNIT);
        vlad_trajectory_reset(&t, target);
        while (ticks--) {
            for (int j = 0; j < 6; j++) {
                if (random_in(0, 9) == 0)
                    target[j] = random_in(-2 * UNIT, 2 * UNIT);
                low[j] = target[j] < low[j] ? target[j] : low[j];
                high[j] = target[j] > high[j] ? target[j] : high[j];
            }
            vlad_trajectory_advance(&t, target, 1000);
        }
        memcpy(velocity, t.velocity_nu, sizeof velocity);
        memcpy(goal, t.goal_nu, sizeof goal);
        while (!done) {
            /* Whether it is asked to stop or to go on, a stop under way is finished. */
            if (calls % 3 == 1) {
                vlad_trajectory_advance(&t, target, 1000);
                done = !t.stopping;
            } else {
                done = vlad_trajectory_stop(&t);
                CHECK(done == !t.stopping);
            }
            calls++;
            CHECK(vlad_trajectory_at_rest(&t) == done);
            for (int j = 0; j < 6; j++) {
                int64_t v = t.goal_nu[j] - goal[j];

                CHECK_EQ(v, t.velocity_nu[j]);
                CHECK(velocity[j] >= 0 ? v >= 0 && v <= velocity[j]
                                       : v <= 0 && v >= velocity[j]);
                CHECK(t.goal_nu[j] >= low[j] && t.goal_nu[j] <= high[j]);
                CHECK(!done || v == 0);
                velocity[j] = v;
                goal[j] = t.goal_nu[j];
            }
            CHECK(calls <= t.n1 + t.n2 - 1);
        }
        for (int k = 0; k < 3; k++) {
            vlad_trajectory_advance(&t, t.goal_nu, 1000);
            CHECK(memcmp(goal, t.goal_nu, sizeof goal) == 0);
            CHECK(vlad_trajectory_at_rest(&t));
        }
    }
}

static void test_reset_in_motion(void)
{
    int64_t start[2] = {0, 0}, target[2] = {UNIT, -UNIT}, here[2] = {5, -7};

    init_plain(10 * MS);
    vlad_trajectory_reset(&t, start);
    for (int tick = 0; tick < 30; tick++)
        vlad_trajectory_advance(&t, target, 1000);
    vlad_trajectory_stop(&t);
    vlad_trajectory_reset(&t, here);
    CHECK(vlad_trajectory_at_rest(&t));
    CHECK_EQ(t.velocity_nu[0], 0);
    CHECK(vlad_trajectory_stop(&t));
    vlad_trajectory_advance(&t, here, 1000);
    CHECK_EQ(t.goal_nu[0], 5);
    CHECK_EQ(t.goal_nu[1], -7);
}

/* A stop follows the filter down where it can: not an abrupt halt. At full speed it takes the
 * filter's whole length, and the distance of a ramp down. */
static void test_stop_from_full_speed(void)
{
    int64_t start[2] = {0, 0}, target[2] = {2 * UNIT, -2 * UNIT}, step;
    int calls = 1;

    init_plain(10 * MS);
    step = t.step_nu[0];
    vlad_trajectory_reset(&t, start);
    for (int tick = 0; tick < 60; tick++)
        vlad_trajectory_advance(&t, target, 1000);
    CHECK_EQ(t.velocity_nu[0], step);
    start[0] = t.goal_nu[0];
    while (!vlad_trajectory_stop(&t)) {
        CHECK(!vlad_trajectory_at_rest(&t));
        calls++;
    }
    CHECK_EQ(calls, t.n1 + t.n2 - 1);
    /* Velocities fall symmetrically from step to 0 over 18 ticks: their sum is 9 steps. */
    CHECK_EQ(t.goal_nu[0] - start[0], 9 * step);
    CHECK_EQ(t.goal_nu[0], -t.goal_nu[1]);
    CHECK_EQ(t.goal_nu[0], t.input_nu[0]);
}

/* Stopped while speeding up: the filter wants more speed, and does not get it. */
static void test_stop_while_speeding_up(void)
{
    int64_t start[2] = {0, 0}, target[2] = {2 * UNIT, 0}, velocity;

    init_plain(10 * MS);
    vlad_trajectory_reset(&t, start);
    for (int tick = 0; tick < 8; tick++)
        vlad_trajectory_advance(&t, target, 1000);
    velocity = t.velocity_nu[0];
    CHECK(velocity > 0 && velocity < t.step_nu[0]);
    CHECK(!vlad_trajectory_stop(&t));
    CHECK_EQ(t.velocity_nu[0], velocity);
    while (!vlad_trajectory_stop(&t)) {
    }
    CHECK(t.goal_nu[0] < target[0]);
}

/* Stopped at a turning point: what the filter still holds is dropped, not driven. */
static void test_stop_at_turning_point(void)
{
    int64_t start[2] = {0, 0}, up[2] = {UNIT, -UNIT}, down[2] = {-UNIT, UNIT}, at;
    int calls = 1;

    init_plain(10 * MS);
    vlad_trajectory_reset(&t, start);
    for (int tick = 0; tick < 30; tick++)
        vlad_trajectory_advance(&t, up, 1000);
    do {
        vlad_trajectory_advance(&t, down, 1000);
    } while (t.velocity_nu[0] > t.step_nu[0] / 4);
    CHECK(t.velocity_nu[0] > 0);
    at = t.goal_nu[0];
    while (!vlad_trajectory_stop(&t))
        calls++;
    CHECK(calls <= 3); /* the filter is about to turn back: far less than n1 + n2 */
    CHECK(t.goal_nu[0] >= at && t.goal_nu[0] < at + 2 * t.step_nu[0]);
    CHECK(t.goal_nu[1] >= -at - 2 * t.step_nu[0] && t.goal_nu[1] <= -at);
}

/* The same at the smallest speeds there are: one nano-unit a tick. */
static void test_stop_of_one_nano_unit(void)
{
    struct vlad_limits limits = limits_of(1, 2 * UNIT, 200 * UNIT, 40000 * UNIT);
    const int64_t up_and_back[] = {3, 0, 1};
    int64_t at = 0;
    int joint;

    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, 10 * MS, &joint), 0);
    CHECK(t.n1 == 2 && t.n2 == 1);
    vlad_trajectory_reset(&t, &at);
    at = 2;
    vlad_trajectory_advance(&t, &at, 1000); /* 1 of the way to 2 */
    vlad_trajectory_advance(&t, &at, 1000);
    CHECK_EQ(t.velocity_nu[0], 1);
    CHECK(vlad_trajectory_stop(&t));
    CHECK_EQ(t.goal_nu[0], 2);

    at = 0;
    vlad_trajectory_reset(&t, &at);
    for (int i = 0; i < 3; i++)
        vlad_trajectory_advance(&t, &up_and_back[i], 1000);
    CHECK_EQ(t.velocity_nu[0], -1); /* and the filter is about to go up by one */
    CHECK(vlad_trajectory_stop(&t));
    CHECK_EQ(t.goal_nu[0], 0);
}

/* As many joints as there can be. */
static void test_stop_of_all_joints(void)
{
    struct vlad_limits limits = limits_of(VLAD_MAX_JOINTS, 2 * UNIT, 40 * UNIT, 800 * UNIT);
    int64_t target[VLAD_MAX_JOINTS];
    int joint;

    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, 10 * MS, &joint), 0);
    for (int j = 0; j < VLAD_MAX_JOINTS; j++)
        target[j] = UNIT;
    for (int tick = 0; tick < 20; tick++)
        vlad_trajectory_advance(&t, target, 1000);
    while (!vlad_trajectory_stop(&t)) {
    }
    for (int j = 0; j < VLAD_MAX_JOINTS; j++)
        CHECK(t.goal_nu[j] > 0 && t.goal_nu[j] == t.goal_nu[0]);
}

/* Rounded to encoder ticks, a step of the wire is at most the whole ticks below v_max * period,
 * with the true size of a tick and wherever the two goals lie: body joints (2 pi / 4096 rad),
 * grippers (1 / span), and the integer nano-unit that the caller passes rounded down or up. */
static void test_steps_in_ticks(void)
{
    const long double two_pi = 6.283185307179586476925286766559L;

    for (int i = 0; i < 200000; i++) {
        bool body = i & 1;
        int64_t span = random_in(300, 4095);
        long double tick = body ? two_pi / 4096 * 1e9L : 1e9L / (long double)span;
        int64_t given = (int64_t)tick + (i >> 1 & 1);
        int64_t whole = random_in(1, 60);
        /* Just above and just below a whole number of ticks: the worst places. */
        int64_t per_period = (int64_t)((long double)whole * tick) + random_in(-40, 40);
        struct vlad_limits limits = limits_of(1, per_period * 100, 1000000 * UNIT,
                                              1000000000 * UNIT);
        int64_t from, to;
        long double a, b, allowed;
        int joint;

        if (vlad_trajectory_init(&t, &limits, &given, 10 * MS, &joint)) {
            CHECK_EQ(whole, 1); /* the 1 nu per tick makes it round down to none */
            continue;
        }
        from = random_in(-2 * UNIT, 2 * UNIT);
        to = from + t.step_nu[0];
        a = floorl((long double)from / tick + 0.5L);
        b = floorl((long double)to / tick + 0.5L);
        allowed = floorl((long double)per_period / tick);
        CHECK(b - a <= allowed);
        CHECK(b - a >= 0);
        CHECK((long double)t.step_nu[0] >= (allowed - 1) * tick - 200); /* and nothing much less */
    }
}

/* Row 14: while the others brake, a blocked joint's goal goes back at one step a tick. */
static void test_yield(void)
{
    struct vlad_limits limits = limits_of(3, 2 * UNIT, 40 * UNIT, 800 * UNIT);
    int64_t far[3] = { UNIT, -UNIT, UNIT }, pose[3], before[3], step, blocked_nu[3] = { 0 };
    int joint, n = 0;
    bool stands = false, there = false;

    CHECK_EQ(vlad_trajectory_init(&t, &limits, unit_nu, 10 * MS, &joint), 0);
    for (int i = 0; i < 40; i++)
        vlad_trajectory_advance(&t, far, 1000);
    for (int j = 0; j < 3; j++)
        pose[j] = t.goal_nu[j] - 5 * t.step_nu[j] / 2; /* behind the goal, and before it */
    memcpy(blocked_nu, t.goal_nu, sizeof blocked_nu);
    while (!(stands && there)) {
        memcpy(before, t.goal_nu, sizeof before);
        there = vlad_trajectory_yield(&t, 3, pose);
        stands = vlad_trajectory_stop(&t);
        for (int j = 0; j < 2; j++) {
            step = t.goal_nu[j] - before[j];
            CHECK(llabs(step) <= t.step_nu[j]);
            CHECK(step <= 0);
            CHECK_EQ(t.velocity_nu[j], 0);
        }
        CHECK(t.goal_nu[2] >= before[2]); /* brakes */
        CHECK_EQ(there, n >= 2);
        CHECK(++n <= t.n1 + t.n2);
    }
    CHECK_EQ(t.goal_nu[0], pose[0]);
    CHECK_EQ(t.goal_nu[1], pose[1]);
    CHECK(t.goal_nu[2] > blocked_nu[2]);
    CHECK(vlad_trajectory_at_rest(&t));
    memcpy(before, t.goal_nu, sizeof before); /* nothing is left in the filter */
    for (int i = 0; i < 40; i++) {
        vlad_trajectory_advance(&t, before, 1000);
        CHECK_EQ(memcmp(t.goal_nu, before, sizeof before), 0);
    }
    pose[0] = t.goal_nu[0] + 3 * t.step_nu[0]; /* longer than the stop takes */
    for (int i = 1; i <= 3; i++) {
        CHECK_EQ(vlad_trajectory_yield(&t, 1, pose), i == 3);
        CHECK(vlad_trajectory_stop(&t));
    }
    CHECK_EQ(t.goal_nu[0], pose[0]);
}

int main(void)
{
    test_yield();
    test_windows();
    test_init_refuses();
    test_bounds();
    test_reaches_exactly();
    test_speed_scale();
    test_no_lag();
    test_stop_property();
    test_reset_in_motion();
    test_stop_from_full_speed();
    test_stop_while_speeding_up();
    test_stop_at_turning_point();
    test_stop_of_one_nano_unit();
    test_stop_of_all_joints();
    test_steps_in_ticks();
    CHECK_DONE();
}
