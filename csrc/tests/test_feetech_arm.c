/* feetech_arm.c over a fake line. */
#include "../feetech_arm.h"
#include "fake_line.h"

static const int64_t read_budget_ns = 4 * VLAD_NS_PER_MS, write_budget_ns = 2 * VLAD_NS_PER_MS;
static const int64_t slack_ns = 20 * VLAD_NS_PER_US;

static struct fake_line line;
static struct vlad_feetech_arm arm;
static struct vlad_arm_state state;
static struct vlad_feetech_joint joints[6];

static void set_u16(int servo, int address, unsigned value)
{
    line.registers[servo][address] = (uint8_t)value;
    line.registers[servo][address + 1] = (uint8_t)(value >> 8);
}

static unsigned goal_of(int servo)
{
    return vlad_feetech_u16(line.registers[servo] + VLAD_REG_GOAL_POSITION);
}

static void start(void)
{
    fake_init(&line);
    for (int j = 0; j < 5; j++) {
        joints[j].id = (uint8_t)(j + 1);
        CHECK_EQ(vlad_feetech_scale_body(&joints[j].scale, 0, 4094, 1), 0);
    }
    joints[5].id = 6;
    CHECK_EQ(vlad_feetech_scale_gripper(&joints[5].scale, 2000, 3000, 1), 0);
    CHECK_EQ(vlad_feetech_arm_init_ops(&arm, &fake_ops, &line, joints, 6, read_budget_ns,
                                       write_budget_ns), 0);
    for (int j = 0; j < 6; j++) {
        set_u16(j, 56, 2047 + 100 * (unsigned)j);
        set_u16(j, 58, 0x8000 | 10);
        set_u16(j, 60, 0x0400 | 55);
        line.registers[j][62] = 74;
        line.registers[j][63] = (uint8_t)(30 + j);
        line.registers[j][40] = 1;
    }
    memset(&state, 0xAA, sizeof state);
}

static int read_arm(void)
{
    return vlad_feetech_arm_ops.read(&arm, INT64_MAX, &state);
}

static int write_arm(const int64_t *goal_nu)
{
    return vlad_feetech_arm_ops.write(&arm, INT64_MAX, goal_nu);
}

static int torque(uint32_t mask, bool on, const int64_t *goal_nu)
{
    return vlad_feetech_arm_ops.torque(&arm, INT64_MAX, mask, on, goal_nu);
}

