/* bus_stop.c over a fake line: what is written to whom, and that it ends in time. */
#include "../bus_stop.h"
#include "fake_line.h"

static const int64_t budget_ns = 400 * VLAD_NS_PER_MS;
static const int64_t slack_ns = 50 * VLAD_NS_PER_US;

static struct fake_line line;
static struct vlad_serial_bus bus;
static struct vlad_stop stop;

static void set_u16(int servo, int address, int value)
{
    line.registers[servo][address] = (uint8_t)value;
    line.registers[servo][address + 1] = (uint8_t)(value >> 8);
}

static int get_u16(int servo, int address)
{
    return vlad_feetech_u16(line.registers[servo] + address);
}

static void start(void)
{
    fake_init(&line);
    vlad_serial_bus_init(&bus, &fake_ops, &line, false);
    stop = (struct vlad_stop){.n_ids = 6, .following_limit_ticks = 130, .gripper_id = 6};
    for (int s = 0; s < 6; s++) {
        stop.ids[s] = (uint8_t)(s + 1);
        line.registers[s][VLAD_REG_TORQUE_ENABLE] = 1;
        line.registers[s][VLAD_REG_ACCELERATION] = 254;
        set_u16(s, VLAD_REG_GOAL_POSITION, 2000);
        set_u16(s, VLAD_REG_PRESENT_POSITION, 2000);
        set_u16(s, VLAD_REG_TORQUE_LIMIT, 1000 - 100 * s);
    }
}

static int timed(int (*what)(struct vlad_serial_bus *, struct vlad_stop *, int64_t), int64_t most)
{
    int64_t before = line.now_ns;
    int rc = what(&bus, &stop, line.now_ns + budget_ns);
    CHECK(line.now_ns - before <= most + slack_ns);
    return rc;
}

static void test_hold(void)
{
    start();
    line.registers[0][VLAD_REG_TORQUE_ENABLE] = 0; /* limp, and far from its old goal */
    set_u16(0, VLAD_REG_PRESENT_POSITION, 100);
    set_u16(1, VLAD_REG_PRESENT_POSITION, 2130); /* sags to the limit */
    set_u16(2, VLAD_REG_PRESENT_POSITION, 1869); /* one tick beyond */
    set_u16(3, VLAD_REG_PRESENT_POSITION, 0x8000 | 5); /* -5: one sign bit, not 32773 */
    set_u16(5, VLAD_REG_PRESENT_POSITION, 3000); /* the gripper, on an object */
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.limp, 1 << 0);
    CHECK_EQ(stop.kept, 1 << 1 | 1 << 4 | 1 << 5);
    CHECK_EQ(stop.pinned, 1 << 2 | 1 << 3);
    CHECK_EQ(stop.failed, 0);
    const int goals[6] = {2000, 2000, 1869, 0x8005, 2000, 2000};
    for (int s = 0; s < 6; s++)
        CHECK_EQ(get_u16(s, VLAD_REG_GOAL_POSITION), goals[s]);
    CHECK_EQ(line.registers[0][VLAD_REG_TORQUE_ENABLE], 0);
    CHECK_EQ(bus.counters[VLAD_SERIAL_FRAMES_TX], 3); /* one look, two goals */

    start(); /* the arm stands as commanded: nothing at all is written */
    uint8_t before[6][256];
    memcpy(before, line.registers, sizeof before);
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.kept, 0x3F);
    CHECK(memcmp(before, line.registers, sizeof before) == 0);
    CHECK_EQ(bus.counters[VLAD_SERIAL_FRAMES_TX], 1);

    start(); /* no gripper named: the general rule */
    stop.gripper_id = -1;
    set_u16(5, VLAD_REG_PRESENT_POSITION, 3000);
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.pinned, 1 << 5);
}

static void test_hold_with_silent_servos(void)
{
    start();
    line.silent = 1 << 1;
    set_u16(4, VLAD_REG_PRESENT_POSITION, 2500);
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.failed, 1 << 1);
    CHECK_EQ(stop.pinned, 1 << 4);
    CHECK_EQ(get_u16(4, VLAD_REG_GOAL_POSITION), 2500);

    start(); /* a damaged reply is asked for again */
    line.mute_once = 1 << 3;
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.failed, 0);
    CHECK_EQ(bus.counters[VLAD_SERIAL_FRAMES_TX], 2);

    start();
    line.silent = 0x3F;
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.failed, 0x3F);

    start(); /* answers to the look, not to the goal */
    set_u16(4, VLAD_REG_PRESENT_POSITION, 2500);
    line.deaf_to_writes = 1 << 4;
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.failed, 1 << 4);
    CHECK_EQ(stop.pinned, 0);
}

