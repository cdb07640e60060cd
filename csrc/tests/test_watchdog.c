/* Faults become active, latch, clear and react as their row says; heartbeats become faults. */
#include <string.h> /* memset */

#include "check.h"
#include "random.h"
#include "watchdog.h"

#define MS VLAD_NS_PER_MS
#define BIT(fault) (UINT64_C(1) << (fault))
#define ALL (((UINT64_C(1) << VLAD_N_FAULTS) - 1) << 1)

static struct vlad_watchdog dog;
static uint64_t changed;

static enum vlad_reaction evaluate_levels(int64_t now_ns, const uint8_t *own)
{
    struct vlad_watchdog_input input;

    vlad_watchdog_gather(&dog, now_ns, own, &input);
    return vlad_watchdog_judge(&dog, now_ns, &input, &changed);
}

static enum vlad_reaction evaluate(int64_t now_ns, uint64_t own)
{
    uint8_t levels[VLAD_N_FAULTS + 1];

    for (unsigned f = 0; f <= VLAD_N_FAULTS; f++)
        levels[f] = own & BIT(f) ? VLAD_LIMP : VLAD_NONE;
    return evaluate_levels(now_ns, levels);
}

static enum vlad_reaction evaluate_at(int64_t now_ns, enum vlad_fault fault,
                                      enum vlad_reaction level)
{
    uint8_t levels[VLAD_N_FAULTS + 1] = { 0 };

    levels[fault] = (uint8_t)level;
    return evaluate_levels(now_ns, levels);
}

enum kind { PLAIN, LATCHING, REPEATING };

/* The first fault of a kind that stays active for a while. */
static enum vlad_fault fault_of(enum kind kind)
{
    for (int f = 1; f <= VLAD_N_FAULTS; f++) {
        const struct vlad_fault_row *row = &vlad_fault_rows[f];

        if (row->clear_after_ns > 0 && row->latch == (kind == LATCHING) &&
            (row->repeat_n > 1) == (kind == REPEATING) && row->reaction == VLAD_HOLD)
            return (enum vlad_fault)f;
    }
    CHECK(!"the table has a fault of each kind");
    return VLAD_F_OPERATOR_STOP;
}

static void test_quiet(void)
{
    memset(&dog, 0xa5, sizeof dog);
    vlad_watchdog_init(&dog);
    for (int64_t t = 1000; t < 100000; t += 1000) {
        CHECK_EQ(evaluate(t * MS, 0), VLAD_NONE);
        CHECK_EQ(changed, 0);
        CHECK(vlad_watchdog_all_fresh(&dog, t * MS));
    }
    CHECK_EQ(vlad_watchdog_clear(&dog), 0);
    for (int f = 1; f <= VLAD_N_FAULTS; f++)
        CHECK_EQ(dog.state[f].count, 0);
}

/* Every row, alone: its reaction, its clear time to the nanosecond, its latch. */
static void test_every_row(void)
{
    for (unsigned f = 1; f <= VLAD_N_FAULTS; f++) {
        const struct vlad_fault_row *row = &vlad_fault_rows[f];
        int64_t t = 5000 * MS, gone;
        enum vlad_reaction latched_as = row->reaction > VLAD_HOLD ? row->reaction : VLAD_HOLD;

        vlad_watchdog_init(&dog);
        vlad_watchdog_hold(&dog, (enum vlad_fault)f, true);
        CHECK_EQ(evaluate(t, 0), row->latch ? latched_as : row->reaction);
        CHECK_EQ(changed, BIT(f));
        CHECK_EQ(dog.active, BIT(f));
        CHECK_EQ(dog.latched, row->latch ? BIT(f) : 0);
        CHECK_EQ(dog.state[f].since_ns, t);
        CHECK_EQ(dog.state[f].count, 1);
        gone = t + 10 * MS;
        CHECK_EQ(evaluate(gone, 0), row->latch ? latched_as : row->reaction);
        CHECK_EQ(changed, 0);
        CHECK_EQ(dog.state[f].count, 1);
        CHECK_EQ(dog.state[f].since_ns, t);
        CHECK_EQ(vlad_watchdog_clear(&dog), dog.latched); /* the condition is still there */

        vlad_watchdog_hold(&dog, (enum vlad_fault)f, false);
        if (row->clear_after_ns > 0) {
            evaluate(gone + row->clear_after_ns - 1, 0);
            CHECK_EQ(changed, 0);
            CHECK_EQ(dog.active, BIT(f));
        }
        CHECK_EQ(evaluate(gone + row->clear_after_ns, 0), row->latch ? latched_as : VLAD_NONE);
        CHECK_EQ(changed, BIT(f));
        CHECK_EQ(dog.active, 0);
        CHECK_EQ(dog.latched, row->latch ? BIT(f) : 0);

        CHECK_EQ(vlad_watchdog_clear(&dog), 0);
        CHECK_EQ(dog.latched, 0);
        CHECK_EQ(evaluate(gone + row->clear_after_ns + 1, 0), VLAD_NONE);
    }
}

