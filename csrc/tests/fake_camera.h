/* fake_camera.h: a V4L2 driver behind struct vlad_v4l2_ops, whose every answer a test chooses. */
#ifndef FAKE_CAMERA_H
#define FAKE_CAMERA_H

#include <errno.h>
#include <linux/videodev2.h>
#include <poll.h>    /* POLLIN */
#include <pthread.h> /* the driver is shared by the capture thread and the test */
#include <string.h>  /* memset, memcpy */
#include <time.h>    /* bounded waits */

#include "v4l2_capture.h"

#define FAKE_PLANE_BYTES 4096
#define FAKE_FD 7
#define FAKE_NEVER (-1)

struct fake_frame { /* a delivery waiting for DQBUF */
    uint32_t index, flags, sequence, bytes, data_offset;
    struct timeval stamp;
};

struct fake_camera {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* What it is. */
    uint32_t capabilities;
    struct v4l2_format format; /* the answer to S_FMT; width, height, pixelformat 0: as asked */
    uint32_t fps_milli;        /* the answer to S_PARM; 0: as asked */
    bool has_rate;
    uint32_t n_buffers; /* the answer to REQBUFS; 0: as asked */
    size_t plane_bytes;
    bool multi;
    /* What fails: this request (0: none), with this error, after so many good ones, so often. */
    unsigned long fail_request;
    int fail_errno, fail_after, fail_times;
    int poll_answer; /* revents or -errno instead of the truth; 0: the truth */
    int poll_answers_left;
    int bogus_index; /* DQBUF says so instead; FAKE_NEVER: the truth */
    int open_errno, mmap_errno;
    /* Where it stands. */
    unsigned char memory[VLAD_CAPTURE_MAX_BUFFERS][VLAD_CAPTURE_MAX_PLANES][FAKE_PLANE_BYTES];
    uint32_t queue[VLAD_CAPTURE_MAX_BUFFERS], n_queued; /* oldest first */
    bool queued[VLAD_CAPTURE_MAX_BUFFERS];
    struct fake_frame done[VLAD_CAPTURE_MAX_BUFFERS];
    uint32_t n_done;
    uint32_t min_queued; /* fewest that the driver had after a DQBUF */
    uint32_t n_allocated;
    uint32_t sequence;
    int64_t now_ns;
    bool streaming, opened;
    int mapped;
    uint64_t polls; /* begun while nothing was done: the thread is idle */
};

/* ---- the ops ---- */

static int fake_open(void *port, const char *path)
{
    struct fake_camera *fake = port;

    (void)path;
    if (fake->open_errno != 0)
        return -fake->open_errno;
    fake->opened = true;
    return FAKE_FD;
}

static int fake_answer_format(struct fake_camera *fake, struct v4l2_format *f)
{
    struct v4l2_format asked = *f;

    *f = fake->format;
    f->type = asked.type;
    if (fake->multi) {
        struct v4l2_pix_format_mplane *p = &f->fmt.pix_mp;
        p->width = p->width ? p->width : asked.fmt.pix_mp.width;
        p->height = p->height ? p->height : asked.fmt.pix_mp.height;
        p->pixelformat = p->pixelformat ? p->pixelformat : asked.fmt.pix_mp.pixelformat;
        p->num_planes = p->num_planes ? p->num_planes : asked.fmt.pix_mp.num_planes;
    } else {
        struct v4l2_pix_format *p = &f->fmt.pix;
        p->width = p->width ? p->width : asked.fmt.pix.width;
        p->height = p->height ? p->height : asked.fmt.pix.height;
        p->pixelformat = p->pixelformat ? p->pixelformat : asked.fmt.pix.pixelformat;
    }
    return 0;
}

static int fake_answer_rate(struct fake_camera *fake, struct v4l2_streamparm *p)
{
    if (!fake->has_rate)
        return -ENOTTY;
    p->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
    if (fake->fps_milli != 0) {
        p->parm.capture.timeperframe.numerator = 1000;
        p->parm.capture.timeperframe.denominator = fake->fps_milli;
    }
    return 0;
}

