/*
 * An external delegate of TensorFlow Lite for tests: a stand-in for an accelerator's driver that can be told to
 * misbehave. It claims FULLY_CONNECTED in int8 and computes it itself, with a scale for each channel; and the custom
 * operator NeutronGraph, which the tests' converter (tests/fake_converter.py) puts in place of one.
 *
 * Options:
 *   nodes   the most nodes that it claims; all if absent
 *   fault   create | prepare | error | crash | hang | garbage: from the start; the last four at each call
 *   orders  path of a file: where it is there at a call, it holds one of the last four words; the call takes
 *           the file away and does as it says, once
 */
#include "tflite_abi.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_NODES = 4096, MAX_WORD = 16 };

struct state {
    struct tflite_delegate delegate; /* first: what the runtime holds */
    long nodes;
    char fault[MAX_WORD];
    char orders[4096];
};

struct product {
    int x, w, bias, y; /* tensors */
    int activation;
    int8_t *inner; /* y where it stays inside the partition: the runtime gives such a tensor no memory */
};

/* One claimed partition. Nodes can be asked for at its creation, but not at a call. */
struct kernel {
    struct state *state;
    int count;
    struct product products[];
};

static void *kernel_init(struct tflite_context *context, const char *buffer, size_t length)
{
    (void)length;
    const struct tflite_delegate_params *params = (const void *)buffer;
    int count = params->nodes->size;
    struct kernel *kernel = malloc(sizeof *kernel + (size_t)count * sizeof kernel->products[0]);
    if (kernel == NULL)
        return NULL;
    kernel->state = (struct state *)params->delegate;
    kernel->count = count;
    for (int i = 0; i < count; i++) {
        struct tflite_node *node;
        struct tflite_registration *registration;
        if (context->get_node(context, params->nodes->data[i], &node, &registration) != TFLITE_OK) {
            free(kernel);
            return NULL;
        }
        kernel->products[i] = (struct product){
            .x = node->inputs->data[0],
            .w = node->inputs->data[1],
            .bias = node->inputs->data[2],
            .y = node->outputs->data[0],
            .activation = node->builtin_data == NULL ? TFLITE_NO_ACTIVATION : *(const int *)node->builtin_data,
            .inner = NULL,
        };
    }
    return kernel;
}

static void kernel_free(struct tflite_context *context, void *user_data)
{
    (void)context;
    struct kernel *kernel = user_data;
    for (int i = 0; kernel != NULL && i < kernel->count; i++)
        free(kernel->products[i].inner);
    free(kernel);
}

static bool holds(const struct tflite_ints *list, int value)
{
    for (int i = 0; i < list->size; i++)
        if (list->data[i] == value)
            return true;
    return false;
}

static int kernel_prepare(struct tflite_context *context, struct tflite_node *node)
{
    struct kernel *kernel = node->user_data;
    if (kernel == NULL)
        return TFLITE_ERROR;
    for (int i = 0; i < kernel->count; i++) {
        struct product *product = &kernel->products[i];
        if (holds(node->outputs, product->y))
            continue;
        int8_t *inner = realloc(product->inner, context->tensors[product->y].bytes);
        if (inner == NULL)
            return TFLITE_ERROR;
        product->inner = inner;
    }
    return TFLITE_OK;
}

static int8_t *data_of(const struct kernel *kernel, const struct tflite_tensor *tensors, int tensor)
{
    for (int i = 0; i < kernel->count; i++)
        if (kernel->products[i].y == tensor && kernel->products[i].inner != NULL)
            return kernel->products[i].inner;
    return tensors[tensor].data;
}

static int8_t quantised(double value, int32_t zero, int activation)
{
    long rounded = lround(value) + zero;
    long low = activation == TFLITE_RELU ? (zero > -128 ? zero : -128) : -128;
    return (int8_t)(rounded < low ? low : rounded > 127 ? 127 : rounded);
}

/* y[n, out] = x[n, in] w[out, in]^T + b[out] */
static void fully_connected(const struct kernel *kernel, const struct tflite_tensor *tensors,
                            const struct product *product)
{
    const struct tflite_tensor *x = &tensors[product->x], *w = &tensors[product->w], *y = &tensors[product->y];
    const struct tflite_affine *scales = w->quantization.params;
    const int32_t *bias = tensors[product->bias].data;
    size_t outputs = (size_t)w->dims->data[0], inputs = (size_t)w->dims->data[1];
    const int8_t *from = data_of(kernel, tensors, product->x);
    int8_t *to = data_of(kernel, tensors, product->y);

    for (size_t row = 0; row < y->bytes / outputs; row++) {
        const int8_t *values = from + row * inputs;
        for (size_t out = 0; out < outputs; out++) {
            const int8_t *weights = (const int8_t *)w->data + out * inputs;
            int32_t sum = bias[out];
            for (size_t i = 0; i < inputs; i++)
                sum += (values[i] - x->params.zero_point) * weights[i];
            double scale = scales->scale->data[scales->scale->size == 1 ? 0 : out];
            double real = sum * (scale * (double)x->params.scale / (double)y->params.scale);
            to[row * outputs + out] = quantised(real, y->params.zero_point, product->activation);
        }
    }
}