static void test_most_severe_wins(void)
{
    for (int round = 0; round < 3000; round++) {
        uint64_t own = random_u64() & random_u64() & random_u64(), held, pulsed;
        enum vlad_reaction worst = VLAD_NONE;

        vlad_watchdog_init(&dog);
        held = random_u64() & random_u64() & random_u64() & random_u64() & ALL;
        pulsed = random_u64() & random_u64() & random_u64() & random_u64() & ALL;
        for (unsigned f = 1; f <= VLAD_N_FAULTS; f++) {
            if (held & BIT(f))
                vlad_watchdog_hold(&dog, (enum vlad_fault)f, true);
            if (pulsed & BIT(f))
                vlad_watchdog_pulse(&dog, (enum vlad_fault)f);
            if ((own | held | pulsed) & BIT(f)) {
                const struct vlad_fault_row *row = &vlad_fault_rows[f];
                enum vlad_reaction r = row->reaction;

                if ((row->latch || row->repeat_n == 1) && r < VLAD_HOLD)
                    r = VLAD_HOLD;
                worst = r > worst ? r : worst;
            }
        }
        CHECK_EQ(evaluate(7 * MS, own), worst);
        CHECK_EQ(dog.active, (own | held | pulsed) & ALL); /* the other bits count for nothing */
        CHECK_EQ(changed, dog.active | dog.latched);
    }
}

static void test_own_conditions(void)
{
    enum vlad_fault f = fault_of(PLAIN);

    vlad_watchdog_init(&dog);
    CHECK_EQ(evaluate(MS, BIT(f)), VLAD_HOLD);
    CHECK_EQ(evaluate(2 * MS, 0), VLAD_HOLD);
    CHECK_EQ(dog.state[f].last_true_ns, MS);
    CHECK_EQ(evaluate(MS + vlad_fault_rows[f].clear_after_ns, 0), VLAD_NONE);
}

/* A pulse is one event, however often it is evaluated; a flickering condition is one activation. */
static void test_pulse_and_flicker(void)
{
    enum vlad_fault f = fault_of(PLAIN);
    int64_t clear = vlad_fault_rows[f].clear_after_ns;

    vlad_watchdog_init(&dog);
    vlad_watchdog_pulse(&dog, f);
    vlad_watchdog_pulse(&dog, f);
    CHECK_EQ(evaluate(MS, 0), VLAD_HOLD);
    CHECK_EQ(evaluate(2 * MS, 0), VLAD_HOLD);
    CHECK_EQ(dog.state[f].count, 1);
    vlad_watchdog_pulse(&dog, f);
    evaluate(3 * MS, 0);
    CHECK_EQ(changed, 0);
    CHECK_EQ(dog.state[f].count, 2);
    CHECK_EQ(dog.state[f].since_ns, MS);
    CHECK_EQ(evaluate(3 * MS + clear, 0), VLAD_NONE);

    vlad_watchdog_init(&dog);
    for (int i = 0; i < 20; i++) {
        vlad_watchdog_hold(&dog, f, i % 2 == 0);
        evaluate(i * clear / 2, 0);
        CHECK_EQ(dog.active, BIT(f));
    }
    CHECK_EQ(dog.state[f].count, 1);
}

