/* Authority: what every request and reaction makes of every mode, and what engaging may not do. */
#include "servo_rig.h"

#include "servo_parts.h"

/* --- Engaging: no joint is driven harder by its torque limit going up. --- */

/* How far the goals of the joints in `mask` are from where they are, at most. */
static int64_t off(uint32_t mask)
{
    int64_t most_nu = 0;

    for (int j = 0; j < JOINTS; j++) {
        int64_t off_nu = llabs(arm.memory.goal_nu[j] - arm.memory.present_nu[j]);

        if (mask >> j & 1 && off_nu > most_nu)
            most_nu = off_nu;
    }
    return most_nu;
}

/* Ticks an arm whose joints have sagged and cannot move, until it has its torque limits back: the
 * last is raised after `n` ticks, none while its goal register is more than a step from it. */
static void check_taken_up(int n)
{
    uint32_t low = 0;

    for (int j = 0; j < JOINTS; j++)
        low |= (uint32_t)(arm.memory.limit_permille[j] < 1000) << j;
    for (int i = 1; low; i++) {
        CHECK(i <= n);
        ticks(1);
        CHECK_EQ(seen.mode, VLAD_ENGAGED);
        for (int j = 0; j < JOINTS; j++)
            if (low >> j & 1 && arm.memory.limit_permille[j] == 1000) {
                CHECK(off(1u << j) <= rig.trajectory.step_nu[j]);
                low &= ~(1u << j);
                CHECK(low || i == n);
            }
    }
    ticks(n);
    for (int j = 0; j < JOINTS; j++)
        CHECK(arm.memory.step_max_nu[j] <= rig.trajectory.step_nu[j]);
    CHECK_EQ(seen.counters.wire_step, 0);
    CHECK_EQ(seen.counters.wire_limit, 0);
}

/* An operator's hold in the middle of a let-down, or a following error, left the limits low. */
static void begin_sagged(int64_t sag_nu, int32_t permille)
{
    begin();
    ask(VLAD_REQ_ENGAGE);
    ticks(2);
    ask(VLAD_REQ_HOLD);
    ticks(3);
    CHECK_EQ(seen.mode, VLAD_HOLDING);
    vlad_servo_limit(&rig, 2, permille);
    arm.memory.blocked = ALL; /* it moves by hand only */
    ticks(2);
    CHECK_EQ(arm.memory.limit_permille[1], permille);
    for (int i = 0; i < 3; i++) { /* no faster than a joint can */
        arm.memory.present_nu[1] -= sag_nu / 3 + (i < sag_nu % 3);
        ticks(1);
    }
}

static void test_engage_takes_up_a_sagged_joint(void)
{
    int64_t step_nu, queue_nu;

    begin_sagged(90 * MILLI, 500);
    step_nu = rig.trajectory.step_nu[1];
    queue_nu = arm.memory.goal_nu[1];
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
    CHECK_EQ(arm.memory.limit_permille[1], 500);
    CHECK_EQ(arm.memory.goal_nu[1], queue_nu - step_nu); /* the way back begins in this tick */
    CHECK_EQ(seen.counters.engaged_ticks, 1);            /* and the queue waits */
    check_taken_up(3);
    CHECK_EQ(off(2), 0);
    CHECK(seen.counters.engaged_ticks > 1);

    begin_sagged(step_nu, 500); /* near enough: at once */
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(arm.memory.limit_permille[1], 1000);
    begin_sagged(step_nu + 1, 500);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(arm.memory.limit_permille[1], 500);
    check_taken_up(1);
}

/* A joint under a load hangs below its goal by what its controller needs, and follows the goal down: the goal
 * goes to where the joint was when it was engaged, and no further. */
static void test_taking_up_follows_no_joint_down(void)
{
    for (int64_t step_nu = 2 * MILLI; step_nu <= 24 * MILLI; step_nu += 2 * MILLI) /* of a slow joint, a fast one */
        for (int64_t sag_nu = 20 * MILLI; sag_nu <= 100 * MILLI; sag_nu += 40 * MILLI) {
            int64_t queue_nu;
            int n = 0;

            begin_sagged(sag_nu, 500);
            rig.trajectory.step_nu[1] = step_nu;
            queue_nu = arm.memory.goal_nu[1];
            vlad_servo_request(&rig, VLAD_REQ_ENGAGE);
            for (; arm.memory.limit_permille[1] < 1000; n++) {
                CHECK(n <= sag_nu / step_nu + 2);
                ticks(1);
                CHECK_EQ(seen.mode, VLAD_ENGAGED);
                CHECK(arm.memory.goal_nu[1] >= queue_nu - sag_nu);
                arm.memory.present_nu[1] += (arm.memory.goal_nu[1] - sag_nu - arm.memory.present_nu[1]) / 4;
            }
            ticks(5);
            CHECK_EQ(seen.mode, VLAD_ENGAGED);
            CHECK_EQ(arm.memory.goal_nu[1], queue_nu - sag_nu);
            CHECK_EQ(rig.yielding, 0);
        }
}

/* A crash in the middle of a let-down, with one joint limp by then: the two that hold sagged. */
static void test_engage_where_some_joints_hold(void)
{
    int64_t pose_nu[JOINTS], held_nu[JOINTS];

    begin();
    memcpy(pose_nu, arm.memory.present_nu, sizeof pose_nu);
    for (int j = 0; j < JOINTS; j++)
        held_nu[j] = pose_nu[j] + (j - 1) * 300 * MILLI;
    CHECK_EQ(adopt(held_nu, false), 0);
    memcpy(arm.memory.goal_nu, held_nu, sizeof held_nu);
    arm.memory.torque_mask = ALL & ~2u;
    arm.memory.limp = 2;
    arm.memory.blocked = ALL;
    for (int j = 0; j < JOINTS; j++)
        arm.memory.limit_permille[j] = arm.memory.asked_permille[j] = 200;
    ticks(2);
    CHECK_EQ(seen.limit_permille[0], 200);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(arm.memory.limit_permille[0], 200);
    CHECK_EQ(arm.memory.limit_permille[1], 1000); /* it has no torque yet: nothing pulls */
    CHECK_EQ(arm.memory.torque_mask, ALL & ~2u);
    ticks(1);
    CHECK_EQ(arm.memory.torque_mask, ALL);
    CHECK_EQ(arm.memory.goal_nu[0], held_nu[0]);
    CHECK_EQ(arm.memory.goal_nu[1], pose_nu[1]);
    check_taken_up(13); /* 300 mrad, 24.9 mrad a tick */
    CHECK_EQ(off(ALL), 0);
}

