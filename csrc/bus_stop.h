/* bus_stop.h: what `vlad-safe-stop` does on the bus when no daemon is left to hold the arm.
 *
 * Writing the present position as the goal would let a sagging arm down a little at each stop, and
 * some firmware turns torque on when a goal is written. So a servo without torque gets nothing, one
 * that is near its goal keeps it, and only one that is not (it was stopped by something, or knocked
 * away) gets its present position as the goal. A gripper that holds an object never reaches its
 * goal: it keeps it.
 *
 * Every write is acknowledged or read back, and repeated while there is time.
 */
#ifndef VLAD_BUS_STOP_H
#define VLAD_BUS_STOP_H

#include "serial_bus.h"

#define VLAD_STOP_MAX_IDS 32
#define VLAD_STOP_FOLLOWING_LIMIT_TICKS 130 /* 0.2 rad, as arm.following_limit_rad */
#define VLAD_STOP_RAMP_NS (2 * VLAD_NS_PER_S) /* of park: from the torque limit to none */

struct vlad_stop {
    uint8_t ids[VLAD_STOP_MAX_IDS];
    int n_ids;
    int following_limit_ticks;
    int gripper_id; /* keeps its goal; -1 = none */
    /* What came of it; bit i = ids[i]. */
    uint32_t limp;   /* had no torque: nothing written */
    uint32_t kept;   /* goal left as it was */
    uint32_t pinned; /* goal := present position */
    uint32_t off;    /* torque turned off, and read back as off */
    uint32_t failed; /* did not answer, or did not take what was written */
};

/* Each returns 0 (see `failed`) or -errno when the line itself failed. They return by deadline_ns,
 * except park, whose ramp takes VLAD_STOP_RAMP_NS longer. */
int vlad_stop_hold(struct vlad_serial_bus *bus, struct vlad_stop *stop, int64_t deadline_ns);
/* Torque off: the arm falls. */
int vlad_stop_limp(struct vlad_serial_bus *bus, struct vlad_stop *stop, int64_t deadline_ns);
/* Torque limit to 0 in VLAD_STOP_RAMP_NS, so that the arm sinks instead of falling; torque off; the
 * torque limit as it was, for whoever turns torque on next. */
int vlad_stop_park(struct vlad_serial_bus *bus, struct vlad_stop *stop, int64_t deadline_ns);

#endif
