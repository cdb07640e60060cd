/* feetech.c against frames captured from LeRobot, against its own inverse, and against noise. */
#include <errno.h>  /* EINVAL, ERANGE */
#include <math.h>   /* fabs */
#include <string.h> /* memcmp */

#include "../feetech.h"
#include "check.h"

static uint64_t random_state = 88172645463325252ULL;

static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static void test_captured_requests(void)
{
    const uint8_t ids[6] = {1, 2, 3, 4, 5, 6};
    uint8_t frame[VLAD_FEETECH_MAX_FRAME], goals[12], expected[26];
    const uint8_t sync_read[] = {0xFF, 0xFF, 0xFE, 0x0A, 0x82, 0x38, 0x02,
                                 1,    2,    3,    4,    5,    6,    0x26};
    CHECK_EQ(vlad_feetech_sync_read(frame, sizeof frame, ids, 6, VLAD_REG_PRESENT_POSITION, 2), 14);
    CHECK(memcmp(frame, sync_read, 14) == 0);

    const uint8_t ping[] = {0xFF, 0xFF, 0x01, 0x02, 0x01, 0xFB};
    CHECK_EQ(vlad_feetech_ping(frame, sizeof frame, 1), 6);
    CHECK(memcmp(frame, ping, 6) == 0);

    const uint8_t read[] = {0xFF, 0xFF, 0x01, 0x04, 0x02, 0x38, 0x02, 0xBE};
    memset(frame, 0x5A, sizeof frame); /* so that nothing is left from the frame before */
    CHECK_EQ(vlad_feetech_read(frame, sizeof frame, 1, 0x38, 2), 8);
    CHECK(memcmp(frame, read, 8) == 0);

    const uint8_t write[] = {0xFF, 0xFF, 0xFE, 0x04, 0x03, 0x05, 0x01, 0xF4};
    const uint8_t one = 1;
    CHECK_EQ(vlad_feetech_write(frame, sizeof frame, VLAD_FEETECH_BROADCAST, 5, &one, 1), 8);
    CHECK(memcmp(frame, write, 8) == 0);

    const uint8_t head[] = {0xFF, 0xFF, 0xFE, 0x16, 0x83, 0x2A, 0x02};
    memcpy(expected, head, 7);
    unsigned sum = 0;
    for (int i = 0; i < 6; i++) {
        goals[2 * i] = (uint8_t)(0x10 * i);
        goals[2 * i + 1] = 0x08;
        expected[7 + 3 * i] = (uint8_t)(i + 1);
        memcpy(expected + 8 + 3 * i, goals + 2 * i, 2);
    }
    for (int i = 2; i < 25; i++)
        sum += expected[i];
    expected[25] = (uint8_t)(0xFF - (sum & 0xFF));
    CHECK_EQ(vlad_feetech_sync_write(frame, sizeof frame, ids, 6, VLAD_REG_GOAL_POSITION, goals, 2),
             26);
    CHECK(memcmp(frame, expected, 26) == 0);
}

