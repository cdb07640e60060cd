/* fused_ops.c: the kernels of fused.h as operators of ONNX Runtime, domain `vlad`.
 *
 *     Linear and what continues its name         bfloat16
 *     AttentionBfloat16 and its like             bfloat16
 *     LayerNormRounded                           float32 to bfloat16
 *     LinearToken8                               int8, on aarch64
 *     Rope                                       float32, on any processor; the others where it has kernels
 *
 * A file that uses one defines it as a function of the same name in plain ONNX, which
 * vlad/build/functions.py writes and documents: where an operator is not registered, ONNX Runtime
 * computes that. */
#include "fused.h"
#include "ort_abi.h"

#include <pthread.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

typedef vlad_ort_status *(*status_of_input)(const vlad_ort_context *, size_t, const vlad_ort_value **);
typedef vlad_ort_status *(*status_of_output)(vlad_ort_context *, size_t, const int64_t *, size_t, vlad_ort_value **);
typedef vlad_ort_status *(*status_of_shape)(const vlad_ort_value *, vlad_ort_shape **);
typedef vlad_ort_status *(*status_of_count)(const vlad_ort_shape *, size_t *);
typedef vlad_ort_status *(*status_of_dims)(const vlad_ort_shape *, int64_t *, size_t);
typedef vlad_ort_status *(*status_of_data)(vlad_ort_value *, void **);
typedef vlad_ort_status *(*status_of_integer)(const vlad_ort_info *, const char *, int64_t *);
typedef vlad_ort_status *(*status_of_float)(const vlad_ort_info *, const char *, float *);
typedef vlad_ort_status *(*status_of_type)(const vlad_ort_shape *, int *);
typedef vlad_ort_status *(*status_of_for)(const vlad_ort_context *, void (*)(void *, size_t), size_t, size_t, void *);
typedef vlad_ort_status *(*status_of_domain)(const char *, vlad_ort_domain **);
typedef vlad_ort_status *(*status_of_op)(vlad_ort_domain *, const struct vlad_ort_op *);
typedef vlad_ort_status *(*status_of_options)(vlad_ort_options *, vlad_ort_domain *);
typedef vlad_ort_status *(*status_of_text)(int, const char *);
typedef void (*release_shape)(vlad_ort_shape *);

struct operator;
struct kernel {
    const struct vlad_ort_api *api;
    const struct operator *op;
    const struct vlad_kernels *run; /* but of Rope */
    int64_t heads, kv_heads; /* of attention */
    float epsilon;           /* of a norm */
};

struct operator { /* `op` first: what ONNX Runtime hands back is an operator of ours */
    struct vlad_ort_op op;
    const char *name;
    size_t inputs;
    bool rounded; /* y is bfloat16 */
    enum vlad_activation activation;
    enum vlad_join join;
};

struct matrix { /* a vector has one row */
    void *data;
    int64_t rows, columns;
    int type;
};

struct threads { const struct vlad_ort_api *api; const vlad_ort_context *context; bool failed; };

static vlad_ort_status *error(const struct vlad_ort_api *api, const char *text)
{
    return VLAD_ORT_CALL(api, VLAD_ORT_CREATE_STATUS, status_of_text)(VLAD_ORT_INVALID_ARGUMENT, text);
}

static void run(void *self, void (*task)(void *, size_t), size_t count, void *data)
{
    struct threads *threads = self;

    /* Its only error is a context that is none. */
    if (VLAD_ORT_CALL(threads->api, VLAD_ORT_KERNEL_CONTEXT_PARALLEL_FOR, status_of_for)(
            threads->context, task, count, 0, data))
        threads->failed = true;
}

static vlad_ort_status *input(const struct vlad_ort_api *api, const vlad_ort_context *context, size_t index,
                              struct matrix *out)
{
    const vlad_ort_value *value;
    vlad_ort_shape *shape;
    vlad_ort_status *status;
    int64_t dims[2] = {1, 1};
    size_t rank = 0;

