/* Calls what runs often on the board, each between count_begin() and count_end(), for who counts the instructions
 * (tests/aarch64/count_plugin.c). Prints, in the same order, what was called and how many times. Everything is seeded
 * and in simulated time: the same binary executes the same instructions. */
#define JOINTS 6
#include "feetech.h"
#include "frame.h"
#include "json_verb.h"
#include "random.h"
#include "servo_rig.h"

#include "../fused/fused.h"

void count_begin(void);
void count_end(void);
__attribute__((noinline)) void count_begin(void) { __asm__ volatile(""); }
__attribute__((noinline)) void count_end(void) { __asm__ volatile(""); }

#define COUNT(name, times, call)              \
    do {                                      \
        count_begin();                        \
        for (int time = 0; time < (times); time++) \
            call;                             \
        count_end();                          \
        printf("%s %d\n", name, times);       \
    } while (0)

static void tick(void)
{
    arm.memory.now_ns += TICK;
    vlad_servo_tick(&rig, arm.memory.now_ns, 0);
}

/* A loop whose arm judges nothing: the instructions are the loop's. */
static void plain(void)
{
    int64_t pose_nu[JOINTS];

    memcpy(pose_nu, rig.written_nu, sizeof pose_nu);
    CHECK_EQ(vlad_servo_adopt(&rig, &vlad_memory_arm_ops, &arm.memory, true, pose_nu), 0);
    vlad_servo_simulate(&rig, &arm.memory, rig.now.t_ns + 2 * TICK);
    vlad_servo_request(&rig, VLAD_REQ_ENGAGE);
    vlad_servo_simulate(&rig, &arm.memory, rig.now.t_ns + 5 * TICK);
    vlad_servo_read(&rig, &seen);
    CHECK_EQ(seen.mode, VLAD_ENGAGED);
}

static void count_servo(void)
{
    static int64_t gated_nu[CHUNK][VLAD_MAX_JOINTS];
    static double actions[CHUNK][JOINTS];
    struct vlad_servo_config config = rig_config();
    struct vlad_gate_report report;
    struct vlad_command command;
    struct vlad_chunk chunk = {.n_actions = CHUNK, .n_joints = JOINTS, .actions = &actions[0][0]};

    begin_moving();
    plain();
    COUNT("servo tick, engaged, nothing to do", 100, tick());
    CHECK_EQ(push_curve(rig.now.t_ns, 0, true), VLAD_ACCEPTED);
    for (int i = 0; i < 20; i++)
        tick();
    vlad_servo_read(&rig, &seen);
    CHECK(!seen.at_rest);
    COUNT("servo tick, arm in motion", 50, tick());
    vlad_servo_command(&rig, &command);
    chunk.epoch = command.epoch;
    chunk.t_obs_ns = (rig.now.t_ns - 100 * MS) / ACTION * ACTION;
    for (int i = 0; i < CHUNK; i++)
        for (int j = 0; j < JOINTS; j++)
            actions[i][j] = curve(chunk.t_obs_ns + i * ACTION, j);
    vlad_gate_report_clear(&report);
    COUNT("gate, a chunk of 50 actions of 6 joints", 1,
          CHECK(vlad_gate_chunk(&config.gate, &chunk, gated_nu, &report)));
    COUNT("push of such a chunk: gate, merge, gate, publish", 1,
          vlad_servo_push(&rig, &chunk, rig.now.t_ns, &report));
    CHECK_EQ(report.verdict, VLAD_ACCEPTED);
}

static void count_wire(void)
{
    static const uint8_t ids[6] = {1, 2, 3, 4, 5, 6};
    static const char line[] = "{\"v\":1,\"id\":17,\"verb\":\"hold\",\"args\":{\"why\":\"operator\"}}";
    struct vlad_feetech_parser parser = {.n = 0};
    struct vlad_feetech_reply reply;
    struct vlad_feetech_scale scale;
    struct vlad_line read;
    uint8_t frame[64], replies[6][23];
    int32_t ticks_out = 0;
    int length = 0;

    CHECK_EQ(vlad_feetech_scale_body(&scale, 800, 3300, -1), 0);
    COUNT("position to ticks", 100, vlad_feetech_nu_to_ticks(&scale, time * 7 * MILLI, &ticks_out));
    COUNT("packet of 6 goals", 10, length = vlad_feetech_sync_write(frame, sizeof frame, ids, 6, 42, frame + 20, 2));
    CHECK(length > 0 && ticks_out > 0);
    for (int i = 0; i < 6; i++) { /* what a servo answers to a read of 15 registers */
        uint8_t sum = 0;

        memset(replies[i], i * 9, sizeof replies[i]);
        memcpy(replies[i], (const uint8_t[]){0xff, 0xff, (uint8_t)(i + 1), 17, 0}, 5);
        for (int j = 2; j < 20; j++)
            sum = (uint8_t)(sum + replies[i][j]);
        replies[i][20] = (uint8_t)~sum;
    }
    vlad_feetech_parser_reset(&parser, 15);
    COUNT("reply of a servo", 6, {
        int at = 0;

        while (at < 21)
            at += vlad_feetech_parser_take(&parser, replies[time] + at, 21 - at);
        CHECK(vlad_feetech_parser_next(&parser, &reply) && reply.id == time + 1);
    });
    COUNT("a line of the control socket", 1, CHECK_EQ(vlad_json_verb(line, sizeof line - 1, &read), 0));
}

