#define _GNU_SOURCE /* struct ucred */
#include "control_client.h"

#include <errno.h>
#include <string.h>     /* memchr, memmove */
#include <sys/socket.h> /* SO_PEERCRED, send, recv */
#include <unistd.h>     /* close */

static bool in_groups(gid_t gid, const gid_t *gids, size_t n_gids)
{
    for (size_t i = 0; i < n_gids; i++)
        if (gids[i] == gid)
            return true;
    return false;
}

int vlad_control_peer_read(struct vlad_control_peer *peer, int fd, uid_t own_uid,
                           const gid_t *gids, size_t n_gids, gid_t scratch[NGROUPS_MAX])
{
    struct ucred cred;
    socklen_t size = sizeof cred;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
        return -errno;
    *peer = (struct vlad_control_peer){.uid = cred.uid, .gid = cred.gid, .pid = cred.pid};
    peer->operator = cred.uid == 0 || cred.uid == own_uid || in_groups(cred.gid, gids, n_gids);
    if (peer->operator || n_gids == 0)
        return 0;
    size = NGROUPS_MAX * sizeof scratch[0];
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, scratch, &size) < 0)
        return -errno;
    for (size_t i = 0; i < size / sizeof scratch[0] && !peer->operator; i++)
        peer->operator = in_groups(scratch[i], gids, n_gids);
    return 0;
}

void vlad_control_client_open(struct vlad_control_client *client, int fd,
                              const struct vlad_control_peer *peer, uint32_t generation,
                              int64_t now_ns)
{
    client->fd = fd;
    client->generation = generation;
    client->peer = *peer;
    client->spoke = client->ended = client->overflowed = false;
    client->waiting = client->malformed_run = 0;
    client->partial_since_ns = now_ns;
    client->unsent_since_ns = 0;
    client->in_first = client->in_size = client->searched = 0;
    client->out_first = client->out_size = 0;
}

void vlad_control_client_close(struct vlad_control_client *client)
{
    close(client->fd);
    client->fd = -1;
}

ssize_t vlad_control_client_receive(struct vlad_control_client *client, int64_t now_ns)
{
    ssize_t n;

    if (client->in_first) {
        memmove(client->in, client->in + client->in_first, client->in_size);
        client->in_first = 0;
    }
    if (client->in_size == sizeof client->in)
        return -ENOBUFS;
    n = recv(client->fd, client->in + client->in_size, sizeof client->in - client->in_size, 0);
    if (n < 0)
        return -errno;
    if (n == 0)
        client->ended = true;
    else if (!client->partial_since_ns)
        client->partial_since_ns = now_ns;
    client->in_size += (size_t)n;
    return n;
}

bool vlad_control_client_line(struct vlad_control_client *client, const char **line, size_t *size,
                              int64_t now_ns)
{
    const char *first = client->in + client->in_first;
    const char *newline = memchr(first + client->searched, '\n',
                                 client->in_size - client->searched);

    if (!newline) {
        client->searched = client->in_size;
        return false;
    }
    *line = first;
    *size = (size_t)(newline - first);
    client->in_first += *size + 1;
    client->in_size -= *size + 1;
    client->searched = 0;
    client->spoke = true;
    client->partial_since_ns = client->in_size ? now_ns : 0;
    return true;
}

void vlad_control_client_queue(struct vlad_control_client *client, const void *bytes, size_t size,
                               int64_t now_ns)
{
    if (client->overflowed)
        return;
    if (size > sizeof client->out - client->out_size) {
        client->overflowed = true;
        return;
    }
    if (size > sizeof client->out - client->out_first - client->out_size) {
        memmove(client->out, client->out + client->out_first, client->out_size);
        client->out_first = 0;
    }
    if (!client->out_size)
        client->unsent_since_ns = now_ns;
    memcpy(client->out + client->out_first + client->out_size, bytes, size);
    client->out_size += size;
}

int vlad_control_client_flush(struct vlad_control_client *client, int64_t now_ns)
{
    while (client->out_size) {
        ssize_t n = send(client->fd, client->out + client->out_first, client->out_size,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
        client->out_first += (size_t)n;
        client->out_size -= (size_t)n;
        client->unsent_since_ns = now_ns;
    }
    client->out_first = 0;
    client->unsent_since_ns = 0;
    return 0;
}
