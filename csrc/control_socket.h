/* control_socket.h: the Unix socket that operators use, served by a native thread.
 *
 * `hold`, `stop` and `limp` are acted on by that thread itself, so they reach the servo loop's next
 * tick whatever Python is doing. Every other well-formed request waits in a ring for Python, whose
 * reply waits in another one for the thread: no lock is shared, so neither side can delay a stop.
 * One JSON object per line each way; docs/protocol.md has the words.
 */
#ifndef VLAD_CONTROL_SOCKET_H
#define VLAD_CONTROL_SOCKET_H

#include <stdbool.h>
#include <stddef.h>    /* size_t */
#include <stdint.h>
#include <sys/types.h> /* uid_t, mode_t, ssize_t */

#include "control_client.h" /* VLAD_CONTROL_MAX_LINE */

#define VLAD_CONTROL_MAX_CLIENTS 16
#define VLAD_CONTROL_RESERVE 4  /* operators beyond those, who get hold, stop and limp only */
#define VLAD_CONTROL_MAX_WAITING 4 /* requests of one client forwarded and not answered */
#define VLAD_CONTROL_MAX_MALFORMED 16 /* in a row: then the client is dropped */
#define VLAD_CONTROL_MAX_REPLY (VLAD_CONTROL_MAX_UNSENT - 1024)
#define VLAD_CONTROL_MAX_GIDS 16

/* The bits of servo_loop.h's enum vlad_request. */
enum vlad_lower {
    VLAD_LOWER_LIMP = 1 << 0,
    VLAD_LOWER_HOLD = 1 << 1
};

/* Called on the control thread; must not wait. vlad_servo_request() is one. */
typedef void (*vlad_lower_fn)(void *context, uint32_t lower);

struct vlad_control_config {
    const char *path;
    mode_t mode;
    const gid_t *operator_gids; /* copied */
    size_t n_operator_gids;
    int max_clients; /* 1..VLAD_CONTROL_MAX_CLIENTS, the reserve not counted */
    vlad_lower_fn lower;
    void *lower_context;
    int64_t half_open_ns; /* an unfinished line, or none at all, is given this long */
    int64_t stalled_ns;   /* a reply that makes no progress is given this long */
};

enum vlad_control_counter {
    VLAD_CC_CONNECTIONS,
    VLAD_CC_REFUSED_CLIENTS,   /* no slot free */
    VLAD_CC_EVICTED,           /* from the reserve, by a newer connection */
    VLAD_CC_FD_EXHAUSTED,      /* accept met EMFILE or ENFILE */
    VLAD_CC_ACCEPT_FAILURES,   /* any other reason: backs off for 10 ms */
    VLAD_CC_LINES,
    VLAD_CC_MALFORMED,
    VLAD_CC_OVERSIZE,          /* a line over 64 KiB: dropped */
    VLAD_CC_HALF_OPEN,         /* dropped */
    VLAD_CC_SLOW_READERS,      /* dropped */
    VLAD_CC_BROKEN,            /* connections that failed under a read or write */
    VLAD_CC_NOT_PERMITTED,     /* hold, stop or limp of a peer that is no operator */
    VLAD_CC_HOLDS,
    VLAD_CC_LIMPS,
    VLAD_CC_FORWARDED,
    VLAD_CC_BUSY,              /* not forwarded: too many waiting */
    VLAD_CC_ABANDONED,         /* forwarded, and its client gone before it was taken up */
    VLAD_CC_REPLIES,
    VLAD_CC_ORPHAN_REPLIES,    /* the client was gone */
    VLAD_CC_UNTOLD,            /* holds and limps that were obeyed and had no room in the record of them */
    VLAD_CC_LONGEST_PASS_NS,   /* one round of all clients: a stop waits no longer than two */
    VLAD_CC_LONGEST_LOWER_NS,  /* from poll() returning to the callback having been called */
    VLAD_CC_N
};

extern const char *const vlad_control_counter_name[VLAD_CC_N];

/* A request as forwarded to Python. */
struct vlad_control_request {
    uint64_t token; /* for the reply */
    uint64_t lower_epoch; /* when it arrived: a later hold or limp has a greater one */
    int64_t t_ns;   /* arrival */
    uid_t uid;
    gid_t gid;
    pid_t pid;
    bool operator;
};

/* A hold or limp that was obeyed. */
struct vlad_control_lowered {
    int64_t t_ns; /* of the newest: 0: none yet */
    uint32_t lower;
    uid_t uid;
    pid_t pid;
};

struct vlad_control_socket;

/* 0; or as vlad_control_listener_open; -EINVAL for a config that cannot be; -ENOMEM, -EAGAIN. */
int vlad_control_socket_start(struct vlad_control_socket **control,
                              const struct vlad_control_config *config);

/* Ends the thread, closes every connection and removes the path. Nobody may be inside, or later
 * call, another function of this socket once vlad_control_socket_free is called. */
void vlad_control_socket_stop(struct vlad_control_socket *control);
void vlad_control_socket_free(struct vlad_control_socket *control);

/* Waits for a forwarded request: its size, with the line (without newline) in `line`; -EAGAIN
 * after timeout_ms or a signal; -ESHUTDOWN when stopped. One thread at a time. */
ssize_t vlad_control_socket_next(struct vlad_control_socket *control, int timeout_ms,
                                 struct vlad_control_request *request,
                                 char line[VLAD_CONTROL_MAX_LINE]);

/* Answers with one line (without newline). Any thread. 0, also when that client is gone; -EMSGSIZE;
 * -EINVAL for a newline inside or a token never given out; -ETIMEDOUT: the control thread took
 * nothing for a second. */
int vlad_control_socket_reply(struct vlad_control_socket *control, uint64_t token,
                              const char *line, size_t size);

/* Any thread. */
uint64_t vlad_control_socket_counter(struct vlad_control_socket *control,
                                     enum vlad_control_counter counter);
unsigned vlad_control_socket_clients(struct vlad_control_socket *control);
uint64_t vlad_control_socket_lower_epoch(struct vlad_control_socket *control);
void vlad_control_socket_lowered(struct vlad_control_socket *control,
                                 struct vlad_control_lowered *newest);
/* Each of them once, the oldest first; false when there is none. One thread at a time. */
bool vlad_control_socket_next_lowered(struct vlad_control_socket *control,
                                      struct vlad_control_lowered *lowered);
int64_t vlad_control_socket_beat_ns(struct vlad_control_socket *control); /* at least twice a s */

#endif
