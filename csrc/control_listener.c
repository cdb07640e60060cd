#define _GNU_SOURCE /* SOCK_CLOEXEC, O_DIRECTORY */
#include "control_listener.h"

#include <errno.h>
#include <fcntl.h>      /* open of the directory */
#include <stdio.h>      /* snprintf */
#include <string.h>     /* strrchr */
#include <sys/file.h>   /* flock */
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>       /* nanosleep */
#include <unistd.h>     /* close, unlink, geteuid */

#define BACKLOG 128
#define LOCK_TRIES 100 /* of 10 ms */

/* Locked, so that of two daemons that start together one sees the other's socket. */
static int open_directory(const char *path)
{
    char name[sizeof(((struct sockaddr_un *)0)->sun_path)];
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    struct stat status;
    char *slash;
    int fd;

    snprintf(name, sizeof name, "%s", path);
    slash = strrchr(name, '/');
    if (!slash)
        snprintf(name, sizeof name, ".");
    else
        slash[slash == name] = '\0';
    fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &status) < 0) {
        close(fd);
        return -EIO;
    }
    if ((status.st_uid != 0 && status.st_uid != geteuid()) ||
        ((status.st_mode & (S_IWGRP | S_IWOTH)) && !(status.st_mode & S_ISVTX))) {
        close(fd);
        return -EPERM;
    }
    for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || i == LOCK_TRIES) {
            close(fd);
            return -EADDRINUSE;
        }
        nanosleep(&pause, NULL);
    }
    return fd;
}

static int remove_stale(const struct sockaddr_un *address)
{
    struct stat status;
    int fd, answer = 0;

    if (lstat(address->sun_path, &status) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(status.st_mode))
        return -EEXIST;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        answer = errno;
    close(fd);
    if (answer != ECONNREFUSED)
        return -EADDRINUSE; /* whoever is there, answering or too busy, it is not ours to remove */
    return unlink(address->sun_path) < 0 ? -errno : 0;
}

static int bind_and_listen(struct vlad_control_listener *listener,
                           const struct sockaddr_un *address, mode_t mode)
{
    struct stat status;
    int error = remove_stale(address);

    if (error)
        return error;
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener->fd < 0)
        return -errno;
    if (bind(listener->fd, (const struct sockaddr *)address, sizeof *address) < 0) {
        error = -errno;
        close(listener->fd);
        return error;
    }
    /* Until listen() every connect is refused: the permissions come before the first client. */
    if (chmod(address->sun_path, mode) < 0 || lstat(address->sun_path, &status) < 0 ||
        listen(listener->fd, BACKLOG) < 0) {
        error = -errno;
        unlink(address->sun_path);
        close(listener->fd);
        return error;
    }
    listener->device = status.st_dev;
    listener->inode = status.st_ino;
    return 0;
}

int vlad_control_listener_open(struct vlad_control_listener *listener, const char *path,
                               mode_t mode)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(path);
    int directory, error;

    if (size == 0 || size >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, size + 1);
    directory = open_directory(path);
    if (directory < 0)
        return directory;
    error = bind_and_listen(listener, &address, mode);
    close(directory);
    if (error)
        listener->fd = -1;
    return error;
}

void vlad_control_listener_close(struct vlad_control_listener *listener, const char *path)
{
    struct stat status;

    if (listener->fd < 0)
        return;
    close(listener->fd);
    listener->fd = -1;
    if (lstat(path, &status) == 0 && status.st_dev == listener->device &&
        status.st_ino == listener->inode)
        unlink(path);
}
