/* clock.h: the one place where the core reads the time. Everything pure takes it as an argument. */
#ifndef VLAD_CLOCK_H
#define VLAD_CLOCK_H

#include <stdint.h>
#include <time.h> /* clock_gettime */

static inline int64_t vlad_clock_read_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline int64_t vlad_clock_now_ns(void)
{
    return vlad_clock_read_ns(CLOCK_MONOTONIC);
}

#define VLAD_SLEPT_SURE_NS 100000 /* three readings take a tenth of it, unless the thread is interrupted */
#define VLAD_SLEPT_TRIES 5

/* How long this machine has slept since it started: CLOCK_BOOTTIME less CLOCK_MONOTONIC, which stands
 * still meanwhile. Both cannot be read at once, so one is read on both sides of the other, anew while
 * that takes long: it is at least the result and at most `*unsure_ns` more. read: vlad_clock_read_ns. */
static inline int64_t vlad_clock_slept_ns(int64_t (*read)(clockid_t), int64_t *unsure_ns)
{
    int64_t slept_ns = 0;

    *unsure_ns = INT64_MAX;
    for (int i = 0; i < VLAD_SLEPT_TRIES && *unsure_ns > VLAD_SLEPT_SURE_NS; i++) {
        int64_t before_ns = read(CLOCK_MONOTONIC), boot_ns = read(CLOCK_BOOTTIME);
        int64_t after_ns = read(CLOCK_MONOTONIC);

        if (after_ns - before_ns < *unsure_ns) {
            *unsure_ns = after_ns - before_ns;
            slept_ns = boot_ns - after_ns;
        }
    }
    return slept_ns;
}

/* Thread CPU time would hide preemption: compute times are wall time on purpose. */

#endif