static int fake_query(struct fake_camera *fake, struct v4l2_buffer *b)
{
    if (b->index >= fake->n_allocated)
        return -EINVAL;
    for (uint32_t i = 0; fake->multi && i < b->length; i++) {
        b->m.planes[i].length = (uint32_t)fake->plane_bytes;
        b->m.planes[i].m.mem_offset = b->index * VLAD_CAPTURE_MAX_PLANES + i;
    }
    if (!fake->multi) {
        b->length = (uint32_t)fake->plane_bytes;
        b->m.offset = b->index * VLAD_CAPTURE_MAX_PLANES;
    }
    return 0;
}

static int fake_queue(struct fake_camera *fake, const struct v4l2_buffer *b)
{
    if (b->index >= fake->n_allocated || fake->queued[b->index])
        return -EINVAL;
    fake->queue[fake->n_queued++] = b->index;
    fake->queued[b->index] = true;
    return 0;
}

static int fake_dequeue(struct fake_camera *fake, struct v4l2_buffer *b)
{
    if (fake->n_done == 0)
        return -EAGAIN;
    struct fake_frame f = fake->done[0];
    memmove(fake->done, fake->done + 1, --fake->n_done * sizeof *fake->done);
    fake->queued[f.index] = false;
    if (fake->n_queued + fake->n_done < fake->min_queued)
        fake->min_queued = fake->n_queued + fake->n_done;
    b->index = fake->bogus_index == FAKE_NEVER ? f.index : (uint32_t)fake->bogus_index;
    b->flags = f.flags;
    b->sequence = f.sequence;
    b->timestamp = f.stamp;
    if (fake->multi) {
        for (uint32_t i = 0; i < b->length; i++) {
            b->m.planes[i].bytesused = f.bytes;
            b->m.planes[i].data_offset = f.data_offset;
        }
    } else {
        b->bytesused = f.bytes;
    }
    return 0;
}

static int fake_answer(struct fake_camera *fake, unsigned long request, void *argument)
{
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *c = argument;
        c->capabilities = fake->capabilities | V4L2_CAP_DEVICE_CAPS | V4L2_CAP_READWRITE;
        c->device_caps = fake->capabilities;
        memcpy(c->card, "fake", 5);
        memset(c->bus_info, 'x', sizeof c->bus_info); /* without its terminator */
        return 0;
    }
    case VIDIOC_S_FMT:
        return fake_answer_format(fake, argument);
    case VIDIOC_S_PARM:
    case VIDIOC_G_PARM:
        return fake_answer_rate(fake, argument);
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *r = argument;
        r->count = r->count != 0 && fake->n_buffers != 0 ? fake->n_buffers : r->count;
        fake->n_allocated = r->count;
        return 0;
    }
    case VIDIOC_QUERYBUF:
        return fake_query(fake, argument);
    case VIDIOC_QBUF:
        return fake_queue(fake, argument);
    case VIDIOC_DQBUF:
        return fake_dequeue(fake, argument);
    case VIDIOC_STREAMON:
        fake->streaming = true;
        return 0;
    case VIDIOC_STREAMOFF:
        fake->streaming = false;
        return 0;
    default:
        return -ENOTTY;
    }
}

static int fake_ioctl(void *port, int fd, unsigned long request, void *argument)
{
    struct fake_camera *fake = port;

    if (fd != FAKE_FD)
        return -EBADF;
    pthread_mutex_lock(&fake->lock);
    int error = 0;
    if (request == fake->fail_request && fake->fail_after-- <= 0 && fake->fail_times != 0) {
        fake->fail_times--;
        error = -fake->fail_errno;
    } else {
        error = fake_answer(fake, request, argument);
    }
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
    return error;
}

/* Time in the fake runs 25 times as fast, so that time-outs are tested quickly. */
static void fake_wait(struct fake_camera *fake, int timeout_ms)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += timeout_ms * 40000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&fake->changed, &fake->lock, &until);
}

static int fake_poll(void *port, int fd, int timeout_ms)
{
    struct fake_camera *fake = port;
    int answer = 0;

    pthread_mutex_lock(&fake->lock);
    if (fd < 0) {
        fake_wait(fake, timeout_ms);
    } else if (fake->poll_answers_left != 0) {
        fake->poll_answers_left--;
        answer = fake->poll_answer;
    } else {
        if (fake->n_done == 0) {
            fake->polls++;
            pthread_cond_broadcast(&fake->changed);
            fake_wait(fake, timeout_ms);
        }
        answer = fake->n_done != 0 ? POLLIN : 0;
    }
    pthread_mutex_unlock(&fake->lock);
    return answer;
}

