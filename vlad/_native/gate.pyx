"""vlad._native.gate: csrc/gate.c for Python. Shapes, units and meanings are in vlad/gate.py."""

from libc.stdint cimport INT64_MIN

from vlad._native.gate_c cimport *

import numpy as np

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI

REASONS = tuple(vlad_reason_name(<vlad_reason>i).decode() for i in range(VLAD_N_REASONS))


cdef class Gate:
    cdef vlad_gate_config c

    def __init__(self, config):
        read_config(config, &self.c)

    def check(self, actions, seq, epoch, t_obs_ns, frame_age_ns, reuse_age_ns, cold, command,
              last_due_ns, now_ns):
        cdef double[:, ::1] view = np.ascontiguousarray(actions, dtype=np.float64)
        cdef int64_t[:, ::1] out
        cdef vlad_chunk chunk
        cdef vlad_command c
        cdef vlad_gate_report report
        cdef int64_t due = INT64_MIN
        cdef int64_t now = to_ns(now_ns, "now_ns")
        read_chunk(seq, epoch, t_obs_ns, frame_age_ns, reuse_age_ns, cold, &chunk)
        read_command(command, self.c.limits.n_joints, &c)
        if last_due_ns is not None:
            due = to_ns(last_due_ns, "last_due_ns")
        chunk.n_actions = <int>min(view.shape[0], VLAD_MAX_ACTIONS + 1)
        chunk.n_joints = <int>view.shape[1]
        vlad_gate_report_clear(&report)
        if not vlad_gate_time(&self.c, &chunk, &c, due, now, &report):
            return report_tuple(&report), None
        chunk.actions = &view[0, 0]
        gated = np.zeros((chunk.n_actions, VLAD_MAX_JOINTS), np.int64)
        out = gated
        if not vlad_gate_chunk(&self.c, &chunk, <int64_t (*)[8]>&out[0, 0], &report):
            return report_tuple(&report), None
        return report_tuple(&report), gated[:, :chunk.n_joints]

    def steps(self, before, actions_nu, jump_allowed):
        cdef int64_t[:, ::1] view
        cdef int64_t first[8]
        cdef vlad_gate_report report
        cdef int n = self.c.limits.n_joints
        read_pose(before, n, first, "before")
        rows = np.zeros((len(actions_nu) + 1, VLAD_MAX_JOINTS), np.int64)
        rows[:-1, :n] = actions_nu
        view = rows
        vlad_gate_report_clear(&report)
        vlad_gate_steps(&self.c, first, <const int64_t (*)[8]>&view[0, 0],
                        <int>len(actions_nu), to_nu(jump_allowed, "jump_allowed"), &report)
        return report_tuple(&report)

    def step_nu(self, joint):
        if not 0 <= joint < self.c.limits.n_joints:
            raise IndexError(f"no joint {joint}")
        return vlad_gate_step_nu(&self.c, joint)