/* Nothing is raised for a joint on the word of a pose that is old, or of a goal that did not arrive. */
static void test_taking_up_waits_for_the_servo(void)
{
    begin_sagged(60 * MILLI, 500);
    arm.memory.deaf = 2;
    ask(VLAD_REQ_ENGAGE);
    ticks(4);
    CHECK_EQ(arm.memory.limit_permille[1], 500);
    CHECK_EQ(seen.goal_nu[1], arm.memory.present_nu[1]);
    arm.memory.deaf = 0;
    ticks(2);
    CHECK_EQ(arm.memory.limit_permille[1], 1000);

    begin_sagged(10 * MILLI, 500);
    arm.memory.silent = 2;
    ask(VLAD_REQ_ENGAGE);
    ticks(2);
    CHECK_EQ(arm.memory.limit_permille[1], 500);
    arm.memory.silent = 0;
    ticks(1);
    CHECK_EQ(arm.memory.limit_permille[1], 1000);
}

/* The queue waits until the register shows the limit too: a raise that comes late would pull the joint. */
static void test_taking_up_waits_for_the_limit(void)
{
    for (int lost = 0; lost <= 30; lost += 3) { /* 20 in a row: the servo does not take it */
        begin_sagged(10 * MILLI, 500);
        arm.memory.drop_limits = lost + 1; /* the first only says again what is */
        ask(VLAD_REQ_ENGAGE);
        for (int i = 0; i < 25 && seen.mode == VLAD_ENGAGED; i++) {
            if (arm.memory.limit_permille[1] < 1000)
                CHECK_EQ(seen.counters.engaged_ticks, 1); /* of begin_sagged() */
            ticks(1);
        }
        CHECK_EQ(seen.mode == VLAD_ENGAGED, lost < 20);
        CHECK_EQ(seen.latched & BIT(VLAD_F_SERVO_SILENT), lost < 20 ? 0 : BIT(VLAD_F_SERVO_SILENT));
    }
    begin_sagged(10 * MILLI, 500); /* once it has begun, one misread limit stops nothing */
    ask(VLAD_REQ_ENGAGE);
    ticks(3);
    CHECK_EQ(push_curve(rig.now.t_ns, 0, true), VLAD_REJECTED);
    ticks(30);
    CHECK(push_curve(rig.now.t_ns, 0, true) != VLAD_REJECTED);
    ticks(10);
    arm.memory.limit_permille[1] = 900;
    for (int i = 0; i < 3; i++) {
        uint64_t before = seen.counters.engaged_ticks;

        ticks(1);
        CHECK_EQ(seen.counters.engaged_ticks, before + 1);
    }
    CHECK_EQ(arm.memory.limit_permille[1], 1000);
}

/* A joint with all its torque hangs below its goal by what its controller needs: it is not taken up for one
 * reading of its limit that differs. */
static void test_a_misread_limit_moves_no_goal(void)
{
    int64_t goal_nu;

    begin_sagged(90 * MILLI, 500);
    arm.memory.present_nu[0] -= 30 * MILLI;
    ask(VLAD_REQ_ENGAGE);
    goal_nu = arm.memory.goal_nu[0];
    arm.memory.limit_permille[0] = 900;
    ticks(2);
    CHECK_EQ(arm.memory.limit_permille[1], 500); /* meanwhile */
    CHECK_EQ(arm.memory.goal_nu[0], goal_nu);
    CHECK_EQ(rig.yielding, 2);
    CHECK_EQ(arm.memory.limit_permille[0], 1000);
}

/* The goal moves: the arm is not at rest, and nothing that was seen or computed before it stands is executed. */
static void test_no_cold_start_while_taking_up(void)
{
    uint64_t n = 1; /* chunks */
    int64_t seen_ns;

    begin_sagged(90 * MILLI, 500);
    CHECK(seen.at_rest);
    ask(VLAD_REQ_ENGAGE);
    for (; arm.memory.limit_permille[1] < 1000; n++) {
        CHECK(!seen.at_rest);
        CHECK_EQ(rig.trajectory.still_ticks, 0);
        CHECK_EQ(push_curve(rig.now.t_ns, 0, true), VLAD_REJECTED);
        ticks(1);
    }
    CHECK_EQ(push_curve(rig.now.t_ns, 0, true), VLAD_REJECTED);
    seen_ns = rig.now.t_ns;
    for (int i = 0; !seen.at_rest && i < 50; i++)
        ticks(1);
    CHECK(seen.at_rest);
    CHECK(n > 3);
    CHECK_EQ(seen.counters.rejected[VLAD_R_MOVED], n);
    CHECK_EQ(push_curve(rig.now.t_ns, rig.now.t_ns - seen_ns, true), VLAD_REJECTED);
    ticks(5);
    CHECK(push_curve(rig.now.t_ns, 0, true) != VLAD_REJECTED);
}

/* A limit that was lost on the way counts as its register shows it. */
static void test_engage_takes_up_what_the_register_shows(void)
{
    begin_sagged(60 * MILLI, 999);
    arm.memory.limit_permille[1] = 300;
    ticks(1);
    CHECK_EQ(arm.memory.limit_permille[1], 300);
    ask(VLAD_REQ_ENGAGE);
    CHECK_EQ(seen.limit_permille[1], 300);
    check_taken_up(2);
}

/* --- The decision alone: one state, one word of requests, one reaction. --- */

#define NOW_NS (1000 * MS)
#define FAULT BIT(VLAD_F_CAMERA_LOST)            /* any that only holds */
#define ASTRAY BIT(VLAD_F_FOLLOWING_ERROR)       /* one that makes the pose unsure */
#define DRIVE (VLAD_REQ_RESUME | VLAD_REQ_ENGAGE)

