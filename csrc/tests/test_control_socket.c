/* The control socket over a real Unix socket: who may stop the arm, and that nothing keeps it. */
#define _GNU_SOURCE /* setgroups, F_SETPIPE_SZ */
#include "check.h"
#include "clock.h"
#include "control_socket.h"
#include "servo_loop.h" /* the request bits that the callback passes on */

#include <errno.h>
#include <fcntl.h>        /* open of what is in the way */
#include <grp.h>          /* setgroups: becoming another user */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>    /* what the callback saw */
#include <string.h>
#include <sys/file.h>     /* flock */
#include <sys/resource.h> /* RLIMIT_NOFILE */
#include <sys/socket.h>
#include <sys/stat.h>     /* mode of the socket */
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

_Static_assert((int)VLAD_LOWER_HOLD == VLAD_REQ_HOLD && (int)VLAD_LOWER_LIMP == VLAD_REQ_LIMP,
               "the callback's bits are the servo loop's");

#define HOLD "{\"v\":1,\"id\":\"h\",\"verb\":\"hold\"}\n"
#define STATUS "{\"v\":1,\"id\":2,\"verb\":\"status\"}\n"
#define OTHER_UID 54321
#define OPERATOR_GID 54399

static _Atomic int holds, limps, strange;
static char directory[64], path[96];

static void lowered(void *context, uint32_t lower)
{
    if (context != directory || (lower != VLAD_LOWER_HOLD && lower != VLAD_LOWER_LIMP))
        atomic_store(&strange, 1);
    atomic_fetch_add(lower == VLAD_LOWER_HOLD ? &holds : &limps, 1);
}

static struct vlad_control_config config_for_test(void)
{
    static const gid_t operators[] = {OPERATOR_GID};

    return (struct vlad_control_config){
        .path = path, .mode = 0666, .operator_gids = operators, .n_operator_gids = 1,
        .max_clients = VLAD_CONTROL_MAX_CLIENTS,
        .lower = lowered, .lower_context = directory,
        .half_open_ns = 1000 * VLAD_NS_PER_MS, .stalled_ns = 500 * VLAD_NS_PER_MS,
    };
}

static struct vlad_control_socket *start(void)
{
    struct vlad_control_config config = config_for_test();
    struct vlad_control_socket *control;

    atomic_store(&holds, 0);
    atomic_store(&limps, 0);
    CHECK_EQ(vlad_control_socket_start(&control, &config), 0);
    return control;
}

static int try_dial(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    strcpy(address.sun_path, path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -errno;
    }
    return fd;
}

static int dial(void)
{
    int fd = try_dial();

    CHECK(fd >= 0);
    return fd;
}

static void say(int fd, const char *text)
{
    CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* One line, or "" at the end of the connection. Fails after 5 s. */
static const char *hear(int fd)
{
    static char line[VLAD_CONTROL_MAX_UNSENT];
    size_t size = 0;

    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        char *newline;
        ssize_t n;

        CHECK(poll(&ready, 1, 5000) == 1);
        n = recv(fd, line + size, sizeof line - size, MSG_PEEK);
        newline = n > 0 ? memchr(line + size, '\n', (size_t)n) : NULL;
        if (n > 0)
            n = recv(fd, line + size, newline ? (size_t)(newline + 1 - line) - size : (size_t)n, 0);
        if (n <= 0 || newline) {
            line[newline ? (size_t)(newline - line) : 0] = '\0';
            return line;
        }
        size += (size_t)n;
        CHECK(size < sizeof line);
    }
}

static uint64_t counted(struct vlad_control_socket *control, enum vlad_control_counter counter)
{
    return vlad_control_socket_counter(control, counter);
}

static void wait_for(struct vlad_control_socket *control, enum vlad_control_counter counter,
                     uint64_t at_least)
{
    int64_t until_ns = vlad_clock_now_ns() + 5 * VLAD_NS_PER_S;

    while (counted(control, counter) < at_least) {
        CHECK(vlad_clock_now_ns() < until_ns);
        usleep(1000);
    }
}

