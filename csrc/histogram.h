/* histogram.h: durations in constant memory. Eight buckets per octave: a quantile read from it is
 * at most 1/8 above the true one. One writer; copied out under the writer's seqlock. */
#ifndef VLAD_HISTOGRAM_H
#define VLAD_HISTOGRAM_H

#include <stdint.h>

#define VLAD_HISTOGRAM_BUCKETS 320 /* up to 2^40 ns = 18 min */

struct vlad_histogram {
    uint64_t count;
    int64_t sum_ns, min_ns, max_ns;
    uint32_t bucket[VLAD_HISTOGRAM_BUCKETS];
};

void vlad_histogram_add(struct vlad_histogram *histogram, int64_t ns); /* negative counts as 0 */

/* Upper edge of the bucket that holds the q-quantile (0..1); the maximum for q = 1; 0 when empty. */
int64_t vlad_histogram_quantile(const struct vlad_histogram *histogram, double q);

#endif
