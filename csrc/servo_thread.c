/* The thread under vlad_servo_tick(): absolute sleep, skipped periods, and simulated time. */
#include <errno.h>     /* EINTR */
#include <semaphore.h> /* the thread tells its starter that it is placed */
#include <stdio.h>     /* snprintf */

#include "clock.h"
#include "memory_arm.h"
#include "rt.h"
#include "servo_loop.h"

static void sleep_until(int64_t t_ns)
{
    struct timespec at = { .tv_sec = t_ns / VLAD_NS_PER_S, .tv_nsec = t_ns % VLAD_NS_PER_S };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
}

/* How many of the ticks after the one due at due_ns have begun when that one is done. */
static int64_t missed_periods(const struct vlad_servo *servo, int64_t due_ns, int64_t done_ns)
{
    int64_t late_ns = done_ns - due_ns - servo->config.period_ns;

    return late_ns > 0 ? late_ns / servo->config.period_ns + 1 : 0;
}

/* A late wake-up skips whole periods: no burst to catch up, and still one step per tick. */
static int64_t next_period(struct vlad_servo *servo, int64_t due_ns, int64_t done_ns)
{
    int64_t missed = missed_periods(servo, due_ns, done_ns);

    servo->now.counters.overruns += missed > 0;
    servo->now.counters.skipped_periods += (uint64_t)missed;
    return due_ns + (1 + missed) * servo->config.period_ns;
}

/* What the new thread tells its starter before the first tick. */
struct start {
    struct vlad_servo *servo;
    int priority, cpu;
    struct vlad_rt_report report;
    sem_t placed;
};

static void *run(void *ctx)
{
    struct start *start = ctx;
    struct vlad_servo *servo = start->servo;
    int64_t due_ns;

    vlad_rt_thread(&vlad_rt_posix, start->priority, &start->cpu, start->cpu >= 0, &start->report);
    atomic_store_explicit(&servo->realtime, vlad_rt_granted(&start->report),
                          memory_order_relaxed);
    sem_post(&start->placed); /* `start` is gone from here on */
    due_ns = vlad_clock_now_ns() + servo->config.period_ns;
    while (atomic_load_explicit(&servo->running, memory_order_acquire)) {
        int64_t now_ns, unsure_ns;

        sleep_until(due_ns);
        now_ns = vlad_clock_now_ns();
        vlad_servo_slept(servo, vlad_clock_slept_ns(vlad_clock_read_ns, &unsure_ns));
        vlad_servo_tick(servo, now_ns, now_ns - due_ns);
        due_ns = next_period(servo, due_ns, vlad_clock_now_ns());
    }
    return NULL;
}

void vlad_servo_simulate(struct vlad_servo *servo, struct vlad_memory_arm *arm, int64_t until_ns)
{
    int64_t missed = missed_periods(servo, servo->now.t_ns, arm->now_ns); /* booked already */
    int64_t due_ns = servo->now.t_ns + (1 + missed) * servo->config.period_ns;

    while (due_ns <= until_ns) {
        arm->now_ns = due_ns;
        vlad_servo_tick(servo, due_ns, 0);
        if (arm->watch)
            arm->watch(arm->watcher);
        due_ns = next_period(servo, due_ns, arm->now_ns);
    }
}

int vlad_servo_start(struct vlad_servo *servo, int priority, int cpu, char *reason, int reason_size)
{
    struct start start = { .servo = servo, .priority = priority, .cpu = cpu };
    int64_t unsure_ns;
    int rc;

    vlad_rt_lock_process(&vlad_rt_posix, &start.report.lock_all);
    vlad_rt_lock_memory(&vlad_rt_posix, servo, sizeof *servo, &start.report.lock_memory);
    sem_init(&start.placed, 0, 0);
    /* Before the daemon started is no fault: here the most that it can be, in a tick the least. */
    servo->slept_seen_ns = vlad_clock_slept_ns(vlad_clock_read_ns, &unsure_ns);
    servo->slept_seen_ns += unsure_ns;
    atomic_store_explicit(&servo->running, 1, memory_order_release);
    rc = pthread_create(&servo->thread, NULL, run, &start);
    if (rc == 0)
        while (sem_wait(&start.placed) == -1 && errno == EINTR)
            ;
    else
        atomic_store_explicit(&servo->running, 0, memory_order_release);
    sem_destroy(&start.placed);
    vlad_rt_reasons(&start.report, reason, (size_t)reason_size);
    return -rc;
}

int vlad_servo_trim(struct vlad_servo *servo, char *reason, int reason_size)
{
    struct vlad_rt_step step = { .asked = false };
    int rc = vlad_rt_trim(&vlad_rt_posix, &step);

    if (rc < 0)
        atomic_store_explicit(&servo->realtime, 0, memory_order_relaxed);
    snprintf(reason, (size_t)reason_size, "%s", step.reason);
    return rc;
}

void vlad_servo_stop(struct vlad_servo *servo)
{
    if (atomic_exchange_explicit(&servo->running, 0, memory_order_acq_rel))
        pthread_join(servo->thread, NULL);
}
