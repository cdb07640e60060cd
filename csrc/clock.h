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

/* Thread CPU time would hide preemption: compute times are wall time on purpose. */

#endif
