#define _GNU_SOURCE /* cpu_set_t, SCHED_RESET_ON_FORK, MCL_ONFAULT */
#include "rt.h"

#include <errno.h>            /* -errno results */
#include <fcntl.h>            /* open */
#include <linux/capability.h> /* CAP_IPC_LOCK */
#include <malloc.h>           /* mallopt */
#include <sched.h>            /* SCHED_FIFO, affinity */
#include <stdio.h>            /* snprintf */
#include <string.h>           /* strerror_r */
#include <sys/mman.h>         /* mlock, mlockall */
#include <sys/resource.h>     /* RLIMIT_MEMLOCK, RLIMIT_RTPRIO */
#include <sys/syscall.h>      /* capget */
#include <unistd.h>           /* sysconf, read */

enum { MAX_CPU = CPU_SETSIZE - 1 };

static int posix_set_fifo(int priority)
{
    struct sched_param p = {.sched_priority = priority};
    return sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &p) < 0 ? -errno : 0;
}

static int posix_set_affinity(const int *cpus, int n_cpus)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < n_cpus; i++)
        CPU_SET((size_t)cpus[i], &set);
    return sched_setaffinity(0, sizeof set, &set) < 0 ? -errno : 0;
}

/* The kernel takes no locked page back from within a heap (madvise: EINVAL; see vlad_rt_trim). Blocks
 * above this have a mapping of their own, which goes when they are freed; unset, glibc raises the
 * threshold to 32 MiB by itself. */
enum { OWN_MAPPING_BYTES = 64 * 1024 };

static int posix_lock_all(void)
{
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        return -errno;
#ifdef M_MMAP_THRESHOLD
    mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
#endif
    return 0;
}

static int posix_unlock_all(void)
{
    return munlockall() < 0 ? -errno : 0;
}

static void posix_trim(void)
{
#ifdef M_MMAP_THRESHOLD /* glibc; others give back by themselves */
    malloc_trim(0);
#endif
}

static int posix_lock(const void *memory, size_t n)
{
    return mlock(memory, n) < 0 ? -errno : 0;
}

static bool may_lock_anything(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    return syscall(SYS_capget, &header, data) == 0 &&
           data[0].effective >> CAP_IPC_LOCK & 1;
}

static int64_t posix_lockable_bytes(void)
{
    struct rlimit limit;
    if (may_lock_anything())
        return INT64_MAX;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
        return 0;
    return limit.rlim_cur >= INT64_MAX ? INT64_MAX : (int64_t)limit.rlim_cur;
}

static int posix_rtprio_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_RTPRIO, &limit) < 0)
        return 0;
    return limit.rlim_cur > 99 ? 99 : (int)limit.rlim_cur;
}

static int posix_read_flag(const char *path)
{
    char c = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, &c, 1);
    int rc = n < 0 ? -errno : n == 1 && c >= '0' && c <= '9' ? c - '0' : -EBADMSG;
    close(fd);
    return rc;
}

const struct vlad_rt_ops vlad_rt_posix = {
    .set_fifo = posix_set_fifo,
    .set_affinity = posix_set_affinity,
    .lock_all = posix_lock_all,
    .unlock_all = posix_unlock_all,
    .trim = posix_trim,
    .lock = posix_lock,
    .lockable_bytes = posix_lockable_bytes,
    .rtprio_limit = posix_rtprio_limit,
    .read_flag = posix_read_flag,
};

/* Books a step and passes its result on; the reason is the caller's when there is an error. */
static int outcome(struct vlad_rt_step *step, int rc)
{
    step->asked = true;
    step->error = -rc;
    step->reason[0] = '\0';
    return rc;
}

static const char *text_of(int rc, char *buffer, size_t size)
{
    /* The GNU form: thread-safe, and returns the text. */
    return strerror_r(-rc, buffer, size);
}

int vlad_rt_lock_process(const struct vlad_rt_ops *ops, struct vlad_rt_step *step)
{
    char text[64];
    int64_t limit = ops->lockable_bytes();
    if (limit != INT64_MAX) {
        outcome(step, -EPERM);
        snprintf(step->reason, sizeof step->reason,
                 "memory lock: RLIMIT_MEMLOCK is %lld bytes; set LimitMEMLOCK=infinity "
                 "(ulimit -l unlimited)", (long long)limit);
        return -EPERM;
    }
    int rc = outcome(step, ops->lock_all());
    if (rc < 0)
        snprintf(step->reason, sizeof step->reason, "mlockall: %s",
                 text_of(rc, text, sizeof text));
    return rc;
}

