/* serial_bus.c over a fake line: every call fails with every errno at every point of a transaction. */
#define _GNU_SOURCE     /* posix_openpt */
#include <asm/termbits.h> /* struct termios2 */
#include <fcntl.h>      /* open */
#include <stdio.h>      /* printf */
#include <stdlib.h>     /* posix_openpt */
#include <sys/ioctl.h>  /* TCGETS2 */
#include <sys/socket.h> /* socketpair */
#include <unistd.h>     /* close, write */

#include "fake_line.h"

static const uint8_t all_ids[FAKE_SERVOS] = {1, 2, 3, 4, 5, 6};
static const int64_t budget_ns = 5 * VLAD_NS_PER_MS;

static struct fake_line line;
static struct vlad_serial_bus bus;
static struct vlad_feetech_reply replies[32];
static uint32_t answered;

static void start(void)
{
    fake_init(&line);
    vlad_serial_bus_init(&bus, &fake_ops, &line, false);
    for (int s = 0; s < FAKE_SERVOS; s++) {
        line.registers[s][3] = 9;
        line.registers[s][4] = 3; /* model 777 */
        line.registers[s][56] = (uint8_t)(s + 1);
        line.registers[s][57] = 8;
    }
}

static uint64_t n(enum vlad_serial_counter counter)
{
    return vlad_serial_count(&bus, counter);
}

static int sync_read(void)
{
    return vlad_serial_sync_read(&bus, all_ids, 6, 56, 2, line.now_ns + budget_ns, replies,
                                 &answered);
}

/* A good read and the counters of one: what every fault must leave possible. */
static void check_recovers(void)
{
    line.silent = line.flip = line.truncate = line.other_id = line.shorten = 0;
    line.never_ready = false;
    line.trailer = 0;
    line.write_room = -1;
    memset(line.inject, 0, sizeof line.inject);
    line.now_ns += VLAD_NS_PER_S;
    CHECK_EQ(sync_read(), 0);
    CHECK_EQ(answered, 0x3F);
    CHECK_EQ(bus.garbled, 0);
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(replies[i].id, i + 1);
        CHECK_EQ(vlad_feetech_u16(replies[i].data), 0x800 + i + 1);
    }
}

static void test_requests(void)
{
    uint8_t data[2] = {0, 0}, status = 0xAA;
    int64_t deadline = 0;
    start();
    deadline = line.now_ns + budget_ns;
    CHECK_EQ(vlad_serial_ping(&bus, 3, deadline, &status), 0);
    CHECK_EQ(status, 0);
    CHECK_EQ(vlad_serial_read(&bus, 3, 3, data, 2, deadline, NULL), 0);
    CHECK_EQ(vlad_feetech_u16(data), 777);
    line.status[2] = 0x20;
    CHECK_EQ(vlad_serial_write(&bus, 3, 42, (const uint8_t[]){0x34, 0x12}, 2, deadline, &status), 0);
    CHECK_EQ(status, 0x20);
    CHECK_EQ(n(VLAD_SERIAL_STATUS_ERRORS), 1);
    CHECK_EQ(line.registers[2][42], 0x34);
    CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 2, 42, (const uint8_t[]){1, 2, 3, 4}, 2,
                                    deadline), 0);
    CHECK_EQ(line.registers[1][43], 4);
    CHECK_EQ(n(VLAD_SERIAL_FRAMES_TX), 4);
    CHECK_EQ(n(VLAD_SERIAL_FRAMES_RX), 3);
    CHECK_EQ(n(VLAD_SERIAL_BYTES_TX), line.n_tx);
    CHECK_EQ(n(VLAD_SERIAL_BYTES_RX), 6 + 8 + 6);
    check_recovers();
    CHECK_EQ(n(VLAD_SERIAL_TIMEOUTS), 0);
    CHECK_EQ(n(VLAD_SERIAL_ERRORS), 0);

    line.silent = 1 << 2;
    CHECK_EQ(vlad_serial_ping(&bus, 3, line.now_ns + budget_ns, NULL), -ETIMEDOUT);
    CHECK_EQ(n(VLAD_SERIAL_TIMEOUTS), 1);
    CHECK_EQ(n(VLAD_SERIAL_MISSING_REPLIES), 1);
    check_recovers();
}

