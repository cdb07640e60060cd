/* The loop's own state, saved and restored: see flight.h. */
#include "flight.h"

#include <errno.h>  /* EINVAL */
#include <stddef.h> /* offsetof */
#include <string.h> /* memset, memcpy */

#define TYPE(type)                                                                               \
    _Generic((type)0, uint8_t: 'B', int32_t: 'i', uint32_t: 'I', int64_t: 'q', uint64_t: 'Q')
#define FIELD(type, name, path, count, range)                                                    \
    { #name, TYPE(type), offsetof(struct vlad_flight_state, name), count, VLAD_RANGE_##range,    \
      VLAD_FLIGHT_IN },
#define EXTRA(type, name, count, range) FIELD(type, name, , count, range)
#define SAME_SIZE(type, name, path, count, range)                                                \
    _Static_assert(sizeof((struct vlad_servo *)0)->path == sizeof(type[count]), #name);
#define SAVE(type, name, path, count, range)                                                     \
    memcpy(state->name, &servo->path, sizeof state->name);
#define RESTORE(type, name, path, count, range)                                                  \
    memcpy(&servo->path, state->name, sizeof state->name);

VLAD_FLIGHT_STATE_FIELDS(SAME_SIZE)
_Static_assert(sizeof(struct vlad_fault_state) == (7 + VLAD_FAULT_MAX_REPEAT) * 8,
               "a new member of it belongs into VLAD_FLIGHT_STATE_EXTRA, and below");

const struct vlad_flight_field vlad_flight_state_fields[] = {
    VLAD_FLIGHT_STATE_FIELDS(FIELD) VLAD_FLIGHT_STATE_EXTRA(EXTRA) { .name = NULL }
};

int vlad_flight_state_parts(struct vlad_servo *servo, struct vlad_flight_part *parts)
{
    struct vlad_flight_state *state = &servo->flight->state;
    const struct vlad_trajectory *trajectory = &servo->trajectory;

    memset(state, 0, sizeof *state);
    VLAD_FLIGHT_STATE_FIELDS(SAVE)
    state->bus_up[0] = servo->ops != NULL;
    state->timeline[0] = servo->queue.buffer[servo->queue.front].number;
    state->n1[0] = trajectory->n1;
    state->n2[0] = trajectory->n2;
    for (int f = 0; f <= VLAD_N_FAULTS; f++) {
        const struct vlad_fault_state *fault = &servo->watchdog.state[f];

        state->fault_active[f] = fault->active;
        state->fault_latched[f] = fault->latched;
        state->fault_level[f] = (uint8_t)fault->level;
        state->fault_level_ns[f] = fault->level_ns;
        state->fault_since_ns[f] = fault->since_ns;
        state->fault_last_true_ns[f] = fault->last_true_ns;
        state->fault_count[f] = fault->count;
        state->fault_since_clear[f] = fault->since_clear;
        memcpy(state->fault_recent_ns + f * VLAD_FAULT_MAX_REPEAT, fault->recent_ns,
               sizeof fault->recent_ns);
    }
    parts[0] = (struct vlad_flight_part){ state, sizeof *state };
    parts[1] = (struct vlad_flight_part){
        trajectory->ring1, (size_t)trajectory->n1 * sizeof trajectory->ring1[0]
    };
    parts[2] = (struct vlad_flight_part){
        trajectory->ring2, (size_t)trajectory->n2 * sizeof trajectory->ring2[0]
    };
    return VLAD_FLIGHT_STATE_PARTS;
}

int vlad_flight_state_restore(struct vlad_servo *servo, const struct vlad_flight_state *state,
                              const int64_t (*ring1)[VLAD_MAX_JOINTS],
                              const int64_t (*ring2)[VLAD_MAX_JOINTS],
                              const struct vlad_arm_ops *ops, void *arm)
{
    struct vlad_trajectory *trajectory = &servo->trajectory;

    if (state->n1[0] != trajectory->n1 || state->n2[0] != trajectory->n2 ||
        (unsigned)state->at1[0] >= (unsigned)trajectory->n1 ||
        (unsigned)state->at2[0] >= (unsigned)trajectory->n2)
        return -EINVAL;
    VLAD_FLIGHT_STATE_FIELDS(RESTORE)
    memcpy(trajectory->ring1, ring1, (size_t)trajectory->n1 * sizeof trajectory->ring1[0]);
    memcpy(trajectory->ring2, ring2, (size_t)trajectory->n2 * sizeof trajectory->ring2[0]);
    for (int f = 0; f <= VLAD_N_FAULTS; f++) {
        struct vlad_fault_state *fault = &servo->watchdog.state[f];

        fault->active = state->fault_active[f];
        fault->latched = state->fault_latched[f];
        fault->level = (enum vlad_reaction)state->fault_level[f];
        fault->level_ns = state->fault_level_ns[f];
        fault->since_ns = state->fault_since_ns[f];
        fault->last_true_ns = state->fault_last_true_ns[f];
        fault->count = state->fault_count[f];
        fault->since_clear = state->fault_since_clear[f];
        memcpy(fault->recent_ns, state->fault_recent_ns + f * VLAD_FAULT_MAX_REPEAT,
               sizeof fault->recent_ns);
    }
    servo->ops = state->bus_up[0] ? ops : NULL;
    servo->arm = arm;
    return 0;
}