    status = VLAD_ORT_CALL(api, VLAD_ORT_KERNEL_CONTEXT_GET_INPUT, status_of_input)(context, index, &value);
    if (status)
        return status;
    status = VLAD_ORT_CALL(api, VLAD_ORT_GET_TENSOR_TYPE_AND_SHAPE, status_of_shape)(value, &shape);
    if (status)
        return status;
    status = VLAD_ORT_CALL(api, VLAD_ORT_GET_DIMENSIONS_COUNT, status_of_count)(shape, &rank);
    if (!status && (rank < 1 || rank > 2))
        status = error(api, "an input of a vlad operator is neither a vector nor a matrix");
    if (!status)
        status = VLAD_ORT_CALL(api, VLAD_ORT_GET_DIMENSIONS, status_of_dims)(shape, dims + 2 - rank, rank);
    if (!status)
        status = VLAD_ORT_CALL(api, VLAD_ORT_GET_TENSOR_ELEMENT_TYPE, status_of_type)(shape, &out->type);
    VLAD_ORT_CALL(api, VLAD_ORT_RELEASE_TENSOR_TYPE_AND_SHAPE_INFO, release_shape)(shape);
    if (status)
        return status;
    out->rows = dims[0];
    out->columns = dims[1];
    return VLAD_ORT_CALL(api, VLAD_ORT_GET_TENSOR_MUTABLE_DATA, status_of_data)((vlad_ort_value *)value, &out->data);
}

static vlad_ort_status *inputs(const struct vlad_ort_api *api, const vlad_ort_context *context, size_t count,
                               struct matrix *out)
{
    for (size_t i = 0; i < count; i++) {
        vlad_ort_status *status = input(api, context, i, &out[i]);

        if (status)
            return status;
    }
    return NULL;
}

static vlad_ort_status *output(const struct vlad_ort_api *api, vlad_ort_context *context, int64_t rows,
                               int64_t columns, void **data)
{
    const int64_t dims[2] = {rows, columns};
    vlad_ort_value *value;
    vlad_ort_status *status = VLAD_ORT_CALL(api, VLAD_ORT_KERNEL_CONTEXT_GET_OUTPUT, status_of_output)(
        context, 0, dims, 2, &value);

    return status ? status : VLAD_ORT_CALL(api, VLAD_ORT_GET_TENSOR_MUTABLE_DATA, status_of_data)(value, data);
}

static bool is_values(const struct matrix *in)
{
    return in->type == VLAD_ORT_FLOAT || in->type == VLAD_ORT_BFLOAT16;
}

static struct vlad_values values(const struct matrix *in)
{
    return (struct vlad_values){in->data, in->type == VLAD_ORT_BFLOAT16};
}

static vlad_ort_status *linear(void *self, vlad_ort_context *context)
{
    struct kernel *kernel = self;
    struct threads threads = {kernel->api, context, false};
    struct matrix in[4];
    struct vlad_linear job;
    vlad_ort_status *status = inputs(kernel->api, context, kernel->op->inputs, in);

    if (status)
        return status;
    if (in[2].rows != 1 || in[1].rows != (in[2].columns + 15) / 16 ||
        in[1].columns != (in[0].columns + 31) / 32 * 512 || !is_values(&in[0]))
        return error(kernel->api, "vlad.Linear: x [m, k], w and bias [n] do not fit each other");
    if (kernel->op->join != VLAD_JOIN_NONE &&
        (in[3].columns != in[2].columns || (in[3].rows != 1 && in[3].rows != in[0].rows)))
        return error(kernel->api, "vlad.Linear: the other operand is neither [m, n] nor [1, n]");
    job = (struct vlad_linear){
        .x = values(&in[0]), .y = {NULL, kernel->op->rounded}, .w = in[1].data, .bias = in[2].data,
        .m = (size_t)in[0].rows, .n = (size_t)in[2].columns, .k = (size_t)in[0].columns,
        .activation = kernel->op->activation, .join = kernel->op->join,
    };
    if (job.join != VLAD_JOIN_NONE) {
        job.other = in[3].data;
        job.one_other = in[3].rows == 1;
    }
    status = output(kernel->api, context, in[0].rows, in[2].columns, &job.y.data);
    if (status || !job.m || !job.n)
        return status;
    if (!kernel->run->linear(&job, &(struct vlad_pool){run, &threads}) || threads.failed)
        return error(kernel->api, "vlad.Linear: out of memory");
    return NULL;
}

