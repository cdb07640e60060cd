/* memory_arm.h: an arm in memory, with the clock in it. The servo loop's own code runs on it at
 * simulated time, thousands of times faster than real, and every write is judged as it arrives.
 * With `real_time` set the loop's thread can drive it: then bus_ns and a silent servo cost no time. */
#ifndef VLAD_MEMORY_ARM_H
#define VLAD_MEMORY_ARM_H

#include "arm.h"
#include "vlad.h"

struct vlad_memory_arm {
    int n_joints;
    int64_t now_ns;      /* advanced by whoever simulates */
    bool real_time;      /* now_ns follows the machine's clock: under vlad_servo_start() */
    int64_t bus_ns;      /* time one read or write takes */
    int64_t present_nu[VLAD_MAX_JOINTS];
    int64_t goal_nu[VLAD_MAX_JOINTS];
    bool torque;
    uint32_t torque_mask;
    uint32_t limp;       /* joints whose torque was switched off: like feetech_arm's, they get no goals */
    int64_t tracking_ns; /* time constant of a servo */
    int64_t moved_ns;    /* when the plant was last advanced */
    void (*watch)(void *watcher); /* after each simulated tick; NULL = nobody watches */
    void *watcher;

    int32_t limit_permille[VLAD_MAX_JOINTS], asked_permille[VLAD_MAX_JOINTS];

    /* Faults a test sets. */
    uint32_t blocked;                    /* joint mask: something stands in the way */
    int64_t offset_nu[VLAD_MAX_JOINTS];  /* of the encoder: what it adds to the truth */
    int32_t load_permille[VLAD_MAX_JOINTS];
    uint32_t deaf;                       /* joint mask: goals do not arrive */
    uint32_t silent, corrupt;            /* joint masks */
    int read_error, write_error;         /* -errno returned while set */
    int drop_writes, refuse_torque;      /* so many end with -EAGAIN */
    uint8_t status[VLAD_MAX_JOINTS];
    int32_t temperature_c, voltage_mv;   /* of all joints */
    int drop_limits, drop_torque;        /* so many do not arrive, and nobody says so */

    /* The judge. */
    uint64_t writes, reads;
    uint64_t limp_writes;                 /* goals that came while a servo had no torque */
    const void *writer;                   /* the thread that wrote last, */
    uint64_t writers;                     /* and how often it was another than before */
    int64_t step_max_nu[VLAD_MAX_JOINTS]; /* largest |goal_k - goal_(k-1)| between written goals */
    int64_t first_write_nu[VLAD_MAX_JOINTS], seen_min_nu[VLAD_MAX_JOINTS],
        seen_max_nu[VLAD_MAX_JOINTS];
    int64_t last_motion_ns;               /* when a written goal last differed from its predecessor */
};

extern const struct vlad_arm_ops vlad_memory_arm_ops;

void vlad_memory_arm_init(struct vlad_memory_arm *arm, int n_joints, const int64_t *pose_nu,
                          int64_t now_ns);

#endif
