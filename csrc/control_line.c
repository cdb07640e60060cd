#include "control_thread.h"

#include <stdio.h>       /* snprintf of replies */
#include <sys/eventfd.h> /* wakes Python */

#include "clock.h"
#include "json_verb.h"

size_t vlad_control_error(char into[512], const char *id, size_t id_size, const char *code,
                          const char *message)
{
    int size = snprintf(into, 512,
                        "{\"v\":1,\"id\":%.*s,\"ok\":false,"
                        "\"error\":{\"code\":\"%s\",\"message\":\"%s\"}}\n",
                        id ? (int)id_size : 4, id ? id : "null", code, message);

    return (size_t)size;
}

static void answer_error(struct vlad_control_client *client, const struct vlad_line *read,
                         const char *code, const char *message, int64_t now_ns)
{
    char text[512];
    size_t size = vlad_control_error(text, read->id, read->id_size, code, message);

    vlad_control_client_queue(client, text, size, now_ns);
}

static void lower(struct vlad_control_socket *control, struct vlad_control_client *client,
                  const struct vlad_line *read, int64_t pass_ns)
{
    bool hold = read->verb == VLAD_VERB_HOLD;
    struct vlad_control_lowered lowered = {
        .lower = hold ? VLAD_LOWER_HOLD : VLAD_LOWER_LIMP,
        .uid = client->peer.uid,
        .pid = client->peer.pid,
    };
    char text[256];
    int size;

    lowered.t_ns = vlad_clock_now_ns(); /* before the loop can act on it */
    /* The epoch first: who compares epochs after raising authority must not miss this one. */
    atomic_fetch_add(&control->lower_epoch, 1);
    control->lower(control->lower_context, lowered.lower);
    vlad_control_longest(control, VLAD_CC_LONGEST_LOWER_NS, vlad_clock_now_ns() - pass_ns);
    vlad_seqlock_write(&control->lowered.lock, &control->lowered.body, &lowered, sizeof lowered);
    if (!vlad_record_ring_push(&control->lowerings, &lowered, "", 0))
        vlad_control_count(control, VLAD_CC_UNTOLD);
    vlad_control_count(control, hold ? VLAD_CC_HOLDS : VLAD_CC_LIMPS);
    size = snprintf(text, sizeof text,
                    "{\"v\":1,\"id\":%.*s,\"ok\":true,\"result\":{\"requested\":\"%s\","
                    "\"t_ns\":%lld}}\n",
                    (int)read->id_size, read->id, hold ? "hold" : "limp", (long long)lowered.t_ns);
    vlad_control_client_queue(client, text, (size_t)size, lowered.t_ns);
}

static void forward(struct vlad_control_socket *control, struct vlad_control_client *client,
                    const struct vlad_line *read, const char *line, size_t size, int64_t now_ns)
{
    struct vlad_control_request request = {
        .token = vlad_control_token(control, client),
        .lower_epoch = atomic_load(&control->lower_epoch),
        .t_ns = now_ns,
        .uid = client->peer.uid,
        .gid = client->peer.gid,
        .pid = client->peer.pid,
        .operator = client->peer.operator,
    };

    if (vlad_control_in_reserve(control, client)) {
        vlad_control_count(control, VLAD_CC_BUSY);
        answer_error(client, read, "unavailable",
                     "too many clients: only hold, stop and limp are served", now_ns);
    } else if (client->waiting == VLAD_CONTROL_MAX_WAITING) {
        vlad_control_count(control, VLAD_CC_BUSY);
        answer_error(client, read, "unavailable",
                     "4 requests of this connection are waiting: read their replies first",
                     now_ns);
    } else if (!vlad_record_ring_push(&control->requests, &request, line, size)) {
        vlad_control_count(control, VLAD_CC_BUSY);
        answer_error(client, read, "unavailable", "too many requests are waiting: try again",
                     now_ns);
    } else {
        client->waiting++;
        vlad_control_count(control, VLAD_CC_FORWARDED);
        eventfd_write(control->request_fd, 1);
    }
}

void vlad_control_serve_line(struct vlad_control_socket *control,
                             struct vlad_control_client *client, const char *line, size_t size,
                             int64_t pass_ns)
{
    struct vlad_line read;
    enum vlad_line_error error = vlad_json_verb(line, size, &read);
    char message[128];

    vlad_control_count(control, VLAD_CC_LINES);
    if (!error && read.verb != VLAD_VERB_OTHER && client->peer.operator) {
        lower(control, client, &read, pass_ns);
        return;
    }
    /* Of a client that is about to be dropped, only a stop is still honoured. */
    if (client->overflowed || client->malformed_run >= VLAD_CONTROL_MAX_MALFORMED)
        return;
    if (error) {
        client->malformed_run++;
        vlad_control_count(control, VLAD_CC_MALFORMED);
        snprintf(message, sizeof message, error <= VLAD_LINE_DEPTH ? "%s (byte %zu)" : "%s",
                 vlad_line_error_text(error), read.error_at);
        answer_error(client, &read, "usage", message, pass_ns);
        return;
    }
    client->malformed_run = 0;
    if (read.verb != VLAD_VERB_OTHER) {
        vlad_control_count(control, VLAD_CC_NOT_PERMITTED);
        answer_error(client, &read, "permission",
                     "only root, the user of the daemon and the operator groups may do this",
                     pass_ns);
        return;
    }
    forward(control, client, &read, line, size, pass_ns);
}
