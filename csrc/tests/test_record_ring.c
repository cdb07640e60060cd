/* Records come out whole, in order, or not at all; two threads at once (run under TSan). */
#include "check.h"
#include "record_ring.h"

#include <pthread.h> /* producer and consumer */
#include <sched.h>   /* sched_yield */
#include <string.h>  /* memset */

#define RECORDS 20000

static unsigned char bytes[4096];
static struct vlad_record_ring ring;

static size_t size_of(unsigned i)
{
    return (i * 7919u) % 1500u;
}

static void *produce(void *unused)
{
    unsigned char body[1500];

    (void)unused;
    for (unsigned i = 0; i < RECORDS; i++) {
        memset(body, (int)(i & 0xFF), size_of(i));
        while (!vlad_record_ring_push(&ring, &i, body, size_of(i)))
            sched_yield();
    }
    return NULL;
}

static void between_threads(void)
{
    pthread_t producer;

    vlad_record_ring_init(&ring, bytes, sizeof bytes, sizeof(unsigned));
    CHECK_EQ(pthread_create(&producer, NULL, produce, NULL), 0);
    for (unsigned i = 0; i < RECORDS; i++) {
        unsigned char body[1500];
        unsigned header;
        ssize_t size;

        while ((size = vlad_record_ring_pop(&ring, &header, body)) < 0)
            sched_yield();
        CHECK_EQ(header, i);
        CHECK_EQ(size, size_of(i));
        for (ssize_t k = 0; k < size; k++)
            if (body[k] != (i & 0xFF))
                CHECK(!"torn record");
    }
    pthread_join(producer, NULL);
}

static void full(void)
{
    unsigned header = 3;
    unsigned char body[4096] = {0};
    size_t most = sizeof bytes - sizeof(size_t) - sizeof header;

    vlad_record_ring_init(&ring, bytes, sizeof bytes, sizeof header);
    CHECK_EQ(vlad_record_ring_pop(&ring, &header, body), -1);
    CHECK(!vlad_record_ring_push(&ring, &header, body, most + 1));
    CHECK(vlad_record_ring_push(&ring, &header, body, most));
    CHECK(!vlad_record_ring_push(&ring, &header, body, 0));
    CHECK_EQ(vlad_record_ring_pop(&ring, &header, body), most);
    CHECK(vlad_record_ring_push(&ring, &header, NULL, 0));
    CHECK_EQ(vlad_record_ring_pop(&ring, &header, NULL), 0);
}

int main(void)
{
    full();
    between_threads();
    CHECK_DONE();
}
