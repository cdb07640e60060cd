/* attention_amx.c: see fused.h. Scores are computed transposed, a row for each key and a lane for
 * each query: so the softmax runs down the rows, with no sum across lanes, and its result is the
 * right factor of the second product without being moved. */
#include "fused.h"

#include "amx.h"

#define QUERIES (2 * AMX_ROWS) /* of one task */

struct state {
    const struct vlad_attention *job;
    uint16_t *keys;   /* [kv head][block of s][step of d] tiles, left factor */
    uint16_t *values; /* [kv head][block of d][step of s] tiles, left factor, transposed */
    size_t steps_d, blocks_d, steps_s, tiles, groups;
    _Atomic bool failed;
};

static size_t at_most(size_t value, size_t limit)
{
    return value < limit ? value : limit;
}

static void pack(void *data, size_t head)
{
    struct state *s = data;
    const struct vlad_attention *job = s->job;
    size_t width = job->kv_heads * job->head_dim, d = job->head_dim;
    uint16_t *to = s->keys + head * s->tiles * AMX_TILE;

    for (size_t row = 0; row < s->steps_s * AMX_STEP; row++)
        for (size_t step = 0; step < s->steps_d; step++) {
            size_t count = row < job->s ? d - step * AMX_STEP : 0;
            uint16_t *tile = to + (row / AMX_ROWS * s->steps_d + step) * AMX_TILE;

            _mm512_store_si512(tile + row % AMX_ROWS * AMX_STEP,
                               count ? amx_load(&job->k, row * width + head * d + step * AMX_STEP, count)
                                     : _mm512_setzero_si512());
        }
    to = s->values + head * s->tiles * AMX_TILE;
    for (size_t block = 0; block < s->blocks_d; block++)
        for (size_t step = 0; step < s->steps_s; step++, to += AMX_TILE) {
            __m512i r[2][AMX_ROWS];
            __mmask16 lanes = amx_lanes(d - block * AMX_ROWS);

            for (size_t i = 0; i < AMX_STEP; i++) {
                size_t row = step * AMX_STEP + i, at = row * width + head * d + block * AMX_ROWS;

                r[i / AMX_ROWS][i % AMX_ROWS] =
                    row < job->s ? (__m512i)amx_widen(&job->v, at, lanes) : _mm512_setzero_si512();
            }
            amx_transpose(r[0]);
            amx_transpose(r[1]);
            for (size_t i = 0; i < AMX_ROWS; i++)
                _mm512_store_si512(to + i * AMX_STEP,
                                   (__m512i)_mm512_cvtne2ps_pbh((__m512)r[1][i], (__m512)r[0][i]));
        }
}

/* Scores [s][QUERIES] of packed queries. */
static void multiply_keys(const struct state *s, const uint16_t *keys, const uint16_t *queries, float *scores)
{
    for (size_t block = 0; block < 2 * s->steps_s; block += 2, scores += QUERIES * 2 * AMX_ROWS) {
        const uint16_t *b = queries;

        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t step = 0; step < s->steps_d; step++, b += AMX_TILE) {
            const uint16_t *a = keys + (block * s->steps_d + step) * AMX_TILE;

            _tile_loadd(4, a, 64);
            _tile_loadd(6, b, 64);
            _tile_loadd(7, b + s->steps_d * AMX_TILE, 64);
            _tile_loadd(5, a + s->steps_d * AMX_TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, scores, QUERIES * sizeof *scores);
        _tile_stored(1, scores + AMX_ROWS, QUERIES * sizeof *scores);
        _tile_stored(2, scores + QUERIES * AMX_ROWS, QUERIES * sizeof *scores);
        _tile_stored(3, scores + QUERIES * AMX_ROWS + AMX_ROWS, QUERIES * sizeof *scores);
    }
}

/* Softmax of one block of queries down the keys, as the tiles of a right factor, not yet divided by
 * the sum. Returns 1 / sum. `mask` is that of the block's `count` queries. */
static __m512 soften(const struct state *s, float *scores, const float *mask, size_t count, uint16_t *tiles)
{
    const __m512 log2e = _mm512_set1_ps(1.44269504f);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                           22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    size_t keys = s->job->s, rows = s->steps_s * AMX_STEP;
    __m512 highest[4], sum = _mm512_setzero_ps(), shift;

    if (mask)
        for (size_t row = 0; row < keys; row++) {
            __m512 more = _mm512_maskz_loadu_ps(amx_lanes(count), mask + row * s->job->n);

            _mm512_store_ps(scores + row * QUERIES, _mm512_add_ps(_mm512_load_ps(scores + row * QUERIES), more));
        }
    for (size_t row = keys; row < rows; row++) /* keys that do not exist */
        _mm512_store_ps(scores + row * QUERIES, _mm512_set1_ps(-1e30f));
    for (int i = 0; i < 4; i++)
        highest[i] = _mm512_set1_ps(-1e30f);
    for (size_t row = 0; row < rows; row++)
        highest[row % 4] = _mm512_max_ps(highest[row % 4], _mm512_load_ps(scores + row * QUERIES));
    shift = _mm512_max_ps(_mm512_max_ps(highest[0], highest[1]), _mm512_max_ps(highest[2], highest[3]));
    shift = _mm512_mul_ps(shift, log2e);
    for (size_t row = 0; row < rows; row += 2) {
        __m512 p[2];

        for (size_t i = 0; i < 2; i++) {
            p[i] = amx_exp2_coarse(_mm512_fmsub_ps(_mm512_load_ps(scores + (row + i) * QUERIES), log2e, shift));
            sum = _mm512_add_ps(sum, p[i]);
        }
        _mm512_store_si512(tiles + row * AMX_ROWS,
                           _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0])));
    }
    return _mm512_div_ps(_mm512_set1_ps(1.0f), sum);
}