static struct { int refused, let_down, torque, unlatched; uint32_t request; uint64_t why; } told;

/* A bus whose joints all answered; torque where the mode has it, and an operator who engaged before. */
static void given(enum vlad_mode mode)
{
    struct vlad_servo_config config = rig_config();
    int joint;

    memset(&arm, 0, sizeof arm);
    CHECK_EQ(vlad_servo_init(&rig, &config, NOW_NS, &joint), 0);
    rig.mode = mode;
    rig.seen_joints = rig.now.arm.answered = ALL;
    for (int j = 0; j < JOINTS; j++)
        rig.now.limit_permille[j] = rig.now.arm.limit_permille[j] = 1000;
    if (mode == VLAD_OFFLINE)
        return;
    rig.ops = &judged_ops;
    rig.arm = &arm;
    rig.resumable = true;
    if (mode == VLAD_READY)
        return;
    rig.torque_on = rig.torque_wanted = rig.commanded = true;
    rig.now.arm.powered = ALL;
    if (mode == VLAD_FAULTED)
        rig.watchdog.latched = FAULT;
}

/* A latched fault whose condition is gone, so that `clear` ends it. */
static void latch(unsigned fault)
{
    rig.watchdog.state[fault].latched = true;
    rig.watchdog.latched |= BIT(fault);
}

static void decide(uint32_t requests, enum vlad_reaction reaction)
{
    struct vlad_event event;

    while (vlad_servo_next_event(&rig, &event))
        ;
    memset(&told, 0, sizeof told);
    vlad_servo_decide(&rig, requests, reaction);
    while (vlad_servo_next_event(&rig, &event)) {
        CHECK_EQ(event.value, 0); /* of a fault: VLAD_NONE */
        if (event.kind == VLAD_EV_REFUSED) {
            told.refused++;
            told.request = (uint32_t)event.a;
            told.why = (uint64_t)event.b;
        } else if (event.kind == VLAD_EV_LET_DOWN) {
            CHECK(event.a == 0 && event.b == 0);
            told.let_down++;
        } else if (event.kind == VLAD_EV_TORQUE) {
            CHECK_EQ(event.a, ALL);
            CHECK_EQ(event.b, rig.torque_wanted);
            told.torque++;
        } else if (event.kind == VLAD_EV_FAULT) {
            CHECK_EQ(event.b, 0); /* neither active nor latched */
            told.unlatched |= 1 << event.a;
        }
    }
}

static void check_refused(uint32_t request, uint64_t why)
{
    CHECK_EQ(told.refused, request != 0);
    CHECK_EQ(told.request, request);
    CHECK_EQ(told.why, why);
    CHECK_EQ(rig.now.counters.refused_requests, request != 0);
}

/* Within one tick the lowest authority wins, and what it overrules is refused. */
static void test_every_word_of_requests(void)
{
    for (uint32_t requests = 0; requests < 2 * VLAD_REQ_ENGAGE; requests++) {
        uint32_t lower = requests & (VLAD_REQ_LIMP | VLAD_REQ_HOLD);
        uint32_t lost = lower ? requests & (VLAD_REQ_PARK | DRIVE)
                        : requests & VLAD_REQ_PARK ? requests & DRIVE : 0;

        given(VLAD_HOLDING);
        decide(requests, VLAD_NONE);
        check_refused(lost, lost ? VLAD_WHY_MOVING : 0);
        CHECK_EQ(rig.mode, requests & VLAD_REQ_LIMP  ? VLAD_READY
                           : requests & VLAD_REQ_HOLD ? VLAD_HOLDING
                           : requests & VLAD_REQ_PARK ? VLAD_STOPPING
                           : requests & DRIVE         ? VLAD_ENGAGED
                                                      : VLAD_HOLDING);
        CHECK_EQ(rig.parking, requests & VLAD_REQ_PARK && !lower);
        CHECK_EQ(rig.torque_wanted, !(requests & VLAD_REQ_LIMP));
    }
}

/* A reaction alone, in every mode. Faults that hold stop what moves; PARK parks what an operator has
 * set in motion, once it has stopped; LIMP takes the torque, where the bus lets it. */
static void test_every_reaction(void)
{
    for (enum vlad_mode mode = VLAD_OFFLINE; mode < VLAD_N_MODES; mode++)
        for (enum vlad_reaction reaction = VLAD_NONE; reaction < VLAD_N_REACTIONS; reaction++) {
            enum vlad_mode expected = mode;
            bool torque = mode > VLAD_READY;

            given(mode);
            if (reaction == VLAD_PARK) {
                rig.watchdog.state[VLAD_F_SERVO_OVER_TEMPERATURE] = (struct vlad_fault_state){
                    .active = true, .level = VLAD_PARK, .level_ns = NOW_NS };
            }
            decide(0, reaction);
            if (reaction >= VLAD_HOLD && mode == VLAD_ENGAGED)
                expected = VLAD_STOPPING;
            if (reaction == VLAD_PARK && (mode == VLAD_HOLDING || mode == VLAD_FAULTED))
                expected = VLAD_STOPPING;
            if (reaction == VLAD_LIMP && torque)
                expected = mode == VLAD_FAULTED ? VLAD_FAULTED : VLAD_READY;
            CHECK_EQ(rig.mode, expected);
            CHECK_EQ(rig.parking, reaction == VLAD_PARK && (mode == VLAD_HOLDING || mode == VLAD_FAULTED));
            CHECK_EQ(rig.torque_wanted, torque && reaction != VLAD_LIMP);
            CHECK_EQ(told.torque, reaction == VLAD_LIMP && torque);
            CHECK_EQ(rig.easing_since_ns, 0);
            check_refused(0, 0);
        }
    given(VLAD_ENGAGED); /* and it overrules what was asked for in the same tick */
    decide(VLAD_REQ_ENGAGE, VLAD_LIMP);
    check_refused(VLAD_REQ_ENGAGE, VLAD_WHY_MOVING);
    given(VLAD_OFFLINE); /* torque was wanted when the bus went: there is nobody to tell, nothing to refuse */
    rig.torque_on = rig.torque_wanted = true;
    decide(0, VLAD_LIMP);
    check_refused(0, 0);
    CHECK_EQ(told.torque, 0);
}