/* repeat_n activations within the window latch; one fewer or slower do not; `clear` forgets. */
static void test_repeats_latch(void)
{
    enum vlad_fault f = fault_of(REPEATING);
    const struct vlad_fault_row *row = &vlad_fault_rows[f];
    int n = row->repeat_n;
    int64_t window = row->repeat_window_ns, t = 0;

    CHECK(n > 1 && n <= VLAD_FAULT_MAX_REPEAT);
    CHECK(window / (n - 1) > row->clear_after_ns);
    for (int rounds = 0; rounds < 3; rounds++) { /* the window, exactly */
        if (rounds == 0)
            vlad_watchdog_init(&dog);
        for (int i = 0; i < n; i++) {
            int64_t at = t + (i == n - 1 ? window : i);

            vlad_watchdog_pulse(&dog, f);
            evaluate(at, 0);
            CHECK_EQ(dog.latched, i == n - 1 ? BIT(f) : 0);
        }
        t += window + row->clear_after_ns;
        CHECK_EQ(evaluate(t, 0), VLAD_HOLD);
        CHECK_EQ(dog.active, 0);
        CHECK_EQ(vlad_watchdog_clear(&dog), 0);
    }
    CHECK_EQ(dog.state[f].count, (uint64_t)(3 * n));

    /* One fewer than it takes, right after `clear`, those from before still in the window. */
    vlad_watchdog_init(&dog);
    for (int i = 0; i < 2 * n - 1; i++) {
        vlad_watchdog_pulse(&dog, f);
        evaluate(t + i, 0);
        CHECK_EQ(dog.latched, i == n - 1 ? BIT(f) : 0);
        if (i == n - 1) {
            evaluate(t + i + row->clear_after_ns, 0);
            CHECK_EQ(vlad_watchdog_clear(&dog), 0);
            t += row->clear_after_ns;
        }
    }

    vlad_watchdog_init(&dog); /* each time just too slow */
    for (int i = 0; i < 50; i++) {
        vlad_watchdog_pulse(&dog, f);
        evaluate(t + i * (window / (n - 1) + 1), 0);
        CHECK_EQ(dog.latched, 0);
    }
    vlad_watchdog_init(&dog); /* separate activations of a held condition count as well */
    for (int i = 0; i < n; i++) {
        CHECK_EQ(dog.latched, 0);
        evaluate(t, BIT(f));
        t += row->clear_after_ns;
        evaluate(t, 0);
        t += MS;
    }
    CHECK_EQ(dog.latched, BIT(f));
}

/* A row without a count never latches, however many at once. */
static void test_no_count_no_latch(void)
{
    enum vlad_fault f = fault_of(PLAIN);

    CHECK_EQ(vlad_fault_rows[f].repeat_n, 0);
    vlad_watchdog_init(&dog);
    for (int i = 0; i < 3 * VLAD_FAULT_MAX_REPEAT; i++) {
        vlad_watchdog_pulse(&dog, f);
        CHECK_EQ(evaluate(0, 0), VLAD_HOLD);
        CHECK_EQ(dog.latched, 0);
    }
    CHECK_EQ(dog.state[f].count, 3 * VLAD_FAULT_MAX_REPEAT);
}

/* Not-a-number chunks warn; the third within the window latches, and that holds the arm. */
static void test_latched_warning_holds(void)
{
    enum vlad_fault f = VLAD_F_ACTION_NOT_FINITE;

    vlad_watchdog_init(&dog);
    for (int i = 1; i <= 3; i++) {
        vlad_watchdog_pulse(&dog, f);
        CHECK_EQ(evaluate(i * 2000 * MS, 0), i < 3 ? VLAD_WARN : VLAD_HOLD);
    }
    CHECK_EQ(dog.latched, BIT(f));
    CHECK_EQ(evaluate(100000 * MS, 0), VLAD_HOLD);
    CHECK_EQ(evaluate(100000 * MS, BIT(VLAD_F_SERVO_OVER_TEMPERATURE)), VLAD_PARK);
    CHECK_EQ(evaluate(200000 * MS, 0), VLAD_PARK); /* that one latches as well */
    CHECK_EQ(vlad_watchdog_clear(&dog), 0);
    CHECK_EQ(evaluate(200000 * MS, 0), VLAD_NONE);
}

