/* servo_loop.h: the one thread that decides motion, from mode x queue x watchdog.
 *
 * Each tick: read present state -> faults -> requests -> decide -> trajectory -> last checks ->
 * write -> publish. vlad_servo_tick() is the whole of it, with its clock and arm passed in, so a
 * test runs hours in seconds; vlad_servo_start() puts it on a SCHED_FIFO thread that sleeps to
 * absolute times and skips whole periods when it was late. It takes no lock, allocates nothing and
 * touches no Python object.
 *
 * Everything it shares: `requests`, `refusals`, `starve_cause`, the watchdog's words (many writers,
 * atomic); the queue (one producer); `report`, `command` (seqlocks it writes); `events` (a ring it
 * writes, one reader).
 */
#ifndef VLAD_SERVO_LOOP_H
#define VLAD_SERVO_LOOP_H

#include <pthread.h>   /* the thread */
#include <stdatomic.h> /* words that cross threads */

#include "action_queue.h"
#include "arm.h"
#include "histogram.h"
#include "rate_window.h"
#include "seqlock.h"
#include "trajectory.h"
#include "vlad.h"
#include "watchdog.h"

/* What anybody may ask for. Within one tick the lowest authority wins. */
enum vlad_request {
    VLAD_REQ_LIMP = 1 << 0,
    VLAD_REQ_HOLD = 1 << 1,
    VLAD_REQ_PARK = 1 << 2,
    VLAD_REQ_CLEAR = 1 << 3,
    VLAD_REQ_RESUME = 1 << 4,
    VLAD_REQ_ENGAGE = 1 << 5
};

/* Why engage would be refused now: a mask, shown by `vladctl status`. The first group is judged by
 * the loop, the second by the Python side through `refusals`. */
enum vlad_why_not {
    VLAD_WHY_BUS = 1 << 0,          /* no bus, or a joint has not answered yet */
    VLAD_WHY_LATCHED = 1 << 1,      /* a latched fault: `clear` first */
    VLAD_WHY_FAULT = 1 << 2,        /* an active fault with reaction HOLD or worse */
    VLAD_WHY_REALTIME = 1 << 3,     /* no SCHED_FIFO or memory lock, and allow_non_realtime is off */
    VLAD_WHY_LIMITS = 1 << 4,       /* present pose beyond the joint limits */
    VLAD_WHY_MOVING = 1 << 5,       /* still stopping, parking or going limp */
    VLAD_WHY_NO_POLICY = 1 << 8,
    VLAD_WHY_NO_TASK = 1 << 9,
    VLAD_WHY_TOO_SLOW = 1 << 10,    /* the load check refused async */
    VLAD_WHY_CAMERA = 1 << 11,      /* a camera has no fresh frame */
    VLAD_WHY_MISMATCH = 1 << 12,    /* the bundle does not fit this robot */
    VLAD_WHY_CALIBRATION = 1 << 13,
    VLAD_WHY_STOPPING = 1 << 14,    /* the daemon is going down */
    VLAD_WHY_MEMORY = 1 << 15       /* memory is short */
};

/* Why a tick of an engaged arm had no action to execute. Set by the scheduler, counted per tick. */
enum vlad_starve {
    VLAD_STARVE_COLD,      /* waiting for the first chunk after rest */
    VLAD_STARVE_INFERENCE, /* admitted, but it takes longer than the queue lasts */
    VLAD_STARVE_REFUSED,   /* predicted T_inference >= T_execution: coming to rest first */
    VLAD_STARVE_LATE,
    VLAD_STARVE_STALE,
    VLAD_STARVE_GATE,      /* rejected for its contents */
    VLAD_STARVE_STAGE,     /* a stage is down or failed */
    VLAD_STARVE_SYNC,      /* sync mode: by design between chunks */
    VLAD_N_STARVES
};

struct vlad_servo_config {
    struct vlad_gate_config gate;     /* limits and ages; gate.limits.n_joints rules */
    enum vlad_aggregate aggregate;    /* until vlad_servo_policy_timing() */
    int64_t period_ns;                /* of the servo loop */
    int64_t read_budget_ns;           /* a read never costs more */
    int64_t unit_nu[VLAD_MAX_JOINTS]; /* nano-units of one encoder tick */
    int64_t silent_ns;                /* a servo silent for so long latches (50 ms) */
    int64_t overrun_hold_ns;          /* a tick later than this is a HOLD (50 ms) */
    bool has_rest_pose;
    int64_t rest_nu[VLAD_MAX_JOINTS];
    int park_permille;                /* speed of PARK, of v_max */
    bool allow_non_realtime;
    int64_t park_c;                   /* fault 21: PARK; 5 below SLOW, 10 below WARN; 0: 70 */
    int64_t supply_mv;                /* faults 22 and 45; 0: as found when the bus is taken over */
    int64_t following_nu;             /* fault 14; 0 = not checked */
    uint32_t gripper_mask;            /* joints that close on things: bounded by torque instead */
};

