/* Authority: from requests and reactions to a mode, and why engaging is refused. */
#include "servo_parts.h"

#define TORQUE_OFF_REPEATS 3  /* unacknowledged; torque on is read back by the arm */
/* With one of these the arm may not be where it says, or not go where it is told: it is not swept
 * anywhere. */
#define UNSURE                                                                                   \
    (BIT(VLAD_F_FOLLOWING_ERROR) | BIT(VLAD_F_SERIAL_UNPLUGGED) | BIT(VLAD_F_SHORT_WRITE) |      \
     BIT(VLAD_F_REPLY_CORRUPT) | BIT(VLAD_F_BUS_GARBAGE) | BIT(VLAD_F_SERVO_SILENT) |            \
     BIT(VLAD_F_SERVO_ENCODER) | BIT(VLAD_F_SERVO_SUPPLY_LOST))

static bool outside(const struct vlad_servo *servo, int j, int64_t nu)
{
    const struct vlad_joint_limits *joint = &servo->config.gate.limits.joint[j];
    int64_t slack = (joint->max_nu - joint->min_nu) / 1000 * servo->config.gate.clamp_permille;

    return nu < joint->min_nu - slack || nu > joint->max_nu + slack;
}

/* Whether the command, or what would be it, is beyond the limits; or a joint that would be pulled back to
 * them, because it gets torque or more torque. */
static bool beyond_limits(const struct vlad_servo *servo)
{
    const struct vlad_arm_state *arm = &servo->now.arm;

    for (int j = 0; j < servo->config.gate.limits.n_joints; j++) {
        int64_t command_nu = servo->torque_on         ? servo->written_nu[j]
                             : arm->powered >> j & 1 ? arm->goal_nu[j]
                                                      : arm->position_nu[j];

        if (outside(servo, j, command_nu))
            return true;
        if ((!servo->torque_on || servo->now.limit_permille[j] < 1000) &&
            outside(servo, j, arm->position_nu[j]))
            return true;
    }
    return false;
}

uint64_t vlad_servo_why_not(struct vlad_servo *servo, enum vlad_reaction reaction)
{
    int n = servo->config.gate.limits.n_joints;
    uint64_t why = servo->taken.refusals;

    if (!servo->ops || servo->seen_joints != (1u << n) - 1)
        why |= VLAD_WHY_BUS;
    else if (beyond_limits(servo))
        why |= VLAD_WHY_LIMITS;
    if (servo->watchdog.latched)
        why |= VLAD_WHY_LATCHED;
    else if (reaction >= VLAD_HOLD)
        why |= VLAD_WHY_FAULT;
    if (!servo->config.allow_non_realtime && !servo->taken.realtime)
        why |= VLAD_WHY_REALTIME;
    if (servo->mode == VLAD_STOPPING || (servo->torque_on && !servo->torque_wanted))
        why |= VLAD_WHY_MOVING; /* until torque off has gone out nobody knows what they hold */
    return why;
}

void vlad_servo_set_torque(struct vlad_servo *servo, bool on)
{
    servo->torque_wanted = on;
    servo->torque_repeats = on ? 1 : TORQUE_OFF_REPEATS;
    servo->torque_tries = 0;
    vlad_servo_emit(servo, VLAD_EV_TORQUE, (1 << servo->config.gate.limits.n_joints) - 1, on, 0);
}

void vlad_servo_limit(struct vlad_servo *servo, uint32_t mask, int32_t permille)
{
    for (int j = 0; j < servo->config.gate.limits.n_joints; j++)
        if (mask >> j & 1 && permille < servo->now.limit_permille[j]) {
            servo->now.limit_permille[j] = permille;
            servo->limits_due |= 1u << j;
        }
}

/* Engaging ends every torque limit. A joint that has torque already would be pulled from where it sagged
 * to, to its goal: it keeps the limit that its register shows until servo_wire.c has taken it up. */
static void restore_limits(struct vlad_servo *servo)
{
    const struct vlad_arm_state *arm = &servo->now.arm;
    int n = servo->config.gate.limits.n_joints;

    for (int j = 0; j < n; j++)
        if ((arm->powered | ~arm->answered) >> j & 1)
            vlad_servo_limit(servo, 1u << j, arm->limit_permille[j]);
        else
            servo->now.limit_permille[j] = 1000;
    servo->limits_due = (1u << n) - 1;
    servo->limit_tries = 0;
}

static void refuse(struct vlad_servo *servo, uint32_t request, uint64_t why)
{
    servo->now.counters.refused_requests++;
    vlad_servo_emit(servo, VLAD_EV_REFUSED, request, (int64_t)why, 0);
}

