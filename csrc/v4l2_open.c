/* The life of a camera's buffers: mapped and queued at open, unmapped at close. */
#include <errno.h> /* -errno results */
#include <linux/videodev2.h>
#include <string.h> /* memset */

#include "v4l2_capture.h"

static int ioctl_of(struct vlad_capture *capture, unsigned long request, void *argument)
{
    return capture->ops->ioctl(capture->port, capture->fd, request, argument);
}

void vlad_capture_describe(const struct vlad_capture *capture, struct v4l2_buffer *buffer,
                           struct v4l2_plane *planes, uint32_t index)
{
    memset(buffer, 0, sizeof *buffer);
    memset(planes, 0, VLAD_CAPTURE_MAX_PLANES * sizeof *planes);
    buffer->type = capture->buffer_type;
    buffer->memory = V4L2_MEMORY_MMAP;
    buffer->index = index;
    if (vlad_capture_multiplanar(capture)) {
        buffer->m.planes = planes;
        buffer->length = capture->format.n_planes;
    }
}

int vlad_capture_queue(struct vlad_capture *capture, uint32_t index)
{
    struct v4l2_plane planes[VLAD_CAPTURE_MAX_PLANES];
    struct v4l2_buffer buffer;

    vlad_capture_describe(capture, &buffer, planes, index);
    return ioctl_of(capture, VIDIOC_QBUF, &buffer);
}

static int map_buffer(struct vlad_capture *capture, uint32_t index)
{
    struct v4l2_plane planes[VLAD_CAPTURE_MAX_PLANES];
    struct v4l2_buffer buffer;
    struct vlad_capture_buffer *b = &capture->buffer[index];

    vlad_capture_describe(capture, &buffer, planes, index);
    capture->failed_in = "VIDIOC_QUERYBUF";
    int error = ioctl_of(capture, VIDIOC_QUERYBUF, &buffer);
    for (uint32_t i = 0; error == 0 && i < capture->format.n_planes; i++) {
        bool multi = vlad_capture_multiplanar(capture);
        size_t length = multi ? planes[i].length : buffer.length;
        uint32_t offset = multi ? planes[i].m.mem_offset : buffer.m.offset;
        capture->failed_in = "buffer length";
        if (length < capture->format.min_bytes[i])
            return -EMSGSIZE;
        capture->failed_in = "mmap";
        error = capture->ops->mmap(capture->port, capture->fd, length, offset, &b->memory[i]);
        if (error == 0)
            b->length[i] = length;
    }
    return error;
}

static int request_buffers(struct vlad_capture *capture, uint32_t n)
{
    struct v4l2_requestbuffers wanted;

    memset(&wanted, 0, sizeof wanted);
    wanted.count = n;
    wanted.type = capture->buffer_type;
    wanted.memory = V4L2_MEMORY_MMAP;
    capture->failed_in = "VIDIOC_REQBUFS";
    int error = ioctl_of(capture, VIDIOC_REQBUFS, &wanted);
    if (error < 0)
        return error;
    if (wanted.count < VLAD_CAPTURE_MIN_BUFFERS || wanted.count > VLAD_CAPTURE_MAX_BUFFERS)
        return -ENOBUFS;
    capture->n_buffers = wanted.count;
    return 0;
}

static void release(struct vlad_capture *capture)
{
    struct v4l2_requestbuffers none;

    for (uint32_t i = 0; i < capture->n_buffers; i++)
        for (uint32_t p = 0; p < VLAD_CAPTURE_MAX_PLANES; p++)
            if (capture->buffer[i].memory[p] != NULL)
                (void)capture->ops->munmap(capture->port, capture->buffer[i].memory[p],
                                           capture->buffer[i].length[p]);
    if (capture->fd >= 0) {
        memset(&none, 0, sizeof none);
        none.type = capture->buffer_type;
        none.memory = V4L2_MEMORY_MMAP;
        (void)ioctl_of(capture, VIDIOC_REQBUFS, &none); /* close would free them too */
        (void)capture->ops->close(capture->port, capture->fd);
    }
    capture->fd = -1;
    pthread_mutex_destroy(&capture->lock);
    atomic_store(&capture->state, VLAD_CAPTURE_CLOSED);
}

int vlad_capture_open(struct vlad_capture *capture, const struct vlad_capture_request *request,
                      const struct vlad_v4l2_ops *ops, void *port)
{
    pthread_mutexattr_t attributes;

    memset(capture, 0, sizeof *capture);
    capture->ops = ops;
    capture->port = port;
    capture->fd = -1;
    capture->newest = -1;
    capture->cpu = request->cpu;
    capture->priority = request->priority;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&capture->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);

    int error = vlad_capture_negotiate(capture, request);
    if (error == 0)
        error = request_buffers(capture, request->n_buffers);
    for (uint32_t i = 0; error == 0 && i < capture->n_buffers; i++)
        error = map_buffer(capture, i);
    for (uint32_t i = 0; error == 0 && i < capture->n_buffers; i++) {
        capture->failed_in = "VIDIOC_QBUF";
        error = vlad_capture_queue(capture, i);
    }
    if (error < 0) {
        release(capture);
        return error;
    }
    capture->failed_in = NULL;
    atomic_store(&capture->state, VLAD_CAPTURE_OPEN);
    return 0;
}

int vlad_capture_close(struct vlad_capture *capture)
{
    if (atomic_load(&capture->state) == VLAD_CAPTURE_CLOSED)
        return 0;
    vlad_capture_stop(capture);
    pthread_mutex_lock(&capture->lock);
    uint32_t borrowed = 0;
    for (uint32_t i = 0; i < capture->n_buffers; i++)
        borrowed += capture->buffer[i].borrowed;
    pthread_mutex_unlock(&capture->lock);
    if (borrowed != 0)
        return -EBUSY;
    release(capture);
    return 0;
}
