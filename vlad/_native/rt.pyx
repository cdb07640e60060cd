"""Real-time rights of the calling thread and of the process (csrc/rt.h)."""

from libc.string cimport memset

from vlad._native.rt_c cimport *

from vlad.errors import ConfigError

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI


def lock_process() -> str:
    cdef vlad_rt_step step
    memset(&step, 0, sizeof(step))
    with nogil:
        vlad_rt_lock_process(&vlad_rt_posix, &step)
    return step.reason.decode()


def enter(priority: int = 0, cpus=()) -> str:
    cdef vlad_rt_report report
    cdef int c_cpus[1024]
    cdef int n = len(cpus), c_priority = priority, i
    cdef char text[512]
    if not 0 <= c_priority <= 99:
        raise ConfigError(f"priority {priority}: 0 (none) or 1 to 99 are possible")
    if n > 1024:
        raise ConfigError(f"affinity names {n} cpus; at most 1024 are possible")
    for i in range(n):
        c_cpus[i] = cpus[i]
    memset(&report, 0, sizeof(report))
    with nogil:
        vlad_rt_thread(&vlad_rt_posix, c_priority, c_cpus, n, &report)
        vlad_rt_reasons(&report, text, sizeof(text))
    return (<bytes>text).decode()


def kernel() -> bool:
    return vlad_rt_kernel(&vlad_rt_posix) == 1
