/* feetech.h: the STS3215's packets (Feetech protocol 0), registers and ticks. Pure: frames go into
 * the caller's buffers, bytes come from the caller; no clock, no descriptor.
 *
 *   request  FF FF id len instruction parameters.. checksum     len = parameters + 2
 *   reply    FF FF id len status      data..       checksum     len = data + 2
 *   checksum = ~(sum of the bytes after FF FF) & 0xFF; numbers are little-endian.
 *
 * Source: Feetech SMS/STS memory table as in huggingface/lerobot
 * src/lerobot/motors/feetech/tables.py, frames captured on a pseudo-terminal.
 */
#ifndef VLAD_FEETECH_H
#define VLAD_FEETECH_H

#include <stddef.h> /* size_t */

#include "vlad.h"

#define VLAD_FEETECH_MODEL 777     /* register 3 of a STS3215 */
#define VLAD_FEETECH_TICKS 4096    /* per revolution */
#define VLAD_FEETECH_BROADCAST 0xFE
#define VLAD_FEETECH_MAX_ID 0xFD
#define VLAD_FEETECH_MAX_DATA 64   /* data bytes of one reply, and of one servo in a sync write */
#define VLAD_FEETECH_MAX_FRAME 256

/* Register addresses; the size in bytes where it is not 1. */
enum vlad_feetech_register {
    VLAD_REG_MODEL = 3,          /* 2 */
    VLAD_REG_ID = 5,
    VLAD_REG_RETURN_DELAY = 7,   /* 2 us each */
    VLAD_REG_MIN_POSITION = 9,   /* 2 */
    VLAD_REG_MAX_POSITION = 11,  /* 2 */
    VLAD_REG_MAX_TORQUE = 16,    /* 2, permille; Torque_Limit after power-on */
    VLAD_REG_P = 21,
    VLAD_REG_D = 22,
    VLAD_REG_I = 23,
    VLAD_REG_HOMING_OFFSET = 31, /* 2, sign bit 11; present = actual - offset */
    VLAD_REG_OPERATING_MODE = 33,
    VLAD_REG_TORQUE_ENABLE = 40,
    VLAD_REG_ACCELERATION = 41,
    VLAD_REG_GOAL_POSITION = 42, /* 2, sign bit 15 */
    VLAD_REG_TORQUE_LIMIT = 48,  /* 2, permille, RAM */
    VLAD_REG_LOCK = 55,          /* 0: writes to registers below 40 survive power-off */
    VLAD_REG_PRESENT_POSITION = 56, /* 2, sign bit 15 */
    VLAD_REG_PRESENT_VELOCITY = 58, /* 2, sign bit 15, ticks/s */
    VLAD_REG_PRESENT_LOAD = 60,  /* 2, sign bit 10, permille */
    VLAD_REG_VOLTAGE = 62,       /* 0.1 V */
    VLAD_REG_TEMPERATURE = 63,   /* Celsius */
    VLAD_REG_STATUS = 65,
    VLAD_REG_MOVING = 66,
    VLAD_REG_CURRENT = 69,       /* 2 */
    VLAD_REG_MAX_ACCELERATION = 85
};

/* --- Requests. Each returns the frame's length, or -EINVAL when an id, a count or the buffer's
 * size does not allow it (nothing is then written). --- */
int vlad_feetech_ping(uint8_t *frame, size_t size, uint8_t id);
int vlad_feetech_read(uint8_t *frame, size_t size, uint8_t id, uint8_t address, int n_data);
/* id may be VLAD_FEETECH_BROADCAST: then nobody answers. */
int vlad_feetech_write(uint8_t *frame, size_t size, uint8_t id, uint8_t address,
                       const uint8_t *data, int n_data);
int vlad_feetech_sync_read(uint8_t *frame, size_t size, const uint8_t *ids, int n_ids,
                           uint8_t address, int n_data);
