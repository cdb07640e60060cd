/* control_client.h: one connection of the control socket: who it is, its lines in, its replies out.
 * Used by the control thread only; what a request means is control_socket.c's business.
 */
#ifndef VLAD_CONTROL_CLIENT_H
#define VLAD_CONTROL_CLIENT_H

#include <limits.h>    /* NGROUPS_MAX */
#include <stdbool.h>
#include <stddef.h>    /* size_t */
#include <stdint.h>
#include <sys/types.h> /* uid_t, ssize_t */

#define VLAD_CONTROL_MAX_LINE 65536    /* bytes of a request, newline included */
#define VLAD_CONTROL_MAX_UNSENT 262144 /* bytes of replies that a client has not read yet */

/* Who is at the other end, as it was at connect. */
struct vlad_control_peer {
    uid_t uid;
    gid_t gid;
    pid_t pid;
    bool operator; /* may ask for more than it can see: root, own_uid, or a member of `gids` */
};

struct vlad_control_client {
    int fd; /* -1: free */
    uint32_t generation;    /* never used twice, so an old token reaches nobody */
    struct vlad_control_peer peer;
    bool spoke;             /* has sent a whole line */
    bool ended;             /* has closed its sending side */
    bool overflowed;        /* left more replies unread than fit */
    unsigned waiting;       /* requests forwarded and not answered */
    unsigned malformed_run; /* since a well-formed line that was no stop */
    int64_t partial_since_ns; /* connect, or first byte of the unfinished line; 0 = none */
    int64_t unsent_since_ns;  /* last progress of a reply under way; 0 = none */
    size_t in_first, in_size; /* unread bytes of in[] */
    size_t searched;          /* of those, known to hold no newline */
    size_t out_first, out_size;
    char in[VLAD_CONTROL_MAX_LINE];
    char out[VLAD_CONTROL_MAX_UNSENT];
};

/* Asks the kernel (SO_PEERCRED, SO_PEERGROUPS) and not the user database, which may wait for a
 * network. 0 or -errno. */
int vlad_control_peer_read(struct vlad_control_peer *peer, int fd, uid_t own_uid,
                           const gid_t *gids, size_t n_gids, gid_t scratch[NGROUPS_MAX]);

/* Takes over a connected, non-blocking fd. */
void vlad_control_client_open(struct vlad_control_client *client, int fd,
                              const struct vlad_control_peer *peer, uint32_t generation,
                              int64_t now_ns);

void vlad_control_client_close(struct vlad_control_client *client);

/* Bytes received, 0 at the end (then `ended`), or -errno. -ENOBUFS: the line is too long. */
ssize_t vlad_control_client_receive(struct vlad_control_client *client, int64_t now_ns);

/* Next whole line, without its newline, valid until the next receive. */
bool vlad_control_client_line(struct vlad_control_client *client, const char **line, size_t *size,
                              int64_t now_ns);

/* Queues bytes to be sent, or sets `overflowed` and queues nothing. */
void vlad_control_client_queue(struct vlad_control_client *client, const void *bytes, size_t size,
                               int64_t now_ns);

/* Sends what the kernel takes now. 0 or -errno (the connection is gone). */
int vlad_control_client_flush(struct vlad_control_client *client, int64_t now_ns);

#endif
