/* What the gate lets pass and what it names when it does not. */
#include <errno.h>  /* EINVAL */
#include <math.h>   /* NAN, INFINITY, nextafter */
#include <string.h> /* strcmp */

#include "check.h"
#include "gate.h"
#include "random.h"
#include "ratio.h"

#define MS VLAD_NS_PER_MS
#define UNIT VLAD_NU_PER_UNIT

/* Two joints: +-2 units at 3 units/s, 0..1 at 1.5 units/s; 20 Hz: steps of 0.15 and 0.075. */
static struct vlad_gate_config config(void)
{
    return (struct vlad_gate_config){
        .limits = {.n_joints = 2,
                   .joint = {{-2 * UNIT, 2 * UNIT, 3 * UNIT, 30 * UNIT, 600 * UNIT},
                             {0, UNIT, 3 * UNIT / 2, 15 * UNIT, 300 * UNIT}}},
        .period_ns = 50 * MS,
        .clamp_permille = 20,
        .max_observation_age_ns = 800 * MS,
        .max_cold_age_ns = 10000 * MS,
        .max_frame_age_ns = 66 * MS,
        .max_reuse_age_ns = 900 * MS,
        .max_jump_nu = UNIT / 2,
        .blend_ns = 100 * MS,
    };
}

static struct vlad_chunk chunk_of(const double *actions, int n_actions)
{
    return (struct vlad_chunk){.seq = 1,
                               .epoch = 7,
                               .t_obs_ns = 5000 * MS,
                               .n_actions = n_actions,
                               .n_joints = 2,
                               .actions = actions};
}

static struct vlad_gate_report report;

static void check_rejected(enum vlad_reason reason, int joint, int action)
{
    CHECK_EQ(report.verdict, VLAD_REJECTED);
    CHECK_EQ(report.reason, reason);
    CHECK_EQ(report.joint, joint);
    CHECK_EQ(report.action, action);
}

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-9;
}

static bool time_ok(const struct vlad_gate_config *gate, const struct vlad_chunk *chunk,
                    const struct vlad_command *command, int64_t last_due_ns, int64_t now_ns)
{
    vlad_gate_report_clear(&report);
    return vlad_gate_time(gate, chunk, command, last_due_ns, now_ns, &report);
}

static void test_shape_epoch_future(void)
{
    struct vlad_gate_config gate = config();
    struct vlad_command command = {.epoch = 7};
    double actions[2] = {0, 0};
    struct vlad_chunk chunk = chunk_of(actions, 1), bad;
    int64_t t = chunk.t_obs_ns;

    CHECK(time_ok(&gate, &chunk, &command, t, t));
    CHECK_EQ(report.verdict, VLAD_ACCEPTED);
    CHECK_EQ(report.reason, VLAD_R_NONE);
    CHECK_EQ(report.joint, -1);
    CHECK_EQ(report.action, -1);

    bad = chunk;
    bad.n_joints = 3;
    CHECK(!time_ok(&gate, &bad, &command, t, t));
    check_rejected(VLAD_R_SHAPE, -1, -1);
    CHECK(near(report.value, 3) && near(report.bound, 2));
    bad = chunk;
    bad.n_actions = 0;
    CHECK(!time_ok(&gate, &bad, &command, t, t));
    check_rejected(VLAD_R_SHAPE, -1, -1);
    bad.n_actions = VLAD_MAX_ACTIONS + 1;
    CHECK(!time_ok(&gate, &bad, &command, t, t));
    check_rejected(VLAD_R_SHAPE, -1, -1);
    CHECK(near(report.value, 257) && near(report.bound, 256));
    bad.n_actions = VLAD_MAX_ACTIONS;
    CHECK(time_ok(&gate, &bad, &command, t, t));
    bad = chunk;
    bad.t_obs_ns = -1;
    CHECK(!time_ok(&gate, &bad, &command, t, t));
    check_rejected(VLAD_R_SHAPE, -1, -1);
    bad.t_obs_ns = 0;
    CHECK(time_ok(&gate, &bad, &command, 0, 0));

    command.epoch = 8;
    CHECK(!time_ok(&gate, &chunk, &command, t, t));
    check_rejected(VLAD_R_DISENGAGED, -1, -1);
    CHECK(near(report.value, 7) && near(report.bound, 8));
    command.epoch = 0;
    bad = chunk;
    bad.epoch = 0;
    CHECK(!time_ok(&gate, &bad, &command, t, t));
    check_rejected(VLAD_R_DISENGAGED, -1, -1);
    command.epoch = 7;

    CHECK(!time_ok(&gate, &chunk, &command, t, t - 1));
    check_rejected(VLAD_R_FUTURE, -1, -1);
}

