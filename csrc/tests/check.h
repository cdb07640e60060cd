/* check.h: assertions of the C unit tests. A test program returns 0 when every CHECK held. */
#ifndef VLAD_CHECK_H
#define VLAD_CHECK_H

#include <stdio.h>  /* the report */
#include <stdlib.h> /* exit */

static _Atomic int check_count; /* any thread may check */

#define CHECK(condition)                                                              \
    do {                                                                              \
        check_count++;                                                                \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: %s: failed: %s\n", __FILE__, __LINE__, __func__, \
                    #condition);                                                      \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

#define CHECK_EQ(a, b)                                                                     \
    do {                                                                                   \
        long long check_a = (long long)(a), check_b = (long long)(b);                      \
        check_count++;                                                                     \
        if (check_a != check_b) {                                                          \
            fprintf(stderr, "%s:%d: %s: %s = %lld, expected %s = %lld\n", __FILE__,      \
                    __LINE__, __func__, #a, check_a, #b, check_b);                         \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

/* Evidence for a row of the fault table, in simulated time; -1 = not measured. Read by
 * tests/survival.py. */
#define SURVIVED(row, react_ns, rest_ns)                                   \
    printf("survived: row %d react_ns %lld rest_ns %lld\n", (int)(row),   \
           (long long)(react_ns), (long long)(rest_ns))

/* Of what the kernel under a test lacks, as emulators do; tests/unit/test_csrc.py allows for none. */
#define SKIPPED(why) printf("skipped: %s: %s\n", __func__, why)

#define CHECK_DONE()                                    \
    do {                                                \
        printf("%s: %d checks\n", __FILE__, check_count); \
        return 0;                                       \
    } while (0)

#endif