/* --- Why engaging is refused. --- */

static void test_why_not(void)
{
    const int64_t slack_nu = 2 * LIMIT_NU / 1000 * 20; /* the gate's clamp allowance */

    given(VLAD_HOLDING);
    rig.written_nu[JOINTS] = 1; /* there is no such joint */
    CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), 0);
    for (uint32_t joints = 0; joints < ALL; joints++) {
        rig.seen_joints = joints; /* where it is nobody knows: not judged */
        rig.written_nu[0] = 10 * LIMIT_NU;
        CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), VLAD_WHY_BUS);
    }
    given(VLAD_OFFLINE);
    CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), VLAD_WHY_BUS);
    for (int j = 0; j < JOINTS; j++)
        for (int sign = -1; sign <= 1; sign += 2)
            for (int over = 0; over < 2; over++)
                for (int on = 0; on < 2; on++) {
                    given(VLAD_HOLDING);
                    rig.torque_on = rig.torque_wanted = on;
                    /* With torque the command counts, without it the pose; the other is off. */
                    rig.written_nu[j] = on ? sign * (slack_nu + LIMIT_NU + over) : 10 * LIMIT_NU;
                    rig.now.arm.position_nu[j] =
                        on ? 10 * LIMIT_NU : sign * (slack_nu + LIMIT_NU + over);
                    CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), over ? VLAD_WHY_LIMITS : 0);
                }
    for (int j = 0; j < JOINTS; j++)
        for (int over = 0; over < 2; over++) {
            const int64_t nu = slack_nu + LIMIT_NU + over;

            given(VLAD_HOLDING); /* taking it up would pull it back inside, with all its torque */
            rig.now.limit_permille[j] = 999;
            rig.now.arm.position_nu[j] = -nu;
            CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), over ? VLAD_WHY_LIMITS : 0);
            for (int powered = 0; powered < 2; powered++) { /* what it holds would be the command */
                given(VLAD_READY);
                rig.now.arm.powered = powered ? 1u << j : ALL & ~(1u << j);
                rig.now.arm.goal_nu[j] = nu;
                CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), powered && over ? VLAD_WHY_LIMITS : 0);
            }
        }
    given(VLAD_HOLDING); /* a span that is not symmetric */
    rig.config.gate.limits.joint[1].min_nu = LIMIT_NU / 2;
    rig.written_nu[1] = LIMIT_NU / 2 - slack_nu / 4;
    CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), 0);
    rig.written_nu[1]--;
    CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), VLAD_WHY_LIMITS);
    for (enum vlad_reaction reaction = VLAD_NONE; reaction < VLAD_N_REACTIONS; reaction++) {
        given(VLAD_HOLDING);
        CHECK_EQ(vlad_servo_why_not(&rig, reaction), reaction >= VLAD_HOLD ? VLAD_WHY_FAULT : 0);
        given(VLAD_FAULTED); /* `clear` first: that is the reason to name */
        CHECK_EQ(vlad_servo_why_not(&rig, reaction), VLAD_WHY_LATCHED);
    }
    for (int allowed = 0; allowed < 2; allowed++)
        for (int granted = 0; granted < 2; granted++) {
            given(VLAD_HOLDING);
            rig.config.allow_non_realtime = allowed;
            rig.taken.realtime = granted;
            CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE),
                     allowed || granted ? 0 : VLAD_WHY_REALTIME);
        }
    for (int on = 0; on < 2; on++)
        for (int wanted = 0; wanted < 2; wanted++) { /* torque off that has not gone out */
            given(VLAD_READY);
            rig.torque_on = on;
            rig.torque_wanted = wanted;
            CHECK_EQ(vlad_servo_why_not(&rig, VLAD_NONE), on && !wanted ? VLAD_WHY_MOVING : 0);
        }
    for (int latched = 0; latched < 2; latched++)
        for (int offline = 0; offline < 2; offline++) { /* all reasons are named */
            given(VLAD_STOPPING);
            rig.taken.refusals = VLAD_WHY_NO_TASK | VLAD_WHY_CAMERA;
            rig.written_nu[1] = 10 * LIMIT_NU;
            rig.config.allow_non_realtime = false;
            rig.watchdog.latched = latched ? FAULT : 0;
            rig.ops = offline ? NULL : &judged_ops;
            CHECK_EQ(vlad_servo_why_not(&rig, VLAD_HOLD),
                     VLAD_WHY_NO_TASK | VLAD_WHY_CAMERA | VLAD_WHY_MOVING | VLAD_WHY_REALTIME |
                         (latched ? VLAD_WHY_LATCHED : VLAD_WHY_FAULT) |
                         (offline ? VLAD_WHY_BUS : VLAD_WHY_LIMITS));
        }
}

/* From where `engage` and `resume` are granted. Resuming is for an arm that is held, with nothing latched
 * since it was engaged last. */