static void wait_for_clients(struct vlad_control_socket *control, unsigned wanted)
{
    int64_t until_ns = vlad_clock_now_ns() + 5 * VLAD_NS_PER_S;

    while (vlad_control_socket_clients(control) != wanted) {
        CHECK(vlad_clock_now_ns() < until_ns);
        usleep(1000);
    }
}

static void stops_without_python(void)
{
    struct vlad_control_socket *control = start();
    struct vlad_control_lowered newest, each;
    int64_t before_ns = 0;
    int fd = dial();

    say(fd, HOLD);
    CHECK(strstr(hear(fd), "{\"v\":1,\"id\":\"h\",\"ok\":true,\"result\":{\"requested\":\"hold\""));
    CHECK_EQ(atomic_load(&holds), 1);
    say(fd, "{\"v\":1,\"id\":1,\"verb\":\"stop\",\"args\":{}}\n"
            "{\"v\":1,\"id\":2,\"verb\":\"limp\"}\n");
    CHECK(strstr(hear(fd), "\"id\":1,\"ok\":true"));
    CHECK(strstr(hear(fd), "\"requested\":\"limp\""));
    CHECK_EQ(atomic_load(&holds), 2);
    CHECK_EQ(atomic_load(&limps), 1);
    CHECK_EQ(vlad_control_socket_lower_epoch(control), 3);
    vlad_control_socket_lowered(control, &newest);
    CHECK_EQ(newest.lower, VLAD_LOWER_LIMP);
    CHECK_EQ(newest.uid, getuid());
    CHECK_EQ(newest.pid, getpid());
    CHECK(newest.t_ns <= vlad_clock_now_ns() && newest.t_ns > 0);
    for (int i = 0; i < 3; i++) { /* each is told of, with its own time */
        CHECK(vlad_control_socket_next_lowered(control, &each));
        CHECK_EQ(each.lower, i < 2 ? VLAD_LOWER_HOLD : VLAD_LOWER_LIMP);
        CHECK(each.t_ns > before_ns && each.pid == getpid());
        before_ns = each.t_ns;
    }
    CHECK_EQ(each.t_ns, newest.t_ns);
    CHECK(!vlad_control_socket_next_lowered(control, &each));
    for (int i = 0; i < 65; i++) { /* one more than there is room for: obeyed, and counted */
        say(fd, HOLD);
        CHECK(strstr(hear(fd), "\"ok\":true"));
    }
    CHECK_EQ(atomic_load(&holds), 67);
    CHECK_EQ(vlad_control_socket_counter(control, VLAD_CC_UNTOLD), 1);
    for (int i = 0; i < 64; i++)
        CHECK(vlad_control_socket_next_lowered(control, &each));
    CHECK(!vlad_control_socket_next_lowered(control, &each));
    atomic_store(&holds, 2);
    /* Said and gone, it still counts; unfinished, it does not. */
    close(fd);
    fd = dial();
    say(fd, HOLD);
    close(fd);
    wait_for(control, VLAD_CC_HOLDS, 68);
    fd = dial();
    say(fd, "{\"v\":1,\"id\":\"h\",\"verb\":\"hold\"}");
    close(fd);
    wait_for_clients(control, 0);
    CHECK_EQ(counted(control, VLAD_CC_HOLDS), 68);
    vlad_control_socket_free(control);
}

