/* Row 33: an interruption between the readings of two clocks is no sleep. */
#include "../clock.h"

#include "check.h"

#define US INT64_C(1000)
#define SLEPT (US * 3600 * 1000 * 1000)

/* Each reading takes 1 us; before reading number `at` of them the thread waits, or the machine sleeps. */
static struct { int64_t mono_ns, slept_ns, wait_ns, sleep_ns; int at, every, n; } now;

static int64_t scripted(clockid_t clock)
{
    CHECK(clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME);
    if (now.n == now.at || (now.every && now.n % now.every == 0)) {
        now.mono_ns += now.wait_ns;
        now.slept_ns += now.sleep_ns;
    }
    now.n++;
    now.mono_ns += US;
    return now.mono_ns + (clock == CLOCK_BOOTTIME ? now.slept_ns : 0);
}

static void test_interruptions(void)
{
    for (int at = 0; at < 6; at++)
        for (int64_t wait_ns = 0; wait_ns < 50000 * US; wait_ns = 3 * wait_ns + 7 * US) {
            int64_t least_ns, unsure_ns;

            now = (__typeof__(now)){ .slept_ns = SLEPT, .wait_ns = wait_ns, .at = at };
            least_ns = vlad_clock_slept_ns(scripted, &unsure_ns);
            CHECK(least_ns <= SLEPT && SLEPT <= least_ns + unsure_ns);
            CHECK(unsure_ns <= VLAD_SLEPT_SURE_NS);
        }
}

/* However often: what is told of it is true, and it ends. */
static void test_interrupted_all_the_time(void)
{
    for (int every = 1; every < 4; every++) {
        int64_t least_ns, unsure_ns;

        now = (__typeof__(now)){ .slept_ns = SLEPT, .wait_ns = 3000 * US, .at = -1, .every = every };
        least_ns = vlad_clock_slept_ns(scripted, &unsure_ns);
        CHECK(least_ns <= SLEPT && SLEPT <= least_ns + unsure_ns);
        CHECK_EQ(now.n, every == 3 ? 3 : 3 * VLAD_SLEPT_TRIES);
    }
}

static void test_a_sleep_between_the_readings(void)
{
    for (int at = 0; at < 2; at++) {
        int64_t unsure_ns;

        now = (__typeof__(now)){ .sleep_ns = SLEPT, .at = at };
        CHECK(vlad_clock_slept_ns(scripted, &unsure_ns) >= SLEPT - 10 * US);
    }
}

static void test_the_machines_clocks(void)
{
    int64_t unsure_ns, first_ns = vlad_clock_slept_ns(vlad_clock_read_ns, &unsure_ns);

    CHECK(first_ns + unsure_ns >= 0 && unsure_ns >= 0);
}

int main(void)
{
    test_interruptions();
    test_interrupted_all_the_time();
    test_a_sleep_between_the_readings();
    test_the_machines_clocks();
    CHECK_DONE();
}
