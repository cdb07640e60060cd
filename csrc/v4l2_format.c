/* What a V4L2 node is and which format it agrees to: the first half of vlad_capture_open. */
#include <errno.h> /* -errno results */
#include <linux/videodev2.h>
#include <string.h> /* memcpy, memset */

#include "v4l2_capture.h"

bool vlad_capture_multiplanar(const struct vlad_capture *capture)
{
    return capture->buffer_type == V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE;
}

static int find_type(struct vlad_capture *capture)
{
    struct v4l2_capability has;

    memset(&has, 0, sizeof has);
    capture->failed_in = "VIDIOC_QUERYCAP";
    int error = capture->ops->ioctl(capture->port, capture->fd, VIDIOC_QUERYCAP, &has);
    if (error < 0)
        return error;
    memcpy(capture->card, has.card, sizeof capture->card);
    memcpy(capture->bus_info, has.bus_info, sizeof capture->bus_info);
    capture->card[sizeof capture->card - 1] = '\0';
    capture->bus_info[sizeof capture->bus_info - 1] = '\0';

    uint32_t caps = has.capabilities & V4L2_CAP_DEVICE_CAPS ? has.device_caps : has.capabilities;
    capture->failed_in = "capabilities";
    if (!(caps & V4L2_CAP_STREAMING))
        return -ENOTSUP;
    if (caps & V4L2_CAP_VIDEO_CAPTURE)
        capture->buffer_type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    else if (caps & V4L2_CAP_VIDEO_CAPTURE_MPLANE)
        capture->buffer_type = V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE;
    else
        return -ENOTSUP;
    return 0;
}

static enum vlad_yuv yuv_of(uint32_t colorspace, uint32_t encoding, uint32_t quantization)
{
    if (encoding == V4L2_YCBCR_ENC_DEFAULT)
        encoding = V4L2_MAP_YCBCR_ENC_DEFAULT(colorspace);
    if (quantization == V4L2_QUANTIZATION_DEFAULT)
        quantization = V4L2_MAP_QUANTIZATION_DEFAULT(0, colorspace, encoding);
    bool full = quantization == V4L2_QUANTIZATION_FULL_RANGE;
    if (encoding == V4L2_YCBCR_ENC_709 || encoding == V4L2_YCBCR_ENC_XV709)
        return full ? VLAD_BT709_FULL : VLAD_BT709_LIMITED;
    return full ? VLAD_BT601_FULL : VLAD_BT601_LIMITED;
}

/* Planes in memory of a format that we read, 0 for any other. */
static uint32_t planes_of(uint32_t fourcc)
{
    switch (fourcc) {
    case V4L2_PIX_FMT_MJPEG:
    case V4L2_PIX_FMT_YUYV:
    case V4L2_PIX_FMT_NV12:
        return 1;
    case V4L2_PIX_FMT_NV12M:
        return 2;
    default:
        return 0;
    }
}

#define MAX_STRIDE (1U << 17) /* 8192 pixels of YUYV, and room for any padding */

/* Rows need not be padded at the end of the last one. -EINVAL for a stride below the width. */
static int set_sizes(struct vlad_capture_format *f)
{
    uint32_t row = f->fourcc == V4L2_PIX_FMT_YUYV ? 2 * f->width : f->width;

    if (f->fourcc == V4L2_PIX_FMT_MJPEG) {
        f->stride[0] = 0;
        f->min_bytes[0] = 4; /* SOI, EOI; the decoder judges the rest */
        return 0;
    }
    for (uint32_t i = 0; i < f->n_planes; i++) {
        if (f->stride[i] == 0)
            f->stride[i] = row;
        if (f->stride[i] < row || f->stride[i] > MAX_STRIDE)
            return -EINVAL;
    }
    if (f->fourcc == V4L2_PIX_FMT_NV12) {
        f->min_bytes[0] = f->stride[0] * (f->height + f->height / 2 - 1) + row;
        return 0;
    }
    f->min_bytes[0] = f->stride[0] * (f->height - 1) + row;
    if (f->n_planes == 2)
        f->min_bytes[1] = f->stride[1] * (f->height / 2 - 1) + row;
    return 0;
}