static void forwards(void)
{
    struct vlad_control_socket *control = start();
    static char line[VLAD_CONTROL_MAX_LINE];
    struct vlad_control_request request, first;
    int fd = dial(), other = dial();
    ssize_t size;

    CHECK_EQ(vlad_control_socket_next(control, 0, &request, line), -EAGAIN);
    say(fd, STATUS);
    size = vlad_control_socket_next(control, 5000, &first, line);
    CHECK_EQ(size, sizeof STATUS - 2);
    CHECK(memcmp(line, STATUS, (size_t)size) == 0);
    CHECK(first.operator && first.uid == getuid() && first.pid == getpid());
    CHECK_EQ(first.lower_epoch, 0);
    say(other, HOLD STATUS);
    hear(other);
    CHECK(vlad_control_socket_next(control, 5000, &request, line) > 0);
    CHECK_EQ(request.lower_epoch, 1);
    CHECK(request.token != first.token);
    CHECK_EQ(vlad_control_socket_reply(control, request.token, "{\"second\":1}", 12), 0);
    CHECK(strcmp(hear(other), "{\"second\":1}") == 0);
    CHECK_EQ(vlad_control_socket_reply(control, first.token, "{\"first\":1}", 11), 0);
    CHECK(strcmp(hear(fd), "{\"first\":1}") == 0);
    /* A second reply to one request, a newline, a size, a token that cannot be. */
    CHECK_EQ(vlad_control_socket_reply(control, first.token, "{}", 2), 0);
    wait_for(control, VLAD_CC_ORPHAN_REPLIES, 1);
    CHECK_EQ(vlad_control_socket_reply(control, first.token, "{}\n", 3), -EINVAL);
    CHECK_EQ(vlad_control_socket_reply(control, 0xFF, "{}", 2), -EINVAL);
    CHECK_EQ(vlad_control_socket_reply(control, first.token, line, VLAD_CONTROL_MAX_REPLY + 1),
             -EMSGSIZE);
    /* At most four wait; whoever leaves takes the rest along. */
    for (int i = 0; i < 5; i++)
        say(fd, STATUS);
    CHECK(strstr(hear(fd), "\"code\":\"unavailable\""));
    close(fd);
    wait_for_clients(control, 1);
    CHECK_EQ(vlad_control_socket_next(control, 0, &request, line), -EAGAIN);
    CHECK_EQ(counted(control, VLAD_CC_ABANDONED), 4);
    /* A client that has closed its sending side still gets its reply. */
    say(other, STATUS);
    shutdown(other, SHUT_WR);
    CHECK(vlad_control_socket_next(control, 5000, &request, line) > 0);
    CHECK_EQ(vlad_control_socket_reply(control, request.token, "{}", 2), 0);
    CHECK(strcmp(hear(other), "{}") == 0);
    CHECK(strcmp(hear(other), "") == 0);
    close(other);
    vlad_control_socket_stop(control);
    CHECK_EQ(vlad_control_socket_next(control, 5000, &request, line), -ESHUTDOWN);
    CHECK_EQ(vlad_control_socket_reply(control, request.token, "{}", 2), 0);
    CHECK(access(path, F_OK) < 0);
    vlad_control_socket_free(control);
}

