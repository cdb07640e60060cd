/* The kernels of fused/ that this processor has, against their definition in double precision. */
#include "../fused/fused.h"
#include "check.h"
#include "random.h"
#include <math.h>
#include <string.h>

#define MOST (40 * 1100) /* numbers of a matrix */

static float x[MOST], k[MOST], v[MOST], mask[MOST], bias[1100], other[MOST], y[MOST];
static uint16_t w[80 * 1100], narrow[MOST];
static double product[MOST];

static void run(void *self, void (*task)(void *, size_t), size_t count, void *data)
{
    (void)self;
    for (size_t i = count; i-- > 0;) /* any order */
        task(data, i);
}

static const struct vlad_pool pool = {run, NULL};

static float uniform(void) /* -1 .. 1 */
{
    return (float)random_in(-1000000, 1000000) / 1e6f;
}

static size_t up_to(size_t most) /* 1 .. most */
{
    return (size_t)random_in(1, (int64_t)most);
}

static void fill(float *to, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++)
        to[i] = scale * uniform();
}

static uint16_t rounded(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static double widened(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float wide;

    memcpy(&wide, &bits, 4);
    return wide;
}

static double as_bfloat16(float value) { return widened(rounded(value)); }

/* `from` as it is, or in bfloat16. */
static struct vlad_values of(float *from, size_t count, bool in_bfloat16)
{
    if (!in_bfloat16)
        return (struct vlad_values){from, false};
    for (size_t i = 0; i < count; i++)
        narrow[i] = rounded(from[i]);
    return (struct vlad_values){narrow, true};
}

static double result(const struct vlad_values *values, size_t at)
{
    return values->rounded ? widened(((uint16_t *)values->data)[at]) : (double)((float *)values->data)[at];
}

static size_t place(size_t row, size_t column, size_t steps) /* of w[k][n] in tile order */
{
    return ((column / 16 * steps + row / 32) * 16 + row % 32 / 2) * 32 + column % 16 * 2 + row % 2;
}

static double finished(const struct vlad_linear *job, double sum, double met)
{
    if (job->activation == VLAD_ACTIVATION_SILU)
        sum = sum / (1 + exp(-sum));
    if (job->activation == VLAD_ACTIVATION_GELU_TANH)
        sum = 0.5 * sum * (1 + tanh(sqrt(2 / 3.141592653589793) * (sum + 0.044715 * sum * sum * sum)));
    return job->join == VLAD_JOIN_SUM ? sum + met : job->join == VLAD_JOIN_PRODUCT ? sum * met : sum;
}

static void check_linear(const struct vlad_kernels *kernels, size_t m, size_t n, size_t width, int way)
{
    size_t steps = (width + 31) / 32;
    struct vlad_linear job = {
        .w = w, .bias = bias, .m = m, .n = n, .k = width, .activation = (enum vlad_activation)(way % 3),
        .join = (enum vlad_join)(way / 3 % 3), .one_other = way % 2, .y = {y, way / 5 % 2},
    };

    fill(x, m * width, 1);
    fill(bias, n, 1);
    memset(w, 0, sizeof w);
    memset(product, 0, sizeof product);
    job.x = of(x, m * width, way / 7 % 2);
    for (size_t row = 0; row < width; row++)
        for (size_t column = 0; column < n; column++) {
            uint16_t value = rounded(uniform() / sqrtf((float)width));

            w[place(row, column, steps)] = value;
            for (size_t i = 0; i < m; i++)
                product[i * n + column] += as_bfloat16(x[i * width + row]) * widened(value);
        }
    fill(other, m * n, 2);
    if (job.join != VLAD_JOIN_NONE)
        job.other = other;
    CHECK(kernels->linear(&job, &pool));
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double met = other[job.one_other ? j : i * n + j];
            double expected = finished(&job, product[i * n + j] + (double)bias[j], met);

            CHECK(fabs(result(&job.y, i * n + j) - expected) <= 2e-5 + (job.y.rounded ? fabs(expected) / 256 : 0));
        }
}

static void check_attention(const struct vlad_kernels *kernels, size_t n, size_t s, size_t kv_heads,
                            size_t group, size_t d, int way)
{
    static double weight[1100];
    size_t heads = kv_heads * group, width = heads * d, kv_width = kv_heads * d;
    struct vlad_attention job = {
        .k = {k, false}, .v = {v, false}, .y = {y, way / 2 % 2}, .n = n, .s = s, .heads = heads,
        .kv_heads = kv_heads, .head_dim = d,
    };

    fill(x, n * width, 2);
    fill(k, s * kv_width, 1);
    fill(v, s * kv_width, 1);
    for (size_t i = 0; i < s * n; i++)
        mask[i] = i >= n && up_to(3) == 1 ? -1e30f : 0; /* each query sees the first key */
    job.mask = way % 2 ? mask : NULL;
    job.q = of(x, n * width, way / 3 % 2);
    CHECK(kernels->attention(&job, &pool));
    for (size_t head = 0; head < heads; head++)
        for (size_t i = 0; i < n; i++) {
            size_t q_at = i * width + head * d, kv_at = head / group * d;
            double highest = -1e30, sum = 0;

            for (size_t j = 0; j < s; j++) {
                weight[j] = job.mask ? (double)mask[j * n + i] : 0;
                for (size_t c = 0; c < d; c++)
                    weight[j] += as_bfloat16(x[q_at + c]) * as_bfloat16(k[j * kv_width + kv_at + c]);
                highest = fmax(highest, weight[j]);
            }
            for (size_t j = 0; j < s; j++)
                sum += weight[j] = exp(weight[j] - highest);
            for (size_t c = 0; c < d; c++) {
                double expected = 0;

                for (size_t j = 0; j < s; j++)
                    expected += weight[j] / sum * as_bfloat16(v[j * kv_width + kv_at + c]);
                CHECK(fabs(result(&job.y, q_at + c) - expected) < (job.y.rounded ? 8e-3 : 4e-3));
            }
        }
}

