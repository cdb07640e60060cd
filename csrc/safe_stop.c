/* vlad-safe-stop {hold|park|limp}: leaves the arm in a managed state when the daemon is gone.
 *
 * Runs from ExecStopPost, after crashes and SIGKILL too: needs no Python, no configuration, no
 * daemon. Exit: 0 done, 1 a servo or the line failed, 2 usage, 3 the port could not be had.
 */
#define _GNU_SOURCE /* getopt_long, O_CLOEXEC */
#include <errno.h>     /* why the port cannot be had */
#include <fcntl.h>     /* open */
#include <getopt.h>    /* the command line */
#include <poll.h>      /* a pause between attempts */
#include <stdio.h>     /* messages */
#include <stdlib.h>    /* strtol */
#include <string.h>    /* strcmp, strerror */
#include <sys/file.h>  /* flock */
#include <unistd.h>    /* close */

#include "bus_stop.h"
#include "clock.h"

#define LOCK_WAIT_NS (500 * VLAD_NS_PER_MS) /* a dying daemon keeps the port so long at most */
#define STOP_NS (400 * VLAD_NS_PER_MS)      /* hold ends within 1 s, whatever the bus does */

enum { DONE = 0, FAILED = 1, USAGE = 2, NO_PORT = 3 };

struct request {
    char port[256];
    int baud;
    struct vlad_stop stop;
};

static const char usage[] =
    "usage: vlad-safe-stop {hold|park|limp} --port PATH --ids ID,ID,.. [--baud N]\n"
    "                      [--following-limit-ticks N] [--gripper ID] [--state FILE]\n"
    "hold: every servo with torque keeps its goal, or its position if it is far from the goal.\n"
    "park: torque fades out in 2 s, then is off.  limp: torque off at once; the arm falls.\n"
    "FILE holds options, one `name=value` a line, as a running daemon leaves them.\n";

static int complain(const char *what, const char *value)
{
    fprintf(stderr, "vlad-safe-stop: %s: %s\n%s", what, value, usage);
    return USAGE;
}

static bool parse_int(const char *text, long low, long high, int *value)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || n < low || n > high)
        return false;
    *value = (int)n;
    return true;
}

static bool parse_ids(const char *text, struct vlad_stop *stop)
{
    char copy[256];
    if (strlen(text) >= sizeof copy)
        return false;
    strcpy(copy, text);
    stop->n_ids = 0;
    char *rest = copy, *word;
    while ((word = strsep(&rest, ",")) != NULL) {
        int id;
        if (stop->n_ids == VLAD_STOP_MAX_IDS || !parse_int(word, 0, VLAD_FEETECH_MAX_ID, &id))
            return false;
        for (int i = 0; i < stop->n_ids; i++)
            if (stop->ids[i] == id)
                return false;
        stop->ids[stop->n_ids++] = (uint8_t)id;
    }
    return true;
}

/* One option, from the command line or the state file. */
static bool take(struct request *request, const char *name, const char *value)
{
    struct vlad_stop *stop = &request->stop;
    if (strcmp(name, "port") == 0) {
        if (*value == '\0' || strlen(value) >= sizeof request->port)
            return false;
        strcpy(request->port, value);
        return true;
    }
    if (strcmp(name, "ids") == 0)
        return parse_ids(value, stop);
    if (strcmp(name, "baud") == 0)
        return parse_int(value, 1, 10000000, &request->baud);
    if (strcmp(name, "following-limit-ticks") == 0)
        return parse_int(value, 0, 32767, &stop->following_limit_ticks);
    if (strcmp(name, "gripper") == 0)
        return parse_int(value, 0, VLAD_FEETECH_MAX_ID, &stop->gripper_id);
    return false;
}

/* DONE, or the exit status. A daemon that never had a bus leaves no file: nothing to stop. */
static int read_state(const char *path, struct request *request, bool *absent)
{
    char line[512];
    FILE *file = fopen(path, "re");
    *absent = file == NULL && errno == ENOENT;
    if (file == NULL)
        return *absent ? DONE : complain(path, strerror(errno));
    int rc = DONE;
    while (rc == DONE && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *value = strchr(line, '=');
        if (value == NULL) {
            rc = complain(path, line);
            break;
        }
        *value++ = '\0';
        if (!take(request, line, value))
            rc = complain(path, line);
    }
    fclose(file);
    return rc;
}

