/* linear_amx.c: see fused.h. */
#include "fused.h"

#include "amx.h"

#define CHUNK 16 /* blocks of rows of x that stay in the second cache while w passes by */
#define STEPS 16 /* of two columns of tiles of w that stay in the first while those rows pass by */

struct state {
    const struct vlad_linear *job;
    uint16_t *left; /* x in bfloat16, a row each `stride`; of all rows and columns of its tiles */
    size_t stride, steps, blocks_m, blocks_n, pairs_n;
};

static void pack(void *data, size_t block)
{
    struct state *s = data;
    size_t k = s->job->k;

    for (size_t row = block * AMX_ROWS; row < (block + 1) * AMX_ROWS; row++)
        for (size_t from = 0; from < s->steps * AMX_STEP; from += AMX_STEP)
            _mm512_store_si512(s->left + row * s->stride + from,
                               row < s->job->m ? amx_load(&s->job->x, row * k + from, k - from)
                                               : _mm512_setzero_si512());
}

static inline __m512 logistic(__m512 x) /* 1 / (1 + e^-x) */
{
    const __m512 log2e = _mm512_set1_ps(1.44269504f), limit = _mm512_set1_ps(126.0f);
    __m512 power = _mm512_min_ps(_mm512_mul_ps(x, _mm512_sub_ps(_mm512_setzero_ps(), log2e)), limit);

    return _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_add_ps(_mm512_set1_ps(1.0f), amx_exp2(power)));
}

static inline __m512 activated(__m512 x, enum vlad_activation activation)
{
    switch (activation) {
    case VLAD_ACTIVATION_GELU_TANH: { /* x / 2 (1 + tanh u) = x logistic(2 u) */
        __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1.0f));

        return _mm512_mul_ps(x, logistic(_mm512_mul_ps(_mm512_mul_ps(x, cubic), _mm512_set1_ps(1.59576912f))));
    }
    case VLAD_ACTIVATION_SILU:
        return _mm512_mul_ps(x, logistic(x));
    case VLAD_ACTIVATION_NONE:
        break;
    }
    return x;
}

/* A block of rows of two blocks of columns of y to their place. */
static void finish(const struct vlad_linear *job, float tiles[2][AMX_ROWS * AMX_ROWS], size_t block_m, size_t pair)
{
    size_t from_m = block_m * AMX_ROWS, from_n = pair * AMX_STEP, left = job->n - from_n;
    size_t rows = job->m - from_m < AMX_ROWS ? job->m - from_m : AMX_ROWS;
    const __mmask16 lanes[2] = {amx_lanes(left), left > AMX_ROWS ? amx_lanes(left - AMX_ROWS) : 0};

    for (size_t i = 0; i < rows; i++) {
        size_t at = (from_m + i) * job->n + from_n;
        __m512 y[2];

        for (size_t j = 0; j < 2; j++) {
            __m512 bias = _mm512_maskz_loadu_ps(lanes[j], job->bias + from_n + j * AMX_ROWS);

            y[j] = activated(_mm512_add_ps(_mm512_load_ps(tiles[j] + i * AMX_ROWS), bias), job->activation);
            if (job->join != VLAD_JOIN_NONE) {
                size_t from = job->one_other ? from_n : at;
                __m512 other = _mm512_maskz_loadu_ps(lanes[j], job->other + from + j * AMX_ROWS);

                y[j] = job->join == VLAD_JOIN_SUM ? _mm512_add_ps(y[j], other) : _mm512_mul_ps(y[j], other);
            }
        }
        amx_store(&job->y, at, y, lanes);
    }
}

/* Adds the steps `from` to `to` of two blocks of rows times two of columns, one of them twice where there is
 * no second, to `c`. */
static void multiply_tiles(const struct state *s, size_t block, bool two_m, const uint16_t *right, bool two_n,
                           size_t from, size_t to, float c[2][2][AMX_ROWS * AMX_ROWS])
{
    const uint16_t *a = s->left + block * AMX_ROWS * s->stride + from * AMX_STEP, *b = right + from * AMX_TILE;
    const uint16_t *a2 = two_m ? a + AMX_ROWS * s->stride : a, *b2 = two_n ? b + s->steps * AMX_TILE : b;
    size_t stride = s->stride * sizeof *s->left;

    if (from) {
        _tile_loadd(0, c[0][0], 64);
        _tile_loadd(1, c[0][1], 64);
        _tile_loadd(2, c[1][0], 64);
        _tile_loadd(3, c[1][1], 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (size_t step = from; step < to; step++, a += AMX_STEP, a2 += AMX_STEP, b += AMX_TILE, b2 += AMX_TILE) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a, stride);
        _tile_loadd(5, a2, stride);
        _tile_loadd(7, b2, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c[0][0], 64);
    _tile_stored(1, c[0][1], 64);
    _tile_stored(2, c[1][0], 64);
    _tile_stored(3, c[1][1], 64);
}

/* Two blocks of columns of y, or one, of a chunk of its rows. */
static void multiply(void *data, size_t index)
{
    const struct state *s = data;
    size_t first = index / s->pairs_n * CHUNK, pair = index % s->pairs_n, tiles = s->steps * AMX_TILE;
    size_t last = first + CHUNK < s->blocks_m ? first + CHUNK : s->blocks_m;
    bool two_n = 2 * pair + 1 < s->blocks_n;
    const uint16_t *right = s->job->w + 2 * pair * tiles;
    float sums[CHUNK][2][AMX_ROWS * AMX_ROWS] __attribute__((aligned(64)));

    amx_begin();
    for (size_t from = 0; from < s->steps; from += STEPS) {
        size_t to = from + STEPS < s->steps ? from + STEPS : s->steps;

        for (size_t block = first; block < last; block += 2) {
            bool two_m = block + 1 < last;
            float (*c)[2][AMX_ROWS * AMX_ROWS] = sums + (block - first);

            multiply_tiles(s, block, two_m, right, two_n, from, to, c);
            if (to < s->steps)
                continue;
            finish(s->job, c[0], block, pair);
            if (two_m)
                finish(s->job, c[1], block + 1, pair);
        }
    }
    _tile_release();
}

bool vlad_linear_amx(const struct vlad_linear *job, const struct vlad_pool *pool)
{
    struct state s = {
        .job = job,
        .left = job->x.data,
        .stride = job->k,
        .steps = AMX_STEPS(job->k),
        .blocks_m = AMX_BLOCKS(job->m),
        .blocks_n = AMX_BLOCKS(job->n),
    };

    s.pairs_n = (s.blocks_n + 1) / 2;
    if (!job->x.rounded || job->m % AMX_ROWS || job->k % AMX_STEP) {
        s.stride = (s.steps | 1) * AMX_STEP; /* rows of a tile in different sets of the cache */
        s.left = vlad_scratch(VLAD_SCRATCH_SHARED, s.blocks_m * AMX_ROWS * s.stride * sizeof *s.left);
        if (!s.left)
            return false;
        pool->run(pool->self, pack, s.blocks_m, &s);
    }
    pool->run(pool->self, multiply, (s.blocks_m + CHUNK - 1) / CHUNK * s.pairs_n, &s);
    return true;
}
