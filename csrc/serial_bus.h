/* serial_bus.h: requests and replies over a half-duplex serial line, each within an absolute
 * deadline (CLOCK_MONOTONIC ns), every failure counted.
 *
 * Before each request the input is drained and flushed: a late reply of an earlier request must
 * never be taken for the answer to this one. Replies are verified by id, length and checksum.
 * A frame that could not be sent whole by its deadline is spoilt (see vlad_serial_send), so that no
 * servo can complete it with bytes of the next frame.
 *
 * One thread uses a bus at a time; only the counters may be read from another.
 */
#ifndef VLAD_SERIAL_BUS_H
#define VLAD_SERIAL_BUS_H

#include <stdatomic.h> /* the counters */
#include <sys/types.h> /* ssize_t */

#include "feetech.h"

/* The system calls, so that tests can inject every errno. All return -errno on failure. */
struct vlad_serial_ops {
    ssize_t (*read)(void *port, void *buffer, size_t n); /* 0 = hung up; never blocks */
    ssize_t (*write)(void *port, const void *buffer, size_t n); /* never blocks */
    /* Waits for POLLIN or POLLOUT in `events`; returns revents, 0 when timeout_ns have passed. */
    int (*poll)(void *port, short events, int64_t timeout_ns);
    int (*flush_input)(void *port); /* tcflush(TCIFLUSH); -ENOTTY where there is no terminal */
    int64_t (*now_ns)(void *port);
};

/* port = a pointer to the descriptor (int), which must be as vlad_serial_prepare() leaves it. */
extern const struct vlad_serial_ops vlad_serial_posix;

/* Makes an open descriptor non-blocking and, if it is a terminal, raw with VMIN = 1, without which
 * "no data" and "hung up" look the same. baud 0 leaves the speed alone. 0 or -errno. */
int vlad_serial_prepare(int fd, int baud);

enum vlad_serial_counter {
    VLAD_SERIAL_FRAMES_TX,
    VLAD_SERIAL_FRAMES_RX,       /* good and asked for */
    VLAD_SERIAL_BYTES_TX,
    VLAD_SERIAL_BYTES_RX,
    VLAD_SERIAL_TIMEOUTS,        /* requests that at least one servo left unanswered */
    VLAD_SERIAL_MISSING_REPLIES, /* servos that did so */
    VLAD_SERIAL_CHECKSUM_ERRORS,
    VLAD_SERIAL_WRONG_ID,        /* good frame of a servo that was not asked, or had answered */
    VLAD_SERIAL_SHORT_REPLIES,   /* good frame of fewer bytes than asked, or cut off at the deadline */
    VLAD_SERIAL_RESYNC_BYTES,    /* dropped in search of a frame */
    VLAD_SERIAL_STALE_BYTES,     /* found in the input before a request */
    VLAD_SERIAL_STATUS_ERRORS,   /* replies with a status bit set */
    VLAD_SERIAL_SHORT_WRITES,    /* write() took a part */
    VLAD_SERIAL_ABORTED_FRAMES,  /* not fully written by the deadline */
    VLAD_SERIAL_ECHO_MISSING,    /* with echo on: the request did not come back first */
    VLAD_SERIAL_HANGUPS,
    VLAD_SERIAL_EAGAIN,
    VLAD_SERIAL_EINTR,
    VLAD_SERIAL_ERRORS,          /* every other errno; see errno_counts */
    VLAD_SERIAL_N_COUNTERS
};
const char *vlad_serial_counter_name(enum vlad_serial_counter counter); /* "frames_tx", ... */

#define VLAD_SERIAL_N_ERRNO 134 /* Linux errno values are 1..133 */

