/* The capture thread against a driver that errs in every way a test can think of. */
#include <pthread.h> /* the consumers */
#include <sched.h>   /* sched_yield */

#include "check.h"
#include "fake_camera.h"

#define WIDTH 16U
#define HEIGHT 8U
#define YUYV_BYTES (2 * WIDTH * HEIGHT)

static struct fake_camera fake;
static struct vlad_capture capture;

static struct vlad_capture_request request_of(uint32_t fourcc)
{
    return (struct vlad_capture_request){.path = "/dev/fake",
                                         .width = WIDTH,
                                         .height = HEIGHT,
                                         .fourcc = fourcc,
                                         .fps_milli = 30000,
                                         .n_buffers = VLAD_CAPTURE_MIN_BUFFERS,
                                         .cpu = -1};
}

static void begin(bool multi, uint32_t fourcc)
{
    struct vlad_capture_request request = request_of(fourcc);

    fake_init(&fake, multi);
    CHECK_EQ(vlad_capture_open(&capture, &request, &fake_ops, &fake), 0);
    CHECK_EQ(vlad_capture_start(&capture), 0);
}

static void end(void)
{
    CHECK_EQ(vlad_capture_close(&capture), 0);
    CHECK_EQ(atomic_load(&capture.state), VLAD_CAPTURE_CLOSED);
    CHECK(!fake.opened && !fake.streaming);
    CHECK_EQ(fake.mapped, 0);
}

static void good(unsigned char fill)
{
    CHECK(fake_deliver(&fake, fake_good(&fake), fill));
    fake_settle(&fake, &capture);
}

static uint64_t count_of(enum vlad_capture_counter counter)
{
    return vlad_capture_count(&capture, counter);
}

/* ---- opening ---- */

static void test_formats(void)
{
    const struct {
        bool multi;
        uint32_t fourcc, min_bytes[2];
    } rows[] = {
        {false, V4L2_PIX_FMT_MJPEG, {4, 0}},
        {false, V4L2_PIX_FMT_YUYV, {YUYV_BYTES, 0}},
        {false, V4L2_PIX_FMT_NV12, {WIDTH * HEIGHT * 3 / 2, 0}},
        {true, V4L2_PIX_FMT_MJPEG, {4, 0}},
        {true, V4L2_PIX_FMT_YUYV, {YUYV_BYTES, 0}},
        {true, V4L2_PIX_FMT_NV12, {WIDTH * HEIGHT * 3 / 2, 0}},
        {true, V4L2_PIX_FMT_NV12M, {WIDTH * HEIGHT, WIDTH * HEIGHT / 2}},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        begin(rows[i].multi, rows[i].fourcc);
        CHECK_EQ(capture.format.min_bytes[0], rows[i].min_bytes[0]);
        CHECK_EQ(capture.format.min_bytes[1], rows[i].min_bytes[1]);
        CHECK_EQ(capture.format.fps_milli, 30000);
        CHECK_EQ(strcmp(capture.card, "fake"), 0);
        CHECK_EQ(strlen(capture.bus_info), sizeof capture.bus_info - 1);
        good(9);
        CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 1);
        end();
    }
}

static void test_colour_range(void)
{
    const struct {
        uint32_t colorspace, encoding, quantization;
        enum vlad_yuv yuv;
    } rows[] = {
        {V4L2_COLORSPACE_SRGB, 0, 0, VLAD_BT601_LIMITED},
        {V4L2_COLORSPACE_SMPTE170M, 0, 0, VLAD_BT601_LIMITED},
        {V4L2_COLORSPACE_JPEG, 0, 0, VLAD_BT601_FULL},
        {V4L2_COLORSPACE_REC709, 0, 0, VLAD_BT709_LIMITED},
        {V4L2_COLORSPACE_SRGB, V4L2_YCBCR_ENC_709, V4L2_QUANTIZATION_FULL_RANGE, VLAD_BT709_FULL},
        {V4L2_COLORSPACE_REC709, V4L2_YCBCR_ENC_601, V4L2_QUANTIZATION_LIM_RANGE,
         VLAD_BT601_LIMITED},
    };
    struct vlad_capture_request request = request_of(V4L2_PIX_FMT_YUYV);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_init(&fake, false);
        fake.format.fmt.pix.colorspace = rows[i].colorspace;
        fake.format.fmt.pix.ycbcr_enc = rows[i].encoding;
        fake.format.fmt.pix.quantization = rows[i].quantization;
        CHECK_EQ(vlad_capture_open(&capture, &request, &fake_ops, &fake), 0);
        CHECK_EQ(capture.format.yuv, rows[i].yuv);
        end();
    }
}