static vlad_ort_status *linear8(void *self, vlad_ort_context *context)
{
    struct kernel *kernel = self;
    struct threads threads = {kernel->api, context, false};
    struct matrix in[4];
    struct vlad_linear8 job;
    void *y;
    vlad_ort_status *status = inputs(kernel->api, context, 4, in); /* the last is of the function alone */

    if (status)
        return status;
    if (in[1].columns != in[0].columns || in[1].columns < 1 || in[2].rows != 1 || in[3].rows != 1 ||
        in[2].columns != in[1].rows || in[3].columns != in[1].rows)
        return error(kernel->api, "vlad.LinearToken8: x [m, k], w [n, k], scale and bias [n] do not fit each other");
    status = output(kernel->api, context, in[0].rows, in[1].rows, &y);
    if (status || !in[0].rows || !in[1].rows)
        return status;
    job = (struct vlad_linear8){
        .x = in[0].data, .w = in[1].data, .scale = in[2].data, .bias = in[3].data, .y = y, .m = (size_t)in[0].rows,
        .n = (size_t)in[1].rows, .k = (size_t)in[0].columns,
    };
    if (!kernel->run->linear8(&job, &(struct vlad_pool){run, &threads}) || threads.failed)
        return error(kernel->api, "vlad.LinearToken8: out of memory");
    return NULL;
}

static vlad_ort_status *attention(void *self, vlad_ort_context *context)
{
    struct kernel *kernel = self;
    struct threads threads = {kernel->api, context, false};
    int64_t heads = kernel->heads, kv_heads = kernel->kv_heads;
    bool masked = kernel->op->inputs == 4;
    struct matrix in[4];
    struct vlad_attention job;
    vlad_ort_status *status = inputs(kernel->api, context, kernel->op->inputs, in);

    if (status)
        return status;
    if (in[0].columns % heads || heads % kv_heads || in[1].rows != in[2].rows || in[1].columns != in[2].columns ||
        in[1].columns != in[0].columns / heads * kv_heads || in[1].rows < 1 || !is_values(&in[0]) ||
        !is_values(&in[1]) || !is_values(&in[2]) ||
        (masked && (in[3].rows != in[1].rows || in[3].columns != in[0].rows)))
        return error(kernel->api, "vlad.Attention: q, k, v and mask do not fit each other");
    job = (struct vlad_attention){
        .q = values(&in[0]), .k = values(&in[1]), .v = values(&in[2]), .y = {NULL, kernel->op->rounded},
        .mask = masked ? in[3].data : NULL, .n = (size_t)in[0].rows, .s = (size_t)in[1].rows,
        .heads = (size_t)heads, .kv_heads = (size_t)kv_heads, .head_dim = (size_t)(in[0].columns / heads),
    };
    status = output(kernel->api, context, in[0].rows, in[0].columns, &job.y.data);
    if (status || !job.n)
        return status;
    if (!kernel->run->attention(&job, &(struct vlad_pool){run, &threads}) || threads.failed)
        return error(kernel->api, "vlad.Attention: out of memory");
    return NULL;
}

static vlad_ort_status *norm(void *self, vlad_ort_context *context)
{
    struct kernel *kernel = self;
    struct threads threads = {kernel->api, context, false};
    struct matrix in[3];
    struct vlad_norm job;
    void *y;
    vlad_ort_status *status = inputs(kernel->api, context, 3, in);

    if (status)
        return status;
    if (in[1].rows != 1 || in[2].rows != 1 || in[1].columns != in[0].columns || in[2].columns != in[0].columns)
        return error(kernel->api, "vlad.LayerNorm: x [n, width], weight and bias [width] do not fit each other");
    status = output(kernel->api, context, in[0].rows, in[0].columns, &y);
    if (status || !in[0].rows || !in[0].columns)
        return status;
    job = (struct vlad_norm){
        .x = in[0].data, .weight = in[1].data, .bias = in[2].data, .y = y, .n = (size_t)in[0].rows,
        .width = (size_t)in[0].columns, .epsilon = kernel->epsilon,
    };
    if (!kernel->run->norm(&job, &(struct vlad_pool){run, &threads}) || threads.failed)
        return error(kernel->api, "vlad.LayerNorm: its threads failed");
    return NULL;
}

