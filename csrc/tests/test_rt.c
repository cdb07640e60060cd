/* rt.c: every refusal has its errno and a reason that says what to change. */
#define _GNU_SOURCE /* sched_getaffinity, mkstemp */
#include <errno.h>  /* what the calls are refused with */
#include <fcntl.h>  /* open */
#include <sched.h>  /* the policy that was really set */
#include <stdlib.h> /* malloc */
#include <string.h> /* strstr, memset */
#include <sys/mman.h>
#include <unistd.h>

#include "../rt.h"
#include "check.h"

static struct { int fifo, affinity, lock_all, unlock_all, lock, rtprio, flag; int64_t lockable; } answer;
static struct { int fifo, affinity, lock_all, unlock_all, trim, trim_after, lock, priority, n_cpus; } calls;

static int set_fifo(int priority) { calls.fifo++; calls.priority = priority; return answer.fifo; }
static int set_affinity(const int *cpus, int n)
{
    (void)cpus;
    calls.affinity++;
    calls.n_cpus = n;
    return answer.affinity;
}
static int lock_all(void) { calls.lock_all++; return answer.lock_all; }
static int unlock_all(void) { calls.unlock_all++; return answer.unlock_all; }
static void trim(void) { calls.trim++; calls.trim_after = calls.unlock_all - calls.lock_all; }
static int lock(const void *memory, size_t n) { (void)memory; (void)n; calls.lock++; return answer.lock; }
static int64_t lockable(void) { return answer.lockable; }
static int rtprio(void) { return answer.rtprio; }
static int flag(const char *path)
{
    CHECK(strcmp(path, "/sys/kernel/realtime") == 0);
    return answer.flag;
}

static const struct vlad_rt_ops ops = {set_fifo, set_affinity, lock_all, unlock_all, trim,
                                      lock, lockable, rtprio, flag};
static char memory[3 * 4096 + 17], text[512];
static const int cpus[2] = {4, 5};

static int ask(struct vlad_rt_report *report)
{
    memset(report, 0, sizeof *report);
    memset(&calls, 0, sizeof calls);
    vlad_rt_lock_process(&ops, &report->lock_all);
    vlad_rt_lock_memory(&ops, memory, sizeof memory, &report->lock_memory);
    return vlad_rt_thread(&ops, 80, cpus, 2, report);
}

static long resident_kib(void)
{
    long total = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm && fscanf(statm, "%ld %ld", &total, &resident) == 2);
    if (statm)
        fclose(statm);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void grant(void)
{
    memset(&answer, 0, sizeof answer);
    answer.lockable = INT64_MAX;
}

static void test_granted(void)
{
    struct vlad_rt_report report;
    grant();
    for (size_t i = 0; i < sizeof memory; i++)
        memory[i] = (char)i;
    CHECK_EQ(ask(&report), 0);
    CHECK(vlad_rt_granted(&report));
    CHECK_EQ(calls.priority, 80);
    CHECK_EQ(calls.n_cpus, 2);
    CHECK_EQ(strlen(vlad_rt_reasons(&report, text, sizeof text)), 0);
    for (size_t i = 0; i < sizeof memory; i++)
        CHECK_EQ(memory[i], (char)i); /* touched, not changed */
    memset(&report, 0, sizeof report);
    CHECK(!vlad_rt_granted(&report)); /* not asked for is not granted */
    CHECK_EQ(vlad_rt_thread(&ops, 0, NULL, 0, &report), 0);
    CHECK(!report.fifo.asked && !report.affinity.asked);
    CHECK_EQ(vlad_rt_lock_memory(&ops, memory, 0, &report.lock_memory), 0);
}

