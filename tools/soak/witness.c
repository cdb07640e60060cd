/* The witness of the simulated soak: called after every tick, it judges what the arm's goal registers
 * hold and what the loop published, by its own arithmetic. It calls nothing of the core.
 *
 * Built by tools/soak/witness.py into a shared library; talked to with ctypes. */
#include <inttypes.h> /* PRId64 */
#include <stdio.h>    /* snprintf */
#include <stdlib.h>   /* calloc */
#include <string.h>   /* memcpy */

#include "fault_table.h"
#include "memory_arm.h"
#include "servo_loop.h"

#define KEPT_TEXT 4096
#define DRIVE (VLAD_REQ_ENGAGE | VLAD_REQ_RESUME)
#define LOWER (VLAD_REQ_HOLD | VLAD_REQ_LIMP | VLAD_REQ_PARK)
#define COUNTERS (sizeof(struct vlad_servo_counters) / sizeof(uint64_t))

struct soak_bounds {
    int64_t n_joints, period_ns, lookahead_ns, rest_ns, max_age_ns;
    int64_t min_nu[VLAD_MAX_JOINTS], max_nu[VLAD_MAX_JOINTS], step_nu[VLAD_MAX_JOINTS];
};

/* Of the newest injection; 0 = not yet. */
struct soak_times {
    int64_t injected_ns, raised_ns, left_ns, rest_ns, raised;
};

struct soak_witness {
    struct soak_bounds bound;
    struct soak_times times;
    int64_t violations, ticks, covered, starved, engaged, stops, engagements, uninvited;
    int64_t goals, moved;
    char text[KEPT_TEXT];
    const struct vlad_servo *servo;
    const struct vlad_memory_arm *arm;
    /* What the harness says before the tick. */
    uint32_t asked;         /* requests since the last tick */
    uint64_t allowed;       /* faults that may become active */
    uint64_t expected;      /* the newest injection's */
    /* The tick before this one. */
    bool begun;
    int64_t mode, epoch, goal_nu[VLAD_MAX_JOINTS], torque_on;
    uint32_t torque_mask;
    uint64_t writes, active, latched, handled, adoptions;
    uint64_t counters[COUNTERS], fault_count[VLAD_N_FAULTS + 1];
    int64_t latched_ns;
    bool need_clear, need_engage, parked;
    int64_t stop_ns; /* since when the arm must come to rest: engaged left, or parking ended */
};

static void found(struct soak_witness *w, const char *what, int64_t a, int64_t b)
{
    size_t at = strlen(w->text);

    w->violations++;
    snprintf(w->text + at, KEPT_TEXT - at, "%" PRId64 " ns: %s (%" PRId64 ", %" PRId64 ")\n",
             w->servo->report.body.t_ns, what, a, b);
}

/* Goals: finite by type, inside the limits or coming inwards, one step from the last written one;
 * power only where the arm is. */
static bool judge_wire(struct soak_witness *w)
{
    uint64_t writes = w->arm->writes - w->writes;
    uint32_t powered = w->arm->torque_mask & ~w->torque_mask;
    bool moved = false;

    w->goals += (int64_t)writes;
    if (writes > 1)
        found(w, "more than one write of goals in a tick", (int64_t)writes, 0);
    for (int j = 0; j < w->bound.n_joints; j++) {
        int64_t goal = w->arm->goal_nu[j], last = w->goal_nu[j];
        int64_t min = last < w->bound.min_nu[j] ? last : w->bound.min_nu[j];
        int64_t max = last > w->bound.max_nu[j] ? last : w->bound.max_nu[j];

        if (powered & (1u << j)) {
            int64_t away = goal - w->arm->present_nu[j];

            if (away > w->bound.step_nu[j] || -away > w->bound.step_nu[j])
                found(w, "power with its goal away: joint, nu", j, away);
            continue;
        }
        if (goal == last)
            continue;
        moved = true;
        if (!writes)
            found(w, "a goal changed without a write: joint", j, goal);
        if (goal < min || goal > max)
            found(w, "goal out of limits: joint, nu", j, goal);
        if (goal - last > w->bound.step_nu[j] || last - goal > w->bound.step_nu[j])
            found(w, "more than one step: joint, nu", j, goal - last);
    }
    w->moved += moved;
    return moved;
}

