/* norm_amx.c: see fused.h. Without tiles, but its result is of use only to them. */
#include "fused.h"

#include "amx.h"

#define ROWS 32 /* of one task */

static void norm(void *data, size_t index)
{
    const struct vlad_norm *s = data;
    const struct vlad_values y_values = {s->y, true};
    size_t last = (index + 1) * ROWS < s->n ? (index + 1) * ROWS : s->n;
    float width = (float)s->width;

    for (size_t row = index * ROWS; row < last; row++) {
        const float *x = s->x + row * s->width;
        __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps(), mean, scale;

        for (size_t at = 0; at < s->width; at += 16)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(amx_lanes(s->width - at), x + at));
        mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
        for (size_t at = 0; at < s->width; at += 16) {
            __mmask16 lanes = amx_lanes(s->width - at);
            __m512 off = _mm512_maskz_sub_ps(lanes, _mm512_maskz_loadu_ps(lanes, x + at), mean);

            squares = _mm512_fmadd_ps(off, off, squares);
        }
        scale = _mm512_sqrt_ps(_mm512_set1_ps(_mm512_reduce_add_ps(squares) / width + s->epsilon));
        scale = _mm512_div_ps(_mm512_set1_ps(1.0f), scale);
        for (size_t at = 0; at < s->width; at += 32) {
            size_t left = s->width - at;
            const __mmask16 lanes[2] = {amx_lanes(left), left > 16 ? amx_lanes(left - 16) : 0};
            __m512 y[2];

            for (size_t j = 0; j < 2; j++) {
                size_t from = at + 16 * j;
                __m512 off = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes[j], x + from), mean);

                y[j] = _mm512_mul_ps(_mm512_mul_ps(off, scale), _mm512_maskz_loadu_ps(lanes[j], s->weight + from));
                y[j] = _mm512_add_ps(y[j], _mm512_maskz_loadu_ps(lanes[j], s->bias + from));
            }
            amx_store(&y_values, row * s->width + at, y, lanes);
        }
    }
}

bool vlad_norm_amx(const struct vlad_norm *job, const struct vlad_pool *pool)
{
    pool->run(pool->self, norm, (job->n + ROWS - 1) / ROWS, (void *)job);
    return true;
}