static void test_engage_and_resume(void)
{
    for (enum vlad_mode mode = VLAD_OFFLINE; mode < VLAD_N_MODES; mode++)
        for (int resume = 0; resume < 2; resume++)
            for (int resumable = 0; resumable < 2; resumable++) {
                uint32_t request = resume ? VLAD_REQ_RESUME : VLAD_REQ_ENGAGE;
                bool already = mode == VLAD_ENGAGED;
                bool granted = mode == VLAD_HOLDING ? !resume || resumable
                                                    : mode == VLAD_READY && !resume;

                given(mode);
                rig.resumable = resumable;
                rig.park_inhibited = true;
                rig.yielding = 1;
                rig.commanded = false;
                rig.limit_tries = 7;
                rig.starve_cause = rig.taken.starve_cause = VLAD_STARVE_STAGE;
                decide(request, VLAD_NONE);
                check_refused(granted || already ? 0 : request,
                              granted || already      ? 0
                              : mode == VLAD_OFFLINE  ? VLAD_WHY_BUS
                              : mode == VLAD_STOPPING ? VLAD_WHY_MOVING
                              : mode == VLAD_FAULTED  ? VLAD_WHY_LATCHED
                                                      : 0);
                CHECK_EQ(rig.mode, granted ? VLAD_ENGAGED : mode);
                CHECK_EQ(rig.now.epoch, granted);
                CHECK_EQ(rig.now.counters.engagements, granted);
                CHECK_EQ(rig.commanded, granted);
                CHECK_EQ(rig.park_inhibited, !granted);
                CHECK_EQ(rig.yielding, !granted);
                CHECK_EQ(rig.limits_due, granted ? ALL : 0);
                CHECK_EQ(rig.limit_tries, granted ? 0 : 7);
                CHECK_EQ(rig.starve_cause, granted ? VLAD_STARVE_COLD : VLAD_STARVE_STAGE);
                CHECK_EQ(rig.taken.starve_cause, granted ? VLAD_STARVE_COLD : VLAD_STARVE_STAGE);
                CHECK_EQ(rig.read_at_ns == INT64_MIN, granted);
                CHECK_EQ(rig.resumable, granted || (resumable && mode != VLAD_OFFLINE &&
                                                    mode != VLAD_FAULTED));
                CHECK_EQ(told.torque, granted && mode == VLAD_READY);
                if (granted && mode == VLAD_READY)
                    CHECK(rig.torque_wanted && !rig.torque_on && rig.torque_repeats == 1);
            }
    given(VLAD_HOLDING);
    decide(VLAD_REQ_RESUME | VLAD_REQ_ENGAGE, VLAD_NONE); /* one of them, once */
    CHECK_EQ(rig.now.counters.engagements, 1);
    given(VLAD_HOLDING);
    decide(VLAD_REQ_ENGAGE, VLAD_HOLD);
    check_refused(VLAD_REQ_ENGAGE, VLAD_WHY_FAULT);
}

/* Power comes where the joints are: each limp one's pose becomes the command, and what a joint with torque
 * holds stays it. Whatever was to go out again is older than that. */
static void test_power_takes_the_pose(void)
{
    given(VLAD_READY);
    rig.retry = true;
    rig.torque_tries = 5;
    rig.now.arm.powered = 4;
    for (int j = 0; j < JOINTS; j++) {
        rig.now.arm.position_nu[j] = (10 + j) * MILLI;
        rig.now.arm.goal_nu[j] = (20 + j) * MILLI;
    }
    rig.now.arm.position_nu[JOINTS] = 1; /* there is no such joint */
    decide(VLAD_REQ_ENGAGE, VLAD_NONE);
    CHECK(!rig.retry);
    CHECK_EQ(rig.torque_tries, 0);
    for (int j = 0; j < JOINTS; j++) {
        CHECK_EQ(rig.written_nu[j], (j == 2 ? 22 : 10 + j) * MILLI);
        CHECK_EQ(rig.trajectory.goal_nu[j], rig.written_nu[j]);
    }
    CHECK_EQ(rig.written_nu[JOINTS], 0);
    given(VLAD_READY); /* adopted with torque: its command is in force, and stays */
    rig.torque_on = rig.torque_wanted = rig.retry = true;
    rig.now.arm.position_nu[0] = 10 * MILLI;
    decide(VLAD_REQ_ENGAGE, VLAD_NONE);
    CHECK_EQ(rig.mode, VLAD_ENGAGED);
    CHECK_EQ(rig.written_nu[0], 0);
    CHECK(rig.retry);
    CHECK_EQ(told.torque, 0);
}

/* Engaging: at once where no torque is, and what does not answer counts as if it had. */
static void test_limits_when_engaging(void)
{
    given(VLAD_READY);
    rig.now.arm.powered = 2;
    rig.now.arm.answered = ALL & ~1u;
    for (int j = 0; j < JOINTS; j++) {
        rig.now.limit_permille[j] = 400;
        rig.now.arm.limit_permille[j] = 300;
    }
    rig.now.limit_permille[JOINTS] = 17; /* there is no such joint */
    rig.now.arm.answered |= 1u << JOINTS;
    decide(VLAD_REQ_ENGAGE, VLAD_NONE);
    CHECK_EQ(rig.now.limit_permille[0], 300);
    CHECK_EQ(rig.now.limit_permille[1], 300);
    CHECK_EQ(rig.now.limit_permille[2], 1000);
    CHECK_EQ(rig.now.limit_permille[JOINTS], 17);
}

/* A limit goes down and never up, for the joints that are meant. */
static void test_limits_go_down(void)
{
    static const int32_t asked[] = { 600, 500, 499, 0 };

    for (uint32_t mask = 0; mask < 2 * ALL; mask++)
        for (unsigned i = 0; i < sizeof asked / sizeof *asked; i++) {
            given(VLAD_HOLDING);
            for (int j = 0; j <= JOINTS; j++)
                rig.now.limit_permille[j] = 500;
            vlad_servo_limit(&rig, mask, asked[i]);
            for (int j = 0; j <= JOINTS; j++) {
                bool lowered = mask >> j & 1 && asked[i] < 500 && j < JOINTS;

                CHECK_EQ(rig.now.limit_permille[j], lowered ? asked[i] : 500);
                CHECK_EQ(rig.limits_due >> j & 1, lowered);
            }
        }
}

/* --- Limp, hold, clear. --- */

static void test_limp(void)
{
    for (enum vlad_mode mode = VLAD_OFFLINE; mode < VLAD_N_MODES; mode++) {
        bool bus = mode != VLAD_OFFLINE;

        given(mode);
        rig.parking = true;
        rig.easing_since_ns = NOW_NS;
        rig.torque_tries = 5;
        rig.written_nu[0] = 10 * MILLI;
        decide(VLAD_REQ_LIMP, VLAD_NONE);
        check_refused(bus ? 0 : VLAD_REQ_LIMP, bus ? 0 : VLAD_WHY_BUS);
        CHECK_EQ(rig.mode, mode == VLAD_FAULTED || !bus ? mode : VLAD_READY);
        CHECK_EQ(told.torque, bus); /* said even where no torque is known of */
        CHECK_EQ(rig.torque_repeats, bus ? 3 : 0);
        CHECK_EQ(rig.torque_tries, bus ? 0 : 5);
        CHECK_EQ(rig.parking, !bus);
        CHECK_EQ(rig.easing_since_ns, bus ? 0 : NOW_NS);
        CHECK_EQ(rig.trajectory.goal_nu[0], bus ? 10 * MILLI : 0);
    }
}

