#include "serial_bus.h"

#include <errno.h>  /* -errno results */
#include <poll.h>   /* POLLIN, POLLOUT */
#include <string.h> /* memcmp, memcpy */

/* --- Counters. --- */

static void add(_Atomic uint64_t *counter, uint64_t n)
{
    /* One writer: a plain sum is enough, and needs no locked instruction. */
    uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

static void count(struct vlad_serial_bus *bus, enum vlad_serial_counter counter, uint64_t n)
{
    add(&bus->counters[counter], n);
}

/* Counts a failed call and passes its -errno on. */
static int failed(struct vlad_serial_bus *bus, ssize_t result)
{
    int code = (int)-result;
    count(bus, VLAD_SERIAL_ERRORS, 1);
    add(&bus->errno_counts[code < VLAD_SERIAL_N_ERRNO ? code : 0], 1);
    return (int)result;
}

static int hung_up(struct vlad_serial_bus *bus)
{
    count(bus, VLAD_SERIAL_HANGUPS, 1);
    return failed(bus, -EIO);
}

const char *vlad_serial_counter_name(enum vlad_serial_counter counter)
{
    static const char *const names[VLAD_SERIAL_N_COUNTERS] = {
        [VLAD_SERIAL_FRAMES_TX] = "frames_tx",
        [VLAD_SERIAL_FRAMES_RX] = "frames_rx",
        [VLAD_SERIAL_BYTES_TX] = "bytes_tx",
        [VLAD_SERIAL_BYTES_RX] = "bytes_rx",
        [VLAD_SERIAL_TIMEOUTS] = "timeouts",
        [VLAD_SERIAL_MISSING_REPLIES] = "missing_replies",
        [VLAD_SERIAL_CHECKSUM_ERRORS] = "checksum_errors",
        [VLAD_SERIAL_WRONG_ID] = "wrong_id",
        [VLAD_SERIAL_SHORT_REPLIES] = "short_replies",
        [VLAD_SERIAL_RESYNC_BYTES] = "resync_bytes",
        [VLAD_SERIAL_STALE_BYTES] = "stale_bytes",
        [VLAD_SERIAL_STATUS_ERRORS] = "status_errors",
        [VLAD_SERIAL_SHORT_WRITES] = "short_writes",
        [VLAD_SERIAL_ABORTED_FRAMES] = "aborted_frames",
        [VLAD_SERIAL_ECHO_MISSING] = "echo_missing",
        [VLAD_SERIAL_HANGUPS] = "hangups",
        [VLAD_SERIAL_EAGAIN] = "eagain",
        [VLAD_SERIAL_EINTR] = "eintr",
        [VLAD_SERIAL_ERRORS] = "errors",
    };
    return counter >= 0 && counter < VLAD_SERIAL_N_COUNTERS ? names[counter] : "?";
}

/* --- Sending. --- */

void vlad_serial_bus_init(struct vlad_serial_bus *bus, const struct vlad_serial_ops *ops,
                          void *port, bool echo)
{
    memset(bus, 0, sizeof *bus);
    bus->ops = ops;
    bus->port = port;
    bus->echo = echo;
    bus->fd = -1;
}

/* Waits for `events`. 1 when they came, 0 when the deadline did, or -errno. */
static int wait_for(struct vlad_serial_bus *bus, short events, int64_t deadline_ns)
{
    for (;;) {
        int64_t left = deadline_ns - bus->ops->now_ns(bus->port);
        if (left <= 0)
            return 0;
        int revents = bus->ops->poll(bus->port, events, left);
        if (revents == 0)
            return 0;
        if (revents == -EINTR) {
            count(bus, VLAD_SERIAL_EINTR, 1);
            continue;
        }
        if (revents < 0)
            return failed(bus, revents);
        return revents & events ? 1 : hung_up(bus); /* only POLLHUP, POLLERR, POLLNVAL */
    }
}

/* Reads what is there: > 0 bytes, 0 when there is nothing, or -errno. */
static int read_some(struct vlad_serial_bus *bus, uint8_t *buffer, size_t size)
{
    ssize_t n = bus->ops->read(bus->port, buffer, size);
    if (n > 0) {
        count(bus, VLAD_SERIAL_BYTES_RX, (uint64_t)n);
        return (int)n;
    }
    if (n == 0)
        return hung_up(bus);
    if (n == -EINTR) {
        count(bus, VLAD_SERIAL_EINTR, 1);
        return 0;
    }
    return n == -EAGAIN ? 0 : failed(bus, n);
}

/* Empties the input. Reading first tells how much was stale; the flush takes what is on its way. */
static int drain(struct vlad_serial_bus *bus)
{
    uint8_t buffer[VLAD_FEETECH_MAX_FRAME];
    for (int i = 0; i < 16; i++) { /* a line that never falls silent must not keep us here */
        int n = read_some(bus, buffer, sizeof buffer);
        if (n < 0)
            return n;
        if (n == 0)
            break;
        int echo = n < bus->n_echo ? n : bus->n_echo; /* of a frame that had no reply to read */
        bus->n_echo -= echo;
        count(bus, VLAD_SERIAL_STALE_BYTES, (uint64_t)(n - echo));
    }
    bus->n_echo = 0;
    int rc = bus->ops->flush_input(bus->port);
    return rc == 0 || rc == -ENOTTY ? 0 : failed(bus, rc);
}

/* Writes until done or the deadline; *done says how far it came. 0, -EAGAIN or -errno. */
static int write_all(struct vlad_serial_bus *bus, const uint8_t *bytes, int n,
                     int64_t deadline_ns, int *done)
{
    *done = 0;
    for (;;) {
        ssize_t put = bus->ops->write(bus->port, bytes + *done, (size_t)(n - *done));
        if (put > 0) {
            count(bus, VLAD_SERIAL_BYTES_TX, (uint64_t)put);
            *done += (int)put;
            if (*done == n)
                return 0;
            count(bus, VLAD_SERIAL_SHORT_WRITES, 1);
        } else if (put == -EINTR) {
            count(bus, VLAD_SERIAL_EINTR, 1);
        } else if (put == -EAGAIN || put == 0) {
            count(bus, VLAD_SERIAL_EAGAIN, 1);
        } else {
            return failed(bus, put);
        }
        int rc = wait_for(bus, POLLOUT, deadline_ns);
        if (rc <= 0)
            return rc < 0 ? rc : -EAGAIN;
    }
}

/* Keeps what must follow a frame cut off after `done` bytes. */
static void spoil(struct vlad_serial_bus *bus, const uint8_t *bytes, int n, int done)
{
    count(bus, VLAD_SERIAL_ABORTED_FRAMES, 1);
    bus->n_spoilt = done == 0 ? 0 : n - done;
    memcpy(bus->spoilt, bytes + done, (size_t)bus->n_spoilt);
    if (bus->n_spoilt > 0)
        bus->spoilt[bus->n_spoilt - 1] ^= 0xFF;
}

int vlad_serial_send(struct vlad_serial_bus *bus, const uint8_t *frame, int n,
                     int64_t deadline_ns)
{
    if (n < 1 || n > VLAD_FEETECH_MAX_FRAME)
        return -EINVAL;
    int rc = drain(bus);
    if (rc < 0)
        return rc;
    int done;
    if (bus->n_spoilt > 0) {
        rc = write_all(bus, bus->spoilt, bus->n_spoilt, deadline_ns, &done);
        bus->n_spoilt -= done;
        bus->n_echo += bus->echo ? done : 0;
        memmove(bus->spoilt, bus->spoilt + done, (size_t)bus->n_spoilt);
        if (rc < 0)
            return rc;
    }
    rc = write_all(bus, frame, n, deadline_ns, &done);
    bus->n_echo += bus->echo ? done : 0;
    if (rc < 0)
        spoil(bus, frame, n, done);
    else
        count(bus, VLAD_SERIAL_FRAMES_TX, 1);
    return rc;
}

/* --- Receiving. --- */

/* What one request waits for. */
struct expectation {
    const uint8_t *ids;
    int n_ids, n_data;
    struct vlad_feetech_reply *replies;
    uint32_t answered, all;
    int junk; /* bytes since the latest good reply that belong to none */
    const uint8_t *request;
    int n_request;
};

static int awaited(const struct expectation *expected, uint8_t id)
{
    for (int i = 0; i < expected->n_ids; i++)
        if (expected->ids[i] == id && !(expected->answered >> i & 1))
            return i;
    return -1;
}

static void accept(struct vlad_serial_bus *bus, struct expectation *expected,
                   const struct vlad_feetech_reply *reply)
{
    int i = awaited(expected, reply->id);
    if (i < 0) {
        count(bus, VLAD_SERIAL_WRONG_ID, 1);
        return;
    }
    if (reply->n_data != expected->n_data) { /* the parser lets none longer pass */
        count(bus, VLAD_SERIAL_SHORT_REPLIES, 1);
        bus->garbled |= 1u << i;
        return;
    }
    count(bus, VLAD_SERIAL_FRAMES_RX, 1);
    if (reply->status != 0)
        count(bus, VLAD_SERIAL_STATUS_ERRORS, 1);
    expected->replies[i] = *reply;
    expected->answered |= 1u << i;
    expected->junk = 0;
}

/* n more bytes that belong to no frame. Servos answer a sync read in the order of the request, so
 * the bytes stand where the replies behind the latest good one were due. */
static void garble(struct vlad_serial_bus *bus, struct expectation *expected, int n)
{
    int reply_bytes = expected->n_data + 6;
    int next = expected->answered ? 32 - __builtin_clz(expected->answered) : 0;
    expected->junk += n;
    for (int i = 0; i * reply_bytes < expected->junk && next + i < expected->n_ids; i++)
        bus->garbled |= 1u << (next + i);
}

/* Books what the parser found wrong since the last call. */
static void book_errors(struct vlad_serial_bus *bus, struct expectation *expected)
{
    struct vlad_feetech_parser *parser = &bus->parser;
    int i = parser->checksum_errors > 0 ? awaited(expected, parser->damaged_id) : -1;
    if (i >= 0)
        bus->garbled |= 1u << i;
    else if (parser->resync_bytes > 0)
        garble(bus, expected, (int)parser->resync_bytes);
    count(bus, VLAD_SERIAL_CHECKSUM_ERRORS, parser->checksum_errors);
    count(bus, VLAD_SERIAL_RESYNC_BYTES, parser->resync_bytes);
    parser->checksum_errors = parser->resync_bytes = 0;
}

/* Takes what the adapter returns of our own bytes off the front; returns how many they were. The
 * request is the end of it; a spoilt rest of an earlier frame may precede it. */
static int skip_echo(struct vlad_serial_bus *bus, const struct expectation *expected,
                     const uint8_t *bytes, int n)
{
    int k = n < bus->n_echo ? n : bus->n_echo;
    for (int i = 0; i < k; i++) {
        int at = expected->n_request - bus->n_echo + i;
        if (at >= 0 && bytes[i] != expected->request[at]) {
            /* No echo: the bytes are replies, and so were those that looked like its start. */
            count(bus, VLAD_SERIAL_ECHO_MISSING, 1);
            vlad_feetech_parser_take(&bus->parser, expected->request,
                                     expected->n_request - bus->n_echo);
            bus->n_echo = 0;
            return 0;
        }
    }
    bus->n_echo -= k;
    return k;
}

static void consume(struct vlad_serial_bus *bus, struct expectation *expected,
                    const uint8_t *bytes, int n)
{
    struct vlad_feetech_reply reply;
    int skip = skip_echo(bus, expected, bytes, n);
    bytes += skip;
    n -= skip;
    while (n > 0) {
        int k = vlad_feetech_parser_take(&bus->parser, bytes, n);
        bytes += k;
        n -= k;
        bool found;
        do {
            found = vlad_feetech_parser_next(&bus->parser, &reply);
            book_errors(bus, expected);
            if (found)
                accept(bus, expected, &reply);
        } while (found);
    }
}

static int collect(struct vlad_serial_bus *bus, struct expectation *expected,
                   int64_t deadline_ns)
{
    uint8_t buffer[VLAD_FEETECH_MAX_FRAME];
    while (expected->answered != expected->all) {
        int rc = wait_for(bus, POLLIN, deadline_ns);
        if (rc <= 0)
            return rc;
        int n = read_some(bus, buffer, sizeof buffer);
        if (n < 0)
            return n;
        consume(bus, expected, buffer, n);
    }
    return 0;
}

int vlad_serial_transact(struct vlad_serial_bus *bus, const uint8_t *frame, int n,
                         const uint8_t *ids, int n_ids, int n_data, int64_t deadline_ns,
                         struct vlad_feetech_reply *replies, uint32_t *answered)
{
    *answered = 0;
    bus->garbled = 0;
    if (n_ids < 1 || n_ids > 32 || n_data < 0 || n_data > VLAD_FEETECH_MAX_DATA)
        return -EINVAL;
    vlad_feetech_parser_reset(&bus->parser, n_data);
    int rc = vlad_serial_send(bus, frame, n, deadline_ns);
    if (rc < 0)
        return rc;
    struct expectation expected = {
        .ids = ids, .n_ids = n_ids, .n_data = n_data, .replies = replies,
        .all = n_ids == 32 ? UINT32_MAX : (1u << n_ids) - 1,
        .request = frame, .n_request = n,
    };
    rc = collect(bus, &expected, deadline_ns);
    if (bus->parser.n > 0) {
        count(bus, VLAD_SERIAL_SHORT_REPLIES, 1);
        garble(bus, &expected, bus->parser.n);
    }
    *answered = expected.answered;
    bus->garbled &= ~expected.answered;
    if (rc < 0 || expected.answered == expected.all)
        return rc;
    count(bus, VLAD_SERIAL_TIMEOUTS, 1);
    count(bus, VLAD_SERIAL_MISSING_REPLIES,
          (uint64_t)__builtin_popcount(expected.all & ~expected.answered));
    return 0;
}
