/* The event ring of the servo loop and the record ring, in every execution: what comes out is what
 * went in, whole and in order; what had no room is counted, and nothing else is missing. */
#include <string.h> /* memset */

#include "model.h"
#include "record_ring.h"
#include "servo_parts.h"

#define TRIES 4

static int emitted = 3;
static int backlog; /* events that wait for the reader already */

/* --- events ----------------------------------------------------------------------------------- */

static struct vlad_servo servo;
static struct { int64_t last; uint64_t n; } events; /* as the reader saw them */

static void emit(int64_t number)
{
    servo.now.t_ns = number;
    vlad_servo_emit(&servo, VLAD_EV_PARKED, number, 2 * number, 3 * number);
}

static void begin_events(void)
{
    memset(&servo, 0, sizeof servo);
    /* Just before the positions wrap. */
    atomic_store(&servo.event_head, UINT32_MAX - (uint32_t)backlog);
    atomic_store(&servo.event_tail, UINT32_MAX - (uint32_t)backlog);
    for (int i = 0; i < backlog; i++)
        emit(i + 1);
    events.last = 0;
    events.n = 0;
    model_watch("servo", &servo, sizeof servo, true);
    model_watch("events", &events, sizeof events, false);
}

static void loop(void)
{
    for (int i = 0; i < emitted; i++)
        emit(backlog + 1 + i);
}

static bool take(void)
{
    struct vlad_event event;

    if (!vlad_servo_next_event(&servo, &event))
        return false;
    MODEL_REQUIRE(event.kind == VLAD_EV_PARKED && event.t_ns == event.a);
    MODEL_REQUIRE(event.b == 2 * event.a && event.value == 3 * event.a);
    MODEL_REQUIRE(event.a > events.last);
    events.last = event.a;
    events.n++;
    return true;
}

static void reader(void)
{
    for (int i = 0; i < TRIES; i++)
        take();
}

static void end_events(void)
{
    while (take())
        ;
    MODEL_REQUIRE(events.n + servo.now.counters.events_dropped ==
                  (uint64_t)(backlog + emitted));
}

/* --- records ---------------------------------------------------------------------------------- */

#define RECORDS 4
#define CAPACITY 64

static struct {
    struct vlad_record_ring ring;
    unsigned char bytes[CAPACITY];
} records;
static struct { uint32_t next; bool stored[RECORDS]; } mine, theirs; /* producer's, consumer's */

static size_t size_of(uint32_t i)
{
    static const size_t size[RECORDS] = {20, 5, 28, 0}; /* full at the second or third; wraps */

    return size[i];
}

static void begin_records(void)
{
    memset(&records, 0, sizeof records);
    vlad_record_ring_init(&records.ring, records.bytes, CAPACITY, sizeof(uint32_t));
    memset(&mine, 0, sizeof mine);
    memset(&theirs, 0, sizeof theirs);
    model_watch("records", &records, sizeof records, true);
    model_watch("mine", &mine, sizeof mine, false);
    model_watch("theirs", &theirs, sizeof theirs, false);
}

static void push_records(void)
{
    unsigned char body[CAPACITY];

    for (uint32_t i = 0; i < RECORDS; i++) {
        memset(body, (int)i + 1, sizeof body);
        mine.stored[i] = vlad_record_ring_push(&records.ring, &i, body, size_of(i));
    }
}

static bool pop_record(void)
{
    unsigned char body[CAPACITY];
    uint32_t i;
    ssize_t size = vlad_record_ring_pop(&records.ring, &i, body);

    if (size < 0)
        return false;
    MODEL_REQUIRE(i < RECORDS && i >= theirs.next);
    MODEL_REQUIRE((size_t)size == size_of(i));
    for (ssize_t k = 0; k < size; k++)
        MODEL_REQUIRE(body[k] == i + 1);
    theirs.next = i + 1;
    theirs.stored[i] = true;
    return true;
}

static void pop_records(void)
{
    for (int i = 0; i < TRIES; i++)
        pop_record();
}

static void end_records(void)
{
    while (pop_record())
        ;
    MODEL_REQUIRE(memcmp(mine.stored, theirs.stored, sizeof mine.stored) == 0);
}

int main(int argc, char **argv)
{
    struct model model = {.name = "events: in order, what is lost is counted",
                          .begin = begin_events, .thread = {loop, reader}, .end = end_events};

    (void)argv;
    if (argc > 1)
        emitted = 4;
    model_check(&model);
    backlog = VLAD_EVENTS - 2;
    model.name = "events: the same into a ring nearly full";
    model_check(&model);
    model = (struct model){.name = "records: whole, in order, none lost", .begin = begin_records,
                           .thread = {push_records, pop_records}, .end = end_records};
    model_check(&model);
    return 0;
}
