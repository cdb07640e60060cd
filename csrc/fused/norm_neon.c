/* norm_neon.c: see fused.h. */
#include "neon.h"

#include <math.h>

#define ROWS 8 /* of one task */

static void norm_row(const struct vlad_norm *job, size_t row)
{
    const float *x = job->x + row * job->width;
    const struct vlad_values y = {job->y, true};
    size_t whole = job->width / 4 * 4;
    float32x4_t sums = vdupq_n_f32(0), squares = vdupq_n_f32(0);
    float sum, square, mean, scale, width = (float)job->width;

    for (size_t at = 0; at < whole; at += 4)
        sums = vaddq_f32(sums, vld1q_f32(x + at));
    sum = vaddvq_f32(sums);
    for (size_t at = whole; at < job->width; at++)
        sum += x[at];
    mean = sum / width;
    for (size_t at = 0; at < whole; at += 4) {
        float32x4_t off = vsubq_f32(vld1q_f32(x + at), vdupq_n_f32(mean));

        squares = vfmaq_f32(squares, off, off);
    }
    square = vaddvq_f32(squares);
    for (size_t at = whole; at < job->width; at++)
        square += (x[at] - mean) * (x[at] - mean);
    scale = 1.0f / sqrtf(square / width + job->epsilon);
    for (size_t at = 0; at < job->width; at += 4) {
        size_t left = job->width - at;
        float32x4_t off = vsubq_f32(neon_load(x + at, left), vdupq_n_f32(mean));

        off = vmulq_f32(vmulq_n_f32(off, scale), neon_load(job->weight + at, left));
        neon_store(&y, row * job->width + at, vaddq_f32(off, neon_load(job->bias + at, left)), left);
    }
}

static void norm(void *data, size_t index)
{
    const struct vlad_norm *job = data;

    for (size_t row = index * ROWS; row < neon_at_most((index + 1) * ROWS, job->n); row++)
        norm_row(job, row);
}

bool vlad_norm_neon(const struct vlad_norm *job, const struct vlad_pool *pool)
{
    pool->run(pool->self, norm, (job->n + ROWS - 1) / ROWS, (void *)job);
    return true;
}
