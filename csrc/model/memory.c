/* Atomics: each location is a history of messages in modification order; each thread has a view of
 * the oldest message of each location that it may still read. See model.h for what this covers. */
#include <stdatomic.h> /* the orders */
#include <string.h>    /* memset */

#include "parts.h"

#define MESSAGES 64
#define PRIVATE 8192 /* atomics known, a power of two */

struct message {
    uint64_t value, name; /* name: the same in each execution with the same history */
    struct view view;     /* what an acquire of it brings */
    bool rmw;             /* belongs right behind its predecessor */
};

struct location {
    int n;
    struct message message[MESSAGES];
    uint8_t order[MESSAGES], rank[MESSAGES]; /* rank -> message, message -> rank */
};

static struct location location[LOCATIONS];
static int n_locations;

/* Atomics that only one thread has touched are no points of choice: until a second one comes, and
 * the search starts again with that known. */
static struct atomic { void *at; uint32_t run; int owner, location; } known[PRIVATE];

struct thread {
    struct view now;      /* what happened before */
    struct view acquired; /* what the next acquire fence adds */
    struct view released; /* at the last release fence: goes with relaxed stores */
    uint32_t operations;
};
static struct thread thread[MODEL_THREADS];

static bool acquires(int order)
{
    return order == memory_order_acquire || order == memory_order_acq_rel ||
           order == memory_order_seq_cst || order == memory_order_consume;
}

static bool releases(int order)
{
    return order == memory_order_release || order == memory_order_acq_rel ||
           order == memory_order_seq_cst;
}

static void join(struct view *into, const struct view *from)
{
    for (int l = 0; l < n_locations; l++)
        if (location[l].rank[from->seen[l]] > location[l].rank[into->seen[l]])
            into->seen[l] = from->seen[l];
    for (int t = 0; t < MODEL_THREADS; t++)
        if (from->clock[t] > into->clock[t])
            into->clock[t] = from->clock[t];
}

const struct view *model_view(int t)
{
    return &thread[t].now;
}

void model_memory_forget(void)
{
    n_locations = 0;
    memset(known, 0, sizeof known);
}

void model_memory_reset(void)
{
    memset(thread, 0, sizeof thread);
    for (int t = 0; t < MODEL_THREADS; t++)
        thread[t].now.clock[t] = 1;
    for (int l = 0; l < n_locations; l++)
        location[l].n = 0;
}

uint64_t model_memory_hash(void)
{
    uint64_t hash = 0;

    for (int l = 0; l < n_locations; l++)
        for (int rank = 1; rank < location[l].n; rank++)
            hash = (hash ^ location[l].message[location[l].order[rank]].name) * 0x9fb21c651e98df25u;
    return hash;
}

static uint64_t fetch(const void *at, int size)
{
    switch (size) {
    case 1: return *(const uint8_t *)at;
    case 2: return *(const uint16_t *)at;
    case 4: return *(const uint32_t *)at;
    default: return *(const uint64_t *)at;
    }
}

static void keep(void *at, int size, uint64_t value)
{
    switch (size) {
    case 1: *(uint8_t *)at = (uint8_t)value; break;
    case 2: *(uint16_t *)at = (uint16_t)value; break;
    case 4: *(uint32_t *)at = (uint32_t)value; break;
    default: *(uint64_t *)at = value; break;
    }
}

static struct atomic *lookup(void *at)
{
    size_t i = ((uintptr_t)at * 0x9e3779b97f4a7c15u) >> 51;

    while (known[i].at && known[i].at != at)
        i = (i + 1) & (PRIVATE - 1);
    if (!known[i].at)
        known[i] = (struct atomic){.at = at, .location = -1};
    return &known[i];
}

static struct location *shared_location(void *at)
{
    struct atomic *atomic = lookup(at);

    if (atomic->location < 0) {
        if (atomic->run != model_run) {
            atomic->run = model_run;
            atomic->owner = model_self;
        }
        if (atomic->owner == model_self)
            return NULL;
        if (n_locations == LOCATIONS)
            model_fail("more than %d shared atomics", LOCATIONS);
        location[n_locations].n = 0;
        atomic->location = n_locations++;
        model_restart();
    }
    return &location[atomic->location];
}