static void test_deadline_and_ages(void)
{
    struct vlad_gate_config gate = config();
    struct vlad_command command = {.epoch = 7};
    double actions[2] = {0, 0};
    struct vlad_chunk chunk = chunk_of(actions, 1);
    int64_t t = chunk.t_obs_ns;

    CHECK(time_ok(&gate, &chunk, &command, t + 300 * MS, t + 300 * MS));
    CHECK(!time_ok(&gate, &chunk, &command, t + 300 * MS, t + 300 * MS + 1));
    check_rejected(VLAD_R_LATE, -1, -1);
    CHECK(near(report.value, 5.3 + 1e-9) && near(report.bound, 5.3));
    CHECK(!time_ok(&gate, &chunk, &command, INT64_MIN, t));
    check_rejected(VLAD_R_LATE, -1, -1);

    CHECK(time_ok(&gate, &chunk, &command, INT64_MAX, t + 800 * MS));
    CHECK(!time_ok(&gate, &chunk, &command, INT64_MAX, t + 800 * MS + 1));
    check_rejected(VLAD_R_STALE, -1, -1);
    CHECK(near(report.value, 0.8) && near(report.bound, 0.8));
    /* Late comes before stale: the deadline is what was missed first. */
    CHECK(!time_ok(&gate, &chunk, &command, t, t + 900 * MS));
    check_rejected(VLAD_R_LATE, -1, -1);

    chunk.frame_age_ns = 66 * MS;
    chunk.reuse_age_ns = 900 * MS;
    CHECK(time_ok(&gate, &chunk, &command, INT64_MAX, t));
    chunk.frame_age_ns++;
    CHECK(!time_ok(&gate, &chunk, &command, INT64_MAX, t));
    check_rejected(VLAD_R_FRAME_AGE, -1, -1);
    CHECK(near(report.bound, 0.066));
    chunk.frame_age_ns = -5 * MS; /* a driver's clock ahead of ours: counted elsewhere, no fault */
    CHECK(time_ok(&gate, &chunk, &command, INT64_MAX, t));
    chunk.reuse_age_ns++;
    CHECK(!time_ok(&gate, &chunk, &command, INT64_MAX, t));
    check_rejected(VLAD_R_FRAME_AGE, -1, -1);
    CHECK(near(report.bound, 0.9));
}

static void test_cold(void)
{
    struct vlad_gate_config gate = config();
    struct vlad_command command = {.epoch = 7, .at_rest = true, .rest_since_ns = 5000 * MS};
    double actions[2] = {0, 0};
    struct vlad_chunk chunk = chunk_of(actions, 1);
    int64_t t = chunk.t_obs_ns;

    chunk.cold = true;
    CHECK(time_ok(&gate, &chunk, &command, INT64_MIN, t + 10000 * MS));
    CHECK(!time_ok(&gate, &chunk, &command, INT64_MIN, t + 10000 * MS + 1));
    check_rejected(VLAD_R_STALE, -1, -1);
    CHECK(near(report.bound, 10));
    command.rest_since_ns++;
    CHECK(!time_ok(&gate, &chunk, &command, INT64_MIN, t));
    check_rejected(VLAD_R_MOVED, -1, -1);
    CHECK(near(report.value, 5.0 + 1e-9) && near(report.bound, 5));
    command.rest_since_ns = 0;
    CHECK(time_ok(&gate, &chunk, &command, INT64_MIN, t));
    command.at_rest = false;
    CHECK(!time_ok(&gate, &chunk, &command, INT64_MIN, t + 1000 * MS));
    check_rejected(VLAD_R_MOVED, -1, -1);
    CHECK(near(report.value, 6));
    chunk.frame_age_ns = 67 * MS;
    CHECK(!time_ok(&gate, &chunk, &command, INT64_MIN, t));
    check_rejected(VLAD_R_FRAME_AGE, -1, -1);
}