/* An operator's hold ends all motion, in whatever it consists; torque limits stay where they are. */
static void test_hold(void)
{
    for (enum vlad_mode mode = VLAD_OFFLINE; mode < VLAD_N_MODES; mode++) {
        bool moves = mode == VLAD_ENGAGED || mode == VLAD_STOPPING;

        given(mode);
        rig.parking = true;
        rig.easing_since_ns = NOW_NS;
        rig.commanded = true;
        decide(VLAD_REQ_HOLD, VLAD_NONE);
        check_refused(0, 0);
        CHECK_EQ(rig.mode, moves ? VLAD_STOPPING : mode);
        CHECK(!rig.parking && !rig.easing_since_ns && !rig.commanded);
        CHECK(!rig.park_inhibited); /* no fault demands to be inhibited */
        CHECK_EQ(rig.limits_due, 0);
    }
    for (enum vlad_reaction reaction = VLAD_NONE; reaction < VLAD_LIMP; reaction++) {
        given(VLAD_HOLDING);
        decide(VLAD_REQ_HOLD, reaction);
        CHECK_EQ(rig.park_inhibited, reaction == VLAD_PARK);
        decide(VLAD_REQ_HOLD, VLAD_NONE); /* said once more when the fault is gone */
        CHECK_EQ(rig.park_inhibited, reaction == VLAD_PARK);
    }
}

/* What must stop a sweep, and what a let-down: of the latter nothing but an operator. */
static void test_halt(void)
{
    static const struct { bool unsure, raised, latched; enum vlad_reaction reaction; bool ends; } row[] = {
        { false, false, false, VLAD_NONE, false },
        { false, false, false, VLAD_HOLD, false }, /* the fault was there when it was asked for */
        { false, true, false, VLAD_HOLD, true },   /* one more */
        { false, false, true, VLAD_HOLD, true },
        { false, true, true, VLAD_PARK, false },   /* which it does already */
        { true, false, false, VLAD_HOLD, true },
        { true, false, false, VLAD_PARK, true },
        { false, true, false, VLAD_SLOW, false },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++)
        for (int easing = 0; easing < 2; easing++) {
            given(VLAD_STOPPING);
            rig.parking = !easing;
            rig.easing_since_ns = easing ? NOW_NS - 5 : 0;
            rig.halting = row[i].unsure ? ASTRAY : FAULT;
            rig.raised = row[i].raised;
            rig.watchdog.latched = row[i].latched ? FAULT : 0;
            decide(0, row[i].reaction);
            CHECK_EQ(rig.mode, VLAD_STOPPING);
            CHECK_EQ(rig.parking, !easing && !row[i].ends);
            CHECK_EQ(rig.easing_since_ns, easing ? NOW_NS - 5 : 0);
            CHECK_EQ(told.let_down, 0);
        }
}

/* Each fault of `UNSURE` ends a sweep by itself, and no other does that was there before. */
static void test_which_faults_make_the_arm_unsure(void)
{
    static const enum vlad_fault unsure[] = {
        VLAD_F_FOLLOWING_ERROR, VLAD_F_SERIAL_UNPLUGGED, VLAD_F_SHORT_WRITE, VLAD_F_REPLY_CORRUPT,
        VLAD_F_BUS_GARBAGE, VLAD_F_SERVO_SILENT, VLAD_F_SERVO_ENCODER, VLAD_F_SERVO_SUPPLY_LOST,
    };

    for (unsigned f = 1; f <= VLAD_N_FAULTS; f++) {
        bool expected = false;

        for (unsigned i = 0; i < sizeof unsure / sizeof *unsure; i++)
            expected |= f == unsure[i];
        given(VLAD_STOPPING);
        rig.parking = true;
        rig.halting = BIT(f);
        decide(0, VLAD_HOLD);
        CHECK_EQ(rig.parking, !expected);
    }
}

/* A cleared fault ends FAULTED in the mode that the arm is in, and each is told; one whose condition
 * holds stays latched. */
static void test_clear(void)
{
    for (int still = 0; still < 2; still++)
        for (int place = 0; place < 3; place++) { /* offline, limp, held */
            given(place ? VLAD_FAULTED : VLAD_OFFLINE);
            rig.mode = VLAD_FAULTED;
            rig.torque_on = rig.torque_wanted = place == 2;
            rig.watchdog.latched = 0;
            latch(VLAD_F_SERVO_SILENT);
            latch(VLAD_F_INFERENCE_HUNG);
            rig.watchdog.state[VLAD_F_INFERENCE_HUNG].active = still;
            decide(0, VLAD_HOLD);
            CHECK_EQ(rig.mode, VLAD_FAULTED);
            CHECK_EQ(told.unlatched, 0);
            CHECK(!rig.resumable);
            rig.resumable = true;
            decide(VLAD_REQ_CLEAR, VLAD_HOLD);
            CHECK_EQ(told.unlatched,
                     1 << VLAD_F_SERVO_SILENT | (still ? 0 : 1 << VLAD_F_INFERENCE_HUNG));
            CHECK_EQ(rig.mode, still        ? VLAD_FAULTED
                               : place == 0 ? VLAD_OFFLINE
                               : place == 1 ? VLAD_READY
                                            : VLAD_HOLDING);
            CHECK_EQ(rig.resumable, !still && place);
            check_refused(0, 0);
        }
}

/* A latched fault is FAULTED as soon as nothing moves. A servo that was away may have lost its torque: then
 * the bus is opened anew. */
static void test_latched(void)
{
    for (enum vlad_mode mode = VLAD_OFFLINE; mode < VLAD_N_MODES; mode++)
        for (int returned = 0; returned < 2; returned++)
            for (int latched = 0; latched < 2; latched++) {
                bool moves = mode == VLAD_ENGAGED || mode == VLAD_STOPPING;
                enum vlad_mode expected = mode == VLAD_FAULTED ? VLAD_HOLDING : mode;

                given(mode);
                rig.watchdog.latched = latched ? FAULT : 0;
                rig.returned = returned;
                decide(0, latched ? VLAD_HOLD : VLAD_NONE);
                if (latched)
                    expected = moves ? VLAD_STOPPING
                               : returned && mode != VLAD_OFFLINE ? VLAD_OFFLINE : VLAD_FAULTED;
                CHECK_EQ(rig.mode, expected);
                CHECK_EQ(rig.ops != NULL, mode != VLAD_OFFLINE && expected != VLAD_OFFLINE);
                CHECK_EQ(rig.resumable, !latched && mode != VLAD_OFFLINE);
            }
}

