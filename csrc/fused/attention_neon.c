/* attention_neon.c: see fused.h. Scores are computed transposed, a row for each key and a lane for each query: so
 * the softmax runs down the rows, with no sum across lanes. */
#include "neon.h"

#define QUERIES 8 /* of one task: two vectors of lanes */
#define KEYS 4    /* whose scores are computed at a time */
#define COLUMNS 8 /* of values, likewise */

struct state {
    const struct vlad_attention *job;
    float *keys;   /* [kv head][s][d], rounded to bfloat16; s padded to KEYS, d to COLUMNS, with 0 */
    float *values; /* likewise */
    size_t rows, d, groups;
    _Atomic bool failed;
};

static void pack_rows(const struct state *s, const struct vlad_values *from, size_t head, float *to)
{
    const struct vlad_attention *job = s->job;
    size_t d = job->head_dim;

    for (size_t row = 0; row < s->rows; row++)
        for (size_t at = 0; at < s->d; at += 4, to += 4) {
            bool there = row < job->s && at < d;

            vst1q_f32(to, there ? neon_widen(neon_load_rounded(from, (row * job->kv_heads + head) * d + at, d - at))
                                : vdupq_n_f32(0));
        }
}

static void pack(void *data, size_t head)
{
    const struct state *s = data;
    size_t size = s->rows * s->d;

    pack_rows(s, &s->job->k, head, s->keys + head * size);
    pack_rows(s, &s->job->v, head, s->values + head * size);
}

/* `count` queries from the number `at` of q on as [d][QUERIES], rounded to bfloat16; others are 0. */
static void pack_queries(const struct state *s, size_t at, size_t count, float *queries)
{
    size_t width = s->job->heads * s->job->head_dim, d = s->job->head_dim;

    memset(queries, 0, s->d * QUERIES * sizeof *queries);
    for (size_t i = 0; i < count; i++)
        for (size_t from = 0; from < d; from += 4) {
            float some[4];

            vst1q_f32(some, neon_widen(neon_load_rounded(&s->job->q, at + i * width + from, d - from)));
            for (size_t j = 0; j < neon_at_most(d - from, 4); j++)
                queries[(from + j) * QUERIES + i] = some[j];
        }
}

/* Scores [s][QUERIES]. */
static void multiply_keys(const struct state *s, const float *keys, const float *queries, float *scores)
{
    for (size_t row = 0; row < s->rows; row += KEYS, keys += KEYS * s->d, scores += KEYS * QUERIES) {
        float32x4_t c[KEYS][2];

        for (size_t i = 0; i < KEYS; i++)
            c[i][0] = c[i][1] = vdupq_n_f32(0);
        for (size_t at = 0; at < s->d; at += 4) {
            const float *q = queries + at * QUERIES;
            float32x4_t k[KEYS];

            for (size_t i = 0; i < KEYS; i++)
                k[i] = vld1q_f32(keys + i * s->d + at);
            for (size_t half = 0; half < 2; half++, q += 4) {
                float32x4_t first = vld1q_f32(q), second = vld1q_f32(q + QUERIES);
                float32x4_t third = vld1q_f32(q + 2 * QUERIES), fourth = vld1q_f32(q + 3 * QUERIES);

                for (size_t i = 0; i < KEYS; i++) {
                    c[i][half] = vfmaq_laneq_f32(c[i][half], first, k[i], 0);
                    c[i][half] = vfmaq_laneq_f32(c[i][half], second, k[i], 1);
                    c[i][half] = vfmaq_laneq_f32(c[i][half], third, k[i], 2);
                    c[i][half] = vfmaq_laneq_f32(c[i][half], fourth, k[i], 3);
                }
            }
        }
        for (size_t i = 0; i < KEYS; i++) {
            vst1q_f32(scores + i * QUERIES, c[i][0]);
            vst1q_f32(scores + i * QUERIES + 4, c[i][1]);
        }
    }
}

/* Softmax of 4 queries down the keys, in place, rounded to bfloat16 and not yet divided by the sum. Returns 1 / sum.
 * `mask` is that of the `count` queries. */
