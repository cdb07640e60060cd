/* The servo loop's tick and the threads that talk to it, in every execution: a stop request is never
 * lost and the lowest authority wins; nothing moves after a latched fault without `clear` and then
 * `engage` (invariant I3); a fault is never lost, a heartbeat never missed by mistake; a bus is
 * adopted whole. Each goal is judged as it is written (invariant I1, by servo_rig.h). */
#define VLAD_CHECK_H /* a failed CHECK of the rig shows the execution */
#include "model.h"
#define CHECK(condition) MODEL_REQUIRE(condition)
#define CHECK_EQ(a, b) MODEL_REQUIRE((a) == (b))
#include <stdlib.h> /* llabs */

#include "servo_parts.h"
#include "servo_rig.h"

#define TICKS 12
#define FAULT VLAD_F_THREAD_DIED /* latches, and is gone as soon as its condition is */

static int loop_ticks = 4;

/* What the loop's thread saw, tick by tick. */
static struct {
    uint32_t taken[TICKS + 1];
    uint64_t latched_before[TICKS + 1];
    int64_t goal_nu[TICKS + 1][JOINTS];
    enum vlad_mode mode[TICKS + 1];
    int n;
} tick;

/* Called by the tick in place of vlad_servo_decide() (linked with --wrap): tells what was taken. */
void __real_vlad_servo_decide(struct vlad_servo *servo, uint32_t requests,
                              enum vlad_reaction reaction);
void __wrap_vlad_servo_decide(struct vlad_servo *servo, uint32_t requests,
                              enum vlad_reaction reaction);
void __wrap_vlad_servo_decide(struct vlad_servo *servo, uint32_t requests,
                              enum vlad_reaction reaction)
{
    tick.taken[tick.n] = requests;
    tick.latched_before[tick.n] = servo->watchdog.latched;
    __real_vlad_servo_decide(servo, requests, reaction);
}

static void one_tick(void)
{
    int64_t now_ns = rig.now.t_ns + TICK;

    arm.memory.now_ns = now_ns;
    vlad_servo_tick(&rig, now_ns, 0);
    tick.mode[tick.n] = rig.mode;
    memcpy(tick.goal_nu[tick.n], rig.written_nu, sizeof tick.goal_nu[0]);
    /* Neither a latched fault nor a stop leaves the queue in charge, whatever else was asked for. */
    if (rig.watchdog.latched || tick.latched_before[tick.n] ||
        tick.taken[tick.n] & (VLAD_REQ_HOLD | VLAD_REQ_LIMP))
        MODEL_REQUIRE(rig.mode != VLAD_ENGAGED);
    tick.n++;
}

static void loop(void)
{
    for (int i = 0; i < loop_ticks; i++)
        one_tick();
}

static void watch(void)
{
    memset(&tick, 0, sizeof tick);
    model_watch("servo", &rig, sizeof rig, true);
    model_watch("arm", &arm, sizeof arm, true);
    model_watch("tick", &tick, sizeof tick, false);
}

static uint32_t all_taken(void)
{
    uint32_t all = 0;

    for (int i = 0; i < tick.n; i++) {
        MODEL_REQUIRE(!(all & tick.taken[i])); /* each was made once */
        all |= tick.taken[i];
    }
    return all;
}

/* The first tick in which any of these was taken, or tick.n. */
static int first_taken(uint32_t requests)
{
    int i = 0;

    while (i < tick.n && !(tick.taken[i] & requests))
        i++;
    return i;
}

/* --- a stop request --------------------------------------------------------------------------- */

static void begin_engaged(void)
{
    begin_moving();
    watch();
}

static void ask_hold(void)
{
    vlad_servo_request(&rig, VLAD_REQ_HOLD);
}

static void ask_engage(void)
{
    vlad_servo_request(&rig, VLAD_REQ_CLEAR | VLAD_REQ_ENGAGE);
    vlad_servo_request(&rig, VLAD_REQ_RESUME);
}

static void ask_park(void)
{
    vlad_servo_request(&rig, VLAD_REQ_PARK);
}

static void ask_limp(void)
{
    vlad_servo_request(&rig, VLAD_REQ_LIMP);
}

static void end_hold(void)
{
    one_tick();
    MODEL_REQUIRE(all_taken() ==
                  (VLAD_REQ_HOLD | VLAD_REQ_CLEAR | VLAD_REQ_ENGAGE | VLAD_REQ_RESUME | VLAD_REQ_PARK));
    for (int i = first_taken(VLAD_REQ_HOLD); i < tick.n; i++)
        MODEL_REQUIRE(tick.mode[i] == VLAD_STOPPING); /* it takes longer than this to rest */
    if (first_taken(VLAD_REQ_PARK) <= first_taken(VLAD_REQ_HOLD))
        MODEL_REQUIRE(!rig.parking);
}

