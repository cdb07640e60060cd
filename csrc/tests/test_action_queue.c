/* The timeline: what is dropped, merged, kept, blended and rejected; and that a consumer never sees
 * it half done. */
#include <errno.h>   /* EINVAL */
#include <math.h>    /* fabs, lround */
#include <pthread.h> /* a producer and a consumer */
#include <sched.h>   /* sched_yield: two cores at most, and ThreadSanitizer */
#include <string.h>  /* memcpy */

#include "action_queue.h"
#include "check.h"
#include "random.h"

#define MS VLAD_NS_PER_MS
#define UNIT VLAD_NU_PER_UNIT
#define MILLI (UNIT / 1000)
#define PERIOD (50 * MS)
#define LOOKAHEAD (100 * MS)

/* Two joints: +-2 units with steps of 0.15, 0..1 with steps of 0.075; blends over 4 periods. */
static struct vlad_gate_config config(void)
{
    return (struct vlad_gate_config){
        .limits = {.n_joints = 2,
                   .joint = {{-2 * UNIT, 2 * UNIT, 3 * UNIT, 30 * UNIT, 600 * UNIT},
                             {0, UNIT, 3 * UNIT / 2, 15 * UNIT, 300 * UNIT}}},
        .period_ns = PERIOD,
        .clamp_permille = 20,
        .max_observation_age_ns = 2500 * MS,
        .max_cold_age_ns = 10000 * MS,
        .max_frame_age_ns = 66 * MS,
        .max_reuse_age_ns = 2500 * MS,
        .max_jump_nu = UNIT / 2,
        .blend_ns = 200 * MS,
    };
}

static struct vlad_queue queue;
static struct vlad_gate_report report;
static struct vlad_command command;
static double actions[VLAD_MAX_ACTIONS][2];
static uint64_t seq;

static void start_with(const struct vlad_gate_config *gate, enum vlad_aggregate aggregate,
                       int64_t lookahead_ns)
{
    CHECK_EQ(vlad_queue_init(&queue, gate, aggregate, lookahead_ns), 0);
    command = (struct vlad_command){.epoch = 1, .at_rest = true, .goal_nu = {0, UNIT / 2}};
}

static void start(enum vlad_aggregate aggregate)
{
    struct vlad_gate_config gate = config();

    start_with(&gate, aggregate, LOOKAHEAD);
}

static bool push_chunk(int n, int64_t t_obs_ns, int64_t now_ns, bool cold)
{
    struct vlad_chunk chunk = {.seq = ++seq,
                               .epoch = command.epoch,
                               .t_obs_ns = t_obs_ns,
                               .cold = cold,
                               .n_actions = n,
                               .n_joints = 2,
                               .actions = actions[0]};

    vlad_queue_push(&queue, &chunk, &command, now_ns, &report);
    return report.verdict != VLAD_REJECTED;
}

/* actions[i] = {from + i * by, 0.5} */
static void ramp(double from, double by)
{
    for (int i = 0; i < VLAD_MAX_ACTIONS; i++) {
        actions[i][0] = from + i * by;
        actions[i][1] = 0.5;
    }
}

static const struct vlad_timeline *newest(void)
{
    return vlad_queue_newest(&queue);
}

/* Joint 0 of action i, in thousandths, rounded. */
static long milli(int i)
{
    return lround((double)newest()->action_nu[i][0] / (double)MILLI);
}

static void check_rejected(enum vlad_reason reason, int joint, int action, double value,
                           double bound)
{
    CHECK_EQ(report.verdict, VLAD_REJECTED);
    CHECK_EQ(report.reason, reason);
    CHECK_EQ(report.joint, joint);
    CHECK_EQ(report.action, action);
    CHECK(fabs(report.value - value) < 1e-8);
    CHECK(fabs(report.bound - bound) < 1e-8);
}

static void test_init(void)
{
    struct vlad_gate_config gate = config();

    CHECK_EQ(vlad_queue_init(&queue, &gate, VLAD_N_AGGREGATES, 0), -EINVAL);
    CHECK_EQ(vlad_queue_init(&queue, &gate, (enum vlad_aggregate)-1, 0), -EINVAL);
    CHECK_EQ(vlad_queue_init(&queue, &gate, VLAD_AVERAGE, -1), -EINVAL);
    CHECK_EQ(vlad_queue_init(&queue, &gate, VLAD_AVERAGE, 256 * PERIOD + 1), -EINVAL);
    CHECK_EQ(vlad_queue_init(&queue, &gate, VLAD_AVERAGE, 256 * PERIOD), 0);
    gate.period_ns = 0;
    CHECK_EQ(vlad_queue_init(&queue, &gate, VLAD_AVERAGE, 0), -EINVAL);

    start(VLAD_AVERAGE);
    CHECK_EQ(newest()->n, 0);
    CHECK_EQ(vlad_queue_last_due_ns(&queue, 0), INT64_MIN);
    CHECK_EQ(vlad_queue_depth(&queue, 0, 0), 0);
    CHECK_EQ(vlad_timeline_last_due_ns(newest()), INT64_MIN);
}

