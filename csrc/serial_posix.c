/* The real line behind struct vlad_serial_ops: a descriptor, termios and CLOCK_MONOTONIC. */
#define _GNU_SOURCE /* ppoll, cfmakeraw */
#include <errno.h>   /* -errno results */
#include <fcntl.h>   /* O_NONBLOCK */
#include <poll.h>    /* ppoll */
#include <termios.h> /* raw mode, speed, tcflush */
#include <time.h>    /* clock_gettime */
#include <unistd.h>  /* read, write */

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
    return tcflush(*(int *)port, TCIFLUSH) < 0 ? -errno : 0;
}

static int64_t posix_now_ns(void *port)
{
    (void)port;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * VLAD_NS_PER_S + t.tv_nsec;
}

const struct vlad_serial_ops vlad_serial_posix = {
    .read = posix_read,
    .write = posix_write,
    .poll = posix_poll,
    .flush_input = posix_flush_input,
    .now_ns = posix_now_ns,
};

static int speed_of(int baud, speed_t *speed)
{
    static const struct { int baud; speed_t speed; } speeds[] = {
        {38400, B38400},     {57600, B57600},   {115200, B115200},
        {500000, B500000}, {1000000, B1000000},
    };
    for (size_t i = 0; i < sizeof speeds / sizeof *speeds; i++)
        if (speeds[i].baud == baud) {
            *speed = speeds[i].speed;
            return 0;
        }
    return -EINVAL;
}

int vlad_serial_prepare(int fd, int baud)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    struct termios t;
    if (tcgetattr(fd, &t) < 0)
        return errno == ENOTTY ? 0 : -errno;
    cfmakeraw(&t);
    t.c_cflag |= CLOCAL | CREAD;
    t.c_cflag &= ~(tcflag_t)(CSTOPB | CRTSCTS);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    speed_t speed;
    if (baud != 0) {
        if (speed_of(baud, &speed) < 0)
            return -EINVAL;
        cfsetispeed(&t, speed);
        cfsetospeed(&t, speed);
    }
    return tcsetattr(fd, TCSANOW, &t) < 0 ? -errno : 0;
}

int vlad_serial_bus_open_fd(struct vlad_serial_bus *bus, int fd, int baud, bool echo)
{
    vlad_serial_bus_init(bus, &vlad_serial_posix, &bus->fd, echo);
    bus->fd = fd;
    return vlad_serial_prepare(fd, baud);
}