static void end_limp(void)
{
    one_tick();
    MODEL_REQUIRE(all_taken() == (VLAD_REQ_LIMP | VLAD_REQ_HOLD | VLAD_REQ_PARK));
    MODEL_REQUIRE(!rig.torque_wanted);
    for (int i = first_taken(VLAD_REQ_LIMP); i < tick.n; i++)
        MODEL_REQUIRE(tick.mode[i] == VLAD_READY);
}

/* --- a latched fault -------------------------------------------------------------------------- */

static void begin_holding(void)
{
    begin();
    ask(VLAD_REQ_ENGAGE);
    ticks(2);
    ask(VLAD_REQ_HOLD);
    ticks(40);
    MODEL_REQUIRE(seen.mode == VLAD_HOLDING);
    watch();
}

static void fault_comes_and_goes(void)
{
    vlad_watchdog_hold(&rig.watchdog, FAULT, true);
    vlad_watchdog_hold(&rig.watchdog, FAULT, false);
}

static void fault_pulses(void)
{
    vlad_watchdog_pulse(&rig.watchdog, FAULT);
    vlad_watchdog_pulse(&rig.watchdog, VLAD_F_ACTION_NOT_FINITE);
}

static void ask_clear_and_engage(void)
{
    vlad_servo_request(&rig, VLAD_REQ_CLEAR);
    vlad_servo_request(&rig, VLAD_REQ_ENGAGE);
}

/* From a fault on, whoever drives again was cleared in an earlier tick than it was engaged. */
static void check_i3(void)
{
    bool locked = false;

    for (int i = 0; i < tick.n; i++) {
        if (tick.latched_before[i])
            locked = true;
        if (locked) {
            MODEL_REQUIRE(tick.mode[i] != VLAD_ENGAGED);
            if (i > 0 && tick.mode[i - 1] == VLAD_FAULTED && tick.mode[i] == VLAD_FAULTED)
                MODEL_REQUIRE(memcmp(tick.goal_nu[i], tick.goal_nu[i - 1],
                                     sizeof tick.goal_nu[0]) == 0);
            if (tick.taken[i] & VLAD_REQ_CLEAR && tick.mode[i] != VLAD_FAULTED &&
                tick.mode[i] != VLAD_STOPPING)
                locked = false;
        }
    }
}

static void end_held_fault(void)
{
    one_tick();
    check_i3();
    MODEL_REQUIRE(all_taken() == (VLAD_REQ_CLEAR | VLAD_REQ_ENGAGE));
}

static void end_pulsed_fault(void)
{
    one_tick();
    check_i3();
    MODEL_REQUIRE(rig.watchdog.state[FAULT].count == 1);
    MODEL_REQUIRE(rig.watchdog.state[VLAD_F_ACTION_NOT_FINITE].count == 1);
}

/* --- a chunk of an engagement that has ended -------------------------------------------------- */

static struct { struct vlad_command command; int64_t now_ns; } request;

static void begin_waiting(void)
{
    begin();
    ask(VLAD_REQ_ENGAGE);
    ticks(2);
    vlad_servo_command(&rig, &request.command);
    request.now_ns = rig.now.t_ns;
    MODEL_REQUIRE(request.command.epoch == 1 && request.command.at_rest);
    watch();
}

/* What vlad_servo_push() does once it has read the command. */
static void push_late(void)
{
    double actions[CHUNK][JOINTS];
    struct vlad_gate_report report;
    struct vlad_chunk chunk = {.seq = 1, .epoch = 1, .t_obs_ns = request.now_ns, .cold = true,
                               .n_actions = CHUNK, .n_joints = JOINTS, .actions = &actions[0][0]};

    for (int k = 0; k < CHUNK; k++)
        for (int j = 0; j < JOINTS; j++)
            actions[k][j] = curve(request.now_ns, j) + 0.01 * k;
    vlad_queue_push(&rig.queue, &chunk, &request.command, request.now_ns, &report);
    MODEL_REQUIRE(report.verdict == VLAD_ACCEPTED);
}

static void ask_hold_and_engage(void)
{
    vlad_servo_request(&rig, VLAD_REQ_HOLD);
    vlad_servo_request(&rig, VLAD_REQ_ENGAGE);
}

static void loop_over_engagements(void)
{
    for (int i = 0; i < loop_ticks; i++) {
        one_tick();
        if (rig.now.epoch == 1)
            continue;
        MODEL_REQUIRE(rig.now.queue_depth == 0);
        for (int j = 0; j < JOINTS; j++)
            MODEL_REQUIRE(rig.trajectory.velocity_nu[j] == 0);
    }
}

static void end_waiting(void)
{
    one_tick();
    MODEL_REQUIRE(all_taken() == (VLAD_REQ_HOLD | VLAD_REQ_ENGAGE));
    if (rig.now.epoch == 1 && rig.mode == VLAD_ENGAGED)
        MODEL_REQUIRE(rig.now.queue_depth > 0); /* the chunk is not lost either */
}

