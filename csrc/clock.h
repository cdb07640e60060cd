/* clock.h: the one place where the core reads the time. Everything pure takes it as an argument. */
#ifndef VLAD_CLOCK_H
#define VLAD_CLOCK_H

#include <stdint.h>
#include <time.h> /* clock_gettime */

static inline int64_t vlad_clock_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* How long this machine has slept since it started, or less: CLOCK_MONOTONIC, which stands still
 * meanwhile, is read last, so a pause between the two makes it less and never more. */
static inline int64_t vlad_clock_slept_ns(void)
{
    struct timespec boot;
    clock_gettime(CLOCK_BOOTTIME, &boot);
    return (int64_t)boot.tv_sec * 1000000000LL + boot.tv_nsec - vlad_clock_now_ns();
}

/* Thread CPU time would hide preemption: compute times are wall time on purpose. */

#endif
