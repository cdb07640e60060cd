/* parts.h: what the files of the model checker share. */
#ifndef VLAD_MODEL_PARTS_H
#define VLAD_MODEL_PARTS_H

#include "model.h"

#define LOCATIONS 48 /* atomics that two threads touch */

/* What has happened before: the newest message seen of each location (its id), and how far each
 * thread had come. */
struct view {
    uint8_t seen[LOCATIONS];
    uint16_t clock[MODEL_THREADS];
};

enum operation { LOAD, STORE, EXCHANGE, OR, AND, ADD, SUB, FENCE, N_OPERATIONS };

/* explore.c */
extern int model_self;       /* the thread that runs, or -1 */
extern uint32_t model_run;   /* number of this execution */
void model_step(void);       /* before each step that another thread may see: a point of choice */
void model_restart(void) __attribute__((noreturn)); /* one more location is shared: from the start */
void model_note(enum operation op, const void *at, int order, uint64_t value, bool newest);
void model_seen(uint64_t what); /* adds to what this thread's future depends on */

/* memory.c */
uint64_t model_atomic(enum operation op, void *at, int size, int order, uint64_t operand);
void model_fence(int order);
void model_memory_reset(void);   /* a new execution */
void model_memory_forget(void);  /* a new search */
uint64_t model_memory_hash(void);
const struct view *model_view(int thread);

/* accesses.c */
void model_save(void);        /* all that is watched, */
void model_restore(void);     /* and back */
void model_watch_reset(void);
void model_touch_atomic(const void *at, int size);
const char *model_name(const void *at); /* "name+offset" */

#endif