static vlad_ort_status *rope(void *self, vlad_ort_context *context)
{
    struct kernel *kernel = self;
    struct matrix in[3];
    void *y;
    vlad_ort_status *status = inputs(kernel->api, context, 3, in);

    if (status)
        return status;
    if (in[1].columns < 1 || in[0].columns % (2 * in[1].columns) || in[1].rows != in[0].rows ||
        in[2].rows != in[1].rows || in[2].columns != in[1].columns)
        return error(kernel->api, "vlad.Rope: x [n, heads * 2 * half], cos and sin [n, half] do not fit each other");
    status = output(kernel->api, context, in[0].rows, in[0].columns, &y);
    if (!status)
        vlad_rope(in[0].data, in[1].data, in[2].data, y, (size_t)in[0].rows,
                  (size_t)(in[0].columns / (2 * in[1].columns)), (size_t)in[1].columns);
    return status;
}

static const struct operator *of(const struct vlad_ort_op *op) { return (const struct operator *)op; }
static const char *name(const struct vlad_ort_op *op) { return of(op)->name; }
static const char *provider(const struct vlad_ort_op *op) { (void)op; return NULL; /* the CPU */ }
static size_t input_count(const struct vlad_ort_op *op) { return of(op)->inputs; }
static int input_type(const struct vlad_ort_op *op, size_t index)
{
    if (of(op)->op.compute_v2 == linear && index < 2)
        return index ? VLAD_ORT_BFLOAT16 : VLAD_ORT_ANY_TYPE;
    if (of(op)->op.compute_v2 == linear8 && (index == 1 || index == 4))
        return index == 1 ? VLAD_ORT_INT8 : VLAD_ORT_UINT8;
    return of(op)->op.compute_v2 == attention && index < 3 ? VLAD_ORT_ANY_TYPE : VLAD_ORT_FLOAT;
}
static int output_type(const struct vlad_ort_op *op, size_t index)
{
    (void)index;
    return of(op)->rounded ? VLAD_ORT_BFLOAT16 : VLAD_ORT_FLOAT;
}
static size_t one(const struct vlad_ort_op *op) { (void)op; return 1; }
static int required(const struct vlad_ort_op *op, size_t index) { (void)op; (void)index; return VLAD_ORT_REQUIRED; }
static int zero(const struct vlad_ort_op *op, size_t index) { (void)op; (void)index; return 0; }
static int arity(const struct vlad_ort_op *op) { (void)op; return 1; }
static int first_version(const struct vlad_ort_op *op) { (void)op; return 1; }

static vlad_ort_status *heads(const struct vlad_ort_api *api, const vlad_ort_info *info, struct kernel *kernel)
{
    const struct { const char *name; int64_t *to; } read[] = {
        {"heads", &kernel->heads}, {"kv_heads", &kernel->kv_heads},
    };

    for (int i = 0; i < 2; i++) {
        vlad_ort_status *status = VLAD_ORT_CALL(api, VLAD_ORT_KERNEL_INFO_GET_ATTRIBUTE_INT64,
                                                status_of_integer)(info, read[i].name, read[i].to);

        if (status)
            return status;
        if (*read[i].to < 1)
            return error(api, "vlad.Attention: heads and kv_heads must be 1 or more");
    }
    return NULL;
}

static vlad_ort_status *create(const struct vlad_ort_op *op, const struct vlad_ort_api *api,
                               const vlad_ort_info *info, void **out)
{
    struct kernel *kernel = calloc(1, sizeof *kernel);
    vlad_ort_status *status = NULL;

    if (!kernel)
        return error(api, "out of memory");
    kernel->api = api;
    kernel->op = of(op);
    kernel->run = vlad_kernels();
    if (op->compute_v2 == attention)
        status = heads(api, info, kernel);
    else if (op->compute_v2 == norm)
        status = VLAD_ORT_CALL(api, VLAD_ORT_KERNEL_INFO_GET_ATTRIBUTE_FLOAT, status_of_float)(
            info, "epsilon", &kernel->epsilon);
    if (status) {
        free(kernel);
        return status;
    }
    *out = kernel;
    return NULL;
}

