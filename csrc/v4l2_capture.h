/* v4l2_capture.h: one camera, one thread, the newest frame wins.
 *
 * The capture thread dequeues the driver's memory-mapped buffers and keeps the newest good one; a
 * consumer borrows it in place (no copy) and gives it back; superseded buffers go back to the
 * driver, which never has fewer than two. Nothing is allocated after vlad_capture_open.
 *
 * Buffers change hands so:   QUEUED -> (dequeue) -> NEWEST -> IDLE -> (queue) -> QUEUED
 *                                                      \-> HELD -/   while still borrowed
 *
 * Single- and multi-planar nodes; MJPG, YUYV, NV12 and NM12 (NV12 in two planes: i.MX ISI).
 * A device that is gone ends the thread with state LOST: close and open anew.
 */
#ifndef VLAD_V4L2_CAPTURE_H
#define VLAD_V4L2_CAPTURE_H

#include <pthread.h>   /* the thread, the lock */
#include <stdatomic.h> /* what other threads read */
#include <stdbool.h>
#include <stddef.h> /* size_t */
#include <stdint.h>

#include "frame.h" /* enum vlad_yuv */

#define VLAD_CAPTURE_MIN_BUFFERS 5 /* 2 queued, 1 just dequeued, 1 newest, 1 borrowed */
#define VLAD_CAPTURE_MAX_BUFFERS 16
#define VLAD_CAPTURE_MAX_PLANES 2

/* The system calls, so that tests can inject every errno. All return -errno on failure. */
struct vlad_v4l2_ops {
    int (*open)(void *port, const char *path); /* descriptor; read-write, non-blocking */
    int (*ioctl)(void *port, int fd, unsigned long request, void *argument);
    /* Waits for a frame: revents, or 0 when timeout_ms have passed. fd -1: only waits. */
    int (*poll)(void *port, int fd, int timeout_ms);
    int (*mmap)(void *port, int fd, size_t length, int64_t offset, void **memory); /* shared */
    int (*munmap)(void *port, void *memory, size_t length);
    int (*close)(void *port, int fd);
    int64_t (*now_ns)(void *port); /* CLOCK_MONOTONIC */
};
extern const struct vlad_v4l2_ops vlad_v4l2_posix; /* port = NULL */

enum vlad_capture_state {
    VLAD_CAPTURE_CLOSED,
    VLAD_CAPTURE_OPEN,      /* format set, buffers mapped, not streaming */
    VLAD_CAPTURE_STREAMING, /* the thread runs */
    VLAD_CAPTURE_STOPPED,   /* by vlad_capture_stop; can only be closed */
    VLAD_CAPTURE_LOST       /* the device is gone or beyond use: see lost_errno, lost_in */
};

enum vlad_capture_counter {
    VLAD_CAPTURE_FRAMES,        /* good */
    VLAD_CAPTURE_CORRUPT,       /* V4L2_BUF_FLAG_ERROR: dropped */
    VLAD_CAPTURE_SHORT,         /* fewer bytes than the format has, or no JPEG: dropped */
    VLAD_CAPTURE_SUPERSEDED,    /* good, but a newer one came before anyone borrowed it */
    VLAD_CAPTURE_SEQUENCE_GAPS, /* frames that the driver numbered and never delivered */
    VLAD_CAPTURE_NEGATIVE_AGE,  /* stamped ahead of now by the driver */
    VLAD_CAPTURE_STAMPED_HERE,  /* no CLOCK_MONOTONIC stamp from the driver: stamped at dequeue */
    VLAD_CAPTURE_TIMEOUTS,      /* waits of 50 ms without a frame */
    VLAD_CAPTURE_EAGAIN,        /* woken without a frame */
    VLAD_CAPTURE_ERRORS,        /* any other errno of poll, DQBUF or QBUF */
    VLAD_CAPTURE_REFUSED,       /* borrows refused: too many buffers were out already */
    VLAD_CAPTURE_N_COUNTERS
};
const char *vlad_capture_counter_name(enum vlad_capture_counter counter); /* "frames", ... */

struct vlad_capture_request {
    const char *path;
    uint32_t width, height, fourcc;
    uint32_t fps_milli; /* frames in 1000 s; 0: as the device has it */
    uint32_t n_buffers;
    int cpu;      /* core of the thread, -1: any */
    int priority; /* SCHED_FIFO priority of the thread, 0: not real-time */
};

/* What the driver agreed to. */
struct vlad_capture_format {
    uint32_t width, height, fourcc;
    uint32_t fps_milli; /* 0: the driver does not say */
    uint32_t n_planes;
    uint32_t stride[VLAD_CAPTURE_MAX_PLANES];    /* bytes from row to row; 0 for MJPG */
    uint32_t min_bytes[VLAD_CAPTURE_MAX_PLANES]; /* a frame with fewer is short */
    enum vlad_yuv yuv;
};

/* A borrowed frame; valid until vlad_capture_give_back. */
struct vlad_capture_frame {
    uint64_t seq; /* 1, 2, ... of the good frames since open */
    int64_t t_capture_ns;
    uint32_t buffer;
    const uint8_t *plane[VLAD_CAPTURE_MAX_PLANES];
    uint32_t bytes[VLAD_CAPTURE_MAX_PLANES];
};

