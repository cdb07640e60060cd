/* libFuzzer target: arbitrary bytes from the line, in arbitrary pieces, through the parser and
 * through a whole sync read. Whatever comes, no byte is lost or counted twice, every frame given
 * out has a good checksum and stands in the input, and a transaction ends by its deadline.
 *
 *   make -C csrc fuzz-feetech SECONDS=60
 */
#include <poll.h>   /* POLLIN */
#include <stdlib.h> /* abort */
#include <string.h> /* memcmp */

#include "../serial_bus.h"

#define MUST(condition) do { if (!(condition)) abort(); } while (0)

struct stream {
    const uint8_t *bytes;
    size_t n;
    int64_t now_ns;
};

static ssize_t stream_read(void *port, void *buffer, size_t size)
{
    struct stream *stream = port;
    if (stream->n == 0)
        return -11; /* EAGAIN */
    size_t piece = 1 + stream->bytes[0] % 32;
    piece = piece > stream->n ? stream->n : piece;
    piece = piece > size ? size : piece;
    memcpy(buffer, stream->bytes, piece);
    stream->bytes += piece;
    stream->n -= piece;
    stream->now_ns += 1000;
    return (ssize_t)piece;
}

/* Nothing is in the input before the request. */
static ssize_t first_read(void *port, void *buffer, size_t size)
{
    struct stream *stream = port;
    return stream->now_ns == 0 ? -11 : stream_read(port, buffer, size);
}

static ssize_t stream_write(void *port, const void *buffer, size_t n)
{
    (void)buffer;
    ((struct stream *)port)->now_ns += 1000;
    return (ssize_t)n;
}

static int stream_poll(void *port, short events, int64_t timeout_ns)
{
    struct stream *stream = port;
    if (stream->n > 0)
        return events;
    stream->now_ns += timeout_ns;
    return 0;
}

static int stream_flush(void *port)
{
    (void)port;
    return 0;
}

static int64_t stream_now(void *port)
{
    return ((struct stream *)port)->now_ns;
}

static const struct vlad_serial_ops ops = {first_read, stream_write, stream_poll, stream_flush,
                                           stream_now};

static bool stands_in(const uint8_t *bytes, size_t n, const struct vlad_feetech_reply *reply)
{
    uint8_t frame[VLAD_FEETECH_MAX_DATA + 6] = {0xFF, 0xFF, reply->id,
                                                (uint8_t)(reply->n_data + 2), reply->status};
    size_t length = (size_t)reply->n_data + 6;
    unsigned sum = 0;
    memcpy(frame + 5, reply->data, (size_t)reply->n_data);
    for (size_t i = 2; i < length - 1; i++)
        sum += frame[i];
    frame[length - 1] = (uint8_t)~sum;
    for (size_t at = 0; at + length <= n; at++)
        if (memcmp(bytes + at, frame, length) == 0)
            return true;
    return false;
}

static void parse(const uint8_t *bytes, size_t n, int max_data)
{
    struct vlad_feetech_parser parser = {0};
    struct vlad_feetech_reply reply;
    uint64_t framed = 0;
    vlad_feetech_parser_reset(&parser, max_data);
    for (size_t at = 0; at < n;) {
        int piece = 1 + bytes[at] % 90;
        piece = (size_t)piece > n - at ? (int)(n - at) : piece;
        int taken = vlad_feetech_parser_take(&parser, bytes + at, piece);
        MUST(taken > 0 && taken <= piece);
        at += (size_t)taken;
        while (vlad_feetech_parser_next(&parser, &reply)) {
            MUST(reply.id <= VLAD_FEETECH_MAX_ID);
            MUST(reply.n_data >= 0 && reply.n_data <= parser.max_data);
            MUST(stands_in(bytes, at, &reply));
            framed += (uint64_t)reply.n_data + 6;
        }
        MUST(framed + parser.resync_bytes + (uint64_t)parser.n == at);
    }
}

static void transact(const uint8_t *bytes, size_t n, int n_data, bool echo)
{
    static struct vlad_serial_bus bus;
    static const uint8_t ids[6] = {1, 2, 3, 4, 5, 6};
    struct stream stream = {.bytes = bytes, .n = n};
    struct vlad_feetech_reply replies[6];
    uint32_t answered;
    vlad_serial_bus_init(&bus, &ops, &stream, echo);
    MUST(vlad_serial_sync_read(&bus, ids, 6, 56, n_data, 5000000, replies, &answered) == 0);
    MUST(stream.now_ns <= 5001000);
    MUST((answered & ~0x3Fu) == 0 && (bus.garbled & ~0x3Fu) == 0);
    MUST((answered & bus.garbled) == 0);
    for (int i = 0; i < 6; i++)
        if (answered >> i & 1) {
            MUST(replies[i].id == ids[i] && replies[i].n_data == n_data);
            MUST(echo || stands_in(bytes, n, &replies[i]));
        }
    MUST(vlad_serial_count(&bus, VLAD_SERIAL_BYTES_RX) == n - stream.n);
    MUST(vlad_serial_count(&bus, VLAD_SERIAL_FRAMES_RX) ==
         (uint64_t)__builtin_popcount(answered));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n < 1)
        return 0;
    parse(bytes + 1, n - 1, bytes[0] % 80 - 5);
    transact(bytes + 1, n - 1, 1 + bytes[0] % 16, bytes[0] >> 7);
    return 0;
}
