#define _GNU_SOURCE /* accept4 */
#include "control_thread.h"

#include <errno.h>
#include <fcntl.h>       /* the spare descriptor */
#include <poll.h>
#include <sys/eventfd.h> /* wake-ups both ways */
#include <sys/socket.h>
#include <unistd.h>      /* close */

#include "clock.h"

#define ACCEPTS_PER_PASS 32 /* so that a flood of connects waits for the clients, not they for it */
#define BACK_OFF_NS 10000000LL
#define BEAT_MS 500

enum { WAKE = VLAD_CONTROL_SLOTS, LISTEN, N_POLLED }; /* behind the clients' slots */

static void drop(struct vlad_control_socket *control, struct vlad_control_client *client)
{
    atomic_store(&control->live[client - control->client], 0);
    vlad_control_client_close(client);
    atomic_fetch_sub_explicit(&control->clients, 1, memory_order_relaxed);
}

/* The last word to a client, as far as its socket takes it. */
static void drop_with(struct vlad_control_socket *control, struct vlad_control_client *client,
                      const char *code, const char *message, int64_t now_ns)
{
    char text[512];
    size_t size = vlad_control_error(text, NULL, 0, code, message);

    vlad_control_client_queue(client, text, size, now_ns);
    vlad_control_client_flush(client, now_ns);
    drop(control, client);
}

/* Reads once and serves every whole line. The client may be gone afterwards. */
static void serve(struct vlad_control_socket *control, struct vlad_control_client *client,
                  bool hung_up, int64_t pass_ns)
{
    const char *line;
    size_t size;
    ssize_t n = client->ended ? 0 : vlad_control_client_receive(client, pass_ns);

    if (n == -ENOBUFS) {
        vlad_control_count(control, VLAD_CC_OVERSIZE);
        drop_with(control, client, "usage", "a line has at most 65536 bytes", pass_ns);
        return;
    }
    if ((n < 0 && n != -EAGAIN && n != -EINTR) || (n == 0 && hung_up)) {
        if (n < 0)
            vlad_control_count(control, VLAD_CC_BROKEN);
        drop(control, client);
        return;
    }
    while (vlad_control_client_line(client, &line, &size, pass_ns))
        vlad_control_serve_line(control, client, line, size, pass_ns);
    if (client->overflowed) {
        vlad_control_count(control, VLAD_CC_SLOW_READERS);
        drop(control, client);
    } else if (client->malformed_run >= VLAD_CONTROL_MAX_MALFORMED) {
        drop_with(control, client, "usage", "too many malformed lines", pass_ns);
    } else if (vlad_control_client_flush(client, pass_ns) < 0) {
        vlad_control_count(control, VLAD_CC_BROKEN);
        drop(control, client);
    } else if ((vlad_control_in_reserve(control, client) && client->spoke) ||
               (client->ended && !client->waiting && !client->out_size)) {
        drop(control, client);
    }
}

static void deliver_replies(struct vlad_control_socket *control, int64_t now_ns)
{
    uint64_t token;
    ssize_t size;

    while ((size = vlad_record_ring_pop(&control->replies, &token, control->reply)) >= 0) {
        struct vlad_control_client *client = &control->client[token & 0xFF];
        if (client->fd < 0 || vlad_control_token(control, client) != token || !client->waiting) {
            vlad_control_count(control, VLAD_CC_ORPHAN_REPLIES);
            continue;
        }
        client->waiting--;
        vlad_control_count(control, VLAD_CC_REPLIES);
        vlad_control_client_queue(client, control->reply, (size_t)size, now_ns);
        vlad_control_client_queue(client, "\n", 1, now_ns);
        if (client->overflowed) {
            vlad_control_count(control, VLAD_CC_SLOW_READERS);
            drop(control, client);
        } else if (vlad_control_client_flush(client, now_ns) < 0) {
            vlad_control_count(control, VLAD_CC_BROKEN);
            drop(control, client);
        } else if (client->ended && !client->waiting && !client->out_size) {
            drop(control, client);
        }
    }
}

/* ---- connections ---- */

