/* The action queue: see action_queue.h. */
#include <errno.h>  /* EINVAL */
#include <math.h>   /* exp, llround */
#include <string.h> /* memcpy, memset */

#include "action_queue.h"
#include "ratio.h"

#define INDEX 3u /* of `shared` */
#define FRESH 4u

#define ROW sizeof(int64_t[VLAD_MAX_JOINTS])
#define GAIN_UNIT 1000000000

/* A chunk on its way into the producer's back buffer. */
struct merge {
    struct vlad_timeline *to;
    const struct vlad_timeline *old; /* of the same engagement, or empty */
    int first, n_new;                /* chunk actions first .. first + n_new - 1 are not elapsed */
    int64_t read_ns;                 /* what the trajectory reads next */
    int n_blended, n_tail_dropped;
};

static int64_t ceil_div(int64_t value, int64_t divisor)
{
    return -vlad_floor_div(-value, divisor);
}

static int64_t magnitude(int64_t value)
{
    return value < 0 ? -value : value;
}

static int least(int64_t a, int b)
{
    return a < b ? (int)a : b;
}

int vlad_queue_init(struct vlad_queue *queue, const struct vlad_gate_config *gate,
                    enum vlad_aggregate aggregate, int64_t lookahead_ns)
{
    if (vlad_gate_check_config(gate) || (unsigned)aggregate >= VLAD_N_AGGREGATES)
        return -EINVAL;
    if (lookahead_ns < 0 || lookahead_ns > VLAD_MAX_ACTIONS * gate->period_ns)
        return -EINVAL;
    memset(queue, 0, sizeof *queue);
    queue->gate = *gate;
    vlad_queue_set_aggregate(queue, aggregate, 0);
    queue->lookahead_ns = lookahead_ns;
    for (int i = 0; i < 3; i++)
        queue->buffer[i].period_ns = gate->period_ns; /* never 0, also while empty */
    queue->back = 0;
    atomic_init(&queue->shared, 1);
    queue->newest = 1;
    queue->front = 2;
    return 0;
}

int vlad_queue_set_aggregate(struct vlad_queue *queue, enum vlad_aggregate aggregate,
                             int64_t ensemble)
{
    double ratio = exp((double)ensemble / VLAD_ENSEMBLE_UNIT), sum = 1; /* sum over the last weight */

    if ((unsigned)aggregate >= VLAD_N_AGGREGATES || magnitude(ensemble) > VLAD_MAX_ENSEMBLE ||
        (ensemble && aggregate != VLAD_TEMPORAL_ENSEMBLE))
        return -EINVAL;
    queue->aggregate = aggregate;
    queue->ensemble = ensemble;
    for (int k = 1; k < VLAD_MAX_ACTIONS; k++) {
        sum = 1 + ratio * sum;
        queue->gain[k] = llround(GAIN_UNIT / sum);
    }
    return 0;
}

static bool beyond_step(const struct vlad_queue *queue, const int64_t *from, const int64_t *to)
{
    for (int j = 0; j < queue->gate.limits.n_joints; j++)
        if (magnitude(to[j] - from[j]) > vlad_gate_step_nu(&queue->gate, j))
            return true;
    return false;
}

/* The actions of the chunk that are not elapsed, as they came through the gate. */
static void fill(struct vlad_queue *queue, const struct vlad_chunk *chunk, struct merge *merge)
{
    struct vlad_timeline *to = merge->to;

    memcpy(to->action_nu, queue->chunk_nu[merge->first], (size_t)merge->n_new * ROW);
    for (int i = 0; i < merge->n_new; i++) {
        to->t_obs_ns[i] = chunk->t_obs_ns;
        to->opinions[i] = 1;
    }
    to->n = merge->n_new;
}

static void copy_action(struct vlad_timeline *to, int i, const struct vlad_timeline *from, int64_t k)
{
    memcpy(to->action_nu[i], from->action_nu[k], ROW);
    to->t_obs_ns[i] = from->t_obs_ns[k];
    to->opinions[i] = from->opinions[k];
}

/* Returns how many actions at the start were aggregated with old ones, gaps included. */
static int overlap(const struct vlad_queue *queue, struct merge *merge)
{
    static const int64_t old_tenths[] = {
        [VLAD_WEIGHTED_AVERAGE] = 3,
        [VLAD_LATEST_ONLY] = 0,
        [VLAD_AVERAGE] = 5,
        [VLAD_CONSERVATIVE] = 7,
    };
    int64_t weight = old_tenths[queue->aggregate];
    const struct vlad_timeline *old = merge->old;
    struct vlad_timeline *to = merge->to;
    int64_t shift = (to->t0_ns - old->t0_ns) / to->period_ns;
    int end = 0;

    for (int i = 0; i < to->n; i++) {
        int64_t k = i + shift;

        if ((uint64_t)k >= (uint64_t)old->n)
            continue;
        /* Rounding by floor: the mean of two steps within the limit stays within it. */
        for (int j = 0; j < queue->gate.limits.n_joints; j++)
            to->action_nu[i][j] = vlad_floor_div(
                weight * old->action_nu[k][j] + (10 - weight) * to->action_nu[i][j] + 5, 10);
        if (old->t_obs_ns[k] > to->t_obs_ns[i])
            to->t_obs_ns[i] = old->t_obs_ns[k];
        end = i + 1;
    }
    return end;
}

