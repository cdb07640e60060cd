/* gate.h: what an action must pass before it may be queued. Pure: no clock, descriptor or state.
 *
 * Order in vlad_queue_push(): age (late, stale, frame age) -> raw chunk (finite, position, step)
 * -> merge -> merged timeline (step, jump against the command in force).
 */
#ifndef VLAD_GATE_H
#define VLAD_GATE_H

#include "vlad.h"

/* Ranges within which no sum in the core can overflow; far beyond any arm. */
#define VLAD_MAX_NU (1000 * VLAD_NU_PER_UNIT) /* positions, and speed per second */
#define VLAD_MAX_PERIOD_NS VLAD_NS_PER_S

enum vlad_verdict { VLAD_ACCEPTED, VLAD_CLAMPED, VLAD_REJECTED };

/* Why a chunk was rejected, in the order of the checks; names are exported as they are. */
enum vlad_reason {
    VLAD_R_NONE,
    VLAD_R_SHAPE,       /* no actions, too many, wrong joint count, negative time */
    VLAD_R_DISENGAGED,  /* the request belongs to an engagement that has ended */
    VLAD_R_FUTURE,      /* t_obs lies after now */
    VLAD_R_LATE,        /* arrived after its predecessor's last action was due */
    VLAD_R_STALE,       /* observation older than max_observation_age (max_cold_age from rest) */
    VLAD_R_FRAME_AGE,   /* a frame older than max_frame_age, or reused tokens than max_reuse_age */
    VLAD_R_MOVED,       /* cold start, but the arm has not been at rest since t_obs */
    VLAD_R_NOT_FINITE,
    VLAD_R_POSITION,    /* beyond the joint limit by more than the clamp allowance */
    VLAD_R_STEP,        /* |a_i - a_(i-1)| > v_max / f */
    VLAD_R_JUMP,        /* too far from the chunk before, or from the command in force, to blend */
    VLAD_N_REASONS
};

struct vlad_gate_config {
    struct vlad_limits limits;
    int64_t period_ns;              /* 1/f of the policy, rounded to ns: the grid */
    int64_t clamp_permille;         /* of the joint's span: so far beyond a limit is clamped */
    int64_t max_observation_age_ns; /* N/f */
    int64_t max_cold_age_ns;        /* 10 s */
    int64_t max_frame_age_ns;       /* 2 camera periods */
    int64_t max_reuse_age_ns;       /* N/f */
    int64_t max_jump_nu;            /* cold start: farthest chunk start from the command (30 deg) */
    int64_t blend_ns;               /* async: a jump is blended over at most this long (100 ms) */
};

/* What travels with a chunk from the assembly of its request. */
struct vlad_chunk {
    uint64_t seq;          /* request number */
    uint64_t epoch;        /* engagement the request was made in */
    int64_t t_obs_ns;      /* on the grid, rounded down (vlad_queue_push rounds what is not) */
    int64_t frame_age_ns;  /* oldest fresh frame: t_obs - t_capture; may be negative */
    int64_t reuse_age_ns;  /* oldest reused vision tokens; 0 = none reused */
    bool cold;             /* requested at rest with an empty queue */
    int n_actions, n_joints;
    const double *actions; /* [n_actions][n_joints], units (rad, 0..1) */
};

struct vlad_gate_report {
    enum vlad_verdict verdict;
    enum vlad_reason reason;
    int joint, action;    /* of the first offender or first clamped; -1 where they do not apply */
    double value, bound;  /* units for positions and steps, seconds for ages, counts for shapes */
    int n_clamped;        /* elements clamped to the limit */
    int n_elapsed;        /* actions dropped because they were due before now */
    int n_tail_dropped;   /* old actions behind the chunk, dropped: over one step away */
    int n_blended;        /* actions moved to make a seam smooth */
    int64_t t0_ns;        /* accepted: when the chunk's action 0 is, or was, due */
};

/* What the gate must know of the arm: the command in force and whether it moves. */
struct vlad_command {
    uint64_t epoch;         /* of the current engagement; 0 = not engaged */
    bool at_rest;           /* the trajectory is at rest */
    int64_t rest_since_ns;  /* valid when at_rest */
    int64_t goal_nu[VLAD_MAX_JOINTS]; /* last written goal */
};

/* 1..VLAD_MAX_JOINTS joints; min < max within VLAD_MAX_NU; v, a, j positive, v up to VLAD_MAX_NU,
 * a and j up to 1e6 times that. */
bool vlad_limits_valid(const struct vlad_limits *limits);

/* 0, or -EINVAL: limits, period (1 ns .. 1 s), clamp_permille (0..1000), a negative age, jump or
 * blend time. */
int vlad_gate_check_config(const struct vlad_gate_config *config);

/* An accepted report with no offender: what the checks below start from. */
void vlad_gate_report_clear(struct vlad_gate_report *report);

/* Ages and deadline. last_due_ns: due time of the last queued action, INT64_MIN when the queue is
 * empty. Returns true when the chunk may go on; otherwise *report says why. */
bool vlad_gate_time(const struct vlad_gate_config *config, const struct vlad_chunk *chunk,
                    const struct vlad_command *command, int64_t last_due_ns, int64_t now_ns,
                    struct vlad_gate_report *report);

/* All elements finite, then all positions (clamped up to clamp_permille of the span, counted), then
 * all per-action steps. The shape must have passed vlad_gate_time(). Writes n_actions rows of
 * VLAD_MAX_JOINTS nano-units to out_nu; false = rejected whole. */
bool vlad_gate_chunk(const struct vlad_gate_config *config, const struct vlad_chunk *chunk,
                     int64_t out_nu[][VLAD_MAX_JOINTS], struct vlad_gate_report *report);

/* Per-action step over `n` merged actions that follow `before_nu` (the action or command just
 * before them). With `jump_allowed_nu` > 0 the first step may be that large, and VLAD_R_JUMP is the
 * reason when it is larger. */
bool vlad_gate_steps(const struct vlad_gate_config *config, const int64_t *before_nu,
                     const int64_t (*merged_nu)[VLAD_MAX_JOINTS], int n, int64_t jump_allowed_nu,
                     struct vlad_gate_report *report);

/* v_max / f of joint j, in nano-units, at least 1: the largest step from one action to the next. */
int64_t vlad_gate_step_nu(const struct vlad_gate_config *config, int joint);

const char *vlad_reason_name(enum vlad_reason reason);   /* "late", "stale", ... */
const char *vlad_verdict_name(enum vlad_verdict verdict);

#endif
