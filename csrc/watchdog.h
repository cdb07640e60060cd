/* watchdog.h: heartbeats in, one reaction out. Pure: time is passed in.
 *
 * The rows (name, reaction, latch, clear condition) are csrc/fault_table.h, generated from
 * vlad/faults.py. Any thread may beat, hold a condition true or pulse an event; only the servo
 * loop evaluates and clears.
 */
#ifndef VLAD_WATCHDOG_H
#define VLAD_WATCHDOG_H

#include <stdatomic.h> /* beats and conditions cross threads */

#include "fault_table.h"
#include "vlad.h"

enum vlad_stage {
    VLAD_STAGE_CAPTURE,
    VLAD_STAGE_VISION,
    VLAD_STAGE_EXPERT,
    VLAD_STAGE_SUPERVISOR,
    VLAD_STAGE_SERVO,
    VLAD_N_STAGES
};

struct vlad_fault_state {
    bool active;           /* the condition holds, or is within its clear time */
    bool latched;          /* needs `clear` */
    int64_t since_ns;      /* when it became active (kept while latched) */
    int64_t last_true_ns;  /* condition last seen */
    uint64_t count;        /* times it became active, and each further pulse */
    uint64_t since_clear;  /* the same since the operator's last `clear`: repeat -> latch */
    int64_t recent_ns[VLAD_FAULT_MAX_REPEAT]; /* ring of the newest, indexed by since_clear */
};

struct vlad_watchdog {
    _Atomic int64_t beat_ns[VLAD_N_STAGES];  /* written by the stage, read by the servo loop */
    _Atomic int64_t bound_ns[VLAD_N_STAGES]; /* 0 = not watched; written by the supervisor */
    _Atomic uint64_t held;                   /* bit = fault id: condition held true by its stage */
    _Atomic uint64_t pulsed;                 /* bit = fault id: happened since last evaluated */
    struct vlad_fault_state state[VLAD_N_FAULTS + 1]; /* index = fault id 1..50; servo loop only */
    uint64_t active, latched;                /* bit masks of the same; servo loop only */
};

void vlad_watchdog_init(struct vlad_watchdog *watchdog, int64_t now_ns);

/* Any thread. */
void vlad_watchdog_beat(struct vlad_watchdog *watchdog, enum vlad_stage stage, int64_t now_ns);
void vlad_watchdog_bound(struct vlad_watchdog *watchdog, enum vlad_stage stage, int64_t bound_ns,
                         int64_t now_ns); /* also beats, so that a new bound starts fresh */
void vlad_watchdog_hold(struct vlad_watchdog *watchdog, enum vlad_fault fault, bool condition);
void vlad_watchdog_pulse(struct vlad_watchdog *watchdog, enum vlad_fault fault);

/* Servo loop, once a tick. `own` = bit mask of the conditions that the loop itself sees. Missed
 * heartbeats become the fault of their stage (vlad_stage_fault in fault_table.h). Returns the most
 * severe reaction among active and latched faults; a latched one counts as HOLD at least. *changed
 * gets the mask of faults whose active or latched bit changed, for the event log. */
enum vlad_reaction vlad_watchdog_evaluate(struct vlad_watchdog *watchdog, int64_t now_ns,
                                          uint64_t own, uint64_t *changed);

/* Servo loop. Unlatches every fault whose condition is gone, and forgets its repeats; returns the
 * mask still latched. */
uint64_t vlad_watchdog_clear(struct vlad_watchdog *watchdog);

/* True while every watched stage is within its bound. Any thread; decides whether systemd's
 * watchdog is fed. */
bool vlad_watchdog_all_fresh(struct vlad_watchdog *watchdog, int64_t now_ns);

#endif
