"""vlad._native.flight: the flight record's rings, the fields of its records, and the replay.

The meanings are in flight.pyi. Bytes that may come from a file are checked against the ranges of
csrc/flight_fields.h before they reach the loop.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vlad._native.gate_c cimport VLAD_MAX_JOINTS, VLAD_N_AGGREGATES, vlad_timeline
from vlad._native.servo_c cimport VLAD_N_STARVES, vlad_servo

import os

import numpy as np

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI

cdef extern from "flight_ring.h" nogil:
    struct vlad_flight_ring:
        uint64_t capacity, head, tail, records, refused
    struct vlad_flight_part:
        const void *bytes
        size_t size
    vlad_flight_ring *vlad_flight_ring_init(void *, size_t)
    bint vlad_flight_ring_add(vlad_flight_ring *, uint32_t, int64_t, const vlad_flight_part *, int)
    int64_t vlad_flight_ring_snapshot(const vlad_flight_ring *, size_t, unsigned char *, size_t)

cdef extern from "flight.h" nogil:
    const int64_t VLAD_MAX_NU
    enum:
        VLAD_FLIGHT_TICK
        VLAD_FLIGHT_STATE
        VLAD_FLIGHT_CHUNK
        VLAD_FLIGHT_TIMING
        VLAD_FLIGHT_NOTE
        VLAD_FLIGHT_PICTURE
        VLAD_FLIGHT_OUT
        VLAD_MAX_TIMELINE
        VLAD_TRAJECTORY_MAX_TICKS
        VLAD_N_MODES
        VLAD_N_REACTIONS
        VLAD_RANGE_ANY
        VLAD_RANGE_FLAG
        VLAD_RANGE_NU
        VLAD_RANGE_NS
        VLAD_RANGE_NS_OR_NONE
        VLAD_RANGE_RUN
        VLAD_RANGE_COUNT
        VLAD_RANGE_TIMELINE
        VLAD_RANGE_MODE
        VLAD_RANGE_STARVE
        VLAD_RANGE_LEVEL
        VLAD_RANGE_SUM
        VLAD_RANGE_WINDOW
        VLAD_RANGE_MERGE
    struct vlad_flight_field:
        const char *name
        char type
        uint32_t offset, count
        int range, role
    const vlad_flight_field vlad_flight_tick_fields[]
    const vlad_flight_field vlad_flight_chunk_fields[]
    const vlad_flight_field vlad_flight_timing_fields[]
    const vlad_flight_field vlad_flight_state_fields[]
    struct vlad_flight_tick:
        pass
    struct vlad_flight_chunk:
        int32_t n_actions[1]
        int32_t n_joints[1]
        uint64_t timeline[1]
        uint64_t before[1]
    struct vlad_flight_timing:
        int64_t period_ns[1]
        int64_t max_observation_age_ns[1]
        int64_t max_frame_age_ns[1]
    struct vlad_flight_state:
        int32_t n1[1]
        int32_t n2[1]
    struct vlad_flight:
        vlad_flight_tick done
        vlad_flight_chunk chunk
    int vlad_flight_attach(vlad_servo *, vlad_flight *, vlad_flight_ring *, vlad_flight_ring *,
                           int64_t)

cdef extern from "rt.h" nogil:
    struct vlad_rt_ops:
        pass
    struct vlad_rt_step:
        pass
    const vlad_rt_ops vlad_rt_posix
    int vlad_rt_lock_memory(const vlad_rt_ops *, void *, size_t, vlad_rt_step *)

cdef extern from "flight_replay.h" nogil:
    struct vlad_flight_replay:
        pass
    int vlad_flight_replay_begin(vlad_flight_replay *, vlad_servo *, const vlad_flight_state *,
                                 const int64_t (*)[8], const int64_t (*)[8])
    int vlad_flight_replay_timeline(vlad_servo *, const vlad_timeline *)
    void vlad_flight_replay_tick(vlad_flight_replay *, vlad_servo *, const vlad_flight_tick *)
    int vlad_flight_replay_push(vlad_servo *, const vlad_flight_chunk *, const double *, bint)
    int vlad_flight_replay_timing(vlad_servo *, const vlad_flight_timing *)

TICK, STATE, CHUNK, TIMING = VLAD_FLIGHT_TICK, VLAD_FLIGHT_STATE, VLAD_FLIGHT_CHUNK, VLAD_FLIGHT_TIMING
NOTE, PICTURE = VLAD_FLIGHT_NOTE, VLAD_FLIGHT_PICTURE
SIZES = {TICK: sizeof(vlad_flight_tick), STATE: sizeof(vlad_flight_state),
         CHUNK: sizeof(vlad_flight_chunk), TIMING: sizeof(vlad_flight_timing)}
RING_HEADER = sizeof(vlad_flight_ring)

_TOP = 2**61
_SUM = <int64_t>VLAD_TRAJECTORY_MAX_TICKS * VLAD_TRAJECTORY_MAX_TICKS * VLAD_MAX_NU
_RANGES = {
    VLAD_RANGE_FLAG: (0, 1), VLAD_RANGE_NU: (-VLAD_MAX_NU, VLAD_MAX_NU), VLAD_RANGE_NS: (-_TOP, _TOP),
    VLAD_RANGE_NS_OR_NONE: (-_TOP, _TOP), VLAD_RANGE_RUN: (0, 10**6), VLAD_RANGE_COUNT: (0, 2**62),
    VLAD_RANGE_TIMELINE: (0, VLAD_MAX_TIMELINE), VLAD_RANGE_MODE: (0, VLAD_N_MODES - 1),
    VLAD_RANGE_STARVE: (0, VLAD_N_STARVES - 1), VLAD_RANGE_LEVEL: (0, VLAD_N_REACTIONS - 1),
    VLAD_RANGE_SUM: (-_SUM, _SUM), VLAD_RANGE_WINDOW: (0, VLAD_TRAJECTORY_MAX_TICKS - 1),
    VLAD_RANGE_MERGE: (0, VLAD_N_AGGREGATES),
}
_TYPES = {"B": (0, 2**8 - 1), "i": (-2**31, 2**31 - 1), "I": (0, 2**32 - 1),
          "q": (-2**63, 2**63 - 1), "Q": (0, 2**64 - 1), "d": (None, None)}


cdef list _fields(const vlad_flight_field *f):
    out = []
    while f.name is not NULL:
        kind = chr(f.type)
        low, high = _RANGES.get(f.range, _TYPES[kind])
        none = -2**63 if f.range == VLAD_RANGE_NS_OR_NONE else None
        out.append((f.name.decode(), kind, f.offset, f.count, low, high, none,
                    f.role == VLAD_FLIGHT_OUT))
        f += 1
    return out


FIELDS = {TICK: _fields(vlad_flight_tick_fields), STATE: _fields(vlad_flight_state_fields),
          CHUNK: _fields(vlad_flight_chunk_fields), TIMING: _fields(vlad_flight_timing_fields)}


cdef class Ring:
    """The newest records in a writable buffer, which it keeps."""

    cdef vlad_flight_ring *c
    cdef Py_buffer view
    cdef size_t size

    def __cinit__(self, memory):
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.size = <size_t>self.view.len
        if <uintptr_t>self.view.buf % 8:
            raise ValueError("the memory must be aligned to 8 bytes")
        self.c = vlad_flight_ring_init(self.view.buf, self.size)
        if self.c is NULL:
            raise ValueError(f"{self.size} bytes are too few for a ring")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def add(self, kind, t_ns, const unsigned char[::1] body):
        cdef vlad_flight_part part
        part.bytes = &body[0] if body.shape[0] else NULL
        part.size = <size_t>body.shape[0]
        return vlad_flight_ring_add(self.c, kind, t_ns, &part, 1)

    def snapshot(self):
        return _snapshot(self.c, self.size)

    @property
    def counters(self):
        return {"records": self.c.records, "refused": self.c.refused,
                "bytes": self.c.head - self.c.tail, "capacity": self.c.capacity}


cdef bytes _snapshot(const vlad_flight_ring *ring, size_t available):
    cdef size_t room = available
    cdef unsigned char *into = <unsigned char *>calloc(1, room + 8)
    cdef int64_t size
    if into is NULL:
        raise MemoryError()
    try:
        with nogil:
            size = vlad_flight_ring_snapshot(ring, available, into, room)
        if size < 0:
            raise ValueError("no ring of a flight record, or a damaged one")
        return into[:size]
    finally:
        free(into)


def snapshot(const unsigned char[::1] memory):
    """The records in the memory of a ring, of this process or of one that has died."""
    if memory.shape[0] < <Py_ssize_t>sizeof(vlad_flight_ring):
        raise ValueError("too short for a ring of a flight record")
    if <uintptr_t>&memory[0] % 8:
        raise ValueError("the memory must be aligned to 8 bytes")
    return _snapshot(<const vlad_flight_ring *>&memory[0], <size_t>memory.shape[0])


cdef class Recorder:
    """Attaches a record to a servo loop that has neither bus nor thread yet; keeps all of it."""

    cdef vlad_flight *c
    cdef object _keep
    cdef readonly bint locked

    def __cinit__(self, servo, Ring loop, Ring producer, state_every_ns):
        cdef vlad_rt_step step
        cdef vlad_servo *c = <vlad_servo *><uintptr_t>servo.lower_context_address()
        self.c = <vlad_flight *>calloc(1, sizeof(vlad_flight))
        if self.c is NULL:
            raise MemoryError()
        self._keep = (loop, producer)
        rc = vlad_flight_attach(c, self.c, loop.c, producer.c, state_every_ns)
        if rc:
            raise OSError(-rc, os.strerror(-rc))
        servo.keep(self)
        memset(&step, 0, sizeof(step))
        self.locked = vlad_rt_lock_memory(&vlad_rt_posix, loop.view.buf, loop.size, &step) == 0 and \
            vlad_rt_lock_memory(&vlad_rt_posix, self.c, sizeof(vlad_flight), &step) == 0

    def __dealloc__(self):
        free(self.c)


cdef class Replay:
    """A servo loop on recorded inputs."""

    cdef vlad_flight *flight
    cdef vlad_flight_replay c
    cdef vlad_servo *servo
    cdef object _keep
    cdef bint _pushed

    def __cinit__(self, servo, Ring spare, const unsigned char[::1] state, const int64_t[:, ::1] ring1,
                  const int64_t[:, ::1] ring2):
        cdef vlad_flight_state begin
        if state.shape[0] != sizeof(vlad_flight_state):
            raise ValueError("the state has another size")
        memcpy(&begin, &state[0], sizeof(begin))
        if ring1.shape[1] != VLAD_MAX_JOINTS or ring2.shape[1] != VLAD_MAX_JOINTS or \
                ring1.shape[0] != begin.n1[0] or ring2.shape[0] != begin.n2[0] or \
                ring1.shape[0] < 1 or ring2.shape[0] < 1:
            raise ValueError("the trajectory's windows have another shape")
        self._keep = (servo, spare)
        self.servo = <vlad_servo *><uintptr_t>servo.lower_context_address()
        self.flight = <vlad_flight *>calloc(1, sizeof(vlad_flight))
        if self.flight is NULL:
            raise MemoryError()
        rc = vlad_flight_attach(self.servo, self.flight, spare.c, spare.c, 2**61)
        if rc:
            raise OSError(-rc, os.strerror(-rc))
        servo.keep(self)
        if vlad_flight_replay_begin(&self.c, self.servo, &begin, <const int64_t (*)[8]>&ring1[0, 0],
                                    <const int64_t (*)[8]>&ring2[0, 0]):
            raise ValueError("the trajectory's windows are not those of the configuration")

    def __dealloc__(self):
        free(self.flight)

    def timeline(self, *, number, seq, epoch, t0_ns, period_ns, overdue_ns,
                 const int64_t[:, ::1] actions_nu, const int64_t[::1] t_obs_ns,
                 const int64_t[::1] opinions):
        cdef vlad_timeline *timeline
        n = actions_nu.shape[0]
        if n > VLAD_MAX_TIMELINE or t_obs_ns.shape[0] != n or opinions.shape[0] != n or \
                actions_nu.shape[1] != VLAD_MAX_JOINTS:
            raise ValueError("a timeline of another shape")
        timeline = <vlad_timeline *>calloc(1, sizeof(vlad_timeline))
        if timeline is NULL:
            raise MemoryError()
        timeline.number, timeline.seq, timeline.epoch = number, seq, epoch
        timeline.t0_ns, timeline.period_ns, timeline.overdue_ns = t0_ns, period_ns, overdue_ns
        timeline.n = <int>n
        if n:
            memcpy(timeline.action_nu, &actions_nu[0, 0], n * 8 * sizeof(int64_t))
            memcpy(timeline.t_obs_ns, &t_obs_ns[0], n * sizeof(int64_t))
            memcpy(timeline.opinions, &opinions[0], n * sizeof(int64_t))
        rc = vlad_flight_replay_timeline(self.servo, timeline)
        free(timeline)
        if rc:
            raise ValueError("a timeline that is none")

    def tick(self, const unsigned char[::1] record):
        cdef vlad_flight_tick tick
        if record.shape[0] != sizeof(tick):
            raise ValueError("a tick of another size")
        memcpy(&tick, &record[0], sizeof(tick))
        with nogil:
            vlad_flight_replay_tick(&self.c, self.servo, &tick)
        return (<const unsigned char *>&self.flight.done)[:sizeof(tick)]

    def push(self, const unsigned char[::1] record, const double[:, ::1] actions):
        cdef vlad_flight_chunk chunk
        cdef const double *values = NULL
        cdef const vlad_timeline *timeline
        cdef int64_t[:, ::1] rows
        cdef int n
        if record.shape[0] != sizeof(chunk):
            raise ValueError("a chunk of another size")
        memcpy(&chunk, &record[0], sizeof(chunk))
        if actions.shape[0] == chunk.n_actions[0] and actions.shape[1] == chunk.n_joints[0] and \
                actions.shape[0] and actions.shape[1]:
            values = &actions[0, 0]
        if vlad_flight_replay_push(self.servo, &chunk, values, not self._pushed):
            raise ValueError("a chunk without its actions, or a timing that is none")
        self._pushed = True
        timeline = &self.servo.queue.buffer[self.servo.queue.newest]
        n = timeline.n if self.flight.chunk.timeline[0] != self.flight.chunk.before[0] else 0
        merged = np.empty((n, VLAD_MAX_JOINTS), np.int64)
        if n:
            rows = merged
            memcpy(&rows[0, 0], timeline.action_nu, n * 8 * sizeof(int64_t))
        return (<const unsigned char *>&self.flight.chunk)[:sizeof(chunk)], merged

    def timing(self, const unsigned char[::1] record):
        cdef vlad_flight_timing t
        if record.shape[0] != sizeof(t):
            raise ValueError("a timing of another size")
        memcpy(&t, &record[0], sizeof(t))
        if vlad_flight_replay_timing(self.servo, &t):
            raise ValueError("a timing that is none")