static void test_every_refusal(void)
{
    int *const answers[] = {&answer.fifo, &answer.affinity, &answer.lock_all, &answer.lock};
    static const char *const words[] = {"SCHED_FIFO priority 80", "affinity to cpu 4 and others",
                                        "mlockall", "mlock of 12305 bytes"};
    for (int i = 0; i < 4; i++)
        for (int code = 1; code < 134; code++) {
            struct vlad_rt_report report;
            char expected[64];
            grant();
            answer.rtprio = 7;
            *answers[i] = -code;
            int rc = ask(&report);
            CHECK_EQ(rc, i < 2 ? -code : 0);
            CHECK(!vlad_rt_granted(&report));
            CHECK_EQ(report.fifo.error, i == 0 ? code : 0);
            CHECK_EQ(report.affinity.error, i == 1 ? code : 0);
            CHECK_EQ(report.lock_all.error, i == 2 ? code : 0);
            CHECK_EQ(report.lock_memory.error, i == 3 ? code : 0);
            vlad_rt_reasons(&report, text, sizeof text);
            CHECK(strncmp(text, words[i], strlen(words[i])) == 0);
            CHECK(strstr(text, strerror_r(code, expected, sizeof expected)) != NULL);
            CHECK((strstr(text, "RLIMIT_RTPRIO is 7") != NULL) == (i == 0));
            CHECK_EQ(calls.fifo + calls.affinity + calls.lock_all + calls.lock, 4); /* all tried */
        }
}

static void test_finite_limit(void)
{
    struct vlad_rt_report report;
    grant();
    answer.lockable = 8 << 20;
    CHECK_EQ(ask(&report), 0);
    CHECK_EQ(report.lock_all.error, EPERM);
    CHECK_EQ(calls.lock_all, 0); /* it would make later allocations fail */
    CHECK(strstr(report.lock_all.reason, "RLIMIT_MEMLOCK is 8388608 bytes") != NULL);
    CHECK(!vlad_rt_granted(&report));
}

static void test_trim(void)
{
    struct vlad_rt_step step = {0};
    grant();
    memset(&calls, 0, sizeof calls);
    CHECK_EQ(vlad_rt_trim(&ops, &step), 0);
    CHECK_EQ(calls.trim, 1);
    CHECK_EQ(calls.trim_after, 1); /* between the two */
    CHECK_EQ(calls.lock_all, 1);
    CHECK_EQ(step.reason[0], '\0');
    answer.lock_all = -ENOMEM; /* not locked again */
    CHECK_EQ(vlad_rt_trim(&ops, &step), -ENOMEM);
    CHECK(strstr(step.reason, "mlockall") != NULL);
    grant();
    answer.unlock_all = -EPERM; /* still locked: nothing to give back, and locking again does no harm */
    CHECK_EQ(vlad_rt_trim(&ops, &step), 0);
    CHECK_EQ(calls.trim, 2);
    CHECK_EQ(calls.lock_all, 3);
    grant();
    answer.lockable = 8 << 20; /* never locked as a whole: what was locked in part stays */
    CHECK_EQ(vlad_rt_trim(&ops, &step), 0);
    CHECK_EQ(calls.trim, 3);
    CHECK_EQ(calls.unlock_all, 3);
    CHECK_EQ(calls.lock_all, 3);
}

/* A heap with a hole: locked, it keeps its pages; trimmed, the kernel has them, and new ones are locked. */
static void test_trim_on_this_machine(void)
{
    enum { BLOCKS = 2000, BYTES = 8192 };
    static char *block[BLOCKS];
    struct vlad_rt_step step = {0};
    long before, after;
    if (vlad_rt_lock_process(&vlad_rt_posix, &step) < 0)
        return; /* test_this_machine says why */
    for (int i = 0; i < BLOCKS; i++)
        memset(block[i] = malloc(BYTES), 1, BYTES);
    for (int i = 0; i < BLOCKS - 1; i++)
        free(block[i]); /* the last one keeps the top of the heap */
    before = resident_kib();
    CHECK_EQ(vlad_rt_trim(&vlad_rt_posix, &step), 0);
    after = resident_kib();
    free(block[BLOCKS - 1]);
    munlockall();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* which have heaps of their own */
    CHECK(before - after > BLOCKS * (BYTES / 1024) / 2);
#else
    (void)before, (void)after;
#endif
}