/* Returns how many actions at the start are of the ensemble, gaps included: each goes from what it was
 * towards what the chunk says, the less the more chunks have been heard. */
static int join_ensemble(const struct vlad_queue *queue, struct merge *merge)
{
    const struct vlad_timeline *old = merge->old;
    struct vlad_timeline *to = merge->to;
    int64_t shift = (to->t0_ns - old->t0_ns) / to->period_ns;
    int end = 0;

    for (int i = 0; i < to->n; i++) {
        int64_t k = i + shift, heard;

        if ((uint64_t)k >= (uint64_t)old->n)
            continue;
        heard = old->opinions[k];
        /* Rounding by floor, as above. */
        for (int j = 0; j < queue->gate.limits.n_joints; j++)
            to->action_nu[i][j] =
                old->action_nu[k][j] + vlad_scale(to->action_nu[i][j] - old->action_nu[k][j],
                                                  queue->gain[heard], GAIN_UNIT);
        if (old->t_obs_ns[k] > to->t_obs_ns[i])
            to->t_obs_ns[i] = old->t_obs_ns[k];
        to->opinions[i] = least(heard + 1, VLAD_MAX_ACTIONS - 1);
        end = i + 1;
    }
    return end;
}

/* Returns how many actions at the start are the old ones: those up to the read point have been read,
 * and the next one is what the trajectory is on its way to. They keep their own observation. */
static int keep_read(struct merge *merge)
{
    const struct vlad_timeline *old = merge->old;
    struct vlad_timeline *to = merge->to;
    int64_t shift = (to->t0_ns - old->t0_ns) / to->period_ns;
    int n = least(ceil_div(merge->read_ns - to->t0_ns, to->period_ns) + 1, to->n), end = 0;

    for (int i = 0; i < n; i++) {
        int64_t k = i + shift;

        if ((uint64_t)k >= (uint64_t)old->n)
            continue;
        copy_action(to, i, old, k);
        end = i + 1;
    }
    return end;
}

/* Adds offset to actions begin..from whole, then less and less, to nothing at `end`. */
static void fade(const struct vlad_queue *queue, struct merge *merge, int begin, int from, int end,
                 const int64_t *offset_nu)
{
    for (int i = begin; i < end; i++)
        for (int j = 0; j < queue->gate.limits.n_joints; j++) {
            const struct vlad_joint_limits *limits = &queue->gate.limits.joint[j];
            int64_t nu = merge->to->action_nu[i][j];

            nu += i <= from ? offset_nu[j] : vlad_scale(offset_nu[j], end - i, end - from);
            nu = nu < limits->min_nu ? limits->min_nu : nu;
            merge->to->action_nu[i][j] = nu > limits->max_nu ? limits->max_nu : nu;
        }
    merge->n_blended += end - (begin > from ? begin : from);
}

/* The end of the overlap, `end`, against the chunk's own next action. */
static void fade_overlap(const struct vlad_queue *queue, struct merge *merge, int end)
{
    int64_t offset[VLAD_MAX_JOINTS];
    int64_t(*action)[VLAD_MAX_JOINTS] = merge->to->action_nu;
    int over, last = end - 1;

    if (end == 0 || end == merge->n_new || !beyond_step(queue, action[last], action[end]))
        return;
    for (int j = 0; j < queue->gate.limits.n_joints; j++)
        offset[j] = action[last][j] - queue->chunk_nu[merge->first + last][j];
    over = least(last + queue->gate.blend_ns / queue->gate.period_ns, merge->n_new - 1);
    if (over > end)
        fade(queue, merge, end, last, over, offset);
}

/* Behind the chunk the old actions go on, unless that takes more than a step. */
static void keep_tail(const struct vlad_queue *queue, struct merge *merge)
{
    const struct vlad_timeline *old = merge->old;
    struct vlad_timeline *to = merge->to;
    int64_t k = to->n + (to->t0_ns - old->t0_ns) / to->period_ns;

    if (k >= old->n)
        return;
    if (k < 0) { /* the clock of the caller went back, and there is a gap */
        merge->n_tail_dropped = old->n;
        return;
    }
    if (!beyond_step(queue, to->action_nu[to->n - 1], old->action_nu[k]))
        for (; k < old->n && to->n < VLAD_MAX_TIMELINE; k++)
            copy_action(to, to->n++, old, k);
    merge->n_tail_dropped = (int)(old->n - k);
}

