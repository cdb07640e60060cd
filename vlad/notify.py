"""Tells systemd how the daemon is: the sd_notify protocol on $NOTIFY_SOCKET.

Source: sd_notify(3), sd_watchdog_enabled(3). Nothing here waits: what the socket does not take at
once is counted as failed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from vlad.errors import ConfigError

MAX_STATUS = 256  # characters
PATH_MAX = 107  # sun_path


def watchdog_usec(environment: Mapping[str, str] = os.environ, pid: int | None = None) -> int:
    """Microseconds within which systemd wants WATCHDOG=1 of this process; 0 = not at all.

    Raises ConfigError when $WATCHDOG_USEC or $WATCHDOG_PID is no positive number.
    """
    if "WATCHDOG_USEC" not in environment:
        return 0
    values = {}
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        text = environment.get(name, "")
        if name in environment:
            if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**63):
                raise ConfigError(f"${name}: {text!r} is not a positive number")
            values[name] = int(text)
    own = os.getpid() if pid is None else pid
    return values["WATCHDOG_USEC"] if values.get("WATCHDOG_PID", own) == own else 0


class Notifier:
    """The notification socket; without $NOTIFY_SOCKET every call does nothing and returns False.

    sent, failed: datagrams, for export. Raises ConfigError for an address that sd_notify(3) does
    not know, or a bad watchdog interval.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.sent = self.failed = 0
        self.watchdog_ns = watchdog_usec(environment) * 1000
        self._next_watchdog_ns = 0
        self._socket: socket.socket | None = None
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return
        if address[0] not in "/@" or len(os.fsencode(address)) > PATH_MAX:
            raise ConfigError(f"$NOTIFY_SOCKET: {address!r} is neither a path nor @name")
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @property
    def enabled(self) -> bool:
        return self._socket is not None

    def ready(self, status: str = "") -> bool:
        """Start-up is done."""
        return self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(f"STATUS={_line(text)}")

    def stopping(self) -> bool:
        return self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> bool:
        """Start, run or stop may take so much longer from now; to be repeated while it does."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def watchdog(self, now_ns: int) -> bool:
        """Feed systemd's watchdog. To be called often, and only while everything answers: it sends
        once in a quarter of the interval, and returns True when it did.

        now_ns: CLOCK_MONOTONIC.
        """
        if not self.watchdog_ns or now_ns < self._next_watchdog_ns:
            return False
        if not self._send("WATCHDOG=1"):
            return False
        self._next_watchdog_ns = now_ns + self.watchdog_ns // 4
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:
            self.failed += 1
            return False
        self.sent += 1
        return True


def _line(text: str) -> str:
    """A status is one line: what follows a newline would be taken for another assignment."""
    return " ".join(text.split())[:MAX_STATUS]
