"""The fault port of the simulator: newline JSON on a Unix socket, served from the robot's loop."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping
from typing import Any

from vlad.errors import ConfigError

MAX_LINE = 64 * 1024
MAX_CLIENTS = 8


class ControlPort:
    """Accepts clients and answers one JSON object per line. Never blocks.

    {"cmd": ...} is answered with {"ok": true, ...} or {"ok": false, "error": "..."}. A client that
    sends more than MAX_LINE without a newline, or does not read its answers, is dropped.

    Args:
        address: path of the socket; a stale socket is replaced, another file is not.
        apply: executes a command; raises ConfigError to refuse it.

    Raises:
        ConfigError: when the address cannot be bound.
    """

    __slots__ = ("_address", "_apply", "_buffers", "_listener")

    def __init__(
        self, address: str, apply: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> None:
        self._address = address
        self._apply = apply
        self._buffers: dict[socket.socket, bytearray] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if os.path.exists(address) and stat.S_ISSOCK(os.stat(address).st_mode):
                _refuse_if_served(address)
                os.unlink(address)
            self._listener.bind(address)
            os.chmod(address, 0o600)
            self._listener.listen(MAX_CLIENTS)
        except OSError as error:
            self._listener.close()
            raise ConfigError(f"--faults {address}: {error.strerror or error}") from error

    def sockets(self) -> list[socket.socket]:
        """What to wait on for reading."""
        return [self._listener, *self._buffers]

    def serve(self, ready: socket.socket) -> None:
        """Handle one of sockets() that is readable."""
        if ready is not self._listener:
            self._serve_client(ready)
            return
        with contextlib.suppress(BlockingIOError):
            client, _ = self._listener.accept()
            if len(self._buffers) >= MAX_CLIENTS:
                client.close()
                return
            client.setblocking(False)
            self._buffers[client] = bytearray()

    def _serve_client(self, client: socket.socket) -> None:
        try:
            data = client.recv(MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        buffer = self._buffers[client]
        buffer += data
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            if not self._send(client, self._answer(line)):
                return
        if len(buffer) > MAX_LINE:
            self._send(client, {"ok": False, "error": f"line longer than {MAX_LINE} bytes"})
            self._drop(client)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            command = json.loads(line)
            if not isinstance(command, dict):
                raise ConfigError("a command is a JSON object with the field cmd")
            return {"ok": True, **self._apply(command)}
        except (ValueError, RecursionError) as error:
            return {"ok": False, "error": f"not JSON: {error}"}
        except ConfigError as error:
            return {"ok": False, "error": str(error)}

    def _send(self, client: socket.socket, answer: Mapping[str, Any]) -> bool:
        data = json.dumps(answer).encode() + b"\n"
        try:
            sent = client.send(data)
        except OSError:
            sent = 0
        if sent < len(data):
            self._drop(client)
            return False
        return True

    def _drop(self, client: socket.socket) -> None:
        if self._buffers.pop(client, None) is not None:
            client.close()

    def close(self) -> None:
        """Drop all clients and remove the socket."""
        for client in list(self._buffers):
            self._drop(client)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._address)


def _refuse_if_served(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except OSError:
            return
    raise ConfigError(f"--faults {address}: another program serves it; choose another address")