static void count_frame(void)
{
    static uint8_t yuyv[640 * 16 * 2], rgb[640 * 16 * 3];

    for (size_t i = 0; i < sizeof yuyv; i++)
        yuyv[i] = (uint8_t)random_u64();
    COUNT("16 rows of 640 pixels, YUYV to RGB", 1,
          vlad_frame_yuyv_to_rgb(yuyv, 1280, 640, 16, VLAD_BT601_LIMITED, rgb));
}

static void one_after_the_other(void *self, void (*task)(void *, size_t), size_t count, void *data)
{
    (void)self;
    for (size_t i = 0; i < count; i++)
        task(data, i);
}

static float *floats(size_t count)
{
    float *made = aligned_alloc(64, (count * sizeof *made + 63) / 64 * 64);

    CHECK(made);
    for (size_t i = 0; i < count; i++)
        made[i] = (float)random_in(-1000, 1000) / 1000;
    return made;
}

/* Sizes of SmolVLA's action expert: 50 actions, 720 wide; 15 query and 5 key heads of 64; 241 tokens of context. */
static void count_fused(void)
{
    static const struct vlad_pool pool = {one_after_the_other, NULL};
    const struct vlad_kernels *kernels = vlad_kernels();
    struct vlad_linear linear = {
        .x = {floats(50 * 720), false}, .y = {floats(50 * 256), false}, .w = (const uint16_t *)floats(368 * 256),
        .bias = floats(256), .m = 50, .n = 256, .k = 720,
    };
    struct vlad_attention attention = {
        .q = {floats(50 * 960), false}, .k = {floats(241 * 320), false}, .v = {floats(241 * 320), false},
        .y = {floats(50 * 960), false}, .n = 50, .s = 241, .heads = 15, .kv_heads = 5, .head_dim = 64,
    };
    struct vlad_norm norm = {
        .x = linear.x.data, .weight = floats(720), .bias = floats(720), .y = (uint16_t *)floats(50 * 360), .n = 50,
        .width = 720, .epsilon = 1e-5f,
    };

    struct vlad_linear8 linear8 = {
        .x = linear.x.data, .w = (const int8_t *)floats(720 * 64), .scale = linear.bias, .bias = linear.bias,
        .y = linear.y.data, .m = 50, .n = 256, .k = 720,
    };

    CHECK(kernels && kernels->linear8);
    COUNT("Linear [50, 720] x [720, 256]", 1, CHECK(kernels->linear(&linear, &pool)));
    linear.activation = VLAD_ACTIVATION_GELU_TANH;
    COUNT("LinearGelu [50, 720] x [720, 256]", 1, CHECK(kernels->linear(&linear, &pool)));
    linear.m = 1;
    linear.activation = VLAD_ACTIVATION_NONE;
    COUNT("Linear [1, 720] x [720, 256]", 1, CHECK(kernels->linear(&linear, &pool)));
    COUNT("LinearToken8 [50, 720] x [720, 256]", 1, CHECK(kernels->linear8(&linear8, &pool)));
    COUNT("AttentionBfloat16, 50 queries, 241 keys", 1, CHECK(kernels->attention(&attention, &pool)));
    COUNT("LayerNormRounded [50, 720]", 1, CHECK(kernels->norm(&norm, &pool)));
    COUNT("Rope [50, 15 heads of 64]", 1,
          vlad_rope(attention.q.data, attention.k.data, attention.v.data, attention.y.data, 50, 15, 32));
}

int main(void)
{
    count_servo();
    count_wire();
    count_frame();
    count_fused();
    return 0;
}