static void test_latched_keeps_since(void)
{
    enum vlad_fault f = fault_of(LATCHING);
    int64_t clear = vlad_fault_rows[f].clear_after_ns, back = 10 * MS + 3 * clear;

    vlad_watchdog_init(&dog);
    evaluate(10 * MS, BIT(f));
    evaluate(10 * MS + clear, 0);
    CHECK_EQ(dog.active, 0);
    evaluate(back, BIT(f));
    CHECK_EQ(changed, BIT(f));
    CHECK_EQ(dog.state[f].since_ns, 10 * MS);
    CHECK_EQ(dog.state[f].count, 2);
    CHECK_EQ(vlad_watchdog_clear(&dog), BIT(f));
    evaluate(back + clear, 0);
    CHECK_EQ(vlad_watchdog_clear(&dog), 0);
    evaluate(back + 2 * clear, BIT(f));
    CHECK_EQ(dog.state[f].since_ns, back + 2 * clear);
}

static void test_clear_is_per_fault(void)
{
    enum vlad_fault gone = fault_of(LATCHING), there = gone;

    for (int f = (int)gone + 1; f <= VLAD_N_FAULTS; f++)
        if (vlad_fault_rows[f].latch)
            there = (enum vlad_fault)f;
    CHECK(there != gone);
    vlad_watchdog_init(&dog);
    evaluate(MS, BIT(gone) | BIT(there));
    CHECK_EQ(dog.latched, BIT(gone) | BIT(there));
    evaluate(MS + vlad_fault_rows[gone].clear_after_ns, BIT(there));
    CHECK_EQ(vlad_watchdog_clear(&dog), BIT(there));
    CHECK(dog.state[there].latched && !dog.state[gone].latched);

    vlad_watchdog_init(&dog); /* every one, whatever latched it */
    for (int f = 1; f <= VLAD_N_FAULTS; f++)
        dog.state[f].latched = true;
    CHECK_EQ(evaluate(MS, 0), VLAD_PARK);
    CHECK_EQ(dog.latched, ALL);
    CHECK_EQ(vlad_watchdog_clear(&dog), 0);
    for (int f = 1; f <= VLAD_N_FAULTS; f++)
        CHECK_EQ(vlad_watchdog_reaction(&dog, (unsigned)f), VLAD_NONE);
}

/* What is gathered is all there is to judge by: whole, and once. */
static void test_gather(void)
{
    struct vlad_watchdog_input input;
    uint8_t own[VLAD_N_FAULTS + 1];

    for (int f = 0; f <= VLAD_N_FAULTS; f++)
        own[f] = (uint8_t)(f % 3);
    vlad_watchdog_init(&dog);
    vlad_watchdog_pulse(&dog, VLAD_F_FRAME_BAD);
    vlad_watchdog_hold_at(&dog, VLAD_F_DISK_FULL, VLAD_SLOW);
    for (int i = 0; i < 2; i++) {
        memset(&input, 0xa5, sizeof input);
        vlad_watchdog_gather(&dog, MS, own, &input);
        CHECK_EQ(input.pulsed, i ? 0 : BIT(VLAD_F_FRAME_BAD));
        for (int f = 0; f <= VLAD_N_FAULTS; f++)
            CHECK_EQ(input.level[f], f == VLAD_F_DISK_FULL ? VLAD_SLOW : own[f]);
    }
}

