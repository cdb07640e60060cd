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
    enum vlad_reaction level; /* of an active one: the row's reaction, or less */
    int64_t level_ns;      /* condition last seen at that level or above */
    bool latched;          /* needs `clear` */
    int64_t since_ns;      /* when it became active (kept while latched) */
    int64_t last_true_ns;  /* condition last seen */
    uint64_t count;        /* times it became active, and each further pulse */
    uint64_t since_clear;  /* those since the operator's last `clear` that count to repeat -> latch:
                              what only warns is no step towards a latch, unless its row only warns */
    int64_t recent_ns[VLAD_FAULT_MAX_REPEAT]; /* ring of the newest, indexed by since_clear */
};

struct vlad_watchdog {
    _Atomic int64_t beat_ns[VLAD_N_STAGES];  /* written by the stage, read by the servo loop */
    _Atomic int64_t bound_ns[VLAD_N_STAGES]; /* 0 = not watched; written by the supervisor */
    /* Index = fault id: enum vlad_reaction at which its stage holds the condition true; 0 = not. */
    _Atomic uint8_t held[VLAD_N_FAULTS + 1];
    _Atomic uint64_t pulsed;                 /* bit = fault id: happened since last evaluated */
    struct vlad_fault_state state[VLAD_N_FAULTS + 1]; /* index = fault id 1..50; servo loop only */
    uint64_t active, latched;                /* bit masks of the same; servo loop only */
};

/* All that one evaluation is decided from, beside the state. */
struct vlad_watchdog_input {
    uint8_t level[VLAD_N_FAULTS + 1]; /* enum vlad_reaction; 0 = the condition does not hold */
    uint64_t pulsed;                  /* bit = fault id */
};

void vlad_watchdog_init(struct vlad_watchdog *watchdog); /* no stage is watched yet */

/* Any thread. */
void vlad_watchdog_beat(struct vlad_watchdog *watchdog, enum vlad_stage stage, int64_t now_ns);
void vlad_watchdog_bound(struct vlad_watchdog *watchdog, enum vlad_stage stage, int64_t bound_ns,
                         int64_t now_ns); /* also beats, so that a new bound starts fresh */
void vlad_watchdog_hold(struct vlad_watchdog *watchdog, enum vlad_fault fault, bool condition);
/* The same at a lower level than the row's reaction: it reacts with the lesser of the two, and only
 * at the row's own latches at once. VLAD_NONE: the condition does not hold. */
void vlad_watchdog_hold_at(struct vlad_watchdog *watchdog, enum vlad_fault fault,
                           enum vlad_reaction level);
void vlad_watchdog_pulse(struct vlad_watchdog *watchdog, enum vlad_fault fault);

/* Servo loop, once a tick: gather, then judge.
 *
 * Gather takes what the other threads said, pulses included, and the missed heartbeats, which become
 * the fault of their stage (vlad_stage_fault in fault_table.h). own = the levels of the conditions
 * that the loop itself sees (index = fault id).
 *
 * Judge is a function of state, time and input. It returns the most severe reaction among active and
 * latched faults. An active fault reacts at its level, which rises at once and falls when nothing
 * above has been seen for the row's clear time; a latched one as its row says, HOLD at least.
 * *changed gets the mask of faults whose active or latched bit or level changed, for the event log. */
void vlad_watchdog_gather(struct vlad_watchdog *watchdog, int64_t now_ns, const uint8_t *own,
                          struct vlad_watchdog_input *input);
enum vlad_reaction vlad_watchdog_judge(struct vlad_watchdog *watchdog, int64_t now_ns,
                                       const struct vlad_watchdog_input *input,
                                       uint64_t *changed);
/* What one fault reacts with now; VLAD_NONE where it is neither active nor latched. */
enum vlad_reaction vlad_watchdog_reaction(const struct vlad_watchdog *watchdog, unsigned fault);

/* Servo loop. Unlatches every fault whose condition is gone, and forgets its repeats; returns the
 * mask still latched. */
uint64_t vlad_watchdog_clear(struct vlad_watchdog *watchdog);

/* True while every watched stage is within its bound. Any thread; decides whether systemd's
 * watchdog is fed. */
bool vlad_watchdog_all_fresh(struct vlad_watchdog *watchdog, int64_t now_ns);

#endif
