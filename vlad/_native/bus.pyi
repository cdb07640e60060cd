"""Single requests on the servo bus, for bring-up (csrc/serial_bus.h, feetech.h).

While a servo loop uses the descriptor, nobody else may: one writer on the bus.
"""

from collections.abc import Sequence

class Bus:
    """Requests over an open serial descriptor, which stays the caller's.

    fd: made non-blocking, and raw if it is a terminal. baud: 0 leaves the speed. timeout_ns: of each
    request, waiting included. echo: the adapter returns what is sent.
    Not for two threads at once; the GIL is released while waiting. Raises DeviceError when the line
    fails or a servo does not answer.
    """

    timeout_ns: int

    def __init__(
        self, fd: int, *, baud: int = 0, timeout_ns: int = 20_000_000, echo: bool = False
    ) -> None: ...
    def ping(self, id: int) -> int | None:
        """The servo's status byte, or None when it does not answer."""

    def read(self, id: int, address: int, n: int) -> bytes:
        """n (1..64) bytes of registers from `address` on."""

    def write(self, id: int, address: int, data: bytes) -> int:
        """Write registers, acknowledged; returns the servo's status byte."""

    def sync_read(self, ids: Sequence[int], address: int, n: int) -> dict[int, bytes]:
        """n bytes of each servo in one request; ids that did not answer are missing."""

    def counters(self) -> dict[str, int]:
        """Every counter of csrc/serial_bus.h by name."""

    def errors(self) -> dict[str, int]:
        """How often a system call failed, by errno name; only those that did."""

class Scale:
    """Ticks of one joint, as csrc/feetech.h converts them: exact, to the nearest tick.

    Nano-units are 1e-9 rad about the middle of the range, or 1e-9 of the range for a gripper.
    ValueError for a range or direction that cannot be.
    """

    def __init__(
        self, range_min: int, range_max: int, *, gripper: bool = False, direction: int = 1
    ) -> None: ...
    def to_ticks(self, nu: int) -> int:
        """The nearest tick. ValueError outside 0..4095."""

    def to_nu(self, ticks: int) -> int:
        """The nearest nano-unit."""

def signed(raw: int, sign_bit: int) -> int:
    """Sign-magnitude: bit `sign_bit` of raw (0..65535) is the sign, the bits below the magnitude."""
