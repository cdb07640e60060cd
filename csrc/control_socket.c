#define _GNU_SOURCE /* pthread_setname_np */
#include "control_socket.h"

#include <errno.h>
#include <fcntl.h>       /* the spare descriptor */
#include <poll.h>        /* waiting for a request */
#include <signal.h>      /* signals are Python's: blocked in the thread */
#include <stdlib.h>      /* calloc at start */
#include <string.h>      /* memcpy, memchr */
#include <sys/eventfd.h> /* wake-ups both ways */
#include <time.h>        /* nanosleep */
#include <unistd.h>      /* close, geteuid */

#include "clock.h"
#include "control_thread.h"

const char *const vlad_control_counter_name[VLAD_CC_N] = {
    "connections", "refused_clients", "evicted", "fd_exhausted", "accept_failures", "lines",
    "malformed", "oversize", "half_open", "slow_readers", "broken", "not_permitted", "holds",
    "limps", "forwarded", "busy", "abandoned", "replies", "orphan_replies", "untold",
    "longest_pass_ns", "longest_lower_ns",
};

static int set_up(struct vlad_control_socket *control, const struct vlad_control_config *config)
{
    size_t size = strlen(config->path);

    if (!config->lower || config->n_operator_gids > VLAD_CONTROL_MAX_GIDS ||
        config->max_clients < 1 || config->max_clients > VLAD_CONTROL_MAX_CLIENTS ||
        config->half_open_ns <= 0 || config->stalled_ns <= 0)
        return -EINVAL;
    if (size >= sizeof control->path)
        return -ENAMETOOLONG;
    memcpy(control->path, config->path, size + 1);
    control->n_gids = config->n_operator_gids;
    for (size_t i = 0; i < control->n_gids; i++)
        control->gids[i] = config->operator_gids[i];
    control->max_clients = config->max_clients;
    control->own_uid = geteuid();
    control->lower = config->lower;
    control->lower_context = config->lower_context;
    control->half_open_ns = config->half_open_ns;
    control->stalled_ns = config->stalled_ns;
    for (int i = 0; i < VLAD_CONTROL_SLOTS; i++)
        control->client[i].fd = -1;
    control->listener.fd = control->spare_fd = control->request_fd = control->wake_fd = -1;
    vlad_record_ring_init(&control->requests, control->request_bytes,
                          sizeof control->request_bytes, sizeof(struct vlad_control_request));
    vlad_record_ring_init(&control->replies, control->reply_bytes, sizeof control->reply_bytes,
                          sizeof(uint64_t));
    vlad_record_ring_init(&control->lowerings, control->lowering_bytes,
                          sizeof control->lowering_bytes, sizeof(struct vlad_control_lowered));
    atomic_init(&control->beat_ns, vlad_clock_now_ns());
    return -pthread_mutex_init(&control->reply_lock, NULL);
}

static int open_all(struct vlad_control_socket *control, mode_t mode)
{
    int error = vlad_control_listener_open(&control->listener, control->path, mode);

    if (error)
        return error;
    control->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    control->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    control->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return control->request_fd < 0 || control->wake_fd < 0 || control->spare_fd < 0 ? -errno : 0;
}

static void close_all(struct vlad_control_socket *control)
{
    vlad_control_listener_close(&control->listener, control->path);
    if (control->request_fd >= 0)
        close(control->request_fd);
    if (control->wake_fd >= 0)
        close(control->wake_fd);
    if (control->spare_fd >= 0)
        close(control->spare_fd);
}

static int start_thread(struct vlad_control_socket *control)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&control->thread, NULL, vlad_control_thread, control);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error)
        pthread_setname_np(control->thread, "vlad-control");
    return -error;
}

int vlad_control_socket_start(struct vlad_control_socket **control,
                              const struct vlad_control_config *config)
{
    /* Pages come with their first use. */
    struct vlad_control_socket *made = calloc(1, sizeof *made);
    int error;

    *control = NULL;
    if (!made)
        return -ENOMEM;
    error = set_up(made, config);
    if (!error) {
        error = open_all(made, config->mode);
        if (!error)
            error = start_thread(made);
        if (error) {
            close_all(made);
            pthread_mutex_destroy(&made->reply_lock);
        }
    }
    if (error) {
        free(made);
        return error;
    }
    *control = made;
    return 0;
}

