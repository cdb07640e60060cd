"""Bounded reads of the kernel's text files."""

from __future__ import annotations

from pathlib import Path

LIMIT = 65536


class Unreadable(Exception):
    """The file is not there, not text or no small one."""


def read_small(path: Path) -> str:
    """Its text, without the newline at the end. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise Unreadable(f"{path}: over {LIMIT} bytes")
        return data.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path}: {error}") from error