static void test_bad_arguments(void)
{
    uint8_t data[2] = {0};
    start();
    CHECK_EQ(vlad_serial_ping(&bus, 0xFE, INT64_MAX, NULL), -EINVAL);
    CHECK_EQ(vlad_serial_read(&bus, 1, 0, data, 0, INT64_MAX, NULL), -EINVAL);
    CHECK_EQ(vlad_serial_write(&bus, 0xFE, 0, data, 1, INT64_MAX, NULL), -EINVAL);
    CHECK_EQ(vlad_serial_write(&bus, 1, 0, data, 0, INT64_MAX, NULL), -EINVAL);
    CHECK_EQ(vlad_serial_sync_read(&bus, all_ids, 0, 0, 1, INT64_MAX, replies, &answered), -EINVAL);
    CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 0, 0, data, 1, INT64_MAX), -EINVAL);
    CHECK_EQ(vlad_serial_send(&bus, data, 0, INT64_MAX), -EINVAL);
    CHECK_EQ(vlad_serial_send(&bus, data, VLAD_FEETECH_MAX_FRAME + 1, INT64_MAX), -EINVAL);
    const int bad[][2] = {{0, 1}, {33, 1}, {1, -1}, {1, VLAD_FEETECH_MAX_DATA + 1}};
    for (int i = 0; i < 4; i++)
        CHECK_EQ(vlad_serial_transact(&bus, data, 1, all_ids, bad[i][0], bad[i][1], INT64_MAX,
                                      replies, &answered), -EINVAL);
    CHECK_EQ(line.n_tx, 0);

    uint8_t many[32], large[VLAD_FEETECH_MAX_DATA];
    memset(many, 1, sizeof many);
    int64_t deadline = line.now_ns + budget_ns;
    line.batched = true; /* six of the largest replies at once */
    line.registers[5][0] = 66;
    CHECK_EQ(vlad_serial_sync_read(&bus, all_ids, 6, 0, VLAD_FEETECH_MAX_DATA, deadline, replies,
                                   &answered), 0);
    CHECK_EQ(answered, 0x3F);
    CHECK_EQ(replies[5].data[0], 66);
    line.batched = false;
    CHECK_EQ(vlad_serial_read(&bus, 1, 0, large, sizeof large, line.now_ns + budget_ns, NULL), 0);
    CHECK_EQ(vlad_serial_write(&bus, VLAD_FEETECH_MAX_ID, 0, data, 1, line.now_ns + 1, NULL),
             -ETIMEDOUT);
    deadline = line.now_ns + budget_ns;
    CHECK_EQ(vlad_serial_sync_read(&bus, many, 32, 5, 1, deadline, replies, &answered), 0);
    CHECK_EQ(answered, UINT32_MAX);
    for (int i = -1; i <= VLAD_SERIAL_N_COUNTERS; i++)
        CHECK((strcmp(vlad_serial_counter_name((enum vlad_serial_counter)i), "?") == 0) ==
              (i < 0 || i == VLAD_SERIAL_N_COUNTERS));
}

/* Fault 19, 44: whoever stays silent costs the budget and no more, and the others still count. */
static void test_silent(void)
{
    for (uint32_t silent = 0; silent < 64; silent++) {
        start();
        line.silent = silent;
        int64_t before = line.now_ns;
        CHECK_EQ(sync_read(), 0);
        CHECK_EQ(answered, 0x3F & ~silent);
        CHECK_EQ(bus.garbled, 0);
        CHECK(line.now_ns - before <= budget_ns + 10 * VLAD_NS_PER_US);
        CHECK_EQ(n(VLAD_SERIAL_TIMEOUTS), silent != 0);
        CHECK_EQ(n(VLAD_SERIAL_MISSING_REPLIES), __builtin_popcount(silent));
        check_recovers();
    }
}