static void rejects_garbage(void)
{
    struct vlad_control_socket *control = start();
    static char line[VLAD_CONTROL_MAX_LINE + 16];
    int fd = dial();

    say(fd, "hold\n");
    CHECK(strstr(hear(fd), "\"id\":null,\"ok\":false,\"error\":{\"code\":\"usage\","
                           "\"message\":\"the line is not one JSON object (byte 0)\""));
    say(fd, "{\"v\":2,\"id\":9,\"verb\":\"hold\"}\n");
    CHECK(strstr(hear(fd), "\"id\":9,\"ok\":false"));
    CHECK_EQ(counted(control, VLAD_CC_MALFORMED), 2);
    say(fd, HOLD);
    CHECK(strstr(hear(fd), "\"ok\":true"));
    close(fd);
    /* A client that sends nothing else is dropped, and a stop behind the garbage honoured. */
    fd = dial();
    say(fd, "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n" HOLD STATUS);
    for (int i = 0; i < VLAD_CONTROL_MAX_MALFORMED; i++)
        CHECK(strstr(hear(fd), "(byte 0)"));
    CHECK(strstr(hear(fd), "\"requested\":\"hold\""));
    CHECK(strstr(hear(fd), "too many malformed lines"));
    CHECK(strcmp(hear(fd), "") == 0);
    CHECK_EQ(atomic_load(&holds), 2);
    CHECK_EQ(counted(control, VLAD_CC_FORWARDED), 0);
    close(fd);
    /* A line without an end. */
    fd = dial();
    memset(line, 'x', sizeof line);
    for (size_t sent = 0; sent < sizeof line;) {
        ssize_t n = send(fd, line + sent, sizeof line - sent, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    CHECK(strstr(hear(fd), "a line has at most 65536 bytes"));
    CHECK(strcmp(hear(fd), "") == 0);
    CHECK_EQ(counted(control, VLAD_CC_OVERSIZE), 1);
    close(fd);
    wait_for_clients(control, 0);
    CHECK_EQ(atomic_load(&limps), 0);
    vlad_control_socket_free(control);
}

static void times_out(void)
{
    struct vlad_control_socket *control = start();
    static char line[VLAD_CONTROL_MAX_LINE];
    struct vlad_control_request request;
    static char big[VLAD_CONTROL_MAX_REPLY];
    int mute = dial(), half = dial(), idle = dial(), slow = dial(), greedy;

    say(idle, STATUS);
    CHECK(vlad_control_socket_next(control, 5000, &request, line) > 0);
    CHECK_EQ(vlad_control_socket_reply(control, request.token, "{}", 2), 0);
    CHECK(strcmp(hear(idle), "{}") == 0);
    say(half, STATUS "{\"v\":1");
    CHECK(vlad_control_socket_next(control, 5000, &request, line) > 0);
    CHECK_EQ(vlad_control_socket_reply(control, request.token, "{}", 2), 0);
    CHECK(strcmp(hear(half), "{}") == 0);
    memset(big, 'x', sizeof big);
    say(slow, STATUS); /* one reply is already more than the kernel takes for it */
    CHECK(vlad_control_socket_next(control, 5000, &request, line) > 0);
    CHECK_EQ(vlad_control_socket_reply(control, request.token, big, sizeof big), 0);
    wait_for(control, VLAD_CC_SLOW_READERS, 1);
    greedy = dial();
    say(greedy, STATUS STATUS); /* two at once are more than is kept for it */
    for (int i = 0; i < 2; i++) {
        CHECK(vlad_control_socket_next(control, 5000, &request, line) > 0);
        CHECK_EQ(vlad_control_socket_reply(control, request.token, big, sizeof big), 0);
    }
    wait_for(control, VLAD_CC_SLOW_READERS, 2);
    CHECK(strstr(hear(mute), "no complete line in time"));
    CHECK(strstr(hear(half), "no complete line in time"));
    CHECK_EQ(counted(control, VLAD_CC_HALF_OPEN), 2);
    say(idle, HOLD);
    CHECK(strstr(hear(idle), "\"ok\":true"));
    CHECK_EQ(vlad_control_socket_clients(control), 1);
    close(mute);
    close(half);
    close(idle);
    close(slow);
    close(greedy);
    vlad_control_socket_free(control);
}

/* Replies that were sent in pieces, with others queued behind them, come out whole. */
static void keeps_replies_whole(void)
{
    static const size_t sizes[] = {VLAD_CONTROL_MAX_REPLY, 100000, 1};
    struct vlad_control_socket *control = start();
    static char line[VLAD_CONTROL_MAX_LINE], big[VLAD_CONTROL_MAX_REPLY];
    struct vlad_control_request request;
    int fd = dial();

    for (int i = 0; i < 3; i++) {
        memset(big, 'a' + i, sizeof big);
        say(fd, STATUS);
        CHECK(vlad_control_socket_next(control, 5000, &request, line) > 0);
        CHECK_EQ(vlad_control_socket_reply(control, request.token, big, sizes[i]), 0);
    }
    wait_for(control, VLAD_CC_REPLIES, 3);
    for (int i = 0; i < 3; i++) {
        const char *heard = hear(fd);
        CHECK_EQ(strlen(heard), sizes[i]);
        memset(big, 'a' + i, sizeof big);
        CHECK(memcmp(heard, big, sizes[i]) == 0);
    }
    close(fd);
    vlad_control_socket_free(control);
}

/* Stops without end, their answers never read: each counts until the client is dropped. */
static void drops_who_never_listens(void)
{
    struct vlad_control_socket *control = start();
    int fd = dial(), said = 0;

    while (send(fd, HOLD, sizeof HOLD - 1, MSG_NOSIGNAL) == sizeof HOLD - 1 && said < 100000)
        said++;
    wait_for(control, VLAD_CC_SLOW_READERS, 1);
    wait_for_clients(control, 0);
    CHECK(said > 1000 && said < 100000);
    CHECK(atomic_load(&holds) > 1000 && atomic_load(&holds) <= said + 1);
    close(fd);
    vlad_control_socket_free(control);
}

static void refuses_what_does_not_fit_the_ring(void)
{
    struct vlad_control_socket *control = start();
    static char line[VLAD_CONTROL_MAX_LINE];
    struct vlad_control_request request;
    int fd[VLAD_CONTROL_MAX_CLIENTS];

    memset(line, ' ', sizeof line);
    memcpy(line, STATUS, sizeof STATUS - 2);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < VLAD_CONTROL_MAX_CLIENTS; i++) {
        fd[i] = dial();
        for (size_t sent = 0; sent < 2 * sizeof line;) {
            size_t at = sent % sizeof line;
            ssize_t n = send(fd[i], line + at, sizeof line - at, MSG_NOSIGNAL);
            CHECK(n > 0);
            sent += (size_t)n;
        }
    }
    wait_for(control, VLAD_CC_LINES, 2 * VLAD_CONTROL_MAX_CLIENTS);
    CHECK_EQ(counted(control, VLAD_CC_FORWARDED), 15); /* of 64 KiB, in 1 MiB with their headers */
    CHECK_EQ(counted(control, VLAD_CC_BUSY), 17);
    CHECK(strstr(hear(fd[15]), "too many requests are waiting"));
    say(fd[15], HOLD);
    CHECK(strstr(hear(fd[15]), "too many requests are waiting"));
    CHECK(strstr(hear(fd[15]), "\"requested\":\"hold\""));
    for (int i = 0; i < 15; i++) {
        CHECK_EQ(vlad_control_socket_next(control, 5000, &request, line), sizeof line - 1);
        CHECK(memcmp(line, STATUS, sizeof STATUS - 2) == 0);
    }
    for (int i = 0; i < VLAD_CONTROL_MAX_CLIENTS; i++)
        close(fd[i]);
    vlad_control_socket_free(control);
}

static void limits_clients(void)
{
    struct vlad_control_socket *control = start();
    int fd[VLAD_CONTROL_MAX_CLIENTS], more, reserve[VLAD_CONTROL_RESERVE + 1];

    for (int i = 0; i < VLAD_CONTROL_MAX_CLIENTS; i++) {
        fd[i] = dial();
        say(fd[i], HOLD);
        CHECK(strstr(hear(fd[i]), "\"ok\":true"));
    }
    /* An operator beyond the limit is refused everything but a stop. */
    more = dial();
    say(more, STATUS);
    CHECK(strstr(hear(more), "\"code\":\"unavailable\""));
    CHECK(strcmp(hear(more), "") == 0);
    close(more);
    for (int i = 0; i <= VLAD_CONTROL_RESERVE; i++)
        reserve[i] = dial();
    more = dial();
    say(more, HOLD);
    CHECK(strstr(hear(more), "\"ok\":true"));
    CHECK(counted(control, VLAD_CC_EVICTED) >= 1);
    CHECK(strstr(hear(reserve[0]), "too many clients"));
    close(more);
    for (int i = 0; i <= VLAD_CONTROL_RESERVE; i++)
        close(reserve[i]);
    close(fd[3]);
    wait_for_clients(control, VLAD_CONTROL_MAX_CLIENTS - 1);
    fd[3] = dial();
    say(fd[3], "{}\n");
    CHECK(strstr(hear(fd[3]), "member id"));
    for (int i = 0; i < VLAD_CONTROL_MAX_CLIENTS; i++)
        close(fd[i]);
    vlad_control_socket_free(control);
}

/* What a hold and a status get from a peer with these ids: the exit status says. */
/* Whether the groups of a peer can be asked for: an emulator may take the answer for one number. */
static bool groups_are_told(void)
{
    static const gid_t two[] = {7, 8};
    gid_t told[2] = {0, 0};
    socklen_t size = sizeof told;
    int status, pair[2];
    pid_t child = fork();

    if (child == 0)
        _exit(setgroups(2, two) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 ||
              getsockopt(pair[0], SOL_SOCKET, SO_PEERGROUPS, told, &size) < 0 || told[1] != 8);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status) == 0;
}

