# The capture thread's C declarations: csrc/v4l2_capture.h.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "v4l2_capture.h" nogil:
    enum:
        VLAD_CAPTURE_N_COUNTERS
        VLAD_CAPTURE_STREAMING
        VLAD_CAPTURE_CLOSED
        VLAD_CAPTURE_STOPPED
    enum vlad_capture_counter:
        pass
    struct vlad_v4l2_ops:
        pass
    const vlad_v4l2_ops vlad_v4l2_posix
    struct vlad_capture_request:
        const char *path
        uint32_t width, height, fourcc, fps_milli, n_buffers
        int cpu, priority
    struct vlad_capture_format:
        uint32_t width, height, fourcc, fps_milli
    struct vlad_capture_frame:
        uint64_t seq
        int64_t t_capture_ns
        const uint8_t *plane[2]
        uint32_t bytes[2]
    struct vlad_capture:
        vlad_capture_format format
        char card[32]
        char bus_info[32]
        const char *failed_in
    const char *vlad_capture_counter_name(vlad_capture_counter counter)
    int vlad_capture_open(vlad_capture *capture, const vlad_capture_request *request,
                          const vlad_v4l2_ops *ops, void *port)
    int vlad_capture_start(vlad_capture *capture)
    void vlad_capture_stop(vlad_capture *capture)
    int vlad_capture_close(vlad_capture *capture)
    int vlad_capture_borrow(vlad_capture *capture, uint64_t after_seq, vlad_capture_frame *frame)
    void vlad_capture_give_back(vlad_capture *capture, const vlad_capture_frame *frame)
    int vlad_capture_to_rgb(const vlad_capture *capture, const vlad_capture_frame *frame,
                            uint8_t *rgb)
    uint64_t vlad_capture_count(const vlad_capture *capture, vlad_capture_counter counter)

# The fields are atomic: read through functions, as Cython does not know the type.
cdef extern from *:
    """
    #include "v4l2_capture.h"
    static int capture_state(struct vlad_capture *c) { return atomic_load(&c->state); }
    static int capture_lost_errno(struct vlad_capture *c) { return atomic_load(&c->lost_errno); }
    static const char *capture_lost_in(struct vlad_capture *c) { return atomic_load(&c->lost_in); }
    static int64_t capture_last_frame_ns(struct vlad_capture *c)
    { return atomic_load(&c->last_frame_ns); }
    static uint64_t capture_beats(struct vlad_capture *c) { return atomic_load(&c->beats); }
    """
    int capture_state(vlad_capture *c) nogil
    int capture_lost_errno(vlad_capture *c) nogil
    const char *capture_lost_in(vlad_capture *c) nogil
    int64_t capture_last_frame_ns(vlad_capture *c) nogil
    uint64_t capture_beats(vlad_capture *c) nogil
