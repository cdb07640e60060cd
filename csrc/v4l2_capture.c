/* The thread of a camera and what it lends; see v4l2_capture.h. */
#define _GNU_SOURCE /* pthread affinity and names */
#include <errno.h> /* -errno results */
#include <linux/videodev2.h>
#include <poll.h>  /* revents */
#include <sched.h> /* CPU_SET, SCHED_FIFO */
#include <string.h> /* memset */

#include "v4l2_capture.h"

#define POLL_MS 50          /* bounds the time that stop takes, and the beat */
#define ERROR_PAUSE_MS 10   /* a failing device must not make the thread spin */
#define MAX_ERRORS_IN_ROW 8 /* then it is lost */
#define NS_PER_S 1000000000LL

static const char *const counter_names[VLAD_CAPTURE_N_COUNTERS] = {
    [VLAD_CAPTURE_FRAMES] = "frames",
    [VLAD_CAPTURE_CORRUPT] = "corrupt",
    [VLAD_CAPTURE_SHORT] = "short",
    [VLAD_CAPTURE_SUPERSEDED] = "superseded",
    [VLAD_CAPTURE_SEQUENCE_GAPS] = "sequence_gaps",
    [VLAD_CAPTURE_NEGATIVE_AGE] = "negative_age",
    [VLAD_CAPTURE_STAMPED_HERE] = "stamped_here",
    [VLAD_CAPTURE_TIMEOUTS] = "timeouts",
    [VLAD_CAPTURE_EAGAIN] = "eagain",
    [VLAD_CAPTURE_ERRORS] = "errors",
    [VLAD_CAPTURE_REFUSED] = "refused",
};

const char *vlad_capture_counter_name(enum vlad_capture_counter counter)
{
    return counter_names[counter];
}

static void count(struct vlad_capture *capture, enum vlad_capture_counter counter, uint64_t n)
{
    atomic_fetch_add_explicit(&capture->counters[counter], n, memory_order_relaxed);
}

static int ioctl_of(struct vlad_capture *capture, unsigned long request, void *argument)
{
    return capture->ops->ioctl(capture->port, capture->fd, request, argument);
}

static void lose(struct vlad_capture *capture, int error, const char *where)
{
    atomic_store(&capture->lost_errno, -error);
    atomic_store(&capture->lost_in, where);
    atomic_store(&capture->state, VLAD_CAPTURE_LOST);
}

/* A device that is gone is lost at once, any other failure when it repeats. */
static void fail(struct vlad_capture *capture, int error, const char *where)
{
    count(capture, VLAD_CAPTURE_ERRORS, 1);
    if (error == -ENODEV || error == -ENXIO || error == -EBADF ||
        ++capture->errors_in_row >= MAX_ERRORS_IN_ROW)
        lose(capture, error, where);
    else
        (void)capture->ops->poll(capture->port, -1, ERROR_PAUSE_MS);
}

static bool streaming(struct vlad_capture *capture)
{
    return atomic_load(&capture->state) == VLAD_CAPTURE_STREAMING &&
           !atomic_load(&capture->stop);
}

/* Idle buffers back to the driver. */
static void queue_idle(struct vlad_capture *capture)
{
    for (uint32_t i = 0; i < capture->n_buffers; i++) {
        pthread_mutex_lock(&capture->lock);
        bool idle = capture->buffer[i].hand == VLAD_HAND_IDLE;
        if (idle)
            capture->buffer[i].hand = VLAD_HAND_QUEUED;
        pthread_mutex_unlock(&capture->lock);
        if (!idle)
            continue;
        int error = vlad_capture_queue(capture, i);
        if (error < 0) {
            pthread_mutex_lock(&capture->lock);
            capture->buffer[i].hand = VLAD_HAND_IDLE;
            pthread_mutex_unlock(&capture->lock);
            fail(capture, error, "VIDIOC_QBUF");
            return;
        }
    }
}

/* False for a buffer that a broken driver made up, or gave twice. */
static bool was_queued(struct vlad_capture *capture, uint32_t index)
{
    if (index >= capture->n_buffers)
        return false;
    pthread_mutex_lock(&capture->lock);
    bool queued = capture->buffer[index].hand == VLAD_HAND_QUEUED;
    pthread_mutex_unlock(&capture->lock);
    return queued;
}

static void give_to_idle(struct vlad_capture *capture, uint32_t index)
{
    pthread_mutex_lock(&capture->lock);
    capture->buffer[index].hand = VLAD_HAND_IDLE;
    pthread_mutex_unlock(&capture->lock);
}

/* The driver numbers frames in 32 bits that wrap; a step backwards is a restart, not a gap. */
static void count_gap(struct vlad_capture *capture, uint32_t sequence)
{
    uint32_t step = sequence - capture->last_sequence;

    if (capture->have_sequence && step > 1 && step < 1U << 31)
        count(capture, VLAD_CAPTURE_SEQUENCE_GAPS, step - 1);
    capture->last_sequence = sequence;
    capture->have_sequence = true;
}