static int64_t out[VLAD_MAX_ACTIONS][VLAD_MAX_JOINTS];

static bool chunk_ok(const double *actions, int n)
{
    struct vlad_gate_config gate = config();
    struct vlad_chunk chunk = chunk_of(actions, n);

    vlad_gate_report_clear(&report);
    return vlad_gate_chunk(&gate, &chunk, out, &report);
}

static void test_not_finite(void)
{
    const double bad[] = {NAN, -NAN, INFINITY, -INFINITY};

    for (unsigned b = 0; b < 4; b++)
        for (int at = 0; at < 6; at++) {
            double actions[6] = {0, 0.5, 0, 0.5, 0, 0.5};

            actions[0] = 1e300; /* found later than anything that is not a number */
            actions[at] = bad[b];
            CHECK(!chunk_ok(actions, 3));
            check_rejected(VLAD_R_NOT_FINITE, at % 2, at / 2);
            CHECK(isnan(bad[b]) ? isnan(report.value) : report.value == bad[b]);
        }
}

static void test_position(void)
{
    double exact[2] = {1.25, 0.25}, edge[2] = {-2, 1}, clamped[4] = {2.08, -0.02, 2, 0.0};
    double huge[] = {1e300, -1e300, 1e19, -1e19, 9.3e9, -9.3e9, 2.0800000006, -2.0800000006};

    CHECK(chunk_ok(exact, 1));
    CHECK_EQ(out[0][0], 1250000000);
    CHECK_EQ(out[0][1], 250000000);
    CHECK_EQ(report.verdict, VLAD_ACCEPTED);
    CHECK(chunk_ok(edge, 1));
    CHECK_EQ(out[0][0], -2 * UNIT);
    CHECK_EQ(out[0][1], UNIT);
    CHECK_EQ(report.verdict, VLAD_ACCEPTED);
    edge[0] = -0.7e-9;
    edge[1] = 0.7e-9;
    CHECK(chunk_ok(edge, 1));
    CHECK_EQ(out[0][0], -1);
    CHECK_EQ(out[0][1], 1);

    /* 2 % of a span of 4 units is 0.08, of 1 unit 0.02. */
    CHECK(chunk_ok(clamped, 2));
    CHECK_EQ(report.verdict, VLAD_CLAMPED);
    CHECK_EQ(report.reason, VLAD_R_NONE);
    CHECK_EQ(report.n_clamped, 2);
    CHECK_EQ(report.joint, 0);
    CHECK_EQ(report.action, 0);
    CHECK(near(report.value, 2.08) && near(report.bound, 2));
    CHECK_EQ(out[0][0], 2 * UNIT);
    CHECK_EQ(out[0][1], 0);
    clamped[0] = 2;
    CHECK(chunk_ok(clamped, 2));
    CHECK_EQ(report.n_clamped, 1);
    CHECK_EQ(report.joint, 1);
    CHECK(near(report.value, -0.02) && near(report.bound, 0));

    for (unsigned h = 0; h < sizeof huge / sizeof *huge; h++) {
        double actions[4] = {0, 0.5, huge[h], 0.5};

        CHECK(!chunk_ok(actions, 2));
        check_rejected(VLAD_R_POSITION, 0, 1);
        CHECK(report.value == huge[h]);
        CHECK(near(report.bound, huge[h] > 0 ? 2.08 : -2.08));
    }
    {
        double low[2] = {0, nextafter(-0.0200000005, -1)}, high[2] = {0, 1.021};

        CHECK(!chunk_ok(low, 1));
        check_rejected(VLAD_R_POSITION, 1, 0);
        CHECK(!chunk_ok(high, 1));
        check_rejected(VLAD_R_POSITION, 1, 0);
        low[1] = -0.0200000005; /* half a nano-unit beyond, exactly: rounds away */
        high[1] = 1.0200000005;
        CHECK(low[1] * 1e9 == -20000000.5 && high[1] * 1e9 == 1020000000.5);
        CHECK(!chunk_ok(low, 1));
        check_rejected(VLAD_R_POSITION, 1, 0);
        CHECK(!chunk_ok(high, 1));
        check_rejected(VLAD_R_POSITION, 1, 0);
    }
}

