"""The memory of the flight record: three rings in a file that outlives a killed process, if it can.

A page of a file on a disk may be unavailable for as long as the disk takes to write it, and the servo
loop would wait for it. So the file is only ever one in memory (tmpfs); where there is none the rings
are in the process's own memory and die with it, and `problem` says so.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vlad._native.flight import FIELDS, RING_HEADER, SIZES, TICK, Ring, snapshot
from vlad.flight_fields import HEADER, FlightError, Record, records
from vlad.flight_file import About

MAGIC = b"VLADRNG1"
HEAD = struct.Struct("=8sIIIIQQQ")  # magic, layout, pid, about bytes, 0, sizes of the three rings
ABOUT_AT = 4096
RINGS_AT = ABOUT_AT + (256 << 10)
PRODUCER_BYTES = 4 << 20  # some 400 chunks of 50 actions
NOTES_BYTES = 4 << 20  # events, and thumbnails of two cameras
STATE_BYTES = 64 << 10
MAX_FILE_BYTES = 512 << 20
MEMORY_FILE_SYSTEMS = frozenset(("tmpfs", "ramfs"))
LAYOUT = zlib.crc32(repr((FIELDS, SIZES)).encode())  # what the bytes mean; another build's may differ


class Unreadable(FlightError):
    """The memory of a flight record, but of another version or damaged: worth keeping."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the three rings."""

    loop: int
    producer: int = PRODUCER_BYTES
    notes: int = NOTES_BYTES

    @property
    def total(self) -> int:
        return RINGS_AT + self.loop + self.producer + self.notes


def sizes_for(seconds: float, period_ns: int, state_every_ns: int) -> Sizes:
    """Room for so many seconds of ticks and states, and one state more."""
    ticks = int(seconds * 1e9 / period_ns) + 2
    states = int(seconds * 1e9 / state_every_ns) + 2
    loop = RING_HEADER + ticks * (HEADER.size + SIZES[TICK]) + states * STATE_BYTES
    return Sizes(-(-loop // 4096) * 4096)


class FlightMemory:
    """The rings `loop`, `producer` and `notes`. Closing removes the file: only a crash leaves one.

    path: where the file is to be; None: in the process's own memory.
    """

    def __init__(self, path: Path | None, sizes: Sizes, about: About) -> None:
        self.problem = ""
        self._path: Path | None = None
        self._file = -1
        if path is not None:
            try:
                self._file = _create(path, sizes.total)
                self._path = path
            except OSError as error:
                self.problem = f"{path}: {error.strerror}: the record will not survive a crash"
        self.map = mmap.mmap(self._file, sizes.total)
        text = msgspec.json.encode(about)
        if len(text) > RINGS_AT - ABOUT_AT:
            text = msgspec.json.encode(msgspec.structs.replace(about, config=""))
        self.map[ABOUT_AT : ABOUT_AT + len(text)] = text
        view = memoryview(self.map)
        ends = RINGS_AT + sizes.loop, RINGS_AT + sizes.loop + sizes.producer, sizes.total
        self.loop = Ring(view[RINGS_AT : ends[0]])
        self.producer = Ring(view[ends[0] : ends[1]])
        self.notes = Ring(view[ends[1] : ends[2]])
        # Last: a file without it is one that was never finished.
        HEAD.pack_into(self.map, 0, MAGIC, LAYOUT, os.getpid(), len(text), 0,
                       sizes.loop, sizes.producer, sizes.notes)  # fmt: skip

    @property
    def survives(self) -> bool:
        """Whether a killed process leaves the record behind."""
        return self._path is not None

    def records(self) -> Iterator[Record]:
        """All that the rings hold now."""
        for ring in (self.loop, self.producer, self.notes):
            yield from records(ring.snapshot())

    def close(self) -> None:
        """After the loop has stopped, in an orderly end. The memory itself lives on with its users."""
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)
            os.close(self._file)
            self._path = None


def _create(path: Path, size: int) -> int:
    """An open, locked, allocated file of this user's in memory. OSError, with a reason in words."""
    if file_system(path.parent) not in MEMORY_FILE_SYSTEMS:
        raise OSError(0, "not on a file system in memory (tmpfs)")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        _lock(descriptor)
        os.ftruncate(descriptor, 0)
        os.posix_fallocate(descriptor, 0, size)  # a full tmpfs is found out here, not by a signal
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(0, "not a file of this user's")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(0, "in use by another daemon") from error


def file_system(directory: Path) -> str:
    """Type of the file system that holds `directory`, "" when it cannot be told."""
    best, kind = -1, ""
    directory = directory.resolve()
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        if directory.is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), right.split()[0]
    return kind


def recover(path: Path) -> tuple[About, list[Record]] | None:
    """What a process that has died left at `path`; None when there is nothing or its process lives.

    FlightError for a file that is no such memory, Unreadable for one of another version or a damaged one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FlightError(f"{path}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FlightError(f"{path}: no regular file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FlightError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return _parse(path, data)


def _parse(path: Path, data: bytes) -> tuple[About, list[Record]]:
    if len(data) < RINGS_AT or len(data) > MAX_FILE_BYTES or data[:8] != MAGIC:
        raise FlightError(f"{path}: no memory of a flight record")
    _, layout, _, about_size, _, *rings = HEAD.unpack_from(data)
    if layout != LAYOUT:
        raise Unreadable(f"{path}: left by another version of vlad: read it with that one")
    if about_size > RINGS_AT - ABOUT_AT or RINGS_AT + sum(rings) != len(data) or any(r % 8 for r in rings):
        raise Unreadable(f"{path}: a damaged memory of a flight record")
    try:
        about = msgspec.json.decode(data[ABOUT_AT : ABOUT_AT + about_size], type=About)
        out: list[Record] = []
        view, at = memoryview(data), RINGS_AT
        for size in rings:
            out += records(snapshot(view[at : at + size]))
            at += size
    except (ValueError, msgspec.DecodeError) as error:
        raise Unreadable(f"{path}: damaged: {error}") from error
    return about, out
