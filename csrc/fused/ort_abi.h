/* ort_abi.h: as much of ONNX Runtime's C interface as an operator library needs.
 *
 * Its header is not in the Python wheel. The interface is a table of functions to which releases
 * only append, so an entry is known by its number; structures that this library fills in carry the
 * version they were written for. Numbers: onnxruntime_c_api.h of 1.29, of version 20 and below. */
#ifndef VLAD_ORT_ABI_H
#define VLAD_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define VLAD_ORT_API_VERSION 20 /* the oldest release that pyproject.toml allows */

enum vlad_ort_entry { /* place in the table */
    VLAD_ORT_CREATE_STATUS = 0,
    VLAD_ORT_CREATE_CUSTOM_OP_DOMAIN = 26,
    VLAD_ORT_CUSTOM_OP_DOMAIN_ADD = 27,
    VLAD_ORT_ADD_CUSTOM_OP_DOMAIN = 28,
    VLAD_ORT_GET_TENSOR_MUTABLE_DATA = 51,
    VLAD_ORT_GET_TENSOR_ELEMENT_TYPE = 60,
    VLAD_ORT_GET_DIMENSIONS_COUNT = 61,
    VLAD_ORT_GET_DIMENSIONS = 62,
    VLAD_ORT_GET_TENSOR_TYPE_AND_SHAPE = 65,
    VLAD_ORT_KERNEL_INFO_GET_ATTRIBUTE_FLOAT = 85,
    VLAD_ORT_KERNEL_INFO_GET_ATTRIBUTE_INT64 = 86,
    VLAD_ORT_KERNEL_CONTEXT_GET_INPUT_COUNT = 88,
    VLAD_ORT_KERNEL_CONTEXT_GET_INPUT = 90,
    VLAD_ORT_KERNEL_CONTEXT_GET_OUTPUT = 91,
    VLAD_ORT_RELEASE_TENSOR_TYPE_AND_SHAPE_INFO = 99,
    VLAD_ORT_KERNEL_CONTEXT_PARALLEL_FOR = 274,
};

enum { VLAD_ORT_ANY_TYPE = 0, VLAD_ORT_FLOAT = 1, VLAD_ORT_UINT8 = 2, VLAD_ORT_INT8 = 3, VLAD_ORT_INT64 = 7, VLAD_ORT_BFLOAT16 = 16 };
enum { VLAD_ORT_REQUIRED = 0, VLAD_ORT_OPTIONAL = 1 };
enum { VLAD_ORT_INVALID_ARGUMENT = 2 };

typedef void (*vlad_ort_function)(void);
struct vlad_ort_api { vlad_ort_function entry[VLAD_ORT_KERNEL_CONTEXT_PARALLEL_FOR + 1]; };
struct vlad_ort_api_base {
    const struct vlad_ort_api *(*get_api)(uint32_t version); /* NULL: not supported */
    const char *(*get_version)(void);
};

typedef struct vlad_ort_status vlad_ort_status; /* NULL: no error */
typedef struct vlad_ort_value vlad_ort_value;
typedef struct vlad_ort_shape vlad_ort_shape;
typedef struct vlad_ort_info vlad_ort_info;
typedef struct vlad_ort_context vlad_ort_context;
typedef struct vlad_ort_domain vlad_ort_domain;
typedef struct vlad_ort_options vlad_ort_options;

struct vlad_ort_op { /* OrtCustomOp, all of it up to version 20 */
    uint32_t version;
    void *(*create)(const struct vlad_ort_op *, const struct vlad_ort_api *, const vlad_ort_info *);
    const char *(*name)(const struct vlad_ort_op *);
    const char *(*provider)(const struct vlad_ort_op *);
    int (*input_type)(const struct vlad_ort_op *, size_t);
    size_t (*input_count)(const struct vlad_ort_op *);
    int (*output_type)(const struct vlad_ort_op *, size_t);
    size_t (*output_count)(const struct vlad_ort_op *);
    void (*compute)(void *, vlad_ort_context *);
    void (*destroy)(void *);
    int (*input_characteristic)(const struct vlad_ort_op *, size_t);
    int (*output_characteristic)(const struct vlad_ort_op *, size_t);
    int (*input_memory)(const struct vlad_ort_op *, size_t);
    int (*variadic_input_arity)(const struct vlad_ort_op *);
    int (*variadic_input_homogeneity)(const struct vlad_ort_op *);
    int (*variadic_output_arity)(const struct vlad_ort_op *);
    int (*variadic_output_homogeneity)(const struct vlad_ort_op *);
    vlad_ort_status *(*create_v2)(const struct vlad_ort_op *, const struct vlad_ort_api *,
                                  const vlad_ort_info *, void **kernel);
    vlad_ort_status *(*compute_v2)(void *kernel, vlad_ort_context *);
    vlad_ort_status *(*infer_shape)(const struct vlad_ort_op *, void *);
    int (*start_version)(const struct vlad_ort_op *);
    int (*end_version)(const struct vlad_ort_op *);
    size_t (*may_inplace)(int **, int **);
    void (*release_may_inplace)(int *, int *);
    size_t (*alias_map)(int **, int **);
    void (*release_alias_map)(int *, int *);
};

/* One entry of the table, called as the function type that its number has. */
#define VLAD_ORT_CALL(api, number, type) ((type)(api)->entry[number])

#endif