static int as_another(gid_t gid, const gid_t *groups, size_t n_groups)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        const char *answer;
        int fd;
        if (setgroups(n_groups, groups) < 0 || setgid(gid) < 0 || setuid(OTHER_UID) < 0)
            _exit(99);
        fd = try_dial();
        if (fd < 0)
            _exit(98);
        send(fd, HOLD, sizeof HOLD - 1, MSG_NOSIGNAL); /* may come too late: refused at accept */
        answer = hear(fd);
        _exit(strstr(answer, "\"ok\":true") ? 1
              : strstr(answer, "\"code\":\"permission\"") ? 2
              : strstr(answer, "\"code\":\"unavailable\"") ? 3 : 97);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void checks_peers(void)
{
    struct vlad_control_socket *control;
    static const gid_t operators[] = {7, OPERATOR_GID}, others[] = {7, 8};
    int fd[VLAD_CONTROL_MAX_CLIENTS];

    if (geteuid() != 0) {
        printf("%s: skipped: becoming another user needs root\n", __func__);
        return;
    }
    if (!groups_are_told()) {
        SKIPPED("SO_PEERGROUPS does not tell a peer's groups here");
        return;
    }
    control = start();
    CHECK_EQ(as_another(9, others, 2), 2);
    CHECK_EQ(atomic_load(&holds), 0);
    CHECK_EQ(counted(control, VLAD_CC_NOT_PERMITTED), 1);
    CHECK_EQ(as_another(OPERATOR_GID, others, 2), 1);
    CHECK_EQ(as_another(9, operators, 2), 1);
    CHECK_EQ(as_another(9, NULL, 0), 2);
    CHECK_EQ(atomic_load(&holds), 2);
    wait_for_clients(control, 0);
    for (int i = 0; i < VLAD_CONTROL_MAX_CLIENTS; i++) {
        fd[i] = dial();
        say(fd[i], HOLD);
        hear(fd[i]);
    }
    CHECK_EQ(as_another(9, others, 2), 3);
    CHECK_EQ(as_another(9, operators, 2), 1);
    CHECK_EQ(counted(control, VLAD_CC_REFUSED_CLIENTS), 1);
    for (int i = 0; i < VLAD_CONTROL_MAX_CLIENTS; i++)
        close(fd[i]);
    vlad_control_socket_free(control);
}

