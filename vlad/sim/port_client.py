"""The other end of the simulator's fault port: one command, one answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlad.errors import DeviceError

MAX_REPLY = 1 << 20
TIMEOUT_S = 10.0


def ask(port: Path, command: Mapping[str, Any]) -> dict[str, Any]:
    """What `vlad sim --faults PORT` answers to one command. Raises DeviceError when it is refused or unanswered."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(port))
            client.sendall(json.dumps(command).encode() + b"\n")
            with client.makefile("rb") as answers:
                answer: dict[str, Any] = json.loads(answers.readline(MAX_REPLY))
    except (OSError, ValueError) as error:
        raise DeviceError(f"the simulator's port: {command['cmd']}: {error}") from error
    if not answer["ok"]:
        raise DeviceError(f"the simulator's port: {command['cmd']}: {answer['error']}")
    return answer
