#include "histogram.h"

static int bucket_of(int64_t ns)
{
    int octave, bucket;

    if (ns < 8)
        return (int)ns;
    octave = 63 - __builtin_clzll((unsigned long long)ns); /* >= 3 */
    bucket = (octave - 2) * 8 + (int)((ns >> (octave - 3)) & 7);
    return bucket < VLAD_HISTOGRAM_BUCKETS ? bucket : VLAD_HISTOGRAM_BUCKETS - 1;
}

static int64_t upper_edge(int bucket)
{
    int octave = bucket / 8 + 2;

    if (bucket < 8)
        return bucket;
    return ((int64_t)(8 + bucket % 8 + 1) << (octave - 3)) - 1;
}

void vlad_histogram_add(struct vlad_histogram *histogram, int64_t ns)
{
    if (ns < 0)
        ns = 0;
    if (histogram->count == 0 || ns < histogram->min_ns)
        histogram->min_ns = ns;
    if (ns > histogram->max_ns)
        histogram->max_ns = ns;
    histogram->count++;
    histogram->sum_ns += ns;
    if (++histogram->bucket[bucket_of(ns)] == UINT32_MAX)
        for (int i = 0; i < VLAD_HISTOGRAM_BUCKETS; i++)
            histogram->bucket[i] /= 2;
}

int64_t vlad_histogram_quantile(const struct vlad_histogram *histogram, double q)
{
    uint64_t total = 0, seen = 0, rank;

    for (int i = 0; i < VLAD_HISTOGRAM_BUCKETS; i++)
        total += histogram->bucket[i];
    if (total == 0)
        return 0;
    if (q >= 1.0)
        return histogram->max_ns;
    rank = (uint64_t)(q * (double)total);
    for (int i = 0; i < VLAD_HISTOGRAM_BUCKETS - 1; i++) { /* the last has no upper edge */
        seen += histogram->bucket[i];
        if (seen > rank)
            return upper_edge(i) < histogram->max_ns ? upper_edge(i) : histogram->max_ns;
    }
    return histogram->max_ns;
}