/* A stop from a new connection while the process has no descriptor left. */
static void survives_descriptor_exhaustion(void)
{
    struct vlad_control_socket *control = start();
    struct rlimit before, low;
    int fd[256], n = 0, mute, client = dial(), late = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strcpy(address.sun_path, path);
    say(client, HOLD);
    hear(client);
    getrlimit(RLIMIT_NOFILE, &before);
    low = (struct rlimit){.rlim_cur = 64, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &low);
    while ((fd[n] = open("/dev/null", O_RDONLY)) >= 0)
        n++;
    CHECK_EQ(errno, EMFILE);
    for (int i = 0; i < 2; i++) { /* twice: the spare descriptor comes back */
        CHECK_EQ(connect(late, (struct sockaddr *)&address, sizeof address), 0);
        say(late, i ? HOLD : STATUS);
        CHECK(strstr(hear(late), i ? "\"ok\":true" : "\"code\":\"unavailable\""));
        close(late);
        /* The thread may take the freed descriptor first, as its spare; it frees the other then. */
        for (int tries = 0; (late = socket(AF_UNIX, SOCK_STREAM, 0)) < 0 && tries < 2000; tries++)
            usleep(1000);
        CHECK(late >= 0);
    }
    CHECK(counted(control, VLAD_CC_FD_EXHAUSTED) >= 2);
    /* One that connects and says nothing does not keep the spare descriptor from a stop. */
    close(fd[--n]);
    mute = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(mute >= 0);
    CHECK_EQ(connect(mute, (struct sockaddr *)&address, sizeof address), 0);
    wait_for_clients(control, 2);
    CHECK_EQ(connect(late, (struct sockaddr *)&address, sizeof address), 0);
    say(late, HOLD);
    CHECK(strstr(hear(mute), "too many clients"));
    CHECK(strstr(hear(late), "\"ok\":true"));
    CHECK_EQ(counted(control, VLAD_CC_EVICTED), 1);
    close(mute);
    say(client, HOLD);
    CHECK(strstr(hear(client), "\"ok\":true"));
    CHECK_EQ(atomic_load(&holds), 4);
    while (n)
        close(fd[--n]);
    setrlimit(RLIMIT_NOFILE, &before);
    close(late);
    close(client);
    vlad_control_socket_free(control);
}

