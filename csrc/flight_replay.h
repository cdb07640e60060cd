/* flight_replay.h: the servo loop on recorded inputs. The code is the one that drives the arm; only
 * the arm and the words of other threads come from the record. What it decides is in flight->done
 * and flight->chunk afterwards, to be compared with the recorded ones.
 */
#ifndef VLAD_FLIGHT_REPLAY_H
#define VLAD_FLIGHT_REPLAY_H

#include "flight.h"

struct vlad_flight_replay {
    const struct vlad_flight_tick *tick; /* the one being replayed */
    int clock;
    bool begun; /* a tick has been replayed: what the loop pulses itself is known */
};

/* `servo` is freshly initialised with the recorded configuration and a record attached. -EINVAL as
 * vlad_flight_state_restore(). */
int vlad_flight_replay_begin(struct vlad_flight_replay *replay, struct vlad_servo *servo,
                             const struct vlad_flight_state *state,
                             const int64_t (*ring1)[VLAD_MAX_JOINTS],
                             const int64_t (*ring2)[VLAD_MAX_JOINTS]);

/* The timeline that the loop had in front in that state; n == 0: none of this engagement. -EINVAL for
 * an impossible n, period_ns or number of opinions. */
int vlad_flight_replay_timeline(struct vlad_servo *servo, const struct vlad_timeline *timeline);

/* One recorded tick. The timeline that it saw must be the newest, as vlad_servo_push_with() made it. */
void vlad_flight_replay_tick(struct vlad_flight_replay *replay, struct vlad_servo *servo,
                             const struct vlad_flight_tick *tick);

/* One recorded push. `first`: the producer's memory and timing are set from the record, and the queue
 * is empty where timelines went before that are not in it. -EINVAL when that is no timing, or for
 * actions that are absent though the shape is right. */
int vlad_flight_replay_push(struct vlad_servo *servo, const struct vlad_flight_chunk *record,
                             const double *actions, bool first);

/* The recorded timing of another policy; a record without a way of merging keeps the configuration's. */
int vlad_flight_replay_timing(struct vlad_servo *servo, const struct vlad_flight_timing *record);

#endif