struct vlad_serial_bus {
    const struct vlad_serial_ops *ops;
    void *port;
    bool echo; /* the adapter returns what we send; it is then expected first and skipped */
    /* Written by the thread that uses the bus, read by any. */
    _Atomic uint64_t counters[VLAD_SERIAL_N_COUNTERS];
    _Atomic uint64_t errno_counts[VLAD_SERIAL_N_ERRNO];
    struct vlad_feetech_parser parser;
    uint8_t frame[VLAD_FEETECH_MAX_FRAME]; /* the request */
    uint8_t spoilt[VLAD_FEETECH_MAX_FRAME]; /* rest of an aborted frame, checksum inverted */
    int n_spoilt;
    uint32_t garbled; /* of the latest transaction: bit i: bytes came where the reply of ids[i] was
                         due, but no good frame; clear and unanswered: it was silent */
    int n_echo; /* bytes sent whose echo has not come yet */
    int fd; /* of vlad_serial_bus_open_fd() */
};

/* The ops and port outlive the bus. */
void vlad_serial_bus_init(struct vlad_serial_bus *bus, const struct vlad_serial_ops *ops,
                          void *port, bool echo);
/* Over a descriptor the caller owns and keeps open: vlad_serial_prepare() and posix ops. Do not
 * move the struct afterwards. 0 or -errno. */
int vlad_serial_bus_open_fd(struct vlad_serial_bus *bus, int fd, int baud, bool echo);

/* Flushes the input, then writes the whole frame. 0; -EAGAIN when the deadline came first; -errno.
 * After -EAGAIN in the middle of a frame the rest of it, with its checksum inverted, goes out ahead
 * of the next one: servos then discard the torn frame instead of completing it. */
int vlad_serial_send(struct vlad_serial_bus *bus, const uint8_t *frame, int n,
                     int64_t deadline_ns);

/* Sends, then collects one reply of n_data bytes from each id (at most 32), in any order, until all
 * are in or the deadline. replies[i] is valid where bit i of *answered is set. 0 even when nobody
 * answered; -EAGAIN or -errno of the send; -errno when the line failed (replies so far stand). */
int vlad_serial_transact(struct vlad_serial_bus *bus, const uint8_t *frame, int n,
                         const uint8_t *ids, int n_ids, int n_data, int64_t deadline_ns,
                         struct vlad_feetech_reply *replies, uint32_t *answered);

/* One servo. 0, -ETIMEDOUT when it did not answer properly, -EINVAL for bad arguments, or as above.
 * *status receives the reply's status byte; it may be NULL where the counter is enough. */
int vlad_serial_ping(struct vlad_serial_bus *bus, uint8_t id, int64_t deadline_ns,
                     uint8_t *status);
int vlad_serial_read(struct vlad_serial_bus *bus, uint8_t id, uint8_t address, uint8_t *data,
                     int n_data, int64_t deadline_ns, uint8_t *status);
int vlad_serial_write(struct vlad_serial_bus *bus, uint8_t id, uint8_t address,
                      const uint8_t *data, int n_data, int64_t deadline_ns, uint8_t *status);

/* Several servos in one frame. */
int vlad_serial_sync_read(struct vlad_serial_bus *bus, const uint8_t *ids, int n_ids,
                          uint8_t address, int n_data, int64_t deadline_ns,
                          struct vlad_feetech_reply *replies, uint32_t *answered);
/* Servos do not acknowledge it. */
int vlad_serial_sync_write(struct vlad_serial_bus *bus, const uint8_t *ids, int n_ids,
                           uint8_t address, const uint8_t *data, int n_data,
                           int64_t deadline_ns);

static inline uint64_t vlad_serial_count(const struct vlad_serial_bus *bus,
                                         enum vlad_serial_counter counter)
{
    return atomic_load_explicit(&bus->counters[counter], memory_order_relaxed);
}

/* How often a call failed with this errno (1..VLAD_SERIAL_N_ERRNO - 1; 0: one beyond that). */
static inline uint64_t vlad_serial_errno_count(const struct vlad_serial_bus *bus, int code)
{
    return atomic_load_explicit(&bus->errno_counts[code], memory_order_relaxed);
}

#endif
