/* YUV to RGB against the formulas of BT.601 and BT.709 in double precision. */
#include <string.h> /* memcmp, memset */

#include "check.h"
#include "frame.h"

#define WIDTH 8U
#define HEIGHT 4U

struct standard {
    enum vlad_yuv yuv;
    double kr, kb;
    int limited;
};

static const struct standard standards[] = {
    {VLAD_BT601_LIMITED, 0.299, 0.114, 1},
    {VLAD_BT601_FULL, 0.299, 0.114, 0},
    {VLAD_BT709_LIMITED, 0.2126, 0.0722, 1},
    {VLAD_BT709_FULL, 0.2126, 0.0722, 0},
};

static void exact(const struct standard *s, int y, int u, int v, double rgb[3])
{
    double kg = 1 - s->kr - s->kb;
    double luma = s->limited ? (y - 16) * 255.0 / 219 : y;
    double scale = s->limited ? 255.0 / 224 : 1;
    double cb = (u - 128) * scale, cr = (v - 128) * scale;

    rgb[0] = luma + 2 * (1 - s->kr) * cr;
    rgb[2] = luma + 2 * (1 - s->kb) * cb;
    rgb[1] = luma - 2 * (1 - s->kb) * s->kb / kg * cb - 2 * (1 - s->kr) * s->kr / kg * cr;
    for (int i = 0; i < 3; i++)
        rgb[i] = rgb[i] < 0 ? 0 : rgb[i] > 255 ? 255 : rgb[i];
}

/* Every luma, every third chroma: within half a step (and the error of 16 fraction bits). */
static void test_within_half_a_step(void)
{
    for (size_t s = 0; s < sizeof standards / sizeof *standards; s++) {
        double worst = 0;
        for (int u = 0; u < 256; u += 3)
            for (int v = 0; v < 256; v += 3)
                for (int y = 0; y < 256; y += 2) {
                    uint8_t yuyv[4] = {(uint8_t)y, (uint8_t)u, (uint8_t)(y + 1), (uint8_t)v};
                    uint8_t rgb[6];
                    double want[3];
                    vlad_frame_yuyv_to_rgb(yuyv, 4, 2, 1, standards[s].yuv, rgb);
                    for (int pixel = 0; pixel < 2; pixel++) {
                        exact(&standards[s], y + pixel, u, v, want);
                        for (int i = 0; i < 3; i++) {
                            double off = rgb[3 * pixel + i] - want[i];
                            off = off < 0 ? -off : off;
                            worst = off > worst ? off : worst;
                        }
                    }
                }
        CHECK(worst < 0.505);
    }
}

static void test_known_colours(void)
{
    const struct {
        enum vlad_yuv yuv;
        uint8_t y, u, v, rgb[3];
    } known[] = {
        {VLAD_BT601_LIMITED, 16, 128, 128, {0, 0, 0}},
        {VLAD_BT601_LIMITED, 235, 128, 128, {255, 255, 255}},
        {VLAD_BT601_LIMITED, 81, 90, 240, {254, 0, 0}},
        {VLAD_BT601_LIMITED, 145, 54, 34, {0, 255, 1}},
        {VLAD_BT601_LIMITED, 41, 240, 110, {0, 0, 255}},
        {VLAD_BT601_FULL, 0, 128, 128, {0, 0, 0}},
        {VLAD_BT601_FULL, 255, 128, 128, {255, 255, 255}},
        {VLAD_BT601_FULL, 76, 85, 255, {254, 0, 0}},
        {VLAD_BT709_LIMITED, 63, 102, 240, {255, 1, 0}},
        {VLAD_BT709_FULL, 54, 99, 255, {254, 0, 0}},
    };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint8_t yuyv[4] = {known[i].y, known[i].u, known[i].y, known[i].v};
        uint8_t rgb[6];
        vlad_frame_yuyv_to_rgb(yuyv, 4, 2, 1, known[i].yuv, rgb);
        for (int c = 0; c < 6; c++)
            CHECK_EQ(rgb[c], known[i].rgb[c % 3]);
    }
}

/* NV12 and YUYV of the same picture agree, with padded rows, and nothing outside is touched. */
static void test_nv12_equals_yuyv(void)
{
    enum { LUMA_STRIDE = 11, CHROMA_STRIDE = 13, YUYV_STRIDE = 19 };
    uint8_t luma[HEIGHT * LUMA_STRIDE], chroma[HEIGHT / 2 * CHROMA_STRIDE];
    uint8_t yuyv[HEIGHT * YUYV_STRIDE];
    uint8_t a[WIDTH * HEIGHT * 3 + 8], b[WIDTH * HEIGHT * 3 + 8];

    memset(luma, 0xee, sizeof luma);
    memset(chroma, 0xee, sizeof chroma);
    memset(yuyv, 0xee, sizeof yuyv);
    memset(a, 0x55, sizeof a);
    memset(b, 0x55, sizeof b);
    for (uint32_t row = 0; row < HEIGHT; row++)
        for (uint32_t x = 0; x < WIDTH; x++) {
            uint8_t y = (uint8_t)(37 * row + 11 * x);
            uint8_t c = (uint8_t)(91 * (row / 2) + 53 * x);
            luma[row * LUMA_STRIDE + x] = y;
            chroma[row / 2 * CHROMA_STRIDE + x] = c;
            yuyv[row * YUYV_STRIDE + 2 * x] = y;
            yuyv[row * YUYV_STRIDE + 2 * x + 1] = c;
        }
    vlad_frame_yuyv_to_rgb(yuyv, YUYV_STRIDE, WIDTH, HEIGHT, VLAD_BT601_FULL, a);
    vlad_frame_nv12_to_rgb(luma, LUMA_STRIDE, chroma, CHROMA_STRIDE, WIDTH, HEIGHT,
                           VLAD_BT601_FULL, b);
    CHECK(memcmp(a, b, sizeof a) == 0);
    for (size_t i = WIDTH * HEIGHT * 3; i < sizeof a; i++)
        CHECK_EQ(a[i], 0x55);
}

int main(void)
{
    test_within_half_a_step();
    test_known_colours();
    test_nv12_equals_yuyv();
    CHECK_DONE();
}