static void test_cold_is_anchored_at_arrival(void)
{
    start(VLAD_WEIGHTED_AVERAGE);
    ramp(0, 0.01);
    CHECK(push_chunk(10, 0, 1001 * MS, true));
    CHECK_EQ(report.verdict, VLAD_ACCEPTED);
    CHECK_EQ(report.n_elapsed, 0);
    CHECK_EQ(report.n_blended, 0);
    CHECK_EQ(newest()->t0_ns, 1050 * MS);
    CHECK_EQ(report.t0_ns, 1050 * MS);
    CHECK_EQ(newest()->n, 10);
    CHECK_EQ(newest()->seq, seq);
    CHECK_EQ(newest()->epoch, 1);
    CHECK_EQ(newest()->period_ns, PERIOD);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(milli(i), 10 * i);
        CHECK_EQ(newest()->t_obs_ns[i], 0);
    }
    CHECK_EQ(vlad_queue_last_due_ns(&queue, 1), 1500 * MS);
    CHECK_EQ(vlad_queue_last_due_ns(&queue, 2), INT64_MIN);
    CHECK_EQ(vlad_queue_depth(&queue, 2, 0), 0);
    CHECK_EQ(vlad_queue_depth(&queue, 1, 0), 10);
    CHECK_EQ(vlad_queue_depth(&queue, 1, 1050 * MS), 10);
    CHECK_EQ(vlad_queue_depth(&queue, 1, 1050 * MS + 1), 9);
    CHECK_EQ(vlad_queue_depth(&queue, 1, 1500 * MS), 1);
    CHECK_EQ(vlad_queue_depth(&queue, 1, 1500 * MS + 1), 0);
    CHECK_EQ(vlad_queue_depth(&queue, 1, 9500 * MS), 0);

    /* On the grid it is due at once; and it replaces what was there. */
    CHECK(push_chunk(4, 0, 1100 * MS, true));
    CHECK_EQ(newest()->t0_ns, 1100 * MS);
    CHECK_EQ(newest()->n, 4);
    /* t_obs of a cold chunk is taken as it is: at rest since 17 ms is not since 0. */
    command.rest_since_ns = 17 * MS;
    CHECK(push_chunk(4, 17 * MS, 1100 * MS, true));
    CHECK(!push_chunk(4, 17 * MS - 1, 1100 * MS, true));
    CHECK_EQ(report.reason, VLAD_R_MOVED);
}

static void test_elapsed_are_dropped(void)
{
    start(VLAD_LATEST_ONLY);
    ramp(0, 0.01);
    CHECK(push_chunk(20, 0, 1000 * MS, true));
    /* The same opinion 4.2 periods later; t_obs off the grid is rounded down to it. */
    CHECK(push_chunk(20, 1017 * MS, 1210 * MS, false));
    CHECK_EQ(report.n_elapsed, 5);
    CHECK_EQ(report.n_tail_dropped, 0);
    CHECK_EQ(newest()->t0_ns, 1250 * MS);
    CHECK_EQ(report.t0_ns, 1000 * MS); /* of its action 0, which is elapsed */
    CHECK_EQ(newest()->n, 15);
    CHECK_EQ(milli(0), 50);
    CHECK_EQ(newest()->t_obs_ns[0], 1000 * MS);
    /* Due exactly now is not elapsed. */
    CHECK(push_chunk(20, 1000 * MS, 1300 * MS, false));
    CHECK_EQ(report.n_elapsed, 6);
    CHECK_EQ(newest()->t0_ns, 1300 * MS);
    /* Only the last one is left; the tail is of the same opinion and stays. */
    CHECK(push_chunk(8, 1000 * MS, 1350 * MS, false));
    CHECK_EQ(report.n_elapsed, 7);
    CHECK_EQ(newest()->n, 13);
    CHECK_EQ(newest()->t0_ns, 1350 * MS);
    CHECK_EQ(milli(12), 190);
    CHECK(!push_chunk(8, 1000 * MS, 1350 * MS + 1, false));
    check_rejected(VLAD_R_LATE, -1, -1, 0.350000001, 0.35);
    CHECK_EQ(newest()->t0_ns, 1350 * MS);
    /* Late against the queue: its last action was due at 1950. */
    CHECK(push_chunk(20, 1050 * MS, 1950 * MS, false));
    CHECK_EQ(newest()->n, 2);
    CHECK(!push_chunk(20, 1800 * MS, 2000 * MS + 1, false));
    check_rejected(VLAD_R_LATE, -1, -1, 2.000000001, 2.0);
}

static void test_aggregates(void)
{
    static const struct {
        enum vlad_aggregate aggregate;
        int64_t expected; /* of old -0.1 and new 0.000000003 */
    } rows[] = {{VLAD_WEIGHTED_AVERAGE, -29999998},
                {VLAD_LATEST_ONLY, 3},
                {VLAD_AVERAGE, -49999998}, /* -49999998.5, halves upwards */
                {VLAD_CONSERVATIVE, -69999999}};

    CHECK_EQ(sizeof rows / sizeof *rows, VLAD_RTC); /* which has tests of its own */
    for (int r = 0; r < VLAD_RTC; r++) {
        start(rows[r].aggregate);
        ramp(-0.1, 0);
        CHECK(push_chunk(10, 0, 1000 * MS, true));
        ramp(0.000000003, 0);
        CHECK(push_chunk(14, 1100 * MS, 1150 * MS, false));
        CHECK_EQ(newest()->n, 13);
        CHECK_EQ(report.n_blended, 0);
        CHECK_EQ(report.n_tail_dropped, 0);
        for (int i = 0; i < 13; i++) {
            CHECK_EQ(newest()->action_nu[i][0], i < 7 ? rows[r].expected : 3);
            CHECK_EQ(newest()->action_nu[i][1], UNIT / 2);
            CHECK_EQ(newest()->t_obs_ns[i], 1100 * MS);
        }
    }
}

/* Old 0 from 1000 ms on, `n_old` of them; new `value` observed at 1000 and pushed at 1025 ms: the
 * timeline starts at 1050, the trajectory reads at 1125, between actions 1 and 2. */
static bool push_rtc(int64_t blend_ns, int n_old, double value, int n)
{
    struct vlad_gate_config gate = config();

    gate.blend_ns = blend_ns;
    start_with(&gate, VLAD_RTC, LOOKAHEAD);
    ramp(0, 0);
    CHECK(push_chunk(n_old, 990 * MS, 1000 * MS, true));
    ramp(value, 0);
    return push_chunk(n, 1000 * MS, 1025 * MS, false);
}

