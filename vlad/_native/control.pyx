"""vlad._native.control: the native control socket for Python. The meanings are in control.pyi."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from vlad._native.control_c cimport *

import os

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI

MAX_CLIENTS = VLAD_CONTROL_MAX_CLIENTS
MAX_GIDS = VLAD_CONTROL_MAX_GIDS
MAX_LINE = VLAD_CONTROL_MAX_LINE
MAX_REPLY = VLAD_CONTROL_MAX_REPLY

cdef dict VERBS = {<int>VLAD_VERB_OTHER: "other", <int>VLAD_VERB_HOLD: "hold", <int>VLAD_VERB_LIMP: "limp"}


def scan_line(bytes line not None):
    cdef vlad_line read
    cdef vlad_line_error error = vlad_json_verb(line, len(line), &read)
    if error:
        return None, vlad_line_error_text(error).decode(), read.error_at
    return VERBS[<int>read.verb], PyBytes_FromStringAndSize(read.id, <Py_ssize_t>read.id_size), 0


cdef class PeerRequest:
    cdef readonly uint64_t token
    cdef readonly uint64_t lower_epoch
    cdef readonly int64_t t_ns
    cdef readonly object uid
    cdef readonly object gid
    cdef readonly object pid
    cdef readonly bint operator
    cdef readonly bytes line


cdef tuple told(const vlad_control_lowered *lowered):
    return (lowered.t_ns, "hold" if lowered.lower == VLAD_LOWER_HOLD else "limp",
            <unsigned int>lowered.uid, lowered.pid)


cdef class ControlSocket:
    cdef vlad_control_socket *c
    cdef char *line
    cdef bint taking
    cdef object sink, path, gids
    cdef int mode, max_clients
    cdef int64_t half_open_ns, stalled_ns

    def __cinit__(self, path, *, mode, operator_gids, lower_sink, max_clients=MAX_CLIENTS,
                  half_open_ns=5_000_000_000, stalled_ns=1_000_000_000):
        self.path = os.fsencode(path)
        self.mode = mode
        self.gids = tuple(operator_gids)
        self.sink = lower_sink
        self.max_clients = max_clients
        self.half_open_ns = half_open_ns
        self.stalled_ns = stalled_ns
        if len(self.gids) > VLAD_CONTROL_MAX_GIDS:
            raise ValueError(f"at most {VLAD_CONTROL_MAX_GIDS} operator groups, not {len(self.gids)}")
        if b"\0" in self.path:
            raise ValueError("a path holds no NUL")
        self.line = <char *>PyMem_Malloc(VLAD_CONTROL_MAX_LINE)
        if self.line == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.c != NULL:
            with nogil:
                vlad_control_socket_free(self.c)
        PyMem_Free(self.line)

    def start(self):
        cdef vlad_control_config config
        cdef gid_t gids[VLAD_CONTROL_MAX_GIDS]
        cdef int error
        if self.c != NULL:
            raise RuntimeError("a control socket starts once")
        for i, gid in enumerate(self.gids):
            gids[i] = gid
        config.path = self.path
        config.mode = self.mode
        config.operator_gids = gids
        config.n_operator_gids = len(self.gids)
        config.max_clients = self.max_clients
        config.lower = <vlad_lower_fn><uintptr_t>self.sink.lower_callback_address()
        config.lower_context = <void *><uintptr_t>self.sink.lower_context_address()
        config.half_open_ns = self.half_open_ns
        config.stalled_ns = self.stalled_ns
        error = vlad_control_socket_start(&self.c, &config)
        if error:
            raise OSError(-error, os.strerror(-error), os.fsdecode(self.path))

    cdef vlad_control_socket *started(self) except NULL:
        if self.c == NULL:
            raise RuntimeError("the control socket is not started")
        return self.c

    def stop(self):
        if self.c != NULL:
            with nogil:
                vlad_control_socket_stop(self.c)

    def next_request(self, double timeout_s):
        cdef vlad_control_socket *c = self.started()
        cdef vlad_control_request request
        cdef int timeout_ms = <int>(timeout_s * 1000)
        cdef ssize_t size
        if self.taking:
            raise RuntimeError("another thread is waiting for a request")
        self.taking = True
        try:
            with nogil:
                size = vlad_control_socket_next(c, timeout_ms, &request, self.line)
            if size < 0:
                return None
            got = PeerRequest.__new__(PeerRequest)
            (<PeerRequest>got).token = request.token
            (<PeerRequest>got).lower_epoch = request.lower_epoch
            (<PeerRequest>got).t_ns = request.t_ns
            (<PeerRequest>got).uid = <unsigned int>request.uid
            (<PeerRequest>got).gid = <unsigned int>request.gid
            (<PeerRequest>got).pid = request.pid
            (<PeerRequest>got).operator = request.is_operator
            (<PeerRequest>got).line = PyBytes_FromStringAndSize(self.line, size)
            return got
        finally:
            self.taking = False

    def reply(self, uint64_t token, bytes line not None):
        cdef vlad_control_socket *c = self.started()
        cdef const char *text = line
        cdef size_t size = len(line)
        cdef int error
        with nogil:
            error = vlad_control_socket_reply(c, token, text, size)
        if error:
            raise OSError(-error, os.strerror(-error))

    def lower_epoch(self):
        return vlad_control_socket_lower_epoch(self.started())

    def lowered(self):
        cdef vlad_control_lowered newest
        vlad_control_socket_lowered(self.started(), &newest)
        if newest.t_ns == 0:
            return None
        return told(&newest)

    def next_lowered(self):
        cdef vlad_control_lowered lowered
        if not vlad_control_socket_next_lowered(self.started(), &lowered):
            return None
        return told(&lowered)

    def beat_ns(self):
        return vlad_control_socket_beat_ns(self.started())

    def counters(self):
        cdef vlad_control_socket *c = self.started()
        cdef int i
        counts = {vlad_control_counter_name[i].decode():
                  vlad_control_socket_counter(c, <vlad_control_counter>i) for i in range(VLAD_CC_N)}
        counts["clients"] = vlad_control_socket_clients(c)
        return counts
