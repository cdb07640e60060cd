/* flight.h: what the servo loop took in and what it decided, tick by tick and chunk by chunk, in two
 * rings (flight_ring.h), so that a replay (flight_replay.h) can run the same code on the same inputs
 * and compare. Bounded copies and nothing else: no lock, no allocation, no system call.
 */
#ifndef VLAD_FLIGHT_H
#define VLAD_FLIGHT_H

#include "flight_fields.h"
#include "flight_ring.h"
#include "servo_loop.h"

/* Attached to a loop. The rings' writers: the loop's thread, and the producer's. */
struct vlad_flight {
    struct vlad_flight_ring *loop, *producer;
    int64_t state_every_ns; /* how often the loop's own state is recorded */
    /* The loop's thread. */
    struct vlad_flight_tick tick; /* being filled in */
    struct vlad_flight_tick done; /* the last one */
    const struct vlad_arm_ops *ops; /* the arm behind vlad_flight_arm_ops */
    void *arm;
    uint64_t adoptions;
    int n_clocks;
    int64_t state_ns;
    struct vlad_flight_state state; /* scratch: what is being recorded */
    /* The producer's thread. */
    uint64_t n_chunks;
    struct vlad_flight_chunk chunk; /* the last one */
};

/* Before the loop has a bus or a thread; `servo` and the rings outlive each other's use. 0; -EBUSY. */
int vlad_flight_attach(struct vlad_servo *servo, struct vlad_flight *flight,
                       struct vlad_flight_ring *loop, struct vlad_flight_ring *producer,
                       int64_t state_every_ns);

/* Hooks of the servo loop; nothing without an attached record. */
void vlad_flight_begin(struct vlad_servo *servo, int64_t late_ns); /* after the adoption */
void vlad_flight_tick(struct vlad_servo *servo, const uint8_t *own);
void vlad_flight_before_push(struct vlad_servo *servo);
void vlad_flight_push(struct vlad_servo *servo, const struct vlad_chunk *chunk,
                      const struct vlad_command *command, int64_t now_ns,
                      const struct vlad_gate_report *report, uint64_t raised);
void vlad_flight_timing(struct vlad_servo *servo);

/* The parts of a VLAD_FLIGHT_STATE record, valid until the next call: the struct, n1 rows of the
 * trajectory's ring1, n2 of its ring2. Returns how many. The loop's thread. */
#define VLAD_FLIGHT_STATE_PARTS 3
int vlad_flight_state_parts(struct vlad_servo *servo, struct vlad_flight_part *parts);

/* Puts a freshly initialised loop into that state; its bus, if it had one, is `ops` and `arm`. The
 * values must be within the ranges of vlad_flight_state_fields. -EINVAL: the windows are not those
 * of this configuration. */
int vlad_flight_state_restore(struct vlad_servo *servo, const struct vlad_flight_state *state,
                              const int64_t (*ring1)[VLAD_MAX_JOINTS],
                              const int64_t (*ring2)[VLAD_MAX_JOINTS],
                              const struct vlad_arm_ops *ops, void *arm);

/* An arm that passes everything on to the one behind it and notes it in flight->tick. `arm` is the
 * struct vlad_flight. */
extern const struct vlad_arm_ops vlad_flight_arm_ops;

#endif