static void judge_counters(struct soak_witness *w, const struct vlad_servo_report *r)
{
    uint64_t now[COUNTERS];

    memcpy(now, &r->counters, sizeof now);
    for (size_t i = 0; i < COUNTERS; i++)
        if (now[i] < w->counters[i])
            found(w, "a counter fell: index, value", (int64_t)i, (int64_t)now[i]);
    for (int f = 1; f <= VLAD_N_FAULTS; f++)
        if (r->fault_count[f] < w->fault_count[f])
            found(w, "a fault's count fell", f, (int64_t)r->fault_count[f]);
    if (r->handled < w->handled || r->adoptions < w->adoptions || (int64_t)r->epoch < w->epoch)
        found(w, "handled, adoptions or epoch fell", 0, 0);
    memcpy(w->counters, now, sizeof now);
    memcpy(w->fault_count, r->fault_count, sizeof w->fault_count);
}

/* Each tick with torque that was engaged is covered by actions or counted under one cause, and which
 * of the two is decided here again from the time of the last action. */
static void judge_coverage(struct soak_witness *w, const struct vlad_servo_report *r,
                           const struct vlad_servo_counters *before)
{
    const struct vlad_servo_counters *k = &r->counters;
    uint64_t engaged = k->engaged_ticks - before->engaged_ticks, starved = 0;
    uint64_t covered = k->covered_ticks - before->covered_ticks;

    for (int c = 0; c < VLAD_N_STARVES; c++)
        starved += k->starved[c] - before->starved[c];
    if (engaged > 1 || covered + starved != engaged)
        found(w, "an engaged tick without exactly one of covered and a cause", (int64_t)covered,
              (int64_t)starved);
    w->engaged += (int64_t)engaged;
    w->covered += (int64_t)covered;
    w->starved += (int64_t)starved;
    if (engaged && r->mode == VLAD_ENGAGED) {
        bool reaches = r->last_due_ns != INT64_MIN &&
                       r->t_ns + 2 * w->bound.lookahead_ns <= r->last_due_ns;

        if (reaches != (covered == 1))
            found(w, "counted as covered, reaches", (int64_t)covered, reaches);
        if (covered && r->wire_age_ns > w->bound.max_age_ns)
            found(w, "an action this old drives the arm, bound", r->wire_age_ns,
                  w->bound.max_age_ns);
    }
}

static void judge_faults(struct soak_witness *w, const struct vlad_servo_report *r)
{
    uint64_t raised = r->active & ~w->active;

    if (raised & ~w->allowed) {
        w->uninvited++;
        found(w, "a fault became active that nothing injected", __builtin_ctzll(raised & ~w->allowed),
              0);
    }
    if (raised & w->expected && !w->times.raised_ns) {
        w->times.raised_ns = r->t_ns;
        w->times.raised = __builtin_ctzll(raised & w->expected);
    }
    if (r->latched & ~w->latched) {
        w->latched_ns = r->t_ns;
        w->need_clear = w->need_engage = true;
    }
    if (w->latched & ~r->latched && !(w->asked & VLAD_REQ_CLEAR))
        found(w, "a fault was unlatched without clear", (int64_t)(w->latched & ~r->latched), 0);
    if (w->asked & VLAD_REQ_CLEAR && !r->latched)
        w->need_clear = false;
}

