/* trajectory.h: from the policy's rate to the servo's, smooth and bounded. Pure.
 *
 * A rate limiter followed by two moving averages of n1 and n2 ticks, all in integers:
 *   speed        <= step per tick (the limiter; an average cannot exceed its inputs)
 *   acceleration <= 2 v_max / T1  (n1 chosen so that this is <= a_max), + 2 nu per tick^2
 *   jerk         <= 2 a_max / T2  (n2 likewise), + 4 nu per tick^3: the output is a whole number
 *   position     a convex combination of past inputs: inside the limits whenever they were
 *   stop         once the input stands still, the output does after n1 + n2 - 2 ticks, exactly
 * The filter is symmetric, so feeding it the timeline (n1 + n2 - 2)/2 ticks ahead has no lag.
 *
 * A stop (HOLD) freezes the input and lets the filter run out, with one addition: no joint may
 * speed up or turn back on the way (invariant I2). Cutting an acceleration at once is the one
 * permitted jerk step.
 */
#ifndef VLAD_TRAJECTORY_H
#define VLAD_TRAJECTORY_H

#include "vlad.h"

#define VLAD_TRAJECTORY_MAX_TICKS 304 /* n1 + n2: 300 ms at 1000 Hz, and the rounding up */
#define VLAD_STOP_MAX_NS (300 * VLAD_NS_PER_MS)

struct vlad_trajectory {
    int n_joints;
    int n1, n2;                          /* window lengths in ticks, >= 1 */
    int64_t step_nu[VLAD_MAX_JOINTS];    /* largest change of the goal in one tick */
    int at1, at2;                        /* ring positions */
    int64_t ring1[VLAD_TRAJECTORY_MAX_TICKS][VLAD_MAX_JOINTS];
    int64_t ring2[VLAD_TRAJECTORY_MAX_TICKS][VLAD_MAX_JOINTS]; /* sums of ring1 */
    int64_t sum1[VLAD_MAX_JOINTS], sum2[VLAD_MAX_JOINTS];
    int64_t input_nu[VLAD_MAX_JOINTS];   /* after the rate limiter */
    int64_t goal_nu[VLAD_MAX_JOINTS];    /* output */
    int64_t velocity_nu[VLAD_MAX_JOINTS];/* goal_k - goal_(k-1), per tick */
    int still_ticks;                     /* for how many ticks the input has not moved */
    bool stopping;
    int64_t drained_nu[VLAD_MAX_JOINTS]; /* filter output while stopping, before the I2 rule */
};

/* unit_nu[j]: nano-units of one encoder tick, rounded either way (the true value differs by less
 * than 1). step_nu = v_max * period, rounded down to a whole number of encoder ticks and by that
 * 1 nu per tick, so that rounding to ticks can never make a step of the wire larger than the
 * limit. 0; -ERANGE: the windows need more than VLAD_STOP_MAX_NS, or v_max is below one encoder
 * tick per period; -EINVAL: counts, limits, period, unit_nu below 2. *joint says where, or -1. */
int vlad_trajectory_init(struct vlad_trajectory *trajectory, const struct vlad_limits *limits,
                         const int64_t *unit_nu, int64_t period_ns, int *joint);

/* At rest at goal_nu. */
void vlad_trajectory_reset(struct vlad_trajectory *trajectory, const int64_t *goal_nu);

/* One tick towards target_nu (within VLAD_MAX_NU). A stop under way goes on until it is done: the
 * target then counts only from the tick after. speed_permille (1..1000) scales the rate limit
 * (PARK, SLOW). */
void vlad_trajectory_advance(struct vlad_trajectory *trajectory, const int64_t *target_nu,
                             int speed_permille);

/* One tick of a stop. The first call freezes the input. When it returns true, after at most
 * n1 + n2 - 1 calls, the goal has not moved in this tick and the filter has been reset there. */
bool vlad_trajectory_stop(struct vlad_trajectory *trajectory);

/* Obstacles: the goal of the joints in `mask` goes straight to pose_nu, one step a tick, whatever it
 * moved like before. Once a tick, with vlad_trajectory_stop() right after it, which then only brakes
 * the others. True when all are there. */
bool vlad_trajectory_yield(struct vlad_trajectory *trajectory, uint32_t mask,
                           const int64_t *pose_nu);

/* The goal stands still and would go on doing so: nothing is left in the filter. */
bool vlad_trajectory_at_rest(const struct vlad_trajectory *trajectory);

/* How far ahead the input should be read for zero lag, and how long a stop takes at most. */
int64_t vlad_trajectory_lookahead_ns(const struct vlad_trajectory *trajectory, int64_t period_ns);
int64_t vlad_trajectory_stop_ns(const struct vlad_trajectory *trajectory, int64_t period_ns);

#endif