/* Opens, expects `error` from `step`, and nothing left open. */
static void refused(const struct vlad_capture_request *request, int error, const char *step)
{
    CHECK_EQ(vlad_capture_open(&capture, request, &fake_ops, &fake), -error);
    CHECK_EQ(strcmp(capture.failed_in, step), 0);
    CHECK(!fake.opened);
    CHECK_EQ(fake.mapped, 0);
    CHECK_EQ(atomic_load(&capture.state), VLAD_CAPTURE_CLOSED);
    CHECK_EQ(vlad_capture_close(&capture), 0);
}

static void test_every_call_of_open_may_fail(void)
{
    const struct {
        unsigned long request;
        int error, after;
        const char *step;
    } rows[] = {
        {VIDIOC_QUERYCAP, ENOTTY, 0, "VIDIOC_QUERYCAP"},
        {VIDIOC_S_FMT, EBUSY, 0, "VIDIOC_S_FMT"},
        {VIDIOC_S_PARM, EIO, 0, "VIDIOC_S_PARM"},
        {VIDIOC_REQBUFS, ENOMEM, 0, "VIDIOC_REQBUFS"},
        {VIDIOC_QUERYBUF, EINVAL, 3, "VIDIOC_QUERYBUF"},
        {VIDIOC_QBUF, EIO, 2, "VIDIOC_QBUF"},
    };
    struct vlad_capture_request request = request_of(V4L2_PIX_FMT_MJPEG);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_init(&fake, i % 2 != 0);
        fake.fail_request = rows[i].request;
        fake.fail_errno = rows[i].error;
        fake.fail_after = rows[i].after;
        refused(&request, rows[i].error, rows[i].step);
    }
    fake_init(&fake, false);
    fake.open_errno = EACCES;
    refused(&request, EACCES, "open");
    fake_init(&fake, false);
    fake.mmap_errno = ENOMEM;
    refused(&request, ENOMEM, "mmap");
}

static void test_streamon_may_fail(void)
{
    struct vlad_capture_request request = request_of(V4L2_PIX_FMT_MJPEG);

    fake_init(&fake, false);
    fake.fail_request = VIDIOC_STREAMON; /* "not enough bandwidth for altsetting" */
    fake.fail_errno = ENOSPC;
    CHECK_EQ(vlad_capture_open(&capture, &request, &fake_ops, &fake), 0);
    CHECK_EQ(vlad_capture_start(&capture), -ENOSPC);
    CHECK_EQ(strcmp(capture.failed_in, "VIDIOC_STREAMON"), 0);
    end();

    fake_init(&fake, false);
    request.cpu = 1023; /* no such core */
    CHECK_EQ(vlad_capture_open(&capture, &request, &fake_ops, &fake), 0);
    CHECK(vlad_capture_start(&capture) < 0);
    CHECK_EQ(strcmp(capture.failed_in, "capture thread"), 0);
    CHECK(!fake.streaming);
    CHECK_EQ(vlad_capture_start(&capture), -EINVAL);
    end();
}