int vlad_rt_trim(const struct vlad_rt_ops *ops, struct vlad_rt_step *step)
{
    bool locked = ops->lockable_bytes() == INT64_MAX;
    int rc = locked ? ops->unlock_all() : 0;

    if (rc == 0)
        ops->trim();
    return locked ? vlad_rt_lock_process(ops, step) : 0;
}

int vlad_rt_lock_memory(const struct vlad_rt_ops *ops, void *memory, size_t n,
                        struct vlad_rt_step *step)
{
    char text[64];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    volatile char *bytes = memory;
    int rc = outcome(step, ops->lock(memory, n));
    if (rc < 0)
        snprintf(step->reason, sizeof step->reason,
                 "mlock of %zu bytes: %s; set LimitMEMLOCK=infinity", n,
                 text_of(rc, text, sizeof text));
    for (size_t i = 0; i < n; i += page)
        bytes[i] = bytes[i];
    if (n > 0)
        bytes[n - 1] = bytes[n - 1]; /* the last page, when memory does not start on one */
    return rc;
}

static int take_fifo(const struct vlad_rt_ops *ops, int priority, struct vlad_rt_step *step)
{
    char text[64];
    int rc = outcome(step, priority < 1 || priority > 99 ? -EINVAL : ops->set_fifo(priority));
    if (rc < 0)
        snprintf(step->reason, sizeof step->reason,
                 "SCHED_FIFO priority %d: %s; RLIMIT_RTPRIO is %d, set LimitRTPRIO=%d", priority,
                 text_of(rc, text, sizeof text), ops->rtprio_limit(),
                 priority < 1 || priority > 99 ? 99 : priority);
    return rc;
}

static int take_cpus(const struct vlad_rt_ops *ops, const int *cpus, int n_cpus,
                     struct vlad_rt_step *step)
{
    char text[64];
    int rc = 0, shown = cpus[0];
    for (int i = 0; i < n_cpus && rc == 0; i++)
        if (cpus[i] < 0 || cpus[i] > MAX_CPU) {
            rc = -EINVAL;
            shown = cpus[i];
        }
    rc = outcome(step, rc < 0 ? rc : ops->set_affinity(cpus, n_cpus));
    if (rc < 0)
        snprintf(step->reason, sizeof step->reason,
                 "affinity to cpu %d%s: %s; name cpus that exist and that the process may use",
                 shown, n_cpus > 1 ? " and others" : "", text_of(rc, text, sizeof text));
    return rc;
}

__attribute__((noinline)) static void touch_stack(void)
{
    volatile char stack[VLAD_RT_STACK_BYTES];
    for (size_t i = 0; i < sizeof stack; i += 1024)
        stack[i] = 0;
}

int vlad_rt_thread(const struct vlad_rt_ops *ops, int priority, const int *cpus, int n_cpus,
                   struct vlad_rt_report *report)
{
    int rc = 0, fifo = 0;
    touch_stack();
    /* The cpu first: once FIFO, a thread must not run where it does not belong. */
    if (n_cpus > 0)
        rc = take_cpus(ops, cpus, n_cpus, &report->affinity);
    if (priority != 0)
        fifo = take_fifo(ops, priority, &report->fifo);
    return rc < 0 ? rc : fifo;
}

bool vlad_rt_granted(const struct vlad_rt_report *report)
{
    const struct vlad_rt_step *needed[] = {&report->fifo, &report->lock_all,
                                           &report->lock_memory};
    for (int i = 0; i < 3; i++)
        if (!needed[i]->asked || needed[i]->error != 0)
            return false;
    return report->affinity.error == 0;
}

char *vlad_rt_reasons(const struct vlad_rt_report *report, char *buffer, size_t size)
{
    const struct vlad_rt_step *steps[] = {&report->fifo, &report->affinity, &report->lock_all,
                                          &report->lock_memory};
    size_t used = 0;
    if (size > 0)
        buffer[0] = '\0';
    for (int i = 0; i < 4; i++) {
        if (steps[i]->error == 0 || used >= size)
            continue;
        used += (size_t)snprintf(buffer + used, size - used, "%s%s", used ? "; " : "",
                                 steps[i]->reason);
    }
    return buffer;
}

int vlad_rt_kernel(const struct vlad_rt_ops *ops)
{
    return ops->read_flag("/sys/kernel/realtime") == 1;
}
