/* histogram.h: durations in constant memory. Eight buckets per octave: a quantile read from it is
 * never below the true one and at most 1/8 above it; the maximum where that is 2^42 ns or more.
 * One writer; copied out under the writer's seqlock. */
#ifndef VLAD_HISTOGRAM_H
#define VLAD_HISTOGRAM_H

#include <stdint.h>

#define VLAD_HISTOGRAM_BUCKETS 321 /* up to 2^42 ns = 73 min, and one for all beyond */

struct vlad_histogram {
    uint64_t count;
    int64_t sum_ns, min_ns, max_ns;
    uint32_t bucket[VLAD_HISTOGRAM_BUCKETS]; /* all halved when one is full: 50 days at 1 kHz */
};

void vlad_histogram_add(struct vlad_histogram *histogram, int64_t ns); /* negative counts as 0 */

/* The q-quantile (0..1), the smallest value with more than q * n at or below it, as the upper edge of
 * its bucket but never above the maximum; the maximum for q = 1; 0 when empty. */
int64_t vlad_histogram_quantile(const struct vlad_histogram *histogram, double q);

#endif