/* Fault 17: damaged replies are told from missing ones, and nobody else's is lost. */
static void test_damaged(void)
{
    for (int servo = 0; servo < 6; servo++)
        for (int kind = 0; kind < 4; kind++) {
            uint32_t bit = 1u << servo, silent = servo < 5 ? 2u << servo : 0;
            start();
            uint32_t *const fault[] = {&line.flip, &line.truncate, &line.shorten, &line.other_id};
            *fault[kind] = bit;
            line.chunk = 1 + servo; /* and the line delivers in small pieces */
            line.silent = kind == 0 ? silent : 0; /* a neighbour is silent too */
            CHECK_EQ(sync_read(), 0);
            CHECK_EQ(answered, 0x3F & ~bit & ~line.silent);
            if (kind < 3)
                CHECK_EQ(bus.garbled, bit);
            CHECK_EQ(n(VLAD_SERIAL_CHECKSUM_ERRORS) > 0, kind == 0 || (kind == 1 && servo < 5));
            CHECK_EQ(n(VLAD_SERIAL_WRONG_ID), kind == 3);
            CHECK_EQ(n(VLAD_SERIAL_SHORT_REPLIES), kind == 2 || (kind == 1 && servo == 5));
            check_recovers();
        }
}

/* Fault 18. */
static void test_garbage(void)
{
    uint8_t noise[600];
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)(i * 37);
    start();
    fake_receive(&line, noise, 600); /* before the request: drained and counted */
    line.now_ns += VLAD_NS_PER_S;
    CHECK_EQ(sync_read(), 0);
    CHECK_EQ(answered, 0x3F);
    CHECK_EQ(n(VLAD_SERIAL_STALE_BYTES), 600);

    start(); /* a line that never falls silent does not hold the request up for ever */
    for (int i = 0; i < 4000; i++)
        fake_receive(&line, noise, 1);
    line.now_ns += VLAD_NS_PER_S;
    line.chunk = 100;
    CHECK_EQ(sync_read(), 0);
    CHECK_EQ(answered, 0x3F);
    CHECK_EQ(n(VLAD_SERIAL_STALE_BYTES), 1600);

    start(); /* between request and replies, and as much as all replies: nobody answered */
    line.silent = 0x3F;
    int64_t before = line.now_ns;
    line.turnaround_ns = 200 * VLAD_NS_PER_US;
    fake_receive(&line, noise, 47); /* arrives after the drain: the turnaround has not passed */
    line.inject[FAKE_FLUSH].at = 1; /* and the flush misses it */
    line.inject[FAKE_FLUSH].result = -ENOTTY;
    CHECK_EQ(sync_read(), 0);
    CHECK_EQ(answered, 0);
    CHECK_EQ(bus.garbled, 0x3F);
    CHECK_EQ(n(VLAD_SERIAL_RESYNC_BYTES), 47);
    CHECK(line.now_ns - before <= budget_ns + 10 * VLAD_NS_PER_US);
    check_recovers();

    for (int bytes = 1; bytes <= 20; bytes++) { /* few bytes: the places they take up */
        start();
        line.silent = 0x3F;
        line.batched = bytes % 2;
        line.turnaround_ns = 200 * VLAD_NS_PER_US;
        fake_receive(&line, noise, bytes);
        line.inject[FAKE_FLUSH].at = 1;
        line.inject[FAKE_FLUSH].result = -ENOTTY;
        CHECK_EQ(sync_read(), 0);
        CHECK_EQ(bus.garbled, (1 << (bytes + 7) / 8) - 1);
    }

    start(); /* a few bytes of it: the replies behind them still count */
    line.turnaround_ns = 200 * VLAD_NS_PER_US;
    fake_receive(&line, noise + 1, 5);
    line.inject[FAKE_FLUSH].at = 1;
    line.inject[FAKE_FLUSH].result = -ENOTTY;
    CHECK_EQ(sync_read(), 0);
    CHECK_EQ(answered, 0x3F);
    CHECK_EQ(bus.garbled, 0);
    CHECK_EQ(n(VLAD_SERIAL_RESYNC_BYTES), 5);
}

/* A reply that comes after its deadline is never the answer to the next request. */
static void test_late_reply(void)
{
    uint8_t data[2];
    start();
    line.turnaround_ns = 6 * VLAD_NS_PER_MS;
    CHECK_EQ(vlad_serial_read(&bus, 1, 56, data, 2, line.now_ns + budget_ns, NULL), -ETIMEDOUT);
    line.turnaround_ns = 0;
    line.now_ns += 10 * VLAD_NS_PER_MS;
    line.registers[0][56] = 77;
    CHECK_EQ(vlad_serial_read(&bus, 1, 56, data, 2, line.now_ns + budget_ns, NULL), 0);
    CHECK_EQ(data[0], 77);
    CHECK_EQ(n(VLAD_SERIAL_STALE_BYTES), 8);
}

