/* The real line behind struct vlad_serial_ops: a descriptor, termios and CLOCK_MONOTONIC. */
#define _GNU_SOURCE /* ppoll */
#include <asm/termbits.h> /* struct termios2: any speed, where termios.h knows a list */
#include <errno.h>        /* -errno results */
#include <fcntl.h>        /* O_NONBLOCK */
#include <poll.h>         /* ppoll */
#include <sys/ioctl.h>    /* TCGETS2, TCFLSH */
#include <unistd.h>       /* read, write */

#include "clock.h"
#include "serial_bus.h"

static ssize_t posix_read(void *port, void *buffer, size_t n)
{
    ssize_t got = read(*(int *)port, buffer, n);
    return got < 0 ? -errno : got;
}

static ssize_t posix_write(void *port, const void *buffer, size_t n)
{
    ssize_t put = write(*(int *)port, buffer, n);
    return put < 0 ? -errno : put;
}

static int posix_poll(void *port, short events, int64_t timeout_ns)
{
    struct pollfd p = {.fd = *(int *)port, .events = events};
    struct timespec t = {.tv_sec = (time_t)(timeout_ns / VLAD_NS_PER_S),
                         .tv_nsec = (long)(timeout_ns % VLAD_NS_PER_S)};
    int n = ppoll(&p, 1, &t, NULL);
    return n < 0 ? -errno : n == 0 ? 0 : p.revents;
}

static int posix_flush_input(void *port)
{
    return ioctl(*(int *)port, TCFLSH, TCIFLUSH) < 0 ? -errno : 0;
}

static int64_t posix_now_ns(void *port)
{
    (void)port;
    return vlad_clock_now_ns();
}

const struct vlad_serial_ops vlad_serial_posix = {
    .read = posix_read,
    .write = posix_write,
    .poll = posix_poll,
    .flush_input = posix_flush_input,
    .now_ns = posix_now_ns,
};

int vlad_serial_prepare(int fd, int baud)
{
    struct termios2 t;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    if (baud < 0)
        return -EINVAL;
    if (ioctl(fd, TCGETS2, &t) < 0)
        return errno == ENOTTY ? 0 : -errno;
    t.c_iflag = IGNBRK;
    t.c_oflag = 0;
    t.c_lflag = 0;
    t.c_cflag &= ~(tcflag_t)(CSIZE | PARENB | CSTOPB | CRTSCTS);
    t.c_cflag |= CS8 | CLOCAL | CREAD;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    if (baud != 0) {
        t.c_cflag &= ~(tcflag_t)(CBAUD | CBAUD << IBSHIFT);
        t.c_cflag |= BOTHER | BOTHER << IBSHIFT;
        t.c_ispeed = t.c_ospeed = (speed_t)baud;
    }
    return ioctl(fd, TCSETS2, &t) < 0 ? -errno : 0;
}

int vlad_serial_bus_open_fd(struct vlad_serial_bus *bus, int fd, int baud, bool echo)
{
    vlad_serial_bus_init(bus, &vlad_serial_posix, &bus->fd, echo);
    bus->fd = fd;
    return vlad_serial_prepare(fd, baud);
}
