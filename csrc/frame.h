/* frame.h: YUV pictures to RGB24, the layout that the policies were trained on. Pure.
 *
 * Fixed point with 16 fraction bits, rounded to nearest, clamped to 0..255; chroma is replicated,
 * not interpolated. Width is even everywhere, height too for NV12.
 */
#ifndef VLAD_FRAME_H
#define VLAD_FRAME_H

#include <stddef.h> /* size_t */
#include <stdint.h>

/* ITU-R BT.601 or BT.709, limited (luma 16..235, chroma 16..240) or full range. */
enum vlad_yuv { VLAD_BT601_LIMITED, VLAD_BT601_FULL, VLAD_BT709_LIMITED, VLAD_BT709_FULL };

/* Strides are bytes from row to row of the source; rgb is width*height*3 bytes without padding. */
void vlad_frame_yuyv_to_rgb(const uint8_t *yuyv, size_t stride, uint32_t width, uint32_t height,
                            enum vlad_yuv yuv, uint8_t *rgb);
void vlad_frame_nv12_to_rgb(const uint8_t *luma, size_t luma_stride, const uint8_t *chroma,
                            size_t chroma_stride, uint32_t width, uint32_t height,
                            enum vlad_yuv yuv, uint8_t *rgb);

#endif