/* Every errno from every call, at each call of a transaction. Fault 15. */
static void test_every_errno(void)
{
    for (int call = 0; call < FAKE_CALLS; call++)
        for (int code = 1; code < 200; code++)
            for (int at = 1; at <= 4; at++) {
                start();
                line.chunk = 20;
                line.inject[call].at = at;
                line.inject[call].result = -code;
                int64_t before = line.now_ns;
                int rc = sync_read();
                bool reached = line.inject[call].at == 0;
                bool transient = (code == EINTR && call != FAKE_FLUSH) ||
                                 (code == EAGAIN && (call == FAKE_READ || call == FAKE_WRITE)) ||
                                 (code == ENOTTY && call == FAKE_FLUSH);
                CHECK(line.now_ns - before <= budget_ns + 10 * VLAD_NS_PER_US);
                if (reached && !transient) {
                    CHECK_EQ(rc, -code);
                    CHECK_EQ(n(VLAD_SERIAL_ERRORS), 1);
                    CHECK_EQ(atomic_load(&bus.errno_counts[code < 134 ? code : 0]), 1);
                } else {
                    CHECK_EQ(rc, 0);
                    CHECK_EQ(answered, 0x3F);
                    CHECK_EQ(n(VLAD_SERIAL_ERRORS), 0);
                    CHECK_EQ(n(VLAD_SERIAL_EINTR), reached && code == EINTR);
                    CHECK_EQ(n(VLAD_SERIAL_EAGAIN),
                             reached && code == EAGAIN && call == FAKE_WRITE);
                }
                check_recovers();
            }
}

static void test_hang_up(void)
{
    static const int flags[] = {POLLHUP, POLLERR, POLLNVAL};
    for (int i = 0; i < 3; i++) {
        start();
        line.inject[FAKE_POLL].at = 1;
        line.inject[FAKE_POLL].result = flags[i];
        CHECK_EQ(sync_read(), -EIO);
        CHECK_EQ(n(VLAD_SERIAL_HANGUPS), 1);
    }
    for (int at = 1; at <= 2; at++) { /* read gives 0, in the drain and in the reply */
        start();
        line.inject[FAKE_READ].at = at;
        line.inject[FAKE_READ].result = 0;
        CHECK_EQ(sync_read(), -EIO);
        CHECK_EQ(n(VLAD_SERIAL_HANGUPS), 1);
        CHECK_EQ(atomic_load(&bus.errno_counts[EIO]), 1);
    }
}

/* Fault 16: part of a frame fits, the rest within the deadline or never. */
static void test_short_writes(void)
{
    const uint8_t goals[12] = {1, 8, 2, 8, 3, 8, 4, 8, 5, 8, 6, 8};
    for (int room = 0; room <= 26; room++)
        for (int late = 0; late < 2; late++) {
            start();
            line.write_room = room;
            line.room_back_ns = line.now_ns + (late ? 2 : 1) * budget_ns / 2 + late * 10 * VLAD_NS_PER_US;
            int64_t deadline = line.now_ns + budget_ns;
            int rc = vlad_serial_sync_write(&bus, all_ids, 6, 42, goals, 2, deadline);
            CHECK_EQ(rc, late && room < 26 ? -EAGAIN : 0);
            CHECK(line.now_ns <= deadline + 10 * VLAD_NS_PER_US);
            CHECK_EQ(line.sync_writes, rc == 0);
            CHECK_EQ(n(VLAD_SERIAL_ABORTED_FRAMES), rc != 0);
            CHECK_EQ(n(VLAD_SERIAL_SHORT_WRITES), room > 0 && room < 26);
            /* The next frame: a torn one is discarded by the servos, and the new one heard. */
            line.now_ns += VLAD_NS_PER_S;
            const uint8_t next[12] = {9, 8, 9, 8, 9, 8, 9, 8, 9, 8, 9, 8};
            CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 6, 42, next, 2,
                                            line.now_ns + budget_ns), 0);
            CHECK_EQ(line.bad_frames, rc != 0 && room > 0);
            CHECK_EQ(line.sync_writes, rc == 0 ? 2 : 1);
            CHECK_EQ(line.registers[0][42], 9);
            check_recovers();
        }
}

