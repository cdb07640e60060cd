"""Single requests on the servo bus, for bring-up (csrc/serial_bus.h)."""

from cpython.mem cimport PyMem_Free, PyMem_Malloc

from vlad._native.bus_c cimport *

import errno
import os

from vlad.errors import DeviceError

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI


cdef _fail(int rc, str what):
    if rc < 0:
        raise DeviceError(f"{what}: {os.strerror(-rc)}")


cdef class Bus:
    cdef vlad_serial_bus *c
    cdef readonly int64_t timeout_ns

    def __cinit__(self, fd: int, *, baud: int = 0, timeout_ns: int = 20_000_000, echo: bool = False):
        self.c = <vlad_serial_bus *>PyMem_Malloc(sizeof(vlad_serial_bus))
        if self.c is NULL:
            raise MemoryError
        self.timeout_ns = timeout_ns
        _fail(vlad_serial_bus_open_fd(self.c, fd, baud, echo), f"serial line (descriptor {fd})")

    def __dealloc__(self):
        PyMem_Free(self.c)

    cdef int64_t _deadline_ns(self) noexcept nogil:
        return vlad_clock_now_ns() + self.timeout_ns

    def ping(self, id: int) -> int | None:
        cdef uint8_t c_id = id, status = 0
        cdef int rc
        with nogil:
            rc = vlad_serial_ping(self.c, c_id, self._deadline_ns(), &status)
        if rc == -errno.ETIMEDOUT:
            return None
        _fail(rc, f"ping of servo {id}")
        return status

    def read(self, id: int, address: int, n: int) -> bytes:
        cdef uint8_t c_id = id, c_address = address, status = 0
        cdef uint8_t data[64]
        cdef int rc, c_n = n
        with nogil:
            rc = vlad_serial_read(self.c, c_id, c_address, data, c_n, self._deadline_ns(), &status)
        _fail(rc, f"servo {id}, reading {n} bytes at {address}")
        return bytes(data[:n])

    def write(self, id: int, address: int, data: bytes) -> int:
        cdef uint8_t c_id = id, c_address = address, status = 0
        cdef const uint8_t *c_data = data
        cdef int rc, n = len(data)
        with nogil:
            rc = vlad_serial_write(self.c, c_id, c_address, c_data, n, self._deadline_ns(), &status)
        _fail(rc, f"servo {id}, writing {data.hex(' ')} at {address}")
        return status

    def sync_read(self, ids, address: int, n: int) -> dict[int, bytes]:
        cdef uint8_t c_ids[32]
        cdef vlad_feetech_reply replies[32]
        cdef uint8_t c_address = address
        cdef uint32_t answered = 0
        cdef int rc, i, c_n = n, n_ids = len(ids)
        if n_ids > 32:
            raise ValueError(f"{n_ids} ids, at most 32 are possible")
        for i in range(n_ids):
            c_ids[i] = ids[i]
        with nogil:
            rc = vlad_serial_sync_read(self.c, c_ids, n_ids, c_address, c_n, self._deadline_ns(),
                                       replies, &answered)
        _fail(rc, f"sync read of {n} bytes at {address}")
        return {c_ids[i]: bytes(replies[i].data[:n]) for i in range(n_ids) if answered >> i & 1}

    def counters(self) -> dict[str, int]:
        cdef int i
        return {
            vlad_serial_counter_name(<vlad_serial_counter>i).decode():
                vlad_serial_count(self.c, <vlad_serial_counter>i)
            for i in range(VLAD_SERIAL_N_COUNTERS)
        }

    def errors(self) -> dict[str, int]:
        cdef int i
        return {
            errno.errorcode.get(i, "other"): vlad_serial_errno_count(self.c, i)
            for i in range(VLAD_SERIAL_N_ERRNO) if vlad_serial_errno_count(self.c, i)
        }


cdef class Scale:
    cdef vlad_feetech_scale c

    def __cinit__(self, range_min: int, range_max: int, *, gripper: bool = False,
                  direction: int = 1):
        make = vlad_feetech_scale_gripper if gripper else vlad_feetech_scale_body
        if make(&self.c, range_min, range_max, direction) < 0:
            raise ValueError(
                f"range {range_min}..{range_max}, direction {direction}: "
                "0 <= min < max <= 4095 and direction 1 or -1 are possible"
            )

    def to_ticks(self, nu: int) -> int:
        cdef int32_t ticks = 0
        if vlad_feetech_nu_to_ticks(&self.c, nu, &ticks) < 0:
            raise ValueError(f"{nu} nano-units are not within 0..4095 ticks")
        return ticks

    def to_nu(self, ticks: int) -> int:
        return vlad_feetech_ticks_to_nu(&self.c, ticks)


def signed(raw: int, sign_bit: int) -> int:
    return vlad_feetech_signed(raw, sign_bit)
