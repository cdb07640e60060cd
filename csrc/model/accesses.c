/* What -fsanitize=thread makes the compiler call, and races between plain accesses. */
#include <stdio.h>  /* names */
#include <stdlib.h> /* calloc */

#include "parts.h"

#define REGIONS 8

struct byte {
    uint32_t run; /* of another execution: never touched in this one */
    uint16_t written;
    uint16_t read[MODEL_THREADS];
    int8_t writer;
    bool atomic;
};

static struct region {
    const char *name;
    unsigned char *at;
    size_t size;
    unsigned char *before; /* its contents after `begin` */
    struct byte *byte;     /* NULL: belongs to one thread, or to none */
} region[REGIONS];
static int regions;

static void copy(unsigned char *to, const unsigned char *from, size_t size)
{
    __builtin_memcpy(to, from, size);
}

void model_watch(const char *name, void *at, size_t size, bool shared)
{
    struct region *r = &region[regions++];

    if (regions > REGIONS)
        model_fail("more than %d regions", REGIONS);
    *r = (struct region){.name = name, .at = at, .size = size, .before = malloc(size)};
    if (shared)
        r->byte = calloc(size, sizeof *r->byte);
    if (!r->before || (shared && !r->byte))
        exit(2);
}

void model_watch_reset(void)
{
    for (int i = 0; i < regions; i++) {
        free(region[i].before);
        free(region[i].byte);
    }
    regions = 0;
}

void model_save(void)
{
    for (int i = 0; i < regions; i++)
        copy(region[i].before, region[i].at, region[i].size);
}

void model_restore(void)
{
    for (int i = 0; i < regions; i++)
        copy(region[i].at, region[i].before, region[i].size);
}

static struct region *region_of(const void *at)
{
    for (int i = 0; i < regions; i++)
        if ((uintptr_t)at - (uintptr_t)region[i].at < region[i].size)
            return &region[i];
    return NULL;
}

const char *model_name(const void *at)
{
    static char text[80];
    const struct region *r = region_of(at);

    snprintf(text, sizeof text, "%s+%#zx", r ? r->name : "?",
             r ? (size_t)((const unsigned char *)at - r->at) : (size_t)at);
    return text;
}

static struct byte *byte_of(struct region *r, const void *at)
{
    struct byte *byte = &r->byte[(const unsigned char *)at - r->at];

    if (byte->run != model_run)
        *byte = (struct byte){.run = model_run, .writer = -1};
    return byte;
}

void model_touch_atomic(const void *at, int size)
{
    struct region *r = region_of(at);

    if (r && r->byte)
        for (int i = 0; i < size; i++)
            byte_of(r, (const unsigned char *)at + i)->atomic = true;
}

static void touch(const void *at, size_t size, bool write)
{
    struct region *r;
    const struct view *view;

    if (model_self < 0 || size == 0)
        return;
    r = region_of(at);
    if (!r || !r->byte)
        return;
    view = model_view(model_self);
    for (size_t i = 0; i < size; i++) {
        const unsigned char *here = (const unsigned char *)at + i;
        struct byte *byte = byte_of(r, here);

        if (byte->atomic)
            model_fail("plain %s of the atomic %s", write ? "write" : "read", model_name(here));
        if (byte->writer >= 0 && byte->writer != model_self &&
            byte->written > view->clock[byte->writer])
            model_fail("race: %s of %s, which thread %d wrote", write ? "write" : "read",
                       model_name(here), byte->writer);
        for (int t = 0; write && t < MODEL_THREADS; t++)
            if (t != model_self && byte->read[t] > view->clock[t])
                model_fail("race: write of %s, which thread %d reads", model_name(here), t);
        if (write) {
            byte->writer = (int8_t)model_self;
            byte->written = view->clock[model_self];
        } else {
            byte->read[model_self] = view->clock[model_self];
        }
    }
}

/* --- what is called instead of the C library's ------------------------------------------------ */

void *model_memcpy(void *to, const void *from, size_t size);
void *model_memmove(void *to, const void *from, size_t size);
void *model_memset(void *to, int value, size_t size);
int model_memcmp(const void *a, const void *b, size_t size);

void *model_memcpy(void *to, const void *from, size_t size)
{
    touch(from, size, false);
    touch(to, size, true);
    return __builtin_memcpy(to, from, size);
}

void *model_memmove(void *to, const void *from, size_t size)
{
    touch(from, size, false);
    touch(to, size, true);
    return __builtin_memmove(to, from, size);
}

void *model_memset(void *to, int value, size_t size)
{
    touch(to, size, true);
    return __builtin_memset(to, value, size);
}

int model_memcmp(const void *a, const void *b, size_t size)
{
    touch(a, size, false);
    touch(b, size, false);
    return __builtin_memcmp(a, b, size);
}

/* --- what the compiler calls ------------------------------------------------------------------ */

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wbuiltin-declaration-mismatch"

void __tsan_init(void) {}
void __tsan_func_entry(void *caller) { (void)caller; }
void __tsan_func_exit(void) {}
void __tsan_read_range(void *at, size_t size) { touch(at, size, false); }
void __tsan_write_range(void *at, size_t size) { touch(at, size, true); }

#define PLAIN(n)                                                     \
    void __tsan_read##n(void *at) { touch(at, n, false); }           \
    void __tsan_write##n(void *at) { touch(at, n, true); }           \
    void __tsan_unaligned_read##n(void *at) { touch(at, n, false); } \
    void __tsan_unaligned_write##n(void *at) { touch(at, n, true); }
PLAIN(1) PLAIN(2) PLAIN(4) PLAIN(8) PLAIN(16)

#define MODIFY(bits, name, op)                                                               \
    uint##bits##_t __tsan_atomic##bits##_##name(void *at, uint##bits##_t value, int order) \
    {                                                                                        \
        return (uint##bits##_t)model_atomic(op, at, bits / 8, order, value);                 \
    }
#define ATOMIC(bits)                                                                    \
    uint##bits##_t __tsan_atomic##bits##_load(const void *at, int order)              \
    {                                                                                   \
        return (uint##bits##_t)model_atomic(LOAD, (void *)at, bits / 8, order, 0);    \
    }                                                                                   \
    void __tsan_atomic##bits##_store(void *at, uint##bits##_t value, int order)       \
    {                                                                                   \
        model_atomic(STORE, at, bits / 8, order, value);                                \
    }                                                                                   \
    MODIFY(bits, exchange, EXCHANGE)                                                    \
    MODIFY(bits, fetch_or, OR)                                                          \
    MODIFY(bits, fetch_and, AND)                                                        \
    MODIFY(bits, fetch_add, ADD)                                                        \
    MODIFY(bits, fetch_sub, SUB)
ATOMIC(8) ATOMIC(16) ATOMIC(32) ATOMIC(64)

void __tsan_atomic_thread_fence(int order) { model_fence(order); }
void __tsan_atomic_signal_fence(int order) { (void)order; }
