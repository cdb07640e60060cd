/* rope.c: see fused.h. */
#include "fused.h"

void vlad_rope(const float *x, const float *cosine, const float *sine, float *y, size_t n, size_t heads, size_t half)
{
    for (size_t i = 0; i < n; i++, cosine += half, sine += half)
        for (size_t head = 0; head < heads; head++, x += 2 * half, y += 2 * half)
            for (size_t j = 0; j < half; j++) {
                float left = x[j], right = x[j + half];

                y[j] = left * cosine[j] - right * sine[j];
                y[j + half] = right * cosine[j] + left * sine[j];
            }
}
