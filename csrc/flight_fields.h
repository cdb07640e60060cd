/* flight_fields.h: what the flight record holds of the servo loop.
 *
 * The lists are the structs, and the names, types and bounds by which Python writes them to a file
 * and reads them back: F(type, name, count, range, role). A new input of the loop or of the gate
 * belongs into its list. A field that an older file does not have reads as 0.
 */
#ifndef VLAD_FLIGHT_FIELDS_H
#define VLAD_FLIGHT_FIELDS_H

#include "servo_loop.h"

enum vlad_flight_kind {
    VLAD_FLIGHT_TICK = 1,
    VLAD_FLIGHT_STATE,  /* the loop's own state, every few seconds */
    VLAD_FLIGHT_CHUNK,  /* then its actions (double), then the merged timeline if one was published:
                          * action_nu, t_obs_ns, and opinions where it is an ensemble */
    VLAD_FLIGHT_TIMING, /* another policy's timing: the queue was emptied */
    VLAD_FLIGHT_NOTE,   /* JSON from Python */
    VLAD_FLIGHT_PICTURE /* a thumbnail, from Python */
};

/* What a value may be, where a file is read that anybody may have written. */
enum vlad_flight_range {
    VLAD_RANGE_ANY,   /* masks, error codes, counts of the past, all doubles */
    VLAD_RANGE_FLAG,  /* 0 or 1 */
    VLAD_RANGE_NU,    /* +-VLAD_MAX_NU */
    VLAD_RANGE_NS,    /* +-2^61 */
    VLAD_RANGE_NS_OR_NONE, /* or INT64_MIN */
    VLAD_RANGE_RUN,   /* 0 .. 10^6 */
    VLAD_RANGE_COUNT, /* 0 .. 2^62 */
    VLAD_RANGE_TIMELINE, VLAD_RANGE_MODE, VLAD_RANGE_STARVE, VLAD_RANGE_LEVEL,
    VLAD_RANGE_SUM,   /* a sum of the trajectory's windows */
    VLAD_RANGE_WINDOW, /* an index into one */
    VLAD_RANGE_MERGE  /* 0 .. VLAD_N_AGGREGATES */
};

enum vlad_flight_role {
    VLAD_FLIGHT_IN,  /* from outside: a replay is given it */
    VLAD_FLIGHT_OUT, /* decided: a replay must come to the same */
};

#define VLAD_FLIGHT_CLOCKS 10 /* readings of the arm's clock in one tick */

