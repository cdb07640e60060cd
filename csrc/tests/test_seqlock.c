/* A reader sees whole records, never one that goes back, while the writer writes all the time. */
#include <pthread.h> /* one writer, two readers */

#include "check.h"
#include "seqlock.h"

#define WORDS 61
#define READS 20000

struct record {
    uint64_t word[WORDS];
};

static struct {
    struct vlad_seqlock lock;
    struct record body;
} shared;

static _Atomic int readers_left = 2;

static struct record record_of(uint64_t n)
{
    struct record record;

    for (unsigned i = 0; i < WORDS; i++)
        record.word[i] = n * (i + 1);
    return record;
}

static void *write_all_the_time(void *unused)
{
    (void)unused;
    for (uint64_t n = 1; atomic_load(&readers_left) > 0; n++) {
        struct record record = record_of(n);

        vlad_seqlock_write(&shared.lock, &shared.body, &record, sizeof record);
    }
    return NULL;
}

static void *read_many(void *result)
{
    uint64_t last = 0, changes = 0;

    for (int i = 0; i < READS || changes < 10; i++) {
        struct record record;

        vlad_seqlock_read(&shared.lock, &shared.body, &record, sizeof record);
        for (unsigned w = 1; w < WORDS; w++)
            if (record.word[w] != record.word[0] * (w + 1))
                *(uint64_t *)result = 1;
        if (record.word[0] < last)
            *(uint64_t *)result = 2;
        changes += record.word[0] != last;
        last = record.word[0];
    }
    atomic_fetch_sub(&readers_left, 1);
    return NULL;
}

static void test_single_thread(void)
{
    struct record in = record_of(7), out = {{0}};

    vlad_seqlock_write(&shared.lock, &shared.body, &in, sizeof in);
    CHECK_EQ(atomic_load(&shared.lock.seq), 2);
    vlad_seqlock_read(&shared.lock, &shared.body, &out, sizeof out);
    CHECK(memcmp(&in, &out, sizeof in) == 0);
    in = record_of(0);
    vlad_seqlock_write(&shared.lock, &shared.body, &in, sizeof in);
    CHECK_EQ(atomic_load(&shared.lock.seq), 4);
}

int main(void)
{
    pthread_t writer, reader[2];
    uint64_t torn[2] = {0, 0};

    test_single_thread();
    CHECK_EQ(pthread_create(&writer, NULL, write_all_the_time, NULL), 0);
    for (int r = 0; r < 2; r++)
        CHECK_EQ(pthread_create(&reader[r], NULL, read_many, &torn[r]), 0);
    for (int r = 0; r < 2; r++)
        CHECK_EQ(pthread_join(reader[r], NULL), 0);
    CHECK_EQ(pthread_join(writer, NULL), 0);
    CHECK_EQ(torn[0], 0);
    CHECK_EQ(torn[1], 0);
    CHECK_DONE();
}