static void test_refused_requests(void)
{
    uint8_t frame[VLAD_FEETECH_MAX_FRAME], many[254] = {0}, data[VLAD_FEETECH_MAX_DATA + 1] = {0};
    const uint8_t bad[2] = {1, VLAD_FEETECH_BROADCAST};
    CHECK_EQ(vlad_feetech_ping(frame, 6, VLAD_FEETECH_BROADCAST), -EINVAL);
    CHECK_EQ(vlad_feetech_ping(frame, 5, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_read(frame, 8, VLAD_FEETECH_BROADCAST, 0, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_read(frame, 8, 1, 0, 0), -EINVAL);
    CHECK_EQ(vlad_feetech_read(frame, 8, 1, 0, VLAD_FEETECH_MAX_DATA + 1), -EINVAL);
    CHECK_EQ(vlad_feetech_read(frame, 7, 1, 0, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_write(frame, 256, 0xFF, 0, data, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_write(frame, 256, 1, 0, data, 0), -EINVAL);
    CHECK_EQ(vlad_feetech_write(frame, 7, 1, 0, data, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_read(frame, 256, many, 0, 0, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_read(frame, 256, many, 254, 0, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_read(frame, 256, many, 253, 0, 1), -EINVAL); /* length byte */
    CHECK_EQ(vlad_feetech_sync_read(frame, 256, bad, 2, 0, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_read(frame, 256, bad + 1, 1, 0, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_write(frame, 9, many, 1, 0, data, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_write(frame, 10, many, 1, 0, data, 1), 10);
    CHECK_EQ(vlad_feetech_sync_read(frame, 256, many, 1, 0, 0), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_read(frame, 8, many, 1, 0, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_write(frame, 256, bad, 2, 0, data, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_write(frame, 256, many, 1, 0, data, 65), -EINVAL);
    uint8_t zeros[125] = {0};
    CHECK_EQ(vlad_feetech_sync_write(frame, 256, many, 125, 0, zeros, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_sync_write(frame, 256, many, 124, 0, zeros, 1), 256);
}

/* The largest of everything is still sent. */
static void test_limits_of_requests(void)
{
    uint8_t frame[VLAD_FEETECH_MAX_FRAME], ids[248], data[VLAD_FEETECH_MAX_DATA] = {0};
    const uint8_t all[250] = {0};
    for (int i = 0; i < 248; i++)
        ids[i] = (uint8_t)(VLAD_FEETECH_MAX_ID - i);
    CHECK_EQ(vlad_feetech_ping(frame, 6, VLAD_FEETECH_MAX_ID), 6);
    CHECK_EQ(vlad_feetech_read(frame, 8, VLAD_FEETECH_MAX_ID, 0, VLAD_FEETECH_MAX_DATA), 8);
    CHECK_EQ(vlad_feetech_write(frame, 71, 1, 0, data, VLAD_FEETECH_MAX_DATA), 71);
    CHECK_EQ(vlad_feetech_sync_read(frame, 9, ids, 1, 0, 1), 9);
    CHECK_EQ(vlad_feetech_sync_read(frame, 256, ids, 248, 0, 1), 256);
    CHECK_EQ(frame[3], 252);
    CHECK_EQ(vlad_feetech_sync_read(frame, 255, ids, 248, 0, 1), -EINVAL);
    /* With room for more, the length byte is the limit. */
    uint8_t longer[300];
    CHECK_EQ(vlad_feetech_sync_read(longer, sizeof longer, all, 249, 0, 1), 257);
    CHECK_EQ(longer[3], 0xFD);
    CHECK_EQ(vlad_feetech_sync_read(longer, sizeof longer, all, 250, 0, 1), -EINVAL);
}

static int reply_frame(uint8_t *frame, uint8_t id, uint8_t status, const uint8_t *data, int n)
{
    unsigned sum = id + (unsigned)n + 2 + status;
    frame[0] = frame[1] = 0xFF;
    frame[2] = id;
    frame[3] = (uint8_t)(n + 2);
    frame[4] = status;
    for (int i = 0; i < n; i++) {
        frame[5 + i] = data[i];
        sum += data[i];
    }
    frame[5 + n] = (uint8_t)~sum;
    return n + 6;
}

static void test_reply(void)
{
    struct vlad_feetech_parser parser = {0};
    struct vlad_feetech_reply reply;
    uint8_t frame[80];
    const uint8_t data[2] = {0xFF, 0xFF};
    int n = reply_frame(frame, 6, 0x20, data, 2);
    vlad_feetech_parser_reset(&parser, 8);
    for (int i = 0; i < n; i++) {
        CHECK(!vlad_feetech_parser_next(&parser, &reply));
        CHECK_EQ(vlad_feetech_parser_take(&parser, frame + i, 1), 1);
    }
    CHECK(vlad_feetech_parser_next(&parser, &reply));
    CHECK_EQ(reply.id, 6);
    CHECK_EQ(reply.status, 0x20);
    CHECK_EQ(reply.n_data, 2);
    CHECK_EQ(vlad_feetech_u16(reply.data), 0xFFFF);
    CHECK_EQ(parser.n, 0);
    CHECK_EQ(parser.resync_bytes + parser.checksum_errors, 0);
    CHECK_EQ(vlad_feetech_parser_take(&parser, frame, 0), 0);
    CHECK_EQ(vlad_feetech_parser_take(&parser, frame, -1), 0);

    /* The longest reply that is meant, and one longer. */
    frame[3] = 10;
    vlad_feetech_parser_take(&parser, frame, 4);
    CHECK(!vlad_feetech_parser_next(&parser, &reply));
    CHECK_EQ(parser.n, 4);
    vlad_feetech_parser_reset(&parser, 8);
    CHECK_EQ(parser.n, 0);
    frame[3] = 11;
    vlad_feetech_parser_take(&parser, frame, 4);
    CHECK(!vlad_feetech_parser_next(&parser, &reply));
    CHECK_EQ(parser.n, 0);

    vlad_feetech_parser_reset(&parser, -1);
    CHECK_EQ(parser.max_data, 0);
    vlad_feetech_parser_reset(&parser, 1000);
    CHECK_EQ(parser.max_data, VLAD_FEETECH_MAX_DATA);
}

/* Every prefix of junk in front of a frame is dropped, and the frame found. */
static void test_resync(void)
{
    static const uint8_t junk[][6] = {
        {0x00},                               /* no header */
        {0xFF},                               /* FF FF FF: the first is not part of it */
        {0xFF, 0x00},                         /* half a header */
        {0xFF, 0xFF, 0xFE},                   /* nobody's id */
        {0xFF, 0xFF, 0x01, 0x01},             /* len too small */
        {0xFF, 0xFF, 0x01, 0x40},             /* len larger than any reply meant */
        {0xFF, 0xFF, 0x01, 0x04, 0x00},       /* false header that swallows part of the frame */
        {0xFF, 0xFF, 0x01, 0x02, 0x00, 0x00}, /* bad checksum */
    };
    static const int lengths[] = {1, 1, 2, 3, 4, 4, 5, 6};
    const uint8_t data[2] = {0x34, 0x12};
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        struct vlad_feetech_parser parser = {0};
        struct vlad_feetech_reply reply;
        uint8_t bytes[32];
        /* What cannot become a frame is dropped as soon as that is clear. */
        vlad_feetech_parser_reset(&parser, 8);
        vlad_feetech_parser_take(&parser, junk[k], lengths[k]);
        CHECK(!vlad_feetech_parser_next(&parser, &reply));
        CHECK_EQ(parser.n, k == 1 ? 1 : k == 6 ? 5 : 0);
        parser = (struct vlad_feetech_parser){0};
        memcpy(bytes, junk[k], (size_t)lengths[k]);
        int n = lengths[k] + reply_frame(bytes + lengths[k], 3, 0, data, 2);
        vlad_feetech_parser_reset(&parser, 8);
        CHECK_EQ(vlad_feetech_parser_take(&parser, bytes, n), n);
        CHECK(vlad_feetech_parser_next(&parser, &reply));
        CHECK_EQ(reply.id, 3);
        CHECK_EQ(vlad_feetech_u16(reply.data), 0x1234);
        CHECK_EQ((int)parser.resync_bytes, lengths[k]);
        CHECK_EQ((int)parser.checksum_errors, k >= 6);
        if (k >= 6)
            CHECK_EQ(parser.damaged_id, 1);
        CHECK(!vlad_feetech_parser_next(&parser, &reply));
    }
}

/* One flipped bit is never taken for a good reply with other content. */
static void test_every_single_bit_flip(void)
{
    const uint8_t data[8] = {0x00, 0x08, 0x05, 0x80, 0x10, 0x04, 74, 31};
    uint8_t frame[14];
    for (int bit = 0; bit < 14 * 8; bit++) {
        struct vlad_feetech_parser parser = {0};
        struct vlad_feetech_reply reply;
        reply_frame(frame, 2, 0, data, 8);
        frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
        vlad_feetech_parser_reset(&parser, 8);
        vlad_feetech_parser_take(&parser, frame, 14);
        CHECK(!vlad_feetech_parser_next(&parser, &reply));
        CHECK(parser.resync_bytes > 0 || parser.n > 0);
    }
}

/* Noise between frames, fed in pieces of any size: every frame comes out once and in order. */
static void test_noise(void)
{
    struct vlad_feetech_parser parser = {0};
    struct vlad_feetech_reply reply;
    uint8_t stream[4096];
    uint64_t fed = 0, framed = 0;
    vlad_feetech_parser_reset(&parser, 8);
    for (int round = 0; round < 500; round++) {
        int n = 0, sent = 0, got = 0;
        while (n < 3500) {
            uint8_t data[8];
            for (uint32_t i = random_u32() % 12; i > 0; i--)
                stream[n++] = (uint8_t)(random_u32() % 255); /* no FF: no false header */
            for (int i = 0; i < 8; i++)
                data[i] = (uint8_t)random_u32();
            data[0] = (uint8_t)sent++;
            n += reply_frame(stream + n, (uint8_t)(random_u32() % 254), (uint8_t)random_u32(),
                             data, (int)(1 + random_u32() % 8));
        }
        for (int at = 0; at < n;) {
            int piece = 1 + (int)(random_u32() % 100);
            piece = piece > n - at ? n - at : piece;
            int taken = vlad_feetech_parser_take(&parser, stream + at, piece);
            CHECK(taken > 0);
            at += taken;
            while (vlad_feetech_parser_next(&parser, &reply)) {
                CHECK_EQ(reply.data[0], got % 256);
                framed += (uint64_t)reply.n_data + 6;
                got++;
            }
        }
        fed += (uint64_t)n;
        CHECK_EQ(got, sent);
    }
    CHECK_EQ(parser.n, 0);
    CHECK_EQ(fed, framed + parser.resync_bytes);
    CHECK_EQ(parser.checksum_errors, 0);

    /* Pure noise, rich in FF: nothing to find but what a checksum lets through, and no byte lost. */
    fed = framed = 0;
    parser.resync_bytes = 0;
    for (int i = 0; i < 200000; i++) {
        uint8_t byte = random_u32() % 3 ? 0xFF : (uint8_t)random_u32();
        CHECK_EQ(vlad_feetech_parser_take(&parser, &byte, 1), 1);
        fed++;
        while (vlad_feetech_parser_next(&parser, &reply)) {
            CHECK(reply.id <= VLAD_FEETECH_MAX_ID && reply.n_data <= 8);
            framed += (uint64_t)reply.n_data + 6;
        }
    }
    CHECK_EQ(fed, framed + parser.resync_bytes + (uint64_t)parser.n);
    CHECK(parser.checksum_errors > 0);
}

static void test_sign_magnitude(void)
{
    uint16_t raw = 7;
    CHECK_EQ(vlad_feetech_signed(0x0000, 15), 0);
    CHECK_EQ(vlad_feetech_signed(0x8000, 15), 0);
    CHECK_EQ(vlad_feetech_signed(0x8005, 15), -5);
    CHECK_EQ(vlad_feetech_signed(0x7FFF, 15), 32767);
    CHECK_EQ(vlad_feetech_signed(0xFFFF, 15), -32767);
    CHECK_EQ(vlad_feetech_signed(0x0DBE, 11), -1470); /* a homing offset */
    CHECK_EQ(vlad_feetech_signed(0x0410, 10), -16);
    CHECK_EQ(vlad_feetech_signed(0xF810, 10), 16); /* bits above the sign are not ours */
    CHECK_EQ(vlad_feetech_raw(0, 15, &raw), 0);
    CHECK_EQ(raw, 0); /* not minus nothing */
    for (int bit = 10; bit <= 15; bit++) {
        int limit = (1 << bit) - 1;
        for (int v = -limit; v <= limit; v++) {
            CHECK_EQ(vlad_feetech_raw(v, bit, &raw), 0);
            CHECK_EQ(vlad_feetech_signed(raw, bit), v);
        }
        raw = 7;
        CHECK_EQ(vlad_feetech_raw(limit + 1, bit, &raw), -ERANGE);
        CHECK_EQ(vlad_feetech_raw(-limit - 1, bit, &raw), -ERANGE);
        CHECK_EQ(raw, 7);
    }
}

static void test_scale_arguments(void)
{
    struct vlad_feetech_scale s;
    int (*const make[])(struct vlad_feetech_scale *, int, int, int) = {
        vlad_feetech_scale_body, vlad_feetech_scale_gripper};
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(make[i](&s, -1, 10, 1), -EINVAL);
        CHECK_EQ(make[i](&s, 10, 10, 1), -EINVAL);
        CHECK_EQ(make[i](&s, 0, 4096, 1), -EINVAL);
        CHECK_EQ(make[i](&s, 0, 4095, 0), -EINVAL);
        CHECK_EQ(make[i](&s, 0, 4095, -1), 0);
        CHECK_EQ(make[i](&s, 0, 4095, 1), 0);
    }
}

/* Against the formula in floating point, and ticks -> nu -> ticks is the identity. */
static void test_conversion(void)
{
    static const int ranges[][2] = {{758, 3292}, {0, 4095}, {1000, 1050}, {2040, 3460}};
    for (int k = 0; k < 4; k++)
        for (int direction = -1; direction <= 1; direction += 2) {
            struct vlad_feetech_scale body, gripper;
            int min = ranges[k][0], max = ranges[k][1];
            CHECK_EQ(vlad_feetech_scale_body(&body, min, max, direction), 0);
            CHECK_EQ(vlad_feetech_scale_gripper(&gripper, min, max, direction), 0);
            for (int32_t ticks = 0; ticks < VLAD_FEETECH_TICKS; ticks++) {
                int32_t back = -1;
                int64_t nu = vlad_feetech_ticks_to_nu(&body, ticks);
                double rad = direction * (ticks - (min + max) / 2.0) * 2 * 3.14159265358979323846 / 4096;
                CHECK(fabs((double)nu - rad * 1e9) < 0.51);
                CHECK_EQ(vlad_feetech_nu_to_ticks(&body, nu, &back), 0);
                CHECK_EQ(back, ticks);
                nu = vlad_feetech_ticks_to_nu(&gripper, ticks);
                double part = (double)(ticks - min) / (max - min);
                CHECK(fabs((double)nu - (direction > 0 ? part : 1 - part) * 1e9) < 0.51);
                CHECK_EQ(vlad_feetech_nu_to_ticks(&gripper, nu, &back), 0);
                CHECK_EQ(back, ticks);
            }
        }
    struct vlad_feetech_scale s;
    int32_t ticks = 7;
    vlad_feetech_scale_body(&s, 0, 4094, 1);
    CHECK_EQ(vlad_feetech_ticks_to_nu(&s, 2047), 0);
    CHECK_EQ(vlad_feetech_ticks_to_nu(&s, 2047 + 1024), 1570796327);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, -3141592654 - 1000000, &ticks), -ERANGE);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, 3141592654 + 3000000, &ticks), -ERANGE);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, INT64_MAX, &ticks), -ERANGE);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, INT64_MIN, &ticks), -ERANGE);
    CHECK_EQ(ticks, 7);
    CHECK_EQ(vlad_feetech_velocity_nu_s(&s, 4096), 6283185307);
    vlad_feetech_scale_body(&s, 0, 4094, -1);
    CHECK_EQ(vlad_feetech_velocity_nu_s(&s, 4096), -6283185307);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, vlad_feetech_ticks_to_nu(&s, 4095), &ticks), 0);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, vlad_feetech_ticks_to_nu(&s, 4096), &ticks), -ERANGE);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, vlad_feetech_ticks_to_nu(&s, -1), &ticks), -ERANGE);
    static const int64_t halves[][2] = {{500000, 2001}, {499999, 2000}, {-500000, 2000},
                                        {-500001, 1999}, {1000000, 2001}, {-1000000, 1999}};
    vlad_feetech_scale_gripper(&s, 2000, 3000, 1); /* 1e6 nano-units a tick: exact halves */
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(vlad_feetech_nu_to_ticks(&s, halves[i][0], &ticks), 0);
        CHECK_EQ(ticks, halves[i][1]);
    }
    vlad_feetech_scale_gripper(&s, 2000, 2001, 1); /* 100 units, the most there are, are 100 ticks */
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, 100000000000, &ticks), 0);
    CHECK_EQ(ticks, 2100);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, 100000000001, &ticks), -ERANGE);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, -100000000000, &ticks), 0);
    CHECK_EQ(ticks, 1900);
    CHECK_EQ(vlad_feetech_nu_to_ticks(&s, -100000000001, &ticks), -ERANGE);
    vlad_feetech_scale_gripper(&s, 2000, 3000, -1);
    CHECK_EQ(vlad_feetech_velocity_nu_s(&s, 100), -100000000);
}

