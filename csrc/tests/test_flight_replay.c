/* A loop is recorded through a storm; a second loop, begun again and again from recorded states, is
 * given the recorded inputs and must decide the same, tick for tick and chunk for chunk. */
#include <stddef.h> /* offsetof */

#include "flight_replay.h"
#include "random.h"
#include "servo_rig.h"

#define TICKS 80000

static _Alignas(8) unsigned char loop_memory[1 << 20], producer_memory[1 << 20], spare[1 << 16];
static struct vlad_flight flight, twin_flight;
static struct vlad_servo twin;
static struct vlad_flight_replay replay;
static bool twin_runs, first_push;
static struct { int begun, ticks, chunks, accepted; } met;

static bool one_in(int n)
{
    return random_in(1, n) == 1;
}

static void storm(void)
{
    static const uint32_t request[] = { VLAD_REQ_ENGAGE, VLAD_REQ_CLEAR, VLAD_REQ_RESUME,
                                        VLAD_REQ_HOLD, VLAD_REQ_PARK, VLAD_REQ_LIMP };

    if (one_in(8))
        vlad_servo_request(&rig, request[random_in(0, one_in(60) ? 5 : 2)]);
    if (one_in(40)) {
        arm.memory.silent = arm.memory.corrupt = 0;
        arm.memory.bus_ns = 0;
        arm.memory.voltage_mv = 7400;
        memset(arm.memory.status, 0, sizeof arm.memory.status);
    }
    if (one_in(500))
        arm.memory.silent = (uint32_t)random_in(0, ALL);
    if (one_in(500))
        arm.memory.corrupt = (uint32_t)random_in(0, ALL);
    if (one_in(2000))
        arm.memory.status[random_in(0, JOINTS - 1)] = (uint8_t)random_in(0, 255);
    if (one_in(2000))
        arm.memory.bus_ns = random_in(0, 30) * MS;
    if (one_in(500))
        arm.memory.drop_writes = (int)random_in(1, 4);
    if (one_in(500))
        arm.torque_refusals = (int)random_in(1, 4);
    if (one_in(5000))
        arm.memory.write_error = -ENODEV;
    if (one_in(3000))
        vlad_watchdog_pulse(&rig.watchdog, (enum vlad_fault)random_in(1, VLAD_F_SERIAL_UNPLUGGED));
    if (one_in(20000))
        vlad_servo_slept(&rig, rig.slept_seen_ns + 3000 * MS);
    if (one_in(1000))
        vlad_watchdog_hold(&rig.watchdog, VLAD_F_CAMERA_LOST, one_in(2));
    if (one_in(300))
        vlad_servo_starve(&rig, (int)random_in(0, VLAD_N_STARVES - 1));
    if (one_in(300))
        vlad_servo_refusals(&rig, one_in(3) ? VLAD_WHY_CAMERA : 0);
    if (!seen.bus_up && one_in(50)) {
        arm.memory.write_error = 0;
        adopt(arm.memory.torque_mask ? arm.memory.goal_nu : arm.memory.present_nu,
              arm.memory.torque_mask != 0);
    }
}

/* Field by field, so that a difference has a name. */
static void same(const struct vlad_flight_field *field, const void *a, const void *b)
{
    for (; field->name; field++) {
        size_t size = field->count * (strchr("qQd", field->type) ? 8u : field->type == 'B' ? 1 : 4);

        if (field->role == VLAD_FLIGHT_OUT &&
            memcmp((const char *)a + field->offset, (const char *)b + field->offset, size)) {
            fprintf(stderr, "tick %d: %s differs\n", met.ticks, field->name);
            exit(1);
        }
    }
}

/* The newest chunk of the record, with its actions, into the twin. */
static void replay_push(void)
{
    static unsigned char copy[sizeof producer_memory];
    struct vlad_flight_head head = { .size = 0 };
    int64_t size = vlad_flight_ring_snapshot(flight.producer, sizeof producer_memory, copy,
                                             sizeof copy), at = 0;
    struct vlad_flight_chunk record;

    for (int64_t next = 0; next < size; next = at + 16 + head.size) {
        at = next;
        memcpy(&head, copy + at, sizeof head);
    }
    CHECK_EQ(head.kind, VLAD_FLIGHT_CHUNK);
    memcpy(&record, copy + at + 16, sizeof record);
    CHECK_EQ(vlad_flight_replay_push(&twin, &record,
                                     (double *)(void *)(copy + at + 16 + sizeof record), first_push),
             0);
    first_push = false;
    same(vlad_flight_chunk_fields, &record, &twin_flight.chunk);
    met.chunks++;
    met.accepted += record.timeline[0] != record.before[0];
}

