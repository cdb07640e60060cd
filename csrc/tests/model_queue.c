/* The action queue between its producer and its consumer, in every execution (invariant I6): what
 * the consumer reads is one timeline as it was published, whole; never an older one than before; and
 * the newest once the producer has come to rest. */
#include <string.h> /* memcmp */

#include "action_queue.h"
#include "model.h"

#define MS VLAD_NS_PER_MS
#define PERIOD (50 * MS)
#define ACTIONS 3
#define MOST 6 /* pushes, and reads */

static int pushes = 3, reads = 3;
static bool with_clear;

static struct vlad_queue queue;

/* What each side saw, compared at the end. */
static struct {
    uint64_t published[MOST + 2], read[MOST];
    int n_published;
} seen;

static uint64_t digest(const struct vlad_timeline *timeline)
{
    uint64_t hash = timeline->epoch;

#define ADD(x) (hash = (hash ^ (uint64_t)(x)) * 0x100000001b3u + 1)
    ADD(timeline->n);
    if (timeline->n == 0)
        return 0;
    ADD(timeline->seq);
    ADD(timeline->t0_ns);
    ADD(timeline->period_ns);
    ADD(timeline->overdue_ns);
    for (int i = 0; i < timeline->n; i++) {
        ADD(timeline->action_nu[i][0]);
        ADD(timeline->t_obs_ns[i]);
        ADD(timeline->opinions[i]);
    }
    return hash;
}

static void begin(void)
{
    struct vlad_gate_config gate = {
        .limits = {.n_joints = 1,
                   .joint = {{-VLAD_NU_PER_UNIT, VLAD_NU_PER_UNIT, 3 * VLAD_NU_PER_UNIT,
                              30 * VLAD_NU_PER_UNIT, 600 * VLAD_NU_PER_UNIT}}},
        .period_ns = PERIOD, .max_observation_age_ns = 1000 * MS, .max_cold_age_ns = 1000 * MS,
        .max_frame_age_ns = 67 * MS, .max_reuse_age_ns = 1000 * MS,
        .max_jump_nu = VLAD_NU_PER_UNIT / 2, .blend_ns = 100 * MS
    };

    MODEL_REQUIRE(vlad_queue_init(&queue, &gate, VLAD_WEIGHTED_AVERAGE, 0) == 0);
    memset(&seen, 0, sizeof seen);
    seen.n_published = 1; /* the empty one, digest 0 */
    model_watch("queue", &queue, sizeof queue, true);
    model_watch("seen", &seen, sizeof seen, false);
}

static void published(void)
{
    seen.published[seen.n_published++] = digest(&queue.buffer[queue.newest]);
}

static void producer(void)
{
    struct vlad_command command = {.epoch = 1, .at_rest = true};
    struct vlad_gate_report report;
    int64_t now_ns = 1000 * MS;

    for (int k = 0; k < pushes; k++, now_ns += PERIOD) {
        double actions[ACTIONS];
        struct vlad_chunk chunk = {.seq = (uint64_t)k + 1, .epoch = 1, .t_obs_ns = now_ns,
                                   .cold = k == 0, .n_actions = ACTIONS, .n_joints = 1,
                                   .actions = actions};

        for (int i = 0; i < ACTIONS; i++)
            actions[i] = 0.01 * k;
        vlad_queue_push(&queue, &chunk, &command, now_ns, &report);
        MODEL_REQUIRE(report.verdict == VLAD_ACCEPTED);
        published();
    }
    if (with_clear) {
        vlad_queue_clear(&queue);
        published();
    }
}

static void consumer(void)
{
    for (int i = 0; i < reads; i++)
        seen.read[i] = digest(vlad_queue_newest(&queue));
}

static void end(void)
{
    int at = 0;

    for (int i = 0; i < reads; i++) {
        while (at < seen.n_published && seen.published[at] != seen.read[i])
            at++;
        MODEL_REQUIRE(at < seen.n_published); /* never published so, or older than the last */
    }
    MODEL_REQUIRE(digest(vlad_queue_newest(&queue)) == seen.published[seen.n_published - 1]);
}

int main(int argc, char **argv)
{
    struct model model = {.name = "queue: whole timelines, in order, none lost",
                          .begin = begin, .thread = {producer, consumer}, .end = end};

    (void)argv;
    if (argc > 1)
        pushes = reads = MOST;
    model_check(&model);
    with_clear = true;
    model.name = "queue: the same, cleared at the end";
    model_check(&model);
    return 0;
}