static bool jump(struct vlad_gate_report *report, int joint, int64_t value_nu, int64_t bound_nu)
{
    report->verdict = VLAD_REJECTED;
    report->reason = VLAD_R_JUMP;
    report->joint = joint;
    report->action = 0;
    report->value = (double)value_nu / (double)VLAD_NU_PER_UNIT;
    report->bound = (double)bound_nu / (double)VLAD_NU_PER_UNIT;
    return false;
}

/* The chunk's own steps have passed, so one that is too large now is between two chunks. */
static bool check_steps(const struct vlad_queue *queue, const struct merge *merge,
                        struct vlad_gate_report *report)
{
    const struct vlad_timeline *to = merge->to;

    if (vlad_gate_steps(&queue->gate, to->action_nu[0], &to->action_nu[1], to->n - 1, 0, report))
        return true;
    report->action += merge->first + 1;
    report->reason = VLAD_R_JUMP;
    return false;
}

static bool merge_async(struct vlad_queue *queue, struct merge *merge,
                        struct vlad_gate_report *report)
{
    const struct vlad_gate_config *gate = &queue->gate;
    int n = gate->limits.n_joints;
    int64_t was[VLAD_MAX_JOINTS], is[VLAD_MAX_JOINTS];

    if (queue->aggregate == VLAD_RTC)
        fade_overlap(queue, merge, keep_read(merge));
    else if (queue->aggregate == VLAD_TEMPORAL_ENSEMBLE)
        fade_overlap(queue, merge, join_ensemble(queue, merge));
    else
        fade_overlap(queue, merge, overlap(queue, merge));
    keep_tail(queue, merge);
    vlad_timeline_at(merge->old, n, merge->read_ns, was);
    vlad_timeline_at(merge->to, n, merge->read_ns, is);
    if (beyond_step(queue, was, is)) {
        int64_t from = ceil_div(merge->read_ns - merge->to->t0_ns, gate->period_ns);
        int64_t end = vlad_floor_div(merge->read_ns + gate->blend_ns - merge->to->t0_ns,
                                     gate->period_ns);
        int over = least(end, merge->n_new - 1);

        if (over <= from) {
            int j = 0;

            while (magnitude(was[j] - is[j]) <= vlad_gate_step_nu(gate, j))
                j++;
            return jump(report, j, magnitude(was[j] - is[j]), vlad_gate_step_nu(gate, j));
        }
        for (int j = 0; j < n; j++)
            was[j] -= is[j];
        fade(queue, merge, 0, (int)from, over, was);
    }
    return check_steps(queue, merge, report);
}

static bool merge_cold(struct vlad_queue *queue, const struct vlad_chunk *chunk,
                       const struct vlad_command *command, struct merge *merge,
                       struct vlad_gate_report *report)
{
    const struct vlad_gate_config *gate = &queue->gate;
    int last = merge->n_new - 1, slowest = 0, from;
    int64_t offset[VLAD_MAX_JOINTS], over = 0;
    struct vlad_gate_report before = *report;

    vlad_timeline_at(merge->to, gate->limits.n_joints, merge->read_ns, offset);
    if (!beyond_step(queue, command->goal_nu, offset))
        return true;
    for (int j = 0; j < gate->limits.n_joints; j++) {
        int64_t actions;

        offset[j] = command->goal_nu[j] - offset[j];
        if (magnitude(offset[j]) > gate->max_jump_nu)
            return jump(report, j, magnitude(offset[j]), gate->max_jump_nu);
        actions = ceil_div(2 * magnitude(offset[j]), vlad_gate_step_nu(gate, j));
        slowest = actions > over ? j : slowest;
        over = actions > over ? actions : over;
    }
    from = least(ceil_div(merge->read_ns - merge->to->t0_ns, gate->period_ns), last);
    /* A chunk that is fast itself leaves less room for the added speed: then blend for longer. */
    for (; from + over <= last; over *= 2) {
        *report = before;
        merge->n_blended = 0;
        fill(queue, chunk, merge);
        fade(queue, merge, 0, from, from + (int)over, offset);
        if (check_steps(queue, merge, report))
            return true;
    }
    if (report->verdict == VLAD_REJECTED)
        return false;
    return jump(report, slowest, magnitude(offset[slowest]),
                vlad_scale((last - from) * vlad_gate_step_nu(gate, slowest), 1, 2));
}

static void publish(struct vlad_queue *queue)
{
    queue->buffer[queue->back].number = ++queue->published;
    queue->newest = queue->back;
    queue->back = INDEX & atomic_exchange_explicit(&queue->shared, queue->back | FRESH,
                                                   memory_order_acq_rel);
}