#define VLAD_FLIGHT_TICK_FIELDS(F)                                                               \
    F(uint64_t, number, 1, COUNT, IN)                                                            \
    F(int64_t, now_ns, 1, NS, IN)                                                                \
    F(int64_t, late_ns, 1, NS, IN)                                                               \
    F(int64_t, slept_ns, 1, NS, IN)                                                              \
    F(uint64_t, pulsed, 1, ANY, IN) /* mask of faults */                                         \
    F(uint8_t, level, VLAD_N_FAULTS + 1, LEVEL, IN) /* the most that a stage or the loop says */ \
    F(uint8_t, own, VLAD_N_FAULTS + 1, LEVEL, OUT)  /* what the loop itself says */              \
    F(uint64_t, timeline, 1, COUNT, IN) /* number of the one in front */                         \
    F(int64_t, adopted_nu, VLAD_MAX_JOINTS, NU, IN)                                              \
    F(int64_t, clock_ns, VLAD_FLIGHT_CLOCKS, NS, IN)                                             \
    F(int64_t, read_t_ns, 1, NS, IN)                                                             \
    F(int64_t, position_nu, VLAD_MAX_JOINTS, NU, IN)                                             \
    F(int64_t, velocity_nu_s, VLAD_MAX_JOINTS, NU, IN)                                           \
    F(int32_t, load_permille, VLAD_MAX_JOINTS, ANY, IN)                                          \
    F(int32_t, voltage_mv, VLAD_MAX_JOINTS, ANY, IN)                                             \
    F(int32_t, temperature_c, VLAD_MAX_JOINTS, ANY, IN)                                          \
    F(int64_t, register_nu, VLAD_MAX_JOINTS, NU, IN) /* goals, as read back */                   \
    F(int32_t, limit_permille, VLAD_MAX_JOINTS, ANY, IN)                                         \
    F(uint32_t, has_torque, 1, ANY, IN)                                                          \
    F(uint32_t, limited, 1, ANY, IN)                                                             \
    F(uint32_t, answered, 1, ANY, IN)                                                            \
    F(uint32_t, corrupt, 1, ANY, IN)                                                             \
    F(uint32_t, requests, 1, ANY, IN)                                                            \
    F(uint32_t, refusals, 1, ANY, IN)                                                            \
    F(int32_t, starve_cause, 1, STARVE, IN)                                                      \
    F(int32_t, read_rc, 1, ANY, IN)                                                              \
    F(int32_t, write_rc, 1, ANY, IN)                                                             \
    F(int32_t, torque_rc, 1, ANY, IN)                                                            \
    F(int32_t, limit_rc, 1, ANY, IN)                                                             \
    F(uint8_t, status, VLAD_MAX_JOINTS, ANY, IN)                                                 \
    F(uint8_t, realtime, 1, FLAG, IN)                                                            \
    F(uint8_t, adopted, 1, FLAG, IN)                                                             \
    F(uint8_t, adopted_torque, 1, FLAG, IN)                                                      \
    F(uint8_t, mode, 1, MODE, OUT)                                                               \
    F(uint8_t, reaction, 1, ANY, OUT)                                                            \
    F(uint8_t, wrote, 1, FLAG, OUT)                                                              \
    F(uint8_t, powered, 1, FLAG, OUT) /* a torque command went out */                            \
    F(uint8_t, power_on, 1, FLAG, OUT)                                                           \
    F(uint8_t, torque_on, 1, FLAG, OUT)                                                          \
    F(uint8_t, parking, 1, FLAG, OUT)                                                            \
    F(uint8_t, at_rest, 1, FLAG, OUT)                                                            \
    F(uint8_t, overdue, 1, FLAG, OUT)                                                            \
    F(uint8_t, bus_up, 1, FLAG, OUT)                                                             \
    F(uint32_t, power_mask, 1, ANY, OUT)                                                         \
    F(uint32_t, limit_mask, 1, ANY, OUT)                                                         \
    F(int32_t, sent_limit, VLAD_MAX_JOINTS, ANY, OUT) /* permille, handed to the arm */          \
    F(uint32_t, lying, 1, ANY, OUT)                                                              \
    F(uint8_t, letting_down, 1, FLAG, OUT)                                                       \
    F(int32_t, queue_depth, 1, ANY, OUT)                                                         \
    F(int32_t, starved_cause, 1, STARVE, OUT)                                                    \
    F(uint64_t, active, 1, ANY, OUT)                                                             \
    F(uint64_t, latched, 1, ANY, OUT)                                                            \
    F(uint64_t, why_not, 1, ANY, OUT)                                                            \
    F(uint64_t, epoch, 1, COUNT, OUT)                                                            \
    F(int64_t, t_execution_ns, 1, NS, OUT)                                                       \
    F(int64_t, rest_since_ns, 1, NS, OUT)                                                        \
    F(int64_t, goal_nu, VLAD_MAX_JOINTS, NU, OUT)    /* of the trajectory */                     \
    F(int64_t, sent_nu, VLAD_MAX_JOINTS, NU, OUT)    /* handed to the arm, with goals or torque */ \
    F(int64_t, written_nu, VLAD_MAX_JOINTS, NU, OUT) /* in force afterwards */

