/* servo_parts.h: what the files of the servo loop share. All of it runs on the loop's thread.
 *
 *   servo_loop.c   the tick, the report, the words that cross threads
 *   servo_sense.c  the bus: adopted, given up, read
 *   servo_health.c heat, voltage and overload, as the servos report them
 *   servo_truth.c  whether they are where they say, hold what they were told, and follow
 *   servo_mode.c   requests and reactions to a mode
 *   servo_wire.c   mode and queue to a goal, and the goal to the wire
 *   servo_push.c   (the producer's thread) chunks in
 *   servo_thread.c the thread under the tick
 */
#ifndef VLAD_SERVO_PARTS_H
#define VLAD_SERVO_PARTS_H

#include "servo_loop.h"

#define BIT(fault) (1ULL << (fault))

void vlad_servo_emit(struct vlad_servo *servo, enum vlad_event_kind kind, int64_t a, int64_t b,
                     int64_t value);
void vlad_servo_enter(struct vlad_servo *servo, enum vlad_mode mode);

void vlad_servo_take_adoption(struct vlad_servo *servo);
void vlad_servo_release_bus(struct vlad_servo *servo);
/* Reads the arm and raises the faults that it shows. own: level by fault id. */
void vlad_servo_sense(struct vlad_servo *servo, int64_t now_ns, uint8_t *own);

/* The loop itself sees the condition of `fault`, which is to react at `level` at most. */
static inline void vlad_servo_raise(uint8_t *own, enum vlad_fault fault, enum vlad_reaction level)
{
    if (level > own[fault])
        own[fault] = (uint8_t)level;
}

/* When one read of the arm began and was done. */
struct vlad_reading {
    int64_t asked_ns, done_ns;
};
/* Rows 20 to 22 and 45. */
void vlad_servo_check_health(struct vlad_servo *servo, uint8_t *own);
/* Rows 14, 16 and 23; true when a servo has lost its torque by itself (row 44). */
bool vlad_servo_check_truth(struct vlad_servo *servo, int64_t now_ns,
                            const struct vlad_reading *reading, uint8_t *own);

uint64_t vlad_servo_why_not(struct vlad_servo *servo, enum vlad_reaction reaction);
void vlad_servo_decide(struct vlad_servo *servo, uint32_t requests, enum vlad_reaction reaction);
void vlad_servo_halt(struct vlad_servo *servo);
void vlad_servo_set_torque(struct vlad_servo *servo, bool on);
/* Lowers the torque limit of the joints in `mask`, never raises it: engaging does. */
void vlad_servo_limit(struct vlad_servo *servo, uint32_t mask, int32_t permille);
/* What a joint with torque holds becomes the command, and where one without is. */
void vlad_servo_take_pose(struct vlad_servo *servo);

/* Producer thread: vlad_servo_push() with the command that it is judged against. */
void vlad_servo_push_with(struct vlad_servo *servo, const struct vlad_chunk *chunk,
                          const struct vlad_command *command, int64_t now_ns,
                          struct vlad_gate_report *report);

/* Producer thread: vlad_servo_policy_timing() without emptying the queue. */
int vlad_servo_set_timing(struct vlad_servo *servo, int64_t period_ns, int64_t horizon_ns,
                          int64_t max_frame_age_ns, enum vlad_aggregate aggregate,
                          int64_t ensemble);

/* Moves the goal by one tick; true when there is something to write. */
bool vlad_servo_next_goal(struct vlad_servo *servo, int64_t now_ns);
void vlad_servo_write_goals(struct vlad_servo *servo, int64_t now_ns);
/* Torque limits, then torque. */
void vlad_servo_write_torque(struct vlad_servo *servo, int64_t now_ns);

#endif
