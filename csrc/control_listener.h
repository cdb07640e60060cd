/* control_listener.h: the listening Unix socket: made only where nobody else can replace it. */
#ifndef VLAD_CONTROL_LISTENER_H
#define VLAD_CONTROL_LISTENER_H

#include <sys/stat.h> /* dev_t, ino_t, mode_t */

struct vlad_control_listener {
    int fd;
    dev_t device; /* the socket that was bound, so that only it is removed again */
    ino_t inode;
};

/* Binds and listens on `path` (non-blocking, close-on-exec) with the permission bits `mode`. A
 * socket left behind there is replaced only when nobody answers on it.
 * -ENAMETOOLONG; -ENOENT or -ENOTDIR for the directory; -EPERM: the directory belongs to another
 * user, or others may write to it and it is not sticky; -EEXIST: something there is not a socket;
 * -EADDRINUSE: a daemon answers there, or is starting; or -errno of a system call. */
int vlad_control_listener_open(struct vlad_control_listener *listener, const char *path,
                               mode_t mode);

/* Closes it and removes its path, unless the path is by now another's. */
void vlad_control_listener_close(struct vlad_control_listener *listener, const char *path);

#endif