static void test_line_fails_in_mid_frame(void)
{
    const uint8_t goals[12] = {0};
    static const int results[][2] = {{POLLHUP, -EIO}, {-ENODEV, -ENODEV}, {-EINTR, 0}};
    for (int i = 0; i < 3; i++) {
        start();
        line.write_room = 9;
        line.room_back_ns = line.now_ns + budget_ns / 2;
        line.inject[FAKE_POLL].at = 1;
        line.inject[FAKE_POLL].result = results[i][0];
        CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 6, 42, goals, 2, line.now_ns + budget_ns),
                 results[i][1]);
        CHECK_EQ(n(VLAD_SERIAL_ABORTED_FRAMES), results[i][1] != 0);
        check_recovers();
        CHECK_EQ(line.bad_frames, results[i][1] != 0);
    }
    start(); /* a write of nothing */
    line.inject[FAKE_WRITE].at = 1;
    CHECK_EQ(sync_read(), 0);
    CHECK_EQ(n(VLAD_SERIAL_EAGAIN), 1);

    start(); /* noise behind the last servo's place is nobody's reply */
    line.silent = 1 << 2;
    CHECK_EQ(sync_read(), 0);
    line.now_ns += VLAD_NS_PER_S;
    line.trailer = 5;
    CHECK_EQ(sync_read(), 0);
    CHECK_EQ(answered, 0x3F & ~line.silent);
    CHECK_EQ(bus.garbled, 0);
    CHECK_EQ(n(VLAD_SERIAL_RESYNC_BYTES), 5);
    check_recovers();
}

/* The spoilt rest may itself be cut short, again and again. */
static void test_spoilt_in_pieces(void)
{
    const uint8_t goals[12] = {0};
    start();
    line.write_room = 5;
    for (int i = 0; i < 7; i++) {
        int64_t deadline = line.now_ns + budget_ns;
        CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 6, 42, goals, 2, deadline), -EAGAIN);
        CHECK_EQ(line.sync_writes, 0);
        line.write_room = 3;
    }
    CHECK_EQ(n(VLAD_SERIAL_ABORTED_FRAMES), 1); /* no second frame was begun */
    line.write_room = -1;
    CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 6, 42, goals, 2, line.now_ns + budget_ns), 0);
    CHECK_EQ(line.bad_frames, 1);
    CHECK_EQ(line.sync_writes, 1);
    check_recovers();
}

static void test_line_that_never_gets_ready(void)
{
    start();
    line.never_ready = true;
    int64_t before = line.now_ns;
    CHECK_EQ(sync_read(), 0);
    CHECK_EQ(answered, 0);
    CHECK(line.now_ns - before <= budget_ns + 10 * VLAD_NS_PER_US);
    check_recovers();
    CHECK_EQ(vlad_serial_sync_read(&bus, all_ids, 6, 56, 2, line.now_ns - 1, replies, &answered), 0);
    CHECK_EQ(answered, 0); /* a deadline in the past */
    check_recovers();
}