static void test_rtc_goes_on_from_what_was_read(void)
{
    static const long blended[] = {0, 0, 0, 100, 200, 300, 400, 400};

    CHECK(push_rtc(200 * MS, 20, 0.15, 20));
    CHECK_EQ(report.n_blended, 0);
    CHECK_EQ(newest()->n, 19);
    for (int i = 0; i < 19; i++) {
        CHECK_EQ(milli(i), i < 3 ? 0 : 150);
        CHECK_EQ(newest()->t_obs_ns[i], (i < 3 ? 990 : 1000) * MS);
    }
    /* The seam is blended where it is more than a step, or the chunk is rejected as a jump. */
    CHECK(push_rtc(200 * MS, 20, 0.4, 20));
    CHECK_EQ(report.n_blended, 3);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(milli(i), blended[i]);
    CHECK(!push_rtc(200 * MS, 20, 0.61, 20));
    check_rejected(VLAD_R_JUMP, 0, 4, 0.1525, 0.15);
    CHECK_EQ(milli(19), 0);
    CHECK(!push_rtc(99 * MS, 20, 0.2, 20));
    check_rejected(VLAD_R_JUMP, 0, 4, 0.2, 0.15);

    CHECK(push_rtc(200 * MS, 20, 0.4, 3)); /* the whole chunk has been read: the old one goes on */
    CHECK_EQ(newest()->n, 19);
    CHECK_EQ(report.n_tail_dropped, 0);
    CHECK(push_rtc(200 * MS, 2, 0.1, 20)); /* one old action is left, and not yet all of it read */
    CHECK_EQ(milli(0), 0);
    CHECK_EQ(milli(1), 100);
    CHECK(push_rtc(200 * MS, 2, 0.4, 20));
    CHECK_EQ(report.n_blended, 3);

    /* The same opinion leaves no seam, whatever is read. */
    start(VLAD_RTC);
    ramp(0, 0.05);
    CHECK(push_chunk(15, 1000 * MS, 1000 * MS, true));
    ramp(0.15, 0.05);
    CHECK(push_chunk(15, 1150 * MS, 1234 * MS, false));
    CHECK_EQ(report.n_blended, 0);
    for (int i = 0; i < 13; i++)
        CHECK_EQ(milli(i), 250 + 50 * i);
}

static void start_ensemble(int64_t coefficient)
{
    start(VLAD_TEMPORAL_ENSEMBLE);
    CHECK_EQ(vlad_queue_set_aggregate(&queue, VLAD_TEMPORAL_ENSEMBLE, coefficient), 0);
    CHECK_EQ(queue.ensemble, coefficient);
}

static void test_set_aggregate(void)
{
    start(VLAD_AVERAGE);
    CHECK_EQ(queue.ensemble, 0);
    CHECK_EQ(vlad_queue_set_aggregate(&queue, VLAD_AVERAGE, 1), -EINVAL);
    CHECK_EQ(vlad_queue_set_aggregate(&queue, VLAD_N_AGGREGATES, 0), -EINVAL);
    CHECK_EQ(vlad_queue_set_aggregate(&queue, (enum vlad_aggregate)-1, 0), -EINVAL);
    CHECK_EQ(vlad_queue_set_aggregate(&queue, VLAD_TEMPORAL_ENSEMBLE, VLAD_MAX_ENSEMBLE + 1),
             -EINVAL);
    CHECK_EQ(vlad_queue_set_aggregate(&queue, VLAD_TEMPORAL_ENSEMBLE, -VLAD_MAX_ENSEMBLE - 1),
             -EINVAL);
    CHECK_EQ(queue.aggregate, VLAD_AVERAGE);
    CHECK_EQ(queue.ensemble, 0);

    /* All alike: halves, thirds, quarters. The weights of 1 and exp(-0.01), exp(-0.02). */
    start_ensemble(0);
    CHECK_EQ(queue.gain[1], 500000000);
    CHECK_EQ(queue.gain[2], 333333333);
    CHECK_EQ(queue.gain[3], 250000000);
    CHECK_EQ(queue.gain[VLAD_MAX_ACTIONS - 1], 3906250);
    start_ensemble(10000);
    CHECK_EQ(queue.gain[1], 497500021);
    CHECK_EQ(queue.gain[2], 330005611);
    start_ensemble(VLAD_MAX_ENSEMBLE); /* the first says all, however many come */
    CHECK_EQ(queue.gain[1], 45398);
    CHECK_EQ(queue.gain[VLAD_MAX_ACTIONS - 1], 0);
    start_ensemble(-VLAD_MAX_ENSEMBLE); /* the newest does */
    CHECK_EQ(queue.gain[1], 999954602);
    CHECK_EQ(queue.gain[VLAD_MAX_ACTIONS - 1], 999954600);
}

#define ENSEMBLED 24
#define OFTEN 60

/* Every action against the mean of what was said of its time, taken all at once. */
static void check_ensemble(double coefficient)
{
    static double said[OFTEN][ENSEMBLED];
    const struct vlad_timeline *line;

    start_ensemble((int64_t)(coefficient * VLAD_ENSEMBLE_UNIT));
    for (int c = 0; c < OFTEN; c++) {
        int64_t t = 1000 * MS + c * PERIOD;

        ramp(0, 0);
        for (int i = 0; i < ENSEMBLED; i++)
            said[c][i] = actions[i][0] = 1e-3 * (double)random_in(-30, 30);
        CHECK(push_chunk(ENSEMBLED, t, t, c == 0));
        CHECK_EQ(report.n_blended, 0);
        line = newest();
        CHECK_EQ(line->n, ENSEMBLED);
        for (int i = 0; i < ENSEMBLED; i++) {
            double sum = 0, weights = 0;
            int heard = 0;

            for (int old = 0; old <= c; old++)
                if (c - old + i < ENSEMBLED) {
                    double weight = exp(-coefficient * heard++);

                    sum += weight * said[old][c - old + i];
                    weights += weight;
                }
            CHECK_EQ(line->opinions[i], heard);
            CHECK(fabs((double)line->action_nu[i][0] - sum / weights * UNIT) <= ENSEMBLED);
            CHECK_EQ(line->action_nu[i][1], UNIT / 2);
            CHECK_EQ(line->t_obs_ns[i], t);
        }
    }
}

