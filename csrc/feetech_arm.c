#include "feetech_arm.h"

#include <errno.h>  /* EINVAL */
#include <string.h> /* memcmp, memset */

enum {
    FEEDBACK = VLAD_REG_TORQUE_ENABLE, /* and not from the position on: a servo that lost its power,
                                          or a goal that did not arrive, must show at once */
    FEEDBACK_BYTES = VLAD_REG_TEMPERATURE - FEEDBACK + 1
};

static int64_t now_ns(void *self)
{
    struct vlad_feetech_arm *arm = self;
    return arm->bus.ops->now_ns(arm->bus.port);
}

static int64_t bounded(struct vlad_feetech_arm *arm, int64_t deadline_ns, int64_t budget_ns)
{
    int64_t limit = now_ns(arm) + budget_ns;
    return limit < deadline_ns ? limit : deadline_ns;
}

/* A register of two bytes in a reply to the feedback request. */
static int32_t value(const struct vlad_feetech_reply *reply, int address, int sign_bit)
{
    return vlad_feetech_signed(vlad_feetech_u16(reply->data + (address - FEEDBACK)), sign_bit);
}

static void take(struct vlad_feetech_arm *arm, int j, const struct vlad_feetech_reply *reply)
{
    const struct vlad_feetech_scale *scale = &arm->joint[j].scale;
    struct vlad_arm_state *last = &arm->last;
    uint32_t bit = 1u << j;
    last->position_nu[j] =
        vlad_feetech_ticks_to_nu(scale, value(reply, VLAD_REG_PRESENT_POSITION, 15));
    last->velocity_nu_s[j] =
        vlad_feetech_velocity_nu_s(scale, value(reply, VLAD_REG_PRESENT_VELOCITY, 15));
    last->load_permille[j] = scale->direction * value(reply, VLAD_REG_PRESENT_LOAD, 10);
    last->goal_nu[j] = vlad_feetech_ticks_to_nu(scale, value(reply, VLAD_REG_GOAL_POSITION, 15));
    last->voltage_mv[j] = 100 * reply->data[VLAD_REG_VOLTAGE - FEEDBACK];
    last->temperature_c[j] = reply->data[VLAD_REG_TEMPERATURE - FEEDBACK];
    last->status[j] = reply->status;
    last->powered &= ~bit;
    last->limited &= ~bit;
    if (reply->data[VLAD_REG_TORQUE_ENABLE - FEEDBACK] != 0)
        last->powered |= bit;
    int32_t limit = vlad_feetech_u16(reply->data + (VLAD_REG_TORQUE_LIMIT - FEEDBACK)); /* no sign */
    last->limit_permille[j] = limit * 1000 / arm->joint[j].max_torque_permille;
    if (arm->asked_limit[j] >= 0 && limit != arm->asked_limit[j])
        last->limited |= bit;
}

static int arm_read(void *self, int64_t deadline_ns, struct vlad_arm_state *state)
{
    struct vlad_feetech_arm *arm = self;
    uint32_t answered;
    int rc = vlad_serial_sync_read(&arm->bus, arm->ids, arm->n_joints,
                                   FEEDBACK, FEEDBACK_BYTES,
                                   bounded(arm, deadline_ns, arm->read_budget_ns),
                                   arm->replies, &answered);
    /* -EAGAIN: the request could not be sent in time, so nobody was asked and nobody answered. */
    if (rc == -EAGAIN)
        rc = 0;
    uint32_t garbled = arm->bus.garbled;
    if (rc < 0)
        answered = garbled = 0;
    for (int j = 0; j < arm->n_joints; j++)
        if (answered >> j & 1)
            take(arm, j, &arm->replies[j]);
    arm->last.answered = answered;
    arm->last.corrupt = garbled;
    arm->last.t_ns = now_ns(arm);
    *state = arm->last;
    return rc;
}

/* The joints of one sync write. */
struct selection {
    uint8_t ids[VLAD_MAX_JOINTS], data[2 * VLAD_MAX_JOINTS];
    int n;
};

/* Goals of the joints in `mask`. 0 or -ERANGE, counted. */
static int select_goals(struct vlad_feetech_arm *arm, uint32_t mask, const int64_t *goal_nu,
                        struct selection *selection)
{
    selection->n = 0;
    for (int j = 0; j < arm->n_joints; j++) {
        int32_t ticks;
        if (!(mask >> j & 1))
            continue;
        int rc = vlad_feetech_nu_to_ticks(&arm->joint[j].scale, goal_nu[j], &ticks);
        if (rc < 0) {
            atomic_fetch_add_explicit(&arm->unencodable_goals, 1, memory_order_relaxed);
            return rc;
        }
        selection->ids[selection->n] = arm->ids[j];
        selection->data[2 * selection->n] = (uint8_t)ticks;
        selection->data[2 * selection->n + 1] = (uint8_t)(ticks >> 8);
        selection->n++;
    }
    return 0;
}

static int write_goals(struct vlad_feetech_arm *arm, const struct selection *selection,
                       int64_t deadline_ns)
{
    return vlad_serial_sync_write(&arm->bus, selection->ids, selection->n,
                                  VLAD_REG_GOAL_POSITION, selection->data, 2, deadline_ns);
}

static int arm_write(void *self, int64_t deadline_ns, const int64_t *goal_nu)
{
    struct vlad_feetech_arm *arm = self;
    struct selection selection;
    int rc = select_goals(arm, ~arm->limp, goal_nu, &selection);
    if (rc < 0 || selection.n == 0)
        return rc;
    return write_goals(arm, &selection, bounded(arm, deadline_ns, arm->write_budget_ns));
}