static uint64_t update(enum operation op, uint64_t old, uint64_t operand)
{
    switch (op) {
    case OR: return old | operand;
    case AND: return old & operand;
    case ADD: return old + operand;
    case SUB: return old - operand;
    default: return operand;
    }
}

static uint64_t truncated(uint64_t value, int size)
{
    return size == 8 ? value : value & ((UINT64_C(1) << (8 * size)) - 1);
}

/* Whether a store may come at this rank: nothing parts a read-modify-write from what it read. */
static bool room_at(const struct location *l, int rank)
{
    return rank == l->n || !l->message[l->order[rank]].rmw;
}

/* A choice among the ranks from..to, newest first; for writers where there is room behind them. */
static int choose_rank(const struct location *l, int from, int to, bool room_behind)
{
    int rank[MESSAGES], n = 0;

    for (int r = to; r >= from; r--)
        if (!room_behind || room_at(l, r + 1))
            rank[n++] = r;
    return rank[model_choose(n)];
}

static struct message *insert(struct location *l, int rank, uint64_t value)
{
    int id = l->n;

    if (id == MESSAGES)
        model_fail("more than %d stores to one atomic", MESSAGES);
    for (int r = l->n++; r > rank; r--) {
        l->order[r] = l->order[r - 1];
        l->rank[l->order[r]] = (uint8_t)r;
    }
    l->order[rank] = (uint8_t)id;
    l->rank[id] = (uint8_t)rank;
    l->message[id] = (struct message){
        .value = value, .name = (uint64_t)(model_self + 1) << 32 | thread[model_self].operations
    };
    return &l->message[id];
}

uint64_t model_atomic(enum operation op, void *at, int size, int order, uint64_t operand)
{
    struct thread *self;
    struct location *l;
    struct message *read = NULL, *written;
    uint64_t old, value;
    int index, rank;

    old = fetch(at, size);
    if (model_self >= 0)
        model_touch_atomic(at, size);
    l = model_self >= 0 ? shared_location(at) : NULL;
    if (!l) {
        if (op != LOAD)
            keep(at, size, truncated(update(op, old, operand), size));
        return old;
    }
    index = (int)(l - location);
    model_step();
    self = &thread[model_self];
    self->operations++;
    if (l->n == 0) { /* as it was before the threads began */
        l->message[0] = (struct message){.value = fetch(at, size)};
        l->order[0] = l->rank[0] = 0;
        l->n = 1;
    }
    rank = choose_rank(l, l->rank[self->now.seen[index]], l->n - 1, op != LOAD);
    if (op != STORE) {
        read = &l->message[l->order[rank]];
        self->now.seen[index] = l->order[rank];
        join(acquires(order) ? &self->now : &self->acquired, &read->view);
        model_seen((uint64_t)op << 56 | (uint64_t)(uint32_t)index << 48 | read->name);
    } else {
        model_seen((uint64_t)op << 56 | (uint64_t)(uint32_t)index << 48);
    }
    old = read ? read->value : 0;
    value = truncated(update(op, old, operand), size);
    model_note(op, at, order, op == LOAD ? old : value, rank == l->n - 1);
    if (op == LOAD)
        return old;
    written = insert(l, rank + 1, value);
    written->rmw = read != NULL;
    self->now.seen[index] = (uint8_t)(l->n - 1);
    written->view = releases(order) ? self->now : self->released;
    written->view.seen[index] = (uint8_t)(l->n - 1);
    if (read) /* goes on with what the one it read had released */
        join(&written->view, &read->view);
    if (releases(order))
        self->now.clock[model_self]++;
    keep(at, size, l->message[l->order[l->n - 1]].value);
    return old;
}

void model_fence(int order)
{
    struct thread *self;

    if (model_self < 0)
        return;
    self = &thread[model_self];
    if (acquires(order))
        join(&self->now, &self->acquired);
    if (releases(order)) {
        self->released = self->now;
        self->now.clock[model_self]++;
    }
    model_note(FENCE, NULL, order, 0, true);
}