/* The conversion is to the nearest nano-unit, and inside the limits whatever comes in. */
static void test_position_property(void)
{
    for (int i = 0; i < 20000; i++) {
        double value = (double)random_in(-2200000000, 2200000000) * 1e-9 +
                       (double)random_in(-9, 9) * 1e-10;
        double actions[2] = {value, 0.5};
        bool accepted = chunk_ok(actions, 1);

        CHECK(accepted == (fabs(value) < 2.08 + 0.5e-9));
        if (!accepted)
            continue;
        CHECK(out[0][0] >= -2 * UNIT && out[0][0] <= 2 * UNIT);
        CHECK((report.verdict == VLAD_CLAMPED) == (fabs(value) >= 2 + 0.5e-9));
        if (report.verdict == VLAD_ACCEPTED)
            CHECK(fabs((double)out[0][0] - value * 1e9) <= 0.5 + 1e-6);
    }
}

static void test_step(void)
{
    double actions[6] = {0, 0, 0.15, 0.075, 0, 0};

    CHECK(chunk_ok(actions, 3));
    actions[2] = 0.150000001;
    CHECK(!chunk_ok(actions, 3));
    check_rejected(VLAD_R_STEP, 0, 1);
    CHECK(near(report.value, 0.150000001) && near(report.bound, 0.15));
    actions[2] = 0.15;
    actions[4] = -1e-9;
    CHECK(!chunk_ok(actions, 3));
    check_rejected(VLAD_R_STEP, 0, 2);
    CHECK(near(report.value, 0.150000001)); /* its size, whichever way it goes */
    actions[4] = 0;
    actions[3] = 0.0750001;
    CHECK(!chunk_ok(actions, 3));
    check_rejected(VLAD_R_STEP, 1, 1);
    CHECK(near(report.bound, 0.075));
    /* Position comes before step, even of a later action. */
    actions[4] = 3;
    CHECK(!chunk_ok(actions, 3));
    check_rejected(VLAD_R_POSITION, 0, 2);
    /* A step is judged after clamping. */
    {
        double clamped[4] = {1.9, 0, 2.06, 0};

        CHECK(chunk_ok(clamped, 2));
        CHECK_EQ(report.verdict, VLAD_CLAMPED);
        CHECK_EQ(report.action, 1);
    }
}

