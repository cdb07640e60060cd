# csrc/rt.h
from libc.stdint cimport int64_t

cdef extern from "rt.h" nogil:
    struct vlad_rt_ops:
        pass
    struct vlad_rt_step:
        bint asked
        int error
        char reason[200]
    struct vlad_rt_report:
        vlad_rt_step fifo, affinity, lock_all, lock_memory
    const vlad_rt_ops vlad_rt_posix
    int vlad_rt_lock_process(const vlad_rt_ops *, vlad_rt_step *)
    int vlad_rt_thread(const vlad_rt_ops *, int, const int *, int, vlad_rt_report *)
    char *vlad_rt_reasons(const vlad_rt_report *, char *, size_t)
    int vlad_rt_kernel(const vlad_rt_ops *)
