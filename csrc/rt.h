/* rt.h: real-time rights of a thread and its memory. Every step that is not granted says why and
 * what to change; nothing is assumed (fault 25).
 *
 *     struct vlad_rt_report report = {0};
 *     vlad_rt_lock_process(&vlad_rt_posix, &report.lock_all);          once, early
 *     vlad_rt_lock_memory(&vlad_rt_posix, servo, sizeof *servo, &report.lock_memory);
 *     ... in the new thread: vlad_rt_thread(&vlad_rt_posix, priority, cpus, n_cpus, &report);
 *     realtime = vlad_rt_granted(&report);
 */
#ifndef VLAD_RT_H
#define VLAD_RT_H

#include <stdbool.h>
#include <stddef.h> /* size_t */
#include <stdint.h>

#define VLAD_RT_REASON 200
#define VLAD_RT_STACK_BYTES (64 * 1024) /* of the calling thread's stack, made resident */

/* The system calls, so that tests can refuse each. 0 or -errno. */
struct vlad_rt_ops {
    int (*set_fifo)(int priority);                     /* calling thread */
    int (*set_affinity)(const int *cpus, int n_cpus);  /* calling thread */
    int (*lock_all)(void);                             /* mlockall, on fault */
    int (*unlock_all)(void);                           /* munlockall */
    void (*trim)(void);                                /* malloc_trim */
    int (*lock)(const void *memory, size_t n);         /* mlock */
    int64_t (*lockable_bytes)(void); /* RLIMIT_MEMLOCK; INT64_MAX = no limit or CAP_IPC_LOCK */
    int (*rtprio_limit)(void);       /* RLIMIT_RTPRIO */
    int (*read_flag)(const char *path); /* leading digit of a file, or -errno */
};
extern const struct vlad_rt_ops vlad_rt_posix;

/* One wish. error: 0 = granted, else errno; reason: then what was refused and what to change. */
struct vlad_rt_step {
    bool asked;
    int error;
    char reason[VLAD_RT_REASON];
};

struct vlad_rt_report {
    struct vlad_rt_step fifo, affinity, lock_all, lock_memory;
};

/* Locks all present and future memory of the process as it is touched (MCL_ONFAULT: a model of
 * 450 M weights is not made resident whole). Refused under a finite RLIMIT_MEMLOCK even where
 * mlockall would succeed: later allocations would fail at the limit. 0 or -errno. */
int vlad_rt_lock_process(const struct vlad_rt_ops *ops, struct vlad_rt_step *step);

/* Gives the kernel back what the heap holds and does not use: a policy that was replaced leaves holes that
 * its successor does not fill exactly, up to some MiB. The kernel takes no locked page back, so where the
 * process is locked it is not for that long. Not while the arm moves: page faults of other threads wait.
 * 0, or -errno when it could not be locked again. */
int vlad_rt_trim(const struct vlad_rt_ops *ops, struct vlad_rt_step *step);

/* Locks [memory, memory + n) and touches each page, so that no first use faults. Before any other
 * thread uses it. The pages are touched even where locking is refused. 0 or -errno. */
int vlad_rt_lock_memory(const struct vlad_rt_ops *ops, void *memory, size_t n,
                        struct vlad_rt_step *step);

/* The calling thread: SCHED_FIFO at `priority` (1..99; 0 = not asked for), on `cpus` (n_cpus 0 =
 * not asked for), its next VLAD_RT_STACK_BYTES of stack touched. 0 or the first -errno; all steps
 * are tried. Children do not inherit the policy. */
int vlad_rt_thread(const struct vlad_rt_ops *ops, int priority, const int *cpus, int n_cpus,
                   struct vlad_rt_report *report);

/* FIFO and both locks asked for and granted, affinity granted if asked for. */
bool vlad_rt_granted(const struct vlad_rt_report *report);

/* All reasons in one line, "" when there is none. Returns buffer. */
char *vlad_rt_reasons(const struct vlad_rt_report *report, char *buffer, size_t size);

/* 1: PREEMPT_RT kernel (/sys/kernel/realtime), 0: not. */
int vlad_rt_kernel(const struct vlad_rt_ops *ops);

#endif
