# csrc/serial_bus.h, for bring-up.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "clock.h" nogil:
    int64_t vlad_clock_now_ns()

cdef extern from "feetech.h" nogil:
    struct vlad_feetech_reply:
        uint8_t id
        uint8_t status
        int n_data
        uint8_t data[64]
    struct vlad_feetech_scale:
        pass
    int vlad_feetech_scale_body(vlad_feetech_scale *, int, int, int)
    int vlad_feetech_scale_gripper(vlad_feetech_scale *, int, int, int)
    int vlad_feetech_nu_to_ticks(const vlad_feetech_scale *, int64_t, int32_t *)
    int64_t vlad_feetech_ticks_to_nu(const vlad_feetech_scale *, int32_t)
    int32_t vlad_feetech_signed(uint16_t, int)

cdef extern from "serial_bus.h" nogil:
    enum:
        VLAD_SERIAL_N_COUNTERS
        VLAD_SERIAL_N_ERRNO
    enum vlad_serial_counter:
        pass
    struct vlad_serial_bus:
        int fd
    int vlad_serial_bus_open_fd(vlad_serial_bus *, int, int, bint)
    const char *vlad_serial_counter_name(vlad_serial_counter)
    uint64_t vlad_serial_count(const vlad_serial_bus *, vlad_serial_counter)
    uint64_t vlad_serial_errno_count(const vlad_serial_bus *, int)
    int vlad_serial_ping(vlad_serial_bus *, uint8_t, int64_t, uint8_t *)
    int vlad_serial_read(vlad_serial_bus *, uint8_t, uint8_t, uint8_t *, int, int64_t, uint8_t *)
    int vlad_serial_write(vlad_serial_bus *, uint8_t, uint8_t, const uint8_t *, int, int64_t,
                          uint8_t *)
    int vlad_serial_sync_read(vlad_serial_bus *, const uint8_t *, int, uint8_t, int, int64_t,
                              vlad_feetech_reply *, uint32_t *)
    int vlad_serial_sync_write(vlad_serial_bus *, const uint8_t *, int, uint8_t, const uint8_t *,
                               int, int64_t)
