#include <pthread.h> /* a reader beside the writer */
#include <stdlib.h>  /* rand_r, malloc */
#include <string.h>  /* memcpy, memset */
#include <unistd.h>  /* usleep */

#include "check.h"
#include "flight_ring.h"

#define SIZE 4096
static _Alignas(8) unsigned char memory[SIZE], copy[SIZE];

/* A record says its number in every word. */
static bool add(struct vlad_flight_ring *ring, uint64_t number, size_t words)
{
    uint64_t body[80];
    struct vlad_flight_part parts[2] = { { body, words / 2 * 8 },
                                         { body + words / 2, (words - words / 2) * 8 } };

    for (size_t i = 0; i < words; i++)
        body[i] = number;
    return vlad_flight_ring_add(ring, (uint32_t)number, (int64_t)number, parts, 2);
}

/* Checks that the snapshot holds whole records with consecutive numbers; the newest one's number. */
static uint64_t judge(int64_t size, int *n)
{
    uint64_t number = 0, word;
    struct vlad_flight_head head;

    *n = 0;
    CHECK(size >= 0);
    for (int64_t at = 0; at < size; at += 16 + head.size) {
        memcpy(&head, copy + at, sizeof head);
        CHECK(number == 0 || (uint64_t)head.t_ns == number + 1);
        number = (uint64_t)head.t_ns;
        CHECK_EQ(head.kind, (uint32_t)number);
        CHECK_EQ(head.size % 8, 0u);
        for (uint32_t i = 0; i < head.size; i += 8) {
            memcpy(&word, copy + at + 16 + i, 8);
            CHECK_EQ(word, number);
        }
        ++*n;
    }
    return number;
}

static void test_newest_win(void)
{
    struct vlad_flight_ring *ring = vlad_flight_ring_init(memory, SIZE);
    int n;

    CHECK_EQ(judge(vlad_flight_ring_snapshot(ring, SIZE, copy, SIZE), &n), 0u);
    for (uint64_t k = 1; k <= 500; k++) {
        CHECK(add(ring, k, k * 7 % 61));
        CHECK_EQ(judge(vlad_flight_ring_snapshot(ring, SIZE, copy, SIZE), &n), k);
        CHECK(n >= (k < 5 ? (int)k : 5)); /* a ring of 4 kB holds seven of the largest */
    }
    CHECK_EQ(ring->records, 500u);
}

static void test_too_large_is_counted(void)
{
    struct vlad_flight_ring *ring = vlad_flight_ring_init(memory, 400);
    int n;

    CHECK(add(ring, 1, 20));
    CHECK(!add(ring, 2, 60));
    CHECK_EQ(ring->refused, 1u);
    CHECK_EQ(judge(vlad_flight_ring_snapshot(ring, 400, copy, SIZE), &n), 1u);
    CHECK(vlad_flight_ring_init(memory, 40) == NULL);
}

/* Any bytes may lie in a file: refused, or only whole records come out; never beyond the memory. */
static void test_damaged_memory(void)
{
    unsigned seed = 1;

    for (int round = 0; round < 20000; round++) {
        size_t available = (size_t)rand_r(&seed) % 1024;
        unsigned char *room = malloc(available + 8); /* exactly so large: ASan is the judge */
        struct vlad_flight_ring *ring = vlad_flight_ring_init(memory, 1024);
        int64_t size;

        for (uint64_t k = 1; k < 30; k++)
            add(ring, k, k % 20);
        for (int i = 0; i < 3; i++)
            memory[(size_t)rand_r(&seed) % (i ? 1024 : 48)] = (unsigned char)rand_r(&seed);
        memcpy(room, memory, available);
        size = vlad_flight_ring_snapshot((struct vlad_flight_ring *)room, available, copy, SIZE);
        CHECK(size == -22 || (size >= 0 && size <= SIZE));
        free(room);
    }
}

static struct vlad_flight_ring *shared;
static _Atomic int stop;

static void *write_records(void *unused)
{
    (void)unused;
    for (uint64_t k = 1; !stop; k++) {
        add(shared, k, k * 7 % 61);
        if (k % 4 == 0)
            usleep(1);
    }
    return NULL;
}

static void test_reader_beside_writer(void)
{
    pthread_t writer;
    uint64_t last = 0;
    int n, seen = 0;

    shared = vlad_flight_ring_init(memory, SIZE);
    CHECK_EQ(pthread_create(&writer, NULL, write_records, NULL), 0);
    for (int round = 0; round < 3000 || seen < 100; round++) {
        uint64_t newest = judge(vlad_flight_ring_snapshot(shared, SIZE, copy, SIZE), &n);

        CHECK(n == 0 || newest >= last);
        last = n ? newest : last;
        seen += n;
    }
    stop = 1;
    pthread_join(writer, NULL);
}

int main(void)
{
    test_newest_win();
    test_too_large_is_counted();
    test_damaged_memory();
    test_reader_beside_writer();
    CHECK_DONE();
}
