/* rate_window.h: the share of bad events in a sliding window of ten slots. Pure. */
#ifndef VLAD_RATE_WINDOW_H
#define VLAD_RATE_WINDOW_H

#include <stdint.h>

#define VLAD_RATE_SLOTS 10

struct vlad_rate_window {
    int64_t slot; /* number of the newest */
    uint32_t bad[VLAD_RATE_SLOTS], all[VLAD_RATE_SLOTS];
};

static inline int vlad_rate_at(int64_t slot)
{
    return (int)((uint64_t)slot % VLAD_RATE_SLOTS);
}

/* `bad` of `all` more events at now_ns, which never goes back, and a window of ten slot_ns. */
static inline void vlad_rate_add(struct vlad_rate_window *window, int64_t now_ns, int64_t slot_ns,
                                 uint32_t bad, uint32_t all)
{
    int64_t slot = now_ns / slot_ns, empty = slot - window->slot;

    for (int64_t i = 0; i < empty && i < VLAD_RATE_SLOTS; i++)
        window->bad[vlad_rate_at(slot - i)] = window->all[vlad_rate_at(slot - i)] = 0;
    window->slot = slot;
    window->bad[vlad_rate_at(slot)] += bad;
    window->all[vlad_rate_at(slot)] += all;
}

/* More than `permille` of the window's events were bad, of which there were `least` at least. */
static inline int vlad_rate_above(const struct vlad_rate_window *window, uint32_t permille,
                                  uint32_t least)
{
    uint64_t bad = 0, all = 0;

    for (int i = 0; i < VLAD_RATE_SLOTS; i++) {
        bad += window->bad[i];
        all += window->all[i];
    }
    return all >= least && bad * 1000 > all * permille;
}

#endif