/* --- PARK. --- */

/* How the arm is parked, if it is. */
enum parked { NOT, SWEPT, EASED };

static enum parked parked(void)
{
    CHECK_EQ(told.let_down, rig.easing_since_ns != 0);
    CHECK_EQ(rig.now.counters.let_down, told.let_down);
    CHECK(!(rig.parking && rig.easing_since_ns));
    return rig.parking ? SWEPT : rig.easing_since_ns ? EASED : NOT;
}

/* An operator's park, in every mode: a sweep, or a refusal; never a let-down. */
static void test_park_asked(void)
{
    for (enum vlad_mode mode = VLAD_OFFLINE; mode < VLAD_N_MODES; mode++) {
        bool granted = mode > VLAD_READY;

        given(mode);
        rig.commanded = false;
        rig.park_inhibited = true;
        rig.watchdog.latched = 0;
        decide(VLAD_REQ_PARK, VLAD_NONE);
        check_refused(granted ? 0 : VLAD_REQ_PARK, mode == VLAD_OFFLINE ? VLAD_WHY_BUS : 0);
        CHECK_EQ(parked(), granted ? SWEPT : NOT);
        CHECK_EQ(rig.commanded, granted);
        CHECK(!rig.park_inhibited);
    }
}

/* Why an operator's park is refused. */
static void test_park_refused(void)
{
    static const struct {
        bool rest, wanted, easing, raised, latched;
        uint32_t refusals;
        uint64_t halting;
        enum vlad_reaction reaction;
        enum parked parked;
        uint64_t why;
    } row[] = {
        { true, true, false, false, false, 0, 0, VLAD_NONE, SWEPT, 0 },
        { true, true, false, false, false, VLAD_WHY_CAMERA, FAULT, VLAD_HOLD, SWEPT, 0 },
        { false, true, false, false, false, 0, 0, VLAD_NONE, NOT, 0 }, /* where to? */
        { true, false, false, false, false, 0, 0, VLAD_NONE, NOT, 0 }, /* torque off is on its way */
        { true, true, true, false, false, 0, 0, VLAD_NONE, EASED, VLAD_WHY_MOVING },
        { true, true, true, false, false, VLAD_WHY_CALIBRATION, 0, VLAD_NONE, EASED,
          VLAD_WHY_MOVING | VLAD_WHY_CALIBRATION },
        { true, true, false, false, false, VLAD_WHY_CALIBRATION | VLAD_WHY_TOO_SLOW, 0, VLAD_NONE, NOT,
          VLAD_WHY_CALIBRATION },
        { true, true, false, true, false, 0, FAULT, VLAD_HOLD, NOT, VLAD_WHY_FAULT },
        { true, true, false, false, true, 0, FAULT, VLAD_HOLD, NOT, VLAD_WHY_LATCHED },
        { true, true, false, true, true, 0, FAULT, VLAD_PARK, SWEPT, 0 }, /* what it demands */
        { true, true, false, false, false, 0, ASTRAY, VLAD_HOLD, NOT, VLAD_WHY_FAULT },
        { true, true, false, false, false, 0, ASTRAY, VLAD_PARK, NOT, VLAD_WHY_FAULT },
        { true, true, false, false, true, VLAD_WHY_CALIBRATION, ASTRAY, VLAD_PARK, NOT,
          VLAD_WHY_CALIBRATION | VLAD_WHY_LATCHED },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        given(VLAD_STOPPING);
        rig.config.has_rest_pose = row[i].rest;
        rig.torque_wanted = row[i].wanted;
        rig.easing_since_ns = row[i].easing ? NOW_NS - 5 : 0;
        rig.now.counters.let_down = 0;
        rig.raised = row[i].raised;
        rig.watchdog.latched = row[i].latched ? FAULT : 0;
        rig.taken.refusals = row[i].refusals;
        rig.halting = row[i].halting;
        decide(VLAD_REQ_PARK, row[i].reaction);
        check_refused(row[i].parked == SWEPT ? 0 : VLAD_REQ_PARK, row[i].why);
        CHECK_EQ(rig.parking, row[i].parked == SWEPT);
        CHECK_EQ(rig.easing_since_ns, row[i].parked == EASED ? NOW_NS - 5 : 0);
        CHECK_EQ(told.let_down, 0);
        CHECK_EQ(rig.mode, VLAD_STOPPING);
    }
    given(VLAD_OFFLINE);
    rig.taken.refusals = VLAD_WHY_CALIBRATION;
    decide(VLAD_REQ_PARK, VLAD_NONE);
    check_refused(VLAD_REQ_PARK, VLAD_WHY_BUS | VLAD_WHY_CALIBRATION);
}

static void demand(unsigned fault, enum vlad_reaction level, int64_t level_ns)
{
    rig.watchdog.state[fault] = (struct vlad_fault_state){
        .active = true, .level = level, .level_ns = level_ns, .last_true_ns = NOW_NS };
    rig.watchdog.active |= BIT(fault);
}

