/* ratio.h: integer fractions without overflow and with one rounding, towards minus infinity. */
#ifndef VLAD_RATIO_H
#define VLAD_RATIO_H

#include <stdint.h>

static inline int64_t vlad_floor_div(int64_t value, int64_t divisor) /* divisor > 0 */
{
    int64_t rest = value % divisor;

    return value / divisor - (rest < 0);
}

/* value * num / den for 0 <= num <= den <= 3e9: |value * num| may be far beyond int64. Rounding
 * down keeps differences: two values at most n apart are scaled to at most n * num / den, rounded
 * up, apart. */
static inline int64_t vlad_scale(int64_t value, int64_t num, int64_t den)
{
    int64_t whole = vlad_floor_div(value, den);

    return whole * num + (value - whole * den) * num / den;
}

#endif