/* data: n_data bytes for each id, in order. Nobody answers a sync write. */
int vlad_feetech_sync_write(uint8_t *frame, size_t size, const uint8_t *ids, int n_ids,
                            uint8_t address, const uint8_t *data, int n_data);

/* --- Replies. --- */
struct vlad_feetech_reply {
    uint8_t id;
    uint8_t status; /* VLAD_STATUS_* bits of arm.h */
    int n_data;
    uint8_t data[VLAD_FEETECH_MAX_DATA];
};

/* Finds frames in a byte stream. Whatever is not a frame is dropped byte by byte, so a frame behind
 * garbage, behind a false header or behind a damaged frame is still found. */
struct vlad_feetech_parser {
    uint8_t buffer[VLAD_FEETECH_MAX_DATA + 6];
    int n;
    int max_data;             /* longest reply that can be meant; a longer `len` is not a header */
    uint64_t checksum_errors; /* complete frames whose checksum was wrong */
    uint8_t damaged_id;       /* who the latest of them claimed to be from */
    uint64_t resync_bytes;    /* bytes dropped in search of a frame */
};

/* max_data is bounded to 0..VLAD_FEETECH_MAX_DATA. Forgets buffered bytes, keeps the counts. */
void vlad_feetech_parser_reset(struct vlad_feetech_parser *parser, int max_data);
/* Takes up to n bytes, returns how many. At least one if vlad_feetech_parser_next() said false. */
int vlad_feetech_parser_take(struct vlad_feetech_parser *parser, const uint8_t *bytes, int n);
/* True: *reply is the next frame whose checksum holds. False: more bytes are needed. */
bool vlad_feetech_parser_next(struct vlad_feetech_parser *parser,
                              struct vlad_feetech_reply *reply);

/* --- Values. --- */
/* Bit `sign_bit` of raw is the sign, the bits below it the magnitude. */
int32_t vlad_feetech_signed(uint16_t raw, int sign_bit);
/* The inverse. 0, or -ERANGE when the magnitude does not fit. */
int vlad_feetech_raw(int32_t value, int sign_bit, uint16_t *raw);
static inline uint16_t vlad_feetech_u16(const uint8_t *data)
{
    return (uint16_t)(data[0] | data[1] << 8);
}

/* Ticks of one joint = zero + direction * nu * ticks_per / nu_per. The zero is kept in half ticks,
 * because the middle of a calibrated range may lie between two ticks. */
struct vlad_feetech_scale {
    int32_t zero_half_ticks;
    int32_t direction; /* 1 or -1 */
    int64_t ticks_per; /* this many ticks .. */
    int64_t nu_per;    /* .. are this many nano-units */
};

/* Body joint: zero = middle of the calibrated range, nano-radians.
 * Gripper: 0 = range_min and 1e9 = range_max (the other way round when direction is -1).
 * 0, or -EINVAL unless 0 <= range_min < range_max <= 4095 and direction is 1 or -1. */
int vlad_feetech_scale_body(struct vlad_feetech_scale *scale, int range_min, int range_max,
                            int direction);
int vlad_feetech_scale_gripper(struct vlad_feetech_scale *scale, int range_min, int range_max,
                               int direction);

/* Nearest tick, halves upwards everywhere, in exact integers. Hence a step of at most N * nu_per /
 * ticks_per nano-units is never more than N ticks, wherever it starts; and ticks -> nu -> ticks is
 * the identity. 0, or -ERANGE when the result is not in 0..4095 (*ticks is then untouched). */
int vlad_feetech_nu_to_ticks(const struct vlad_feetech_scale *scale, int64_t nu, int32_t *ticks);
/* Any ticks that a register can hold (-32767..32767). */
int64_t vlad_feetech_ticks_to_nu(const struct vlad_feetech_scale *scale, int32_t ticks);
/* ticks per second -> nano-units per second: the same without the zero. */
int64_t vlad_feetech_velocity_nu_s(const struct vlad_feetech_scale *scale, int32_t ticks_s);

#endif
