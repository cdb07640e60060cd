/* A reader of a seqlock sees whole records, never one that goes back: every execution. */
#include "model.h"
#include "seqlock.h"

#define WORDS 2
#define READS 2

static int writes = 2;

static struct {
    struct vlad_seqlock lock;
    _Alignas(8) uint64_t body[WORDS];
} shared;

static uint64_t read_last; /* the reader's own */

static void begin(void)
{
    memset(&shared, 0, sizeof shared);
    model_watch("shared", &shared, sizeof shared, true);
    model_watch("read_last", &read_last, sizeof read_last, false);
}

static void writer(void)
{
    for (uint64_t n = 1; n <= (uint64_t)writes; n++) {
        uint64_t record[WORDS];

        for (unsigned w = 0; w < WORDS; w++)
            record[w] = n * (w + 1);
        vlad_seqlock_write(&shared.lock, shared.body, record, sizeof record);
    }
}

static void reader(void)
{
    for (int i = 0; i < READS; i++) {
        uint64_t record[WORDS];

        vlad_seqlock_read(&shared.lock, shared.body, record, sizeof record);
        for (unsigned w = 1; w < WORDS; w++)
            MODEL_REQUIRE(record[w] == record[0] * (w + 1));
        MODEL_REQUIRE(record[0] >= read_last);
        read_last = record[0];
    }
}

int main(int argc, char **argv)
{
    struct model model = {
        .name = "seqlock: whole records, in order",
        .begin = begin, .thread = {writer, reader}, .max_steps = {[1] = READS * (WORDS + 2)}
    };

    (void)argv;
    if (argc > 1)
        writes = 3;
    model_check(&model);
    return 0;
}
