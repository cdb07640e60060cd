/* linear_neon.c: see fused.h. A block of 16 columns of w, 4 rows of x at a time: 16 sums of 4 lanes stay in registers
 * from the first k to the last. w is read in the order in which tiles are loaded: a word of 32 bits holds an even k
 * below and an odd one above, each a shift or a mask away from its float32. */
#include "neon.h"

#define COLUMNS 16
#define STEP 32 /* k to which w is padded */
#define ROWS 4
#define CHUNK 64 /* rows of one task: they stay in a near cache while the blocks of w pass by */

struct state {
    const struct vlad_linear *job;
    const uint16_t *left; /* x in bfloat16, a row each `stride` */
    size_t stride, steps, blocks;
};

static void pack(void *data, size_t row)
{
    struct state *s = data;
    uint16_t *to = (uint16_t *)s->left + row * s->stride;

    for (size_t at = 0; at < s->stride; at += 4, to += 4)
        vst1_u16(to, at < s->job->k ? neon_load_rounded(&s->job->x, row * s->job->k + at, s->job->k - at)
                                    : vdup_n_u16(0));
}

static inline float32x4_t logistic(float32x4_t x) /* 1 / (1 + e^-x) */
{
    float32x4_t power = vminq_f32(vmulq_n_f32(x, -1.44269504f), vdupq_n_f32(126.0f));

    return vdivq_f32(vdupq_n_f32(1.0f), vaddq_f32(vdupq_n_f32(1.0f), neon_exp2(power)));
}

static inline float32x4_t activated(float32x4_t x, enum vlad_activation activation)
{
    switch (activation) {
    case VLAD_ACTIVATION_GELU_TANH: { /* x / 2 (1 + tanh u) = x logistic(2 u) */
        float32x4_t cubic = vfmaq_f32(vdupq_n_f32(1.0f), vmulq_f32(x, x), vdupq_n_f32(0.044715f));

        return vmulq_f32(x, logistic(vmulq_n_f32(vmulq_f32(x, cubic), 1.59576912f)));
    }
    case VLAD_ACTIVATION_SILU:
        return vmulq_f32(x, logistic(x));
    case VLAD_ACTIVATION_NONE:
        break;
    }
    return x;
}

/* 4 sums of row `m` to y from column `n` on. */
static void finish(const struct vlad_linear *job, float32x4_t sum, size_t m, size_t n)
{
    size_t at = m * job->n + n, count = job->n - n;
    float32x4_t y = activated(vaddq_f32(sum, neon_load(job->bias + n, count)), job->activation);

    if (job->join != VLAD_JOIN_NONE) {
        float32x4_t other = neon_load(job->other + (job->one_other ? n : at), count);

        y = job->join == VLAD_JOIN_SUM ? vaddq_f32(y, other) : vmulq_f32(y, other);
    }
    neon_store(&job->y, at, y, count);
}

/* `rows`, a constant at each call, of x from `m` on times the block of columns. */
static inline __attribute__((always_inline)) void multiply_rows(const struct state *s, size_t m, size_t block,
                                                                const size_t rows)
{
    const uint16_t *x = s->left + m * s->stride, *w = s->job->w + block * s->steps * STEP * COLUMNS;
    const uint32x4_t upper = vdupq_n_u32(0xffff0000);
    float32x4_t c[ROWS][4];

    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < 4; j++)
            c[r][j] = vdupq_n_f32(0);
    for (size_t k = 0; k < s->steps * STEP; k += 4, x += 4, w += 4 * COLUMNS) {
        float32x4_t a[ROWS];

        for (size_t r = 0; r < rows; r++)
            a[r] = neon_widen(vld1_u16(x + r * s->stride));
        for (size_t half = 0; half < 2; half++)
            for (size_t j = 0; j < 4; j++) {
                uint32x4_t pair = vreinterpretq_u32_u16(vld1q_u16(w + half * 2 * COLUMNS + 8 * j));
                float32x4_t even = vreinterpretq_f32_u32(vshlq_n_u32(pair, 16));
                float32x4_t odd = vreinterpretq_f32_u32(vandq_u32(pair, upper));

                for (size_t r = 0; r < rows; r++) {
                    c[r][j] = half ? vfmaq_laneq_f32(c[r][j], even, a[r], 2) : vfmaq_laneq_f32(c[r][j], even, a[r], 0);
                    c[r][j] = half ? vfmaq_laneq_f32(c[r][j], odd, a[r], 3) : vfmaq_laneq_f32(c[r][j], odd, a[r], 1);
                }
            }
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < 4 && block * COLUMNS + 4 * j < s->job->n; j++)
            finish(s->job, c[r][j], m + r, block * COLUMNS + 4 * j);
}

static void multiply(void *data, size_t index)
{
    const struct state *s = data;
    size_t m = index / s->blocks * CHUNK, block = index % s->blocks, last = neon_at_most(m + CHUNK, s->job->m);

    for (; m + ROWS <= last; m += ROWS)
        multiply_rows(s, m, block, ROWS);
    for (; m < last; m++)
        multiply_rows(s, m, block, 1);
}

bool vlad_linear_neon(const struct vlad_linear *job, const struct vlad_pool *pool)
{
    struct state s = {
        .job = job,
        .left = job->x.data,
        .stride = job->k,
        .steps = (job->k + STEP - 1) / STEP,
        .blocks = (job->n + COLUMNS - 1) / COLUMNS,
    };

    if (!job->x.rounded || job->k % STEP) {
        s.stride = s.steps * STEP;
        s.left = vlad_scratch(VLAD_SCRATCH_SHARED, job->m * s.stride * sizeof *s.left);
        if (!s.left)
            return false;
        pool->run(pool->self, pack, job->m, &s);
    }
    pool->run(pool->self, multiply, (job->m + CHUNK - 1) / CHUNK * s.blocks, &s);
    return true;
}