#define VLAD_FLIGHT_CHUNK_FIELDS(F)                                                              \
    F(uint64_t, number, 1, COUNT, IN)    /* of the push: 1, 2, ... */                            \
    F(int64_t, now_ns, 1, NS, IN)                                                                \
    F(uint64_t, seq, 1, COUNT, IN)       /* from here: struct vlad_chunk */                      \
    F(uint64_t, chunk_epoch, 1, COUNT, IN)                                                       \
    F(int64_t, t_obs_ns, 1, NS, IN)                                                              \
    F(int64_t, frame_age_ns, 1, NS, IN)                                                          \
    F(int64_t, reuse_age_ns, 1, NS, IN)                                                          \
    F(int32_t, n_actions, 1, ANY, IN)                                                            \
    F(int32_t, n_joints, 1, ANY, IN)                                                             \
    F(uint8_t, cold, 1, FLAG, IN)                                                                \
    F(uint8_t, at_rest, 1, FLAG, IN)     /* from here: struct vlad_command */                    \
    F(uint64_t, epoch, 1, COUNT, IN)                                                             \
    F(int64_t, rest_since_ns, 1, NS, IN)                                                         \
    F(int64_t, goal_nu, VLAD_MAX_JOINTS, NU, IN)                                                 \
    F(int64_t, period_ns, 1, NS, IN)     /* from here: the policy's timing in force */           \
    F(int64_t, max_observation_age_ns, 1, NS, IN)                                                \
    F(int64_t, max_frame_age_ns, 1, NS, IN)                                                      \
    F(int32_t, merge, 1, MERGE, IN)      /* 1 + its aggregate; 0: the configuration's */         \
    F(int64_t, ensemble, 1, NU, IN)      /* its coefficient, in millionths */                    \
    F(int64_t, bad_ns, 3, NS, IN)        /* the producer's own memory before */                  \
    F(int32_t, stale_run, 1, ANY, IN)                                                            \
    F(uint64_t, before, 1, COUNT, IN)    /* number of the newest timeline before */              \
    F(uint64_t, timeline, 1, COUNT, OUT) /* and after: it grew if the chunk was taken */         \
    F(uint64_t, raised, 1, ANY, OUT)     /* mask of faults */                                    \
    F(int32_t, verdict, 1, ANY, OUT)                                                             \
    F(int32_t, reason, 1, ANY, OUT)                                                              \
    F(int32_t, joint, 1, ANY, OUT)                                                               \
    F(int32_t, action, 1, ANY, OUT)                                                              \
    F(int32_t, n_clamped, 1, ANY, OUT)                                                           \
    F(int32_t, n_elapsed, 1, ANY, OUT)                                                           \
    F(int32_t, n_tail_dropped, 1, ANY, OUT)                                                      \
    F(int32_t, n_blended, 1, ANY, OUT)                                                           \
    F(double, value, 1, ANY, OUT)                                                                \
    F(double, bound, 1, ANY, OUT)                                                                \
    F(int64_t, t0_ns, 1, NS, OUT)        /* of the timeline that was published, or 0 */          \
    F(int64_t, overdue_ns, 1, NS, OUT)                                                           \
    F(int32_t, n_timeline, 1, TIMELINE, OUT)

#define VLAD_FLIGHT_TIMING_FIELDS(F)                                                             \
    F(int64_t, period_ns, 1, NS, IN)                                                             \
    F(int64_t, max_observation_age_ns, 1, NS, IN)                                                \
    F(int64_t, max_frame_age_ns, 1, NS, IN)                                                      \
    F(int32_t, merge, 1, MERGE, IN)     /* 1 + its aggregate; 0: the configuration's */          \
    F(int64_t, ensemble, 1, NU, IN)     /* its coefficient, in millionths */                     \
    F(uint64_t, timeline, 1, COUNT, IN) /* number of the empty one */

#define VLAD_FLIGHT_MEMBER(type, name, count, range, role) type name[count];
struct vlad_flight_tick { VLAD_FLIGHT_TICK_FIELDS(VLAD_FLIGHT_MEMBER) };
struct vlad_flight_chunk { VLAD_FLIGHT_CHUNK_FIELDS(VLAD_FLIGHT_MEMBER) };
struct vlad_flight_timing { VLAD_FLIGHT_TIMING_FIELDS(VLAD_FLIGHT_MEMBER) };
#undef VLAD_FLIGHT_MEMBER