static void test_what_the_driver_offers_instead_is_refused(void)
{
    struct vlad_capture_request request = request_of(V4L2_PIX_FMT_YUYV);

    fake_init(&fake, false);
    fake.format.fmt.pix.width = 640;
    refused(&request, EINVAL, "format");
    CHECK_EQ(capture.format.width, 640);
    fake_init(&fake, false);
    fake.format.fmt.pix.height = 480;
    refused(&request, EINVAL, "format");
    fake_init(&fake, false);
    fake.format.fmt.pix.pixelformat = V4L2_PIX_FMT_UYVY;
    refused(&request, EINVAL, "format");
    fake_init(&fake, true);
    fake.format.fmt.pix_mp.num_planes = 2;
    refused(&request, EINVAL, "format");
    fake_init(&fake, false);
    fake.format.fmt.pix.field = V4L2_FIELD_INTERLACED;
    refused(&request, EINVAL, "field");
    fake_init(&fake, false);
    fake.format.fmt.pix.bytesperline = 2 * WIDTH - 1;
    refused(&request, EINVAL, "bytesperline");
    fake_init(&fake, false);
    fake.format.fmt.pix.bytesperline = UINT32_MAX;
    refused(&request, EINVAL, "bytesperline");
    fake_init(&fake, false);
    fake.fps_milli = 25000;
    refused(&request, ERANGE, "frame rate");
    CHECK_EQ(capture.format.fps_milli, 25000);
    fake_init(&fake, false);
    fake.n_buffers = VLAD_CAPTURE_MIN_BUFFERS - 1;
    refused(&request, ENOBUFS, "VIDIOC_REQBUFS");
    fake_init(&fake, false);
    fake.n_buffers = VLAD_CAPTURE_MAX_BUFFERS + 1;
    refused(&request, ENOBUFS, "VIDIOC_REQBUFS");
    fake_init(&fake, false);
    fake.plane_bytes = YUYV_BYTES - 1;
    refused(&request, EMSGSIZE, "buffer length");
    fake_init(&fake, false);
    fake.capabilities = V4L2_CAP_VIDEO_CAPTURE; /* read() only */
    refused(&request, ENOTSUP, "capabilities");
    fake_init(&fake, false);
    fake.capabilities = V4L2_CAP_STREAMING | V4L2_CAP_META_CAPTURE; /* UVC's second node */
    refused(&request, ENOTSUP, "capabilities");
}

static void test_what_cannot_be_asked_for(void)
{
    const struct vlad_capture_request ok = request_of(V4L2_PIX_FMT_YUYV);
    struct vlad_capture_request r[7] = {ok, ok, ok, ok, ok, ok, ok};

    r[0].width = 0;
    r[1].width = 15;
    r[2].height = 7;
    r[3].height = 8194;
    r[4].fourcc = V4L2_PIX_FMT_H264;
    r[5].n_buffers = VLAD_CAPTURE_MIN_BUFFERS - 1;
    r[6].n_buffers = VLAD_CAPTURE_MAX_BUFFERS + 1;
    for (size_t i = 0; i < sizeof r / sizeof *r; i++) {
        fake_init(&fake, false);
        refused(&r[i], EINVAL, "request");
    }
}

static void test_rates(void)
{
    struct vlad_capture_request request = request_of(V4L2_PIX_FMT_YUYV);

    fake_init(&fake, false);
    fake.fps_milli = 29970;
    CHECK_EQ(vlad_capture_open(&capture, &request, &fake_ops, &fake), 0);
    CHECK_EQ(capture.format.fps_milli, 29970);
    end();
    fake_init(&fake, true);
    fake.has_rate = false; /* i.MX ISI */
    CHECK_EQ(vlad_capture_open(&capture, &request, &fake_ops, &fake), 0);
    CHECK_EQ(capture.format.fps_milli, 0);
    end();
    fake_init(&fake, false);
    fake.fps_milli = 12500;
    request.fps_milli = 0; /* as it is */
    CHECK_EQ(vlad_capture_open(&capture, &request, &fake_ops, &fake), 0);
    CHECK_EQ(capture.format.fps_milli, 12500);
    end();
}

/* ---- frames ---- */

static void test_newest_wins_without_a_copy(void)
{
    for (int multi = 0; multi < 2; multi++) {
        struct vlad_capture_frame frame, again;
        begin(multi, V4L2_PIX_FMT_MJPEG);
        CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), -EAGAIN);
        good(1);
        fake.now_ns += 5000;
        good(2);
        CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), 0);
        CHECK_EQ(frame.seq, 2);
        CHECK_EQ(frame.t_capture_ns, 1000005000);
        CHECK_EQ(frame.bytes[0], 1000);
        CHECK(frame.plane[0] == fake.memory[frame.buffer][0]);
        CHECK_EQ(frame.plane[0][2], 2);
        CHECK_EQ(vlad_capture_borrow(&capture, 2, &again), -EAGAIN);
        CHECK_EQ(vlad_capture_borrow(&capture, 1, &again), 0);
        CHECK(again.plane[0] == frame.plane[0]);
        vlad_capture_give_back(&capture, &again);
        vlad_capture_give_back(&capture, &frame);
        CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 2);
        CHECK_EQ(count_of(VLAD_CAPTURE_SUPERSEDED), 1);
        CHECK_EQ(atomic_load(&capture.last_frame_ns), fake.now_ns);
        end();
    }
}