static void begin_twin(void)
{
    const struct vlad_servo_config config = rig_config();
    const struct vlad_timeline *front = &rig.queue.buffer[rig.queue.front];
    struct vlad_flight_ring *ring = vlad_flight_ring_init(spare, sizeof spare);
    int joint;

    if (flight.state_ns != rig.now.t_ns || rig.queue.published != front->number || one_in(3))
        return;
    CHECK_EQ(vlad_servo_init(&twin, &config, 1, &joint), 0);
    CHECK_EQ(vlad_flight_attach(&twin, &twin_flight, ring, ring, INT64_MAX / 2), 0);
    CHECK_EQ(vlad_flight_replay_begin(&replay, &twin, &flight.state,
                                      (const int64_t (*)[VLAD_MAX_JOINTS])rig.trajectory.ring1,
                                      (const int64_t (*)[VLAD_MAX_JOINTS])rig.trajectory.ring2), 0);
    CHECK_EQ(vlad_flight_replay_timeline(&twin, front), 0);
    twin_runs = first_push = true;
    met.begun++;
}

/* Nothing that the loop remembers from tick to tick is missing in the recorded state: between its first
 * and its last own member every byte is in a list, or padding before a member of 8 bytes. */
static void test_nothing_is_forgotten(void)
{
    static unsigned char known[sizeof(struct vlad_servo)];
    size_t first = offsetof(struct vlad_servo, mode);
    size_t end = offsetof(struct vlad_servo, stale_run), gap = 0;

#define KNOWN(path) memset(known + offsetof(struct vlad_servo, path), 1, sizeof rig.path)
#define LISTED(type, name, path, count, range) KNOWN(path);
    VLAD_FLIGHT_STATE_FIELDS(LISTED)
    KNOWN(lookahead_ns); /* of the configuration */
    KNOWN(bus_ns);       /* of this tick only */
    for (size_t at = first; at < end; at++) {
        gap = known[at] ? 0 : gap + 1;
        if (gap >= 8)
            fprintf(stderr, "struct vlad_servo: byte %zu, %zu after `mode`\n", at, at - first);
        CHECK(gap < 8); /* or: a new member that is not in VLAD_FLIGHT_STATE_FIELDS */
    }
}

static void test_attached_late(void)
{
    struct vlad_flight_ring *ring = vlad_flight_ring_init(spare, sizeof spare);

    begin();
    CHECK_EQ(vlad_flight_attach(&rig, &flight, ring, ring, MS), -EBUSY);
}

static void test_other_windows(void)
{
    struct vlad_servo_config config = rig_config();
    struct vlad_flight_ring *ring = vlad_flight_ring_init(spare, sizeof spare);
    int joint;

    config.gate.limits.joint[0].a_max_nu_s2 = 20000 * MILLI;
    CHECK_EQ(vlad_servo_init(&twin, &config, 1, &joint), 0);
    CHECK_EQ(vlad_flight_attach(&twin, &twin_flight, ring, ring, MS), 0);
    CHECK_EQ(vlad_flight_replay_begin(&replay, &twin, &flight.state,
                                      (const int64_t (*)[VLAD_MAX_JOINTS])rig.trajectory.ring1,
                                      (const int64_t (*)[VLAD_MAX_JOINTS])rig.trajectory.ring2),
             -EINVAL);
}

int main(void)
{
    struct vlad_servo_config config = rig_config();
    int64_t start_ns = 1000000 * MS, now_ns = start_ns, pose_nu[JOINTS];
    int joint;

    test_nothing_is_forgotten();
    test_attached_late();
    for (int j = 0; j < JOINTS; j++)
        pose_nu[j] = (int64_t)(curve(start_ns, j) * 1e9);
    memset(&arm, 0, sizeof arm);
    vlad_memory_arm_init(&arm.memory, JOINTS, pose_nu, start_ns);
    CHECK_EQ(vlad_servo_init(&rig, &config, start_ns, &joint), 0);
    CHECK_EQ(vlad_flight_attach(&rig, &flight, vlad_flight_ring_init(loop_memory, 1 << 20),
                                vlad_flight_ring_init(producer_memory, 1 << 20), 100 * MS), 0);
    CHECK_EQ(adopt(pose_nu, false), 0);
    for (int k = 0; k < TICKS; k++) {
        uint64_t before = rig.now.counters.ticks;

        storm();
        if (one_in(12)) {
            push_curve(now_ns, random_in(0, 9) ? random_in(0, 600) * MS
                                                     : random_in(0, 3000) * MS,
                       seen.at_rest && seen.queue_depth == 0);
            if (twin_runs)
                replay_push();
        }
        now_ns += TICK;
        vlad_servo_simulate(&rig, &arm.memory, now_ns);
        vlad_servo_read(&rig, &seen);
        if (rig.now.counters.ticks == before)
            continue; /* a slow bus: the tick was skipped */
        if (twin_runs) {
            vlad_flight_replay_tick(&replay, &twin, &flight.done);
            same(vlad_flight_tick_fields, &flight.done, &twin_flight.done);
            met.ticks++;
        }
        begin_twin();
    }
    test_other_windows();

    CHECK(met.begun > 1000 && met.ticks > 60000 && met.chunks > 5000 && met.accepted > 500);
    CHECK_EQ(flight.loop->refused + flight.producer->refused, 0u);
    CHECK_DONE();
}
