"""A pseudo-terminal under a fixed name: what the host opens as its serial port."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import tty
from enum import Enum

from vlad.errors import ConfigError


class Link(Enum):
    """Whether a program has the other end open."""

    OPEN = "open"
    CLOSED = "closed"
    UNPLUGGED = "unplugged"


def claim_name(path: str) -> socket.socket:
    """Hold `path` for this process until the returned socket is closed or the process dies.

    Raises:
        ConfigError: when another simulator of this machine holds it.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        whole = os.path.abspath(path).encode()
        claim.bind(b"\0vlad-sim:" + hashlib.sha256(whole).hexdigest().encode())
    except OSError as error:
        claim.close()
        raise ConfigError(
            f"{path}: another vlad sim uses it; stop that one or choose another path"
        ) from error
    return claim


class PtyPort:
    """The master end of a pty; PATH is a symbolic link to the slave end.

    The slave is not kept open here, so that a client's close flushes the line as on hardware.
    unplug() hangs up and removes the link; replug() makes a new pty under the same link. The
    directory of PATH is made when only it is missing.

    Raises:
        ConfigError: when PATH is something else than a symbolic link, or in use.
    """

    __slots__ = ("_claim", "_master", "link", "lost_bytes", "path")

    def __init__(self, path: str) -> None:
        if os.path.lexists(path) and not os.path.islink(path):
            raise ConfigError(f"--bus {path}: exists and is no symbolic link; choose another path")
        self.path = path
        self.lost_bytes = 0
        self.link = Link.UNPLUGGED
        self._master = -1
        self._claim = claim_name(path)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.dirname(os.path.abspath(path)))
            self.replug()
        except OSError as error:
            self._claim.close()
            raise ConfigError(f"--bus {path}: {error.strerror}") from error

    def fileno(self) -> int:
        """The descriptor to wait on; -1 while unplugged."""
        return self._master

    def replug(self) -> None:
        """Make the port appear; nothing happens when it is there."""
        if self._master >= 0:
            return
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        name = os.ttyname(slave)
        os.close(slave)
        self._master = master
        self.link = Link.CLOSED
        fresh = f"{self.path}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        os.symlink(name, fresh)
        os.replace(fresh, self.path)

    def unplug(self) -> None:
        """Hang up and take the name away; nothing happens when already unplugged."""
        if self._master < 0:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self._master)
        self._master = -1
        self.link = Link.UNPLUGGED

    def read(self) -> bytes:
        """What the host has sent; empty when nothing, closed or unplugged (see `link`)."""
        if self._master < 0:
            return b""
        try:
            data = os.read(self._master, 4096)
        except BlockingIOError:
            self.link = Link.OPEN
            return b""
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.link = Link.CLOSED
            return b""
        self.link = Link.OPEN
        return data

    def write(self, data: bytes) -> None:
        """Send to the host. What a full or closed line does not take is lost and counted."""
        written = 0
        if self._master >= 0:
            with contextlib.suppress(OSError):
                written = os.write(self._master, data)
        self.lost_bytes += len(data) - written

    def close(self) -> None:
        """Unplug for good."""
        self.unplug()
        self._claim.close()
