"""The native control socket (csrc/control_socket.h): a thread that never takes the GIL."""

from collections.abc import Iterable
from os import PathLike
from typing import Final, Literal, Protocol

MAX_CLIENTS: Final[int]
MAX_GIDS: Final[int]  # operator groups
MAX_LINE: Final[int]  # bytes of a request, newline included
MAX_REPLY: Final[int]  # bytes of a reply

class LowerSink(Protocol):
    """Where hold and limp go: a C function `void lower(void *context, uint32_t request)`.

    request: VLAD_REQ_HOLD or VLAD_REQ_LIMP of csrc/servo_loop.h. It is called on the control thread
    without the GIL and must not wait. vlad._native.servo.Servo is one.
    """

    def lower_callback_address(self) -> int: ...
    def lower_context_address(self) -> int: ...

def scan_line(
    line: bytes,
) -> tuple[Literal["hold", "limp", "other"], bytes, int] | tuple[None, str, int]:
    """What the control thread makes of a line: (verb, id as written, 0), or (None, why, offset)."""

class PeerRequest:
    """A well-formed request that is no hold, stop or limp."""

    @property
    def token(self) -> int: ...
    @property
    def lower_epoch(self) -> int:
        """ControlSocket.lower_epoch() when it arrived: a greater one now means a hold since."""
    @property
    def t_ns(self) -> int:
        """Arrival, CLOCK_MONOTONIC."""
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def operator(self) -> bool:
        """Root, the daemon's own user, or a member of an operator group, as of connect."""
    @property
    def line(self) -> bytes: ...

class ControlSocket:
    """Listens on a Unix socket; hold, stop and limp of operators go straight to `lower_sink`.

    path: at most 107 bytes, in a directory of root or of this user that nobody else may write to
    (or that is sticky). mode: permission bits of the socket. operator_gids: at most MAX_GIDS.
    half_open_ns: time given for a complete line. stalled_ns: time given to a reader that makes no
    progress. ValueError for too many groups or a NUL in the path.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        mode: int,
        operator_gids: Iterable[int],
        lower_sink: LowerSink,
        max_clients: int = 16,
        half_open_ns: int = 5_000_000_000,
        stalled_ns: int = 1_000_000_000,
    ) -> None: ...
    def start(self) -> None:
        """OSError: EADDRINUSE a daemon answers there; EEXIST something there is no socket; EPERM the
        directory is not safe; ENOENT, ENOTDIR, ENAMETOOLONG; EINVAL max_clients or a time."""
    def stop(self) -> None:
        """Closes every connection and removes the path. Every other call stays harmless."""
    def next_request(self, timeout_s: float) -> PeerRequest | None:
        """Waits without the GIL; None after the time, or once stopped. One thread at a time."""
    def reply(self, token: int, line: bytes) -> None:
        """Sends one line (newline added); no matter when that client is gone. Any thread.

        OSError: EMSGSIZE above MAX_REPLY, EINVAL a newline inside, ETIMEDOUT thread stuck for 1 s.
        """
    def lower_epoch(self) -> int:
        """Number of holds and limps so far."""
    def lowered(self) -> tuple[int, Literal["hold", "limp"], int, int] | None:
        """The newest: (t_ns, verb, uid, pid)."""
    def next_lowered(self) -> tuple[int, Literal["hold", "limp"], int, int] | None:
        """Each of them once, the oldest first: (t_ns, verb, uid, pid). One thread at a time."""
    def beat_ns(self) -> int:
        """When the thread last went round: at least every 500 ms."""
    def counters(self) -> dict[str, int]:
        """csrc/control_socket.h's counters by name, and `clients` now connected."""
