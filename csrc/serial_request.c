/* The requests of serial_bus.h: a frame of feetech.h each, sent and answered. */
#include <errno.h>  /* EINVAL, ETIMEDOUT */
#include <string.h> /* memcpy */

#include "serial_bus.h"

static int one(struct vlad_serial_bus *bus, int n, uint8_t id, uint8_t *data, int n_data,
               int64_t deadline_ns, uint8_t *status)
{
    struct vlad_feetech_reply reply;
    uint32_t answered;
    if (n < 0)
        return n;
    int rc = vlad_serial_transact(bus, bus->frame, n, &id, 1, n_data, deadline_ns, &reply,
                                  &answered);
    if (rc < 0 || !answered)
        return rc < 0 ? rc : -ETIMEDOUT;
    if (data != NULL)
        memcpy(data, reply.data, (size_t)n_data);
    if (status != NULL)
        *status = reply.status;
    return 0;
}

int vlad_serial_ping(struct vlad_serial_bus *bus, uint8_t id, int64_t deadline_ns,
                     uint8_t *status)
{
    int n = vlad_feetech_ping(bus->frame, sizeof bus->frame, id);
    return one(bus, n, id, NULL, 0, deadline_ns, status);
}

int vlad_serial_read(struct vlad_serial_bus *bus, uint8_t id, uint8_t address, uint8_t *data,
                     int n_data, int64_t deadline_ns, uint8_t *status)
{
    int n = vlad_feetech_read(bus->frame, sizeof bus->frame, id, address, n_data);
    return one(bus, n, id, data, n_data, deadline_ns, status);
}

int vlad_serial_write(struct vlad_serial_bus *bus, uint8_t id, uint8_t address,
                      const uint8_t *data, int n_data, int64_t deadline_ns, uint8_t *status)
{
    if (id > VLAD_FEETECH_MAX_ID)
        return -EINVAL; /* nobody acknowledges a broadcast */
    int n = vlad_feetech_write(bus->frame, sizeof bus->frame, id, address, data, n_data);
    return one(bus, n, id, NULL, 0, deadline_ns, status);
}

int vlad_serial_sync_read(struct vlad_serial_bus *bus, const uint8_t *ids, int n_ids,
                          uint8_t address, int n_data, int64_t deadline_ns,
                          struct vlad_feetech_reply *replies, uint32_t *answered)
{
    int n = vlad_feetech_sync_read(bus->frame, sizeof bus->frame, ids, n_ids, address, n_data);
    *answered = 0;
    if (n < 0)
        return n;
    return vlad_serial_transact(bus, bus->frame, n, ids, n_ids, n_data, deadline_ns, replies,
                                answered);
}

int vlad_serial_sync_write(struct vlad_serial_bus *bus, const uint8_t *ids, int n_ids,
                           uint8_t address, const uint8_t *data, int n_data,
                           int64_t deadline_ns)
{
    int n = vlad_feetech_sync_write(bus->frame, sizeof bus->frame, ids, n_ids, address, data,
                                    n_data);
    return n < 0 ? n : vlad_serial_send(bus, bus->frame, n, deadline_ns);
}