#define COMMON                                                                                        \
    .version = VLAD_ORT_API_VERSION, .name = name, .provider = provider, .input_type = input_type,    \
    .input_count = input_count, .output_type = output_type, .output_count = one, .destroy = free,         \
    .input_characteristic = required, .output_characteristic = required, .input_memory = zero,        \
    .variadic_input_arity = arity, .variadic_input_homogeneity = arity, .variadic_output_arity = arity, \
    .variadic_output_homogeneity = arity, .create_v2 = create, .start_version = first_version,        \
    .end_version = first_version

#define LINEAR .op = {COMMON, .compute_v2 = linear}
#define ATTENTION .op = {COMMON, .compute_v2 = attention}

static const struct operator everywhere[] = {
    {.op = {COMMON, .compute_v2 = rope}, .name = "Rope", .inputs = 3},
};
static const struct operator with_kernels[] = {
    {LINEAR, .name = "Linear", .inputs = 3},
    {LINEAR, .name = "LinearGelu", .inputs = 3, .activation = VLAD_ACTIVATION_GELU_TANH},
    {LINEAR, .name = "LinearSilu", .inputs = 3, .activation = VLAD_ACTIVATION_SILU},
    {LINEAR, .name = "LinearAdd", .inputs = 4, .join = VLAD_JOIN_SUM},
    {LINEAR, .name = "LinearMul", .inputs = 4, .join = VLAD_JOIN_PRODUCT},
    {LINEAR, .name = "LinearRounded", .inputs = 3, .rounded = true},
    {LINEAR, .name = "LinearGeluRounded", .inputs = 3, .activation = VLAD_ACTIVATION_GELU_TANH, .rounded = true},
    {LINEAR, .name = "LinearMulRounded", .inputs = 4, .join = VLAD_JOIN_PRODUCT, .rounded = true},
    {ATTENTION, .name = "AttentionBfloat16", .inputs = 3},
    {ATTENTION, .name = "MaskedAttentionBfloat16", .inputs = 4},
    {ATTENTION, .name = "AttentionBfloat16Rounded", .inputs = 3, .rounded = true},
    {ATTENTION, .name = "MaskedAttentionBfloat16Rounded", .inputs = 4, .rounded = true},
    {.op = {COMMON, .compute_v2 = norm}, .name = "LayerNormRounded", .inputs = 3, .rounded = true},
};
static const struct operator with_linear8[] = {
    {.op = {COMMON, .compute_v2 = linear8}, .name = "LinearToken8", .inputs = 5},
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static vlad_ort_status *add(const struct vlad_ort_api *api, vlad_ort_domain *domain, const struct operator *ops,
                            size_t count)
{
    for (size_t i = 0; i < count; i++) {
        vlad_ort_status *status = VLAD_ORT_CALL(api, VLAD_ORT_CUSTOM_OP_DOMAIN_ADD, status_of_op)(domain, &ops[i].op);

        if (status)
            return status;
    }
    return NULL;
}

EXPORT vlad_ort_status *RegisterCustomOps(vlad_ort_options *options, const struct vlad_ort_api_base *base);

/* Adds what this processor can run to the options; found by name. One domain serves all sessions. */
vlad_ort_status *RegisterCustomOps(vlad_ort_options *options, const struct vlad_ort_api_base *base)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static vlad_ort_domain *domain;
    const struct vlad_ort_api *api = base->get_api(VLAD_ORT_API_VERSION);
    vlad_ort_status *status = NULL;

    if (!api)
        return error(base->get_api(1), "vlad's operators need ONNX Runtime 1.20 or later");
    pthread_mutex_lock(&lock);
    if (!domain) {
        const struct vlad_kernels *kernels = vlad_kernels();
        vlad_ort_domain *made;

        status = VLAD_ORT_CALL(api, VLAD_ORT_CREATE_CUSTOM_OP_DOMAIN, status_of_domain)("vlad", &made);
        if (!status)
            status = add(api, made, everywhere, COUNT(everywhere));
        if (!status && kernels)
            status = add(api, made, with_kernels, COUNT(with_kernels));
        if (!status && kernels && kernels->linear8)
            status = add(api, made, with_linear8, COUNT(with_linear8));
        if (!status)
            domain = made;
    }
    pthread_mutex_unlock(&lock);
    if (!status)
        status = VLAD_ORT_CALL(api, VLAD_ORT_ADD_CUSTOM_OP_DOMAIN, status_of_options)(options, domain);
    return status;
}