static void guards_its_path(void)
{
    struct vlad_control_config config = config_for_test();
    struct vlad_control_socket *control = start(), *second;
    struct stat status;
    char long_path[300];
    int fd;

    CHECK(lstat(path, &status) == 0 && (status.st_mode & 0777) == 0666);
    CHECK_EQ(vlad_control_socket_start(&second, &config), -EADDRINUSE);
    CHECK(second == NULL && access(path, F_OK) == 0);
    /* A newer socket at the path is not removed by the older one's end. */
    unlink(path);
    second = start();
    vlad_control_socket_free(control);
    CHECK(access(path, F_OK) == 0);
    vlad_control_socket_free(second);
    CHECK(access(path, F_OK) < 0);
    /* What a killed daemon leaves is replaced. */
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strcpy(address.sun_path, path);
        CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    }
    close(fd);
    control = start();
    vlad_control_socket_free(control);
    /* A file is not. */
    close(open(path, O_CREAT | O_WRONLY, 0600));
    CHECK_EQ(vlad_control_socket_start(&control, &config), -EEXIST);
    CHECK(access(path, F_OK) == 0);
    unlink(path);
    CHECK_EQ(chmod(directory, 0777), 0);
    CHECK_EQ(vlad_control_socket_start(&control, &config), -EPERM);
    CHECK_EQ(chmod(directory, 01777), 0);
    control = start();
    vlad_control_socket_free(control);
    CHECK_EQ(chmod(directory, 0700), 0);
    /* Another daemon is starting here; and a path without a directory. */
    fd = open(directory, O_RDONLY | O_DIRECTORY);
    CHECK_EQ(flock(fd, LOCK_EX), 0);
    CHECK_EQ(vlad_control_socket_start(&control, &config), -EADDRINUSE);
    close(fd);
    CHECK_EQ(chdir(directory), 0);
    config.path = "control";
    CHECK_EQ(vlad_control_socket_start(&control, &config), 0);
    CHECK(access(path, F_OK) == 0);
    vlad_control_socket_free(control);
    CHECK_EQ(chdir("/"), 0);
    config.path = "/proc/self/no-such/control";
    CHECK_EQ(vlad_control_socket_start(&control, &config), -ENOENT);
    config.path = "/proc/version/control";
    CHECK_EQ(vlad_control_socket_start(&control, &config), -ENOTDIR);
    memset(long_path, 'x', sizeof long_path);
    long_path[sizeof long_path - 1] = '\0';
    config.path = long_path;
    CHECK_EQ(vlad_control_socket_start(&control, &config), -ENAMETOOLONG);
    long_path[110] = '\0';
    CHECK_EQ(vlad_control_socket_start(&control, &config), -ENAMETOOLONG);
    config = config_for_test();
    config.lower = NULL;
    CHECK_EQ(vlad_control_socket_start(&control, &config), -EINVAL);
    config = config_for_test();
    config.max_clients = VLAD_CONTROL_MAX_CLIENTS + 1;
    CHECK_EQ(vlad_control_socket_start(&control, &config), -EINVAL);
}

