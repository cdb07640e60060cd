/* random.h: a seeded generator, so that a failing property is found again. */
#ifndef VLAD_TEST_RANDOM_H
#define VLAD_TEST_RANDOM_H

#include <stdint.h>

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static inline uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1du;
}

/* Uniform in low..high, both included. */
static inline int64_t random_in(int64_t low, int64_t high)
{
    return low + (int64_t)(random_u64() % ((uint64_t)(high - low) + 1));
}

#endif
