/* linear8_neon.c: see fused.h. 4 rows times 4 columns of w at a time, 16 k of each in a register: 16 sums of 4 lanes,
 * which are added up at the end. With the dot products of ARMv8.2 16 products and their sums are one instruction,
 * without them three; the sums are the same whole numbers. */
#include "neon.h"

#define STEP 16 /* k of one register */
#define ROWS 4
#define COLUMNS 4
#define CHUNK 64 /* columns of one task: their part of w stays in a near cache while the rows pass by */
#define TINY 1e-12f
#define QUANTUM (1.0f / 127)

struct state {
    const struct vlad_linear8 *job;
    int8_t *left;    /* x in whole quanta of its row, a row each `stride`, padded with 0 to whole tiles */
    float *greatest; /* of each row */
    size_t stride;
};

static void pack(void *data, size_t row)
{
    const struct state *s = data;
    const float *x = s->job->x + row * s->job->k;
    int8_t *to = s->left + row * s->stride;
    float32x4_t most = vdupq_n_f32(0);
    float greatest;

    for (size_t at = 0; at < s->job->k; at += 4)
        most = vmaxq_f32(most, vabsq_f32(neon_load(x + at, s->job->k - at)));
    greatest = vmaxvq_f32(most); /* of a NaN a NaN, which makes all of its row one */
    greatest = greatest < TINY ? TINY : greatest;
    s->greatest[row] = greatest;
    for (size_t at = 0; at < s->stride; at += 8) {
        int16x4_t half[2];

        for (size_t i = 0; i < 2; i++) {
            size_t from = at + 4 * i;
            float32x4_t value = from < s->job->k ? neon_load(x + from, s->job->k - from) : vdupq_n_f32(0);

            value = vdivq_f32(vdivq_f32(value, vdupq_n_f32(greatest)), vdupq_n_f32(QUANTUM));
            half[i] = vqmovn_s32(vcvtnq_s32_f32(value));
        }
        vst1_s8(to + at, vqmovn_s16(vcombine_s16(half[0], half[1])));
    }
}

static inline int8x16_t load(const int8_t *w, size_t count) /* fewer than 16; the others are 0 */
{
    int8_t some[STEP] = {0};

    memcpy(some, w, count);
    return vld1q_s8(some);
}

static inline int32x4_t dot_plain(int32x4_t sum, int8x16_t a, int8x16_t b) /* two products of 127 x 127 fit 16 bits */
{
    int16x8_t pairs = vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b);

    return vpadalq_s16(sum, pairs);
}

#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))

DOTPROD static inline int32x4_t dot_product(int32x4_t sum, int8x16_t a, int8x16_t b)
{
    return vdotq_s32(sum, a, b);
}

/* 4 sums of row `m` to y from column `n` on. */
static inline void finish(const struct state *s, int32x4_t sum, size_t m, size_t n)
{
    const struct vlad_linear8 *job = s->job;
    const struct vlad_values y = {job->y, false};
    size_t count = job->n - n;
    float32x4_t unit = vmulq_n_f32(neon_load(job->scale + n, count), QUANTUM);
    float32x4_t scaled = vmulq_n_f32(vmulq_f32(vcvtq_f32_s32(sum), unit), s->greatest[m]);

    neon_store(&y, m * job->n + n, vaddq_f32(scaled, neon_load(job->bias + n, count)), count);
}

/* 16 k of the rows and columns; the right factor is loaded by `loaded`. */
#define ADD(dot, loaded)                                                                                          \
    do {                                                                                                          \
        int8x16_t a[ROWS];                                                                                        \
                                                                                                                  \
        for (size_t r = 0; r < ROWS; r++)                                                                         \
            a[r] = vld1q_s8(x + r * s->stride);                                                                   \
        for (size_t j = 0; j < COLUMNS; j++) {                                                                    \
            int8x16_t b = loaded;                                                                                 \
                                                                                                                  \
            for (size_t r = 0; r < ROWS; r++)                                                                     \
                c[r][j] = dot(c[r][j], a[r], b);                                                                  \
        }                                                                                                         \
    } while (0)

/* The task `index` with `dot`: a part of the columns, of which those that do not exist are the last one again. */
#define MULTIPLY(name, dot, target)                                                                               \
    target static void name(void *data, size_t index)                                                             \
    {                                                                                                             \
        const struct state *s = data;                                                                             \
        size_t k = s->job->k, last = neon_at_most((index + 1) * CHUNK, s->job->n);                                \
                                                                                                                  \
        for (size_t m = 0; m < s->job->m; m += ROWS)                                                              \
            for (size_t n = index * CHUNK; n < last; n += COLUMNS) {                                              \
                const int8_t *x = s->left + m * s->stride, *w[COLUMNS];                                           \
                int32x4_t c[ROWS][COLUMNS], sums[ROWS];                                                           \
                size_t at = 0;                                                                                    \
                                                                                                                  \
                for (size_t j = 0; j < COLUMNS; j++) {                                                            \
                    w[j] = s->job->w + neon_at_most(n + j, last - 1) * k;                                         \
                    for (size_t r = 0; r < ROWS; r++)                                                             \
                        c[r][j] = vdupq_n_s32(0);                                                                 \
                }                                                                                                 \
                for (; at + STEP <= k; at += STEP, x += STEP)                                                     \
                    ADD(dot, vld1q_s8(w[j] + at));                                                                \
                if (at < k)                                                                                       \
                    ADD(dot, load(w[j] + at, k - at));                                                            \
                for (size_t r = 0; r < ROWS; r++)                                                                 \
                    sums[r] = vpaddq_s32(vpaddq_s32(c[r][0], c[r][1]), vpaddq_s32(c[r][2], c[r][3]));             \
                for (size_t r = 0; r < neon_at_most(ROWS, s->job->m - m); r++)                                    \
                    finish(s, sums[r], m + r, n);                                                                 \
            }                                                                                                     \
    }

MULTIPLY(multiply_plain, dot_plain, )
MULTIPLY(multiply_dot, dot_product, DOTPROD)

static bool linear(const struct vlad_linear8 *job, const struct vlad_pool *pool, void (*multiply)(void *, size_t))
{
    struct state s = {.job = job, .stride = (job->k + STEP - 1) / STEP * STEP};
    size_t rows = (job->m + ROWS - 1) / ROWS * ROWS; /* those that do not exist are multiplied and not used */

    s.greatest = vlad_scratch(VLAD_SCRATCH_SHARED, rows * (sizeof *s.greatest + s.stride));
    if (!s.greatest)
        return false;
    s.left = (int8_t *)(s.greatest + rows);
    pool->run(pool->self, pack, job->m, &s);
    pool->run(pool->self, multiply, (job->n + CHUNK - 1) / CHUNK, &s);
    return true;
}

bool vlad_linear8_neon(const struct vlad_linear8 *job, const struct vlad_pool *pool)
{
    return linear(job, pool, multiply_plain);
}

bool vlad_linear8_dot(const struct vlad_linear8 *job, const struct vlad_pool *pool)
{
    return linear(job, pool, multiply_dot);
}