void vlad_servo_take_pose(struct vlad_servo *servo)
{
    const struct vlad_arm_state *arm = &servo->now.arm;

    for (int j = 0; j < servo->config.gate.limits.n_joints; j++)
        servo->written_nu[j] = arm->powered >> j & 1 ? arm->goal_nu[j] : arm->position_nu[j];
    vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
    servo->retry = false; /* whatever was to go out again is older than this pose */
}

/* From READY not every joint is held yet: their pose becomes the command, then torque. */
static void take_hold(struct vlad_servo *servo)
{
    if (servo->torque_on)
        return;
    vlad_servo_take_pose(servo);
    vlad_servo_set_torque(servo, true);
}

static void engage(struct vlad_servo *servo, uint32_t request, enum vlad_reaction reaction)
{
    uint64_t why = vlad_servo_why_not(servo, reaction);
    bool from_here = servo->mode == VLAD_HOLDING ||
                     (servo->mode == VLAD_READY && request == VLAD_REQ_ENGAGE);

    if (request == VLAD_REQ_RESUME && !servo->resumable)
        from_here = false;

    if (servo->mode == VLAD_ENGAGED)
        return;
    if (why || !from_here) {
        refuse(servo, request, why);
        return;
    }
    take_hold(servo);
    restore_limits(servo);
    servo->commanded = servo->resumable = true;
    servo->park_inhibited = false;
    servo->yielding = 0;
    servo->now.epoch++;
    servo->now.counters.engagements++;
    servo->read_at_ns = INT64_MIN;
    atomic_store_explicit(&servo->starve_cause, VLAD_STARVE_COLD, memory_order_relaxed);
    servo->taken.starve_cause = VLAD_STARVE_COLD;
    vlad_servo_enter(servo, VLAD_ENGAGED);
}

static void limp(struct vlad_servo *servo)
{
    if (!servo->ops) {
        refuse(servo, VLAD_REQ_LIMP, VLAD_WHY_BUS);
        return;
    }
    /* Whatever the loop believes: some joints may have had torque when adopted. */
    vlad_servo_set_torque(servo, false);
    servo->parking = false;
    servo->easing_since_ns = 0;
    vlad_trajectory_reset(&servo->trajectory, servo->written_nu);
    vlad_servo_enter(servo, servo->watchdog.latched ? VLAD_FAULTED : VLAD_READY);
}

static bool moving_mode(const struct vlad_servo *servo)
{
    return servo->mode == VLAD_ENGAGED || servo->mode == VLAD_STOPPING;
}

void vlad_servo_halt(struct vlad_servo *servo)
{
    servo->parking = false;
    servo->easing_since_ns = 0; /* the torque limit stays where it is: raised, it would pull */
    if (moving_mode(servo))
        vlad_servo_enter(servo, VLAD_STOPPING);
}

/* Whether PARK may sweep the arm to the rest pose. No fault does so before an operator has set the
 * arm in motion on this bus, nor after he said hold: somebody may be at it. */
static bool may_sweep(const struct vlad_servo *servo, bool asked)
{
    return servo->config.has_rest_pose && (asked || servo->commanded) &&
           !(servo->halting & UNSURE) && !(servo->taken.refusals & VLAD_WHY_CALIBRATION);
}

/* Why an operator's PARK is refused; 0 = it is not. */
static uint64_t park_refusal(const struct vlad_servo *servo, enum vlad_reaction reaction)
{
    bool held = reaction == VLAD_HOLD && (servo->watchdog.latched || servo->raised);
    uint64_t why = servo->taken.refusals & VLAD_WHY_CALIBRATION; /* row 41: nobody knows where it is */

    if (!servo->ops)
        why |= VLAD_WHY_BUS;
    if (servo->easing_since_ns)
        why |= VLAD_WHY_MOVING;
    if (held || servo->halting & UNSURE)
        why |= servo->watchdog.latched ? VLAD_WHY_LATCHED : VLAD_WHY_FAULT;
    return why;
}

/* Whether some joints have torque that this loop did not give them: as found when it took the bus over. */
static bool found_holding(const struct vlad_servo *servo)
{
    return !servo->torque_on && !servo->torque_wanted && servo->torque_repeats == 0 &&
           servo->now.arm.powered & servo->now.arm.answered;
}

/* Whether a fault demands PARK still, and not only within its clear time: the arm's own current has
 * gone once it has stopped, and the voltage come back. */
static bool demanded(const struct vlad_servo *servo)
{
    const struct vlad_watchdog *watchdog = &servo->watchdog;

    for (unsigned f = 1; f <= VLAD_N_FAULTS; f++)
        if (vlad_watchdog_reaction(watchdog, f) == VLAD_PARK &&
            (watchdog->state[f].latched || watchdog->state[f].level_ns == servo->now.t_ns))
            return true;
    return false;
}

