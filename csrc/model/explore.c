/* Threads as coroutines, and the search over all choices. */
#include <stdarg.h>   /* model_fail */
#include <stdio.h>    /* what was found */
#include <stdlib.h>   /* exit, calloc */
#include <string.h>   /* memset */
#include <time.h>     /* how long it took */
#include <ucontext.h> /* coroutines */

#include "parts.h"

#define STACK (512 * 1024)
#define CHOICES 4096
#define NOTES 8192
#define STEPS_MAX 1000

int model_self = -1;
uint32_t model_run;

static const struct model *model;
static ucontext_t base, context[MODEL_THREADS];
static unsigned char stack[MODEL_THREADS][STACK];
static enum { ABSENT, STEPS, FINISHED } state[MODEL_THREADS];
static int steps[MODEL_THREADS], preemptions;
static uint64_t history[MODEL_THREADS]; /* hash of all that a thread has seen */
static enum { GO_ON, COMPLETE, SEEN, CUT, RESTART } verdict;

static struct { int taken, of; } choice[CHOICES];
static int at, known; /* the next choice; those before `known` are given */

static struct { enum operation op; const void *at; int thread, order; uint64_t value; bool newest; }
    note[NOTES];
static int notes;
static struct { uint64_t complete, seen, cut, states, longest; } total;

/* A set of hashes: 2^-64 of meeting a wrong one for each pair of states. */
static struct { uint64_t *slot; size_t size, used; } set;

static uint64_t mix(uint64_t a, uint64_t b)
{
    a = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xff51afd7ed558ccdu;
    return a ^ (a >> 32);
}

static bool set_add(uint64_t hash)
{
    if (2 * (set.used + 1) > set.size) {
        size_t size = set.size;
        uint64_t *old = set.slot;

        set.size = size ? 2 * size : 1 << 16;
        set.used = 0;
        set.slot = calloc(set.size, sizeof *set.slot);
        if (!set.slot)
            exit(2);
        for (size_t i = 0; i < size; i++)
            if (old[i])
                set_add(old[i]);
        free(old);
    }
    hash += hash == 0;
    for (size_t i = hash & (set.size - 1);; i = (i + 1) & (set.size - 1)) {
        if (set.slot[i] == hash)
            return false;
        if (!set.slot[i]) {
            set.slot[i] = hash;
            set.used++;
            return true;
        }
    }
}

void model_note(enum operation op, const void *where, int order, uint64_t value, bool newest)
{
    if (notes < NOTES) {
        note[notes].op = op;
        note[notes].at = where;
        note[notes].thread = model_self;
        note[notes].order = order;
        note[notes].value = value;
        note[notes++].newest = newest;
    }
}

void model_fail(const char *format, ...)
{
    static const char *const names[N_OPERATIONS] = {"load", "store", "exchange", "or",
                                                    "and",  "add",   "sub",      "fence"};
    static const char *const orders[] = {"relaxed", "consume", "acquire",
                                         "release", "acq_rel", "seq_cst"};
    va_list list;

    printf("%s: execution %llu:\n", model->name, (unsigned long long)total.complete + 1);
    for (int i = 0; i < notes; i++)
        printf("  %*sthread %d: %-8s %-8s %-28s %#llx%s\n", 4 * note[i].thread, "", note[i].thread,
               names[note[i].op], orders[note[i].order],
               note[i].op == FENCE ? "" : model_name(note[i].at), (unsigned long long)note[i].value,
               note[i].newest ? "" : "  (not the newest)");
    printf("%s: FAILED in thread %d: ", model->name, model_self);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
    exit(1);
}

static void leave(int why)
{
    verdict = (typeof(verdict))why;
    model_self = -1;
    setcontext(&base);
    __builtin_unreachable();
}

void model_restart(void)
{
    leave(RESTART);
    __builtin_unreachable();
}

void model_seen(uint64_t what)
{
    history[model_self] = mix(history[model_self], what);
}

int model_choose(int n)
{
    if (n == 1)
        return 0;
    if (at == known) {
        if (known == CHOICES)
            model_fail("more than %d choices in one execution", CHOICES);
        choice[known].taken = 0;
        choice[known++].of = n;
    }
    if (choice[at].of != n)
        model_fail("not the same twice: %d choices, %d before", n, choice[at].of);
    if (model_self >= 0)
        model_seen((uint64_t)choice[at].taken);
    return choice[at++].taken;
}

