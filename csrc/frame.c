/* YUV to RGB. The coefficients are those of the standards times 65536, rounded:
 * R = y*(Y - y0) + rv*(V - 128), G = ... - gu*(U - 128) - gv*(V - 128), B = ... + bu*(U - 128),
 * with y = 255/219 and chroma scaled by 255/224 in limited range, 1 in full range; for luma weights
 * Kr, Kb: rv = 2(1 - Kr), bu = 2(1 - Kb), gu = bu*Kb/Kg, gv = rv*Kr/Kg. */
#include "frame.h"

struct matrix {
    int32_t y0, y, rv, gu, gv, bu;
};

static const struct matrix matrices[] = {
    [VLAD_BT601_LIMITED] = {16, 76309, 104597, 25675, 53279, 132201},
    [VLAD_BT601_FULL] = {0, 65536, 91881, 22553, 46802, 116130},
    [VLAD_BT709_LIMITED] = {16, 76309, 117489, 13975, 34925, 138438},
    [VLAD_BT709_FULL] = {0, 65536, 103206, 12276, 30679, 121609},
};

static inline uint8_t to_byte(int32_t q16)
{
    int32_t value = (q16 + 32768) >> 16;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Two pixels that share their chroma. */
static inline void put_pair(const struct matrix *m, int32_t y_left, int32_t y_right, int32_t u,
                            int32_t v, uint8_t *rgb)
{
    int32_t red = m->rv * (v - 128);
    int32_t green = -m->gu * (u - 128) - m->gv * (v - 128);
    int32_t blue = m->bu * (u - 128);
    int32_t left = m->y * (y_left - m->y0);
    int32_t right = m->y * (y_right - m->y0);

    rgb[0] = to_byte(left + red);
    rgb[1] = to_byte(left + green);
    rgb[2] = to_byte(left + blue);
    rgb[3] = to_byte(right + red);
    rgb[4] = to_byte(right + green);
    rgb[5] = to_byte(right + blue);
}

void vlad_frame_yuyv_to_rgb(const uint8_t *yuyv, size_t stride, uint32_t width, uint32_t height,
                            enum vlad_yuv yuv, uint8_t *rgb)
{
    const struct matrix *m = &matrices[yuv];

    for (uint32_t row = 0; row < height; row++) {
        const uint8_t *in = yuyv + row * stride;
        for (uint32_t x = 0; x < width; x += 2, in += 4, rgb += 6)
            put_pair(m, in[0], in[2], in[1], in[3], rgb);
    }
}

void vlad_frame_nv12_to_rgb(const uint8_t *luma, size_t luma_stride, const uint8_t *chroma,
                            size_t chroma_stride, uint32_t width, uint32_t height,
                            enum vlad_yuv yuv, uint8_t *rgb)
{
    const struct matrix *m = &matrices[yuv];

    for (uint32_t row = 0; row < height; row++) {
        const uint8_t *y = luma + row * luma_stride;
        const uint8_t *uv = chroma + row / 2 * chroma_stride;
        for (uint32_t x = 0; x < width; x += 2, y += 2, uv += 2, rgb += 6)
            put_pair(m, y[0], y[1], uv[0], uv[1], rgb);
    }
}
