/* control_thread.h: what control_socket.c (any thread) shares with control_thread.c and
 * control_line.c (the control thread). */
#ifndef VLAD_CONTROL_THREAD_H
#define VLAD_CONTROL_THREAD_H

#include <pthread.h>   /* the thread, the lock among repliers */
#include <stdatomic.h> /* counters, stopping */

#include "control_client.h"
#include "control_listener.h"
#include "control_socket.h"
#include "record_ring.h"
#include "seqlock.h"

#define VLAD_CONTROL_SLOTS (VLAD_CONTROL_MAX_CLIENTS + VLAD_CONTROL_RESERVE)
#define VLAD_CONTROL_RING_BYTES (1u << 20)
#define VLAD_CONTROL_LOWERING_BYTES (1u << 11) /* 64 of them */

struct vlad_control_socket {
    char path[128];
    gid_t gids[VLAD_CONTROL_MAX_GIDS];
    size_t n_gids;
    int max_clients;
    uid_t own_uid;
    vlad_lower_fn lower;
    void *lower_context;
    int64_t half_open_ns, stalled_ns;

    struct vlad_control_listener listener;
    int spare_fd; /* given up to accept, and refuse, one client when descriptors run out */
    int64_t accept_after_ns;
    uint32_t generation; /* of the newest connection */
    struct vlad_control_client client[VLAD_CONTROL_SLOTS];
    gid_t groups[NGROUPS_MAX]; /* scratch */
    char reply[VLAD_CONTROL_MAX_REPLY];

    struct vlad_record_ring requests; /* control thread -> Python */
    struct vlad_record_ring lowerings; /* control thread -> Python: holds and limps, each */
    struct vlad_record_ring replies;  /* Python -> control thread */
    int request_fd, wake_fd;          /* eventfds: something is in the ring, or stop */
    pthread_mutex_t reply_lock;       /* among the repliers; the control thread never takes it */

    pthread_t thread;
    _Atomic int stopping;                /* written by stop, read by all */
    _Atomic uint64_t live[VLAD_CONTROL_SLOTS]; /* token or 0; control thread, read by next */
    _Atomic uint64_t counter[VLAD_CC_N]; /* control thread; ABANDONED: next */
    _Atomic unsigned clients;            /* the control thread */
    _Atomic uint64_t lower_epoch;        /* the control thread */
    _Atomic int64_t beat_ns;             /* the control thread */
    struct {
        struct vlad_seqlock lock;
        _Alignas(8) struct vlad_control_lowered body;
    } lowered; /* the control thread */

    unsigned char lowering_bytes[VLAD_CONTROL_LOWERING_BYTES];
    unsigned char request_bytes[VLAD_CONTROL_RING_BYTES], reply_bytes[VLAD_CONTROL_RING_BYTES];
};

_Static_assert(sizeof(struct vlad_control_lowered) % 8 == 0, "copied word by word");

static inline void vlad_control_count(struct vlad_control_socket *control,
                                      enum vlad_control_counter counter)
{
    atomic_fetch_add_explicit(&control->counter[counter], 1, memory_order_relaxed);
}

static inline void vlad_control_longest(struct vlad_control_socket *control,
                                        enum vlad_control_counter counter, int64_t ns)
{
    if ((uint64_t)ns > atomic_load_explicit(&control->counter[counter], memory_order_relaxed))
        atomic_store_explicit(&control->counter[counter], (uint64_t)ns, memory_order_relaxed);
}

static inline uint64_t vlad_control_token(const struct vlad_control_socket *control,
                                          const struct vlad_control_client *client)
{
    return (uint64_t)client->generation << 8 | (uint64_t)(client - control->client);
}

static inline bool vlad_control_in_reserve(const struct vlad_control_socket *control,
                                           const struct vlad_control_client *client)
{
    return client - control->client >= VLAD_CONTROL_MAX_CLIENTS;
}

/* control_line.c. Writes an error reply, newline included, under 512 bytes: its size. `id` as
 * written, or NULL. */
size_t vlad_control_error(char into[512], const char *id, size_t id_size, const char *code,
                          const char *message);

/* Acts on one line of a client: stops at once, forwards, or answers with an error. */
void vlad_control_serve_line(struct vlad_control_socket *control,
                             struct vlad_control_client *client, const char *line, size_t size,
                             int64_t pass_ns);

/* The thread's main: serves until `stopping`. */
void *vlad_control_thread(void *control);

#endif