/* --- heartbeats ------------------------------------------------------------------------------- */

static void begin_heartbeats(void)
{
    begin();
    ticks(100); /* so that the first beat is long ago */
    watch();
}

static void supervise(void)
{
    vlad_watchdog_bound(&rig.watchdog, VLAD_STAGE_EXPERT, 500 * MS, rig.config.period_ns * 1000000);
    vlad_watchdog_bound(&rig.watchdog, VLAD_STAGE_CAPTURE, 167 * MS,
                        rig.config.period_ns * 1000000);
}

static void end_heartbeats(void)
{
    one_tick();
    MODEL_REQUIRE(rig.watchdog.active == 0);
    for (int f = 1; f <= VLAD_N_FAULTS; f++)
        MODEL_REQUIRE(rig.watchdog.state[f].count == 0);
}

/* --- adoption --------------------------------------------------------------------------------- */

static struct { struct judged_arm arm[2]; int adopted; } bus;

static void begin_offline(void)
{
    begin();
    arm.memory.read_error = -EIO;
    ticks(1);
    MODEL_REQUIRE(seen.mode == VLAD_FAULTED && !seen.bus_up);
    memset(&bus, 0, sizeof bus);
    for (int i = 0; i < 2; i++) {
        int64_t pose_nu[JOINTS];

        for (int j = 0; j < JOINTS; j++)
            pose_nu[j] = (10 * (i + 1) + j) * MILLI;
        vlad_memory_arm_init(&bus.arm[i].memory, JOINTS, pose_nu, rig.now.t_ns);
        bus.arm[i].memory.torque_mask = ALL;
    }
    watch();
    model_watch("bus", &bus, sizeof bus, true);
}

static void open_buses(void)
{
    for (int i = 0; i < 2; i++) {
        int64_t goal_nu[JOINTS];

        memcpy(goal_nu, bus.arm[i].memory.goal_nu, sizeof goal_nu);
        memcpy(bus.arm[i].in_force_nu, goal_nu, sizeof goal_nu);
        bus.arm[i].memory.now_ns = rig.config.period_ns * 1000000;
        bus.adopted += vlad_servo_adopt(&rig, &judged_ops, &bus.arm[i], true, goal_nu) == 0;
    }
}

static void loop_over_buses(void)
{
    for (int i = 0; i < loop_ticks; i++) {
        uint64_t adoptions = rig.now.adoptions;

        one_tick();
        if (rig.now.adoptions == adoptions)
            continue;
        MODEL_REQUIRE(rig.arm == &bus.arm[0] || rig.arm == &bus.arm[1]);
        MODEL_REQUIRE(rig.ops == &judged_ops && rig.torque_on);
        MODEL_REQUIRE(memcmp(rig.written_nu, ((struct judged_arm *)rig.arm)->memory.goal_nu,
                             JOINTS * sizeof(int64_t)) == 0);
    }
}

static void end_offline(void)
{
    one_tick();
    MODEL_REQUIRE(rig.now.adoptions == (uint64_t)(1 + bus.adopted)); /* refused or taken, not lost */
    MODEL_REQUIRE(rig.mode != VLAD_ENGAGED);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {.name = "servo: hold, against engage, resume and park", .begin = begin_engaged,
         .thread = {loop, ask_hold, ask_engage, ask_park}, .end = end_hold},
        {.name = "servo: limp, against hold and park", .begin = begin_engaged,
         .thread = {loop, ask_limp, ask_hold, ask_park}, .end = end_limp},
        {.name = "servo: held fault, clear, engage at rest", .begin = begin_holding,
         .thread = {loop, fault_comes_and_goes, ask_clear_and_engage}, .end = end_held_fault},
        {.name = "servo: held fault, clear, engage on the move", .begin = begin_engaged,
         .thread = {loop, fault_comes_and_goes, ask_clear_and_engage}, .end = end_held_fault},
        {.name = "servo: pulsed faults, clear, engage", .begin = begin_holding,
         .thread = {loop, fault_pulses, ask_clear_and_engage}, .end = end_pulsed_fault},
        {.name = "servo: a chunk across hold and engage", .begin = begin_waiting,
         .thread = {loop_over_engagements, push_late, ask_hold_and_engage}, .end = end_waiting},
        {.name = "servo: new bounds of heartbeats", .begin = begin_heartbeats,
         .thread = {loop, supervise}, .end = end_heartbeats},
        {.name = "servo: two buses, one after the other", .begin = begin_offline,
         .thread = {loop_over_buses, open_buses, ask_clear_and_engage}, .end = end_offline}};


    (void)argv;
    if (argc > 1)
        loop_ticks = 7;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        model_check(&models[i]);
    return 0;
}
