/* record_ring.h: variable-size records from one thread to another, neither ever waiting for the
 * other. A record is a header of fixed size and a body. One producer, one consumer.
 */
#ifndef VLAD_RECORD_RING_H
#define VLAD_RECORD_RING_H

#include <stdatomic.h> /* positions */
#include <stdbool.h>
#include <stddef.h>    /* size_t */
#include <sys/types.h> /* ssize_t */

struct vlad_record_ring {
    unsigned char *bytes;
    size_t capacity;       /* a power of two */
    size_t header_size;
    _Atomic size_t pushed; /* bytes ever; written by the producer, read by the consumer */
    _Atomic size_t popped; /* bytes ever; written by the consumer, read by the producer */
};

void vlad_record_ring_init(struct vlad_record_ring *ring, void *bytes, size_t capacity,
                           size_t header_size);

/* Producer. False when there is no room: nothing was stored. */
bool vlad_record_ring_push(struct vlad_record_ring *ring, const void *header, const void *body,
                           size_t size);

/* Consumer. Size of the body, or -1 when the ring is empty. `body` must have room for the largest
 * body that is ever pushed. */
ssize_t vlad_record_ring_pop(struct vlad_record_ring *ring, void *header, void *body);

#endif
