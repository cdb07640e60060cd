#include "feetech.h"

#include <errno.h>  /* EINVAL, ERANGE */
#include <string.h> /* memcpy, memmove */

enum { INST_PING = 0x01, INST_READ = 0x02, INST_WRITE = 0x03, INST_SYNC_READ = 0x82,
       INST_SYNC_WRITE = 0x83 };

enum { HEADER = 4, OVERHEAD = 6 }; /* FF FF id len; plus instruction or status, and checksum */

static uint8_t checksum(const uint8_t *frame, int n)
{
    unsigned sum = 0;
    for (int i = 2; i < n; i++)
        sum += frame[i];
    return (uint8_t)~sum;
}

/* Writes everything but the parameters; n_params of them lie at frame + 5 already. */
static int seal(uint8_t *frame, uint8_t id, uint8_t instruction, int n_params)
{
    int n = n_params + OVERHEAD;
    frame[0] = frame[1] = 0xFF;
    frame[2] = id;
    frame[3] = (uint8_t)(n_params + 2);
    frame[4] = instruction;
    frame[n - 1] = checksum(frame, n - 1);
    return n;
}

static bool fits(size_t size, int n_params)
{
    return n_params + 2 <= 0xFD && (size_t)n_params + OVERHEAD <= size;
}

static bool data_ok(int n_data)
{
    return n_data >= 1 && n_data <= VLAD_FEETECH_MAX_DATA;
}

static bool ids_ok(const uint8_t *ids, int n_ids)
{
    if (n_ids < 1 || n_ids > VLAD_FEETECH_MAX_ID)
        return false;
    for (int i = 0; i < n_ids; i++)
        if (ids[i] > VLAD_FEETECH_MAX_ID)
            return false;
    return true;
}

int vlad_feetech_ping(uint8_t *frame, size_t size, uint8_t id)
{
    if (id > VLAD_FEETECH_MAX_ID || !fits(size, 0))
        return -EINVAL;
    return seal(frame, id, INST_PING, 0);
}

int vlad_feetech_read(uint8_t *frame, size_t size, uint8_t id, uint8_t address, int n_data)
{
    if (id > VLAD_FEETECH_MAX_ID || !data_ok(n_data) || !fits(size, 2))
        return -EINVAL;
    frame[5] = address;
    frame[6] = (uint8_t)n_data;
    return seal(frame, id, INST_READ, 2);
}

int vlad_feetech_write(uint8_t *frame, size_t size, uint8_t id, uint8_t address,
                       const uint8_t *data, int n_data)
{
    if (id > VLAD_FEETECH_BROADCAST || !data_ok(n_data) || !fits(size, 1 + n_data))
        return -EINVAL;
    frame[5] = address;
    memcpy(frame + 6, data, (size_t)n_data);
    return seal(frame, id, INST_WRITE, 1 + n_data);
}

int vlad_feetech_sync_read(uint8_t *frame, size_t size, const uint8_t *ids, int n_ids,
                           uint8_t address, int n_data)
{
    if (!ids_ok(ids, n_ids) || !data_ok(n_data) || !fits(size, 2 + n_ids))
        return -EINVAL;
    frame[5] = address;
    frame[6] = (uint8_t)n_data;
    memcpy(frame + 7, ids, (size_t)n_ids);
    return seal(frame, VLAD_FEETECH_BROADCAST, INST_SYNC_READ, 2 + n_ids);
}

int vlad_feetech_sync_write(uint8_t *frame, size_t size, const uint8_t *ids, int n_ids,
                            uint8_t address, const uint8_t *data, int n_data)
{
    if (!ids_ok(ids, n_ids) || !data_ok(n_data) || !fits(size, 2 + n_ids * (1 + n_data)))
        return -EINVAL;
    frame[5] = address;
    frame[6] = (uint8_t)n_data;
    uint8_t *p = frame + 7;
    for (int i = 0; i < n_ids; i++) {
        *p++ = ids[i];
        memcpy(p, data + i * n_data, (size_t)n_data);
        p += n_data;
    }
    return seal(frame, VLAD_FEETECH_BROADCAST, INST_SYNC_WRITE, 2 + n_ids * (1 + n_data));
}

void vlad_feetech_parser_reset(struct vlad_feetech_parser *parser, int max_data)
{
    parser->n = 0;
    parser->max_data = max_data < 0                       ? 0
                       : max_data > VLAD_FEETECH_MAX_DATA ? VLAD_FEETECH_MAX_DATA
                                                          : max_data;
}

int vlad_feetech_parser_take(struct vlad_feetech_parser *parser, const uint8_t *bytes, int n)
{
    int room = (int)sizeof parser->buffer - parser->n;
    if (n > room)
        n = room;
    if (n <= 0)
        return 0;
    memcpy(parser->buffer + parser->n, bytes, (size_t)n);
    parser->n += n;
    return n;
}

static void drop(struct vlad_feetech_parser *parser, int n)
{
    parser->n -= n;
    memmove(parser->buffer, parser->buffer + n, (size_t)parser->n);
}

