/* Random requests, faults, chunks and bus losses for simulated hours: the invariants of the servo
 * loop hold after every tick, and the judge in servo_rig.h sees every write. */
#include "random.h"
#include "servo_rig.h"

#define TICKS 720000 /* two hours */

static struct vlad_servo_report before;
static int64_t velocity_nu[JOINTS];
static int torqueless; /* ticks engaged without torque and without an excuse */
static struct { int parked, lost, covered_gaps, let_down, lies; } met;

static bool one_in(int n)
{
    return random_in(1, n) == 1;
}

static uint32_t some_requests(void)
{
    static const uint32_t request[] = { VLAD_REQ_ENGAGE, VLAD_REQ_RESUME, VLAD_REQ_CLEAR,
                                        VLAD_REQ_ENGAGE, VLAD_REQ_HOLD, VLAD_REQ_PARK,
                                        VLAD_REQ_LIMP };
    uint32_t requests = 0;

    if (one_in(8))
        requests |= request[random_in(0, 3)];
    if (one_in(600))
        requests |= request[random_in(4, 6)];
    if (one_in(2000))
        requests = (uint32_t)random_in(0, 63);
    return requests;
}

/* Most faults go by themselves within a second. */
static void disturb(void)
{
    if (one_in(40)) {
        arm.memory.silent = arm.memory.corrupt = 0;
        arm.memory.bus_ns = 0;
        arm.memory.temperature_c = 30;
        arm.memory.voltage_mv = 7400;
        arm.memory.blocked = arm.memory.deaf = 0;
        memset(arm.memory.status, 0, sizeof arm.memory.status);
        memset(arm.memory.offset_nu, 0, sizeof arm.memory.offset_nu);
    }
    if (one_in(5000))
        arm.memory.blocked = (uint32_t)random_in(0, ALL);
    if (one_in(5000))
        arm.memory.deaf = (uint32_t)random_in(0, ALL);
    if (one_in(5000))
        arm.memory.offset_nu[random_in(0, JOINTS - 1)] = random_in(-1000, 1000) * MILLI;
    if (one_in(20000))
        arm.memory.torque_mask &= (uint32_t)random_in(0, ALL);
    if (one_in(2000))
        arm.memory.drop_limits = (int)random_in(1, 4);
    if (one_in(500))
        arm.memory.silent = (uint32_t)random_in(0, ALL);
    if (one_in(500))
        arm.memory.corrupt = (uint32_t)random_in(0, ALL);
    if (one_in(3000))
        arm.memory.temperature_c = 75;
    if (one_in(3000))
        arm.memory.voltage_mv = 5000;
    if (one_in(2000))
        arm.memory.status[random_in(0, JOINTS - 1)] = (uint8_t)random_in(0, 255);
    if (one_in(2000))
        arm.memory.bus_ns = random_in(0, 30) * MS;
    if (one_in(500))
        arm.memory.drop_writes = (int)random_in(1, 4);
    if (one_in(500))
        arm.torque_refusals = (int)random_in(1, 4);
    if (one_in(5000))
        arm.memory.read_error = -EIO;
    if (one_in(5000))
        arm.memory.write_error = -ENODEV;
    if (one_in(3000))
        vlad_watchdog_pulse(&rig.watchdog, (enum vlad_fault)random_in(1, VLAD_N_FAULTS));
}

static void feed(int64_t now_ns)
{
    if (one_in(12))
        push_curve(now_ns, random_in(0, 9) ? random_in(0, 600) * MS : random_in(0, 3000) * MS,
                   seen.at_rest && seen.queue_depth == 0);
}

/* The supervisor's part: some time after a loss, a bus whose servos hold what they hold. */
static void reopen(void)
{
    int64_t pose_nu[JOINTS];
    bool torque_on = arm.memory.torque_mask != 0 && !one_in(4);

    if (seen.bus_up || !one_in(50))
        return;
    arm.memory.read_error = arm.memory.write_error = 0;
    for (int j = 0; j < JOINTS; j++)
        pose_nu[j] = torque_on ? arm.memory.goal_nu[j] : arm.memory.present_nu[j];
    if (adopt(pose_nu, torque_on) == 0)
        arm.torque_refusals = 0;
}

static void check_events(void)
{
    static int64_t mode = VLAD_OFFLINE;
    struct vlad_event event;

    while (vlad_servo_next_event(&rig, &event)) {
        if (event.kind == VLAD_EV_MODE) {
            CHECK_EQ(event.a, mode); /* no change of mode goes untold */
            CHECK(event.a != event.b);
            mode = event.b;
        } else if (event.kind == VLAD_EV_PARKED) {
            CHECK(memcmp(rig.trajectory.goal_nu, rig.config.rest_nu,
                         JOINTS * sizeof(int64_t)) == 0);
            met.parked++;
        } else if (event.kind == VLAD_EV_GAP) {
            CHECK(event.a >= 0 && event.a < VLAD_N_STARVES);
            CHECK(event.value > 0);
            met.covered_gaps++;
        }
    }
    CHECK_EQ(mode, seen.mode);
}

