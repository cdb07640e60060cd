#include "bus_stop.h"

#include <errno.h>  /* EAGAIN, EIO, ETIMEDOUT */
#include <stdlib.h> /* abs */

enum { FIRST = VLAD_REG_TORQUE_ENABLE,
       N_READ = VLAD_REG_PRESENT_POSITION + 2 - VLAD_REG_TORQUE_ENABLE };
enum { RAMP_STEPS = 40 };

#define REQUEST_NS (30 * VLAD_NS_PER_MS) /* for one request: an adapter may take 16 ms to answer */

struct found {
    uint32_t answered;
    bool torque[VLAD_STOP_MAX_IDS];
    uint16_t goal[VLAD_STOP_MAX_IDS], present[VLAD_STOP_MAX_IDS], limit[VLAD_STOP_MAX_IDS];
};

static uint32_t all_of(const struct vlad_stop *stop)
{
    return stop->n_ids == 32 ? UINT32_MAX : (1u << stop->n_ids) - 1;
}

static int64_t now_ns(struct vlad_serial_bus *bus)
{
    return bus->ops->now_ns(bus->port);
}

static int64_t request_deadline(struct vlad_serial_bus *bus, int64_t deadline_ns)
{
    int64_t limit = now_ns(bus) + REQUEST_NS;
    return limit < deadline_ns ? limit : deadline_ns;
}

/* The ids of `mask`, and where in stop->ids each stands. */
static int choose(const struct vlad_stop *stop, uint32_t mask, uint8_t *ids, int *index)
{
    int n = 0;
    for (int i = 0; i < stop->n_ids; i++)
        if (mask >> i & 1) {
            ids[n] = stop->ids[i];
            index[n++] = i;
        }
    return n;
}

/* n_data bytes at `address` of the servos in `mask`, asking again those that did not answer. */
static int ask(struct vlad_serial_bus *bus, const struct vlad_stop *stop, uint32_t mask,
               uint8_t address, int n_data, int64_t deadline_ns,
               struct vlad_feetech_reply replies[VLAD_STOP_MAX_IDS], uint32_t *answered)
{
    *answered = 0;
    while (mask != 0 && now_ns(bus) < deadline_ns) {
        struct vlad_feetech_reply some[VLAD_STOP_MAX_IDS];
        uint8_t ids[VLAD_STOP_MAX_IDS];
        int index[VLAD_STOP_MAX_IDS], n = choose(stop, mask, ids, index);
        uint32_t got;
        int rc = vlad_serial_sync_read(bus, ids, n, address, n_data,
                                       request_deadline(bus, deadline_ns), some, &got);
        if (rc < 0 && rc != -EAGAIN)
            return rc;
        for (int k = 0; k < n; k++)
            if (got >> k & 1) {
                replies[index[k]] = some[k];
                *answered |= 1u << index[k];
                mask &= ~(1u << index[k]);
            }
    }
    return 0;
}

static int look(struct vlad_serial_bus *bus, struct vlad_stop *stop, int64_t deadline_ns,
                struct found *found)
{
    struct vlad_feetech_reply replies[VLAD_STOP_MAX_IDS];
    stop->limp = stop->kept = stop->pinned = stop->off = 0;
    stop->failed = all_of(stop);
    int rc = ask(bus, stop, all_of(stop), FIRST, N_READ, deadline_ns, replies, &found->answered);
    for (int i = 0; i < stop->n_ids; i++) {
        if (!(found->answered >> i & 1))
            continue;
        const uint8_t *d = replies[i].data;
        found->torque[i] = d[0] != 0;
        found->goal[i] = vlad_feetech_u16(d + VLAD_REG_GOAL_POSITION - FIRST);
        found->limit[i] = vlad_feetech_u16(d + VLAD_REG_TORQUE_LIMIT - FIRST);
        found->present[i] = vlad_feetech_u16(d + VLAD_REG_PRESENT_POSITION - FIRST);
    }
    return rc;
}