static _Atomic int flooding;

static void *flood(void *unused)
{
    (void)unused;
    for (unsigned i = 0; atomic_load(&flooding); i++) {
        static const char *const text[] = {"", "x\n", "{\"v\":1", STATUS, "\n\n\n\n\n\n\n\n"};
        int fd = try_dial();
        const char *say_this = text[i % 5];
        if (fd < 0)
            continue;
        send(fd, say_this, strlen(say_this), MSG_NOSIGNAL);
        if (i % 7 == 0)
            usleep(200);
        close(fd);
    }
    return NULL;
}

static void *answer_all(void *context)
{
    static char line[VLAD_CONTROL_MAX_LINE];
    struct vlad_control_request request;
    ssize_t size;

    while ((size = vlad_control_socket_next(context, 100, &request, line)) != -ESHUTDOWN)
        if (size >= 0)
            vlad_control_socket_reply(context, request.token, "{}", 2);
    return NULL;
}

/* All of it at once: for the sanitizers, and that every stop arrives. */
static void holds_under_flood(void)
{
    struct vlad_control_socket *control = start();
    pthread_t flooders[2], python;
    int64_t worst_ns = 0;

    atomic_store(&flooding, 1);
    CHECK_EQ(pthread_create(&python, NULL, answer_all, control), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&flooders[i], NULL, flood, NULL), 0);
    for (int i = 1; i <= 200; i++) {
        int fd = dial();
        int64_t began_ns = vlad_clock_now_ns();
        do {
            if (send(fd, HOLD, sizeof HOLD - 1, MSG_NOSIGNAL) > 0 &&
                strstr(hear(fd), "\"ok\":true"))
                break;
            close(fd);
            fd = dial(); /* evicted from the reserve before it had spoken */
        } while (1);
        if (vlad_clock_now_ns() - began_ns > worst_ns)
            worst_ns = vlad_clock_now_ns() - began_ns;
        close(fd);
    }
    atomic_store(&flooding, 0);
    for (int i = 0; i < 2; i++)
        pthread_join(flooders[i], NULL);
    CHECK(atomic_load(&holds) >= 200);
    CHECK_EQ(counted(control, VLAD_CC_HOLDS), atomic_load(&holds));
    CHECK(vlad_clock_now_ns() - vlad_control_socket_beat_ns(control) < 5 * VLAD_NS_PER_S);
    printf("hold under flood: worst %lld us of 200; %llu connections, longest pass %llu us\n",
           (long long)(worst_ns / 1000), (unsigned long long)counted(control, VLAD_CC_CONNECTIONS),
           (unsigned long long)counted(control, VLAD_CC_LONGEST_PASS_NS) / 1000);
    vlad_control_socket_stop(control);
    pthread_join(python, NULL);
    CHECK_EQ(vlad_control_socket_clients(control), 0);
    vlad_control_socket_free(control);
}

int main(void)
{
    snprintf(directory, sizeof directory, "/tmp/vlad-control-XXXXXX");
    CHECK(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/control", directory);
    CHECK_EQ(chmod(directory, 0755), 0); /* the other user of checks_peers has to get there */
    stops_without_python();
    forwards();
    rejects_garbage();
    times_out();
    keeps_replies_whole();
    drops_who_never_listens();
    refuses_what_does_not_fit_the_ring();
    limits_clients();
    checks_peers();
    survives_descriptor_exhaustion();
    guards_its_path();
    holds_under_flood();
    CHECK_EQ(atomic_load(&strange), 0);
    rmdir(directory);
    CHECK_DONE();
}
