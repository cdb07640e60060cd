/* amx.h: what linear_amx.c and attention_amx.c share. Tiles are 16 rows of 64 bytes: 16 x 32
 * bfloat16 or 16 x 16 float32. A product takes its right factor in pairs of rows: element (k, j) at
 * [k / 2][j][k % 2]. */
#ifndef VLAD_AMX_H
#define VLAD_AMX_H

#include "fused.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AMX_ROWS 16
#define AMX_STEP 32                        /* bfloat16 of one row of a tile */
#define AMX_TILE (AMX_ROWS * AMX_STEP)     /* bfloat16 of a tile */
#define AMX_BLOCKS(n) (((n) + AMX_ROWS - 1) / AMX_ROWS)
#define AMX_STEPS(n) (((n) + AMX_STEP - 1) / AMX_STEP)

static inline void amx_begin(void) /* on each thread, before its first tile */
{
    struct __attribute__((packed)) {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1};

    for (int i = 0; i < 8; i++) {
        all.bytes[i] = 64;
        all.rows[i] = AMX_ROWS;
    }
    _tile_loadconfig(&all);
}

static inline void amx_transpose(__m512i r[AMX_ROWS]) /* 16 x 16 of 32 bits */
{
    __m512i t[AMX_ROWS], u[AMX_ROWS];

    for (int i = 0; i < AMX_ROWS; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < AMX_ROWS; i += 4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(u[i], u[i + 4], 0x88);
        __m512i b = _mm512_shuffle_i32x4(u[i], u[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0x88);
        __m512i d = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0xdd);

        r[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

static inline __mmask16 amx_lanes(size_t count) /* the first `count`, at most 16 */
{
    return (__mmask16)(count >= 16 ? 0xffffu : (1u << count) - 1);
}

/* 32 float32 of which `count` exist, to bfloat16; the others are 0. */
static inline __m512i amx_round(const float *x, size_t count)
{
    __m512 low = _mm512_maskz_loadu_ps(amx_lanes(count), x);
    __m512 high = count > 16 ? _mm512_maskz_loadu_ps(amx_lanes(count - 16), x + 16) : _mm512_setzero_ps();

    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* The 32 numbers of `x` from `at` on, of which `count` exist, as bfloat16; the others are 0. */
static inline __m512i amx_load(const struct vlad_values *x, size_t at, size_t count)
{
    if (!x->rounded)
        return amx_round((const float *)x->data + at, count);
    return _mm512_maskz_loadu_epi16(count >= 32 ? ~0u : (1u << count) - 1, (const uint16_t *)x->data + at);
}

/* The numbers of `x` from `at` on as float32, but 0 in lanes that do not exist. */
static inline __m512 amx_widen(const struct vlad_values *x, size_t at, __mmask16 lanes)
{
    if (!x->rounded)
        return _mm512_maskz_loadu_ps(lanes, (const float *)x->data + at);
    return (__m512)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, (const uint16_t *)x->data + at)), 16);
}

/* 32 float32 to `y` from `at` on, but for lanes that do not exist. */
static inline void amx_store(const struct vlad_values *y, size_t at, const __m512 x[2], const __mmask16 lanes[2])
{
    if (y->rounded) {
        _mm512_mask_storeu_epi16((uint16_t *)y->data + at, (__mmask32)lanes[1] << 16 | lanes[0],
                                 (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
    } else {
        _mm512_mask_storeu_ps((float *)y->data + at, lanes[0], x[0]);
        _mm512_mask_storeu_ps((float *)y->data + at + 16, lanes[1], x[1]);
    }
}

/* Up to 16 rows of `k` numbers of `x` from `at` on to the tiles of a right factor that is their transpose. */
static inline void amx_pack_right(const struct vlad_values *x, size_t at, size_t stride, size_t rows, size_t k,
                                  uint16_t *tiles)
{
    for (size_t from = 0; from < k; from += AMX_STEP, tiles += AMX_TILE) {
        __m512i r[AMX_ROWS];

        for (size_t i = 0; i < AMX_ROWS; i++)
            r[i] = i < rows ? amx_load(x, at + i * stride + from, k - from) : _mm512_setzero_si512();
        amx_transpose(r);
        for (size_t i = 0; i < AMX_ROWS; i++)
            _mm512_store_si512(tiles + i * AMX_STEP, r[i]);
    }
}

/* 2^x, relative error below 8e-5, which bfloat16 does not show; 0 far below. */
static inline __m512 amx_exp2_coarse(__m512 x)
{
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.05517167f), part, _mm512_set1_ps(0.24261114f));

    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.69326099f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.99992807f));
    return _mm512_scalef_ps(p, whole);
}

/* 2^x, relative error below 2e-7. */
static inline __m512 amx_exp2(__m512 x)
{
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.00132765f), part, _mm512_set1_ps(0.00967554f));

    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.05550713f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.24022120f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.69314697f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, whole);
}

#endif
