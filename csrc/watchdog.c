/* The watchdog: see watchdog.h. */
#include <string.h> /* memset */

#include "watchdog.h"

static uint64_t bit(unsigned fault)
{
    return UINT64_C(1) << fault;
}

void vlad_watchdog_init(struct vlad_watchdog *watchdog)
{
    memset(watchdog, 0, sizeof *watchdog);
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
    vlad_watchdog_hold_at(watchdog, fault, condition ? VLAD_LIMP : VLAD_NONE);
}

void vlad_watchdog_hold_at(struct vlad_watchdog *watchdog, enum vlad_fault fault,
                           enum vlad_reaction level)
{
    atomic_store_explicit(&watchdog->held[fault], (uint8_t)level, memory_order_release);
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

/* Whether an occurrence at this level counts towards a latch by repetition. */
static bool grave(const struct vlad_fault_row *row, enum vlad_reaction level)
{
    return level >= (row->reaction < VLAD_HOLD ? row->reaction : VLAD_HOLD);
}

static void occurred(struct vlad_fault_state *state, const struct vlad_fault_row *row,
                     int64_t now_ns)
{
    unsigned n = (unsigned)row->repeat_n;

    state->recent_ns[state->since_clear++ % VLAD_FAULT_MAX_REPEAT] = now_ns;
    if (n > 0 && state->since_clear >= n &&
        now_ns - state->recent_ns[(state->since_clear - n) % VLAD_FAULT_MAX_REPEAT] <=
            row->repeat_window_ns)
        state->latched = true;
}

/* level: VLAD_NONE = the condition does not hold. */
static void update(struct vlad_fault_state *state, const struct vlad_fault_row *row,
                   int64_t now_ns, enum vlad_reaction level, bool pulsed)
{
    bool begins, worsens;

    if (level == VLAD_NONE) {
        if (state->active && now_ns - state->last_true_ns >= row->clear_after_ns)
            state->active = false;
        return;
    }
    if (level > row->reaction)
        level = row->reaction;
    begins = !state->active || pulsed;
    worsens = begins || !grave(row, state->level);
    if (!state->active && !state->latched)
        state->since_ns = now_ns;
    if (!state->active || level >= state->level ||
        now_ns - state->level_ns >= row->clear_after_ns) {
        state->level = level;
        state->level_ns = now_ns;
    }
    state->count += begins;
    if (worsens && grave(row, level))
        occurred(state, row, now_ns);
    state->active = true;
    state->last_true_ns = now_ns;
    state->latched = state->latched || (row->latch && level == row->reaction);
}

enum vlad_reaction vlad_watchdog_reaction(const struct vlad_watchdog *watchdog, unsigned fault)
{
    const struct vlad_fault_state *state = &watchdog->state[fault];
    enum vlad_reaction row = vlad_fault_rows[fault].reaction;

    if (state->latched)
        return row > VLAD_HOLD ? row : VLAD_HOLD;
    return state->active ? state->level : VLAD_NONE;
}

static void raise(uint8_t *levels, unsigned fault, uint8_t level)
{
    if (level > levels[fault])
        levels[fault] = level;
}

void vlad_watchdog_gather(struct vlad_watchdog *watchdog, int64_t now_ns, const uint8_t *own,
                          struct vlad_watchdog_input *input)
{
    input->pulsed = atomic_exchange_explicit(&watchdog->pulsed, 0, memory_order_acquire);
    for (unsigned f = 0; f <= VLAD_N_FAULTS; f++) {
        input->level[f] = own[f];
        raise(input->level, f,
              atomic_load_explicit(&watchdog->held[f], memory_order_acquire));
    }
    for (int s = 0; s < VLAD_N_STAGES; s++)
        if (!fresh(watchdog, s, now_ns))
            raise(input->level, vlad_stage_fault[s], VLAD_LIMP);
}

enum vlad_reaction vlad_watchdog_judge(struct vlad_watchdog *watchdog, int64_t now_ns,
                                       const struct vlad_watchdog_input *input,
                                       uint64_t *changed)
{
    uint64_t active = 0, latched = 0;
    enum vlad_reaction worst = VLAD_NONE;

    *changed = 0;
    for (unsigned f = 1; f <= VLAD_N_FAULTS; f++) {
        struct vlad_fault_state *state = &watchdog->state[f];
        bool pulsed = input->pulsed & bit(f);
        enum vlad_reaction before = vlad_watchdog_reaction(watchdog, f), now;

        update(state, &vlad_fault_rows[f], now_ns,
               pulsed ? VLAD_LIMP : (enum vlad_reaction)input->level[f], pulsed);
        now = vlad_watchdog_reaction(watchdog, f);
        if (state->active)
            active |= bit(f);
        if (state->latched)
            latched |= bit(f);
        if (now != before)
            *changed |= bit(f);
        if (now > worst)
            worst = now;
    }
    *changed |= (active ^ watchdog->active) | (latched ^ watchdog->latched);
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