enum vlad_event_kind {
    VLAD_EV_MODE,     /* a = old, b = new */
    VLAD_EV_FAULT,    /* a = fault id, b = active | latched << 1, value = enum vlad_reaction now */
    VLAD_EV_REFUSED,  /* a = request, b = why_not mask */
    VLAD_EV_GAP,      /* a = starve cause, value = duration ns: the queue is covered again */
    VLAD_EV_WIRE,     /* a = joint, b = 1 limit 2 step, value = goal nu that was not written */
    VLAD_EV_TORQUE,   /* a = mask, b = on */
    VLAD_EV_PARKED,
    VLAD_EV_LET_DOWN  /* PARK without a sweep has begun: torque fades */
};

struct vlad_event {
    int64_t t_ns;
    int64_t kind;
    int64_t a, b, value;
};

#define VLAD_EVENTS 1024

struct vlad_servo_counters {
    uint64_t ticks, overruns, skipped_periods;
    uint64_t writes, dropped_writes, write_errors, wire_limit, wire_step;
    uint64_t reads, read_errors, missed[VLAD_MAX_JOINTS], corrupt[VLAD_MAX_JOINTS];
    uint64_t goals_lost[VLAD_MAX_JOINTS];    /* ticks in which the goal register held another */
    uint64_t encoder_jumps[VLAD_MAX_JOINTS]; /* steps that no servo can turn */
    uint64_t late_wakes, let_down;
    uint64_t chunks, accepted, clamped, clamped_elements, tails_dropped;
    uint64_t rejected[VLAD_N_REASONS];
    uint64_t starved[VLAD_N_STARVES]; /* ticks */
    uint64_t gaps, engaged_ticks, covered_ticks, negative_ages;
    uint64_t overdue; /* timelines that were published too late, and not executed */
    uint64_t events_dropped, engagements, refused_requests;
};

/* All that status shows, published once a tick. */
struct vlad_servo_report {
    int64_t t_ns;
    int64_t mode, reaction;      /* enums */
    uint64_t why_not;            /* mask */
    uint64_t epoch;
    int64_t bus_up, torque_on, realtime, at_rest, rest_since_ns, parking, letting_down;
    int64_t supply_mv;           /* nominal voltage; 0 = not known yet */
    uint32_t lying;              /* joints whose encoder is not believed, and which have no torque */
    int32_t limit_permille[VLAD_MAX_JOINTS]; /* torque limits asked for */
    int64_t queue_depth, t_execution_ns, last_due_ns;
    int64_t wire_age_ns, wire_age_max_ns; /* now - t_obs of the action behind the newest goal */
    uint64_t active, latched;
    int64_t fault_since_ns[VLAD_N_FAULTS + 1];
    uint64_t fault_count[VLAD_N_FAULTS + 1];
    uint8_t fault_reaction[VLAD_N_FAULTS + 1]; /* in force: the row's, or that of a lower level */
    int64_t goal_nu[VLAD_MAX_JOINTS];
    struct vlad_arm_state arm;
    struct vlad_servo_counters counters;
    struct vlad_histogram wake, compute, bus;
    uint64_t handled;            /* requests handled so far: see vlad_servo_request() */
    uint64_t adoptions;          /* buses taken over so far; bus_up is that of the newest */
};

/* The word that tells the loop to take over a new bus, or none. */
struct vlad_adoption {
    const struct vlad_arm_ops *ops;
    void *arm;
    bool torque_on;
    int64_t command_nu[VLAD_MAX_JOINTS];
};

#define VLAD_RECENT 5     /* readings that must agree */
#define VLAD_SAG_TICKS 16

/* What the loop remembers of the joints since the bus was taken over. Arrays, so that the flight
 * record can name each. */
