"""vlad._native.action_queue: csrc/action_queue.c for Python. Meanings: vlad/action_queue.py."""

from libc.stdint cimport INT64_MIN

from vlad._native.gate_c cimport *

import numpy as np

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI

AGGREGATES = ("weighted_average", "latest_only", "average", "conservative", "rtc", "temporal_ensemble")


cdef class ActionQueue:
    cdef vlad_queue c
    cdef int n

    def __init__(self, config, aggregate, lookahead_ns, coefficient):
        cdef vlad_gate_config gate
        read_config(config, &gate)
        if aggregate not in AGGREGATES:
            raise ValueError(f"aggregate {aggregate!r}: one of {', '.join(AGGREGATES)} is wanted")
        if vlad_queue_init(&self.c, &gate, <vlad_aggregate>(<int>AGGREGATES.index(aggregate)),
                           to_ns(lookahead_ns, "lookahead_ns")):
            raise ValueError(
                f"lookahead_ns = {lookahead_ns}: 0 to {VLAD_MAX_ACTIONS} action periods are wanted"
            )
        if vlad_queue_set_aggregate(&self.c, <vlad_aggregate>(<int>AGGREGATES.index(aggregate)),
                                    round(coefficient * VLAD_ENSEMBLE_UNIT)):
            raise ValueError(f"coefficient = {coefficient}: -10 to 10 for temporal_ensemble, else 0, is wanted")
        self.n = gate.limits.n_joints

    def push(self, actions, seq, epoch, t_obs_ns, frame_age_ns, reuse_age_ns, cold, command,
             now_ns):
        cdef double[:, ::1] view = np.ascontiguousarray(actions, dtype=np.float64)
        cdef vlad_chunk chunk
        cdef vlad_command c
        cdef vlad_gate_report report
        cdef int64_t now = to_ns(now_ns, "now_ns")
        read_chunk(seq, epoch, t_obs_ns, frame_age_ns, reuse_age_ns, cold, &chunk)
        read_command(command, self.n, &c)
        chunk.n_actions = <int>min(view.shape[0], VLAD_MAX_ACTIONS + 1)
        chunk.n_joints = <int>view.shape[1]
        chunk.actions = &view[0, 0] if view.size else NULL
        with nogil:
            vlad_queue_push(&self.c, &chunk, &c, now, &report)
        return report_tuple(&report)

    def clear(self):
        vlad_queue_clear(&self.c)

    def last_due_ns(self, epoch):
        cdef int64_t due = vlad_queue_last_due_ns(&self.c, epoch)
        return None if due == INT64_MIN else due

    def depth(self, now_ns, epoch):
        return vlad_queue_depth(&self.c, epoch, to_ns(now_ns, "now_ns"))

    def timeline(self):
        cdef const vlad_timeline *line = vlad_queue_newest(&self.c)
        cdef int64_t[:, ::1] rows
        cdef int64_t[::1] ages
        cdef int64_t[::1] heard
        actions_nu = np.empty((line.n, self.n), np.int64)
        t_obs_ns = np.empty(line.n, np.int64)
        opinions = np.empty(line.n, np.int64)
        rows = actions_nu
        ages = t_obs_ns
        heard = opinions
        for i in range(line.n):
            ages[i] = line.t_obs_ns[i]
            heard[i] = line.opinions[i]
            for j in range(self.n):
                rows[i, j] = line.action_nu[i][j]
        return line.seq, line.epoch, line.t0_ns, line.period_ns, actions_nu, t_obs_ns, opinions

    def sample(self, t_ns):
        cdef int64_t nu[8]
        if not vlad_timeline_at(vlad_queue_newest(&self.c), self.n, to_ns(t_ns, "t_ns"), nu):
            return None
        return np.array([nu[j] / 1e9 for j in range(self.n)])