static float32x4_t soften(const struct state *s, float *scores, const float *mask, size_t count)
{
    const float32x4_t log2e = vdupq_n_f32(1.44269504f);
    float32x4_t highest = vdupq_n_f32(-1e30f), sum = vdupq_n_f32(0), shift;
    size_t keys = s->job->s;

    for (size_t row = 0; row < keys; row++) {
        float32x4_t score = vld1q_f32(scores + row * QUERIES);

        if (mask) {
            score = vaddq_f32(score, neon_load(mask + row * s->job->n, count));
            vst1q_f32(scores + row * QUERIES, score);
        }
        highest = vmaxq_f32(highest, score);
    }
    shift = vmulq_f32(highest, log2e);
    for (size_t row = 0; row < keys; row++) {
        float32x4_t p = neon_exp2(vsubq_f32(vmulq_f32(vld1q_f32(scores + row * QUERIES), log2e), shift));

        sum = vaddq_f32(sum, p);
        vst1q_f32(scores + row * QUERIES, neon_rounded(p));
    }
    return vdivq_f32(vdupq_n_f32(1.0f), sum);
}

#define ADD(query, weights, lane)                                                   \
    do {                                                                            \
        c[query][0] = vfmaq_laneq_f32(c[query][0], left, weights, lane);            \
        c[query][1] = vfmaq_laneq_f32(c[query][1], right, weights, lane);           \
    } while (0)

/* Weighted values of `count` queries, to the result from `y` on. */
static void multiply_values(const struct state *s, const float *values, const float *weights,
                            const float32x4_t scale[2], size_t y, size_t count)
{
    size_t d = s->job->head_dim, width = s->job->heads * d, keys = s->job->s;
    float scales[QUERIES], out[QUERIES][COLUMNS];

    vst1q_f32(scales, scale[0]);
    vst1q_f32(scales + 4, scale[1]);
    for (size_t from = 0; from < s->d; from += COLUMNS) {
        const float *v = values + from, *w = weights;
        float32x4_t c[QUERIES][2];

        for (size_t i = 0; i < QUERIES; i++)
            c[i][0] = c[i][1] = vdupq_n_f32(0);
        for (size_t row = 0; row < keys; row++, v += s->d, w += QUERIES) {
            float32x4_t left = vld1q_f32(v), right = vld1q_f32(v + 4), p = vld1q_f32(w), more = vld1q_f32(w + 4);

            ADD(0, p, 0);
            ADD(1, p, 1);
            ADD(2, p, 2);
            ADD(3, p, 3);
            ADD(4, more, 0);
            ADD(5, more, 1);
            ADD(6, more, 2);
            ADD(7, more, 3);
        }
        for (size_t i = 0; i < QUERIES; i++) { /* of all: so the sums were in registers */
            vst1q_f32(out[i], c[i][0]);
            vst1q_f32(out[i] + 4, c[i][1]);
        }
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < COLUMNS && from + j < d; j += 4)
                neon_store(&s->job->y, y + i * width + from + j, vmulq_n_f32(vld1q_f32(out[i] + j), scales[i]),
                           d - from - j);
    }
}

static void attend(void *data, size_t index)
{
    struct state *s = data;
    const struct vlad_attention *job = s->job;
    size_t head = index / s->groups, from = index % s->groups * QUERIES;
    size_t kv_head = head * job->kv_heads / job->heads, size = s->rows * s->d;
    size_t count = neon_at_most(job->n - from, QUERIES), at = (from * job->heads + head) * job->head_dim;
    const float *mask = job->mask ? job->mask + from : NULL;
    float32x4_t scale[2];
    float *queries, *scores = vlad_scratch(VLAD_SCRATCH_OWN, (s->rows + s->d) * QUERIES * sizeof *scores);

    if (!scores) {
        s->failed = true;
        return;
    }
    queries = scores + s->rows * QUERIES;
    pack_queries(s, at, count, queries);
    multiply_keys(s, s->keys + kv_head * size, queries, scores);
    scale[0] = soften(s, scores, mask, count);
    scale[1] = soften(s, scores + 4, mask && count > 4 ? mask + 4 : NULL, count - neon_at_most(count, 4));
    multiply_values(s, s->values + kv_head * size, scores, scale, at, count);
}

bool vlad_attention_neon(const struct vlad_attention *job, const struct vlad_pool *pool)
{
    struct state s = {
        .job = job,
        .rows = (job->s + KEYS - 1) / KEYS * KEYS,
        .d = (job->head_dim + COLUMNS - 1) / COLUMNS * COLUMNS,
        .groups = (job->n + QUERIES - 1) / QUERIES,
    };

    s.keys = vlad_scratch(VLAD_SCRATCH_SHARED, 2 * job->kv_heads * s.rows * s.d * sizeof *s.keys);
    if (!s.keys)
        return false;
    s.values = s.keys + job->kv_heads * s.rows * s.d;
    pool->run(pool->self, pack, job->kv_heads, &s);
    pool->run(pool->self, attend, job->heads * s.groups, &s);
    return !s.failed;
}