/* One register of two bytes, acknowledged. True when it holds. */
static int put_u16(struct vlad_serial_bus *bus, uint8_t id, uint8_t address, uint16_t value,
                   int64_t deadline_ns, bool *held)
{
    const uint8_t data[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
    *held = false;
    while (!*held && now_ns(bus) < deadline_ns) {
        int rc = vlad_serial_write(bus, id, address, data, 2,
                                   request_deadline(bus, deadline_ns), NULL);
        if (rc < 0 && rc != -ETIMEDOUT && rc != -EAGAIN)
            return rc;
        *held = rc == 0;
    }
    return 0;
}

int vlad_stop_hold(struct vlad_serial_bus *bus, struct vlad_stop *stop, int64_t deadline_ns)
{
    struct found found;
    /* Half of the time for looking: a silent servo must not keep the others from being pinned. */
    int64_t look_ns = now_ns(bus) + (deadline_ns - now_ns(bus)) / 2;
    int rc = look(bus, stop, look_ns, &found);
    for (int i = 0; i < stop->n_ids && rc == 0; i++) {
        uint32_t bit = 1u << i;
        bool held;
        if (!(found.answered & bit))
            continue;
        int error = vlad_feetech_signed(found.goal[i], 15) -
                    vlad_feetech_signed(found.present[i], 15);
        if (!found.torque[i]) {
            stop->limp |= bit;
        } else if (stop->ids[i] == stop->gripper_id || abs(error) <= stop->following_limit_ticks) {
            stop->kept |= bit;
        } else {
            rc = put_u16(bus, stop->ids[i], VLAD_REG_GOAL_POSITION, found.present[i],
                         deadline_ns, &held);
            stop->pinned |= held ? bit : 0;
        }
    }
    stop->failed = all_of(stop) & ~(stop->limp | stop->kept | stop->pinned);
    return rc;
}

/* Torque off for `mask`, said at once to all and repeated to those that do not read back as off. */
static int torque_off(struct vlad_serial_bus *bus, struct vlad_stop *stop, uint32_t mask,
                      int64_t deadline_ns)
{
    while (mask != 0 && now_ns(bus) < deadline_ns) {
        struct vlad_feetech_reply replies[VLAD_STOP_MAX_IDS];
        uint8_t ids[VLAD_STOP_MAX_IDS], zeros[VLAD_STOP_MAX_IDS] = {0};
        int index[VLAD_STOP_MAX_IDS], n = choose(stop, mask, ids, index);
        uint32_t answered;
        int64_t by_ns = request_deadline(bus, deadline_ns);
        int rc = vlad_serial_sync_write(bus, ids, n, VLAD_REG_TORQUE_ENABLE, zeros, 1, by_ns);
        if (rc == 0)
            rc = vlad_serial_sync_read(bus, ids, n, VLAD_REG_TORQUE_ENABLE, 1,
                                       request_deadline(bus, deadline_ns), replies, &answered);
        if (rc == -EAGAIN)
            continue;
        if (rc < 0)
            return rc;
        for (int k = 0; k < n; k++)
            if (answered >> k & 1 && replies[k].data[0] == 0) {
                stop->off |= 1u << index[k];
                mask &= ~(1u << index[k]);
            }
    }
    return 0;
}

int vlad_stop_limp(struct vlad_serial_bus *bus, struct vlad_stop *stop, int64_t deadline_ns)
{
    stop->limp = stop->kept = stop->pinned = stop->off = 0;
    int rc = torque_off(bus, stop, all_of(stop), deadline_ns);
    stop->failed = all_of(stop) & ~stop->off;
    return rc;
}

static int wait_until(struct vlad_serial_bus *bus, int64_t t_ns)
{
    for (int64_t left; (left = t_ns - now_ns(bus)) > 0;) {
        int revents = bus->ops->poll(bus->port, 0, left);
        if (revents < 0 && revents != -EINTR)
            return revents;
        if (revents > 0)
            return -EIO; /* POLLHUP, POLLERR: nothing else was asked for */
    }
    return 0;
}

static int ramp(struct vlad_serial_bus *bus, const struct vlad_stop *stop, uint32_t mask,
                const uint16_t *limit)
{
    int64_t start_ns = now_ns(bus);
    uint8_t ids[VLAD_STOP_MAX_IDS], data[2 * VLAD_STOP_MAX_IDS];
    int index[VLAD_STOP_MAX_IDS], n = choose(stop, mask, ids, index);
    for (int step = 1; step <= RAMP_STEPS; step++) {
        int rc = wait_until(bus, start_ns + step * VLAD_STOP_RAMP_NS / RAMP_STEPS);
        if (rc < 0)
            return rc;
        for (int k = 0; k < n; k++) {
            int value = limit[index[k]] * (RAMP_STEPS - step) / RAMP_STEPS;
            data[2 * k] = (uint8_t)value;
            data[2 * k + 1] = (uint8_t)(value >> 8);
        }
        /* One step lost does not matter: the next one says it all again. */
        rc = vlad_serial_sync_write(bus, ids, n, VLAD_REG_TORQUE_LIMIT, data, 2,
                                    now_ns(bus) + REQUEST_NS);
        if (rc < 0 && rc != -EAGAIN)
            return rc;
    }
    return 0;
}

int vlad_stop_park(struct vlad_serial_bus *bus, struct vlad_stop *stop, int64_t deadline_ns)
{
    struct found found;
    int64_t look_ns = now_ns(bus) + (deadline_ns - now_ns(bus)) / 2;
    int rc = look(bus, stop, look_ns, &found);
    uint32_t held = 0;
    for (int i = 0; i < stop->n_ids; i++)
        if (found.answered >> i & 1) {
            if (found.torque[i])
                held |= 1u << i;
            else
                stop->limp |= 1u << i;
        }
    if (rc == 0 && held != 0)
        rc = ramp(bus, stop, held, found.limit);
    deadline_ns += VLAD_STOP_RAMP_NS;
    if (rc == 0)
        rc = torque_off(bus, stop, held, deadline_ns);
    for (int i = 0; i < stop->n_ids && rc == 0; i++) {
        bool restored;
        if (!(stop->off >> i & 1))
            continue;
        rc = put_u16(bus, stop->ids[i], VLAD_REG_TORQUE_LIMIT, found.limit[i], deadline_ns,
                     &restored);
    }
    stop->failed = all_of(stop) & ~(stop->limp | stop->off);
    return rc;
}
