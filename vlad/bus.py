"""The port of the servo bus: opened once, locked, and handed to the core as a descriptor."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import termios
from dataclasses import dataclass, field
from types import TracebackType

import serial

from vlad.errors import DeviceError

_PTY_MAJORS = range(136, 144)  # Documentation/admin-guide/devices.txt: Unix98 PTY slaves


@dataclass(slots=True)
class Port:
    """An open serial port that no other vlad can open; `fd` lives until close().

    path: as given; device: what it was a link to, for one that comes back under another name.
    latency: why low-latency mode was refused, "" when it is on. ttyACM drivers have none and need
    none; on FTDI adapters it takes replies 16 ms late without it.
    """

    path: str
    device: str
    baud: int
    latency: str
    _serial: serial.Serial = field(repr=False)

    @property
    def fd(self) -> int:
        """The descriptor. DeviceError when closed."""
        if not self._serial.is_open:
            raise DeviceError(f"{self.path}: the port is closed")
        return int(self._serial.fileno())

    def close(self) -> None:
        """Give the port free. Nobody may use the descriptor any more; twice does no harm."""
        if not self._serial.is_open:
            return
        with contextlib.suppress(OSError):  # unplugged
            fcntl.ioctl(self._serial.fileno(), termios.TIOCNXCL)
        self._serial.close()

    def __enter__(self) -> Port:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_port(path: str | os.PathLike[str], baud: int = 1_000_000) -> Port:
    """Open and lock a serial port; nothing is sent, and a port in use is left as it is.

    The lock is flock's, taken before anything else: it also keeps root out, which TIOCEXCL does
    not. TIOCEXCL is set on top, against programs that take no lock.

    Raises:
        DeviceError: no such device, no right to it, not a serial port, in use, or no such speed.
    """
    name = os.fspath(path)
    try:
        port = serial.Serial(name, baud, timeout=0, exclusive=True)
    except serial.SerialException as error:
        raise DeviceError(f"{name}: {_explain(name, error)}") from error
    except (OSError, ValueError) as error:
        raise DeviceError(f"{name}: {error}") from error
    if not _is_pty(port.fileno()):
        # On a pty it would outlive us: the flag belongs to the terminal, which the other end keeps.
        with contextlib.suppress(OSError):
            fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
    return Port(name, os.path.realpath(name), baud, _low_latency(port), port)


def _low_latency(port: serial.Serial) -> str:
    try:
        port.set_low_latency_mode(True)
    except (OSError, ValueError, NotImplementedError) as error:
        return str(error)
    return ""


def _is_pty(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in _PTY_MAJORS


def _explain(name: str, error: serial.SerialException) -> str:
    """What is wrong and what to do, from the errno that pyserial keeps."""
    match error.errno:
        case errno.EAGAIN | errno.EBUSY:
            return (
                f"in use by another process{_holder(name)}; stop it first "
                "(vlad itself: `systemctl stop vlad`)"
            )
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return "no such device; is the bus board plugged in? Ports: ls /dev/serial/by-id"
        case errno.EACCES | errno.EPERM:
            return "no permission; add the user to the group that owns it (often `dialout`)"
        case errno.EIO:
            return "the device does not answer (input/output error); was it unplugged?"
        case _:
            return f"not usable as a serial port ({error})"


def _holder(name: str) -> str:
    """The process that holds the flock, from /proc/locks; "" when it cannot be told."""
    try:
        status = os.stat(name)
        with open("/proc/locks", encoding="ascii") as locks:
            entries = [line.split() for line in locks]
    except OSError:
        return ""
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for entry in entries:
        if len(entry) > 5 and entry[1] == "FLOCK" and entry[5] == file:
            return f" (process {entry[4]})"
    return ""