static void test_temporal_ensemble(void)
{
    static const long expected[] = {50, 50, 50, 0, 0, 0};
    static const long blended[] = {0, 40, 80, 120, 160, 200, 330, 460, 590, 720, 800, 880};

    check_ensemble(0.01);
    check_ensemble(0);
    check_ensemble(-0.3);
    check_ensemble(2);

    /* A shorter chunk: what lies behind it has been said once, and twice is the next mean of three. */
    start_ensemble(0);
    ramp(0, 0);
    CHECK(push_chunk(6, 1000 * MS, 1000 * MS, true));
    ramp(0.1, 0);
    CHECK(push_chunk(3, 1000 * MS, 1000 * MS, false));
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(milli(i), expected[i]);
        CHECK_EQ(newest()->opinions[i], i < 3 ? 2 : 1);
    }
    ramp(0.02, 0);
    CHECK(push_chunk(8, 950 * MS, 1000 * MS, false)); /* an older observation: from its action 1 on */
    for (int i = 0; i < 7; i++) {
        CHECK_EQ(milli(i), i < 3 ? 40 : i < 6 ? 10 : 20);
        CHECK_EQ(newest()->opinions[i], i < 3 ? 3 : i < 6 ? 2 : 1);
        CHECK_EQ(newest()->t_obs_ns[i], (i < 6 ? 1000 : 950) * MS);
    }

    /* A new engagement starts to count anew, and so does a chunk behind a clock that went back. */
    CHECK(push_chunk(8, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(newest()->opinions[0], 1);
    CHECK(push_chunk(4, 500 * MS, 500 * MS, false));
    CHECK_EQ(newest()->opinions[3], 1);
    CHECK_EQ(report.n_tail_dropped, 8);

    /* Where nothing was said before, the chunk's own words follow: from 0.2 to 0.48 is more than a step. */
    start_ensemble(0);
    ramp(0, 0);
    CHECK(push_chunk(6, 1000 * MS, 1000 * MS, true));
    ramp(0, 0.08);
    CHECK(push_chunk(12, 1000 * MS, 1000 * MS, false));
    CHECK_EQ(report.n_blended, 3);
    CHECK_EQ(newest()->n, 12);
    for (int i = 0; i < 12; i++) {
        CHECK_EQ(milli(i), blended[i]);
        CHECK_EQ(newest()->opinions[i], i < 6 ? 2 : 1);
    }

    /* More opinions than can be counted, if only for want of time: the last weight stays. */
    start_ensemble(0);
    ramp(0, 0);
    CHECK(push_chunk(4, 1000 * MS, 1000 * MS, true));
    for (int c = 0; c < VLAD_MAX_ACTIONS + 20; c++) {
        CHECK(push_chunk(4, 1000 * MS, 1000 * MS, false));
        CHECK_EQ(newest()->opinions[0], c + 2 < VLAD_MAX_ACTIONS ? c + 2 : VLAD_MAX_ACTIONS - 1);
    }
    ramp(0.256, 0);
    CHECK(push_chunk(4, 1000 * MS, 1000 * MS, false));
    CHECK_EQ(newest()->action_nu[0][0], UNIT / 1000);
}

/* What lies behind the new chunk stays; the age of an action is that of the newest observation. */
static void test_tail_is_kept(void)
{
    start(VLAD_WEIGHTED_AVERAGE);
    ramp(0, 0);
    CHECK(push_chunk(10, 900 * MS, 1000 * MS, true));
    ramp(0.1, 0);
    CHECK(push_chunk(5, 1000 * MS, 1050 * MS, false));
    CHECK_EQ(newest()->n, 9);
    CHECK_EQ(report.n_tail_dropped, 0);
    for (int i = 0; i < 9; i++) {
        CHECK_EQ(milli(i), i < 4 ? 70 : 0);
        CHECK_EQ(newest()->t_obs_ns[i], i < 4 ? 1000 * MS : 900 * MS);
    }
    /* An older observation that arrives later does not make an action younger or older. */
    CHECK(push_chunk(7, 950 * MS, 1050 * MS, false));
    CHECK_EQ(newest()->t_obs_ns[3], 1000 * MS);
    CHECK_EQ(newest()->t_obs_ns[4], 950 * MS);
    CHECK_EQ(newest()->t_obs_ns[5], 900 * MS);
}

static void test_far_tail_is_dropped(void)
{
    start(VLAD_LATEST_ONLY);
    ramp(0, 0);
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    ramp(0, 0.05); /* 0.4 at its end, where the old one has 0 */
    CHECK(push_chunk(9, 1000 * MS, 1000 * MS, false));
    CHECK_EQ(report.n_tail_dropped, 11);
    CHECK_EQ(newest()->n, 9);
    CHECK_EQ(milli(8), 400);

    /* Exactly one step away it stays, in both joints. */
    for (int over = 0; over < 2; over++) {
        start(VLAD_LATEST_ONLY);
        ramp(0, 0);
        CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
        for (int i = 0; i < 5; i++)
            actions[i][1] = 0.5 + 0.015 * (i + 1) + over * 1e-9;
        CHECK(push_chunk(5, 1000 * MS, 1000 * MS, false));
        CHECK_EQ(report.n_tail_dropped, over ? 15 : 0);
        CHECK_EQ(newest()->n, over ? 5 : 20);
    }
}

static void check_milli(const long *expected, int n)
{
    for (int i = 0; i < n; i++)
        CHECK_EQ(milli(i), expected[i]);
}

/* Old 0 from 1000 ms on; new `value` observed at 1000 and pushed at 1025 ms. So the merged timeline
 * starts at 1050, the trajectory reads at 1125: 1.5 periods in. */
static bool push_jump(const struct vlad_gate_config *gate, double value, int n)
{
    start_with(gate, VLAD_LATEST_ONLY, LOOKAHEAD);
    ramp(0, 0);
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    ramp(value, 0);
    return push_chunk(n, 1000 * MS, 1025 * MS, false);
}

static void test_jump_is_blended(void)
{
    static const long blended[] = {0, 0, 0, 133, 267, 400, 400};
    struct vlad_gate_config gate = config();
    struct vlad_timeline before;

    CHECK(push_jump(&gate, 0.15, 20)); /* one step: the trajectory takes it as it is */
    CHECK_EQ(report.n_blended, 0);
    CHECK_EQ(milli(0), 150);

    CHECK(push_jump(&gate, 0.4, 20));
    CHECK_EQ(report.verdict, VLAD_ACCEPTED);
    CHECK_EQ(report.n_blended, 3);
    check_milli(blended, 7);
    CHECK(push_jump(&gate, 0.4, 7)); /* 6 left: the blend just ends inside */
    CHECK_EQ(report.n_tail_dropped, 13);
    check_milli(blended, 6);

    /* Nothing is left of a rejected chunk. */
    start_with(&gate, VLAD_LATEST_ONLY, LOOKAHEAD);
    ramp(0, 0);
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    before = *newest();
    ramp(0.46, 0); /* steps of 0.46 / 3 */
    CHECK(!push_chunk(20, 1000 * MS, 1025 * MS, false));
    check_rejected(VLAD_R_JUMP, 0, 4, 0.46 / 3, 0.15);
    CHECK_EQ(report.n_blended, 0);
    CHECK_EQ(newest()->n, before.n);
    CHECK_EQ(newest()->t0_ns, before.t0_ns);
    CHECK_EQ(newest()->seq, before.seq);
    CHECK(memcmp(newest()->action_nu, before.action_nu, sizeof before.action_nu) == 0);
    CHECK_EQ(vlad_queue_depth(&queue, 1, 1025 * MS), 19);

    CHECK(!push_jump(&gate, 0.2, 4)); /* 3 left: no room at all */
    check_rejected(VLAD_R_JUMP, 0, 0, 0.2, 0.15);
    CHECK(!push_jump(&gate, 0.2, 5)); /* 4 left: all of it in one step */
    check_rejected(VLAD_R_JUMP, 0, 4, 0.2, 0.15);
    CHECK(push_jump(&gate, 0.2, 6));
    CHECK_EQ(report.n_blended, 2);
    CHECK_EQ(milli(3), 100);
    CHECK_EQ(milli(4), 200);
    gate.blend_ns = 74 * MS; /* 2 actions after the read point begin at 1150: 25 ms; 75 ms */
    CHECK(!push_jump(&gate, 0.2, 20));
    check_rejected(VLAD_R_JUMP, 0, 0, 0.2, 0.15);
    gate.blend_ns = 75 * MS;
    CHECK(!push_jump(&gate, 0.2, 20)); /* in one action: still a step of 0.2 */
    check_rejected(VLAD_R_JUMP, 0, 4, 0.2, 0.15);
}

/* The joint that is named is one that jumps, also when it is not the first one. */
static void test_jump_names_joint(void)
{
    struct vlad_gate_config gate = config();

    gate.blend_ns = 0;
    start_with(&gate, VLAD_LATEST_ONLY, LOOKAHEAD);
    command.goal_nu[0] = UNIT;
    ramp(1, 0);
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    for (int i = 0; i < 20; i++)
        actions[i][1] = 0.4;
    CHECK(!push_chunk(20, 1000 * MS, 1000 * MS, false));
    check_rejected(VLAD_R_JUMP, 1, 0, 0.1, 0.075);
}

/* A blend that would lead out of the limits stays at them, on both sides. */
static void test_blend_stays_inside(void)
{
    for (int sign = -1; sign <= 1; sign += 2) {
        start(VLAD_LATEST_ONLY);
        command.goal_nu[0] = sign * 2 * UNIT;
        ramp(sign * 2.0, 0);
        CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
        ramp(sign * 1.68, sign * 0.08); /* approaches faster than 0.16 fades in 4 */
        for (int i = 4; i < 20; i++)
            actions[i][0] = sign * 2.0;
        CHECK(push_chunk(20, 1000 * MS, 1000 * MS, false));
        CHECK_EQ(report.n_blended, 4);
        CHECK_EQ(milli(0), sign * 1840);
        CHECK_EQ(milli(1), sign * 1920);
        for (int i = 2; i < 20; i++)
            CHECK_EQ(newest()->action_nu[i][0], sign * 2 * UNIT);
    }
}

/* Old 0 to the end of the overlap, where 0.7 * 0.6 meets 0.65: that takes 0.23. */
static bool push_seam(const struct vlad_gate_config *gate, int n)
{
    start_with(gate, VLAD_WEIGHTED_AVERAGE, LOOKAHEAD);
    ramp(0, 0);
    CHECK(push_chunk(13, 1000 * MS, 1000 * MS, true));
    ramp(0, 0.05);
    return push_chunk(n, 1000 * MS, 1000 * MS, false);
}

static void test_overlap_end_is_blended(void)
{
    static const long expected[] = {385, 420, 515, 610, 705, 800, 850};
    struct vlad_gate_config gate = config();

    CHECK(push_seam(&gate, 20));
    CHECK_EQ(report.n_blended, 3);
    CHECK_EQ(newest()->n, 20);
    for (int i = 0; i < 7; i++)
        CHECK_EQ(milli(11 + i), expected[i]);
    CHECK(push_seam(&gate, 15)); /* two actions behind the overlap: 0.42, 0.56, 0.70 */
    CHECK_EQ(milli(13), 560);
    CHECK_EQ(milli(14), 700);
    CHECK_EQ(report.n_blended, 1);
    CHECK(!push_seam(&gate, 14)); /* one */
    check_rejected(VLAD_R_JUMP, 0, 13, 0.23, 0.15);
    CHECK(push_seam(&gate, 13)); /* none */
    CHECK_EQ(report.n_blended, 0);
    gate.blend_ns = 0;
    CHECK(!push_seam(&gate, 20));
    check_rejected(VLAD_R_JUMP, 0, 13, 0.23, 0.15);
}

static void test_cold_blend(void)
{
    /* 0.4 at half of 0.15 per action: 6 actions from the first one that is read. */
    static const long expected[] = {-400, -400, -400, -333, -267, -200, -133, -67, 0, 0};

    start(VLAD_WEIGHTED_AVERAGE);
    ramp(0, 0);
    command.goal_nu[0] = -400 * MILLI;
    CHECK(push_chunk(10, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(report.n_blended, 6);
    check_milli(expected, 10);
    CHECK(push_chunk(9, 1000 * MS, 1000 * MS, true));
    check_milli(expected, 9);
    CHECK(!push_chunk(8, 1000 * MS, 1000 * MS, true));
    check_rejected(VLAD_R_JUMP, 0, 0, 0.4, 0.375);
    CHECK(!push_chunk(2, 1000 * MS, 1000 * MS, true)); /* shorter than the lookahead */
    check_rejected(VLAD_R_JUMP, 0, 0, 0.4, 0);
    command.goal_nu[0] = 150 * MILLI; /* one step is no jump */
    CHECK(push_chunk(2, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(report.n_blended, 0);

    command.goal_nu[0] = UNIT / 2;
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(report.n_blended, 7);
    command.goal_nu[0]++;
    CHECK(!push_chunk(20, 1000 * MS, 1000 * MS, true));
    check_rejected(VLAD_R_JUMP, 0, 0, 0.500000001, 0.5);
    CHECK_EQ(newest()->n, 20);

    /* The joint that takes longest decides: 0.3 at 0.0375. */
    command.goal_nu[0] = 400 * MILLI;
    command.goal_nu[1] = 200 * MILLI;
    CHECK(push_chunk(11, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(report.n_blended, 8);
    CHECK(!push_chunk(10, 1000 * MS, 1000 * MS, true));
    check_rejected(VLAD_R_JUMP, 1, 0, 0.3, 7 * 0.0375);
}

/* A chunk that itself moves at 0.12 a step takes 0.4 over 24 actions, not over 6 or 12. */
static void test_cold_blend_of_a_fast_chunk(void)
{
    start(VLAD_WEIGHTED_AVERAGE);
    ramp(-1.5, 0.12);
    actions[26][0] += 0.01;
    command.goal_nu[0] = -1660 * MILLI;
    CHECK(push_chunk(27, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(report.verdict, VLAD_ACCEPTED);
    CHECK_EQ(report.reason, VLAD_R_NONE);
    CHECK_EQ(report.joint, -1);
    CHECK_EQ(report.n_blended, 24);
    CHECK_EQ(milli(2), -1660);
    CHECK_EQ(milli(26), 1630);
    CHECK(!push_chunk(26, 1000 * MS, 1000 * MS, true));
    check_rejected(VLAD_R_JUMP, 0, 3, 0.12 + 0.4 / 12, 0.15);
    /* What the gate clamped stays counted through all attempts. */
    actions[0][1] = -0.01;
    actions[1][1] = 0.05;
    for (int i = 2; i < 27; i++)
        actions[i][1] = 0.1;
    command.goal_nu[1] = 100 * MILLI;
    CHECK(push_chunk(27, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(report.verdict, VLAD_CLAMPED);
    CHECK_EQ(report.n_clamped, 1);
    CHECK_EQ(report.joint, 1);
    CHECK_EQ(report.action, 0);
    CHECK_EQ(report.n_blended, 24);
}

static void test_gate_is_in_the_way(void)
{
    start(VLAD_WEIGHTED_AVERAGE);
    ramp(0, 0);
    CHECK(!push_chunk(5, 1000 * MS, 1000 * MS, false)); /* not cold, and nothing to follow */
    CHECK_EQ(report.reason, VLAD_R_LATE);
    actions[3][1] = (double)NAN;
    CHECK(!push_chunk(5, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(report.reason, VLAD_R_NOT_FINITE);
    actions[3][1] = 0.5;
    CHECK(!push_chunk(0, 1000 * MS, 1000 * MS, true));
    CHECK_EQ(report.reason, VLAD_R_SHAPE);
    CHECK(!push_chunk(5, -1, 1000 * MS, false));
    CHECK_EQ(report.reason, VLAD_R_SHAPE);
    CHECK_EQ(newest()->n, 0);
    CHECK_EQ(newest()->seq, 0);
    /* With something to follow, the same. */
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    actions[3][1] = 1.5;
    CHECK(!push_chunk(20, 1000 * MS, 1000 * MS, false));
    check_rejected(VLAD_R_POSITION, 1, 3, 1.5, 1.02);
    CHECK(!push_chunk(20, 1000 * MS, 1000 * MS, true));
    check_rejected(VLAD_R_POSITION, 1, 3, 1.5, 1.02);
    actions[3][1] = 0.5;
    CHECK(!push_chunk(20, 1000 * MS, 999 * MS, false));
    CHECK_EQ(report.reason, VLAD_R_FUTURE);
    CHECK_EQ(newest()->seq, seq - 3);
}

static void test_epochs(void)
{
    start(VLAD_WEIGHTED_AVERAGE);
    ramp(0, 0);
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    command.epoch = 2; /* engaged again: what was queued no longer counts */
    CHECK_EQ(vlad_queue_last_due_ns(&queue, 2), INT64_MIN);
    CHECK_EQ(vlad_queue_depth(&queue, 2, 1000 * MS), 0);
    CHECK(!push_chunk(20, 1000 * MS, 1050 * MS, false));
    CHECK_EQ(report.reason, VLAD_R_LATE);
    ramp(0.1, 0);
    CHECK(push_chunk(20, 1000 * MS, 1050 * MS, true));
    CHECK_EQ(newest()->epoch, 2);
    CHECK_EQ(milli(0), 100);
    vlad_queue_clear(&queue);
    CHECK_EQ(newest()->n, 0);
    CHECK_EQ(newest()->epoch, 0);
    CHECK_EQ(vlad_queue_last_due_ns(&queue, 2), INT64_MIN);
    CHECK_EQ(vlad_queue_last_due_ns(&queue, 0), INT64_MIN);
    CHECK_EQ(vlad_queue_depth(&queue, 0, 1050 * MS), 0);
}

/* Another policy, another rate: the caller empties the queue, and the grid is the new one. */
static void test_period_changes(void)
{
    start(VLAD_WEIGHTED_AVERAGE);
    ramp(0, 0);
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    queue.gate.period_ns = 20 * MS;
    vlad_queue_clear(&queue);
    CHECK(push_chunk(20, 1000 * MS, 1001 * MS, true));
    CHECK_EQ(newest()->period_ns, 20 * MS);
    CHECK_EQ(newest()->t0_ns, 1020 * MS);
    CHECK_EQ(vlad_queue_last_due_ns(&queue, 1), 1400 * MS);
    CHECK(push_chunk(20, 1020 * MS, 1060 * MS, false));
    CHECK_EQ(newest()->n, 18);
}

static void test_timeline_at(void)
{
    struct vlad_timeline line = {.t0_ns = 1000, .period_ns = 300, .n = 0};
    int64_t out[3] = {11, 22, 33};

    CHECK(!vlad_timeline_at(&line, 2, 1000, out));
    CHECK_EQ(out[0], 11);
    line.n = 3;
    line.action_nu[0][0] = -5;
    line.action_nu[1][0] = 295;
    line.action_nu[2][0] = -5;
    line.action_nu[3][0] = line.action_nu[4][0] = 1000000; /* behind the end: never read */
    line.action_nu[1][1] = 2 * VLAD_MAX_NU;
    CHECK(vlad_timeline_at(&line, 2, 0, out));
    CHECK_EQ(out[0], -5);
    CHECK(vlad_timeline_at(&line, 2, 1000, out));
    CHECK_EQ(out[0], -5);
    for (int64_t at = 0; at <= 300; at++) {
        CHECK(vlad_timeline_at(&line, 2, 1000 + at, out));
        CHECK_EQ(out[0], -5 + at);
        CHECK(vlad_timeline_at(&line, 2, 1300 + at, out));
        CHECK_EQ(out[0], 295 - at);
        CHECK(vlad_timeline_at(&line, 2, 1600 + at, out));
        CHECK_EQ(out[0], -5);
    }
    CHECK(vlad_timeline_at(&line, 2, 1001, out));
    CHECK_EQ(out[1], 2 * VLAD_MAX_NU / 300);
    CHECK(vlad_timeline_at(&line, 2, 5000, out));
    CHECK_EQ(out[0], -5);
    CHECK_EQ(out[2], 33); /* as many joints as asked for */
    CHECK_EQ(vlad_timeline_last_due_ns(&line), 1600);
    CHECK_EQ(vlad_timeline_depth(&line, 0), 3);
    CHECK_EQ(vlad_timeline_depth(&line, 1300), 2);
    CHECK_EQ(vlad_timeline_depth(&line, 1301), 1);
    CHECK_EQ(vlad_timeline_depth(&line, 1601), 0);
}

/* A caller whose clock goes back cannot make the timeline overflow or reach behind a gap. */
static void test_clock_that_goes_back(void)
{
    int64_t t = 100000 * MS;

    start(VLAD_LATEST_ONLY);
    ramp(0, 0);
    CHECK(push_chunk(256, t, t, true));
    t -= 20 * PERIOD;
    CHECK(push_chunk(256, t, t, false));
    CHECK_EQ(newest()->n, 276);
    t -= 256 * PERIOD;
    CHECK(push_chunk(256, t, t, false));
    CHECK_EQ(newest()->n, VLAD_MAX_TIMELINE);
    CHECK_EQ(report.n_tail_dropped, 276 + 256 - VLAD_MAX_TIMELINE);
    t -= 6 * PERIOD;
    CHECK(push_chunk(5, t, t, false));
    CHECK_EQ(newest()->n, 5);
    CHECK_EQ(report.n_tail_dropped, VLAD_MAX_TIMELINE);
}

/* Whatever is pushed: on the grid, inside the limits, no step above the limit, at most a step from
 * what the trajectory was about to read; and rejection changes nothing. */
static void test_invariants(void)
{
    struct vlad_gate_config gate = config();
    int accepted = 0, blended = 0, rejected[VLAD_N_REASONS] = {0};
    int64_t now = 1000 * MS;
    static struct vlad_timeline before;

    for (int round = 0; round < 6000; round++) {
        bool cold = round % 40 == 0 || random_in(0, 15) == 0;
        int n = (int)random_in(1, 40);
        int64_t t_obs, was[2], is[2];
        int64_t wild = random_in(0, 3) ? 300 : 1500, around[2];
        int64_t fast = random_in(0, 30) ? 140 : 155; /* above the limit: the chunk's own fault */

        if (round % 40 == 0)
            start_with(&gate, (enum vlad_aggregate)random_in(0, VLAD_N_AGGREGATES - 1),
                       random_in(0, 4) * 37 * MS);
        if (queue.aggregate == VLAD_TEMPORAL_ENSEMBLE)
            CHECK_EQ(vlad_queue_set_aggregate(&queue, VLAD_TEMPORAL_ENSEMBLE,
                                              random_in(-20, 20) * 50000), 0);
        t_obs = now - random_in(0, cold ? 1000 : 12 * 50) * MS;
        command.goal_nu[0] = random_in(-300, 300) * MILLI;
        command.goal_nu[1] = random_in(300, 700) * MILLI;
        /* Most policies go on from where they were, some from where the arm is. */
        if (cold || !vlad_timeline_at(newest(), 2, t_obs, around))
            memcpy(around, command.goal_nu, sizeof around);
        actions[0][0] = (double)around[0] * 1e-9 + (double)random_in(-wild, wild) * 1e-3;
        actions[0][1] = (double)around[1] * 1e-9 + (double)random_in(-wild, wild) * 2e-4;
        actions[0][0] = fmin(fmax(actions[0][0], -2), 2);
        actions[0][1] = fmin(fmax(actions[0][1], 0), 1);
        for (int i = 1; i < n; i++) {
            actions[i][0] = actions[i - 1][0] + (double)random_in(-fast, fast) * 1e-3;
            actions[i][1] = actions[i - 1][1] + (double)random_in(-70, 70) * 1e-3;
            actions[i][0] = fmin(fmax(actions[i][0], -2.01), 2.01);
            actions[i][1] = fmin(fmax(actions[i][1], 0), 1);
        }
        before = *newest();
        if (push_chunk(n, t_obs, now, cold)) {
            const struct vlad_timeline *after = newest();

            accepted++;
            blended += report.n_blended > 0;
            CHECK(after->n >= 1 && after->n <= VLAD_MAX_TIMELINE);
            CHECK_EQ(after->t0_ns % PERIOD, 0);
            CHECK(after->t0_ns >= now && after->t0_ns < now + PERIOD);
            CHECK_EQ(after->seq, seq);
            for (int i = 0; i < after->n; i++)
                for (int j = 0; j < 2; j++) {
                    CHECK(after->action_nu[i][j] >= gate.limits.joint[j].min_nu);
                    CHECK(after->action_nu[i][j] <= gate.limits.joint[j].max_nu);
                    CHECK(i == 0 || llabs(after->action_nu[i][j] - after->action_nu[i - 1][j]) <=
                                        vlad_gate_step_nu(&gate, j));
                    CHECK(after->t_obs_ns[i] <= now);
                }
            vlad_timeline_at(after, 2, now + queue.lookahead_ns, is);
            if (cold)
                memcpy(was, command.goal_nu, sizeof was);
            else
                vlad_timeline_at(&before, 2, now + queue.lookahead_ns, was);
            for (int j = 0; j < 2; j++)
                CHECK(llabs(is[j] - was[j]) <= vlad_gate_step_nu(&gate, j));
        } else {
            rejected[report.reason]++;
            CHECK(memcmp(&before, newest(), sizeof before) == 0);
        }
        now += random_in(0, 6) * 23 * MS;
    }
    /* The property is about all of these, so all of them have to occur. */
    CHECK(accepted > 1000 && blended > 200);
    CHECK(rejected[VLAD_R_LATE] > 10 && rejected[VLAD_R_JUMP] > 100);
    CHECK(rejected[VLAD_R_STEP] > 10);
}

/* The consumer's timeline stays as it is until it asks for the next one, however many pass by. */
static void test_consumer_keeps_its_own(void)
{
    const struct vlad_timeline *held;
    static struct vlad_timeline copy;

    start(VLAD_LATEST_ONLY);
    ramp(0, 0);
    CHECK(push_chunk(20, 1000 * MS, 1000 * MS, true));
    held = newest();
    CHECK(held == newest());
    copy = *held;
    for (int i = 1; i <= 7; i++) {
        ramp(0.01 * i, 0);
        CHECK(push_chunk(20, 1000 * MS, 1000 * MS + i * PERIOD / 3, false));
        CHECK(memcmp(held, &copy, sizeof copy) == 0);
        CHECK_EQ(vlad_queue_last_due_ns(&queue, 1), 1950 * MS);
    }
    CHECK_EQ(newest()->seq, seq);
    CHECK_EQ(milli(0), 70);
}

#define PUSHES 4000

static _Atomic bool pushed_all;

/* Every chunk is of one value; LATEST_ONLY and cold chunks keep it so. */
static void *produce(void *n_accepted)
{
    for (int i = 1; i <= PUSHES; i++) {
        double value = (double)(i % 1000) * 1e-4;

        for (int k = 0; k < 40; k++) {
            actions[k][0] = value;
            actions[k][1] = 0.5;
        }
        *(int *)n_accepted += push_chunk(40, 1000 * MS, 1000 * MS, true);
        if (i % 16 == 0)
            sched_yield();
    }
    atomic_store(&pushed_all, true);
    return NULL;
}

static void test_threads(void)
{
    pthread_t producer;
    uint64_t last = 0, seen = 0;
    bool all = false, torn = false;
    int n_accepted = 0;

    start(VLAD_LATEST_ONLY);
    seq = 0;
    CHECK_EQ(pthread_create(&producer, NULL, produce, &n_accepted), 0);
    while (!all) {
        const struct vlad_timeline *line;

        all = atomic_load(&pushed_all);
        line = newest();
        CHECK(line->seq >= last);
        seen += line->seq != last;
        last = line->seq;
        torn = torn || line->n != (last ? 40 : 0);
        for (int i = 0; i < line->n; i++)
            torn = torn || line->action_nu[i][0] != (int64_t)(last % 1000) * (UNIT / 10000);
        CHECK(!torn);
    }
    CHECK_EQ(pthread_join(producer, NULL), 0);
    CHECK_EQ(n_accepted, PUSHES);
    CHECK_EQ(last, PUSHES);
    CHECK(seen > 1);
}

int main(void)
{
    test_init();
    test_cold_is_anchored_at_arrival();
    test_elapsed_are_dropped();
    test_aggregates();
    test_rtc_goes_on_from_what_was_read();
    test_set_aggregate();
    test_temporal_ensemble();
    test_tail_is_kept();
    test_far_tail_is_dropped();
    test_jump_is_blended();
    test_jump_names_joint();
    test_blend_stays_inside();
    test_overlap_end_is_blended();
    test_cold_blend();
    test_cold_blend_of_a_fast_chunk();
    test_gate_is_in_the_way();
    test_epochs();
    test_period_changes();
    test_timeline_at();
    test_clock_that_goes_back();
    test_invariants();
    test_consumer_keeps_its_own();
    test_threads();
    CHECK_DONE();
}