static void test_echo(void)
{
    uint8_t data[2], status = 0;
    start();
    bus.echo = line.echo = true;
    for (int chunk = 0; chunk < 80; chunk++) {
        line.chunk = chunk / 2;
        line.batched = chunk % 2;
        check_recovers();
    }
    line.status[0] = 1; /* the reply to this ping has the very bytes of the request */
    CHECK_EQ(vlad_serial_ping(&bus, 1, line.now_ns + budget_ns, &status), 0);
    CHECK_EQ(status, 1);
    CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 1, 42, (const uint8_t[]){1, 2}, 2,
                                    line.now_ns + budget_ns), 0);
    line.now_ns += VLAD_NS_PER_S;
    line.chunk = 3;
    check_recovers();
    CHECK_EQ(n(VLAD_SERIAL_STALE_BYTES), 0);
    CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 1, 42, (const uint8_t[]){1, 2}, 2,
                                    line.now_ns + budget_ns), 0);
    fake_receive(&line, all_ids, 4); /* behind the echo, something that is none */
    check_recovers();
    CHECK_EQ(n(VLAD_SERIAL_STALE_BYTES), 4);
    line.write_room = 4; /* a torn frame: its echo and its rest's precede the next request's */
    CHECK_EQ(vlad_serial_sync_write(&bus, all_ids, 1, 42, (const uint8_t[]){1, 2}, 2,
                                    line.now_ns + budget_ns), -EAGAIN);
    line.write_room = -1;
    CHECK_EQ(vlad_serial_read(&bus, 1, 3, data, 2, line.now_ns + budget_ns, NULL), 0);
    CHECK_EQ(vlad_feetech_u16(data), 777);
    CHECK_EQ(n(VLAD_SERIAL_STALE_BYTES), 4);
    CHECK_EQ(n(VLAD_SERIAL_ECHO_MISSING), 0);
    CHECK_EQ(n(VLAD_SERIAL_RESYNC_BYTES), 0);
    line.echo = false; /* an adapter that does not echo after all still works */
    check_recovers();
    CHECK_EQ(n(VLAD_SERIAL_ECHO_MISSING), 1);
}

/* Random faults for a long time: no answer is ever another's, and the line always recovers. */
static void test_random_faults(void)
{
    uint64_t random = 1;
    start();
    for (int round = 0; round < 20000; round++) {
        random = random * 6364136223846793005ULL + 1442695040888963407ULL;
        uint32_t r = (uint32_t)(random >> 32);
        line.n_tx = 0;
        line.silent = r & 0x41 ? 0 : 1u << (r >> 8) % 6;
        line.flip = r & 0x22 ? 0 : 1u << (r >> 11) % 6;
        line.truncate = r & 0x14 ? 0 : 1u << (r >> 14) % 6;
        line.chunk = (int)(r >> 17) % 40;
        line.write_room = r & 0x80 ? -1 : (int)(r >> 20) % 20;
        for (int s = 0; s < 6; s++)
            line.registers[s][57] = (uint8_t)(round >> 3 & 0x0F);
        int64_t before = line.now_ns;
        int rc = sync_read();
        CHECK(rc == 0 || rc == -EAGAIN);
        CHECK(line.now_ns - before <= budget_ns + 10 * VLAD_NS_PER_US);
        uint32_t bad = line.silent | line.flip | line.truncate;
        CHECK_EQ(answered & bad, 0);
        if (rc == 0 && !line.truncate) /* a cut reply may take the beginning of the next along */
            CHECK_EQ(answered, 0x3F & ~bad);
        for (int i = 0; i < 6; i++)
            if (answered >> i & 1) {
                CHECK_EQ(replies[i].data[0], i + 1);
                CHECK_EQ(replies[i].data[1], round >> 3 & 0x0F);
            }
        line.now_ns += VLAD_NS_PER_MS;
    }
}

/* Whether any speed can be set: an emulator may know only those of termios.h. */
static bool any_speed(void)
{
    struct termios2 t;
    int master = posix_openpt(O_RDWR | O_NOCTTY), got = ioctl(master, TCGETS2, &t);
    bool known = got == 0 || errno != ENOSYS;

    CHECK(master >= 0);
    close(master);
    return known;
}

