/* A quantile read from the buckets is never below the true one and at most 1/8 above it. */
#include <string.h> /* memset */

#include "check.h"
#include "histogram.h"
#include "random.h"

#define LAST_EXACT_NS (INT64_C(1) << 42) /* from here on all values share the last bucket */
#define N 4001

static struct vlad_histogram histogram;
static int64_t sample[N];

static void clear(void)
{
    memset(&histogram, 0, sizeof histogram);
}

static int by_value(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void test_empty(void)
{
    clear();
    CHECK_EQ(vlad_histogram_quantile(&histogram, 0.0), 0);
    CHECK_EQ(vlad_histogram_quantile(&histogram, 0.5), 0);
    CHECK_EQ(vlad_histogram_quantile(&histogram, 1.0), 0);
}

/* One value below a far larger one: the upper edge of its bucket, seen alone. */
static void check_edge(int64_t ns)
{
    int64_t edge;

    clear();
    vlad_histogram_add(&histogram, ns);
    vlad_histogram_add(&histogram, INT64_MAX / 2);
    edge = vlad_histogram_quantile(&histogram, 0.0);
    CHECK(edge >= ns);
    CHECK(edge - ns <= ns / 8);
}

static void test_every_bucket(void)
{
    for (int64_t ns = 0; ns < 4096; ns++)
        check_edge(ns);
    for (int octave = 12; octave < 42; octave++) {
        int64_t base = INT64_C(1) << octave;

        for (int64_t part = 0; part < 8; part++) { /* both ends of each bucket */
            check_edge(base + part * (base / 8));
            check_edge(base + (part + 1) * (base / 8) - 1);
        }
        check_edge(random_in(base, 2 * base - 1));
    }
}

static void test_extremes(void)
{
    clear();
    vlad_histogram_add(&histogram, -5);
    CHECK_EQ(histogram.min_ns, 0);
    CHECK_EQ(histogram.max_ns, 0);
    CHECK_EQ(histogram.sum_ns, 0);
    CHECK_EQ(vlad_histogram_quantile(&histogram, 0.5), 0);
    vlad_histogram_add(&histogram, 70);
    CHECK_EQ(histogram.count, 2);
    CHECK_EQ(histogram.sum_ns, 70);
    CHECK_EQ(histogram.max_ns, 70);
    CHECK_EQ(vlad_histogram_quantile(&histogram, 0.99), 70); /* not the edge, 71 */
    CHECK_EQ(vlad_histogram_quantile(&histogram, 1.0), 70);

    clear();
    vlad_histogram_add(&histogram, 9);
    CHECK_EQ(histogram.min_ns, 9); /* the first value, not 0 */
    vlad_histogram_add(&histogram, LAST_EXACT_NS);
    vlad_histogram_add(&histogram, INT64_MAX - LAST_EXACT_NS - 9);
    CHECK_EQ(vlad_histogram_quantile(&histogram, 0.5), histogram.max_ns); /* never below the truth */
    CHECK_EQ(histogram.sum_ns, INT64_MAX);
}

/* Quantiles against the sorted sample: evenly spread, all octaves alike, and mostly one value. */
static void test_samples(void)
{
    static const double q[] = {0.0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999};

    for (int kind = 0; kind < 3; kind++) {
        int64_t before = 0, sum = 0;

        clear();
        for (int i = 0; i < N; i++) {
            sample[i] = kind == 0 ? random_in(0, 10000000)
                      : kind == 1 ? random_in(0, (INT64_C(1) << random_in(0, 41)))
                                  : random_in(0, 99) ? 12345 : random_in(0, LAST_EXACT_NS - 1);
            sum += sample[i];
            vlad_histogram_add(&histogram, sample[i]);
        }
        qsort(sample, N, sizeof *sample, by_value);
        CHECK_EQ(histogram.count, N);
        CHECK_EQ(histogram.sum_ns, sum);
        CHECK_EQ(histogram.min_ns, sample[0]);
        CHECK_EQ(histogram.max_ns, sample[N - 1]);
        for (unsigned i = 0; i < sizeof q / sizeof *q; i++) {
            int64_t truth = sample[(int)(q[i] * N)];
            int64_t read = vlad_histogram_quantile(&histogram, q[i]);

            CHECK(read >= truth);
            CHECK(read - truth <= truth / 8);
            CHECK(read >= before);
            before = read;
        }
        CHECK_EQ(vlad_histogram_quantile(&histogram, 1.0), sample[N - 1]);
    }
}

/* After years: a full bucket halves them all, so no quantile jumps and nothing wraps. */
static void test_full_bucket(void)
{
    int64_t median, p99;

    clear();
    for (int i = 0; i < 90; i++)
        vlad_histogram_add(&histogram, 1000);
    for (int i = 0; i < 10; i++)
        vlad_histogram_add(&histogram, 50000);
    vlad_histogram_add(&histogram, 900000);
    for (int i = 0; i < VLAD_HISTOGRAM_BUCKETS; i++)
        histogram.bucket[i] *= UINT32_MAX / 90;
    histogram.count *= UINT32_MAX / 90;
    median = vlad_histogram_quantile(&histogram, 0.5);
    p99 = vlad_histogram_quantile(&histogram, 0.99);
    for (int i = 0; i < 1000; i++)
        vlad_histogram_add(&histogram, 1000);
    CHECK_EQ(histogram.count, UINT64_C(101) * (UINT32_MAX / 90) + 1000);
    CHECK(histogram.bucket[0] == 0);
    CHECK_EQ(vlad_histogram_quantile(&histogram, 0.5), median);
    CHECK_EQ(vlad_histogram_quantile(&histogram, 0.99), p99);
    CHECK_EQ(vlad_histogram_quantile(&histogram, 0.999), 900000);
}

int main(void)
{
    test_empty();
    test_every_bucket();
    test_extremes();
    test_samples();
    test_full_bucket();
    CHECK_DONE();
}
