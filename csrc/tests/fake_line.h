/* fake_line.h: a serial line with servos on it, behind struct vlad_serial_ops. Time is simulated
 * (1 us per call, 10 us per byte received), and any call can be made to fail. */
#ifndef VLAD_FAKE_LINE_H
#define VLAD_FAKE_LINE_H

#include <errno.h>  /* what the calls fail with */
#include <poll.h>   /* POLLIN .. */
#include <string.h> /* memcpy */

#include "../serial_bus.h"
#include "check.h"

enum { FAKE_SERVOS = 6, FAKE_RX = 4096 };
enum fake_call { FAKE_READ, FAKE_WRITE, FAKE_POLL, FAKE_FLUSH, FAKE_CALLS };

struct fake_line {
    int64_t now_ns;
    uint8_t registers[FAKE_SERVOS][256]; /* of ids 1.. */
    uint8_t status[FAKE_SERVOS];
    /* Bytes on their way to us, and when the first of them is here. */
    uint8_t rx[FAKE_RX];
    int n_rx;
    int64_t rx_at_ns;
    /* What was written: all of it, and the frame being assembled. */
    uint8_t tx[65536], request[VLAD_FEETECH_MAX_FRAME];
    int n_tx, n_request;
    int sync_writes, bad_frames; /* as the servos saw them */
    int lose_sync_writes;        /* this many next ones are not understood */
    uint32_t powerless;          /* servos (bit) that do not take Torque_Enable = 1 */
    int log_address;             /* what sync writes put at this address of servo 0 .. */
    int n_log, log[256];         /* .. (two bytes) */
    /* Faults. */
    uint32_t silent, flip, truncate, other_id, shorten, mute_once, deaf_to_writes; /* bit = servo */
    int64_t turnaround_ns;
    bool echo, never_ready;
    bool batched; /* ready only when all is there, as an adapter that buffers */
    int trailer;          /* bytes of noise behind the replies of a sync read */
    int chunk;            /* most bytes that one read gives */
    int write_room;       /* bytes the line takes before -EAGAIN; < 0: any number */
    int stall_writes_from; /* the line takes nothing from this write on; 0 = never */
    int64_t room_back_ns; /* when it takes all again */
    /* The call number `at` (1 = next) of `call` returns `result` instead. */
    struct { int at; int result; } inject[FAKE_CALLS];
    int calls[FAKE_CALLS];
};

static void fake_receive(struct fake_line *line, const uint8_t *bytes, int n)
{
    if (line->n_rx == 0)
        line->rx_at_ns = line->now_ns + line->turnaround_ns;
    CHECK(line->n_rx + n <= FAKE_RX);
    memcpy(line->rx + line->n_rx, bytes, (size_t)n);
    line->n_rx += n;
}

static void fake_reply(struct fake_line *line, int servo, const uint8_t *data, int n)
{
    uint8_t frame[256];
    unsigned sum = 0;
    uint32_t bit = 1u << servo;
    if (line->silent & bit)
        return;
    if (line->mute_once & bit) {
        line->mute_once &= ~bit;
        return;
    }
    if (line->shorten & bit)
        n--;
    frame[0] = frame[1] = 0xFF;
    frame[2] = (uint8_t)(line->other_id & bit ? 99 : servo + 1);
    frame[3] = (uint8_t)(n + 2);
    frame[4] = line->status[servo];
    memcpy(frame + 5, data, (size_t)n);
    for (int i = 2; i < n + 5; i++)
        sum += frame[i];
    frame[n + 5] = (uint8_t)~sum;
    if (line->flip & bit)
        frame[n + 4] ^= 0x10;
    fake_receive(line, frame, line->truncate & bit ? n + 3 : n + 6);
}

/* What the servos make of a whole frame. */
static void fake_obey(struct fake_line *line, const uint8_t *f, int n)
{
    unsigned sum = 0;
    for (int i = 2; i < n - 1; i++)
        sum += f[i];
    if ((uint8_t)~sum != f[n - 1]) {
        line->bad_frames++;
        return;
    }
    int servo = f[2] - 1;
    bool known = servo >= 0 && servo < FAKE_SERVOS;
    if (f[4] == 0x01 && known)
        fake_reply(line, servo, f, 0);
    if (f[4] == 0x02 && known)
        fake_reply(line, servo, line->registers[servo] + f[5], f[6]);
    if (f[4] == 0x03 && known && !((line->silent | line->deaf_to_writes) >> servo & 1)) {
        memcpy(line->registers[servo] + f[5], f + 6, (size_t)(n - 7));
        fake_reply(line, servo, f, 0);
    }
    if (f[4] == 0x82) {
        for (int i = 7; i < n - 1; i++)
            if (f[i] >= 1 && f[i] <= FAKE_SERVOS)
                fake_reply(line, f[i] - 1, line->registers[f[i] - 1] + f[5], f[6]);
        for (int i = 0; i < line->trailer; i++)
            fake_receive(line, (const uint8_t[]){0x55}, 1);
    }
    if (f[4] == 0x83) {
        line->sync_writes++;
        if (line->lose_sync_writes > 0) {
            line->lose_sync_writes--;
            return;
        }
        if (f[5] == line->log_address && f[6] == 2 && f[7] == 1 && line->n_log < 256)
            line->log[line->n_log++] = f[8] | f[9] << 8;
        for (int i = 7; i + f[6] < n; i += 1 + f[6])
            if (f[i] >= 1 && f[i] <= FAKE_SERVOS && !(line->silent >> (f[i] - 1) & 1) &&
                !(f[5] == VLAD_REG_TORQUE_ENABLE && f[i + 1] && line->powerless >> (f[i] - 1) & 1))
                memcpy(line->registers[f[i] - 1] + f[5], f + i + 1, f[6]);
    }
}