void vlad_queue_push(struct vlad_queue *queue, const struct vlad_chunk *chunk,
                     const struct vlad_command *command, int64_t now_ns,
                     struct vlad_gate_report *report)
{
    int64_t period = queue->gate.period_ns, t0;
    struct vlad_chunk gated = *chunk;
    struct merge merge = {.to = &queue->buffer[queue->back],
                          .old = &queue->buffer[queue->newest],
                          .read_ns = now_ns + queue->lookahead_ns};

    vlad_gate_report_clear(report);
    if (!gated.cold && gated.t_obs_ns > 0)
        gated.t_obs_ns -= gated.t_obs_ns % period;
    if (!vlad_gate_time(&queue->gate, &gated, command,
                        vlad_queue_last_due_ns(queue, command->epoch), now_ns, report))
        return;
    if (!vlad_gate_chunk(&queue->gate, &gated, queue->chunk_nu, report))
        return;

    t0 = gated.cold ? ceil_div(now_ns, period) * period : gated.t_obs_ns;
    merge.first = gated.cold ? 0 : least(ceil_div(now_ns - t0, period), gated.n_actions);
    merge.n_new = gated.n_actions - merge.first;
    if (merge.n_new == 0) { /* elapsed as a whole */
        report->verdict = VLAD_REJECTED;
        report->reason = VLAD_R_LATE;
        report->joint = report->action = -1;
        report->value = (double)(now_ns - t0) / (double)VLAD_NS_PER_S;
        report->bound = (double)((gated.n_actions - 1) * period) / (double)VLAD_NS_PER_S;
        return;
    }
    merge.to->seq = gated.seq;
    merge.to->epoch = gated.epoch;
    merge.to->period_ns = period;
    merge.to->t0_ns = t0 + merge.first * period;
    merge.to->overdue_ns = gated.cold ? merge.to->t0_ns + period
                                      : vlad_queue_last_due_ns(queue, command->epoch);
    fill(queue, &gated, &merge);
    if (gated.cold ? !merge_cold(queue, &gated, command, &merge, report)
                   : !merge_async(queue, &merge, report))
        return;
    report->t0_ns = t0;
    report->n_elapsed = merge.first;
    report->n_blended = merge.n_blended;
    report->n_tail_dropped = merge.n_tail_dropped;
    publish(queue);
}

void vlad_queue_clear(struct vlad_queue *queue)
{
    queue->buffer[queue->back].n = 0;
    queue->buffer[queue->back].epoch = 0;
    publish(queue);
}

int64_t vlad_queue_last_due_ns(const struct vlad_queue *queue, uint64_t epoch)
{
    const struct vlad_timeline *newest = &queue->buffer[queue->newest];

    return newest->epoch == epoch ? vlad_timeline_last_due_ns(newest) : INT64_MIN;
}

int vlad_queue_depth(const struct vlad_queue *queue, uint64_t epoch, int64_t now_ns)
{
    const struct vlad_timeline *newest = &queue->buffer[queue->newest];

    return newest->epoch == epoch ? vlad_timeline_depth(newest, now_ns) : 0;
}

const struct vlad_timeline *vlad_queue_newest(struct vlad_queue *queue)
{
    if (atomic_load_explicit(&queue->shared, memory_order_relaxed) & FRESH)
        queue->front = INDEX & atomic_exchange_explicit(&queue->shared, queue->front,
                                                        memory_order_acq_rel);
    return &queue->buffer[queue->front];
}

bool vlad_timeline_at(const struct vlad_timeline *timeline, int n_joints, int64_t t_ns,
                      int64_t *out_nu)
{
    int64_t since = t_ns - timeline->t0_ns, k, part;

    if (timeline->n == 0)
        return false;
    k = since < 0 ? 0 : since / timeline->period_ns;
    part = since < 0 ? 0 : since % timeline->period_ns;
    if (k >= timeline->n - 1) {
        k = timeline->n - 1;
        part = 0;
    }
    for (int j = 0; j < n_joints; j++) {
        int64_t here = timeline->action_nu[k][j];

        out_nu[j] = here;
        if (part > 0)
            out_nu[j] += vlad_scale(timeline->action_nu[k + 1][j] - here, part,
                                    timeline->period_ns);
    }
    return true;
}

int64_t vlad_timeline_last_due_ns(const struct vlad_timeline *timeline)
{
    return timeline->n ? timeline->t0_ns + (timeline->n - 1) * timeline->period_ns : INT64_MIN;
}

int vlad_timeline_depth(const struct vlad_timeline *timeline, int64_t now_ns)
{
    int64_t elapsed = ceil_div(now_ns - timeline->t0_ns, timeline->period_ns);

    elapsed = elapsed < 0 ? 0 : elapsed;
    return elapsed < timeline->n ? timeline->n - (int)elapsed : 0;
}