/* What this call is to do wrong, "" for nothing. */
static void read_order(const struct state *state, char word[MAX_WORD])
{
    memcpy(word, state->fault, MAX_WORD);
    if (state->orders[0] == '\0')
        return;
    FILE *file = fopen(state->orders, "r");
    if (file == NULL)
        return;
    if (fscanf(file, "%15s", word) != 1)
        word[0] = '\0';
    fclose(file);
    unlink(state->orders);
}

static int kernel_invoke(struct tflite_context *context, struct tflite_node *node)
{
    const struct kernel *kernel = node->user_data;
    char order[MAX_WORD];
    read_order(kernel->state, order);
    if (strcmp(order, "error") == 0) {
        context->report_error(context, "the accelerator returned status 7");
        return TFLITE_ERROR;
    }
    if (strcmp(order, "crash") == 0)
        raise(SIGSEGV);
    while (strcmp(order, "hang") == 0)
        pause();
    for (int i = 0; i < kernel->count; i++) {
        fully_connected(kernel, context->tensors, &kernel->products[i]);
        int y = kernel->products[i].y;
        int8_t *to = data_of(kernel, context->tensors, y);
        for (size_t k = 0; strcmp(order, "garbage") == 0 && k < context->tensors[y].bytes; k++)
            to[k] = (int8_t)((int)(k * 97 % 256) - 128);
    }
    return TFLITE_OK;
}

static bool claimed(const struct tflite_context *context, const struct tflite_node *node,
                    const struct tflite_registration *registration)
{
    bool converted = registration->builtin_code == TFLITE_CUSTOM && registration->custom_name != NULL &&
                     strcmp(registration->custom_name, "NeutronGraph") == 0;
    if (registration->builtin_code != TFLITE_FULLY_CONNECTED && !converted)
        return false;
    if (node->inputs->size != 3 || node->inputs->data[2] < 0)
        return false;
    const struct tflite_tensor *x = &context->tensors[node->inputs->data[0]];
    const struct tflite_tensor *w = &context->tensors[node->inputs->data[1]];
    return x->type == TFLITE_INT8 && w->type == TFLITE_INT8 && w->quantization.type == TFLITE_AFFINE &&
           context->tensors[node->inputs->data[2]].type == TFLITE_INT32;
}

static int prepare(struct tflite_context *context, struct tflite_delegate *delegate)
{
    struct state *state = (struct state *)delegate;
    if (strcmp(state->fault, "prepare") == 0) {
        context->report_error(context, "the accelerator's firmware does not answer");
        return TFLITE_ERROR;
    }
    struct tflite_ints *plan;
    if (context->get_execution_plan(context, &plan) != TFLITE_OK)
        return TFLITE_ERROR;
    struct tflite_ints *nodes = calloc(1, sizeof *nodes + MAX_NODES * sizeof nodes->data[0]);
    if (nodes == NULL)
        return TFLITE_ERROR;
    for (int i = 0; i < plan->size && nodes->size < MAX_NODES && nodes->size < state->nodes; i++) {
        struct tflite_node *node;
        struct tflite_registration *registration;
        if (context->get_node(context, plan->data[i], &node, &registration) == TFLITE_OK &&
            claimed(context, node, registration))
            nodes->data[nodes->size++] = plan->data[i];
    }
    static const struct tflite_registration KERNEL = {
        .init = kernel_init,
        .free = kernel_free,
        .prepare = kernel_prepare,
        .invoke = kernel_invoke,
        .custom_name = "TestDelegate",
        .version = 1,
    };
    int status = context->replace_nodes(context, KERNEL, nodes, delegate);
    free(nodes);
    return status;
}

__attribute__((visibility("default"))) struct tflite_delegate *
tflite_plugin_create_delegate(const char *const *keys, const char *const *values, size_t count,
                              void (*report_error)(const char *))
{
    struct state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return NULL;
    state->nodes = MAX_NODES;
    state->delegate.prepare = prepare;
    state->delegate.flags = TFLITE_ALLOW_DYNAMIC; /* asked before nodes are prepared, which NeutronGraph cannot be */
    bool known = true;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keys[i], "nodes") == 0)
            state->nodes = strtol(values[i], NULL, 10);
        else if (strcmp(keys[i], "fault") == 0)
            snprintf(state->fault, sizeof state->fault, "%s", values[i]);
        else if (strcmp(keys[i], "orders") == 0)
            snprintf(state->orders, sizeof state->orders, "%s", values[i]);
        else
            known = false;
    }
    if (!known || strcmp(state->fault, "create") == 0) {
        report_error(known ? "no accelerator was found" : "unknown option");
        free(state);
        return NULL;
    }
    return &state->delegate;
}

/* Called with NULL after a creation that failed. */
__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(struct tflite_delegate *delegate)
{
    free(delegate);
}
