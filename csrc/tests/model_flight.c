/* The flight ring, in every execution: a snapshot taken while the writer goes on holds whole records
 * with consecutive numbers, none that was overwritten meanwhile, and all that fit once it rests. */
#include <string.h> /* memcpy, memset */

#include "flight_ring.h"
#include "model.h"

#define BODY 1                 /* words */
#define RECORD (16 + BODY * 8) /* bytes */
#define RECORDS 2              /* that fit */

static int adds = 1;

static _Alignas(8) unsigned char memory[sizeof(struct vlad_flight_ring) + RECORDS * RECORD];
static struct { uint64_t added, newest; } seen; /* by the writer, and in the snapshot before */

static struct vlad_flight_ring *ring(void)
{
    return (struct vlad_flight_ring *)memory;
}

static void add(void)
{
    uint64_t number = ++seen.added;
    struct vlad_flight_part part = {.bytes = &number, .size = sizeof number};

    MODEL_REQUIRE(vlad_flight_ring_add(ring(), (uint32_t)number, (int64_t)number, &part, 1));
}

static void begin(void)
{
    MODEL_REQUIRE(vlad_flight_ring_init(memory, sizeof memory) != NULL);
    memset(&seen, 0, sizeof seen);
    for (int i = 0; i < RECORDS; i++)
        add();
    model_watch("ring", memory, sizeof memory, true);
    model_watch("seen", &seen, sizeof seen, false);
}

static void writer(void)
{
    for (int i = 0; i < adds; i++)
        add();
}

/* How many records. */
static int look(void)
{
    unsigned char copy[RECORDS * RECORD];
    int64_t size = vlad_flight_ring_snapshot(ring(), sizeof memory, copy, sizeof copy);
    uint64_t number = 0, body;

    MODEL_REQUIRE(size >= 0 && size % RECORD == 0);
    for (int64_t at = 0; at < size; at += RECORD) {
        struct vlad_flight_head head;

        memcpy(&head, copy + at, sizeof head);
        memcpy(&body, copy + at + sizeof head, sizeof body);
        MODEL_REQUIRE(head.size == 8 && head.kind == body && head.t_ns == (int64_t)body);
        MODEL_REQUIRE(number == 0 || body == number + 1);
        number = body;
    }
    MODEL_REQUIRE(number == 0 || number >= seen.newest);
    seen.newest = number > seen.newest ? number : seen.newest;
    return (int)(size / RECORD);
}

static void reader(void)
{
    look();
}

static void end(void)
{
    MODEL_REQUIRE(look() == RECORDS && seen.newest == seen.added);
}

int main(int argc, char **argv)
{
    struct model model = {.name = "flight: whole records, in order",
                          .begin = begin, .thread = {writer, reader}, .end = end};

    (void)argv;
    if (argc > 1)
        adds = 3;
    model_check(&model);
    return 0;
}