static uint64_t state_hash(int from)
{
    uint64_t hash = model_memory_hash();

    for (int t = 0; t < MODEL_THREADS; t++)
        hash = mix(hash, history[t] + (state[t] == FINISHED));
    if (model->max_preemptions)
        hash = mix(mix(hash, (uint64_t)preemptions), (uint64_t)from);
    return hash;
}

/* Who makes the next step after `from`; -1: nobody, and `verdict` says why. Only here are states
 * compared: each step of a thread is one visible operation, and what follows it up to the next. */
static int next_thread(int from)
{
    int candidate[MODEL_THREADS], n = 0, to;
    bool stay = from >= 0 && state[from] == STEPS;

    if (at == known) {
        if (!set_add(state_hash(from))) {
            verdict = SEEN;
            return -1;
        }
        total.states++;
    }
    if (stay)
        candidate[n++] = from;
    for (int t = 0; t < MODEL_THREADS; t++)
        if (t != from && state[t] == STEPS &&
            !(stay && model->max_preemptions && preemptions == model->max_preemptions))
            candidate[n++] = t;
    if (n == 0) {
        verdict = COMPLETE;
        return -1;
    }
    model_self = -1;
    to = candidate[model_choose(n)];
    model_self = to;
    preemptions += stay && to != from;
    return to;
}

static bool starting;

void model_step(void)
{
    if (starting) { /* up to its first step a thread does nothing that another one sees */
        int self = model_self;

        swapcontext(&context[self], &base);
    } else {
        int self = model_self, to;

        if (++steps[self] > (model->max_steps[self] ? model->max_steps[self] : STEPS_MAX))
            leave(CUT);
        to = next_thread(self);
        if (to < 0)
            leave((int)verdict);
        if (to != self)
            swapcontext(&context[self], &context[to]);
    }
}

static void run_thread(int thread)
{
    model->thread[thread]();
    state[thread] = FINISHED;
    if (!starting) {
        int to = next_thread(thread);

        if (to >= 0)
            setcontext(&context[to]);
    }
    setcontext(&base);
}

static void start(int thread)
{
    state[thread] = STEPS;
    getcontext(&context[thread]);
    context[thread].uc_stack.ss_sp = stack[thread];
    context[thread].uc_stack.ss_size = STACK;
    context[thread].uc_link = NULL;
    makecontext(&context[thread], (void (*)(void))run_thread, 1, thread);
    model_self = thread;
    swapcontext(&base, &context[thread]);
}

static void execute(void)
{
    model_run++;
    at = notes = preemptions = 0;
    memset(state, 0, sizeof state);
    memset(steps, 0, sizeof steps);
    memset(history, 0, sizeof history);
    model_restore();
    model_memory_reset();
    starting = true;
    verdict = GO_ON;
    for (int t = 0; t < MODEL_THREADS && verdict == GO_ON; t++)
        if (model->thread[t])
            start(t);
    starting = false;
    if (verdict == GO_ON) {
        int first = next_thread(-1);

        if (first >= 0)
            swapcontext(&base, &context[first]);
    }
    model_self = -1;
    if (verdict == COMPLETE && model->end)
        model->end();
}

static bool backtrack(void)
{
    while (known && choice[known - 1].taken + 1 == choice[known - 1].of)
        known--;
    if (known)
        choice[known - 1].taken++;
    return known > 0;
}

static void forget(void)
{
    memset(&total, 0, sizeof total);
    free(set.slot);
    memset(&set, 0, sizeof set);
    known = 0;
}

void model_check(const struct model *checked)
{
    struct timespec from, to;

    model = checked;
    forget();
    model_memory_forget();
    model_watch_reset();
    clock_gettime(CLOCK_MONOTONIC, &from);
    model->begin();
    model_save();
    do {
        execute();
        if (verdict == RESTART)
            forget();
        total.complete += verdict == COMPLETE;
        total.seen += verdict == SEEN;
        total.cut += verdict == CUT;
        total.longest = (uint64_t)notes > total.longest ? (uint64_t)notes : total.longest;
    } while (verdict == RESTART || backtrack());
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%-44s %8llu executions %9llu states %4llu operations", model->name,
           (unsigned long long)total.complete, (unsigned long long)total.states,
           (unsigned long long)total.longest);
    if (total.cut)
        printf(" %llu cut", (unsigned long long)total.cut);
    if (model->max_preemptions)
        printf(" up to %d preemptions", model->max_preemptions);
    printf(" %.1f s\n", (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9);
    fflush(stdout);
}