struct vlad_joint_watch {
    uint64_t answers[VLAD_MAX_JOINTS];
    int32_t temperature_c[VLAD_MAX_JOINTS][VLAD_RECENT]; /* rings */
    int32_t voltage_mv[VLAD_MAX_JOINTS][VLAD_RECENT];
    int64_t position_nu[VLAD_MAX_JOINTS];     /* newest answer .. */
    int64_t asked_ns[VLAD_MAX_JOINTS];        /* .. and when its read began; 0 = none */
    int64_t jumped_nu[VLAD_MAX_JOINTS];       /* sum of its impossible steps */
    int64_t pace_nu[VLAD_MAX_JOINTS];         /* its newest other step, in a tick */
    int64_t aside_nu[VLAD_MAX_JOINTS];        /* how much its newest step was off that, if by much */
    int64_t doubt_since_ns[VLAD_MAX_JOINTS];  /* of its encoder; 0 = none */
    int64_t astray_since_ns[VLAD_MAX_JOINTS]; /* beyond the following limit; 0 = not */
    int64_t low_nu[VLAD_MAX_JOINTS], high_nu[VLAD_MAX_JOINTS]; /* goals since then */
    int32_t unpowered[VLAD_MAX_JOINTS], goal_lost[VLAD_MAX_JOINTS]; /* ticks in a row */
};

/* The mean voltage of the newest ticks. */
struct vlad_sag {
    uint64_t n;
    int64_t t_ns[VLAD_SAG_TICKS], mean_mv[VLAD_SAG_TICKS];
    int32_t run; /* ticks in a row that it fell */
};

struct vlad_servo {
    struct vlad_servo_config config;
    const struct vlad_arm_ops *ops;
    void *arm;
    struct vlad_watchdog watchdog;
    struct vlad_queue queue;
    struct vlad_trajectory trajectory;

    _Atomic uint32_t requests;     /* written by anyone, taken by the loop */
    _Atomic uint32_t refusals;     /* vlad_why_not bits 8..; written by the supervisor */
    _Atomic int starve_cause;      /* written by the scheduler */
    _Atomic int64_t slept_ns;      /* how long the machine has slept; written by the loop's thread */
    _Atomic int adoption_ready;    /* 1: `adoption` is filled in; the loop resets it */
    struct vlad_adoption adoption;

    struct { struct vlad_seqlock lock; _Alignas(8) struct vlad_command body; } command;
    struct { struct vlad_seqlock lock; _Alignas(8) struct vlad_servo_report body; } report;
    struct vlad_event event[VLAD_EVENTS];
    _Atomic uint32_t event_head;   /* written by the loop */
    _Atomic uint32_t event_tail;   /* written by the reader */

    /* What this tick took from other threads: read once, so that a tick is a function of them. */
    struct {
        struct vlad_watchdog_input faults;
        uint32_t requests, refusals;
        int starve_cause, realtime;
        int64_t slept_ns;
    } taken;
    struct vlad_flight *flight; /* records every tick and chunk; NULL: nothing does */

    /* The loop's own. */
    struct vlad_servo_report now;  /* the report being built */
    enum vlad_mode mode;
    bool torque_on, parking, park_inhibited, retry, at_rest;
    bool commanded; /* the operator has set the arm in motion on this bus, and not said hold since */
    bool resumable; /* nothing has been latched since the last engagement */
    uint64_t halting; /* bit = fault id: reacts with HOLD or worse */
    bool raised;    /* in this tick one more does */
    bool returned;  /* a servo that was silent for long answers again */
    int torque_repeats, torque_tries;
    bool torque_wanted;
    int write_failures;
    bool wrote;     /* goals went out in the last tick */
    struct vlad_joint_watch watch;
    struct vlad_sag sag;
    uint32_t yielding; /* joints whose goal goes to yield_nu: row 14, or engaging */
    int64_t yield_nu[VLAD_MAX_JOINTS];
    int64_t easing_since_ns; /* PARK without a sweep; 0 = not */
    uint32_t limits_due;     /* joints whose torque limit must go out */
    int32_t limit_tries;
    struct vlad_rate_window replies, wakes; /* rows 17 and 24 */
    int32_t overruns_run;
    int64_t slept_seen_ns;   /* the most that `slept_ns` has been */
    uint32_t missed_run[VLAD_MAX_JOINTS], corrupt_run[VLAD_MAX_JOINTS];
    uint32_t seen_joints;
    int64_t written_nu[VLAD_MAX_JOINTS]; /* last goal that went out, or was adopted */
    int64_t lookahead_ns, read_at_ns, rest_since_ns, starved_since_ns;
    int starved_cause;
    uint64_t seen_seq; /* of the timeline that was judged last, and its start */
    int64_t seen_t0_ns;
    bool overdue;
    int64_t bus_ns; /* this tick's time on the bus */