/* The locked port, or -errno. Nothing about the line is changed before the lock is ours. */
static int lock_port(const char *path)
{
    int64_t give_up_ns = vlad_clock_now_ns() + LOCK_WAIT_NS;
    for (;;) {
        int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        int error = errno;
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            return fd;
        if (fd >= 0) {
            error = errno;
            close(fd);
        }
        if ((error != EBUSY && error != EWOULDBLOCK && error != EINTR) ||
            vlad_clock_now_ns() >= give_up_ns)
            return -error;
        poll(NULL, 0, 10);
    }
}

static void name_ids(const char *what, const struct vlad_stop *stop, uint32_t mask)
{
    if (mask == 0)
        return;
    fprintf(stderr, " %s", what);
    for (int i = 0; i < stop->n_ids; i++)
        if (mask >> i & 1)
            fprintf(stderr, " %d", stop->ids[i]);
    fputc(';', stderr);
}

static int stop_arm(const char *verb, struct request *request)
{
    static struct vlad_serial_bus bus;
    struct vlad_stop *stop = &request->stop;
    int fd = lock_port(request->port);
    if (fd < 0) {
        bool used = fd == -EBUSY || fd == -EWOULDBLOCK;
        fprintf(stderr, "vlad-safe-stop: %s: %s\n", request->port,
                used ? "in use by another process: left to it" : strerror(-fd));
        return NO_PORT;
    }
    int rc = vlad_serial_bus_open_fd(&bus, fd, request->baud, false);
    int64_t deadline_ns = vlad_clock_now_ns() + STOP_NS;
    if (rc == 0)
        rc = (*verb == 'h' ? vlad_stop_hold : *verb == 'p' ? vlad_stop_park : vlad_stop_limp)(
            &bus, stop, deadline_ns);
    fprintf(stderr, "vlad-safe-stop: %s:", verb);
    name_ids("no torque, nothing written:", stop, stop->limp);
    name_ids("goal kept:", stop, stop->kept);
    name_ids("goal set to the present position:", stop, stop->pinned);
    name_ids("torque off:", stop, stop->off);
    name_ids("FAILED (silent, or does not take what is written):", stop, stop->failed);
    fprintf(stderr, "%s%s\n", rc < 0 ? " the line failed: " : "", rc < 0 ? strerror(-rc) : "");
    close(fd);
    return rc < 0 || stop->failed ? FAILED : DONE;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 0},    {"ids", required_argument, NULL, 0},
        {"baud", required_argument, NULL, 0},    {"following-limit-ticks", required_argument, NULL, 0},
        {"gripper", required_argument, NULL, 0}, {"state", required_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0},
    };
    struct request request = {
        .baud = 1000000,
        .stop = {.following_limit_ticks = VLAD_STOP_FOLLOWING_LIMIT_TICKS, .gripper_id = -1},
    };
    bool absent = false;
    for (int c, at; (c = getopt_long(argc, argv, "", options, &at)) != -1;) {
        if (c == 'h') {
            fputs(usage, stdout);
            return DONE;
        }
        if (c == '?')
            return USAGE;
        int rc = c == 's' ? read_state(optarg, &request, &absent) : DONE;
        if (rc != DONE)
            return rc;
        if (c == 0 && !take(&request, options[at].name, optarg))
            return complain(options[at].name, optarg);
    }
    const char *verb = optind == argc - 1 ? argv[optind] : "";
    if (strcmp(verb, "hold") != 0 && strcmp(verb, "park") != 0 && strcmp(verb, "limp") != 0)
        return complain("verb", *verb ? verb : "give one of hold, park, limp");
    if (absent && (*request.port == '\0' || request.stop.n_ids == 0)) {
        fputs("vlad-safe-stop: no state file: no daemon had the bus, nothing to stop\n", stderr);
        return DONE;
    }
    if (*request.port == '\0')
        return complain("--port", "is missing");
    if (request.stop.n_ids == 0)
        return complain("--ids", "is missing");
    return stop_arm(verb, &request);
}