static int64_t stamp_of(struct vlad_capture *capture, const struct v4l2_buffer *buffer,
                        int64_t now_ns)
{
    int64_t t_ns = buffer->timestamp.tv_sec * NS_PER_S + buffer->timestamp.tv_usec * 1000;
    bool monotonic = (buffer->flags & V4L2_BUF_FLAG_TIMESTAMP_MASK) ==
                     V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;

    if (!monotonic || t_ns <= 0) {
        count(capture, VLAD_CAPTURE_STAMPED_HERE, 1);
        return now_ns;
    }
    if (t_ns > now_ns)
        count(capture, VLAD_CAPTURE_NEGATIVE_AGE, 1);
    return t_ns;
}

/* Fills plane and bytes from what was dequeued; false for a short frame. */
static bool measure(const struct vlad_capture *capture, const struct v4l2_buffer *buffer,
                    const struct v4l2_plane *planes, struct vlad_capture_frame *frame)
{
    const struct vlad_capture_buffer *b = &capture->buffer[buffer->index];

    for (uint32_t i = 0; i < capture->format.n_planes; i++) {
        bool multi = vlad_capture_multiplanar(capture);
        uint32_t used = multi ? planes[i].bytesused : buffer->bytesused;
        uint32_t offset = multi ? planes[i].data_offset : 0; /* bytesused includes it */
        if (used > b->length[i] || used < offset ||
            used - offset < capture->format.min_bytes[i])
            return false;
        frame->plane[i] = (const uint8_t *)b->memory[i] + offset;
        frame->bytes[i] = used - offset;
    }
    return capture->format.fourcc != V4L2_PIX_FMT_MJPEG ||
           (frame->plane[0][0] == 0xff && frame->plane[0][1] == 0xd8);
}

static void publish(struct vlad_capture *capture, uint32_t index)
{
    pthread_mutex_lock(&capture->lock);
    if (capture->newest >= 0) {
        struct vlad_capture_buffer *old = &capture->buffer[capture->newest];
        old->hand = old->borrowed ? VLAD_HAND_HELD : VLAD_HAND_IDLE;
        if (!old->seen)
            count(capture, VLAD_CAPTURE_SUPERSEDED, 1);
    }
    capture->buffer[index].hand = VLAD_HAND_NEWEST;
    capture->buffer[index].seen = false;
    capture->newest = (int)index;
    pthread_mutex_unlock(&capture->lock);
}

static void dequeue(struct vlad_capture *capture, int revents)
{
    struct v4l2_plane planes[VLAD_CAPTURE_MAX_PLANES];
    struct v4l2_buffer buffer;

    vlad_capture_describe(capture, &buffer, planes, 0);
    int error = ioctl_of(capture, VIDIOC_DQBUF, &buffer);
    if (error == -EAGAIN && !(revents & POLLERR)) {
        count(capture, VLAD_CAPTURE_EAGAIN, 1);
        (void)capture->ops->poll(capture->port, -1, ERROR_PAUSE_MS);
        return;
    }
    if (error == 0 && !was_queued(capture, buffer.index))
        error = -EPROTO;
    if (error < 0) {
        fail(capture, error, "VIDIOC_DQBUF");
        return;
    }
    capture->errors_in_row = 0;

    int64_t now_ns = capture->ops->now_ns(capture->port);
    struct vlad_capture_frame frame = {.buffer = buffer.index};
    count_gap(capture, buffer.sequence);
    if (buffer.flags & V4L2_BUF_FLAG_ERROR) {
        count(capture, VLAD_CAPTURE_CORRUPT, 1);
        give_to_idle(capture, buffer.index);
        return;
    }
    if (!measure(capture, &buffer, planes, &frame)) {
        count(capture, VLAD_CAPTURE_SHORT, 1);
        give_to_idle(capture, buffer.index);
        return;
    }
    frame.seq = ++capture->seq;
    frame.t_capture_ns = stamp_of(capture, &buffer, now_ns);
    capture->buffer[buffer.index].frame = frame;
    publish(capture, buffer.index);
    atomic_store_explicit(&capture->last_frame_ns, now_ns, memory_order_relaxed);
    count(capture, VLAD_CAPTURE_FRAMES, 1);
}

static void *capture_thread(void *argument)
{
    struct vlad_capture *capture = argument;

    while (streaming(capture)) {
        atomic_fetch_add_explicit(&capture->beats, 1, memory_order_relaxed);
        queue_idle(capture);
        int revents = capture->ops->poll(capture->port, capture->fd, POLL_MS);
        if (revents == 0)
            count(capture, VLAD_CAPTURE_TIMEOUTS, 1);
        else if (revents == -EINTR)
            continue;
        else if (revents < 0)
            fail(capture, revents, "poll");
        else if (revents & (POLLHUP | POLLNVAL))
            fail(capture, -ENODEV, "poll");
        else
            dequeue(capture, revents);
    }
    return NULL;
}

