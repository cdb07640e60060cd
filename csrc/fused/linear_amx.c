/* linear_amx.c: see fused.h. */
#include "fused.h"

#include "amx.h"

#define CHUNK 16 /* blocks of rows of x that stay in the cache while w passes by */

struct state {
    const struct vlad_linear *job;
    uint16_t *left; /* x: [block of m][step of k] tiles */
    size_t steps, blocks_m, blocks_n, pairs_n;
};

static void pack(void *data, size_t block)
{
    struct state *s = data;
    size_t from = block * AMX_ROWS, k = s->job->k;
    uint16_t *to = s->left + block * s->steps * AMX_TILE;

    for (size_t i = 0; i < AMX_ROWS; i++, to += AMX_STEP)
        for (size_t step = 0; step < s->steps; step++) {
            size_t count = from + i < s->job->m ? k - step * AMX_STEP : 0;
            const float *x = s->job->x + (from + i) * k + step * AMX_STEP;

            _mm512_store_si512(to + step * AMX_TILE, count ? amx_round(x, count) : _mm512_setzero_si512());
        }
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

/* One tile of y to its place. */
static void finish(const struct vlad_linear *job, const float *tile, size_t block_m, size_t block_n)
{
    size_t from_m = block_m * AMX_ROWS, from_n = block_n * AMX_ROWS;
    size_t rows = job->m - from_m < AMX_ROWS ? job->m - from_m : AMX_ROWS;
    __mmask16 lanes = amx_lanes(job->n - from_n);
    __m512 bias = _mm512_maskz_loadu_ps(lanes, job->bias + from_n);

    for (size_t i = 0; i < rows; i++)
        _mm512_mask_storeu_ps(
            job->y + (from_m + i) * job->n + from_n, lanes,
            activated(_mm512_add_ps(_mm512_load_ps(tile + i * AMX_ROWS), bias), job->activation));
}

/* Two blocks of columns of y, or one, of a chunk of its rows. */
static void multiply(void *data, size_t index)
{
    const struct state *s = data;
    size_t first = index / s->pairs_n * CHUNK, pair = index % s->pairs_n, tiles = s->steps * AMX_TILE;
    size_t last = first + CHUNK < s->blocks_m ? first + CHUNK : s->blocks_m;
    bool two_n = 2 * pair + 1 < s->blocks_n;
    const uint16_t *right = s->job->w + 2 * pair * tiles;
    float out[4][AMX_ROWS * AMX_ROWS] __attribute__((aligned(64)));

    amx_begin();
    for (size_t block = first; block < last; block += 2) {
        bool two_m = block + 1 < last;
        const uint16_t *a = s->left + block * tiles, *b = right;
        const uint16_t *a2 = two_m ? a + tiles : a, *b2 = two_n ? b + tiles : b; /* else computed twice */

        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t step = 0; step < tiles; step += AMX_TILE) {
            _tile_loadd(6, b + step, 64);
            _tile_loadd(4, a + step, 64);
            _tile_loadd(5, a2 + step, 64);
            _tile_loadd(7, b2 + step, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, out[0], 64);
        _tile_stored(1, out[1], 64);
        _tile_stored(2, out[2], 64);
        _tile_stored(3, out[3], 64);
        for (size_t i = 0; i < 4; i++)
            if ((two_m || i / 2 == 0) && (two_n || i % 2 == 0))
                finish(s->job, out[i], block + i / 2, 2 * pair + i % 2);
    }
    _tile_release();
}

bool vlad_linear_amx(const struct vlad_linear *job, const struct vlad_pool *pool)
{
    struct state s = {
        .job = job,
        .steps = AMX_STEPS(job->k),
        .blocks_m = AMX_BLOCKS(job->m),
        .blocks_n = AMX_BLOCKS(job->n),
    };

    s.pairs_n = (s.blocks_n + 1) / 2;
    s.left = vlad_scratch(VLAD_SCRATCH_SHARED, s.blocks_m * s.steps * AMX_TILE * sizeof *s.left);
    if (!s.left)
        return false;
    pool->run(pool->self, pack, s.blocks_m, &s);
    pool->run(pool->self, multiply, (s.blocks_m + CHUNK - 1) / CHUNK * s.pairs_n, &s);
    return true;
}