static void test_merged_steps(void)
{
    struct vlad_gate_config gate = config();
    int64_t before[VLAD_MAX_JOINTS] = {0};
    int64_t merged[3][VLAD_MAX_JOINTS] = {{UNIT / 10, 0}, {UNIT / 5, UNIT / 20}, {0, 0}};

    vlad_gate_report_clear(&report);
    CHECK(vlad_gate_steps(&gate, before, merged, 0, 0, &report));
    CHECK(vlad_gate_steps(&gate, before, merged, 2, 0, &report));
    CHECK(!vlad_gate_steps(&gate, before, merged, 3, 0, &report));
    check_rejected(VLAD_R_STEP, 0, 2);
    before[1] = -UNIT / 10;
    CHECK(!vlad_gate_steps(&gate, before, merged, 2, 0, &report));
    check_rejected(VLAD_R_STEP, 1, 0);
    vlad_gate_report_clear(&report);
    CHECK(vlad_gate_steps(&gate, before, merged, 2, UNIT / 10, &report));
    CHECK_EQ(report.verdict, VLAD_ACCEPTED);
    before[1]--;
    CHECK(!vlad_gate_steps(&gate, before, merged, 2, UNIT / 10, &report));
    check_rejected(VLAD_R_JUMP, 1, 0);
    CHECK(near(report.value, 0.100000001) && near(report.bound, 0.1));
    /* The smallest allowance is one, and is no default step. */
    merged[0][0] = merged[0][1] = before[0] = 0;
    before[1] = -2;
    CHECK(!vlad_gate_steps(&gate, before, merged, 1, 1, &report));
    check_rejected(VLAD_R_JUMP, 1, 0);
    before[1] = -1;
    CHECK(vlad_gate_steps(&gate, before, merged, 1, 1, &report));
    /* What stands behind the last joint is nobody's. */
    merged[0][2] = 5 * UNIT;
    CHECK(vlad_gate_steps(&gate, before, merged, 1, 0, &report));
    merged[0][0] = UNIT / 10;
    /* The allowance is for the first step only. */
    before[1] = 0;
    merged[1][0] = 2 * UNIT;
    CHECK(!vlad_gate_steps(&gate, before, merged, 2, 2 * UNIT, &report));
    check_rejected(VLAD_R_STEP, 0, 1);
}

static void test_step_size(void)
{
    struct vlad_gate_config gate = config();

    CHECK_EQ(vlad_gate_step_nu(&gate, 0), 150000000);
    CHECK_EQ(vlad_gate_step_nu(&gate, 1), 75000000);
    gate.period_ns = 33333333;
    CHECK_EQ(vlad_gate_step_nu(&gate, 0), 99999999);
    gate.limits.joint[0].v_max_nu_s = 1;
    CHECK_EQ(vlad_gate_step_nu(&gate, 0), 1);
    gate.limits.joint[0].v_max_nu_s = VLAD_MAX_NU;
    gate.period_ns = VLAD_MAX_PERIOD_NS;
    CHECK_EQ(vlad_gate_step_nu(&gate, 0), VLAD_MAX_NU); /* v_max * period is beyond int64 */
}

static void test_ratio(void)
{
    CHECK_EQ(vlad_floor_div(7, 2), 3);
    CHECK_EQ(vlad_floor_div(-7, 2), -4);
    CHECK_EQ(vlad_floor_div(-8, 2), -4);
    CHECK_EQ(vlad_floor_div(0, 2), 0);
    for (int i = 0; i < 20000; i++) {
        int64_t value = random_in(-2000000000000, 2000000000000), den = random_in(1, 3000000000);
        int64_t num = random_in(0, den), got = vlad_scale(value, num, den);
        long double exact = (long double)value * (long double)num / (long double)den;

        CHECK(floorl(exact - 1e-4L) <= (long double)got && (long double)got <= exact + 1e-4L);
    }
    CHECK_EQ(vlad_scale(-1, 1, 2), -1);
    CHECK_EQ(vlad_scale(INT64_MAX, 3000000000, 3000000000), INT64_MAX);
}

static void check_invalid(const struct vlad_gate_config *gate)
{
    CHECK_EQ(vlad_gate_check_config(gate), -EINVAL);
}

