/* action_queue.h: the timeline of accepted actions. Pure: time is passed in.
 *
 * One producer (the expert stage, through vlad_queue_push) and one consumer (the servo loop).
 * Actions are indexed by time, so the consumer pops nothing: it reads the newest published
 * timeline at the time it is interested in. Publication is a triple buffer: the producer fills a
 * buffer nobody reads and swaps it in with one atomic exchange; the consumer swaps it out the same
 * way. Neither ever waits, and a torn or mixed timeline cannot be seen.
 */
#ifndef VLAD_ACTION_QUEUE_H
#define VLAD_ACTION_QUEUE_H

#include <stdatomic.h> /* the hand-over word */

#include "gate.h"
#include "vlad.h"

/* How old and new become one on the overlap. The first four are LeRobot's f(old, new) with its names
 * and weights. VLAD_RTC is for a chunk that was sampled to continue the old one (vlad/rtc.py): the
 * old actions up to the one that the trajectory is on its way to, the new ones from there on.
 * VLAD_TEMPORAL_ENSEMBLE is ACT's: every action is the mean of all chunks that have said something of
 * its time, the i-th of them (the oldest is 0) with the weight exp(-coefficient * i). */
enum vlad_aggregate {
    VLAD_WEIGHTED_AVERAGE, /* 0.3 old + 0.7 new */
    VLAD_LATEST_ONLY,
    VLAD_AVERAGE,          /* 0.5 / 0.5 */
    VLAD_CONSERVATIVE,     /* 0.7 old + 0.3 new */
    VLAD_RTC,
    VLAD_TEMPORAL_ENSEMBLE,
    VLAD_N_AGGREGATES
};

#define VLAD_ENSEMBLE_UNIT 1000000 /* a coefficient of 1 */
#define VLAD_MAX_ENSEMBLE (10 * VLAD_ENSEMBLE_UNIT)

/* Actions due at t0_ns + k * period_ns, k = 0..n-1. n == 0: empty. */
struct vlad_timeline {
    uint64_t number;  /* of its publication: 1, 2, ... */
    uint64_t seq;     /* of the newest chunk in it */
    uint64_t epoch;   /* engagement it belongs to: the consumer ignores any other */
    int64_t t0_ns;
    int64_t period_ns;
    int64_t overdue_ns; /* a consumer that first sees it later than this must not execute it */
    int n;
    int64_t action_nu[VLAD_MAX_TIMELINE][VLAD_MAX_JOINTS];
    int64_t t_obs_ns[VLAD_MAX_TIMELINE]; /* newest observation behind each action */
    int64_t opinions[VLAD_MAX_TIMELINE]; /* how many chunks each is the mean of: 1 but in an ensemble */
};

struct vlad_queue {
    struct vlad_gate_config gate;
    enum vlad_aggregate aggregate;
    int64_t ensemble;        /* the coefficient, in millionths */
    /* What the next chunk weighs in the mean of k, in thousand-millionths: exp(-c * k) over the sum of all
     * weights up to it. */
    int64_t gain[VLAD_MAX_ACTIONS];
    int64_t lookahead_ns;    /* the trajectory reads the timeline this far ahead of now */
    struct vlad_timeline buffer[3];
    _Atomic uint32_t shared; /* index of the middle buffer | FRESH; written by both by exchange */
    uint32_t back, front;    /* producer's and consumer's own buffer index */
    uint64_t published;      /* producer: how many timelines so far */
    uint32_t newest;         /* producer: what it last published; never `back`, so only read */
    int64_t chunk_nu[VLAD_MAX_ACTIONS][VLAD_MAX_JOINTS]; /* producer only: the gated chunk */
};

/* 0, or -EINVAL (joint count, period, limits inverted, aggregate, more than VLAD_MAX_ACTIONS). */
int vlad_queue_init(struct vlad_queue *queue, const struct vlad_gate_config *gate,
                    enum vlad_aggregate aggregate, int64_t lookahead_ns);

/* Producer. How the next chunks are merged; `ensemble` is the coefficient in millionths, +-10 at most, and
 * must be 0 but for VLAD_TEMPORAL_ENSEMBLE. 0, or -EINVAL and nothing has changed. vlad_queue_init() does
 * it with 0. */
int vlad_queue_set_aggregate(struct vlad_queue *queue, enum vlad_aggregate aggregate,
                             int64_t ensemble);

/* Producer. Gate, merge, gate again, publish. The only way in. The producer may lose its processor
 * between the gate's clock and the publication, so the timeline says when that is too late: after
 * its predecessor's last action was due, or for a cold chunk a period after its action 0 is.
 *
 * Elapsed actions (due before now) are dropped. Where old and new overlap they are aggregated. The
 * old tail beyond the new chunk is kept, unless the step from the chunk to it is too large: the
 * tail is the older opinion, so it goes, and is counted. A cold chunk is re-anchored: action 0 is
 * due at the first grid point at or after now, and it replaces whatever was there.
 *
 * What the trajectory reads next is the timeline at now + lookahead_ns. Where the new one differs
 * there from the old one (from the command in force for a cold chunk) by more than a step, the
 * difference fades out linearly: async within gate.blend_ns, cold over as many actions as keep the
 * added speed at or under half of v_max. An overlap that does not meet the rest of the chunk within
 * a step fades the same way. Fading stays inside the joint limits and ends inside the chunk. If a
 * step is still too large then, two chunks are too far apart: VLAD_R_JUMP (VLAD_R_STEP is a chunk's
 * own). On rejection the timeline stays as it was. */
void vlad_queue_push(struct vlad_queue *queue, const struct vlad_chunk *chunk,
                     const struct vlad_command *command, int64_t now_ns,
                     struct vlad_gate_report *report);

/* Producer. Publishes an empty timeline. */
void vlad_queue_clear(struct vlad_queue *queue);

/* Producer side view of the same: due time of the last action of `epoch`, INT64_MIN when there is
 * none, and how many actions are not elapsed (due at or after now). */
int64_t vlad_queue_last_due_ns(const struct vlad_queue *queue, uint64_t epoch);
int vlad_queue_depth(const struct vlad_queue *queue, uint64_t epoch, int64_t now_ns);

/* Consumer. The newest published timeline; valid until the next call. Never NULL. */
const struct vlad_timeline *vlad_queue_newest(struct vlad_queue *queue);

/* Pure. Linear interpolation at t_ns into out_nu[n_joints]; clamped to the last action after it,
 * to the first before it. false when the timeline is empty (out_nu untouched). */
bool vlad_timeline_at(const struct vlad_timeline *timeline, int n_joints, int64_t t_ns,
                      int64_t *out_nu);
int64_t vlad_timeline_last_due_ns(const struct vlad_timeline *timeline); /* INT64_MIN when empty */
int vlad_timeline_depth(const struct vlad_timeline *timeline, int64_t now_ns);

#endif