static void test_init(void)
{
    struct vlad_feetech_arm a;
    struct vlad_feetech_joint bad[2];
    start();
    CHECK_EQ(vlad_feetech_arm_init_ops(&a, &fake_ops, &line, joints, 0, 1, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_arm_init_ops(&a, &fake_ops, &line, joints, 9, 1, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_arm_init_ops(&a, &fake_ops, &line, joints, 6, 0, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_arm_init_ops(&a, &fake_ops, &line, joints, 6, 1, 0), -EINVAL);
    CHECK_EQ(vlad_feetech_arm_init(&a, -1, 0, joints, 0, 1, 1), -EINVAL);
    CHECK_EQ(vlad_feetech_arm_init(&a, -1, 0, joints, 6, 1, 1), -EBADF);
    for (int kind = 0; kind < 4; kind++) {
        bad[0] = joints[0];
        bad[1] = joints[1];
        if (kind == 0)
            bad[1].id = 1;
        if (kind == 1)
            bad[1].id = 0xFE;
        if (kind == 2)
            bad[1].scale.ticks_per = 0;
        if (kind == 3)
            bad[1].scale.nu_per = 0;
        CHECK_EQ(vlad_feetech_arm_init_ops(&a, &fake_ops, &line, bad, 2, 1, 1), -EINVAL);
    }
}

static void test_read(void)
{
    start();
    line.status[3] = VLAD_STATUS_OVERLOAD | VLAD_STATUS_TEMPERATURE;
    CHECK_EQ(read_arm(), 0);
    CHECK_EQ(state.answered, 0x3F);
    CHECK_EQ(state.corrupt, 0);
    CHECK_EQ(state.t_ns, line.now_ns);
    CHECK_EQ(vlad_feetech_arm_ops.now_ns(&arm), line.now_ns);
    CHECK_EQ(state.position_nu[0], 0);
    CHECK_EQ(state.position_nu[1], 153398079);  /* 100 ticks */
    CHECK_EQ(state.position_nu[5], 547000000);  /* (2547 - 2000) / 1000 */
    CHECK_EQ(state.velocity_nu_s[0], -15339808); /* -10 ticks/s */
    CHECK_EQ(state.velocity_nu_s[5], -10000000);
    CHECK_EQ(state.load_permille[0], -55);
    CHECK_EQ(state.voltage_mv[0], 7400);
    CHECK_EQ(state.temperature_c[4], 34);
    CHECK_EQ(state.status[3], VLAD_STATUS_OVERLOAD | VLAD_STATUS_TEMPERATURE);
    CHECK_EQ(state.status[2], 0);
    CHECK_EQ(line.n_tx, 14);
    CHECK_EQ(line.tx[5], 40);
    CHECK_EQ(line.tx[6], 24);
    CHECK_EQ(state.powered, 0x3F);
    CHECK_EQ(state.limited, 0); /* nothing was asked */

    start(); /* the other direction */
    vlad_feetech_scale_body(&joints[1].scale, 0, 4094, -1);
    CHECK_EQ(vlad_feetech_arm_init_ops(&arm, &fake_ops, &line, joints, 6, read_budget_ns,
                                       write_budget_ns), 0);
    CHECK_EQ(read_arm(), 0);
    CHECK_EQ(state.position_nu[1], -153398079);
    CHECK_EQ(state.velocity_nu_s[1], 15339808);
    CHECK_EQ(state.load_permille[1], 55);
}

/* What was written is read back with everything else: goals, torque and its limit. */
static void test_read_back(void)
{
    const int64_t goals[6] = {0, 153398079, 0, 0, 0, 250000000};
    int32_t permille[6] = {1000, 500, 1000, 1000, 1000, 500};
    start();
    joints[5].max_torque_permille = 500;
    CHECK_EQ(vlad_feetech_arm_init_ops(&arm, &fake_ops, &line, joints, 6, read_budget_ns,
                                       write_budget_ns), 0);
    for (int j = 0; j < 6; j++)
        set_u16(j, 48, j == 5 ? 500 : 1000);
    line.registers[2][40] = 0;
    CHECK_EQ(write_arm(goals), 0);
    line.now_ns += VLAD_NS_PER_S;
    CHECK_EQ(read_arm(), 0);
    CHECK_EQ(state.powered, 0x3F & ~(1 << 2));
    CHECK_EQ(state.goal_nu[1], 153398079);
    CHECK_EQ(state.goal_nu[5], 250000000);
    CHECK_EQ(state.limit_permille[0], 1000);
    CHECK_EQ(state.limit_permille[5], 1000); /* of its own */

    CHECK_EQ(vlad_feetech_arm_ops.limit(&arm, INT64_MAX, 1 << 1 | 1 << 5, permille), 0);
    CHECK_EQ(vlad_feetech_u16(line.registers[1] + 48), 500);
    CHECK_EQ(vlad_feetech_u16(line.registers[5] + 48), 250);
    CHECK_EQ(vlad_feetech_u16(line.registers[0] + 48), 1000);
    line.now_ns += VLAD_NS_PER_S;
    CHECK_EQ(read_arm(), 0);
    CHECK_EQ(state.limited, 0);
    CHECK_EQ(state.limit_permille[5], 500);

    permille[5] = 1000;
    line.lose_sync_writes = 1;
    CHECK_EQ(vlad_feetech_arm_ops.limit(&arm, INT64_MAX, 1 << 5, permille), 0);
    line.now_ns += VLAD_NS_PER_S;
    CHECK_EQ(read_arm(), 0);
    CHECK_EQ(state.limited, 1 << 5);

    set_u16(5, 48, 0x8001); /* a register without a sign: misread, it is never below zero */
    line.now_ns += VLAD_NS_PER_S;
    CHECK_EQ(read_arm(), 0);
    CHECK(state.limit_permille[5] > 1000);
    CHECK_EQ(state.limited, 1 << 5);

    permille[0] = 1001;
    CHECK_EQ(vlad_feetech_arm_ops.limit(&arm, INT64_MAX, 1, permille), -EINVAL);
    permille[0] = -1;
    CHECK_EQ(vlad_feetech_arm_ops.limit(&arm, INT64_MAX, 1, permille), -EINVAL);
    CHECK_EQ(vlad_feetech_arm_ops.limit(&arm, INT64_MAX, 0x40, permille), -EINVAL);
    CHECK_EQ(vlad_feetech_arm_ops.limit(&arm, INT64_MAX, 0, permille), 0);
    joints[5].max_torque_permille = 1001;
    CHECK_EQ(vlad_feetech_arm_init_ops(&arm, &fake_ops, &line, joints, 6, read_budget_ns,
                                       write_budget_ns), -EINVAL);
    joints[5].max_torque_permille = 0;
}

/* Faults 17, 19, 44: the joints that did not answer keep their last good values. */
static void test_read_in_part(void)
{
    start();
    CHECK_EQ(read_arm(), 0);
    for (int j = 0; j < 6; j++)
        set_u16(j, 56, 3000);
    line.silent = 1 << 1;
    line.flip = 1 << 4;
    int64_t before = line.now_ns, old = state.position_nu[1], old4 = state.position_nu[4];
    CHECK_EQ(read_arm(), 0);
    CHECK(line.now_ns - before <= read_budget_ns + slack_ns);
    CHECK_EQ(state.answered, 0x3F & ~(1 << 1 | 1 << 4));
    CHECK_EQ(state.corrupt, 1 << 4);
    CHECK_EQ(state.position_nu[1], old);
    CHECK_EQ(state.position_nu[4], old4);
    CHECK_EQ(state.position_nu[5], 1000000000);
    CHECK_EQ(state.temperature_c[1], 31);

    line.silent = 0x3F;
    line.now_ns += VLAD_NS_PER_S;
    before = line.now_ns;
    CHECK_EQ(read_arm(), 0);
    CHECK(line.now_ns - before <= read_budget_ns + slack_ns);
    CHECK_EQ(state.answered | state.corrupt, 0);
    before = line.now_ns; /* the deadline is nearer than the budget */
    CHECK_EQ(vlad_feetech_arm_ops.read(&arm, before + VLAD_NS_PER_MS, &state), 0);
    CHECK(line.now_ns - before <= VLAD_NS_PER_MS + slack_ns);
}

static void test_bus_errors(void)
{
    const int64_t goals[6] = {0};
    for (int code = 1; code < 134; code++) {
        if (code == EINTR || code == EAGAIN)
            continue;
        start();
        CHECK_EQ(read_arm(), 0);
        int64_t position = state.position_nu[2];
        line.now_ns += VLAD_NS_PER_S;
        line.inject[FAKE_READ].at = 2;
        line.inject[FAKE_READ].result = -code;
        CHECK_EQ(read_arm(), -code);
        CHECK_EQ(state.answered | state.corrupt, 0);
        CHECK_EQ(state.position_nu[2], position);
        line.inject[FAKE_WRITE].at = 1;
        line.inject[FAKE_WRITE].result = -code;
        CHECK_EQ(write_arm(goals), -code);
        line.inject[FAKE_WRITE].at = 1;
        CHECK_EQ(torque(0x3F, false, goals), -code);
    }
    start(); /* the request does not go out in time: nobody was asked */
    line.write_room = 3;
    CHECK_EQ(read_arm(), 0);
    CHECK_EQ(state.answered | state.corrupt, 0);
    line.write_room = 0;
    CHECK_EQ(write_arm(goals), -EAGAIN);
    CHECK_EQ(line.sync_writes, 0);
}

static void test_write(void)
{
    const int64_t goals[6] = {0, 153398079, -153398079, 766990, 766991, 250000000};
    start();
    CHECK_EQ(write_arm(goals), 0);
    CHECK_EQ(line.n_tx, 26);
    CHECK_EQ(goal_of(0), 2047);
    CHECK_EQ(goal_of(1), 2147);
    CHECK_EQ(goal_of(2), 1947);
    CHECK_EQ(goal_of(3), 2047); /* just under half a tick */
    CHECK_EQ(goal_of(4), 2048);
    CHECK_EQ(goal_of(5), 2250);

    const int64_t far[6] = {0, 0, 0, 0, 0, 3000000000};
    CHECK_EQ(write_arm(far), -ERANGE);
    CHECK_EQ(line.n_tx, 26);
    CHECK_EQ(atomic_load(&arm.unencodable_goals), 1);
}

static void test_torque(void)
{
    const int64_t pose[6] = {0, 153398079, 0, 0, 0, 500000000};
    const int64_t other[6] = {1533981, 1533981, 1533981, 1533981, 1533981, 100000000};
    start();
    vlad_feetech_arm_adopt(&arm, 0);
    for (int j = 0; j < 6; j++) {
        line.registers[j][40] = 0;
        set_u16(j, 42, 100); /* an old goal far away */
    }
    CHECK_EQ(write_arm(other), 0); /* no torque, no goal */
    CHECK_EQ(line.n_tx, 0);
    CHECK_EQ(goal_of(0), 100);
    CHECK_EQ(torque(0, true, pose), 0);
    CHECK_EQ(torque(0x40, true, pose), -EINVAL);
    CHECK_EQ(line.n_tx, 0);
    CHECK_EQ(torque(0x3F, true, pose), 0);
    for (int j = 0; j < 6; j++)
        CHECK_EQ(line.registers[j][40], 1);
    CHECK_EQ(goal_of(1), 2147);
    CHECK_EQ(goal_of(5), 2500);
    CHECK_EQ(write_arm(other), 0);
    CHECK_EQ(goal_of(1), 2048);

    CHECK_EQ(torque(1 << 2, false, NULL), 0); /* one joint limp: the others are still driven */
    CHECK_EQ(line.registers[2][40], 0);
    CHECK_EQ(line.registers[3][40], 1);
    CHECK_EQ(write_arm(pose), 0);
    CHECK_EQ(goal_of(1), 2147);
    CHECK_EQ(goal_of(2), 2048);
    int64_t far[6];
    memcpy(far, pose, sizeof far);
    far[2] = INT64_MAX; /* the goal of a limp joint is not looked at */
    CHECK_EQ(write_arm(far), 0);
    CHECK_EQ(torque(1 << 2, true, far), -ERANGE);
    CHECK_EQ(line.registers[2][40], 0);
}

/* Torque comes on only after the goals are known to have arrived. */
static void test_torque_with_lost_goals(void)
{
    const int64_t pose[6] = {0};
    for (int kind = 0; kind < 6; kind++) {
        start();
        vlad_feetech_arm_adopt(&arm, 0);
        for (int j = 0; j < 6; j++) {
            line.registers[j][40] = 0;
            set_u16(j, 42, 100);
        }
        set_u16(3, 42, kind == 1 ? 2047 : 100);
        if (kind == 0)
            line.lose_sync_writes = 1;
        if (kind == 1)
            line.silent = 1 << 3;
        if (kind == 2)
            line.flip = 1 << 3;
        if (kind == 3) {
            line.inject[FAKE_WRITE].at = 1;
            line.inject[FAKE_WRITE].result = -EIO;
        }
        if (kind == 4) {
            line.inject[FAKE_WRITE].at = 2;
            line.inject[FAKE_WRITE].result = -EIO;
        }
        if (kind == 5) {
            line.inject[FAKE_WRITE].at = 3;
            line.inject[FAKE_WRITE].result = -EIO;
        }
        int64_t before = line.now_ns;
        CHECK_EQ(torque(0x3F, true, pose), kind < 3 ? -EAGAIN : -EIO);
        CHECK(line.now_ns - before <= read_budget_ns + write_budget_ns + slack_ns);
        for (int j = 0; j < 6; j++)
            CHECK_EQ(line.registers[j][40], 0);
        int n_tx = line.n_tx;
        CHECK_EQ(write_arm(pose), 0); /* and no goals follow */
        CHECK_EQ(line.n_tx, n_tx);
        line.silent = line.flip = 0;
        line.now_ns += VLAD_NS_PER_S;
        CHECK_EQ(torque(0x3F, true, pose), 0);
        CHECK_EQ(line.registers[3][40], 1);
    }
}

/* A servo that did not take its torque: no goal is written that only the others would follow. */
static void test_torque_that_is_not_taken(void)
{
    const int64_t pose[6] = {0}, other[6] = {1533981, 1533981, 1533981, 1533981, 1533981, 0};
    start();
    vlad_feetech_arm_adopt(&arm, 0);
    for (int j = 0; j < 6; j++)
        line.registers[j][40] = 0;
    line.powerless = 1 << 4;
    CHECK_EQ(torque(0x3F, true, pose), -EAGAIN);
    CHECK_EQ(line.registers[3][40], 1);
    CHECK_EQ(line.registers[4][40], 0);
    CHECK_EQ(write_arm(other), 0);
    CHECK_EQ(goal_of(3), 2047);
    line.powerless = 0;
    CHECK_EQ(torque(0x3F, true, pose), 0);
    CHECK_EQ(line.registers[4][40], 1);
    CHECK_EQ(write_arm(other), 0);
    CHECK_EQ(goal_of(3), 2048);
}

/* What one request left behind is never taken for the answer to another. */
static void test_old_replies_do_not_count(void)
{
    const int64_t pose[6] = {0};
    start();
    vlad_feetech_arm_adopt(&arm, 0);
    CHECK_EQ(read_arm(), 0);
    CHECK_EQ(torque(0x3F, true, pose), 0);
    line.silent = 1 << 1; /* whose last reply was its goal */
    int64_t position = state.position_nu[1];
    CHECK_EQ(read_arm(), 0);
    CHECK_EQ(state.position_nu[1], position);
    line.now_ns += VLAD_NS_PER_S;
    CHECK_EQ(torque(0x3F, true, pose), -EAGAIN);
}

static void test_adopt(void)
{
    const int64_t goals[6] = {0, 0, 0, 0, 0, 500000000};
    struct vlad_feetech_joint last = joints[0];
    start();
    vlad_feetech_arm_adopt(&arm, 0x3F);
    CHECK_EQ(write_arm(goals), 0);
    CHECK_EQ(goal_of(0), 2047);
    vlad_feetech_arm_adopt(&arm, 1 << 5);
    const int64_t others[6] = {153398079, 0, 0, 0, 0, 600000000};
    CHECK_EQ(write_arm(others), 0);
    CHECK_EQ(goal_of(0), 2047);
    CHECK_EQ(goal_of(5), 2600);
    CHECK_EQ(vlad_feetech_arm_init_ops(&arm, &fake_ops, &line, joints, 6, read_budget_ns,
                                       read_budget_ns), 0);
    CHECK_EQ(torque(0x3F, true, goals), 0); /* the two budgets add up */
    last.id = VLAD_FEETECH_MAX_ID;
    CHECK_EQ(vlad_feetech_arm_init_ops(&arm, &fake_ops, &line, &last, 1, 1, 1), 0);
}

int main(void)
{
    test_init();
    test_read();
    test_read_back();
    test_read_in_part();
    test_bus_errors();
    test_write();
    test_torque();
    test_torque_with_lost_goals();
    test_torque_that_is_not_taken();
    test_old_replies_do_not_count();
    test_adopt();
    CHECK_DONE();
}
