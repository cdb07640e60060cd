"""Frames of a simulated camera: a shared-memory ring written by `vlad sim`.

File /dev/shm/NAME, little-endian. Header of 64 bytes: char[8] "VLADFRM1", u32 width, u32 height,
u32 channels (3: RGB), u32 n_slots, u64 newest (frames published; the newest one is in slot
(newest - 1) % n_slots). Then n_slots slots, each 64 + width*height*3 bytes rounded up to 64: u64
seq (odd while it is written), u64 t_capture_ns, u64 frame_number, padding to 64, pixels row by row.

One writer. A slot is written again only n_slots - 1 >= 3 frames after it was the newest, so a
reader that copies at once all but never meets a writer; where it does, the sequence tells.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from typing import TYPE_CHECKING

import numpy as np

from vlad.camera import SHM_PREFIX, Backoff, CameraState, Frame, stalled
from vlad.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vlad.camera import CameraEntry

SHM_DIRECTORY = "/dev/shm"
MAGIC = b"VLADFRM1"
HEADER = struct.Struct("<8s4IQ")
NEWEST = struct.Struct("<Q")
NEWEST_OFFSET = 24
SLOT = struct.Struct("<3Q")
HEADER_BYTES = 64
SLOT_HEADER_BYTES = 64
MAX_SIDE = 8192
MIN_SLOTS, MAX_SLOTS = 4, 64
READ_TRIES = 3


def slot_stride(width: int, height: int) -> int:
    """Bytes from one slot to the next."""
    return (SLOT_HEADER_BYTES + width * height * 3 + 63) // 64 * 64


class ShmRing:
    """The mapped file. Raises DeviceError when it is absent or is not a frame ring."""

    __slots__ = ("_inode", "_map", "height", "n_slots", "path", "stride", "width")

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"{path}: {error.strerror}; is `vlad sim` running?") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size < HEADER_BYTES:
                raise DeviceError(f"{path}: {status.st_size} bytes is no frame ring")
            self._inode = (status.st_dev, status.st_ino)
            self._map = mmap.mmap(descriptor, status.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(descriptor)
        magic, self.width, self.height, channels, self.n_slots, _ = HEADER.unpack_from(self._map)
        if magic != MAGIC:
            raise DeviceError(f"{path}: begins with {magic!r}, not {MAGIC!r}: no frame ring")
        if not (
            0 < self.width <= MAX_SIDE
            and 0 < self.height <= MAX_SIDE
            and channels == 3
            and MIN_SLOTS <= self.n_slots <= MAX_SLOTS
        ):
            raise DeviceError(
                f"{path}: {self.width}x{self.height}x{channels} in {self.n_slots} slots is"
                " out of bounds"
            )
        self.stride = slot_stride(self.width, self.height)
        needed = HEADER_BYTES + self.n_slots * self.stride
        if status.st_size < needed:
            raise DeviceError(f"{path}: {status.st_size} bytes, but its header needs {needed}")

    def gone(self) -> bool:
        """True when the file was removed, or replaced by that of another simulator."""
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._inode

    def newest(self) -> int:
        """Number of the newest frame, 0 before the first."""
        number: int = NEWEST.unpack_from(self._map, NEWEST_OFFSET)[0]
        return number

    def read(self, number: int) -> Frame | None:
        """A copy of frame `number`, or None when its slot is being, or was, written again."""
        offset = HEADER_BYTES + (number - 1) % self.n_slots * self.stride
        before, t_capture_ns, found = SLOT.unpack_from(self._map, offset)
        if before & 1 or found != number:
            return None
        size = self.width * self.height * 3
        pixels = np.frombuffer(self._map, np.uint8, size, offset + SLOT_HEADER_BYTES).copy()
        if SLOT.unpack_from(self._map, offset)[0] != before:
            return None
        image = pixels.reshape(self.height, self.width, 3)
        image.flags.writeable = False
        return Frame(number, t_capture_ns, image)


class ShmCamera:
    """A `Camera` over the ring of a running simulator."""

    __slots__ = (
        "_backoff",
        "_clock",
        "_counters",
        "_fps",
        "_frame",
        "_last_number",
        "_name",
        "_opened_ns",
        "_path",
        "_ring",
        "_seen_ns",
        "_seq_base",
        "_size",
        "_why_lost",
    )

    def __init__(self, entry: CameraEntry, clock: Callable[[], int]) -> None:
        shm_name = entry.source.removeprefix(SHM_PREFIX)
        if not shm_name or "/" in shm_name or shm_name.startswith("."):
            raise DeviceError(
                f"camera {entry.name}: {entry.source} must name a file in {SHM_DIRECTORY}"
            )
        self._name = entry.name
        self._fps = entry.fps
        self._path = f"{SHM_DIRECTORY}/{shm_name}"
        self._size = (entry.width, entry.height)
        self._clock = clock
        self._backoff = Backoff()
        self._ring: ShmRing | None = None
        self._frame: Frame | None = None
        self._last_number = 0  # of the ring that is open now
        self._seq_base = 0  # keeps seq growing when a new ring counts from 1 again
        self._opened_ns = 0
        self._seen_ns = 0
        self._counters = dict.fromkeys(
            (
                "frames",
                "bad",
                "torn",
                "superseded",
                "negative_age",
                "lost",
                "reopened",
                "reopen_failed",
            ),
            0,
        )
        self._why_lost = "not started"

    @property
    def name(self) -> str:
        return self._name

    @property
    def fps(self) -> float:
        return self._fps

    @property
    def why_lost(self) -> str:
        return self._why_lost

    def start(self) -> None:
        if self._ring is not None:
            raise DeviceError(f"camera {self._name}: started twice")
        try:
            ring = ShmRing(self._path)
        except DeviceError as error:
            raise DeviceError(f"camera {self._name}: {error}") from error
        if (ring.width, ring.height) != self._size:
            raise DeviceError(
                f"camera {self._name}: {self._path} holds {ring.width}x{ring.height}, configured is"
                f" {self._size[0]}x{self._size[1]}; make the camera's width and height agree"
            )
        self._ring = ring
        self._last_number = 0
        self._seen_ns = 0
        self._opened_ns = self._clock()
        self._backoff.reset()

    def newest(self) -> Frame | None:
        ring = self._ring
        if ring is None or self._is_gone(ring):
            return None
        for _ in range(READ_TRIES):
            number = ring.newest()
            if number == self._last_number:
                return self._frame if number else None
            frame = ring.read(number)
            if frame is not None:
                return self._accept(frame)
            self._counters["torn"] += 1
        self._counters["bad"] += 1
        return self._frame

    def _accept(self, frame: Frame) -> Frame:
        if frame.seq < self._last_number:  # the writer began anew in the same file
            self._seq_base += self._last_number
            self._last_number = 0
        if self._last_number:
            self._counters["superseded"] += frame.seq - self._last_number - 1
        self._last_number = frame.seq
        self._seen_ns = self._clock()
        self._counters["frames"] += 1
        self._counters["negative_age"] += frame.t_capture_ns > self._seen_ns
        self._frame = Frame(self._seq_base + frame.seq, frame.t_capture_ns, frame.image)
        return self._frame

    def _is_gone(self, ring: ShmRing) -> bool:
        if not ring.gone():
            return False
        self._counters["lost"] += 1
        self._why_lost = f"camera {self._name}: {self._path} was removed; has `vlad sim` ended?"
        self._drop()
        return True

    def _drop(self) -> None:
        self._ring = None  # unmapped with its last reference
        self._frame = None
        self._seq_base += self._last_number
        self._last_number = 0

    def state(self, now_ns: int) -> CameraState:
        """Judged by the frames that `newest` has met: call that first."""
        ring = self._ring
        if ring is None or self._is_gone(ring):
            return CameraState.LOST
        if stalled(now_ns, self._opened_ns, self._seen_ns, self._fps):
            return CameraState.STALLED
        return CameraState.OK

    def reopen(self, now_ns: int) -> bool:
        if self._ring is not None or not self._backoff.due(now_ns):
            return False  # a stalled ring is mapped already: there is nothing to open anew
        try:
            self.start()
        except DeviceError as error:
            self._why_lost = str(error)
            self._counters["reopen_failed"] += 1
            return False
        self._counters["reopened"] += 1
        return True

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def close(self) -> None:
        self._drop()