/* The loop's own state, so that a replay can begin in the middle of a run. What vlad_servo_tick()
 * remembers from one tick to the next belongs into this list, or a replay that starts there decides
 * differently. Copied as they are: F(type, name, path in struct vlad_servo, count, range). */
#define VLAD_FLIGHT_RECENT ((VLAD_N_FAULTS + 1) * VLAD_FAULT_MAX_REPEAT)
#define VLAD_FLIGHT_STATE_FIELDS(F)                                                              \
    F(int64_t, t_ns, now.t_ns, 1, NS)                                                            \
    F(uint64_t, ticks, now.counters.ticks, 1, COUNT)                                             \
    F(uint64_t, epoch, now.epoch, 1, COUNT)                                                      \
    F(uint64_t, adoptions, now.adoptions, 1, COUNT)                                              \
    F(int64_t, queue_depth, now.queue_depth, 1, ANY)                                             \
    F(int64_t, t_execution_ns, now.t_execution_ns, 1, NS)                                        \
    F(int64_t, last_due_ns, now.last_due_ns, 1, NS_OR_NONE)                                      \
    F(int64_t, read_t_ns, now.arm.t_ns, 1, NS)                                                   \
    F(uint32_t, answered, now.arm.answered, 1, ANY)                                              \
    F(uint32_t, corrupt, now.arm.corrupt, 1, ANY)                                                \
    F(int64_t, position_nu, now.arm.position_nu, VLAD_MAX_JOINTS, NU)                            \
    F(int64_t, velocity_nu_s, now.arm.velocity_nu_s, VLAD_MAX_JOINTS, NU)                        \
    F(int32_t, load_permille, now.arm.load_permille, VLAD_MAX_JOINTS, ANY)                       \
    F(int32_t, voltage_mv, now.arm.voltage_mv, VLAD_MAX_JOINTS, ANY)                             \
    F(int32_t, temperature_c, now.arm.temperature_c, VLAD_MAX_JOINTS, ANY)                       \
    F(uint8_t, status, now.arm.status, VLAD_MAX_JOINTS, ANY)                                     \
    F(int64_t, register_nu, now.arm.goal_nu, VLAD_MAX_JOINTS, NU)                                \
    F(int32_t, found_limit, now.arm.limit_permille, VLAD_MAX_JOINTS, ANY)                        \
    F(uint32_t, has_torque, now.arm.powered, 1, ANY)                                             \
    F(uint32_t, limited, now.arm.limited, 1, ANY)                                                \
    F(int64_t, supply_mv, now.supply_mv, 1, RUN)                                                 \
    F(uint32_t, lying, now.lying, 1, ANY)                                                        \
    F(int32_t, limit_permille, now.limit_permille, VLAD_MAX_JOINTS, ANY)                         \
    F(uint64_t, answers, watch.answers, VLAD_MAX_JOINTS, COUNT)                                  \
    F(int32_t, recent_c, watch.temperature_c, VLAD_MAX_JOINTS * VLAD_RECENT, ANY)                \
    F(int32_t, recent_mv, watch.voltage_mv, VLAD_MAX_JOINTS * VLAD_RECENT, ANY)                  \
    F(int64_t, last_nu, watch.position_nu, VLAD_MAX_JOINTS, NU)                                  \
    F(int64_t, asked_ns, watch.asked_ns, VLAD_MAX_JOINTS, NS)                                    \
    F(int64_t, jumped_nu, watch.jumped_nu, VLAD_MAX_JOINTS, SUM)                                 \
    F(int64_t, pace_nu, watch.pace_nu, VLAD_MAX_JOINTS, SUM)                                     \
    F(int64_t, aside_nu, watch.aside_nu, VLAD_MAX_JOINTS, SUM)                                   \
    F(int64_t, doubt_since_ns, watch.doubt_since_ns, VLAD_MAX_JOINTS, NS)                        \
    F(int64_t, astray_since_ns, watch.astray_since_ns, VLAD_MAX_JOINTS, NS)                      \
    F(int64_t, low_nu, watch.low_nu, VLAD_MAX_JOINTS, NU)                                        \
    F(int64_t, high_nu, watch.high_nu, VLAD_MAX_JOINTS, NU)                                      \
    F(int32_t, unpowered, watch.unpowered, VLAD_MAX_JOINTS, RUN)                                 \
    F(int32_t, goal_lost, watch.goal_lost, VLAD_MAX_JOINTS, RUN)                                 \
    F(uint64_t, sag_n, sag.n, 1, COUNT)                                                          \
    F(int64_t, sag_t_ns, sag.t_ns, VLAD_SAG_TICKS, NS)                                           \
    F(int64_t, sag_mv, sag.mean_mv, VLAD_SAG_TICKS, RUN)                                         \
    F(int32_t, sag_run, sag.run, 1, RUN)                                                         \
    F(int64_t, replies_slot, replies.slot, 1, NS)                                                \
    F(uint32_t, replies_bad, replies.bad, VLAD_RATE_SLOTS, RUN)                                  \
    F(uint32_t, replies_all, replies.all, VLAD_RATE_SLOTS, RUN)                                  \
    F(int64_t, wakes_slot, wakes.slot, 1, NS)                                                    \
    F(uint32_t, wakes_bad, wakes.bad, VLAD_RATE_SLOTS, RUN)                                      \
    F(uint32_t, wakes_all, wakes.all, VLAD_RATE_SLOTS, RUN)                                      \
    F(int32_t, overruns_run, overruns_run, 1, RUN)                                               \
    F(int64_t, slept_seen_ns, slept_seen_ns, 1, NS)                                              \
    F(uint8_t, wrote, wrote, 1, FLAG)                                                            \
    F(uint32_t, yielding, yielding, 1, ANY)                                                      \
    F(int64_t, yield_nu, yield_nu, VLAD_MAX_JOINTS, NU)                                          \
    F(int64_t, easing_since_ns, easing_since_ns, 1, NS)                                          \
    F(uint32_t, limits_due, limits_due, 1, ANY)                                                  \
    F(int32_t, limit_tries, limit_tries, 1, RUN)                                                 \
    F(uint32_t, mode, mode, 1, MODE)                                                             \
    F(uint8_t, torque_on, torque_on, 1, FLAG)                                                    \
    F(uint8_t, torque_wanted, torque_wanted, 1, FLAG)                                            \
    F(uint8_t, parking, parking, 1, FLAG)                                                        \
    F(uint8_t, park_inhibited, park_inhibited, 1, FLAG)                                          \
    F(uint8_t, retry, retry, 1, FLAG)                                                            \
    F(uint8_t, at_rest, at_rest, 1, FLAG)                                                        \
    F(uint8_t, commanded, commanded, 1, FLAG)                                                    \
    F(uint8_t, resumable, resumable, 1, FLAG)                                                    \
    F(uint64_t, halting, halting, 1, ANY)                                                        \
    F(uint8_t, raised, raised, 1, FLAG)                                                          \
    F(uint8_t, returned, returned, 1, FLAG)                                                      \
    F(int32_t, torque_repeats, torque_repeats, 1, RUN)                                           \
    F(int32_t, torque_tries, torque_tries, 1, RUN)                                               \
    F(int32_t, write_failures, write_failures, 1, RUN)                                           \
    F(uint32_t, missed_run, missed_run, VLAD_MAX_JOINTS, RUN)                                    \
    F(uint32_t, corrupt_run, corrupt_run, VLAD_MAX_JOINTS, RUN)                                  \
    F(uint32_t, seen_joints, seen_joints, 1, ANY)                                                \
    F(int64_t, written_nu, written_nu, VLAD_MAX_JOINTS, NU)                                      \
    F(int64_t, read_at_ns, read_at_ns, 1, NS_OR_NONE)                                            \
    F(int64_t, rest_since_ns, rest_since_ns, 1, NS)                                              \
    F(int64_t, starved_since_ns, starved_since_ns, 1, NS)                                        \
    F(int32_t, starved_cause, starved_cause, 1, STARVE)                                          \
    F(uint64_t, seen_seq, seen_seq, 1, COUNT)                                                    \
    F(int64_t, seen_t0_ns, seen_t0_ns, 1, NS)                                                    \
    F(uint8_t, overdue, overdue, 1, FLAG)                                                        \
    F(uint64_t, active, watchdog.active, 1, ANY)                                                 \
    F(uint64_t, latched, watchdog.latched, 1, ANY)                                               \
    F(int32_t, at1, trajectory.at1, 1, WINDOW)                                                   \
    F(int32_t, at2, trajectory.at2, 1, WINDOW)                                                   \
    F(int64_t, sum1, trajectory.sum1, VLAD_MAX_JOINTS, SUM)                                      \
    F(int64_t, sum2, trajectory.sum2, VLAD_MAX_JOINTS, SUM)                                      \
    F(int64_t, input_nu, trajectory.input_nu, VLAD_MAX_JOINTS, NU)                               \
    F(int64_t, goal_nu, trajectory.goal_nu, VLAD_MAX_JOINTS, NU)                                 \
    F(int64_t, velocity_nu, trajectory.velocity_nu, VLAD_MAX_JOINTS, NU)                         \
    F(int64_t, drained_nu, trajectory.drained_nu, VLAD_MAX_JOINTS, NU)                           \
    F(int32_t, still_ticks, trajectory.still_ticks, 1, RUN)                                      \
    F(uint8_t, stopping, trajectory.stopping, 1, FLAG)

