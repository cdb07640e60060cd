/* arm.h: what the servo loop needs of an arm. Implemented over a serial bus by feetech_arm.c and in
 * memory by memory_arm.c, so that the loop itself is the same code in both. */
#ifndef VLAD_ARM_H
#define VLAD_ARM_H

#include "vlad.h"

/* One reading of all joints. Units, except where the name says otherwise. */
struct vlad_arm_state {
    int64_t t_ns;                              /* when the reading was complete */
    uint32_t answered;                         /* bit j: joint j answered this time, checksum good */
    uint32_t corrupt;                          /* bit j: bytes came where its answer was due, no good packet */
    int64_t position_nu[VLAD_MAX_JOINTS];      /* last good value where the bit is clear */
    int64_t velocity_nu_s[VLAD_MAX_JOINTS];
    int32_t load_permille[VLAD_MAX_JOINTS];    /* signed */
    int32_t voltage_mv[VLAD_MAX_JOINTS];
    int32_t temperature_c[VLAD_MAX_JOINTS];
    uint8_t status[VLAD_MAX_JOINTS];           /* the servo's error byte, never discarded */
    int64_t goal_nu[VLAD_MAX_JOINTS];          /* what its goal register holds */
    uint32_t powered;                          /* bit j: its torque is on */
    uint32_t limited;                          /* bit j: its torque limit is not what was last asked */
    int32_t limit_permille[VLAD_MAX_JOINTS];   /* of what it is configured for */
};

/* Error byte of a STS3215 status packet (register 65 has the same bits). */
enum {
    VLAD_STATUS_VOLTAGE = 1 << 0,
    VLAD_STATUS_ENCODER = 1 << 1,
    VLAD_STATUS_TEMPERATURE = 1 << 2,
    VLAD_STATUS_CURRENT = 1 << 3,
    VLAD_STATUS_OVERLOAD = 1 << 5
};

struct vlad_arm_ops {
    /* Reads all joints, giving up at deadline_ns. 0 even when some or all stayed silent (see
     * `answered`); -errno when the bus itself failed (EIO, ENODEV, EBADF, ...). */
    int (*read)(void *arm, int64_t deadline_ns, struct vlad_arm_state *state);
    /* Writes the goals of all joints in one frame. 0, -EAGAIN (frame not fully written by the
     * deadline: the tick is dropped), or -errno. */
    int (*write)(void *arm, int64_t deadline_ns, const int64_t *goal_nu);
    /* Torque of the joints in `mask` on or off. Turning it on first writes goal_nu as their goal (the
     * present pose, from the loop): a servo that gets torque drives to whatever its goal register
     * holds, which may be anything. Turning it off ignores goal_nu. */
    int (*torque)(void *arm, int64_t deadline_ns, uint32_t mask, bool on, const int64_t *goal_nu);
    /* Torque limits of the joints in `mask`, permille of what each is configured for. Neither
     * acknowledged nor read back here: see `limited`. 0 or -errno. */
    int (*limit)(void *arm, int64_t deadline_ns, uint32_t mask, const int32_t *permille);
    int64_t (*now_ns)(void *arm); /* the clock the deadlines refer to */
};

#endif