static void test_a_borrowed_frame_outlives_its_successors(void)
{
    struct vlad_capture_frame frame, second;

    begin(false, V4L2_PIX_FMT_MJPEG);
    good(7);
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), 0);
    for (unsigned char i = 0; i < 40; i++) {
        good((unsigned char)(100 + i));
        CHECK_EQ(frame.plane[0][2], 7);
        CHECK_EQ(frame.plane[0][999], 7);
    }
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &second), -EBUSY);
    CHECK_EQ(count_of(VLAD_CAPTURE_REFUSED), 1);
    CHECK_EQ(count_of(VLAD_CAPTURE_SUPERSEDED), 39);
    vlad_capture_give_back(&capture, &frame);
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &second), 0);
    CHECK_EQ(second.seq, 41);
    good(1);
    good(2);
    vlad_capture_give_back(&capture, &second);
    good(3);
    fake_settle(&fake, &capture);
    CHECK(fake.min_queued >= 2);
    CHECK_EQ(fake.n_queued, VLAD_CAPTURE_MIN_BUFFERS - 1);
    end();
}

static void test_bad_frames_are_dropped_and_counted(void)
{
    struct vlad_capture_frame frame;

    for (int multi = 0; multi < 2; multi++) {
        struct fake_frame f;
        begin(multi, V4L2_PIX_FMT_YUYV);
        f = fake_good(&fake);
        f.flags |= V4L2_BUF_FLAG_ERROR;
        fake_deliver(&fake, f, 1);
        fake_settle(&fake, &capture);
        CHECK_EQ(count_of(VLAD_CAPTURE_CORRUPT), 1);
        f = fake_good(&fake);
        f.bytes = YUYV_BYTES - 1;
        fake_deliver(&fake, f, 1);
        f.bytes = 0;
        fake_deliver(&fake, f, 1);
        f.bytes = FAKE_PLANE_BYTES + 1; /* more than there is */
        fake_deliver(&fake, f, 1);
        fake_settle(&fake, &capture);
        CHECK_EQ(count_of(VLAD_CAPTURE_SHORT), 3);
        CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), -EAGAIN);
        CHECK_EQ(atomic_load(&capture.last_frame_ns), 0);
        f.bytes = YUYV_BYTES;
        fake_deliver(&fake, f, 1);
        fake_settle(&fake, &capture);
        CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 1);
        CHECK_EQ(fake.n_queued, VLAD_CAPTURE_MIN_BUFFERS - 1);
        end();
    }
    begin(false, V4L2_PIX_FMT_MJPEG);
    fake.now_ns++;
    CHECK(fake_deliver(&fake, fake_good(&fake), 1));
    fake_settle(&fake, &capture);
    struct fake_frame f = fake_good(&fake);
    f.data_offset = 8; /* single-planar has none: the frame then does not begin with SOI */
    fake_deliver(&fake, f, 1);
    fake_settle(&fake, &capture);
    CHECK_EQ(count_of(VLAD_CAPTURE_SHORT), 1);
    CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 1);
    end();
}

static void test_data_offset(void)
{
    struct vlad_capture_frame frame;
    struct fake_frame f;

    begin(true, V4L2_PIX_FMT_MJPEG);
    f = fake_good(&fake);
    f.data_offset = 32;
    fake_deliver(&fake, f, 5);
    f.data_offset = 1001; /* beyond the 1000 bytes used */
    fake_deliver(&fake, f, 6);
    fake_settle(&fake, &capture);
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), 0);
    CHECK(frame.plane[0] == fake.memory[frame.buffer][0] + 32);
    CHECK_EQ(frame.bytes[0], 968);
    CHECK_EQ(count_of(VLAD_CAPTURE_SHORT), 1);
    vlad_capture_give_back(&capture, &frame);
    end();
}

