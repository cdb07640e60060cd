"""vlad._native.trajectory: csrc/trajectory.c for Python. Meanings: trajectory.pyi."""

from vlad._native.gate_c cimport *

import errno

import numpy as np

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI


cdef class Trajectory:
    cdef vlad_trajectory c
    cdef int64_t period_ns

    def __init__(self, joints, period_ns):
        cdef vlad_limits limits
        cdef int64_t unit_nu[8]
        cdef int joint = -1, rc
        read_limits(joints, &limits)
        self.period_ns = to_ns(period_ns, "period_ns")
        for j, spec in enumerate(joints):
            unit_nu[j] = spec.unit_nu
        rc = vlad_trajectory_init(&self.c, &limits, unit_nu, self.period_ns, &joint)
        if rc == -errno.ERANGE:
            raise ValueError(
                f"joint {joint}: v_max is below one encoder tick per period, or a stop within its "
                "acceleration and jerk limits takes more than 300 ms"
            )
        if rc:
            raise ValueError("period_ns must be 1 ns to 1 s, unit_nu at least 2")

    def reset(self, goal):
        cdef int64_t nu[8]
        read_pose(goal, self.c.n_joints, nu, "goal")
        vlad_trajectory_reset(&self.c, nu)

    def advance(self, target, speed_permille=1000):
        cdef int64_t nu[8]
        read_pose(target, self.c.n_joints, nu, "target")
        if not 1 <= speed_permille <= 1000:
            raise ValueError(f"speed_permille = {speed_permille}: 1 to 1000 is possible")
        vlad_trajectory_advance(&self.c, nu, speed_permille)

    def stop(self):
        return vlad_trajectory_stop(&self.c)

    cdef object _array(self, const int64_t *values):
        return np.array([values[j] for j in range(self.c.n_joints)], np.int64)

    @property
    def goal_nu(self):
        return self._array(self.c.goal_nu)

    @property
    def velocity_nu(self):
        return self._array(self.c.velocity_nu)

    @property
    def step_nu(self):
        return self._array(self.c.step_nu)

    @property
    def windows(self):
        return self.c.n1, self.c.n2

    @property
    def at_rest(self):
        return bool(vlad_trajectory_at_rest(&self.c))

    @property
    def stopping(self):
        return bool(self.c.stopping)

    @property
    def lookahead_ns(self):
        return vlad_trajectory_lookahead_ns(&self.c, self.period_ns)

    @property
    def stop_ns(self):
        return vlad_trajectory_stop_ns(&self.c, self.period_ns)
