/* linear_amx.c: see fused.h. The transpose of y is computed, tile by tile, as w x^T: so w is a left
 * factor and is read in the order in which it lies in the file, and only x has to be rearranged. */
#include "fused.h"

#include "amx.h"

#define CHUNK 16 /* blocks of rows of x that stay in the cache while w passes by */

struct state {
    const struct vlad_linear *job;
    uint16_t *right; /* x^T: [block of m][step of k] tiles */
    size_t steps, blocks_m, blocks_n, pairs_n, chunk;
    _Atomic bool failed;
};

static void pack(void *data, size_t block)
{
    struct state *s = data;
    size_t from = block * AMX_ROWS, k = s->job->k;
    size_t rows = s->job->m - from < AMX_ROWS ? s->job->m - from : AMX_ROWS;

    amx_pack_right(s->job->x + from * k, k, rows, k, s->right + block * s->steps * AMX_TILE);
}

/* Two blocks of rows of w to tiles, rows and columns that do not exist as 0. */
static void pack_left(const struct state *s, size_t pair, uint16_t *left)
{
    size_t n = s->job->n, k = s->job->k;

    for (size_t i = 0; i < 2 * AMX_ROWS; i++) {
        size_t row = pair * 2 * AMX_ROWS + i;
        const uint16_t *from = s->job->w + row * k;
        uint16_t *to = left + i / AMX_ROWS * s->steps * AMX_TILE + i % AMX_ROWS * AMX_STEP;

        for (size_t step = 0; step < s->steps; step++, to += AMX_TILE) {
            size_t count = row < n ? k - step * AMX_STEP : 0;
            __mmask32 lanes = count >= AMX_STEP ? ~(__mmask32)0 : (__mmask32)((1ull << count) - 1);

            _mm512_store_si512(to, _mm512_maskz_loadu_epi16(lanes, from + step * AMX_STEP));
        }
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

/* One tile of the transpose of y to its place. */
static void finish(const struct state *s, const float *tile, size_t block_m, size_t block_n)
{
    const struct vlad_linear *job = s->job;
    size_t from_m = block_m * AMX_ROWS, from_n = block_n * AMX_ROWS;
    size_t rows = job->m - from_m < AMX_ROWS ? job->m - from_m : AMX_ROWS;
    __mmask16 lanes = amx_lanes(job->n - from_n);
    __m512 bias = job->bias ? _mm512_maskz_loadu_ps(lanes, job->bias + from_n) : _mm512_setzero_ps();
    __m512i r[AMX_ROWS];

    for (int i = 0; i < AMX_ROWS; i++)
        r[i] = _mm512_load_si512(tile + i * AMX_ROWS);
    amx_transpose(r);
    for (size_t i = 0; i < rows; i++)
        _mm512_mask_storeu_ps(job->y + (from_m + i) * job->n + from_n, lanes,
                              activated(_mm512_add_ps((__m512)r[i], bias), job->activation));
}

static void multiply(void *data, size_t index)
{
    struct state *s = data;
    size_t chunk = index / s->pairs_n, pair = index % s->pairs_n, tiles = s->steps * AMX_TILE;
    size_t last = (chunk + 1) * s->chunk < s->blocks_m ? (chunk + 1) * s->chunk : s->blocks_m;
    uint16_t *left = vlad_scratch(VLAD_SCRATCH_OWN, 2 * tiles * sizeof *left);
    float out[4][AMX_ROWS * AMX_ROWS] __attribute__((aligned(64)));

    if (!left) {
        s->failed = true;
        return;
    }
    pack_left(s, pair, left);
    amx_begin();
    for (size_t block = chunk * s->chunk; block < last; block += 2) {
        const uint16_t *a = left, *b = s->right + block * tiles;
        bool two = block + 1 < last;

        _tile_zero(0);
        _tile_zero(1);
        if (two) {
            _tile_zero(2);
            _tile_zero(3);
            for (size_t step = 0; step < s->steps; step++, a += AMX_TILE, b += AMX_TILE) {
                _tile_loadd(4, a, 64);
                _tile_loadd(6, b, 64);
                _tile_loadd(5, a + tiles, 64);
                _tile_loadd(7, b + tiles, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 5, 6);
                _tile_dpbf16ps(2, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(2, out[2], 64);
            _tile_stored(3, out[3], 64);
        } else {
            for (size_t step = 0; step < s->steps; step++, a += AMX_TILE, b += AMX_TILE) {
                _tile_loadd(4, a, 64);
                _tile_loadd(6, b, 64);
                _tile_loadd(5, a + tiles, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 5, 6);
            }
        }
        _tile_stored(0, out[0], 64);
        _tile_stored(1, out[1], 64);
        for (size_t i = 0; i < (two ? 4u : 2u); i++)
            if (2 * pair + i % 2 < s->blocks_n)
                finish(s, out[i], block + i / 2, 2 * pair + i % 2);
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
        .chunk = CHUNK,
    };

    s.pairs_n = (s.blocks_n + 1) / 2;
    s.right = vlad_scratch(VLAD_SCRATCH_SHARED, s.blocks_m * s.steps * AMX_TILE * sizeof *s.right);
    if (!s.right)
        return false;
    pool->run(pool->self, pack, s.blocks_m, &s);
    pool->run(pool->self, multiply, (s.blocks_m + CHUNK - 1) / CHUNK * s.pairs_n, &s);
    return !s.failed;
}