/* Whether the buffered bytes, as far as they go, can be the start of a reply. */
static bool plausible(const struct vlad_feetech_parser *parser)
{
    const uint8_t *b = parser->buffer;
    if (b[0] != 0xFF)
        return false;
    if (parser->n >= 2 && b[1] != 0xFF)
        return false;
    if (parser->n >= 3 && b[2] > VLAD_FEETECH_MAX_ID)
        return false;
    return parser->n < HEADER || (b[3] >= 2 && b[3] <= parser->max_data + 2);
}

bool vlad_feetech_parser_next(struct vlad_feetech_parser *parser,
                              struct vlad_feetech_reply *reply)
{
    const uint8_t *b = parser->buffer;
    while (parser->n > 0) {
        if (!plausible(parser)) {
            drop(parser, 1);
            parser->resync_bytes++;
            continue;
        }
        int n = parser->n < HEADER ? OVERHEAD : b[3] + HEADER;
        if (parser->n < n)
            return false;
        if (checksum(b, n - 1) != b[n - 1]) {
            parser->checksum_errors++;
            parser->damaged_id = b[2];
            drop(parser, 1);
            parser->resync_bytes++;
            continue;
        }
        reply->id = b[2];
        reply->status = b[4];
        reply->n_data = n - OVERHEAD;
        memcpy(reply->data, b + 5, (size_t)reply->n_data);
        drop(parser, n);
        return true;
    }
    return false;
}

int32_t vlad_feetech_signed(uint16_t raw, int sign_bit)
{
    int32_t magnitude = raw & ((1 << sign_bit) - 1);
    return raw >> sign_bit & 1 ? -magnitude : magnitude;
}

int vlad_feetech_raw(int32_t value, int sign_bit, uint16_t *raw)
{
    int32_t limit = (1 << sign_bit) - 1;
    if (value < -limit || value > limit)
        return -ERANGE;
    *raw = (uint16_t)(value < 0 ? -value | 1 << sign_bit : value);
    return 0;
}

/* One revolution in nano-radians, in thousandths: 2 pi to 13 digits. */
#define REVOLUTION_MILLI_NU 6283185307180LL
#define MAX_NU 100000000000LL /* 100 rad: far beyond any joint, far below overflow */

static bool range_ok(int range_min, int range_max, int direction)
{
    return range_min >= 0 && range_min < range_max && range_max < VLAD_FEETECH_TICKS &&
           (direction == 1 || direction == -1);
}

int vlad_feetech_scale_body(struct vlad_feetech_scale *scale, int range_min, int range_max,
                            int direction)
{
    if (!range_ok(range_min, range_max, direction))
        return -EINVAL;
    *scale = (struct vlad_feetech_scale){.zero_half_ticks = range_min + range_max,
                                         .direction = direction,
                                         .ticks_per = VLAD_FEETECH_TICKS * 1000LL,
                                         .nu_per = REVOLUTION_MILLI_NU};
    return 0;
}

int vlad_feetech_scale_gripper(struct vlad_feetech_scale *scale, int range_min, int range_max,
                               int direction)
{
    if (!range_ok(range_min, range_max, direction))
        return -EINVAL;
    *scale = (struct vlad_feetech_scale){
        .zero_half_ticks = 2 * (direction > 0 ? range_min : range_max),
        .direction = direction,
        .ticks_per = range_max - range_min,
        .nu_per = VLAD_NU_PER_UNIT};
    return 0;
}

/* floor(a / b + 1/2), b > 0. Rounding halves upwards commutes with adding whole numbers, which
 * rounding away from zero does not. */
static int64_t nearest(int64_t a, int64_t b)
{
    int64_t twice = 2 * a + b;
    int64_t q = twice / (2 * b);
    return twice % (2 * b) < 0 ? q - 1 : q;
}

int vlad_feetech_nu_to_ticks(const struct vlad_feetech_scale *scale, int64_t nu, int32_t *ticks)
{
    if (nu < -MAX_NU || nu > MAX_NU)
        return -ERANGE;
    /* Half of (zero_half_ticks + 2 d nu t/n), as one fraction over 2 n. */
    int64_t t = nearest(scale->zero_half_ticks * scale->nu_per +
                            2 * scale->direction * nu * scale->ticks_per,
                        2 * scale->nu_per);
    if (t < 0 || t >= VLAD_FEETECH_TICKS)
        return -ERANGE;
    *ticks = (int32_t)t;
    return 0;
}

int64_t vlad_feetech_ticks_to_nu(const struct vlad_feetech_scale *scale, int32_t ticks)
{
    int64_t half_ticks = 2 * (int64_t)ticks - scale->zero_half_ticks;
    return nearest(scale->direction * half_ticks * scale->nu_per, 2 * scale->ticks_per);
}

int64_t vlad_feetech_velocity_nu_s(const struct vlad_feetech_scale *scale, int32_t ticks_s)
{
    return nearest(scale->direction * (int64_t)ticks_s * scale->nu_per, scale->ticks_per);
}
