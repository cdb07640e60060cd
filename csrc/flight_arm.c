/* The arm between the loop and its arm: see flight.h. */
#include <string.h> /* memcpy */

#include "flight.h"

static void note_reading(struct vlad_flight_tick *tick, const struct vlad_arm_state *state)
{
    tick->read_t_ns[0] = state->t_ns;
    tick->answered[0] = state->answered;
    tick->corrupt[0] = state->corrupt;
    memcpy(tick->position_nu, state->position_nu, sizeof tick->position_nu);
    memcpy(tick->velocity_nu_s, state->velocity_nu_s, sizeof tick->velocity_nu_s);
    memcpy(tick->load_permille, state->load_permille, sizeof tick->load_permille);
    memcpy(tick->voltage_mv, state->voltage_mv, sizeof tick->voltage_mv);
    memcpy(tick->temperature_c, state->temperature_c, sizeof tick->temperature_c);
    memcpy(tick->status, state->status, sizeof tick->status);
    memcpy(tick->register_nu, state->goal_nu, sizeof tick->register_nu);
    memcpy(tick->limit_permille, state->limit_permille, sizeof tick->limit_permille);
    tick->has_torque[0] = state->powered;
    tick->limited[0] = state->limited;
}

static int read_arm(void *ctx, int64_t deadline_ns, struct vlad_arm_state *state)
{
    struct vlad_flight *flight = ctx;

    flight->tick.read_rc[0] = flight->ops->read(flight->arm, deadline_ns, state);
    note_reading(&flight->tick, state);
    return flight->tick.read_rc[0];
}

static int write_arm(void *ctx, int64_t deadline_ns, const int64_t *goal_nu)
{
    struct vlad_flight *flight = ctx;

    flight->tick.wrote[0] = 1;
    memcpy(flight->tick.sent_nu, goal_nu, sizeof flight->tick.sent_nu);
    flight->tick.write_rc[0] = flight->ops->write(flight->arm, deadline_ns, goal_nu);
    return flight->tick.write_rc[0];
}

static int torque_arm(void *ctx, int64_t deadline_ns, uint32_t mask, bool on,
                      const int64_t *goal_nu)
{
    struct vlad_flight *flight = ctx;

    flight->tick.powered[0] = 1;
    flight->tick.power_on[0] = on;
    flight->tick.power_mask[0] = mask;
    memcpy(flight->tick.sent_nu, goal_nu, sizeof flight->tick.sent_nu);
    flight->tick.torque_rc[0] = flight->ops->torque(flight->arm, deadline_ns, mask, on, goal_nu);
    return flight->tick.torque_rc[0];
}

static int limit_arm(void *ctx, int64_t deadline_ns, uint32_t mask, const int32_t *permille)
{
    struct vlad_flight *flight = ctx;

    flight->tick.limit_mask[0] = mask;
    memcpy(flight->tick.sent_limit, permille, sizeof flight->tick.sent_limit);
    flight->tick.limit_rc[0] = flight->ops->limit(flight->arm, deadline_ns, mask, permille);
    return flight->tick.limit_rc[0];
}

static int64_t now_arm(void *ctx)
{
    struct vlad_flight *flight = ctx;
    int64_t now_ns = flight->ops->now_ns(flight->arm);

    if (flight->n_clocks < VLAD_FLIGHT_CLOCKS)
        flight->tick.clock_ns[flight->n_clocks++] = now_ns;
    return now_ns;
}

const struct vlad_arm_ops vlad_flight_arm_ops = {
    .read = read_arm, .write = write_arm, .torque = torque_arm, .limit = limit_arm,
    .now_ns = now_arm
};

_Static_assert(sizeof vlad_flight_arm_ops == 5 * sizeof(void (*)(void)),
               "an operation of the arm that is not recorded cannot be replayed");
