/* vlad.h: the types every part of the C core shares.
 *
 * Positions are int64 "nano-units" (nu): 1e-9 rad for a body joint, 1e-9 of the calibrated range
 * for the gripper. Integers make the trajectory filter's running sums exact, so "at rest" and
 * "one step" are equalities, not tolerances. Ticks exist only in feetech.c.
 *
 * Time is CLOCK_MONOTONIC in integer nanoseconds, always passed in: nothing here reads a clock.
 */
#ifndef VLAD_H
#define VLAD_H

#include <stdbool.h>
#include <stdint.h>

#define VLAD_ABI 1             /* checked by the Python side at import (fault 50) */
#define VLAD_MAX_JOINTS 8
#define VLAD_MAX_ACTIONS 256   /* in one chunk */
#define VLAD_MAX_TIMELINE 512  /* in the queue: one chunk plus the old tail behind it */
#define VLAD_NU_PER_UNIT 1000000000LL
#define VLAD_NS_PER_S 1000000000LL
#define VLAD_NS_PER_MS 1000000LL
#define VLAD_NS_PER_US 1000LL

/* Authority, from none to most. Only the servo loop changes the mode. */
enum vlad_mode {
    VLAD_OFFLINE,  /* no bus */
    VLAD_READY,    /* bus up, nothing commanded: whatever the servos hold, they hold */
    VLAD_HOLDING,  /* torque on, the pose is held */
    VLAD_ENGAGED,  /* the action queue drives the arm */
    VLAD_STOPPING, /* braking towards HOLDING, or moving to the rest pose */
    VLAD_FAULTED,  /* a fault is latched: held (or limp) until `clear` */
    VLAD_N_MODES
};

/* Ordered: the most severe wins. */
enum vlad_reaction {
    VLAD_NONE,
    VLAD_WARN,
    VLAD_SLOW,
    VLAD_HOLD,
    VLAD_PARK,
    VLAD_LIMP,
    VLAD_N_REACTIONS
};

/* Limits of one joint. v, a and j bound the goal trajectory, not the servo. */
struct vlad_joint_limits {
    int64_t min_nu, max_nu;
    int64_t v_max_nu_s;  /* per second */
    int64_t a_max_nu_s2; /* per second^2 */
    int64_t j_max_nu_s3; /* per second^3 */
};

struct vlad_limits {
    int n_joints;
    struct vlad_joint_limits joint[VLAD_MAX_JOINTS];
};

_Static_assert(VLAD_MAX_TIMELINE >= 2 * VLAD_MAX_ACTIONS, "a chunk and a tail must fit");

#endif
