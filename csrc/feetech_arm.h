/* feetech_arm.h: an arm of STS3215 servos on a serial bus, as the servo loop wants it (arm.h).
 *
 *     static struct vlad_feetech_arm arm;            (large; keep it where it does not move)
 *     struct vlad_feetech_joint joints[] = {{.id = 1}, ...};
 *     vlad_feetech_scale_body(&joints[0].scale, range_min, range_max, 1);
 *     vlad_feetech_scale_gripper(&joints[5].scale, range_min, range_max, 1);
 *     rc = vlad_feetech_arm_init(&arm, fd, 1000000, joints, 6, read_budget_ns, write_budget_ns);
 *     vlad_feetech_arm_adopt(&arm, torque_on);       (mask that bring-up read from the servos)
 *     ... &vlad_feetech_arm_ops, &arm ...            (to the servo loop)
 *
 * The descriptor stays the caller's: open while the arm is used, closed by the caller.
 */
#ifndef VLAD_FEETECH_ARM_H
#define VLAD_FEETECH_ARM_H

#include "arm.h"
#include "serial_bus.h"

struct vlad_feetech_joint {
    uint8_t id;
    uint16_t max_torque_permille; /* of its register; 0 = 1000 */
    struct vlad_feetech_scale scale;
};

struct vlad_feetech_arm {
    struct vlad_serial_bus bus; /* arm.bus.counters: exported as they are */
    int n_joints;
    struct vlad_feetech_joint joint[VLAD_MAX_JOINTS];
    uint8_t ids[VLAD_MAX_JOINTS];
    int64_t read_budget_ns, write_budget_ns;
    /* Joints without torque get no goal: some firmware turns torque on when a goal is written. */
    uint32_t limp;
    int32_t asked_limit[VLAD_MAX_JOINTS]; /* Torque_Limit last written, -1 = never */
    struct vlad_arm_state last; /* last good values */
    struct vlad_feetech_reply replies[VLAD_MAX_JOINTS];
    _Atomic uint64_t unencodable_goals; /* writer: the bus's thread; readers: any. Frames refused
                                           because a goal was not in 0..4095 ticks */
};

/* read_budget_ns, write_budget_ns: the most that one read or write may take, whatever deadline it is
 * given; a torque call may take their sum. 0, -EINVAL (n_joints not in 1..VLAD_MAX_JOINTS, an id above 253 or twice,
 * a budget <= 0, a scale that no vlad_feetech_scale_*() made), or -errno of the descriptor.
 * All joints count as having torque until vlad_feetech_arm_adopt() says otherwise. */
int vlad_feetech_arm_init(struct vlad_feetech_arm *arm, int fd, int baud,
                          const struct vlad_feetech_joint *joints, int n_joints,
                          int64_t read_budget_ns, int64_t write_budget_ns);
/* The same over any ops. */
int vlad_feetech_arm_init_ops(struct vlad_feetech_arm *arm, const struct vlad_serial_ops *ops,
                              void *port, const struct vlad_feetech_joint *joints, int n_joints,
                              int64_t read_budget_ns, int64_t write_budget_ns);
/* After init, before the loop: which joints have torque now (bit j = joint j). */
void vlad_feetech_arm_adopt(struct vlad_feetech_arm *arm, uint32_t torque_on);

/* read: one sync read of torque, goal, torque limit, position, velocity, load, voltage and
 *   temperature, registers 40 to 63: 30 bytes a servo, 1.94 ms for six at 1 Mbaud. A joint that did not
 *   answer keeps its last good values (0 before the first) with its `answered` bit clear; so do all
 *   when it returns -errno.
 * write: one sync write of the goals of all joints with torque, none if there are none.
 *   -ERANGE when a goal of theirs is not in 0..4095 ticks: nothing is written, and counted.
 * torque: off: one sync write of Torque_Enable; the joints get no goals from then on, even if it
 *   failed. On: sync write of the goals, which are then read back; only if all hold is torque
 *   turned on, because a sync write is not acknowledged and torque with an old goal is a jump; and
 *   only if all have it do they get goals.
 *   -EAGAIN when a goal or the torque did not arrive, -EINVAL for a joint that does not exist, -ERANGE as above.
 * limit: one sync write of Torque_Limit, in permille of the joint's max_torque_permille. -EINVAL for
 *   a joint that does not exist or a value not in 0..1000: nothing is written.
 * Each as arm.h says otherwise. */
extern const struct vlad_arm_ops vlad_feetech_arm_ops;

#endif
