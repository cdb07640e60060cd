"""What a daemon leaves for `vlad-safe-stop` to find when it has died (csrc/safe_stop.c)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vlad.arm import TICKS_PER_TURN, Joint
from vlad.errors import DeviceError
from vlad.whole_file import write_whole


def program() -> Path:
    """Where the installed vlad-safe-stop is."""
    return Path(__file__).parent / "_native" / "vlad-safe-stop"


def write_state(
    path: Path, port: str, baud: int, joints: Sequence[Joint], following_limit_rad: float
) -> None:
    """Write the state file, whole or not at all; call before the port is opened.

    Raises DeviceError when the port's name cannot be put into it or the file cannot be written.
    """
    if "\n" in port or len(port.encode()) > 255:
        raise DeviceError(f"{port!r}: no name for a port")
    lines = [
        f"port={port}",
        f"baud={baud}",
        "ids=" + ",".join(str(joint.id) for joint in joints),
        f"following-limit-ticks={round(following_limit_rad * TICKS_PER_TURN / math.tau)}",
        *(f"gripper={joint.id}" for joint in joints if joint.gripper),
    ]
    try:
        write_whole(path, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}") from error
