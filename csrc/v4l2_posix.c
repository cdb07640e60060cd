/* The real system behind struct vlad_v4l2_ops. */
#include <errno.h>     /* -errno results */
#include <fcntl.h>     /* open */
#include <poll.h>      /* poll */
#include <sys/ioctl.h> /* ioctl */
#include <sys/mman.h>  /* mmap */
#include <unistd.h>    /* close */

#include "clock.h"
#include "v4l2_capture.h"

static int posix_open(void *port, const char *path)
{
    (void)port;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int posix_ioctl(void *port, int fd, unsigned long request, void *argument)
{
    (void)port;
    int result;

    do
        result = ioctl(fd, request, argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

static int posix_poll(void *port, int fd, int timeout_ms)
{
    (void)port;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n = poll(&p, 1, timeout_ms);
    return n < 0 ? -errno : n == 0 ? 0 : p.revents;
}

static int posix_mmap(void *port, int fd, size_t length, int64_t offset, void **memory)
{
    (void)port;
    void *at = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset);
    if (at == MAP_FAILED)
        return -errno;
    *memory = at;
    return 0;
}

static int posix_munmap(void *port, void *memory, size_t length)
{
    (void)port;
    return munmap(memory, length) < 0 ? -errno : 0;
}

static int posix_close(void *port, int fd)
{
    (void)port;
    return close(fd) < 0 ? -errno : 0;
}

static int64_t posix_now_ns(void *port)
{
    (void)port;
    return vlad_clock_now_ns();
}

const struct vlad_v4l2_ops vlad_v4l2_posix = {
    .open = posix_open,
    .ioctl = posix_ioctl,
    .poll = posix_poll,
    .mmap = posix_mmap,
    .munmap = posix_munmap,
    .close = posix_close,
    .now_ns = posix_now_ns,
};