static void check_norm(const struct vlad_kernels *kernels, size_t n, size_t width)
{
    struct vlad_norm job = {.x = x, .weight = other, .bias = bias, .y = narrow, .n = n, .width = width, .epsilon = 1e-5f};

    fill(x, n * width, 3);
    fill(other, width, 1);
    fill(bias, width, 1);
    CHECK(kernels->norm(&job, &pool));
    for (size_t i = 0; i < n; i++) {
        double mean = 0, square = 0;

        for (size_t j = 0; j < width; j++)
            mean += (double)x[i * width + j] / (double)width;
        for (size_t j = 0; j < width; j++)
            square += pow((double)x[i * width + j] - mean, 2) / (double)width;
        for (size_t j = 0; j < width; j++) {
            double expected = ((double)x[i * width + j] - mean) / sqrt(square + 1e-5) * (double)other[j] + (double)bias[j];

            CHECK(fabs(widened(narrow[i * width + j]) - expected) <= fabs(expected) / 256 + 1e-4);
        }
    }
}

/* Bit for bit what is computed one number at a time. */
static void check_linear8(const struct vlad_kernels *kernels, size_t m, size_t n, size_t width)
{
    static int8_t w8[MOST], quanta[1100];
    struct vlad_linear8 job = {.x = x, .w = w8, .scale = other, .bias = bias, .y = y, .m = m, .n = n, .k = width};

    fill(x, m * width, up_to(2) == 1 ? 3 : 1e-15f);
    fill(other, n, 0.1f);
    fill(bias, n, 1);
    for (size_t i = 0; i < n * width; i++)
        w8[i] = (int8_t)random_in(-127, 127);
    CHECK(kernels->linear8(&job, &pool));
    for (size_t i = 0; i < m; i++) {
        float greatest = 1e-12f;

        for (size_t at = 0; at < width; at++)
            greatest = fmaxf(greatest, fabsf(x[i * width + at]));
        for (size_t at = 0; at < width; at++)
            quanta[at] = (int8_t)rintf(x[i * width + at] / greatest / (1.0f / 127));
        for (size_t j = 0; j < n; j++) {
            volatile float unit = other[j] * (1.0f / 127), scaled; /* each product is rounded */
            int32_t sum = 0;

            for (size_t at = 0; at < width; at++)
                sum += quanta[at] * w8[j * width + at];
            scaled = (float)sum * unit;
            scaled = scaled * greatest;
            scaled = scaled + bias[j];
            CHECK(memcmp(&y[i * n + j], (const float[]){scaled}, sizeof(float)) == 0);
        }
    }
}

/* What is not a number comes out as none: the gate counts on it. */
static void check_not_a_number(const struct vlad_kernels *kernels)
{
    struct vlad_linear job = {
        .x = {x, false}, .y = {y, true}, .w = w, .bias = bias, .m = 3, .n = 20, .k = 33,
        .activation = VLAD_ACTIVATION_GELU_TANH,
    };

    fill(x, 99, 1);
    memset(w, 0x3f, 64 * 32 * sizeof *w);
    x[40] = NAN;
    CHECK(kernels->linear(&job, &pool));
    for (size_t i = 0; i < 60; i++)
        CHECK(isnan(result(&job.y, i)) == (i / 20 == 1));
    if (kernels->linear8) {
        struct vlad_linear8 whole = {.x = x, .w = (const int8_t *)w, .scale = bias, .bias = bias, .y = y, .m = 3, .n = 20, .k = 33};

        CHECK(kernels->linear8(&whole, &pool));
        for (size_t i = 0; i < 60; i++)
            CHECK(isnan(y[i]) == (i / 20 == 1));
    }
}

int main(void)
{
    const struct vlad_kernels *kernels = vlad_kernels();

    if (!kernels) {
        printf("%s: 1 checks: this processor has no kernels, ONNX Runtime computes the functions\n", __FILE__);
        return 0;
    }
    for (int i = 0; i < 40; i++)
        check_linear(kernels, up_to(40), up_to(70), up_to(300), i);
    check_linear(kernels, 32, 48, 96, 7); /* read where it lies */
    check_linear(kernels, 300, 33, 40, 0);
    check_linear(kernels, 1, 1100, 33, 3);
    for (int i = 0; i < 24; i++)
        check_attention(kernels, up_to(40), up_to(70), up_to(2), up_to(3), (size_t[]){1, 8, 24, 64, 70}[up_to(5) - 1], i);
    for (size_t width = 1; width < 100; width += 7)
        check_norm(kernels, width % 17 + 1, width);
    for (int i = 0; kernels->linear8 && i < 30; i++)
        check_linear8(kernels, up_to(30), up_to(140), up_to(200));
    check_not_a_number(kernels);
    CHECK_DONE();
}