static void test_heartbeats(void)
{
    for (int s = 0; s < VLAD_N_STAGES; s++) {
        enum vlad_fault f = vlad_stage_fault[s];
        enum vlad_stage stage = (enum vlad_stage)s;

        vlad_watchdog_init(&dog);
        vlad_watchdog_bound(&dog, stage, 500 * MS, 1000 * MS);
        evaluate(1500 * MS, 0);
        CHECK_EQ(dog.active, 0);
        CHECK(vlad_watchdog_all_fresh(&dog, 1500 * MS));
        CHECK(!vlad_watchdog_all_fresh(&dog, 1500 * MS + 1));
        CHECK_EQ(evaluate(1500 * MS + 1, 0), vlad_fault_rows[f].reaction);
        CHECK_EQ(dog.active, BIT(f));
        vlad_watchdog_beat(&dog, stage, 3000 * MS); /* later than now: fresh */
        CHECK(vlad_watchdog_all_fresh(&dog, 1600 * MS));
        evaluate(1600 * MS + vlad_fault_rows[f].clear_after_ns, 0);
        CHECK_EQ(dog.active, 0);
        vlad_watchdog_bound(&dog, stage, 0, 0); /* no longer watched */
        CHECK(vlad_watchdog_all_fresh(&dog, INT64_MAX));
        evaluate(10000 * MS, 0);
        CHECK_EQ(dog.active, 0);
    }
}

static void test_hold_is_per_fault(void)
{
    vlad_watchdog_init(&dog);
    vlad_watchdog_hold(&dog, VLAD_F_CAMERA_LOST, true);
    vlad_watchdog_hold(&dog, VLAD_F_ABI_MISMATCH, true);
    vlad_watchdog_hold(&dog, VLAD_F_CAMERA_LOST, false);
    evaluate(MS, 0);
    CHECK_EQ(dog.active, BIT(VLAD_F_ABI_MISMATCH));

    for (int f = 1; f <= VLAD_N_FAULTS; f++) { /* a fault that is held is no missed heartbeat */
        vlad_watchdog_init(&dog);
        vlad_watchdog_hold(&dog, (enum vlad_fault)f, true);
        CHECK(vlad_watchdog_all_fresh(&dog, 1000 * MS));
        evaluate(1000 * MS, 0);
        CHECK_EQ(dog.active, BIT(f));
    }
}

/* Rows 21, 22, 24, 42: a condition may hold at less than the row's reaction. The level rises at
 * once, falls after the clear time, and only the row's own reaction latches at once. */
static void test_levels(void)
{
    enum vlad_fault f = VLAD_F_SERVO_OVER_TEMPERATURE;
    int64_t clear = vlad_fault_rows[f].clear_after_ns, t;

    CHECK(vlad_fault_rows[f].latch && vlad_fault_rows[f].reaction == VLAD_PARK && clear > 0);
    vlad_watchdog_init(&dog);
    CHECK_EQ(evaluate_at(MS, f, VLAD_WARN), VLAD_WARN);
    CHECK_EQ(changed, BIT(f));
    CHECK_EQ(evaluate_at(2 * MS, f, VLAD_SLOW), VLAD_SLOW);
    CHECK_EQ(changed, BIT(f)); /* a level that rises is told, and is the same occurrence */
    CHECK_EQ(dog.state[f].count, 1);
    CHECK_EQ(dog.state[f].since_ns, MS);
    t = 2 * MS + clear;
    CHECK_EQ(evaluate_at(t - 1, f, VLAD_WARN), VLAD_SLOW);
    CHECK_EQ(changed, 0);
    CHECK_EQ(evaluate_at(t, f, VLAD_WARN), VLAD_WARN);
    CHECK_EQ(changed, BIT(f));
    CHECK_EQ(evaluate_at(t + clear, f, VLAD_NONE), VLAD_NONE);
    CHECK_EQ(dog.active | dog.latched, 0);

    vlad_watchdog_hold_at(&dog, f, VLAD_HOLD); /* by another stage: the worse of the two counts */
    CHECK_EQ(evaluate_at(t + clear + MS, f, VLAD_WARN), VLAD_HOLD);
    CHECK_EQ(vlad_watchdog_reaction(&dog, f), VLAD_HOLD);
    CHECK_EQ(dog.latched, 0);
    vlad_watchdog_hold_at(&dog, f, VLAD_LIMP); /* never more than the row says */
    CHECK_EQ(evaluate_at(t + clear + 2 * MS, f, VLAD_NONE), VLAD_PARK);
    CHECK_EQ(dog.latched, BIT(f));
    vlad_watchdog_hold_at(&dog, f, VLAD_NONE);
    CHECK_EQ(evaluate_at(t + 9 * clear, f, VLAD_WARN), VLAD_PARK); /* latched: as the row says */
    CHECK_EQ(vlad_watchdog_clear(&dog), BIT(f)); /* and still warm */
    CHECK_EQ(evaluate_at(t + 10 * clear, f, VLAD_NONE), VLAD_PARK);
    CHECK_EQ(vlad_watchdog_clear(&dog), 0);
    CHECK_EQ(vlad_watchdog_reaction(&dog, f), VLAD_NONE);
}