/* A sync write is not acknowledged: that its data arrived shows only when they are read back. */
static int arrived(struct vlad_feetech_arm *arm, const struct selection *selection,
                   uint8_t address, int width, int64_t deadline_ns)
{
    uint32_t answered;
    int rc = vlad_serial_sync_read(&arm->bus, selection->ids, selection->n, address, width,
                                   deadline_ns, arm->replies, &answered);
    if (rc < 0)
        return rc;
    for (int i = 0; i < selection->n; i++)
        if (!(answered >> i & 1) ||
            memcmp(arm->replies[i].data, selection->data + width * i, (size_t)width) != 0)
            return -EAGAIN;
    return 0;
}

static int arm_torque(void *self, int64_t deadline_ns, uint32_t mask, bool on,
                      const int64_t *goal_nu)
{
    struct vlad_feetech_arm *arm = self;
    struct selection selection = {.n = 0};
    int rc = 0;
    if (mask >> arm->n_joints != 0)
        return -EINVAL;
    if (mask == 0)
        return 0;
    deadline_ns = bounded(arm, deadline_ns, arm->read_budget_ns + arm->write_budget_ns);
    if (on) {
        rc = select_goals(arm, mask, goal_nu, &selection);
        if (rc == 0)
            rc = write_goals(arm, &selection, deadline_ns);
        if (rc == 0)
            rc = arrived(arm, &selection, VLAD_REG_GOAL_POSITION, 2, deadline_ns);
        if (rc < 0)
            return rc;
    } else {
        arm->limp |= mask;
        for (int j = 0; j < arm->n_joints; j++)
            if (mask >> j & 1)
                selection.ids[selection.n++] = arm->ids[j];
    }
    memset(selection.data, on, (size_t)selection.n);
    rc = vlad_serial_sync_write(&arm->bus, selection.ids, selection.n, VLAD_REG_TORQUE_ENABLE,
                                selection.data, 1, deadline_ns);
    if (rc == 0 && on)
        rc = arrived(arm, &selection, VLAD_REG_TORQUE_ENABLE, 1, deadline_ns);
    if (rc == 0 && on)
        arm->limp &= ~mask;
    return rc;
}

static int arm_limit(void *self, int64_t deadline_ns, uint32_t mask, const int32_t *permille)
{
    struct vlad_feetech_arm *arm = self;
    struct selection selection = {.n = 0};
    if (mask >> arm->n_joints != 0)
        return -EINVAL;
    for (int j = 0; j < arm->n_joints; j++) {
        if (!(mask >> j & 1))
            continue;
        int32_t limit = arm->joint[j].max_torque_permille * permille[j] / 1000;
        if (permille[j] < 0 || permille[j] > 1000)
            return -EINVAL;
        arm->asked_limit[j] = limit;
        selection.ids[selection.n] = arm->ids[j];
        selection.data[2 * selection.n] = (uint8_t)limit;
        selection.data[2 * selection.n + 1] = (uint8_t)(limit >> 8);
        selection.n++;
    }
    if (selection.n == 0)
        return 0;
    return vlad_serial_sync_write(&arm->bus, selection.ids, selection.n, VLAD_REG_TORQUE_LIMIT,
                                  selection.data, 2,
                                  bounded(arm, deadline_ns, arm->write_budget_ns));
}

const struct vlad_arm_ops vlad_feetech_arm_ops = {
    .read = arm_read,
    .write = arm_write,
    .torque = arm_torque,
    .limit = arm_limit,
    .now_ns = now_ns,
};

static int take_joints(struct vlad_feetech_arm *arm, const struct vlad_feetech_joint *joints,
                       int n_joints, int64_t read_budget_ns, int64_t write_budget_ns)
{
    if (n_joints < 1 || n_joints > VLAD_MAX_JOINTS || read_budget_ns <= 0 ||
        write_budget_ns <= 0)
        return -EINVAL;
    memset(arm, 0, sizeof *arm);
    for (int j = 0; j < n_joints; j++) {
        const struct vlad_feetech_scale *scale = &joints[j].scale;
        if (joints[j].id > VLAD_FEETECH_MAX_ID || scale->ticks_per <= 0 || scale->nu_per <= 0 ||
            joints[j].max_torque_permille > 1000)
            return -EINVAL;
        for (int k = 0; k < j; k++)
            if (arm->ids[k] == joints[j].id)
                return -EINVAL;
        arm->joint[j] = joints[j];
        if (joints[j].max_torque_permille == 0)
            arm->joint[j].max_torque_permille = 1000;
        arm->asked_limit[j] = -1;
        arm->ids[j] = joints[j].id;
    }
    arm->n_joints = n_joints;
    arm->read_budget_ns = read_budget_ns;
    arm->write_budget_ns = write_budget_ns;
    return 0;
}

int vlad_feetech_arm_init(struct vlad_feetech_arm *arm, int fd, int baud,
                          const struct vlad_feetech_joint *joints, int n_joints,
                          int64_t read_budget_ns, int64_t write_budget_ns)
{
    int rc = take_joints(arm, joints, n_joints, read_budget_ns, write_budget_ns);
    return rc < 0 ? rc : vlad_serial_bus_open_fd(&arm->bus, fd, baud, false);
}

int vlad_feetech_arm_init_ops(struct vlad_feetech_arm *arm, const struct vlad_serial_ops *ops,
                              void *port, const struct vlad_feetech_joint *joints, int n_joints,
                              int64_t read_budget_ns, int64_t write_budget_ns)
{
    int rc = take_joints(arm, joints, n_joints, read_budget_ns, write_budget_ns);
    if (rc == 0)
        vlad_serial_bus_init(&arm->bus, ops, port, false);
    return rc;
}

void vlad_feetech_arm_adopt(struct vlad_feetech_arm *arm, uint32_t torque_on)
{
    arm->limp = ~torque_on & ((1u << arm->n_joints) - 1);
}