static void test_timestamps(void)
{
    const struct {
        uint32_t flag;
        int64_t stamp_ns, t_capture_ns;
        enum vlad_capture_counter counter;
    } rows[] = {
        {V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC, 990000000, 990000000, VLAD_CAPTURE_FRAMES},
        {V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC, 1040000000, 1040000000, VLAD_CAPTURE_NEGATIVE_AGE},
        {V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC, 0, 1000000000, VLAD_CAPTURE_STAMPED_HERE},
        {V4L2_BUF_FLAG_TIMESTAMP_UNKNOWN, 990000000, 1000000000, VLAD_CAPTURE_STAMPED_HERE},
        {V4L2_BUF_FLAG_TIMESTAMP_COPY, 990000000, 1000000000, VLAD_CAPTURE_STAMPED_HERE},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct vlad_capture_frame frame;
        begin(false, V4L2_PIX_FMT_MJPEG);
        struct fake_frame f = {.bytes = 1000, .flags = rows[i].flag};
        f.stamp.tv_sec = rows[i].stamp_ns / 1000000000;
        f.stamp.tv_usec = rows[i].stamp_ns % 1000000000 / 1000;
        fake_deliver(&fake, f, 1);
        fake_settle(&fake, &capture);
        CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), 0);
        CHECK_EQ(frame.t_capture_ns, rows[i].t_capture_ns);
        CHECK_EQ(count_of(rows[i].counter), 1);
        CHECK_EQ(count_of(VLAD_CAPTURE_NEGATIVE_AGE) + count_of(VLAD_CAPTURE_STAMPED_HERE),
                 rows[i].counter != VLAD_CAPTURE_FRAMES);
        vlad_capture_give_back(&capture, &frame);
        end();
    }
}

static void test_sequence_gaps(void)
{
    begin(false, V4L2_PIX_FMT_MJPEG);
    fake.sequence = 100; /* the first number says nothing */
    good(1);
    good(1);
    CHECK_EQ(count_of(VLAD_CAPTURE_SEQUENCE_GAPS), 0);
    fake.sequence += 3;
    good(1);
    CHECK_EQ(count_of(VLAD_CAPTURE_SEQUENCE_GAPS), 3);
    fake.sequence = 5; /* a restart */
    good(1);
    CHECK_EQ(count_of(VLAD_CAPTURE_SEQUENCE_GAPS), 3);
    fake.sequence = UINT32_MAX;
    good(1);
    good(1); /* wraps */
    CHECK_EQ(count_of(VLAD_CAPTURE_SEQUENCE_GAPS), 3);
    CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 6);
    end();
}

static void test_to_rgb(void)
{
    static uint8_t rgb[WIDTH * HEIGHT * 3];
    const struct {
        bool multi;
        uint32_t fourcc;
    } rows[] = {
        {false, V4L2_PIX_FMT_YUYV}, {false, V4L2_PIX_FMT_NV12}, {true, V4L2_PIX_FMT_NV12M}};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct vlad_capture_frame frame;
        begin(rows[i].multi, rows[i].fourcc);
        good(128); /* mid grey, but for the first two bytes */
        CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), 0);
        memset(rgb, 0, sizeof rgb);
        CHECK_EQ(vlad_capture_to_rgb(&capture, &frame, rgb), 0);
        CHECK_EQ(rgb[sizeof rgb - 1], 130); /* (128 - 16) * 255 / 219 */
        CHECK_EQ(rgb[sizeof rgb / 2], 130);
        vlad_capture_give_back(&capture, &frame);
        end();
    }
    struct vlad_capture_frame frame;
    begin(false, V4L2_PIX_FMT_MJPEG);
    good(1);
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), 0);
    CHECK_EQ(vlad_capture_to_rgb(&capture, &frame, rgb), -EINVAL);
    vlad_capture_give_back(&capture, &frame);
    end();
}

/* ---- faults ---- */

static void fail_next(unsigned long request, int error, int times)
{
    pthread_mutex_lock(&fake.lock);
    fake.fail_request = request;
    fake.fail_errno = error;
    fake.fail_after = 0;
    fake.fail_times = times;
    pthread_mutex_unlock(&fake.lock);
}

static void lost(int error, const char *where)
{
    struct vlad_capture_frame frame;

    fake_settle(&fake, &capture);
    CHECK_EQ(atomic_load(&capture.state), VLAD_CAPTURE_LOST);
    CHECK_EQ(atomic_load(&capture.lost_errno), error);
    CHECK_EQ(strcmp(atomic_load(&capture.lost_in), where), 0);
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), -ENODEV);
    end();
}

static void test_gone_is_lost_at_once(void)
{
    const int errors[] = {ENODEV, ENXIO, EBADF};

    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        begin(i % 2 != 0, V4L2_PIX_FMT_MJPEG);
        good(1);
        fail_next(VIDIOC_DQBUF, errors[i], 1);
        fake_deliver(&fake, fake_good(&fake), 2);
        lost(errors[i], "VIDIOC_DQBUF");

        begin(i % 2 != 0, V4L2_PIX_FMT_MJPEG);
        good(1);
        fail_next(VIDIOC_QBUF, errors[i], 1);
        fake_deliver(&fake, fake_good(&fake), 2);
        lost(errors[i], "VIDIOC_QBUF");
    }
}