/* Weighted values of two blocks of queries, to the result from `y` on: `weights` are their tiles, one block after
 * the other. */
static void multiply_values(const struct state *s, const uint16_t *values, const uint16_t *weights,
                            const __m512 scale[2], size_t y, size_t count)
{
    size_t width = s->job->heads * s->job->head_dim;
    float out[4][AMX_ROWS * AMX_ROWS] __attribute__((aligned(64)));

    for (size_t block = 0; block < s->blocks_d; block += 2) {
        bool two = block + 1 < s->blocks_d;
        const uint16_t *a = values + block * s->steps_s * AMX_TILE, *b = weights;
        const uint16_t *other = two ? a + s->steps_s * AMX_TILE : a;

        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t step = 0; step < s->steps_s; step++, a += AMX_TILE, other += AMX_TILE, b += AMX_TILE) {
            _tile_loadd(4, a, 64);
            _tile_loadd(6, b, 64);
            _tile_loadd(7, b + s->steps_s * AMX_TILE, 64);
            _tile_loadd(5, other, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, out[0], 64);
        _tile_stored(1, out[1], 64);
        _tile_stored(2, out[2], 64);
        _tile_stored(3, out[3], 64);
        for (size_t i = 0; i < 2; i++) { /* of queries */
            size_t from = block * AMX_ROWS, left = s->job->head_dim - from;
            const __mmask16 lanes[2] = {amx_lanes(left), two ? amx_lanes(left - AMX_ROWS) : 0};
            __m512i r[2][AMX_ROWS];

            for (size_t j = 0; j < 2; j++) {
                for (size_t row = 0; row < AMX_ROWS; row++)
                    r[j][row] = (__m512i)_mm512_mul_ps(_mm512_load_ps(out[2 * j + i] + row * AMX_ROWS), scale[i]);
                amx_transpose(r[j]);
            }
            for (size_t row = 0; row < AMX_ROWS && i * AMX_ROWS + row < count; row++)
                amx_store(&s->job->y, y + (i * AMX_ROWS + row) * width + from,
                          (const __m512[2]){(__m512)r[0][row], (__m512)r[1][row]}, lanes);
        }
    }
}

static void attend(void *data, size_t index)
{
    struct state *s = data;
    const struct vlad_attention *job = s->job;
    size_t head = index / s->groups, from = index % s->groups * QUERIES;
    size_t kv_head = head * job->kv_heads / job->heads, width = job->heads * job->head_dim;
    size_t count = at_most(job->n - from, QUERIES), first = at_most(count, AMX_ROWS);
    size_t rows = s->steps_s * AMX_STEP, packed = s->steps_d * AMX_TILE;
    size_t at = from * width + head * job->head_dim;
    const float *mask = job->mask ? job->mask + from : NULL;
    __m512 scale[2];
    uint16_t *queries, *weights;
    float *scores = vlad_scratch(VLAD_SCRATCH_OWN, rows * QUERIES * (sizeof *scores + sizeof *weights) +
                                                       2 * packed * sizeof *queries);

    if (!scores) {
        s->failed = true;
        return;
    }
    weights = (uint16_t *)(scores + rows * QUERIES);
    queries = weights + rows * QUERIES;
    amx_pack_right(&job->q, at, width, first, job->head_dim, queries);
    amx_pack_right(&job->q, at + first * width, width, count - first, job->head_dim, queries + packed);
    amx_begin();
    multiply_keys(s, s->keys + kv_head * s->tiles * AMX_TILE, queries, scores);
    scale[0] = soften(s, scores, mask, first, weights);
    scale[1] = soften(s, scores + AMX_ROWS, mask ? mask + first : NULL, count - first, weights + rows * AMX_ROWS);
    multiply_values(s, s->values + kv_head * s->tiles * AMX_TILE, weights, scale, at, count);
    _tile_release();
}

bool vlad_attention_amx(const struct vlad_attention *job, const struct vlad_pool *pool)
{
    struct state s = {
        .job = job,
        .steps_d = AMX_STEPS(job->head_dim),
        .blocks_d = AMX_BLOCKS(job->head_dim),
        .steps_s = AMX_STEPS(job->s),
        .groups = (job->n + QUERIES - 1) / QUERIES,
    };

    s.tiles = 2 * s.steps_s * s.steps_d; /* of one head; blocks_d * steps_s is not more */
    s.keys = vlad_scratch(VLAD_SCRATCH_SHARED, 2 * job->kv_heads * s.tiles * AMX_TILE * sizeof *s.keys);
    if (!s.keys)
        return false;
    s.values = s.keys + job->kv_heads * s.tiles * AMX_TILE;
    pool->run(pool->self, pack, job->kv_heads, &s);
    pool->run(pool->self, attend, job->heads * s.groups, &s);
    return !s.failed;
}