/* A level that is seen again counts from then; levels that change in one evaluation are all told. */
static void test_levels_of_two(void)
{
    enum vlad_fault hot = VLAD_F_SERVO_OVER_TEMPERATURE, low = VLAD_F_SERVO_VOLTAGE;
    int64_t clear = vlad_fault_rows[hot].clear_after_ns;
    uint8_t own[VLAD_N_FAULTS + 1] = { 0 };

    vlad_watchdog_init(&dog);
    own[hot] = own[low] = VLAD_SLOW;
    CHECK_EQ(evaluate_levels(MS, own), VLAD_SLOW);
    CHECK_EQ(evaluate_levels(clear, own), VLAD_SLOW);
    own[hot] = VLAD_WARN;
    CHECK_EQ(evaluate_levels(clear + MS, own), VLAD_SLOW);
    CHECK_EQ(vlad_watchdog_reaction(&dog, hot), VLAD_SLOW); /* 1 ms ago it still was */
    own[hot] = own[low] = VLAD_HOLD;
    CHECK_EQ(evaluate_levels(clear + 2 * MS, own), VLAD_HOLD);
    CHECK_EQ(changed, BIT(hot) | BIT(low));
    CHECK_EQ(dog.active, BIT(hot) | BIT(low));
}

/* Row 20: what only warns is no step towards the latch; what becomes worse is one. */
static void test_warnings_do_not_latch(void)
{
    enum vlad_fault f = VLAD_F_SERVO_OVERLOAD;
    const struct vlad_fault_row *row = &vlad_fault_rows[f];
    int64_t t = 0;

    CHECK(row->reaction > VLAD_HOLD && row->repeat_n == 3);
    vlad_watchdog_init(&dog);
    for (int i = 0; i < 10; i++, t += row->clear_after_ns) {
        CHECK_EQ(evaluate_at(t += MS, f, VLAD_WARN), VLAD_WARN);
        evaluate_at(t += row->clear_after_ns, f, VLAD_NONE);
    }
    CHECK_EQ(dog.state[f].count, 10);
    for (int i = 1; i <= 3; i++) {
        CHECK_EQ(evaluate_at(t += MS, f, VLAD_WARN), VLAD_WARN);
        CHECK_EQ(evaluate_at(t += MS, f, VLAD_HOLD), i < 3 ? VLAD_HOLD : VLAD_PARK);
        CHECK_EQ(evaluate_at(t += MS, f, VLAD_HOLD), i < 3 ? VLAD_HOLD : VLAD_PARK); /* once */
        CHECK_EQ(dog.latched, i < 3 ? 0 : BIT(f));
        evaluate_at(t += row->clear_after_ns, f, VLAD_NONE);
    }
    CHECK_EQ(dog.state[f].count, 13);
}

int main(void)
{
    test_warnings_do_not_latch();
    test_levels();
    test_levels_of_two();
    test_gather();
    test_no_count_no_latch();
    test_quiet();
    test_every_row();
    test_most_severe_wins();
    test_own_conditions();
    test_pulse_and_flicker();
    test_repeats_latch();
    test_latched_warning_holds();
    test_latched_keeps_since();
    test_clear_is_per_fault();
    test_heartbeats();
    test_hold_is_per_fault();
    CHECK_DONE();
}