static void test_posix_line(void)
{
    int pair[2];
    uint8_t data[2];
    const uint8_t reply[] = {0xFF, 0xFF, 0x01, 0x04, 0x00, 0x09, 0x03, 0xEE};
    CHECK_EQ(vlad_serial_prepare(-1, 0), -EBADF);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CHECK_EQ(vlad_serial_bus_open_fd(&bus, pair[0], 1000000, false), 0); /* not a terminal: fine */
    CHECK_EQ(vlad_serial_ping(&bus, 1, vlad_serial_posix.now_ns(&bus.fd), NULL), -ETIMEDOUT);
    int64_t deadline = vlad_serial_posix.now_ns(&bus.fd) + 10 * VLAD_NS_PER_MS;
    CHECK_EQ(vlad_serial_ping(&bus, 1, deadline, NULL), -ETIMEDOUT);
    CHECK(vlad_serial_posix.now_ns(&bus.fd) >= deadline);
    uint8_t pings[12];
    CHECK_EQ(read(pair[1], pings, sizeof pings), 12); /* else the close would be a reset */
    close(pair[1]);
    CHECK_EQ(vlad_serial_ping(&bus, 1, deadline, NULL), -EIO);
    CHECK_EQ(n(VLAD_SERIAL_HANGUPS), 1);
    close(pair[0]);
    CHECK_EQ(vlad_serial_ping(&bus, 1, deadline, NULL), -EBADF);

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CHECK_EQ(vlad_serial_bus_open_fd(&bus, pair[0], 0, false), 0);
    uint8_t frame[8];
    int len = vlad_feetech_read(frame, sizeof frame, 1, 3, 2);
    deadline = vlad_serial_posix.now_ns(&bus.fd) + VLAD_NS_PER_S;
    CHECK_EQ(vlad_serial_send(&bus, frame, len, deadline), 0);
    CHECK_EQ(read(pair[1], frame, 8), 8);
    CHECK_EQ(write(pair[1], reply, 8), 8);
    CHECK(vlad_serial_posix.poll(&bus.fd, POLLIN, VLAD_NS_PER_S) & POLLIN);
    CHECK_EQ(vlad_serial_posix.read(&bus.fd, data, 1), 1);
    CHECK_EQ(vlad_serial_posix.flush_input(&bus.fd), -ENOTTY);
    close(pair[0]);
    close(pair[1]);
}

/* A terminal: raw bytes both ways, any speed, and "nothing yet" told from "hung up". */
static void test_pseudo_terminal(void)
{
    static const int speeds[] = {1000000, 500000, 250000, 128000, 115200, 76800, 57600, 38400, 0};
    uint8_t every[256], got[256];
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0);
    CHECK_EQ(grantpt(master), 0);
    CHECK_EQ(unlockpt(master), 0);
    int fd = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(fd >= 0);
    CHECK_EQ(vlad_serial_bus_open_fd(&bus, fd, -1, false), -EINVAL);
    for (int i = 0; i < 9; i++)
        CHECK_EQ(vlad_serial_bus_open_fd(&bus, fd, speeds[i], false), 0);
    for (int i = 0; i < 256; i++)
        every[i] = (uint8_t)i;
    CHECK_EQ(vlad_serial_posix.read(&bus.fd, got, 256), -EAGAIN);
    CHECK_EQ(write(master, every, 256), 256);
    CHECK_EQ(vlad_serial_posix.poll(&bus.fd, POLLIN, VLAD_NS_PER_S), POLLIN);
    CHECK_EQ(vlad_serial_posix.read(&bus.fd, got, 256), 256);
    CHECK(memcmp(every, got, 256) == 0);
    CHECK_EQ(vlad_serial_posix.write(&bus.fd, every, 256), 256);
    CHECK_EQ(read(master, got, 256), 256);
    CHECK(memcmp(every, got, 256) == 0);
    CHECK_EQ(write(master, every, 100), 100);
    CHECK_EQ(vlad_serial_posix.poll(&bus.fd, POLLIN, VLAD_NS_PER_S), POLLIN);
    CHECK_EQ(vlad_serial_posix.flush_input(&bus.fd), 0);
    CHECK_EQ(vlad_serial_posix.read(&bus.fd, got, 256), -EAGAIN);
    CHECK_EQ(vlad_serial_posix.poll(&bus.fd, POLLIN, VLAD_NS_PER_MS), 0);
    close(master); /* fault 15: the device is gone */
    int64_t deadline = vlad_serial_posix.now_ns(&bus.fd) + VLAD_NS_PER_S;
    CHECK_EQ(vlad_serial_ping(&bus, 1, deadline, NULL), -EIO);
    CHECK(n(VLAD_SERIAL_ERRORS) > 0);
    close(fd);
}

int main(void)
{
    test_requests();
    test_bad_arguments();
    test_silent();
    test_damaged();
    test_garbage();
    test_late_reply();
    test_every_errno();
    test_hang_up();
    test_short_writes();
    test_line_fails_in_mid_frame();
    test_spoilt_in_pieces();
    test_line_that_never_gets_ready();
    test_echo();
    test_random_faults();
    if (any_speed()) {
        test_posix_line();
        test_pseudo_terminal();
    } else {
        SKIPPED("TCGETS2 is not known here");
    }
    CHECK_DONE();
}