static void poll_says(int answer, int times)
{
    pthread_mutex_lock(&fake.lock);
    fake.poll_answer = answer;
    fake.poll_answers_left = times;
    pthread_mutex_unlock(&fake.lock);
}

static void test_poll_hung_up_is_lost(void)
{
    const int answers[] = {POLLHUP, POLLERR | POLLHUP, POLLNVAL, POLLIN | POLLHUP};

    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        begin(false, V4L2_PIX_FMT_MJPEG);
        good(1);
        poll_says(answers[i], 1);
        lost(ENODEV, "poll");
    }
}

/* One failure is counted and lived through; eight in a row are the end. */
static void test_errors_in_a_row(void)
{
    const struct {
        unsigned long request;
        int poll, error;
        const char *where;
    } rows[] = {
        {VIDIOC_DQBUF, 0, EIO, "VIDIOC_DQBUF"},
        {VIDIOC_DQBUF, 0, EINVAL, "VIDIOC_DQBUF"},
        {VIDIOC_QBUF, 0, EIO, "VIDIOC_QBUF"},
        {0, -ENOMEM, ENOMEM, "poll"},
        {0, POLLERR, EAGAIN, "VIDIOC_DQBUF"}, /* the queue is in error and has no frame */
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int times = 7; times <= 8; times++) {
            begin(false, V4L2_PIX_FMT_MJPEG);
            good(1);
            if (rows[i].request != 0)
                fail_next(rows[i].request, rows[i].error, times);
            else
                poll_says(rows[i].poll, times);
            fake_deliver(&fake, fake_good(&fake), 2);
            for (int round = 0; round < 20; round++)
                fake_settle(&fake, &capture);
            CHECK_EQ(count_of(VLAD_CAPTURE_ERRORS), times);
            if (times == 8) {
                lost(rows[i].error, rows[i].where);
                continue;
            }
            CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 2);
            good(3);
            CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 3);
            CHECK_EQ(atomic_load(&capture.state), VLAD_CAPTURE_STREAMING);
            CHECK_EQ(fake.n_queued, VLAD_CAPTURE_MIN_BUFFERS - 1);
            end();
        }
}

static void test_interrupted_and_spurious(void)
{
    begin(false, V4L2_PIX_FMT_MJPEG);
    poll_says(-EINTR, 20);
    good(1);
    CHECK_EQ(count_of(VLAD_CAPTURE_ERRORS), 0);
    poll_says(POLLIN, 20); /* with nothing to dequeue */
    fake_settle(&fake, &capture);
    CHECK_EQ(count_of(VLAD_CAPTURE_EAGAIN), 20);
    good(2);
    CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 2);
    CHECK_EQ(atomic_load(&capture.state), VLAD_CAPTURE_STREAMING);
    end();
}

static void test_a_buffer_that_was_never_queued(void)
{
    struct vlad_capture_frame frame;

    begin(false, V4L2_PIX_FMT_MJPEG);
    good(1);
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), 0);
    pthread_mutex_lock(&fake.lock);
    fake.bogus_index = (int)frame.buffer; /* ours */
    pthread_mutex_unlock(&fake.lock);
    fake_deliver(&fake, fake_good(&fake), 2);
    fake_settle(&fake, &capture);
    pthread_mutex_lock(&fake.lock);
    fake.bogus_index = VLAD_CAPTURE_MAX_BUFFERS; /* nobody's */
    pthread_mutex_unlock(&fake.lock);
    fake_deliver(&fake, fake_good(&fake), 2);
    fake_settle(&fake, &capture);
    CHECK_EQ(count_of(VLAD_CAPTURE_ERRORS), 2);
    CHECK_EQ(count_of(VLAD_CAPTURE_FRAMES), 1);
    vlad_capture_give_back(&capture, &frame);
    end();
}