enum vlad_capture_hand { VLAD_HAND_QUEUED, VLAD_HAND_NEWEST, VLAD_HAND_HELD, VLAD_HAND_IDLE };

struct vlad_capture_buffer {
    void *memory[VLAD_CAPTURE_MAX_PLANES];
    size_t length[VLAD_CAPTURE_MAX_PLANES];
    struct vlad_capture_frame frame; /* written before it becomes NEWEST, then constant */
    enum vlad_capture_hand hand;     /* under lock */
    uint32_t borrowed;               /* times, under lock */
    bool seen;                       /* borrowed at least once as this frame, under lock */
};

struct vlad_capture {
    const struct vlad_v4l2_ops *ops;
    void *port;
    int fd;
    uint32_t buffer_type; /* V4L2_BUF_TYPE_VIDEO_CAPTURE or _MPLANE */
    struct vlad_capture_format format;
    char card[32], bus_info[32]; /* of VIDIOC_QUERYCAP: tells one camera from another */
    int cpu, priority;
    const char *failed_in; /* the step that vlad_capture_open or _start failed in */

    /* hand, borrowed, seen of every buffer, and newest. Held for a few loads and stores by the
     * capture thread and by consumers; priority inheritance, as the thread may be real-time. */
    pthread_mutex_t lock;
    uint32_t n_buffers;
    int newest; /* -1: none; under lock */
    struct vlad_capture_buffer buffer[VLAD_CAPTURE_MAX_BUFFERS];

    pthread_t thread;
    bool thread_runs;
    uint32_t last_sequence; /* capture thread */
    bool have_sequence;     /* capture thread */
    uint64_t seq;           /* capture thread */
    uint32_t errors_in_row; /* capture thread */

    _Atomic bool stop;             /* written by vlad_capture_stop, read by the thread */
    _Atomic int state;             /* enum vlad_capture_state; by open/stop/thread, read by any */
    _Atomic int lost_errno;        /* written by the thread before LOST, read by any */
    _Atomic(const char *) lost_in; /* the call that failed; likewise */
    _Atomic int64_t last_frame_ns; /* arrival of the newest good frame; likewise */
    _Atomic uint64_t beats;        /* rounds of the thread, at least 20 a second; likewise */
    _Atomic uint64_t counters[VLAD_CAPTURE_N_COUNTERS]; /* by the thread (REFUSED: borrowers) */
};

/* Opens the node, sets format and rate and reads them back, maps and queues the buffers.
 * 0 or -errno, with failed_in saying where; `format` then holds what the driver offered instead.
 * -EINVAL: another size or fourcc; -ERANGE: another rate; -ENOTSUP: no streaming capture node;
 * -ENOBUFS: too few buffers. Nothing is left open on failure. Do not move the struct afterwards. */
int vlad_capture_open(struct vlad_capture *capture, const struct vlad_capture_request *request,
                      const struct vlad_v4l2_ops *ops, void *port);
int vlad_capture_start(struct vlad_capture *capture);
/* Ends the thread within 60 ms and stops streaming. Borrowed frames stay valid. */
void vlad_capture_stop(struct vlad_capture *capture);
/* Stops, unmaps and closes. -EBUSY while a frame is borrowed: give it back and call again. */
int vlad_capture_close(struct vlad_capture *capture);

/* The newest frame, if its seq is over after_seq. 0; -EAGAIN: none such; -EBUSY: give back first;
 * -ENODEV: not streaming or lost. Any thread. */
int vlad_capture_borrow(struct vlad_capture *capture, uint64_t after_seq,
                        struct vlad_capture_frame *frame);
void vlad_capture_give_back(struct vlad_capture *capture, const struct vlad_capture_frame *frame);

/* Frame to RGB24, width*height*3 bytes. 0, or -EINVAL for MJPG, which a JPEG decoder reads. */
int vlad_capture_to_rgb(const struct vlad_capture *capture, const struct vlad_capture_frame *frame,
                        uint8_t *rgb);

/* ---- between v4l2_format.c, v4l2_open.c and v4l2_capture.c ---- */

struct v4l2_buffer;
struct v4l2_plane;

bool vlad_capture_multiplanar(const struct vlad_capture *capture);
/* Opens the node and agrees on format and rate. fd may be open on failure. */
int vlad_capture_negotiate(struct vlad_capture *capture,
                           const struct vlad_capture_request *request);
/* Fills a request about buffer `index`; planes[VLAD_CAPTURE_MAX_PLANES] must outlive it. */
void vlad_capture_describe(const struct vlad_capture *capture, struct v4l2_buffer *buffer,
                           struct v4l2_plane *planes, uint32_t index);
int vlad_capture_queue(struct vlad_capture *capture, uint32_t index); /* VIDIOC_QBUF */

static inline uint64_t vlad_capture_count(const struct vlad_capture *capture,
                                          enum vlad_capture_counter counter)
{
    return atomic_load_explicit(&capture->counters[counter], memory_order_relaxed);
}

#endif