static struct vlad_control_client *free_slot(struct vlad_control_socket *control, int first,
                                             int end)
{
    for (int i = first; i < end; i++)
        if (control->client[i].fd < 0)
            return &control->client[i];
    return NULL;
}

/* The connection that has said nothing for longest makes room: a stop speaks at once. */
static struct vlad_control_client *evict(struct vlad_control_socket *control, int64_t now_ns)
{
    struct vlad_control_client *oldest = NULL;

    for (int i = VLAD_CONTROL_MAX_CLIENTS; i < VLAD_CONTROL_SLOTS; i++) {
        struct vlad_control_client *client = &control->client[i];
        if (client->fd >= 0 && (!oldest || client->generation < oldest->generation))
            oldest = client;
    }
    if (oldest) {
        vlad_control_count(control, VLAD_CC_EVICTED);
        drop_with(control, oldest, "unavailable", "too many clients: try again", now_ns);
    }
    return oldest;
}

static void keep_spare(struct vlad_control_socket *control)
{
    if (control->spare_fd < 0)
        control->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int accept_one(struct vlad_control_socket *control, bool *exhausted, int64_t now_ns)
{
    int fd;

    keep_spare(control);
    fd = accept4(control->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    *exhausted = fd < 0 && (errno == EMFILE || errno == ENFILE);
    if (!*exhausted)
        return fd < 0 ? -errno : fd;
    /* accept wants a descriptor before it looks whether anybody is there. */
    if (poll(&(struct pollfd){.fd = control->listener.fd, .events = POLLIN}, 1, 0) <= 0)
        return -EAGAIN;
    vlad_control_count(control, VLAD_CC_FD_EXHAUSTED);
    if (control->spare_fd >= 0) {
        close(control->spare_fd);
        control->spare_fd = -1;
    } else if (!evict(control, now_ns)) {
        return -EMFILE;
    }
    fd = accept4(control->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

static void refuse(struct vlad_control_socket *control, int fd)
{
    char text[512];
    size_t size = vlad_control_error(text, NULL, 0, "unavailable", "too many clients: try again");

    vlad_control_count(control, VLAD_CC_REFUSED_CLIENTS);
    send(fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static void take_in(struct vlad_control_socket *control, int fd, bool exhausted, int64_t now_ns)
{
    struct vlad_control_client *client = NULL;
    struct vlad_control_peer peer;

    vlad_control_count(control, VLAD_CC_CONNECTIONS);
    if (vlad_control_peer_read(&peer, fd, control->own_uid, control->gids, control->n_gids,
                               control->groups) < 0) {
        vlad_control_count(control, VLAD_CC_ACCEPT_FAILURES);
        close(fd);
        return;
    }
    if (!exhausted)
        client = free_slot(control, 0, control->max_clients);
    if (!client && !peer.operator) {
        refuse(control, fd);
        return;
    }
    if (!client)
        client = free_slot(control, VLAD_CONTROL_MAX_CLIENTS, VLAD_CONTROL_SLOTS);
    if (!client)
        client = evict(control, now_ns);
    vlad_control_client_open(client, fd, &peer, ++control->generation, now_ns);
    atomic_fetch_add_explicit(&control->clients, 1, memory_order_relaxed);
    atomic_store(&control->live[client - control->client], vlad_control_token(control, client));
    serve(control, client, false, now_ns);
}

static void accept_clients(struct vlad_control_socket *control, int64_t now_ns)
{
    for (int i = 0; i < ACCEPTS_PER_PASS; i++) {
        bool exhausted;
        int fd = accept_one(control, &exhausted, now_ns);

        if (fd == -EAGAIN)
            return;
        if (fd == -EINTR || fd == -ECONNABORTED)
            continue;
        if (fd < 0) {
            vlad_control_count(control, VLAD_CC_ACCEPT_FAILURES);
            control->accept_after_ns = now_ns + BACK_OFF_NS;
            return;
        }
        take_in(control, fd, exhausted, now_ns);
    }
}

/* ---- the thread ---- */

static void drop_overdue(struct vlad_control_socket *control, int64_t now_ns)
{
    for (int i = 0; i < VLAD_CONTROL_SLOTS; i++) {
        struct vlad_control_client *client = &control->client[i];

        if (client->fd < 0)
            continue;
        if (client->unsent_since_ns && now_ns - client->unsent_since_ns >= control->stalled_ns) {
            vlad_control_count(control, VLAD_CC_SLOW_READERS);
            drop(control, client);
        } else if (client->partial_since_ns && !client->ended &&
                   now_ns - client->partial_since_ns >= control->half_open_ns) {
            vlad_control_count(control, VLAD_CC_HALF_OPEN);
            drop_with(control, client, "usage", "no complete line in time", now_ns);
        }
    }
}

/* Milliseconds until the next deadline, at most BEAT_MS. */
static int patience_ms(struct vlad_control_socket *control, int64_t now_ns)
{
    int64_t until_ns = now_ns + BEAT_MS * 1000000LL;

    if (control->accept_after_ns > now_ns && control->accept_after_ns < until_ns)
        until_ns = control->accept_after_ns;
    for (int i = 0; i < VLAD_CONTROL_SLOTS; i++) {
        struct vlad_control_client *client = &control->client[i];

        if (client->fd < 0)
            continue;
        if (client->unsent_since_ns && client->unsent_since_ns + control->stalled_ns < until_ns)
            until_ns = client->unsent_since_ns + control->stalled_ns;
        if (client->partial_since_ns && !client->ended &&
            client->partial_since_ns + control->half_open_ns < until_ns)
            until_ns = client->partial_since_ns + control->half_open_ns;
    }
    return until_ns <= now_ns ? 0 : (int)((until_ns - now_ns + 999999) / 1000000);
}

static void wait_for_work(struct vlad_control_socket *control, struct pollfd *poll_set,
                          int64_t now_ns)
{
    bool listening = control->accept_after_ns <= now_ns;

    for (int i = 0; i < VLAD_CONTROL_SLOTS; i++) {
        struct vlad_control_client *client = &control->client[i];
        short events = 0;

        if (client->fd >= 0 && !client->ended)
            events |= POLLIN;
        if (client->fd >= 0 && client->out_size)
            events |= POLLOUT;
        poll_set[i] = (struct pollfd){.fd = client->fd, .events = events};
    }
    poll_set[WAKE] = (struct pollfd){.fd = control->wake_fd, .events = POLLIN};
    poll_set[LISTEN] = (struct pollfd){.fd = listening ? control->listener.fd : -1,
                                       .events = POLLIN};
    if (poll(poll_set, N_POLLED, patience_ms(control, now_ns)) < 0)
        for (int i = 0; i < N_POLLED; i++)
            poll_set[i].revents = 0;
}

void *vlad_control_thread(void *context)
{
    struct vlad_control_socket *control = context;
    struct pollfd poll_set[N_POLLED];
    int64_t pass_ns = vlad_clock_now_ns();

    while (!atomic_load(&control->stopping)) {
        eventfd_t wakes;

        atomic_store_explicit(&control->beat_ns, pass_ns, memory_order_relaxed);
        wait_for_work(control, poll_set, pass_ns);
        pass_ns = vlad_clock_now_ns();
        for (int i = 0; i < VLAD_CONTROL_SLOTS; i++)
            if (poll_set[i].revents)
                serve(control, &control->client[i], poll_set[i].revents & (POLLHUP | POLLERR),
                      pass_ns);
        if (poll_set[WAKE].revents) {
            eventfd_read(control->wake_fd, &wakes);
            deliver_replies(control, pass_ns);
        }
        if (poll_set[LISTEN].revents)
            accept_clients(control, pass_ns);
        drop_overdue(control, pass_ns);
        keep_spare(control);
        vlad_control_longest(control, VLAD_CC_LONGEST_PASS_NS, vlad_clock_now_ns() - pass_ns);
    }
    for (int i = 0; i < VLAD_CONTROL_SLOTS; i++)
        if (control->client[i].fd >= 0)
            drop(control, &control->client[i]);
    return NULL;
}