static void test_bad_arguments(void)
{
    struct vlad_rt_report report;
    const int bad[][2] = {{3, -1}, {1024, 3}};
    grant();
    for (int i = 0; i < 2; i++) {
        memset(&report, 0, sizeof report);
        CHECK_EQ(vlad_rt_thread(&ops, i ? 100 : -1, bad[i], 2, &report), -EINVAL);
        CHECK_EQ(report.fifo.error, EINVAL);
        CHECK_EQ(report.affinity.error, EINVAL);
        CHECK(strstr(report.affinity.reason, i ? "cpu 1024" : "cpu -1") != NULL);
    }
    memset(&report, 0, sizeof report);
    CHECK_EQ(vlad_rt_thread(&ops, 50, (const int[]){1024}, 1, &report), -EINVAL);
    CHECK(strstr(report.affinity.reason, "others") == NULL);
    /* Reasons are cut at the end of the buffer, whatever its size. */
    report.fifo.error = report.lock_all.error = 1;
    for (size_t size = 0; size < 40; size++) {
        memset(text, 'x', sizeof text);
        vlad_rt_reasons(&report, text, size);
        CHECK_EQ(text[size], 'x');
        CHECK(size == 0 || memchr(text, '\0', size) != NULL);
    }
}

static void test_kernel(void)
{
    static const int flags[][2] = {{1, 1}, {0, 0}, {2, 0}, {-ENOENT, 0}};
    for (int i = 0; i < 4; i++) {
        answer.flag = flags[i][0];
        CHECK_EQ(vlad_rt_kernel(&ops), flags[i][1]);
    }
    CHECK_EQ(vlad_rt_kernel(&vlad_rt_posix), access("/sys/kernel/realtime", F_OK) == 0);
}

/* The system's own calls: whatever this machine grants must really be in force. */
static void test_this_machine(void)
{
    struct vlad_rt_report report = {0};
    cpu_set_t before, after;
    char name[] = "/tmp/test_rt_XXXXXX";
    int cpu = 0, fd = mkstemp(name);
    CHECK(fd >= 0);
    CHECK_EQ(vlad_rt_posix.read_flag(name), -EBADMSG);
    CHECK_EQ(write(fd, "7", 1), 1);
    CHECK_EQ(vlad_rt_posix.read_flag(name), 7);
    close(fd);
    unlink(name);
    CHECK_EQ(vlad_rt_posix.read_flag(name), -ENOENT);
    CHECK_EQ(vlad_rt_posix.read_flag("/"), -EISDIR);
    CHECK(vlad_rt_posix.rtprio_limit() >= 0 && vlad_rt_posix.rtprio_limit() <= 99);
    CHECK(vlad_rt_posix.lockable_bytes() >= 0);

    CHECK_EQ(sched_getaffinity(0, sizeof before, &before), 0);
    while (!CPU_ISSET((size_t)cpu, &before))
        cpu++;
    vlad_rt_lock_memory(&vlad_rt_posix, memory, sizeof memory, &report.lock_memory);
    vlad_rt_thread(&vlad_rt_posix, 1, &cpu, 1, &report);
    CHECK_EQ(report.affinity.error, 0);
    CHECK_EQ(sched_getaffinity(0, sizeof after, &after), 0);
    CHECK_EQ(CPU_COUNT(&after), 1);
    CHECK(CPU_ISSET((size_t)cpu, &after));
    CHECK((sched_getscheduler(0) == (SCHED_FIFO | SCHED_RESET_ON_FORK)) ==
          (report.fifo.error == 0));
    if (vlad_rt_lock_process(&vlad_rt_posix, &report.lock_all) == 0)
        munlockall();
    CHECK((report.lock_all.error == 0) == (report.lock_all.reason[0] == '\0'));
    fprintf(stderr, "this machine: %s\n",
            *vlad_rt_reasons(&report, text, sizeof text) ? text : "real time granted");
}

int main(void)
{
    test_granted();
    test_every_refusal();
    test_finite_limit();
    test_trim();
    test_bad_arguments();
    test_kernel();
    test_this_machine();
    test_trim_on_this_machine();
    CHECK_DONE();
}
