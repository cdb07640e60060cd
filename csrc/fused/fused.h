/* fused.h: products and attention in bfloat16 for ONNX Runtime (fused_ops.c), on AMX tiles or in NEON.
 *
 * Factors are rounded to bfloat16, or are already; sums are float32. Pure but for scratch
 * memory that each thread keeps (scratch.c). Sizes may be anything above 0. */
#ifndef VLAD_FUSED_H
#define VLAD_FUSED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Runs task(data, 0 .. count - 1) in any order on any threads and returns when all are done. */
struct vlad_pool {
    void (*run)(void *self, void (*task)(void *data, size_t index), size_t count, void *data);
    void *self;
};

enum vlad_activation { VLAD_ACTIVATION_NONE, VLAD_ACTIVATION_GELU_TANH, VLAD_ACTIVATION_SILU };

/* A matrix, row by row: float32, or bfloat16 where `rounded`. */
struct vlad_values {
    void *data;
    bool rounded;
};

enum vlad_join { VLAD_JOIN_NONE, VLAD_JOIN_SUM, VLAD_JOIN_PRODUCT };

/* y[m][n] = join(activation(x[m][k] w[k][n] + bias[n]), other[m][n]); every row meets the same `other` where
 * `one_other`. w is bfloat16 and lies in the order
 * in which tiles are loaded, [n / 16][k / 32][k % 32 / 2][n % 16][k % 2], padded with 0 to whole tiles. */
struct vlad_linear {
    struct vlad_values x, y;
    const uint16_t *w;
    const float *bias, *other;
    size_t m, n, k;
    enum vlad_activation activation;
    enum vlad_join join;
    bool one_other;
};

/* y[i] = softmax over j of (q[i] . k[j] + mask[j][i]) times v[j], head by head. q and y are
 * [n][heads * head_dim], k and v [s][kv_heads * head_dim]; query head h uses head
 * h * kv_heads / heads of k and v. mask may be NULL. The scale is in q already. */
struct vlad_attention {
    struct vlad_values q, k, v, y;
    const float *mask;
    size_t n, s, heads, kv_heads, head_dim;
};

/* y[n][width] = (x - mean of its row) / sqrt(variance + epsilon) * weight + bias, in float32, rounded to
 * bfloat16. */
struct vlad_norm {
    const float *x, *weight, *bias;
    uint16_t *y;
    size_t n, width;
    float epsilon;
};

/* y[m][n] = x[m][k] times the transpose of w[n][k], in whole numbers: each row of x is rounded to 127ths of its
 * greatest magnitude, a column of the result has the unit scale[n]; then bias[n] is added. The sums are exact, so the
 * result is the same on every processor. */
struct vlad_linear8 {
    const float *x, *scale, *bias;
    const int8_t *w;
    float *y;
    size_t m, n, k;
};

/* Those of one kind of processor. False when out of memory. */
struct vlad_kernels {
    bool (*linear)(const struct vlad_linear *job, const struct vlad_pool *pool);
    bool (*attention)(const struct vlad_attention *job, const struct vlad_pool *pool);
    bool (*norm)(const struct vlad_norm *job, const struct vlad_pool *pool);
    bool (*linear8)(const struct vlad_linear8 *job, const struct vlad_pool *pool); /* NULL: ONNX Runtime's are faster */
};

/* Those that this processor has and the kernel lets this process use, NULL where there are none. What needs to be
 * asked for is asked for here, once for all threads. */
const struct vlad_kernels *vlad_kernels(void);

/* Compiled for x86-64 (*_amx.c) and for aarch64 (*_neon.c). */
bool vlad_linear_amx(const struct vlad_linear *job, const struct vlad_pool *pool);
bool vlad_attention_amx(const struct vlad_attention *job, const struct vlad_pool *pool);
bool vlad_norm_amx(const struct vlad_norm *job, const struct vlad_pool *pool);
bool vlad_linear_neon(const struct vlad_linear *job, const struct vlad_pool *pool);
bool vlad_attention_neon(const struct vlad_attention *job, const struct vlad_pool *pool);
bool vlad_norm_neon(const struct vlad_norm *job, const struct vlad_pool *pool);
bool vlad_linear8_neon(const struct vlad_linear8 *job, const struct vlad_pool *pool);
bool vlad_linear8_dot(const struct vlad_linear8 *job, const struct vlad_pool *pool); /* with ARMv8.2's dot products */

/* float32 throughout, on any processor: x [n][heads * 2 * half] turned by the angles of cos and sin [n][half], head by head. */
void vlad_rope(const float *x, const float *cosine, const float *sine, float *y, size_t n, size_t heads, size_t half);

enum vlad_scratch { VLAD_SCRATCH_SHARED, VLAD_SCRATCH_OWN, VLAD_SCRATCH_COUNT };

/* At least `bytes` of this thread's memory, aligned to 64, until the next call with the same
 * `which`; freed when the thread ends. NULL when out of memory. */
void *vlad_scratch(enum vlad_scratch which, size_t bytes);

#endif
