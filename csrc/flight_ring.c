#include "flight_ring.h"

#include <errno.h>  /* EINVAL */
#include <string.h> /* memset, memcpy */

#define HEAD sizeof(struct vlad_flight_head)

_Static_assert(HEAD == 16, "a header is two words");

static uint64_t padded(uint64_t size)
{
    return (size + 7) & ~UINT64_C(7);
}

struct vlad_flight_ring *vlad_flight_ring_init(void *memory, size_t size)
{
    struct vlad_flight_ring *ring = memory;

    if (size < sizeof *ring + 2 * HEAD)
        return NULL;
    memset(memory, 0, size);
    ring->capacity = (size - sizeof *ring) & ~UINT64_C(7);
    return ring;
}

static uint64_t word_at(const struct vlad_flight_ring *ring, uint64_t at)
{
    return atomic_load_explicit(&ring->word[at % ring->capacity / 8], memory_order_relaxed);
}

/* Word by word with relaxed atomics, so that a reader's race is defined behaviour (as seqlock.h). */
static uint64_t put(struct vlad_flight_ring *ring, uint64_t at, const void *from, size_t size)
{
    const unsigned char *bytes = from;

    for (size_t done = 0; done < size; done += 8) {
        uint64_t word = 0;

        memcpy(&word, bytes + done, size - done < 8 ? size - done : 8);
        atomic_store_explicit(&ring->word[(at + done) % ring->capacity / 8], word,
                              memory_order_relaxed);
    }
    return at + padded(size);
}

static uint64_t length_at(const struct vlad_flight_ring *ring, uint64_t at)
{
    return HEAD + padded((uint32_t)word_at(ring, at));
}

bool vlad_flight_ring_add(struct vlad_flight_ring *ring, uint32_t kind, int64_t t_ns,
                          const struct vlad_flight_part *parts, int n_parts)
{
    uint64_t at = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    struct vlad_flight_head head = { .kind = kind, .t_ns = t_ns };
    uint64_t size = 0;

    for (int i = 0; i < n_parts; i++)
        size += padded(parts[i].size); /* each part starts on a word */
    if (size > UINT32_MAX || HEAD + size > ring->capacity) {
        atomic_fetch_add_explicit(&ring->refused, 1, memory_order_relaxed);
        return false;
    }
    head.size = (uint32_t)size;
    while (at + HEAD + size - tail > ring->capacity)
        tail += length_at(ring, tail);
    atomic_store_explicit(&ring->tail, tail, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* given up before it is overwritten */
    at = put(ring, at, &head, HEAD);
    for (int i = 0; i < n_parts; i++)
        at = put(ring, at, parts[i].bytes, parts[i].size);
    atomic_store_explicit(&ring->head, at, memory_order_release);
    atomic_fetch_add_explicit(&ring->records, 1, memory_order_relaxed);
    return true;
}

/* Whole records from `from` to `to` and nothing else. */
static bool well_formed(const unsigned char *bytes, uint64_t size)
{
    struct vlad_flight_head head;

    for (uint64_t at = 0; at < size; at += HEAD + padded(head.size)) {
        if (size - at < HEAD)
            return false;
        memcpy(&head, bytes + at, HEAD);
        if (padded(head.size) > size - at - HEAD)
            return false;
    }
    return true;
}

int64_t vlad_flight_ring_snapshot(const struct vlad_flight_ring *ring, size_t available,
                                  unsigned char *into, size_t size)
{
    uint64_t head, first, whole;

    if (available < sizeof *ring || ring->capacity % 8 || ring->capacity == 0 ||
        ring->capacity > available - sizeof *ring || ring->capacity > size)
        return -EINVAL;
    head = atomic_load_explicit(&ring->head, memory_order_acquire);
    first = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (first % 8 || head % 8 || first > INT64_MAX || head > INT64_MAX)
        return -EINVAL;
    if (first > head)
        return 0; /* all that was there when `head` was read has been overwritten since */
    if (head - first > ring->capacity)
        return -EINVAL;
    for (uint64_t at = first; at < head; at += 8) {
        uint64_t word = word_at(ring, at);

        memcpy(into + (at - first), &word, 8);
    }
    atomic_thread_fence(memory_order_acquire);
    whole = atomic_load_explicit(&ring->tail, memory_order_relaxed); /* older ones may be torn */
    if (whole % 8 || whole < first)
        return -EINVAL;
    if (whole >= head)
        return 0;
    memmove(into, into + (whole - first), head - whole);
    return well_formed(into, head - whole) ? (int64_t)(head - whole) : -EINVAL;
}
