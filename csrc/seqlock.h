/* seqlock.h: a record with one writer and any number of readers; the writer never waits.
 *
 *     struct snapshot { struct vlad_seqlock lock; struct body body; };
 *     vlad_seqlock_write(&s.lock, &s.body, &value, sizeof value);
 *     vlad_seqlock_read(&s.lock, &s.body, &value, sizeof value);
 *
 * The body is copied word by word with relaxed atomics, so the race that a seqlock lives on is
 * defined behaviour in C11 and clean under ThreadSanitizer. Its size must be a multiple of 8.
 */
#ifndef VLAD_SEQLOCK_H
#define VLAD_SEQLOCK_H

#include <stdatomic.h> /* sequence and words */
#include <stddef.h>    /* size_t */
#include <stdint.h>
#include <string.h>    /* memcpy of one word */

struct vlad_seqlock {
    _Atomic uint64_t seq; /* odd while the one writer writes */
};

static inline void vlad_seqlock_write(struct vlad_seqlock *lock, void *body, const void *from,
                                      size_t size)
{
    uint64_t seq = atomic_load_explicit(&lock->seq, memory_order_relaxed);
    _Atomic uint64_t *to = body;
    const unsigned char *bytes = from;

    atomic_store_explicit(&lock->seq, seq + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    for (size_t i = 0; i < size / 8; i++) {
        uint64_t word;
        memcpy(&word, bytes + 8 * i, 8);
        atomic_store_explicit(&to[i], word, memory_order_relaxed);
    }
    atomic_store_explicit(&lock->seq, seq + 2, memory_order_release);
}

/* Spins while a write is under way: for readers that are not real time. */
static inline void vlad_seqlock_read(struct vlad_seqlock *lock, void *body, void *into, size_t size)
{
    _Atomic uint64_t *from = body;
    unsigned char *bytes = into;

    for (;;) {
        uint64_t before = atomic_load_explicit(&lock->seq, memory_order_acquire);
        for (size_t i = 0; i < size / 8; i++) {
            uint64_t word = atomic_load_explicit(&from[i], memory_order_relaxed);
            memcpy(bytes + 8 * i, &word, 8);
        }
        atomic_thread_fence(memory_order_acquire);
        if (!(before & 1) && atomic_load_explicit(&lock->seq, memory_order_relaxed) == before)
            return;
    }
}

#endif
