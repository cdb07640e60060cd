/*
 * The part of TensorFlow Lite's C interface for delegates that delegate.c uses, declared anew: no package
 * ships its headers. Layouts and numbers are facts of tflite/core/c/common.h, c_api_types.h,
 * builtin_op_data.h and delegates/external/external_delegate_interface.h in google-ai-edge/LiteRT; they are
 * the same in tflite-runtime 2.14 and ai-edge-litert 2.3, and tests/unit/test_litert.py runs on them.
 *
 * What is only stepped over is `unused`. A context is always the runtime's own, so its end is left out.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TFLITE_OK = 0, TFLITE_ERROR = 1 };
enum { TFLITE_INT32 = 2, TFLITE_INT8 = 9 };
enum { TFLITE_FULLY_CONNECTED = 9, TFLITE_CUSTOM = 32 }; /* BuiltinOperator of the schema */
enum { TFLITE_AFFINE = 1 };
enum { TFLITE_ALLOW_DYNAMIC = 1 }; /* a flag of a delegate */
enum { TFLITE_NO_ACTIVATION = 0, TFLITE_RELU = 1 };

struct tflite_ints {
    int size;
    int data[];
};

struct tflite_floats {
    int size;
    float data[];
};

struct tflite_affine {
    struct tflite_floats *scale;
    struct tflite_ints *zero_point;
    int32_t quantized_dimension;
};

struct tflite_tensor {
    int type;
    void *data;
    struct tflite_ints *dims;
    struct {
        float scale;
        int32_t zero_point;
    } params;
    int allocation_type;
    size_t bytes;
    const void *allocation;
    const char *name;
    void *delegate;
    int buffer_handle;
    bool data_is_stale;
    bool is_variable;
    struct {
        int type;
        void *params;
    } quantization;
    void *sparsity;
    const struct tflite_ints *dims_signature;
};

struct tflite_node {
    struct tflite_ints *inputs;
    struct tflite_ints *outputs;
    struct tflite_ints *intermediates;
    struct tflite_ints *temporaries;
    void *user_data;
    void *builtin_data; /* of a FULLY_CONNECTED: its activation, an int, comes first */
};

struct tflite_context;

struct tflite_registration {
    void *(*init)(struct tflite_context *context, const char *buffer, size_t length);
    void (*free)(struct tflite_context *context, void *user_data);
    int (*prepare)(struct tflite_context *context, struct tflite_node *node);
    int (*invoke)(struct tflite_context *context, struct tflite_node *node);
    const char *(*profiling_string)(const struct tflite_context *, const struct tflite_node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *unused_external;
    void *unused_async;
    uint64_t unused_inplace;
};

struct tflite_delegate {
    void *data;
    int (*prepare)(struct tflite_context *context, struct tflite_delegate *delegate);
    void *unused_buffer_handles[3];
    int64_t flags;
    void *unused_opaque;
};

/* What `init` of a delegate's registration is given as its buffer. */
struct tflite_delegate_params {
    struct tflite_delegate *delegate;
    struct tflite_ints *nodes;
    struct tflite_ints *inputs;
    struct tflite_ints *outputs;
};

struct tflite_context {
    size_t tensors_size;
    int (*get_execution_plan)(struct tflite_context *, struct tflite_ints **plan);
    struct tflite_tensor *tensors;
    void *unused_impl;
    void *unused_resize_tensor;
    void (*report_error)(struct tflite_context *, const char *format, ...);
    void *unused_add_tensors;
    int (*get_node)(struct tflite_context *, int index, struct tflite_node **, struct tflite_registration **);
    int (*replace_nodes)(struct tflite_context *, struct tflite_registration, const struct tflite_ints *nodes,
                         struct tflite_delegate *);
};
