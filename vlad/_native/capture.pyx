"""vlad._native.capture: a V4L2 camera's capture thread for Python. Converts and checks; decides
nothing. Shapes, units and meanings are in capture.pyi."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from vlad._native.capture_c cimport *

import os

import numpy as np

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI

STATES = ("closed", "open", "streaming", "stopped", "lost")
COUNTERS = tuple(
    vlad_capture_counter_name(<vlad_capture_counter>i).decode()
    for i in range(VLAD_CAPTURE_N_COUNTERS)
)


cdef uint32_t to_fourcc(str text) except 0:
    cdef bytes code = text.encode("ascii")
    if len(code) != 4:
        raise ValueError(f"fourcc {text!r} must be 4 ASCII characters")
    return <uint32_t>int.from_bytes(code, "little")


cdef str of_fourcc(uint32_t code):
    return int(code).to_bytes(4, "little").decode("latin-1")


cdef class V4l2Capture:
    cdef vlad_capture capture
    cdef str path
    cdef uint32_t width, height, fourcc, fps_milli, n_buffers
    cdef int cpu, priority
    cdef bint closing

    def __init__(self, str path, uint32_t width, uint32_t height, str fourcc, double fps,
                 uint32_t n_buffers=6, int cpu=-1, int priority=0):
        if not 0 <= fps <= 1000:
            raise ValueError(f"fps {fps} must be 0..1000")
        self.path = path
        self.width = width
        self.height = height
        self.fourcc = to_fourcc(fourcc)
        self.fps_milli = <uint32_t>round(fps * 1000)
        self.n_buffers = n_buffers
        self.cpu = cpu
        self.priority = priority

    def __dealloc__(self):
        # Frames hold a reference to their capture: none is borrowed here.
        with nogil:
            vlad_capture_close(&self.capture)

    def start(self):
        cdef bytes path = os.fsencode(self.path)
        cdef vlad_capture_request request
        cdef int error
        if capture_state(&self.capture) != VLAD_CAPTURE_CLOSED:
            raise ValueError(f"{self.path}: started twice, or frames of it not given back")
        request.path = path
        request.width = self.width
        request.height = self.height
        request.fourcc = self.fourcc
        request.fps_milli = self.fps_milli
        request.n_buffers = self.n_buffers
        request.cpu = self.cpu
        request.priority = self.priority
        self.closing = False
        with nogil:
            error = vlad_capture_open(&self.capture, &request, &vlad_v4l2_posix, NULL)
            if error == 0:
                error = vlad_capture_start(&self.capture)
                if error < 0:
                    vlad_capture_close(&self.capture)
        if error < 0:
            raise OSError(-error, f"{self.failed_in}: {os.strerror(-error)}", self.path)

    def stop(self):
        self.closing = True
        with nogil:
            vlad_capture_close(&self.capture)  # or only stops, while a frame is borrowed

    cdef void given_back(self) noexcept:
        if self.closing:
            with nogil:
                vlad_capture_close(&self.capture)

    def newest(self, uint64_t after_seq=0):
        cdef vlad_capture_frame frame
        cdef CapturedFrame lent
        if vlad_capture_borrow(&self.capture, after_seq, &frame) != 0:
            return None
        lent = CapturedFrame.__new__(CapturedFrame)
        lent.owner = self
        lent.frame = frame
        lent.borrowed = True
        return lent

    @property
    def failed_in(self):
        return "" if self.capture.failed_in == NULL else self.capture.failed_in.decode()

    @property
    def state(self):
        return STATES[capture_state(&self.capture)]

    @property
    def lost(self):
        cdef const char *where = capture_lost_in(&self.capture)
        return None if where == NULL else (capture_lost_errno(&self.capture), where.decode())

    @property
    def last_frame_ns(self):
        return capture_last_frame_ns(&self.capture)

    @property
    def beats(self):
        return capture_beats(&self.capture)

    @property
    def offered(self):
        cdef vlad_capture_format *f = &self.capture.format
        return f.width, f.height, of_fourcc(f.fourcc), f.fps_milli / 1000

    @property
    def identity(self):
        return (
            self.capture.card.decode("utf-8", "replace"),
            self.capture.bus_info.decode("utf-8", "replace"),
        )

    def counters(self):
        return {
            name: vlad_capture_count(&self.capture, <vlad_capture_counter>i)
            for i, name in enumerate(COUNTERS)
        }


@cython.no_gc_clear
cdef class CapturedFrame:
    cdef V4l2Capture owner
    cdef vlad_capture_frame frame
    cdef bint borrowed
    cdef int views

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.give_back()

    def __dealloc__(self):
        if self.borrowed:
            vlad_capture_give_back(&self.owner.capture, &self.frame)
            self.owner.given_back()

    def give_back(self):
        if self.views:
            raise BufferError("a memoryview of this frame is still in use")
        if self.borrowed:
            self.borrowed = False
            vlad_capture_give_back(&self.owner.capture, &self.frame)
            self.owner.given_back()

    def __getbuffer__(self, Py_buffer *view, int flags):
        if not self.borrowed:
            raise BufferError("this frame was given back")
        PyBuffer_FillInfo(view, self, <void *>self.frame.plane[0], self.frame.bytes[0], 1, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1

    @property
    def seq(self):
        return self.frame.seq

    @property
    def t_capture_ns(self):
        return self.frame.t_capture_ns

    @property
    def bytesused(self):
        return self.frame.bytes[0]

    @property
    def fourcc(self):
        return of_fourcc(self.owner.capture.format.fourcc)

    def rgb(self):
        cdef uint32_t width = self.owner.capture.format.width
        cdef uint32_t height = self.owner.capture.format.height
        if not self.borrowed:
            raise ValueError("this frame was given back")
        image = np.empty((height, width, 3), np.uint8)
        cdef uint8_t[:, :, ::1] pixels = image
        cdef int error
        self.views += 1  # keeps the buffer here while the GIL is away
        try:
            with nogil:
                error = vlad_capture_to_rgb(&self.owner.capture, &self.frame, &pixels[0, 0, 0])
        finally:
            self.views -= 1
        if error < 0:
            raise ValueError(f"{self.fourcc} is not converted here: decode the JPEG")
        return image
