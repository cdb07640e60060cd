"""Keys from a terminal, also over ssh: no display, no rights, no library."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import Any, Self

ESCAPE_S = 0.03  # an arrow's bytes come together; Esc comes alone

KEYS = {
    b"\x1b[C": "right", b"\x1bOC": "right", b"\x1b[D": "left", b"\x1bOD": "left", b"\x1b": "esc",
    b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\b": "backspace",
}  # fmt: skip


class Terminal:
    """Keys as they are pressed, while it is open. Ctrl-C goes on to interrupt. `fd`: of a terminal.

    `keys` never waits; a held key comes again and again, at the keyboard's own rate. After a hang-up `gone` is true.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = sys.stdin.fileno() if fd is None else fd
        self._before: list[Any] | None = None
        self._pending = b""
        self.gone = False

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None and not self.gone:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def keys(self) -> list[str]:
        """The names of KEYS, else the characters themselves, that came since the last call."""
        self._read(0.0)
        found = []
        while self._pending:
            if self._pending in (b"\x1b", b"\x1b[", b"\x1bO"):
                self._read(ESCAPE_S)
            name, size = _first(self._pending)
            self._pending = self._pending[size:]
            if name:
                found.append(name)
        return found

    def _read(self, wait_s: float) -> None:
        while not self.gone and select.select([self._fd], [], [], wait_s)[0]:
            try:
                data = os.read(self._fd, 1024)
            except OSError:
                data = b""
            self.gone = not data
            self._pending += data
            wait_s = 0.0


def _first(pending: bytes) -> tuple[str, int]:
    """The first key and its length; "" for one that has no name."""
    for length in (3, 1):
        name = KEYS.get(pending[:length])
        if name and (name != "esc" or pending[1:2] not in (b"[", b"O")):
            return name, length
    if pending[:1] == b"\x1b":  # another sequence: up to its final byte
        end = next((i for i in range(2, len(pending)) if 0x40 <= pending[i] <= 0x7E), len(pending) - 1)
        return "", end + 1
    return pending[:1].decode("ascii", "ignore"), 1