    /* The producer's own (vlad_servo_push). */
    int stale_run;
    int64_t bad_ns[3];             /* newest content rejections: three in 10 s -> HOLD */
    _Atomic uint64_t producer[VLAD_N_REASONS]; /* rejected, by reason */
    _Atomic uint64_t p_chunks, p_accepted, p_clamped, p_clamped_elements, p_tails, p_negative;

    /* The thread. */
    pthread_t thread;
    _Atomic int running;           /* 1 while the thread should go on */
    _Atomic int realtime;          /* 1: FIFO and locked memory were granted */
};

/* 0; -EINVAL or -ERANGE from the parts (*joint as in vlad_trajectory_init). Memory is the caller's:
 * one allocation of sizeof(struct vlad_servo), which vlad_servo_start locks and prefaults. */
int vlad_servo_init(struct vlad_servo *servo, const struct vlad_servo_config *config,
                    int64_t now_ns, int *joint);

/* Hands the loop a bus with the command it is to adopt; -EBUSY while the last one is not taken yet.
 * Any thread but the loop's. While no bus is adopted the mode is OFFLINE. */
int vlad_servo_adopt(struct vlad_servo *servo, const struct vlad_arm_ops *ops, void *arm,
                     bool torque_on, const int64_t *command_nu);

/* Whether a bus has been handed over that the loop has not taken yet: the next is refused till then. */
bool vlad_servo_adopting(const struct vlad_servo *servo);

/* Any thread; never waits. The outcome is in the report: its `handled` grows by one whenever the
 * loop has taken a non-empty set of requests; a refusal is an event and counters.refused_requests. */
void vlad_servo_request(struct vlad_servo *servo, uint32_t requests);

/* Any thread: the Python side's reasons not to engage (VLAD_WHY_NO_POLICY and up), and what a starving
 * arm is waiting for. */
void vlad_servo_refusals(struct vlad_servo *servo, uint32_t why_not);
void vlad_servo_starve(struct vlad_servo *servo, int cause);
/* Row 33: the machine has slept so long in all. A tick that finds it longer than before latches. */
void vlad_servo_slept(struct vlad_servo *servo, int64_t slept_ns);

/* Producer thread, between pushes: the timing of another policy, and how its chunks are merged (see
 * vlad_queue_set_aggregate). Empties the queue. 0 or -EINVAL. */
int vlad_servo_policy_timing(struct vlad_servo *servo, int64_t period_ns, int64_t horizon_ns,
                             int64_t max_frame_age_ns, enum vlad_aggregate aggregate,
                             int64_t ensemble);

/* The one way for a chunk to reach the arm: gate, merge, gate, queue; counted. Producer thread. */
void vlad_servo_push(struct vlad_servo *servo, const struct vlad_chunk *chunk, int64_t now_ns,
                     struct vlad_gate_report *report);

/* One tick. `late_ns` is how late the caller woke up (>= 0). */
void vlad_servo_tick(struct vlad_servo *servo, int64_t now_ns, int64_t late_ns);

/* Readers. */
void vlad_servo_read(struct vlad_servo *servo, struct vlad_servo_report *report);
void vlad_servo_command(struct vlad_servo *servo, struct vlad_command *command);
bool vlad_servo_next_event(struct vlad_servo *servo, struct vlad_event *event);

/* Simulated time: ticks until `until_ns` on a vlad_memory_arm's clock. */
struct vlad_memory_arm;
void vlad_servo_simulate(struct vlad_servo *servo, struct vlad_memory_arm *arm, int64_t until_ns);

/* The thread: SCHED_FIFO at `priority` on `cpu` (-1 = any). 0 or -errno of pthread_create. Whether
 * real time was granted is in the report; `reason` gets why not. */
int vlad_servo_start(struct vlad_servo *servo, int priority, int cpu, char *reason, int reason_size);
/* vlad_rt_trim() for the process of this loop, which is not real time any more where the memory could not
 * be locked again: `reason` gets why, "" when all is well. 0 or -errno. */
int vlad_servo_trim(struct vlad_servo *servo, char *reason, int reason_size);
void vlad_servo_stop(struct vlad_servo *servo); /* joins; what the servos hold, they go on holding */

#endif
