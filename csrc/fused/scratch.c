/* scratch.c: see fused.h. */
#include "fused.h"

#include <pthread.h>
#include <stdlib.h>

struct buffer { void *memory; size_t bytes; };

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int no_key;

static void release(void *value)
{
    struct buffer *buffers = value;

    for (int i = 0; i < VLAD_SCRATCH_COUNT; i++)
        free(buffers[i].memory);
    free(buffers);
}

static void make_key(void)
{
    no_key = pthread_key_create(&key, release);
}

void *vlad_scratch(enum vlad_scratch which, size_t bytes)
{
    struct buffer *buffers;

    pthread_once(&once, make_key);
    if (no_key)
        return NULL;
    buffers = pthread_getspecific(key);
    if (!buffers) {
        buffers = calloc(VLAD_SCRATCH_COUNT, sizeof *buffers);
        if (!buffers || pthread_setspecific(key, buffers)) {
            free(buffers);
            return NULL;
        }
    }
    if (buffers[which].bytes < bytes) {
        free(buffers[which].memory);
        bytes = (bytes + 4095) / 4096 * 4096;
        buffers[which].memory = aligned_alloc(64, bytes);
        buffers[which].bytes = buffers[which].memory ? bytes : 0;
    }
    return buffers[which].memory;
}