static void fake_take(struct fake_line *line, const uint8_t *bytes, int n)
{
    CHECK(line->n_tx + n <= (int)sizeof line->tx);
    memcpy(line->tx + line->n_tx, bytes, (size_t)n);
    line->n_tx += n;
    if (line->echo)
        fake_receive(line, bytes, n);
    for (int i = 0; i < n; i++) {
        uint8_t *f = line->request;
        f[line->n_request++] = bytes[i];
        if (line->n_request >= 4 && line->n_request == f[3] + 4) {
            fake_obey(line, f, line->n_request);
            line->n_request = 0;
        }
    }
}

static bool fake_injected(struct fake_line *line, enum fake_call call, int *result)
{
    line->now_ns += VLAD_NS_PER_US;
    line->calls[call]++;
    if (line->inject[call].at == 0 || --line->inject[call].at > 0)
        return false;
    *result = line->inject[call].result;
    return true;
}

static int64_t fake_ready_ns(const struct fake_line *line)
{
    return line->rx_at_ns + (line->batched ? line->n_rx : 1) * 10 * VLAD_NS_PER_US;
}

static ssize_t fake_read(void *port, void *buffer, size_t size)
{
    struct fake_line *line = port;
    int result;
    if (fake_injected(line, FAKE_READ, &result))
        return result;
    if (line->n_rx == 0 || line->now_ns < fake_ready_ns(line))
        return -EAGAIN;
    int64_t here = (line->now_ns - line->rx_at_ns) / (10 * VLAD_NS_PER_US);
    int n = here < line->n_rx ? (int)here : line->n_rx;
    n = n > line->chunk && line->chunk > 0 ? line->chunk : n;
    n = n > (int)size ? (int)size : n;
    memcpy(buffer, line->rx, (size_t)n);
    line->n_rx -= n;
    memmove(line->rx, line->rx + n, (size_t)line->n_rx);
    line->rx_at_ns += n * 10 * VLAD_NS_PER_US;
    return n;
}

static ssize_t fake_write(void *port, const void *bytes, size_t size)
{
    struct fake_line *line = port;
    int result, n = (int)size;
    if (fake_injected(line, FAKE_WRITE, &result)) {
        if (result > 0)
            fake_take(line, bytes, result);
        return result;
    }
    if (line->stall_writes_from > 0 && line->calls[FAKE_WRITE] >= line->stall_writes_from)
        line->write_room = 0;
    if (line->now_ns >= line->room_back_ns)
        line->write_room = -1;
    if (line->write_room == 0)
        return -EAGAIN;
    if (line->write_room > 0) {
        n = n < line->write_room ? n : line->write_room;
        line->write_room -= n;
    }
    fake_take(line, bytes, n);
    return n;
}

static int fake_poll(void *port, short events, int64_t timeout_ns)
{
    struct fake_line *line = port;
    int result;
    CHECK(timeout_ns > 0);
    if (fake_injected(line, FAKE_POLL, &result))
        return result;
    if (line->never_ready) {
        line->now_ns += timeout_ns;
        return 0;
    }
    if (events & POLLOUT) {
        if (line->write_room != 0 || line->now_ns + timeout_ns >= line->room_back_ns) {
            if (line->write_room == 0 && line->now_ns < line->room_back_ns)
                line->now_ns = line->room_back_ns;
            return POLLOUT;
        }
        line->now_ns += timeout_ns;
        return 0;
    }
    if (events & POLLIN && line->n_rx > 0 && fake_ready_ns(line) <= line->now_ns + timeout_ns) {
        if (line->now_ns < fake_ready_ns(line))
            line->now_ns = fake_ready_ns(line);
        return POLLIN;
    }
    line->now_ns += timeout_ns;
    return 0;
}

static int fake_flush(void *port)
{
    struct fake_line *line = port;
    int result;
    if (fake_injected(line, FAKE_FLUSH, &result))
        return result;
    line->n_rx = 0;
    return 0;
}

static int64_t fake_now(void *port)
{
    return ((struct fake_line *)port)->now_ns;
}

static const struct vlad_serial_ops fake_ops = {
    .read = fake_read,
    .write = fake_write,
    .poll = fake_poll,
    .flush_input = fake_flush,
    .now_ns = fake_now,
};

static void fake_init(struct fake_line *line)
{
    memset(line, 0, sizeof *line);
    line->now_ns = 1000 * VLAD_NS_PER_S;
    line->write_room = -1;
    line->room_back_ns = INT64_MAX;
    line->turnaround_ns = 20 * VLAD_NS_PER_US;
}

#endif
