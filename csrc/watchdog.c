/* The watchdog: see watchdog.h. */
#include <string.h> /* memset */

#include "watchdog.h"

static uint64_t bit(unsigned fault)
{
    return UINT64_C(1) << fault;
}

void vlad_watchdog_init(struct vlad_watchdog *watchdog, int64_t now_ns)
{
    memset(watchdog, 0, sizeof *watchdog);
    for (int s = 0; s < VLAD_N_STAGES; s++)
        vlad_watchdog_bound(watchdog, (enum vlad_stage)s, 0, now_ns);
}

void vlad_watchdog_beat(struct vlad_watchdog *watchdog, enum vlad_stage stage, int64_t now_ns)
{
    atomic_store_explicit(&watchdog->beat_ns[stage], now_ns, memory_order_release);
}

void vlad_watchdog_bound(struct vlad_watchdog *watchdog, enum vlad_stage stage, int64_t bound_ns,
                         int64_t now_ns)
{
    vlad_watchdog_beat(watchdog, stage, now_ns);
    atomic_store_explicit(&watchdog->bound_ns[stage], bound_ns, memory_order_release);
}

void vlad_watchdog_hold(struct vlad_watchdog *watchdog, enum vlad_fault fault, bool condition)
{
    if (condition)
        atomic_fetch_or_explicit(&watchdog->held, bit(fault), memory_order_release);
    else
        atomic_fetch_and_explicit(&watchdog->held, ~bit(fault), memory_order_release);
}

void vlad_watchdog_pulse(struct vlad_watchdog *watchdog, enum vlad_fault fault)
{
    atomic_fetch_or_explicit(&watchdog->pulsed, bit(fault), memory_order_release);
}

/* A beat later than now is fresh: its stage ran after the caller read the clock. */
static bool fresh(struct vlad_watchdog *watchdog, int stage, int64_t now_ns)
{
    /* Bound before beat: with a new bound, its own beat is seen. */
    int64_t bound = atomic_load_explicit(&watchdog->bound_ns[stage], memory_order_acquire);
    int64_t beat = atomic_load_explicit(&watchdog->beat_ns[stage], memory_order_acquire);

    return bound == 0 || now_ns - beat <= bound;
}

static void occurred(struct vlad_fault_state *state, const struct vlad_fault_row *row,
                     int64_t now_ns)
{
    unsigned n = (unsigned)row->repeat_n;

    state->recent_ns[state->since_clear++ % VLAD_FAULT_MAX_REPEAT] = now_ns;
    state->count++;
    if (n > 0 && state->since_clear >= n &&
        now_ns - state->recent_ns[(state->since_clear - n) % VLAD_FAULT_MAX_REPEAT] <=
            row->repeat_window_ns)
        state->latched = true;
}

static void update(struct vlad_fault_state *state, const struct vlad_fault_row *row,
                   int64_t now_ns, bool condition, bool pulsed)
{
    if (!condition) {
        if (state->active && now_ns - state->last_true_ns >= row->clear_after_ns)
            state->active = false;
        return;
    }
    if (!state->active && !state->latched)
        state->since_ns = now_ns;
    if (!state->active || pulsed)
        occurred(state, row, now_ns);
    state->active = true;
    state->last_true_ns = now_ns;
    state->latched = state->latched || row->latch;
}

enum vlad_reaction vlad_watchdog_evaluate(struct vlad_watchdog *watchdog, int64_t now_ns,
                                          uint64_t own, uint64_t *changed)
{
    uint64_t pulsed = atomic_exchange_explicit(&watchdog->pulsed, 0, memory_order_acquire);
    uint64_t held = own | atomic_load_explicit(&watchdog->held, memory_order_acquire);
    uint64_t active = 0, latched = 0;
    enum vlad_reaction worst = VLAD_NONE;

    for (int s = 0; s < VLAD_N_STAGES; s++)
        if (!fresh(watchdog, s, now_ns))
            held |= bit(vlad_stage_fault[s]);
    for (unsigned f = 1; f <= VLAD_N_FAULTS; f++) {
        const struct vlad_fault_row *row = &vlad_fault_rows[f];
        struct vlad_fault_state *state = &watchdog->state[f];

        update(state, row, now_ns, (held | pulsed) & bit(f), pulsed & bit(f));
        if (state->active)
            active |= bit(f);
        if (state->latched)
            latched |= bit(f);
        if ((state->active || state->latched) && row->reaction > worst)
            worst = row->reaction;
        if (state->latched && worst < VLAD_HOLD)
            worst = VLAD_HOLD;
    }
    *changed = (active ^ watchdog->active) | (latched ^ watchdog->latched);
    watchdog->active = active;
    watchdog->latched = latched;
    return worst;
}

uint64_t vlad_watchdog_clear(struct vlad_watchdog *watchdog)
{
    for (unsigned f = 1; f <= VLAD_N_FAULTS; f++) {
        struct vlad_fault_state *state = &watchdog->state[f];

        if (state->latched && !state->active) {
            state->latched = false;
            state->since_clear = 0;
            watchdog->latched &= ~bit(f);
        }
    }
    return watchdog->latched;
}

bool vlad_watchdog_all_fresh(struct vlad_watchdog *watchdog, int64_t now_ns)
{
    for (int s = 0; s < VLAD_N_STAGES; s++)
        if (!fresh(watchdog, s, now_ns))
            return false;
    return true;
}