static void test_a_stall_beats_on(void)
{
    begin(false, V4L2_PIX_FMT_MJPEG);
    good(1);
    uint64_t beats = atomic_load(&capture.beats);
    fake.now_ns += 10000000000LL;
    for (int i = 0; i < 5; i++)
        fake_settle(&fake, &capture);
    CHECK(atomic_load(&capture.beats) >= beats + 5);
    CHECK(count_of(VLAD_CAPTURE_TIMEOUTS) >= 5);
    CHECK_EQ(atomic_load(&capture.last_frame_ns), 1000000000);
    CHECK_EQ(atomic_load(&capture.state), VLAD_CAPTURE_STREAMING);
    end();
}

static void test_close_waits_for_the_borrower(void)
{
    struct vlad_capture_frame frame, none;

    begin(true, V4L2_PIX_FMT_MJPEG);
    good(4);
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &frame), 0);
    CHECK_EQ(vlad_capture_close(&capture), -EBUSY);
    CHECK_EQ(atomic_load(&capture.state), VLAD_CAPTURE_STOPPED);
    CHECK(!fake.streaming && fake.mapped > 0);
    CHECK_EQ(frame.plane[0][2], 4);
    CHECK_EQ(vlad_capture_borrow(&capture, 0, &none), -ENODEV);
    vlad_capture_give_back(&capture, &frame);
    end();
}

static void test_counter_names(void)
{
    for (int i = 0; i < VLAD_CAPTURE_N_COUNTERS; i++)
        CHECK(vlad_capture_counter_name(i) != NULL);
}

/* ---- races ---- */

#define RACE_FRAMES 3000
#define CONSUMERS 3

static _Atomic bool race_over;
static _Atomic uint64_t race_seen, race_wrong; /* CHECK counts without a lock: not for threads */

/* Each picture is of one byte value; a buffer given back too early or lent twice would change. */
static void *consume(void *nothing)
{
    uint64_t after = 0;

    while (!atomic_load(&race_over)) {
        struct vlad_capture_frame frame;
        int error = vlad_capture_borrow(&capture, after, &frame);
        if (error != 0) {
            race_wrong += error != -EAGAIN && error != -EBUSY;
            sched_yield();
            continue;
        }
        race_wrong += frame.seq <= after;
        after = frame.seq;
        uint8_t fill = frame.plane[0][2];
        for (int round = 0; round < 3; round++) {
            for (uint32_t i = 2; i < frame.bytes[0]; i += 7)
                race_wrong += frame.plane[0][i] != fill;
            sched_yield();
        }
        vlad_capture_give_back(&capture, &frame);
        atomic_fetch_add(&race_seen, 1);
    }
    return nothing;
}

static void test_consumers_and_driver_race(void)
{
    pthread_t consumers[CONSUMERS];

    begin(false, V4L2_PIX_FMT_MJPEG);
    for (int i = 0; i < CONSUMERS; i++)
        CHECK_EQ(pthread_create(&consumers[i], NULL, consume, NULL), 0);
    for (int delivered = 0; delivered < RACE_FRAMES || atomic_load(&race_seen) < 100;)
        if (fake_deliver(&fake, fake_good(&fake), (unsigned char)delivered))
            delivered++;
        else
            sched_yield();
    fake_settle(&fake, &capture);
    atomic_store(&race_over, true);
    for (int i = 0; i < CONSUMERS; i++)
        pthread_join(consumers[i], NULL);
    CHECK_EQ(atomic_load(&race_wrong), 0);
    CHECK(count_of(VLAD_CAPTURE_FRAMES) >= RACE_FRAMES);
    CHECK(fake.min_queued >= 2);
    CHECK_EQ(count_of(VLAD_CAPTURE_ERRORS), 0);
    end();
}

int main(void)
{
    test_formats();
    test_colour_range();
    test_every_call_of_open_may_fail();
    test_streamon_may_fail();
    test_what_the_driver_offers_instead_is_refused();
    test_what_cannot_be_asked_for();
    test_rates();
    test_newest_wins_without_a_copy();
    test_a_borrowed_frame_outlives_its_successors();
    test_bad_frames_are_dropped_and_counted();
    test_data_offset();
    test_timestamps();
    test_sequence_gaps();
    test_to_rgb();
    test_gone_is_lost_at_once();
    test_poll_hung_up_is_lost();
    test_errors_in_a_row();
    test_interrupted_and_spurious();
    test_a_buffer_that_was_never_queued();
    test_a_stall_beats_on();
    test_close_waits_for_the_borrower();
    test_counter_names();
    test_consumers_and_driver_race();
    CHECK_DONE();
}