static int create_thread(struct vlad_capture *capture)
{
    pthread_attr_t attributes;
    cpu_set_t cpus;

    pthread_attr_init(&attributes);
    if (capture->priority > 0) {
        struct sched_param p = {.sched_priority = capture->priority};
        pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
        pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
        pthread_attr_setschedparam(&attributes, &p);
    }
    int error = 0;
    if (capture->cpu >= 0) {
        CPU_ZERO(&cpus);
        CPU_SET((size_t)capture->cpu, &cpus);
        error = pthread_attr_setaffinity_np(&attributes, sizeof cpus, &cpus);
    }
    if (error == 0)
        error = pthread_create(&capture->thread, &attributes, capture_thread, capture);
    pthread_attr_destroy(&attributes);
    if (error == 0)
        pthread_setname_np(capture->thread, "vlad-capture");
    return -error;
}

int vlad_capture_start(struct vlad_capture *capture)
{
    int type = (int)capture->buffer_type;

    capture->failed_in = "start";
    if (atomic_load(&capture->state) != VLAD_CAPTURE_OPEN)
        return -EINVAL;
    capture->failed_in = "VIDIOC_STREAMON";
    int error = ioctl_of(capture, VIDIOC_STREAMON, &type);
    if (error < 0)
        return error;
    atomic_store(&capture->state, VLAD_CAPTURE_STREAMING);
    capture->failed_in = "capture thread";
    error = create_thread(capture);
    if (error < 0) {
        (void)ioctl_of(capture, VIDIOC_STREAMOFF, &type);
        lose(capture, error, "capture thread");
        return error;
    }
    capture->thread_runs = true;
    capture->failed_in = NULL;
    return 0;
}

void vlad_capture_stop(struct vlad_capture *capture)
{
    int type = (int)capture->buffer_type;

    if (!capture->thread_runs)
        return;
    atomic_store(&capture->stop, true);
    pthread_join(capture->thread, NULL);
    capture->thread_runs = false;
    (void)ioctl_of(capture, VIDIOC_STREAMOFF, &type); /* ENODEV after an unplug */
    if (atomic_load(&capture->state) == VLAD_CAPTURE_STREAMING)
        atomic_store(&capture->state, VLAD_CAPTURE_STOPPED);
}

/* ---- the consumers ---- */

/* Buffers that a borrower keeps from the driver besides the newest one must leave it two, and one
 * for the frame that is being dequeued. */
static bool may_borrow(const struct vlad_capture *capture)
{
    uint32_t held = 0;

    if (capture->buffer[capture->newest].borrowed != 0)
        return true;
    for (uint32_t i = 0; i < capture->n_buffers; i++)
        held += capture->buffer[i].borrowed != 0;
    return held < capture->n_buffers - (VLAD_CAPTURE_MIN_BUFFERS - 1);
}

int vlad_capture_borrow(struct vlad_capture *capture, uint64_t after_seq,
                        struct vlad_capture_frame *frame)
{
    int error = 0;

    if (atomic_load(&capture->state) != VLAD_CAPTURE_STREAMING)
        return -ENODEV;
    pthread_mutex_lock(&capture->lock);
    if (capture->newest < 0 || capture->buffer[capture->newest].frame.seq <= after_seq) {
        error = -EAGAIN;
    } else if (!may_borrow(capture)) {
        error = -EBUSY;
    } else {
        struct vlad_capture_buffer *b = &capture->buffer[capture->newest];
        b->borrowed++;
        b->seen = true;
        *frame = b->frame;
    }
    pthread_mutex_unlock(&capture->lock);
    if (error == -EBUSY)
        count(capture, VLAD_CAPTURE_REFUSED, 1);
    return error;
}

void vlad_capture_give_back(struct vlad_capture *capture, const struct vlad_capture_frame *frame)
{
    pthread_mutex_lock(&capture->lock);
    struct vlad_capture_buffer *b = &capture->buffer[frame->buffer];
    if (--b->borrowed == 0 && b->hand == VLAD_HAND_HELD)
        b->hand = VLAD_HAND_IDLE;
    pthread_mutex_unlock(&capture->lock);
}

int vlad_capture_to_rgb(const struct vlad_capture *capture, const struct vlad_capture_frame *frame,
                        uint8_t *rgb)
{
    const struct vlad_capture_format *f = &capture->format;

    switch (f->fourcc) {
    case V4L2_PIX_FMT_YUYV:
        vlad_frame_yuyv_to_rgb(frame->plane[0], f->stride[0], f->width, f->height, f->yuv, rgb);
        return 0;
    case V4L2_PIX_FMT_NV12:
        vlad_frame_nv12_to_rgb(frame->plane[0], f->stride[0],
                               frame->plane[0] + (size_t)f->stride[0] * f->height, f->stride[0],
                               f->width, f->height, f->yuv, rgb);
        return 0;
    case V4L2_PIX_FMT_NV12M:
        vlad_frame_nv12_to_rgb(frame->plane[0], f->stride[0], frame->plane[1], f->stride[1],
                               f->width, f->height, f->yuv, rgb);
        return 0;
    default:
        return -EINVAL;
    }
}