static void test_config(void)
{
    struct vlad_gate_config good = config(), gate;

#define BAD(field, value)      \
    do {                       \
        gate = good;           \
        gate.field = (value);  \
        check_invalid(&gate);  \
    } while (0)
#define GOOD(field, value)                            \
    do {                                              \
        gate = good;                                  \
        gate.field = (value);                         \
        CHECK_EQ(vlad_gate_check_config(&gate), 0);   \
    } while (0)

    CHECK_EQ(vlad_gate_check_config(&good), 0);
    BAD(limits.n_joints, 0);
    BAD(limits.n_joints, VLAD_MAX_JOINTS + 1);
    GOOD(limits.n_joints, 1);
    for (int j = 2; j < VLAD_MAX_JOINTS; j++)
        good.limits.joint[j] = good.limits.joint[1];
    GOOD(limits.n_joints, VLAD_MAX_JOINTS);
    BAD(limits.joint[0].min_nu, 2 * UNIT);
    BAD(limits.joint[1].min_nu, UNIT); /* equal to max */
    BAD(limits.joint[1].min_nu, -VLAD_MAX_NU - 1);
    BAD(limits.joint[1].max_nu, VLAD_MAX_NU + 1);
    GOOD(limits.joint[1].max_nu, VLAD_MAX_NU);
    GOOD(limits.joint[1].min_nu, -VLAD_MAX_NU);
    BAD(limits.joint[1].v_max_nu_s, 0);
    BAD(limits.joint[1].v_max_nu_s, VLAD_MAX_NU + 1);
    GOOD(limits.joint[1].v_max_nu_s, 1);
    GOOD(limits.joint[1].v_max_nu_s, VLAD_MAX_NU);
    BAD(limits.joint[1].a_max_nu_s2, 0);
    BAD(limits.joint[1].a_max_nu_s2, 1000000 * VLAD_MAX_NU + 1);
    GOOD(limits.joint[1].a_max_nu_s2, 1);
    GOOD(limits.joint[1].a_max_nu_s2, 1000000 * VLAD_MAX_NU);
    BAD(limits.joint[1].j_max_nu_s3, 0);
    GOOD(limits.joint[1].j_max_nu_s3, 1);
    BAD(limits.joint[1].j_max_nu_s3, 1000000 * VLAD_MAX_NU + 1);
    GOOD(limits.joint[1].j_max_nu_s3, 1000000 * VLAD_MAX_NU);
    BAD(period_ns, 0);
    BAD(period_ns, VLAD_MAX_PERIOD_NS + 1);
    GOOD(period_ns, 1);
    GOOD(period_ns, VLAD_MAX_PERIOD_NS);
    BAD(clamp_permille, -1);
    BAD(clamp_permille, 1001);
    GOOD(clamp_permille, 0);
    GOOD(clamp_permille, 1000);
    BAD(max_observation_age_ns, -1);
    BAD(max_cold_age_ns, -1);
    BAD(max_frame_age_ns, -1);
    BAD(max_reuse_age_ns, -1);
    BAD(max_jump_nu, -1);
    BAD(blend_ns, -1);
    GOOD(max_observation_age_ns, 0);
    GOOD(max_cold_age_ns, 0);
    GOOD(max_frame_age_ns, 0);
    GOOD(max_reuse_age_ns, 0);
    GOOD(max_jump_nu, 0);
    GOOD(blend_ns, 0);
}

static void test_names(void)
{
    const char *names[] = {"none",  "shape",     "disengaged", "future",     "late",     "stale",
                           "frame_age", "moved", "not_finite", "position", "step", "jump"};

    CHECK_EQ(sizeof names / sizeof *names, VLAD_N_REASONS);
    for (int r = 0; r < VLAD_N_REASONS; r++)
        CHECK(strcmp(vlad_reason_name((enum vlad_reason)r), names[r]) == 0);
    CHECK(vlad_reason_name(VLAD_N_REASONS) == NULL);
    CHECK(strcmp(vlad_verdict_name(VLAD_ACCEPTED), "accepted") == 0);
    CHECK(strcmp(vlad_verdict_name(VLAD_CLAMPED), "clamped") == 0);
    CHECK(strcmp(vlad_verdict_name(VLAD_REJECTED), "rejected") == 0);
    CHECK(vlad_verdict_name((enum vlad_verdict)3) == NULL);
}

int main(void)
{
    test_shape_epoch_future();
    test_deadline_and_ages();
    test_cold();
    test_not_finite();
    test_position();
    test_position_property();
    test_step();
    test_merged_steps();
    test_step_size();
    test_ratio();
    test_config();
    test_names();
    CHECK_DONE();
}