static void check_modes(uint32_t requests, uint64_t bus_commands)
{
    const struct vlad_servo_counters *counters = &seen.counters;
    uint64_t starved = 0;

    for (int i = 0; i < VLAD_N_STARVES; i++)
        starved += counters->starved[i];
    CHECK_EQ(counters->engaged_ticks, counters->covered_ticks + starved);
    CHECK(counters->clamped <= counters->accepted && counters->accepted <= counters->chunks);
    CHECK_EQ(counters->events_dropped, 0);
    if (requests & (VLAD_REQ_HOLD | VLAD_REQ_LIMP) ||
        (requests & VLAD_REQ_PARK && before.torque_on) || seen.reaction >= VLAD_HOLD || seen.latched)
        CHECK(seen.mode != VLAD_ENGAGED);
    if (requests & (VLAD_REQ_HOLD | VLAD_REQ_LIMP))
        CHECK(!seen.parking && !seen.letting_down);
    if (seen.parking) /* an arm that is not where it says is not swept */
        CHECK(!(seen.active & (UINT64_C(1) << VLAD_F_SERVO_SILENT |
                               UINT64_C(1) << VLAD_F_SERVO_ENCODER |
                               UINT64_C(1) << VLAD_F_FOLLOWING_ERROR)));
    if (seen.letting_down && before.letting_down)
        CHECK_EQ(memcmp(seen.goal_nu, before.goal_nu, sizeof seen.goal_nu), 0);
    for (int j = 0; j < JOINTS; j++)
        if (seen.limit_permille[j] > before.limit_permille[j])
            CHECK(seen.mode == VLAD_ENGAGED || seen.adoptions != before.adoptions);
    if (seen.lying) {
        CHECK(seen.mode != VLAD_ENGAGED);
        CHECK(!seen.torque_on || !seen.bus_up ||
              seen.active & UINT64_C(1) << VLAD_F_SERVO_ENCODER);
    }
    if (seen.parking && seen.reaction == VLAD_HOLD) /* for a fault that was there before */
        CHECK(!seen.latched && !rig.raised);
    if (before.epoch != seen.epoch)
        CHECK(before.mode != VLAD_FAULTED); /* `clear`, then `engage` */
    if (requests & VLAD_REQ_LIMP)
        CHECK(!seen.bus_up || !rig.torque_wanted);
    if (seen.latched && seen.bus_up)
        CHECK(seen.mode == VLAD_FAULTED || seen.mode == VLAD_STOPPING);
    if (!seen.bus_up) {
        CHECK(seen.mode == VLAD_OFFLINE || seen.mode == VLAD_FAULTED);
        if (!before.bus_up)
            CHECK_EQ(arm.memory.reads + arm.memory.writes, bus_commands);
    }
    if (seen.mode == VLAD_HOLDING)
        CHECK(seen.at_rest);
    if (seen.epoch != before.epoch)
        CHECK_EQ(seen.epoch, before.epoch + 1);
}

/* I2: while stopping no joint speeds up or turns back, and it takes no more than 300 ms. */
static void check_stop(void)
{
    static int stopping;
    bool plain = seen.mode == VLAD_STOPPING && !seen.parking && before.mode == VLAD_STOPPING &&
                 !before.parking && !seen.letting_down && !before.letting_down && seen.counters.ticks == before.counters.ticks + 1;

    for (int j = 0; j < JOINTS; j++) {
        int64_t speed_nu = rig.trajectory.velocity_nu[j];

        if (plain && seen.counters.writes != before.counters.writes)
            CHECK(velocity_nu[j] >= 0 ? speed_nu >= 0 && speed_nu <= velocity_nu[j]
                                      : speed_nu <= 0 && speed_nu >= velocity_nu[j]);
        velocity_nu[j] = speed_nu;
    }
    stopping = plain && seen.counters.dropped_writes == before.counters.dropped_writes
                   ? stopping + 1 : 0;
    CHECK(stopping <= 31);
}

/* An engaged arm has power, or is about to. */
static void check_power(void)
{
    bool excused = arm.torque_refusals > 0 || arm.memory.write_error || arm.memory.silent ||
                   arm.memory.corrupt || arm.memory.drop_limits > 0 || rig.now.arm.limited;

    torqueless = seen.mode == VLAD_ENGAGED && !seen.torque_on && !excused ? torqueless + 1 : 0;
    CHECK(torqueless <= 3); /* the limits, their register, the torque */
    if (seen.bus_up && rig.torque_repeats == 0)
        CHECK(seen.torque_on == rig.torque_wanted);
}

int main(void)
{
    begin();
    for (int i = 0; i < TICKS; i++) {
        uint32_t requests = some_requests();
        uint64_t bus_commands = arm.memory.reads + arm.memory.writes;

        before = seen;
        disturb();
        feed(rig.now.t_ns);
        reopen();
        vlad_servo_request(&rig, requests);
        if (one_in(3000))
            vlad_servo_starve(&rig, (int)random_in(-1, VLAD_N_STARVES));
        ticks(one_in(1000) ? 5 : 1);
        met.lost += before.bus_up && !seen.bus_up;
        met.let_down += before.letting_down && !seen.torque_on;
        met.lies += seen.lying && !before.lying;
        check_events();
        if (seen.counters.ticks == before.counters.ticks + 1)
            check_modes(requests, bus_commands);
        check_stop();
        check_power();
    }
    CHECK(met.parked > 10 && met.lost > 50 && met.covered_gaps > 100);
    CHECK(met.let_down > 10 && met.lies > 10);
    CHECK(seen.counters.engagements > 300 && seen.counters.covered_ticks > 20000);
    CHECK(seen.counters.accepted > 1000 && seen.counters.rejected[VLAD_R_LATE] > 0 &&
          seen.counters.rejected[VLAD_R_STALE] > 10 && seen.counters.rejected[VLAD_R_JUMP] > 10);
    CHECK(seen.counters.wire_limit + seen.counters.wire_step == 0); /* the parts before did not err */
    CHECK_DONE();
}