static int fake_mmap(void *port, int fd, size_t length, int64_t offset, void **memory)
{
    struct fake_camera *fake = port;

    (void)fd;
    (void)length;
    if (fake->mmap_errno != 0)
        return -fake->mmap_errno;
    fake->mapped++;
    *memory = fake->memory[offset / VLAD_CAPTURE_MAX_PLANES][offset % VLAD_CAPTURE_MAX_PLANES];
    return 0;
}

static int fake_munmap(void *port, void *memory, size_t length)
{
    struct fake_camera *fake = port;

    (void)memory;
    (void)length;
    fake->mapped--;
    return 0;
}

static int fake_close(void *port, int fd)
{
    struct fake_camera *fake = port;

    fake->opened = false;
    return fd == FAKE_FD ? 0 : -EBADF;
}

static int64_t fake_now_ns(void *port)
{
    struct fake_camera *fake = port;
    pthread_mutex_lock(&fake->lock);
    int64_t now_ns = fake->now_ns;
    pthread_mutex_unlock(&fake->lock);
    return now_ns;
}

static const struct vlad_v4l2_ops fake_ops = {
    .open = fake_open,
    .ioctl = fake_ioctl,
    .poll = fake_poll,
    .mmap = fake_mmap,
    .munmap = fake_munmap,
    .close = fake_close,
    .now_ns = fake_now_ns,
};

/* ---- what a test does with it ---- */

static void fake_init(struct fake_camera *fake, bool multi)
{
    memset(fake, 0, sizeof *fake);
    pthread_mutex_init(&fake->lock, NULL);
    pthread_cond_init(&fake->changed, NULL);
    fake->multi = multi;
    fake->capabilities = V4L2_CAP_STREAMING | (multi ? V4L2_CAP_VIDEO_CAPTURE_MPLANE
                                                     : V4L2_CAP_VIDEO_CAPTURE);
    fake->has_rate = true;
    fake->plane_bytes = FAKE_PLANE_BYTES;
    fake->min_queued = UINT32_MAX;
    fake->bogus_index = FAKE_NEVER;
    fake->now_ns = 1000000000LL;
    fake->fail_times = -1;
}

/* Fills the oldest queued buffer with `fill` (after a JPEG's SOI) and hands it out. false when the
 * driver has no buffer: a frame lost, as in a real one. */
static bool fake_deliver(struct fake_camera *fake, struct fake_frame f, unsigned char fill)
{
    pthread_mutex_lock(&fake->lock);
    f.sequence = fake->sequence++;
    bool have = fake->n_queued > 0;
    if (have) {
        f.index = fake->queue[0];
        memmove(fake->queue, fake->queue + 1, --fake->n_queued * sizeof *fake->queue);
        for (int p = 0; p < VLAD_CAPTURE_MAX_PLANES; p++) {
            memset(fake->memory[f.index][p], fill, FAKE_PLANE_BYTES);
            fake->memory[f.index][p][f.data_offset] = 0xff;
            fake->memory[f.index][p][f.data_offset + 1] = 0xd8;
        }
        fake->done[fake->n_done++] = f;
        pthread_cond_broadcast(&fake->changed);
    }
    pthread_mutex_unlock(&fake->lock);
    return have;
}

/* A good frame of 1000 bytes stamped now by the driver. */
static struct fake_frame fake_good(const struct fake_camera *fake)
{
    struct fake_frame f = {.flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC, .bytes = 1000};
    f.stamp.tv_sec = fake->now_ns / 1000000000LL;
    f.stamp.tv_usec = fake->now_ns % 1000000000LL / 1000;
    return f;
}

/* Waits until the thread has handled all there was and waits again, or has ended. */
static void fake_settle(struct fake_camera *fake, struct vlad_capture *capture)
{
    pthread_mutex_lock(&fake->lock);
    uint64_t target = fake->polls + 2;
    while (fake->polls < target && atomic_load(&capture->state) == VLAD_CAPTURE_STREAMING)
        fake_wait(fake, 50);
    pthread_mutex_unlock(&fake->lock);
}

#endif