static void judge_mode(struct soak_witness *w, const struct vlad_servo_report *r, bool moved)
{
    bool parking = r->parking || w->parked;
    int64_t worst = r->reaction;

    if (r->mode == VLAD_ENGAGED && worst >= VLAD_HOLD)
        found(w, "engaged with a reaction that stops", worst, (int64_t)r->active);
    if (r->mode == VLAD_ENGAGED && w->mode != VLAD_ENGAGED) {
        w->engagements++;
        if (!(w->asked & DRIVE))
            found(w, "engaged, and nobody asked for it", w->mode, 0);
        if (w->asked & LOWER)
            found(w, "engaged in the tick of a hold", w->mode, w->asked);
        if (r->latched || w->need_clear || (w->need_engage && !(w->asked & VLAD_REQ_ENGAGE)))
            found(w, "engaged after a latched fault without clear and engage", w->asked,
                  (int64_t)r->latched);
        w->need_engage = false;
        w->stop_ns = 0;
    }
    if (w->mode == VLAD_ENGAGED && r->mode != VLAD_ENGAGED) {
        const struct vlad_servo_counters *k = &r->counters;
        const struct vlad_servo_counters *b = (const void *)w->counters;
        bool wire = k->wire_limit + k->wire_step > b->wire_limit + b->wire_step;
        bool bus = k->read_errors + k->write_errors > b->read_errors + b->write_errors;

        w->stops++;
        w->stop_ns = r->t_ns;
        if (!w->times.left_ns && w->times.injected_ns)
            w->times.left_ns = r->t_ns;
        if (worst < VLAD_HOLD && !(w->asked & LOWER) && !wire && !bus)
            found(w, "left engaged without a fault or a request: mode, reaction", r->mode, worst);
    }
    if (w->parked && !r->parking)
        w->stop_ns = r->t_ns;
    if (moved) {
        if (r->mode != VLAD_ENGAGED && r->mode != VLAD_STOPPING && w->mode != VLAD_STOPPING &&
            w->mode != VLAD_ENGAGED)
            found(w, "moved in mode", r->mode, w->mode);
        if (w->stop_ns && !parking && r->t_ns - w->stop_ns > w->bound.rest_ns)
            found(w, "moved this long after the stop began", r->t_ns - w->stop_ns, r->mode);
        if (r->latched && !parking && r->t_ns - w->latched_ns > w->bound.rest_ns &&
            r->t_ns - w->stop_ns > w->bound.rest_ns)
            found(w, "moved this long after a fault was latched", r->t_ns - w->latched_ns,
                  (int64_t)r->latched);
        if (w->times.left_ns && r->mode != VLAD_ENGAGED && !parking)
            w->times.rest_ns = r->t_ns;
    }
}

/* The watcher of vlad_memory_arm: after every tick. */
void soak_tick(void *ctx)
{
    struct soak_witness *w = ctx;
    const struct vlad_servo_report *r = &w->servo->report.body;
    struct vlad_servo_counters before;
    bool moved = false;

    w->ticks++;
    if (w->begun) {
        memcpy(&before, w->counters, sizeof before);
        moved = judge_wire(w);
        judge_coverage(w, r, &before);
        judge_faults(w, r);
        judge_mode(w, r, moved);
    }
    judge_counters(w, r);
    memcpy(w->goal_nu, w->arm->goal_nu, sizeof w->goal_nu);
    w->begun = true;
    w->mode = r->mode;
    w->epoch = (int64_t)r->epoch;
    w->parked = r->parking;
    w->torque_mask = w->arm->torque_mask;
    w->writes = w->arm->writes;
    w->active = r->active;
    w->latched = r->latched;
    w->handled = r->handled;
    w->adoptions = r->adoptions;
    w->asked = 0;
}

struct soak_witness *soak_new(const struct vlad_servo *servo, const struct vlad_memory_arm *arm,
                              const struct soak_bounds *bound)
{
    struct soak_witness *w = calloc(1, sizeof *w);

    if (w) {
        w->servo = servo;
        w->arm = arm;
        w->bound = *bound;
    }
    return w;
}

void soak_free(struct soak_witness *w)
{
    free(w);
}

void soak_asked(struct soak_witness *w, uint32_t requests)
{
    w->asked |= requests;
}

void soak_allow(struct soak_witness *w, uint64_t faults)
{
    w->allowed = faults;
}

/* An injection begins now: the times of the newest one start anew. */
void soak_inject(struct soak_witness *w, int64_t now_ns, uint64_t expected)
{
    memset(&w->times, 0, sizeof w->times);
    w->times.injected_ns = now_ns;
    w->expected = expected;
}

/* The arm was changed by hand, or its supply was: its registers are taken as they are. */
void soak_touched(struct soak_witness *w)
{
    memcpy(w->goal_nu, w->arm->goal_nu, sizeof w->goal_nu);
    w->torque_mask = w->arm->torque_mask;
}