/* Gathered: what is not one object of struct vlad_servo. F(type, name, count, range) */
#define VLAD_FLIGHT_STATE_EXTRA(F)                                                               \
    F(uint8_t, bus_up, 1, FLAG)                                                                  \
    F(uint64_t, timeline, 1, COUNT)         /* number of the one in front */                     \
    F(int32_t, n1, 1, RUN)                  /* rows of the trajectory's windows */               \
    F(int32_t, n2, 1, RUN)                                                                       \
    F(uint8_t, fault_active, VLAD_N_FAULTS + 1, FLAG)                                            \
    F(uint8_t, fault_latched, VLAD_N_FAULTS + 1, FLAG)                                           \
    F(uint8_t, fault_level, VLAD_N_FAULTS + 1, LEVEL)                                            \
    F(int64_t, fault_level_ns, VLAD_N_FAULTS + 1, NS)                                            \
    F(int64_t, fault_since_ns, VLAD_N_FAULTS + 1, NS)                                            \
    F(int64_t, fault_last_true_ns, VLAD_N_FAULTS + 1, NS)                                        \
    F(uint64_t, fault_count, VLAD_N_FAULTS + 1, COUNT)                                           \
    F(uint64_t, fault_since_clear, VLAD_N_FAULTS + 1, COUNT)                                     \
    F(int64_t, fault_recent_ns, VLAD_FLIGHT_RECENT, NS)

#define VLAD_FLIGHT_MEMBER(type, name, path, count, range) type name[count];
#define VLAD_FLIGHT_EXTRA(type, name, count, range) type name[count];
struct vlad_flight_state {
    VLAD_FLIGHT_STATE_FIELDS(VLAD_FLIGHT_MEMBER)
    VLAD_FLIGHT_STATE_EXTRA(VLAD_FLIGHT_EXTRA)
};
#undef VLAD_FLIGHT_MEMBER
#undef VLAD_FLIGHT_EXTRA

/* One field of a record, as Python sees it. */
struct vlad_flight_field {
    const char *name;
    char type; /* of Python's struct module: b B i I q Q d */
    uint32_t offset, count;
    enum vlad_flight_range range;
    enum vlad_flight_role role;
};
extern const struct vlad_flight_field vlad_flight_tick_fields[], vlad_flight_chunk_fields[],
    vlad_flight_timing_fields[], vlad_flight_state_fields[]; /* each ends with a name of NULL */

#endif
