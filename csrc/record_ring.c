#include "record_ring.h"

#include <string.h> /* memcpy */

void vlad_record_ring_init(struct vlad_record_ring *ring, void *bytes, size_t capacity,
                           size_t header_size)
{
    ring->bytes = bytes;
    ring->capacity = capacity;
    ring->header_size = header_size;
    atomic_init(&ring->pushed, 0);
    atomic_init(&ring->popped, 0);
}

static size_t copy_in(struct vlad_record_ring *ring, size_t at, const void *from, size_t size)
{
    size_t offset = at & (ring->capacity - 1);
    size_t first = size < ring->capacity - offset ? size : ring->capacity - offset;

    if (first)
        memcpy(ring->bytes + offset, from, first);
    if (size > first)
        memcpy(ring->bytes, (const unsigned char *)from + first, size - first);
    return at + size;
}

static size_t copy_out(struct vlad_record_ring *ring, size_t at, void *into, size_t size)
{
    size_t offset = at & (ring->capacity - 1);
    size_t first = size < ring->capacity - offset ? size : ring->capacity - offset;

    if (first)
        memcpy(into, ring->bytes + offset, first);
    if (size > first)
        memcpy((unsigned char *)into + first, ring->bytes, size - first);
    return at + size;
}

bool vlad_record_ring_push(struct vlad_record_ring *ring, const void *header, const void *body,
                           size_t size)
{
    size_t at = atomic_load_explicit(&ring->pushed, memory_order_relaxed);
    size_t popped = atomic_load_explicit(&ring->popped, memory_order_acquire);
    size_t room = ring->capacity - (at - popped);

    if (sizeof size + ring->header_size + size > room)
        return false;
    at = copy_in(ring, at, &size, sizeof size);
    at = copy_in(ring, at, header, ring->header_size);
    at = copy_in(ring, at, body, size);
    atomic_store_explicit(&ring->pushed, at, memory_order_release);
    return true;
}

ssize_t vlad_record_ring_pop(struct vlad_record_ring *ring, void *header, void *body)
{
    size_t at = atomic_load_explicit(&ring->popped, memory_order_relaxed);
    size_t size;

    if (at == atomic_load_explicit(&ring->pushed, memory_order_acquire))
        return -1;
    at = copy_out(ring, at, &size, sizeof size);
    at = copy_out(ring, at, header, ring->header_size);
    at = copy_out(ring, at, body, size);
    atomic_store_explicit(&ring->popped, at, memory_order_release);
    return (ssize_t)size;
}