/* PARK: a sweep to the rest pose and torque off there; for a fault, where that may not be, the torque
 * fades within two seconds, because a hot motor that is merely held goes on heating. An operator's
 * hold ends either, until a clear has left nothing latched. */
static void park(struct vlad_servo *servo, uint32_t requests, enum vlad_reaction reaction)
{
    bool asked = requests & VLAD_REQ_PARK, holds = servo->torque_on && servo->torque_wanted;
    uint64_t why;

    if ((requests & VLAD_REQ_CLEAR && !servo->watchdog.latched) || asked)
        servo->park_inhibited = false;
    if (requests & VLAD_REQ_HOLD) {
        servo->commanded = false;
        servo->park_inhibited |= reaction == VLAD_PARK;
    }
    if (!asked && (reaction != VLAD_PARK || servo->park_inhibited || servo->parking ||
                   servo->easing_since_ns || !demanded(servo)))
        return;
    why = park_refusal(servo, reaction);
    if (asked && (why || !servo->config.has_rest_pose || !holds)) {
        refuse(servo, VLAD_REQ_PARK, why);
        return;
    }
    if (!servo->ops || !(holds || found_holding(servo)))
        return;
    if (servo->mode == VLAD_STOPPING && !servo->parking && !asked)
        return; /* a fault parks only once the arm has stopped */
    if (holds && may_sweep(servo, asked)) {
        servo->parking = servo->commanded = true;
    } else {
        servo->easing_since_ns = servo->now.t_ns;
        servo->now.counters.let_down++;
        vlad_servo_emit(servo, VLAD_EV_LET_DOWN, 0, 0, 0);
    }
    vlad_servo_enter(servo, VLAD_STOPPING);
}

/* Within one tick the lowest authority wins: the requests that a lower one overrules. */
static uint32_t overruled(uint32_t requests)
{
    const uint32_t drive = VLAD_REQ_RESUME | VLAD_REQ_ENGAGE;

    if (requests & (VLAD_REQ_LIMP | VLAD_REQ_HOLD))
        return requests & (VLAD_REQ_PARK | drive);
    return requests & VLAD_REQ_PARK ? requests & drive : 0;
}

/* Whether the arm must stop. An operator may park an arm that an unlatched fault holds, a lost
 * camera say; but the next fault ends that, as any latched one does. */
static bool must_halt(const struct vlad_servo *servo, enum vlad_reaction reaction)
{
    if (servo->easing_since_ns)
        return false; /* holding is over; only an operator's hold ends it */
    if (servo->parking)
        return servo->halting & UNSURE ||
               (reaction == VLAD_HOLD && (servo->raised || servo->watchdog.latched));
    return reaction >= VLAD_HOLD;
}

/* The faults of this tick have been told before: what is unlatched is told here. */
static void clear(struct vlad_servo *servo)
{
    uint64_t latched = servo->watchdog.latched;

    for (uint64_t gone = latched & ~vlad_watchdog_clear(&servo->watchdog); gone; gone &= gone - 1)
        vlad_servo_emit(servo, VLAD_EV_FAULT, __builtin_ctzll(gone), 0, VLAD_NONE);
}

/* Requests and reactions to a mode. */
void vlad_servo_decide(struct vlad_servo *servo, uint32_t requests, enum vlad_reaction reaction)
{
    uint32_t lost;

    if (reaction == VLAD_LIMP && servo->torque_wanted && servo->ops)
        requests |= VLAD_REQ_LIMP;
    lost = overruled(requests);
    if (lost)
        refuse(servo, lost, VLAD_WHY_MOVING);
    requests &= ~lost;
    if (requests & VLAD_REQ_CLEAR)
        clear(servo);
    if (requests & VLAD_REQ_LIMP) {
        limp(servo);
        return;
    }
    if (requests & VLAD_REQ_HOLD || must_halt(servo, reaction))
        vlad_servo_halt(servo);
    park(servo, requests, reaction);
    if (servo->mode == VLAD_FAULTED && !servo->watchdog.latched)
        vlad_servo_enter(servo, !servo->ops         ? VLAD_OFFLINE
                                : servo->torque_on ? VLAD_HOLDING
                                                   : VLAD_READY);
    if (servo->watchdog.latched && servo->mode != VLAD_FAULTED && !moving_mode(servo))
        vlad_servo_enter(servo, VLAD_FAULTED);
    if (servo->watchdog.latched || !servo->ops)
        servo->resumable = false; /* `clear`, then `engage` */
    if (servo->ops && servo->returned && servo->mode == VLAD_FAULTED)
        vlad_servo_release_bus(servo); /* one that was away may have lost power, so its torque */
    if (requests & VLAD_REQ_RESUME)
        engage(servo, VLAD_REQ_RESUME, reaction);
    else if (requests & VLAD_REQ_ENGAGE)
        engage(servo, VLAD_REQ_ENGAGE, reaction);
}
