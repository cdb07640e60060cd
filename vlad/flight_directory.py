"""The directory of flight records: numbered files, bounded in number and size, the oldest removed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlad.flight_fields import Record
from vlad.flight_file import About, write
from vlad.servo import now_ns

WAIT_S = 3.0  # for another process; less than whoever asks for a dump waits

NAME = re.compile(r"flight-(\d{6,9})-[a-z0-9_]{1,40}\.(mcap|ring)(\.part)?\Z")


class FlightDirectory:
    """max_bytes: of all flight records together; other files are neither counted nor touched."""

    def __init__(self, path: Path, max_files: int, max_bytes: int) -> None:
        self.path = path
        self.removed = 0  # records that had to give way
        self._max_files = max_files
        self._max_bytes = max_bytes

    def problem(self) -> str:
        """Makes the directory where its parent exists; why nothing can be written, or ""."""
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        return "" if os.access(self.path, os.W_OK | os.X_OK) else f"{self.path}: Permission denied"

    def write(self, reason: str, about: About, records: Sequence[Record]) -> Path:
        """One file more. OSError."""
        return self._add(reason, "mcap", lambda path: write(path, about, records))

    def keep(self, left: Path, reason: str) -> Path:
        """A memory of a flight record that this version cannot read, as it is, for the one that can. OSError."""
        return self._add(reason, "ring", lambda path: _copy(left, path))

    def _add(self, reason: str, suffix: str, write_to: Callable[[Path], object]) -> Path:
        self.path.mkdir(mode=0o700, exist_ok=True)
        with self._alone():
            found = self._found()
            for part in [p for _, p in found if p.suffix == ".part"]:
                part.unlink()  # of a process that died while it wrote
            number = max((n for n, _ in found), default=0) + 1
            word = re.sub(r"[^a-z0-9_]+", "_", reason.lower())[:40] or "unknown"
            path = self.path / f"flight-{number:06d}-{word}.{suffix}"
            self._remove_down_to(self._max_files - 1)
            write_to(path)
            self._remove_down_to(self._max_files)
        return path

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of all processes that write there: the kernel lets go of what a dead one held. OSError."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        end_ns = now_ns() + int(WAIT_S * 1e9)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if now_ns() > end_ns:
                        raise OSError(errno.EBUSY, "another process writes there") from error
                time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    def _found(self) -> list[tuple[int, Path]]:
        """Records by number, oldest first."""
        matches = [(NAME.match(entry.name), entry) for entry in self.path.iterdir()]
        return sorted((int(m.group(1)), p) for m, p in matches if m)

    def _remove_down_to(self, files: int) -> None:
        """The newest one stays, however large."""
        found = [p for _, p in self._found()]
        total = sum(p.stat().st_size for p in found)
        while len(found) > max(files, 0) or (total > self._max_bytes and len(found) > 1):
            oldest = found.pop(0)
            total -= oldest.stat().st_size
            oldest.unlink()
            self.removed += 1


def _copy(left: Path, path: Path) -> None:
    """A whole file or none. OSError."""
    part = path.with_name(f"{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as out, left.open("rb") as memory:
        shutil.copyfileobj(memory, out)
        out.flush()
        os.fsync(out.fileno())
    os.rename(part, path)