/* A fault's PARK: where it may not sweep the torque fades, where nothing is held it does nothing. */
static void test_park_demanded(void)
{
    static const struct {
        const char *given;
        bool rest, commanded, inhibited, unsure, calibration, torque;
        enum vlad_mode mode;
        enum parked parked;
    } row[] = {
        { "held, and engaged before", true, true, false, false, false, true, VLAD_HOLDING, SWEPT },
        { "no rest pose", false, true, false, false, false, true, VLAD_HOLDING, EASED },
        { "nobody has engaged", true, false, false, false, false, true, VLAD_HOLDING, EASED },
        { "an operator said hold", true, true, true, false, false, true, VLAD_HOLDING, NOT },
        { "not where it says", true, true, false, true, false, true, VLAD_HOLDING, EASED },
        { "another calibration", true, true, false, false, true, true, VLAD_HOLDING, EASED },
        { "still braking", true, true, false, false, false, true, VLAD_STOPPING, NOT },
        { "limp", true, true, false, false, false, false, VLAD_READY, NOT },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        given(row[i].mode);
        rig.config.has_rest_pose = row[i].rest;
        rig.commanded = row[i].commanded;
        rig.park_inhibited = row[i].inhibited;
        rig.halting = row[i].unsure ? ASTRAY : BIT(VLAD_F_SERVO_OVER_TEMPERATURE);
        rig.taken.refusals = row[i].calibration ? VLAD_WHY_CALIBRATION : VLAD_WHY_CAMERA;
        demand(VLAD_F_SERVO_OVER_TEMPERATURE, VLAD_PARK, NOW_NS);
        decide(0, VLAD_PARK);
        CHECK_EQ(parked(), row[i].parked);
        CHECK_EQ(rig.easing_since_ns, row[i].parked == EASED ? NOW_NS : 0);
        CHECK_EQ(rig.mode, row[i].parked == NOT ? row[i].mode : VLAD_STOPPING);
        CHECK_EQ(rig.commanded, row[i].commanded);
        check_refused(0, 0);
        if (row[i].parked == NOT)
            continue;
        rig.taken.refusals = VLAD_WHY_CALIBRATION; /* begun once, it goes on as it began */
        decide(0, VLAD_PARK);
        CHECK_EQ(told.let_down, 0);
        CHECK_EQ(rig.parking, row[i].parked == SWEPT);
        CHECK_EQ(rig.easing_since_ns, row[i].parked == EASED ? NOW_NS : 0);
    }
}

/* What a fault demands it must demand in this tick, unless it is latched. */
static void test_which_faults_demand(void)
{
    for (unsigned f = 1; f <= VLAD_N_FAULTS; f++)
        for (int latched = 0; latched < 2; latched++)
            for (int now = 0; now < 2; now++)
                for (enum vlad_reaction level = VLAD_HOLD; level <= VLAD_LIMP; level++) {
                    enum vlad_reaction row = vlad_fault_rows[f].reaction;
                    bool parks = latched ? row == VLAD_PARK : level == VLAD_PARK && now;

                    given(VLAD_HOLDING);
                    demand(f, level, NOW_NS - !now);
                    if (latched)
                        latch(f);
                    rig.halting = 0;
                    decide(0, VLAD_PARK);
                    CHECK_EQ(parked(), parks ? SWEPT : NOT);
                }
}

/* Torque that this loop did not give fades as well; what it has just taken or is about to take, or is not
 * read in this tick, it does not look for. */
static void test_park_where_some_joints_hold(void)
{
    for (int except = 0; except < 5; except++) {
        given(VLAD_READY);
        rig.now.arm.powered = 2;
        if (except == 1)
            rig.now.arm.powered = 0;
        if (except == 2)
            rig.now.arm.answered = ALL & ~2u;
        if (except == 3)
            rig.torque_repeats = 1;
        if (except == 4)
            rig.torque_wanted = true;
        demand(VLAD_F_SERVO_OVER_TEMPERATURE, VLAD_PARK, NOW_NS);
        decide(0, VLAD_PARK);
        CHECK_EQ(parked(), except ? NOT : EASED);
        CHECK_EQ(rig.mode, except ? VLAD_READY : VLAD_STOPPING);
    }
    given(VLAD_READY); /* torque off has not gone out: it will, and no faster way is known */
    rig.torque_on = true;
    rig.now.arm.powered = ALL;
    demand(VLAD_F_SERVO_OVER_TEMPERATURE, VLAD_PARK, NOW_NS);
    decide(0, VLAD_PARK);
    CHECK_EQ(parked(), NOT);
    given(VLAD_READY); /* nor is there anything without a bus */
    rig.torque_on = rig.torque_wanted = true;
    rig.ops = NULL;
    demand(VLAD_F_SERVO_OVER_TEMPERATURE, VLAD_PARK, NOW_NS);
    decide(0, VLAD_PARK);
    CHECK_EQ(parked(), NOT);
    CHECK_EQ(rig.mode, VLAD_READY);
}

/* An operator's hold keeps faults from parking until a clear has left nothing latched, or he parks. */
static void test_what_ends_the_inhibition(void)
{
    static const struct { uint32_t requests; bool latched, active, ends; } row[] = {
        { 0, false, false, false },
        { VLAD_REQ_CLEAR, false, false, true },
        { VLAD_REQ_CLEAR, true, false, true },
        { VLAD_REQ_CLEAR, true, true, false },
        { VLAD_REQ_PARK, false, false, true },
        { VLAD_REQ_CLEAR | VLAD_REQ_HOLD, false, false, true },
    };

    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        given(VLAD_HOLDING);
        rig.park_inhibited = true;
        if (row[i].latched)
            latch(VLAD_F_SERVO_OVER_TEMPERATURE);
        rig.watchdog.state[VLAD_F_SERVO_OVER_TEMPERATURE].active = row[i].active;
        decide(row[i].requests, VLAD_NONE);
        CHECK_EQ(rig.park_inhibited, !row[i].ends);
    }
}

int main(void)
{
    test_engage_takes_up_a_sagged_joint();
    test_taking_up_follows_no_joint_down();
    test_engage_where_some_joints_hold();
    test_taking_up_waits_for_the_servo();
    test_taking_up_waits_for_the_limit();
    test_a_misread_limit_moves_no_goal();
    test_no_cold_start_while_taking_up();
    test_engage_takes_up_what_the_register_shows();
    test_every_word_of_requests();
    test_every_reaction();
    test_why_not();
    test_engage_and_resume();
    test_power_takes_the_pose();
    test_limits_when_engaging();
    test_limits_go_down();
    test_limp();
    test_hold();
    test_halt();
    test_which_faults_make_the_arm_unsure();
    test_clear();
    test_latched();
    test_park_asked();
    test_park_refused();
    test_park_demanded();
    test_which_faults_demand();
    test_park_where_some_joints_hold();
    test_what_ends_the_inhibition();
    CHECK_DONE();
}
