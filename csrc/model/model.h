/* model.h: every execution of a few threads, one after the other.
 *
 * The code under test is compiled with -fsanitize=thread, but linked with this checker in place of
 * the sanitizer's library. So each access of memory in the very C code that runs on the arm comes
 * here: an atomic one is a point where any other thread may go on instead, and a load may return any
 * value that C11's memory order allows; a plain one is checked for races. Search is depth first
 * over all choices, each execution from the start, and ends where a state was seen before.
 *
 *   explore.c   threads as coroutines, choices, the search
 *   memory.c    atomics: histories of messages and what each thread has seen
 *   accesses.c  what the compiler calls; races between plain accesses
 *
 * The memory model is RC11 without the special rights of seq_cst, which counts as acq_rel: all
 * executions in which program order and reads-from have no cycle. Not covered is what RC11 excludes
 * too, a load that sees a store which its own thread's later stores bring about (load buffering).
 */
#ifndef VLAD_MODEL_H
#define VLAD_MODEL_H

#include <stdbool.h>
#include <stddef.h> /* size_t */
#include <stdint.h>

#define MODEL_THREADS 4

struct model {
    const char *name;
    void (*begin)(void); /* once; then what is watched is put back as it was for each execution */
    void (*thread[MODEL_THREADS])(void); /* NULL: none */
    void (*end)(void);   /* after all threads, with everything they did seen */
    int max_steps[MODEL_THREADS]; /* for a loop that waits; 0 = as many as it takes */
    int max_preemptions; /* 0 = any number */
};

/* Returns when all executions have been seen; prints how many. A failure prints the execution and
 * ends the program with 1. */
void model_check(const struct model *model);

/* In `begin`: this memory belongs to the execution. Races on it are looked for where `shared`. */
void model_watch(const char *name, void *at, size_t size, bool shared);

/* In a thread: any of 0..n-1. */
int model_choose(int n);

void model_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#define MODEL_STRING_OF(x) #x
#define MODEL_STRING(x) MODEL_STRING_OF(x)
#define MODEL_REQUIRE(condition)                                                        \
    do {                                                                                \
        if (!(condition))                                                               \
            model_fail("%s", __FILE__ ":" MODEL_STRING(__LINE__) ": " #condition);      \
    } while (0)

#endif