static int set_format(struct vlad_capture *capture, const struct vlad_capture_request *request)
{
    struct vlad_capture_format *f = &capture->format;
    struct v4l2_format v;
    uint32_t field;

    memset(&v, 0, sizeof v);
    v.type = capture->buffer_type;
    if (vlad_capture_multiplanar(capture)) {
        v.fmt.pix_mp.width = request->width;
        v.fmt.pix_mp.height = request->height;
        v.fmt.pix_mp.pixelformat = request->fourcc;
        v.fmt.pix_mp.field = V4L2_FIELD_NONE;
        v.fmt.pix_mp.num_planes = (uint8_t)planes_of(request->fourcc);
    } else {
        v.fmt.pix.width = request->width;
        v.fmt.pix.height = request->height;
        v.fmt.pix.pixelformat = request->fourcc;
        v.fmt.pix.field = V4L2_FIELD_NONE;
    }
    capture->failed_in = "VIDIOC_S_FMT";
    int error = capture->ops->ioctl(capture->port, capture->fd, VIDIOC_S_FMT, &v);
    if (error < 0)
        return error;
    if (vlad_capture_multiplanar(capture)) {
        const struct v4l2_pix_format_mplane *p = &v.fmt.pix_mp;
        f->width = p->width;
        f->height = p->height;
        f->fourcc = p->pixelformat;
        f->n_planes = p->num_planes;
        for (uint32_t i = 0; i < VLAD_CAPTURE_MAX_PLANES; i++)
            f->stride[i] = p->plane_fmt[i].bytesperline;
        f->yuv = yuv_of(p->colorspace, p->ycbcr_enc, p->quantization);
        field = p->field;
    } else {
        const struct v4l2_pix_format *p = &v.fmt.pix;
        f->width = p->width;
        f->height = p->height;
        f->fourcc = p->pixelformat;
        f->n_planes = 1;
        f->stride[0] = p->bytesperline;
        f->yuv = yuv_of(p->colorspace, p->ycbcr_enc, p->quantization);
        field = p->field;
    }
    capture->failed_in = "format";
    if (f->width != request->width || f->height != request->height ||
        f->fourcc != request->fourcc || f->n_planes != planes_of(f->fourcc))
        return -EINVAL;
    capture->failed_in = "field"; /* half pictures, line by line, are not for a policy */
    if (field != V4L2_FIELD_NONE && field != V4L2_FIELD_ANY)
        return -EINVAL;
    capture->failed_in = "bytesperline";
    return set_sizes(f);
}

static int set_rate(struct vlad_capture *capture, uint32_t fps_milli)
{
    struct v4l2_streamparm p;

    memset(&p, 0, sizeof p);
    p.type = capture->buffer_type;
    capture->format.fps_milli = 0;
    capture->failed_in = "VIDIOC_S_PARM";
    if (fps_milli != 0) {
        p.parm.capture.timeperframe.numerator = 1000;
        p.parm.capture.timeperframe.denominator = fps_milli;
    }
    int error = capture->ops->ioctl(capture->port, capture->fd,
                                    fps_milli ? VIDIOC_S_PARM : VIDIOC_G_PARM, &p);
    if (error == -ENOTTY || error == -EINVAL) /* i.MX ISI: the sensor subdevice sets the rate */
        return 0;
    if (error < 0)
        return error;
    const struct v4l2_fract *t = &p.parm.capture.timeperframe;
    if (!(p.parm.capture.capability & V4L2_CAP_TIMEPERFRAME) || t->numerator == 0)
        return 0;
    uint64_t milli = (uint64_t)t->denominator * 1000 / t->numerator;
    capture->format.fps_milli = milli > UINT32_MAX ? UINT32_MAX : (uint32_t)milli;
    capture->failed_in = "frame rate"; /* 2 %: 29.97 is 30 */
    if (fps_milli != 0 && (milli * 100 < (uint64_t)fps_milli * 98 ||
                           milli * 100 > (uint64_t)fps_milli * 102))
        return -ERANGE;
    return 0;
}

int vlad_capture_negotiate(struct vlad_capture *capture,
                           const struct vlad_capture_request *request)
{
    capture->failed_in = "request";
    if (planes_of(request->fourcc) == 0 || request->width == 0 || request->height == 0 ||
        request->width > 8192 || request->height > 8192 || request->width % 2 != 0 ||
        request->height % 2 != 0 || request->n_buffers < VLAD_CAPTURE_MIN_BUFFERS ||
        request->n_buffers > VLAD_CAPTURE_MAX_BUFFERS)
        return -EINVAL;
    capture->failed_in = "open";
    int error = capture->fd = capture->ops->open(capture->port, request->path);
    if (error < 0)
        return error;
    error = find_type(capture);
    if (error == 0)
        error = set_format(capture, request);
    if (error == 0)
        error = set_rate(capture, request->fps_milli);
    return error;
}
