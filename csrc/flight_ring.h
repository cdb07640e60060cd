/* flight_ring.h: the newest records of one thread in memory of a fixed size, the oldest giving way.
 *
 * One writer, which never waits, takes no lock and does a bounded copy; any number of readers, which
 * take a snapshot. The memory may be a mapped file: a record counts only once it is whole, so what a
 * process leaves behind when it is killed is read like any other ring.
 */
#ifndef VLAD_FLIGHT_RING_H
#define VLAD_FLIGHT_RING_H

#include <stdatomic.h> /* positions */
#include <stdbool.h>
#include <stddef.h>    /* size_t */
#include <stdint.h>

struct vlad_flight_ring {
    uint64_t capacity;        /* of `word`, bytes; a multiple of 8 */
    _Atomic uint64_t head;    /* bytes ever written; written by the writer */
    _Atomic uint64_t tail;    /* where the oldest whole record starts; written by the writer */
    _Atomic uint64_t records; /* ever written; likewise */
    _Atomic uint64_t refused; /* larger than the ring; likewise */
    _Atomic uint64_t word[];  /* records: a header of 16 bytes, then the body padded to 8 */
};

/* Header of a record, and the parts that its body is made of. */
struct vlad_flight_head {
    uint32_t size; /* of the body, without padding */
    uint32_t kind;
    int64_t t_ns;
};
struct vlad_flight_part {
    const void *bytes;
    size_t size;
};

/* `size` bytes at `memory`, aligned to 8, become an empty ring; every page is touched. NULL: there
 * is no room for one record. */
struct vlad_flight_ring *vlad_flight_ring_init(void *memory, size_t size);

/* The writer's thread. False: the record is larger than the ring, and counted. */
bool vlad_flight_ring_add(struct vlad_flight_ring *ring, uint32_t kind, int64_t t_ns,
                          const struct vlad_flight_part *parts, int n_parts);

/* Any thread, also on a ring of another process that has died: copies the whole records, oldest
 * first, to `into` (room for `size` bytes, at least the capacity). `available`: bytes of memory from
 * `ring` on. Returns the bytes copied; -EINVAL where this is no ring: nothing in it is believed
 * before it has been checked. */
int64_t vlad_flight_ring_snapshot(const struct vlad_flight_ring *ring, size_t available,
                                  unsigned char *into, size_t size);

#endif