void vlad_control_socket_stop(struct vlad_control_socket *control)
{
    if (atomic_exchange(&control->stopping, 1))
        return;
    eventfd_write(control->wake_fd, 1);
    eventfd_write(control->request_fd, 1);
    pthread_join(control->thread, NULL);
    vlad_control_listener_close(&control->listener, control->path);
}

void vlad_control_socket_free(struct vlad_control_socket *control)
{
    vlad_control_socket_stop(control);
    close_all(control);
    pthread_mutex_destroy(&control->reply_lock);
    free(control);
}

ssize_t vlad_control_socket_next(struct vlad_control_socket *control, int timeout_ms,
                                 struct vlad_control_request *request,
                                 char line[VLAD_CONTROL_MAX_LINE])
{
    int64_t until_ns = vlad_clock_now_ns() + timeout_ms * 1000000LL;

    for (;;) {
        struct pollfd request_fd = {.fd = control->request_fd, .events = POLLIN};
        int64_t left_ns;
        eventfd_t count;
        ssize_t size;

        if (atomic_load(&control->stopping))
            return -ESHUTDOWN;
        size = vlad_record_ring_pop(&control->requests, request, line);
        if (size >= 0) {
            if (atomic_load(&control->live[request->token & 0xFF]) == request->token)
                return size;
            vlad_control_count(control, VLAD_CC_ABANDONED);
            continue;
        }
        left_ns = until_ns - vlad_clock_now_ns();
        if (left_ns <= 0)
            return -EAGAIN;
        if (poll(&request_fd, 1, (int)((left_ns + 999999) / 1000000)) < 0)
            return -EAGAIN;
        eventfd_read(control->request_fd, &count);
    }
}

int vlad_control_socket_reply(struct vlad_control_socket *control, uint64_t token,
                              const char *line, size_t size)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    int error = -ETIMEDOUT;

    if (size > VLAD_CONTROL_MAX_REPLY)
        return -EMSGSIZE;
    if (memchr(line, '\n', size) || (token & 0xFF) >= VLAD_CONTROL_SLOTS)
        return -EINVAL;
    pthread_mutex_lock(&control->reply_lock);
    for (int i = 0; i < 1000 && error && !atomic_load(&control->stopping); i++) {
        if (vlad_record_ring_push(&control->replies, &token, line, size))
            error = 0;
        eventfd_write(control->wake_fd, 1);
        if (error)
            nanosleep(&pause, NULL);
    }
    pthread_mutex_unlock(&control->reply_lock);
    return atomic_load(&control->stopping) ? 0 : error;
}

uint64_t vlad_control_socket_counter(struct vlad_control_socket *control,
                                     enum vlad_control_counter counter)
{
    return atomic_load_explicit(&control->counter[counter], memory_order_relaxed);
}

unsigned vlad_control_socket_clients(struct vlad_control_socket *control)
{
    return atomic_load_explicit(&control->clients, memory_order_relaxed);
}

uint64_t vlad_control_socket_lower_epoch(struct vlad_control_socket *control)
{
    return atomic_load(&control->lower_epoch);
}

void vlad_control_socket_lowered(struct vlad_control_socket *control,
                                 struct vlad_control_lowered *newest)
{
    vlad_seqlock_read(&control->lowered.lock, &control->lowered.body, newest, sizeof *newest);
}

bool vlad_control_socket_next_lowered(struct vlad_control_socket *control,
                                      struct vlad_control_lowered *lowered)
{
    unsigned char none;

    return vlad_record_ring_pop(&control->lowerings, lowered, &none) == 0;
}

int64_t vlad_control_socket_beat_ns(struct vlad_control_socket *control)
{
    return atomic_load_explicit(&control->beat_ns, memory_order_relaxed);
}