static void test_line_errors(void)
{
    static int (*const verbs[])(struct vlad_serial_bus *, struct vlad_stop *, int64_t) = {
        vlad_stop_hold, vlad_stop_limp, vlad_stop_park};
    for (int verb = 0; verb < 3; verb++)
        for (int call = 0; call < FAKE_CALLS; call++)
            for (int at = 1; at < 300; at++) {
                start();
                set_u16(4, VLAD_REG_PRESENT_POSITION, 2500);
                line.inject[call].at = at;
                line.inject[call].result = -ENODEV;
                int rc = timed(verbs[verb], budget_ns + VLAD_STOP_RAMP_NS);
                bool reached = line.inject[call].at == 0;
                CHECK_EQ(rc, reached ? -ENODEV : 0);
                CHECK(reached || stop.failed == 0);
                CHECK_EQ(stop.failed & (stop.limp | stop.kept | stop.pinned | stop.off), 0);
            }
    start(); /* a line that takes nothing */
    line.write_room = 0;
    for (int verb = 0; verb < 3; verb++) {
        CHECK_EQ(timed(verbs[verb], budget_ns + VLAD_STOP_RAMP_NS), 0);
        CHECK_EQ(stop.failed, 0x3F);
    }
    for (int at = 1; at < 180; at += 3) { /* hung up, from the look into the fading */
        start();
        line.inject[FAKE_POLL].at = at;
        line.inject[FAKE_POLL].result = POLLHUP;
        CHECK_EQ(timed(vlad_stop_park, budget_ns + VLAD_STOP_RAMP_NS), -EIO);
    }
    start(); /* no room for a goal, nor for one step of the fading */
    set_u16(4, VLAD_REG_PRESENT_POSITION, 2500);
    line.stall_writes_from = 2;
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.failed, 1 << 4);
    start();
    line.stall_writes_from = 2;
    CHECK_EQ(timed(vlad_stop_park, budget_ns + VLAD_STOP_RAMP_NS), 0);
    CHECK_EQ(stop.failed, 0x3F);
    start(); /* interrupted meanwhile */
    line.inject[FAKE_POLL].at = 160;
    line.inject[FAKE_POLL].result = -EINTR;
    CHECK_EQ(timed(vlad_stop_park, budget_ns + VLAD_STOP_RAMP_NS), 0);
    CHECK_EQ(stop.off, 0x3F);
}

static void test_limp(void)
{
    start();
    CHECK_EQ(timed(vlad_stop_limp, budget_ns), 0);
    CHECK_EQ(stop.off, 0x3F);
    CHECK_EQ(stop.failed, 0);
    for (int s = 0; s < 6; s++) {
        CHECK_EQ(line.registers[s][VLAD_REG_TORQUE_ENABLE], 0);
        CHECK_EQ(line.registers[s][VLAD_REG_ACCELERATION], 254);
        CHECK_EQ(get_u16(s, VLAD_REG_GOAL_POSITION), 2000);
    }
    start(); /* only an answer is lost: said again until it is there */
    line.mute_once = 1 << 2;
    CHECK_EQ(timed(vlad_stop_limp, budget_ns), 0);
    CHECK_EQ(stop.off, 0x3F);
    start(); /* the first frame is lost, and an answer to the second */
    line.lose_sync_writes = 1;
    line.mute_once = 1 << 2;
    CHECK_EQ(timed(vlad_stop_limp, budget_ns), 0);
    CHECK_EQ(stop.off, 0x3F);
    start();
    line.silent = 1 << 5;
    CHECK_EQ(timed(vlad_stop_limp, budget_ns), 0);
    CHECK_EQ(stop.off, 0x1F);
    CHECK_EQ(stop.failed, 1 << 5);
    CHECK_EQ(line.registers[0][VLAD_REG_TORQUE_ENABLE], 0);
}

static void test_park(void)
{
    start();
    line.log_address = VLAD_REG_TORQUE_LIMIT;
    line.registers[3][VLAD_REG_TORQUE_ENABLE] = 0;
    int64_t before = line.now_ns;
    CHECK_EQ(timed(vlad_stop_park, budget_ns + VLAD_STOP_RAMP_NS), 0);
    CHECK(line.now_ns - before >= VLAD_STOP_RAMP_NS);
    CHECK_EQ(stop.limp, 1 << 3);
    CHECK_EQ(stop.off, 0x3F & ~(1 << 3));
    CHECK_EQ(stop.failed, 0);
    CHECK_EQ(line.n_log, 40);
    CHECK_EQ(bus.counters[VLAD_SERIAL_FRAMES_TX], 1 + 40 + 2 + 5); /* and nothing to the limp one */
    for (int i = 0; i < 40; i++)
        CHECK_EQ(line.log[i], 1000 - 25 * (i + 1)); /* evenly down to nothing */
    for (int s = 0; s < 6; s++) {
        CHECK_EQ(line.registers[s][VLAD_REG_TORQUE_ENABLE], 0);
        CHECK_EQ(get_u16(s, VLAD_REG_TORQUE_LIMIT), 1000 - 100 * s); /* as it was */
        CHECK_EQ(get_u16(s, VLAD_REG_GOAL_POSITION), 2000);
    }
    start(); /* nobody has torque: nothing to do, and no waiting */
    for (int s = 0; s < 6; s++)
        line.registers[s][VLAD_REG_TORQUE_ENABLE] = 0;
    CHECK_EQ(timed(vlad_stop_park, budget_ns), 0);
    CHECK_EQ(stop.limp, 0x3F);
    start();
    line.silent = 1 << 2;
    CHECK_EQ(timed(vlad_stop_park, budget_ns + VLAD_STOP_RAMP_NS), 0);
    CHECK_EQ(stop.failed, 1 << 2);
    CHECK_EQ(stop.off, 0x3F & ~(1 << 2));
}

static void test_32_servos(void)
{
    start(); /* as many ids as fit, most of them nobody's */
    stop.n_ids = 32;
    for (int i = 0; i < 32; i++)
        stop.ids[i] = (uint8_t)(i + 1);
    CHECK_EQ(timed(vlad_stop_hold, budget_ns), 0);
    CHECK_EQ(stop.kept, 0x3F);
    CHECK_EQ(stop.failed, ~0x3Fu);
}

int main(void)
{
    test_hold();
    test_hold_with_silent_servos();
    test_line_errors();
    test_limp();
    test_park();
    test_32_servos();
    CHECK_DONE();
}
