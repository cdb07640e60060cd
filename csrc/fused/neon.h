/* neon.h: what the kernels in NEON share. All of it is in every aarch64 processor; a bfloat16 is the upper half of
 * a float32, so it is widened by a shift. */
#ifndef VLAD_NEON_H
#define VLAD_NEON_H

#include "fused.h"

#include <arm_neon.h>
#include <string.h>

static inline size_t neon_at_most(size_t value, size_t limit)
{
    return value < limit ? value : limit;
}

/* 4 float32 as bfloat16 in the upper halves, to nearest even; a NaN stays one. */
static inline uint32x4_t neon_round_bits(float32x4_t x)
{
    uint32x4_t bits = vreinterpretq_u32_f32(x);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t near = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));

    return vbslq_u32(vceqq_f32(x, x), near, vdupq_n_u32(0x7fc00000));
}

static inline uint16x4_t neon_round(float32x4_t x)
{
    return vshrn_n_u32(neon_round_bits(x), 16);
}

static inline float32x4_t neon_widen(uint16x4_t x)
{
    return vreinterpretq_f32_u32(vshll_n_u16(x, 16));
}

/* As bfloat16 holds it. */
static inline float32x4_t neon_rounded(float32x4_t x)
{
    return vreinterpretq_f32_u32(vandq_u32(neon_round_bits(x), vdupq_n_u32(0xffff0000)));
}

/* 4 numbers from `x` on of which `count` exist; the others are 0. */
static inline float32x4_t neon_load(const float *x, size_t count)
{
    float some[4] = {0, 0, 0, 0};

    if (count >= 4)
        return vld1q_f32(x);
    memcpy(some, x, count * sizeof *x);
    return vld1q_f32(some);
}

static inline uint16x4_t neon_load_narrow(const uint16_t *x, size_t count)
{
    uint16_t some[4] = {0, 0, 0, 0};

    if (count >= 4)
        return vld1_u16(x);
    memcpy(some, x, count * sizeof *x);
    return vld1_u16(some);
}

/* The 4 numbers of `x` from `at` on, of which `count` exist, as bfloat16. */
static inline uint16x4_t neon_load_rounded(const struct vlad_values *x, size_t at, size_t count)
{
    return x->rounded ? neon_load_narrow((const uint16_t *)x->data + at, count)
                      : neon_round(neon_load((const float *)x->data + at, count));
}

/* `count` of 4 float32, at most all, to `y` from `at` on. */
static inline void neon_store(const struct vlad_values *y, size_t at, float32x4_t x, size_t count)
{
    size_t n = neon_at_most(count, 4);

    if (y->rounded) {
        uint16_t some[4];

        vst1_u16(some, neon_round(x));
        memcpy((uint16_t *)y->data + at, some, n * sizeof *some);
    } else if (n == 4) {
        vst1q_f32((float *)y->data + at, x);
    } else {
        float some[4];

        vst1q_f32(some, x);
        memcpy((float *)y->data + at, some, n * sizeof *some);
    }
}

/* 2^x for x up to 126, relative error below 2e-7; 0 far below. */
static inline float32x4_t neon_exp2(float32x4_t x)
{
    float32x4_t near = vmaxq_f32(x, vdupq_n_f32(-127.0f)); /* of a NaN a NaN */
    float32x4_t whole = vrndnq_f32(near), part = vsubq_f32(near, whole);
    int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127)), 23);
    float32x4_t p = vfmaq_f32(vdupq_n_f32(0.00967554f), vdupq_n_f32(0.00132765f), part);

    p = vfmaq_f32(vdupq_n_f32(0.05550713f), p, part);
    p = vfmaq_f32(vdupq_n_f32(0.24022120f), p, part);
    p = vfmaq_f32(vdupq_n_f32(0.69314697f), p, part);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, part);
    return vmulq_f32(p, vreinterpretq_f32_s32(power));
}

#endif
