"""The writer of a camera's shared-memory ring (/dev/shm/NAME), and the page that drives it.

The layout of the ring is described, and read, by vlad.shm_camera.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct

import numpy as np
import numpy.typing as npt

from vlad.errors import ConfigError

SHM_DIRECTORY = "/dev/shm"
MAGIC = b"VLADFRM1"
N_SLOTS = 6
_HEADER = struct.Struct("<8s4IQ")
_NEWEST = struct.Struct("<Q")
_NEWEST_OFFSET = 24
_SEQ = struct.Struct("<Q")
_STAMPS = struct.Struct("<2Q")
_HEAD_BYTES = 64
MAX_JOINT_VALUES = 48
MAX_CAMERAS = 8


class FrameRing:
    """Creates the file whole under its name, publishes frames, removes it at close().

    One writer. A slot is overwritten N_SLOTS frames later.

    Raises:
        ConfigError: when the file cannot be made.
    """

    __slots__ = ("_frames", "_map", "_path", "_stride")

    def __init__(self, name: str, width: int, height: int) -> None:
        self._path = os.path.join(SHM_DIRECTORY, name)
        self._stride = (_HEAD_BYTES + width * height * 3 + 63) // 64 * 64
        size = _HEAD_BYTES + N_SLOTS * self._stride
        fresh = f"{self._path}.{os.getpid()}"
        try:
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, size)
                self._map = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
            _HEADER.pack_into(self._map, 0, MAGIC, width, height, 3, N_SLOTS, 0)
            os.rename(fresh, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise ConfigError(f"camera frames in {self._path}: {error.strerror}") from error
        self._frames = 0

    @property
    def frames(self) -> int:
        """Frames published so far."""
        return self._frames

    def publish(self, picture: npt.NDArray[np.uint8], t_capture_ns: int) -> None:
        """Write one frame (height, width, 3) uint8 RGB and make it the newest."""
        number = self._frames + 1
        offset = _HEAD_BYTES + (number - 1) % N_SLOTS * self._stride
        _SEQ.pack_into(self._map, offset, 2 * number - 1)
        _STAMPS.pack_into(self._map, offset + 8, t_capture_ns, number)
        pixels = np.frombuffer(self._map, np.uint8, picture.size, offset + _HEAD_BYTES)
        pixels[:] = picture.reshape(-1)
        _SEQ.pack_into(self._map, offset, 2 * number)
        _NEWEST.pack_into(self._map, _NEWEST_OFFSET, number)
        self._frames = number

    def close(self) -> None:
        """Remove the file; readers keep their mapping and see that the name has gone."""
        remove_ring(os.path.basename(self._path))


def remove_ring(name: str) -> None:
    """Remove the file of a ring, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(SHM_DIRECTORY, name))


_PAGE = np.dtype(
    [
        ("seq", "<u8"),
        ("t_ns", "<u8"),
        ("qpos", "<f8", (MAX_JOINT_VALUES,)),
        ("camera_modes", "u1", (MAX_CAMERAS,)),
        # From here on the renderer writes and the robot reads.
        ("frames", "<u8"),
        ("repeated", "<u8"),
        ("skipped_periods", "<u8"),
        ("render_ns_total", "<u8"),
        ("render_ns_max", "<u8"),
    ]
)


class StatePage:
    """Shared memory between the robot process and its renderer.

    The robot writes the physics state under a sequence lock (seq odd while writing) and the camera
    modes; the renderer writes its statistics. Each field has one writer.
    """

    __slots__ = ("_page", "descriptor")

    def __init__(self, descriptor: int | None = None) -> None:
        """A new anonymous page, or the one behind an inherited descriptor."""
        if descriptor is None:
            descriptor = os.memfd_create("vlad-sim-state")
            os.ftruncate(descriptor, _PAGE.itemsize)
        self.descriptor = descriptor
        self._page = np.frombuffer(mmap.mmap(descriptor, _PAGE.itemsize), _PAGE)[0]

    def put(self, t_ns: int, qpos: npt.NDArray[np.float64]) -> None:
        """Robot: publish the state of time t_ns."""
        page = self._page
        seq = int(page["seq"])
        page["seq"] = seq + 1
        page["t_ns"] = t_ns
        page["qpos"][: qpos.size] = qpos
        page["seq"] = seq + 2

    def get(self, count: int) -> tuple[int, npt.NDArray[np.float64]] | None:
        """Renderer: (t_ns, qpos[count]); None before the first or after 100 torn reads."""
        page = self._page
        for _ in range(100):
            before = int(page["seq"])
            t_ns, qpos = int(page["t_ns"]), page["qpos"][:count].copy()
            if before and not before & 1 and int(page["seq"]) == before:
                return t_ns, qpos
        return None

    def set_camera_mode(self, camera: int, mode: int) -> None:
        """Robot: one of the CAMERA_ constants of vlad.sim.injection."""
        self._page["camera_modes"][camera] = mode

    def camera_mode(self, camera: int) -> int:
        """Renderer: what set_camera_mode said last."""
        return int(self._page["camera_modes"][camera])

    def add(self, field: str, amount: int) -> None:
        """Renderer: add to one of its statistics."""
        self._page[field] += np.uint64(amount)

    def note_render(self, elapsed_ns: int) -> None:
        """Renderer: one picture was drawn in elapsed_ns."""
        self.add("frames", 1)
        self.add("render_ns_total", elapsed_ns)
        self._page["render_ns_max"] = max(int(self._page["render_ns_max"]), elapsed_ns)

    def render_report(self) -> dict[str, float]:
        """Robot: the renderer's statistics."""
        page = self._page
        frames = int(page["frames"])
        return {
            "pictures": frames,
            "pictures_repeated": int(page["repeated"]),
            "skipped_periods": int(page["skipped_periods"]),
            "render_ms_mean": round(int(page["render_ns_total"]) / max(frames, 1) / 1e6, 3),
            "render_ms_max": round(int(page["render_ns_max"]) / 1e6, 3),
        }