/* A step of at most n ticks' worth of nano-units is never more than n ticks, wherever it starts. */
static void test_one_step_survives_rounding(void)
{
    for (int k = 0; k < 200; k++) {
        struct vlad_feetech_scale s;
        int min = (int)(random_u32() % 2000), max = min + 1 + (int)(random_u32() % 2000);
        int direction = random_u32() % 2 ? 1 : -1;
        if (k % 2)
            vlad_feetech_scale_body(&s, min, max, direction);
        else
            vlad_feetech_scale_gripper(&s, min, max, direction);
        int64_t low = vlad_feetech_ticks_to_nu(&s, min), high = vlad_feetech_ticks_to_nu(&s, max);
        int64_t first = low < high ? low : high, span = low < high ? high - low : low - high;
        for (int i = 0; i < 2000; i++) {
            int n = 1 + (int)(random_u32() % 40);
            int64_t step = n * s.nu_per / s.ticks_per; /* rounded down: at most n ticks */
            int64_t from = first + (int64_t)(((uint64_t)random_u32() << 32 | random_u32()) %
                                             (uint64_t)(span + 1));
            if (i % 2) /* the hard case: from the edge between two ticks, half a tick off centre */
                from = vlad_feetech_ticks_to_nu(&s, min + (int)random_u32() % (max - min)) +
                       (s.nu_per + s.ticks_per) / (2 * s.ticks_per) - (int64_t)(random_u32() % 3);
            int32_t a, b;
            if (vlad_feetech_nu_to_ticks(&s, from, &a) < 0 ||
                vlad_feetech_nu_to_ticks(&s, from + step, &b) < 0)
                continue;
            CHECK(abs(b - a) <= n);
        }
    }
}

int main(void)
{
    test_captured_requests();
    test_refused_requests();
    test_limits_of_requests();
    test_reply();
    test_resync();
    test_every_single_bit_flip();
    test_noise();
    test_sign_magnitude();
    test_scale_arguments();
    test_conversion();
    test_one_step_survives_rounding();
    CHECK_DONE();
}
