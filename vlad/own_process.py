"""What this process takes: memory, processor time, descriptors, threads."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

from vlad.small_file import Unreadable, read_small

PROC = Path("/proc/self")


def figures() -> dict[str, float | None]:
    """None where the kernel does not say. threads: all of them, those of the core and of libraries too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    descriptors = _entries(PROC / "fd")
    return {
        "cpu_s": used.ru_utime + used.ru_stime, "resident_bytes": _resident_bytes(),
        "descriptors": None if descriptors is None else descriptors - 1,  # the one that lists them
        "threads": _entries(PROC / "task"),
    }  # fmt: skip


def _entries(directory: Path) -> int | None:
    with suppress(OSError):
        return len(os.listdir(directory))
    return None


def _resident_bytes() -> int | None:
    with suppress(Unreadable, ValueError, IndexError):
        return int(read_small(PROC / "statm").split()[1]) * resource.getpagesize()
    return None
