"""Cameras: what a capture stage needs of one, and how a configuration entry becomes one.

A camera belongs to one thread (the capture stage): no call is safe from two threads at once.
Frame times are CLOCK_MONOTONIC nanoseconds, as the driver (or the simulator) stamped them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from vlad.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

STALL_PERIODS = 5  # no frame for so many camera periods: fault 2
FIRST_FRAME_NS = 3_000_000_000  # USB cameras need up to 2 s from STREAMON to their first frame
BACKOFF_MIN_NS = 500_000_000
BACKOFF_MAX_NS = 8_000_000_000
SHM_PREFIX = "shm:"


class CameraState(StrEnum):
    """ok: frames arrive. stalled: open, but no frame for 5 periods. lost: the device is gone."""

    OK = "ok"
    STALLED = "stalled"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture.

    seq: grows by at least 1 with every new frame of a camera, also across `reopen`.
    t_capture_ns: CLOCK_MONOTONIC; may lie ahead of now where a driver stamps so (counted).
    image: uint8 [height, width, 3], RGB, read-only, never written again: keep it as long as needed.
    """

    seq: int
    t_capture_ns: int
    image: npt.NDArray[np.uint8]


class Camera(Protocol):
    """A source of frames. `start` and `reopen` may block for as long as the driver does."""

    @property
    def name(self) -> str: ...

    @property
    def fps(self) -> float: ...

    @property
    def why_lost(self) -> str:
        """What took the camera away, or why the last `reopen` failed. For the log, in words."""

    def start(self) -> None:
        """Open the device and start streaming. Raises DeviceError."""

    def newest(self) -> Frame | None:
        """The newest good frame; the same object while nothing newer came; None before the first
        frame and while the camera is lost. Never waits for a frame."""

    def state(self, now_ns: int) -> CameraState: ...

    def reopen(self, now_ns: int) -> bool:
        """To be called again and again while the state is not ok: tries to open the device anew,
        0.5, 1, 2, 4, then every 8 s after the last try. True when a try succeeded just now."""

    def counters(self) -> Mapping[str, int]:
        """Monotonic counters for export, the same keys for the lifetime of the camera. `frames`
        counts good ones, `bad` those dropped as corrupt, short, torn or undecodable."""

    def close(self) -> None: ...


class CameraEntry(Protocol):
    """The part of a configuration that describes one camera.

    source: "shm:NAME" (a running `vlad sim`) or a V4L2 node, best /dev/v4l/by-path/..., because
    /dev/videoN is renumbered at a replug and cheap cameras share serial numbers.
    format: "MJPG", "YUYV", "NV12" or "NM12"; of no meaning to shm sources.
    controls: V4L2 control name -> value, set at every (re)open; needs the extra `vlad[v4l2]`.
    cpu: core of the capture thread, or -1.
    """

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def format(self) -> str: ...
    @property
    def controls(self) -> Mapping[str, int]: ...
    @property
    def cpu(self) -> int: ...


@dataclass(slots=True)
class Backoff:
    """When to try again: 0.5 s after the first failure, then doubling to 8 s."""

    delay_ns: int = BACKOFF_MIN_NS
    due_ns: int | None = field(default=None)

    def due(self, now_ns: int) -> bool:
        """True when a try may start now; then the next one is scheduled. The first call only
        schedules: a device that was unplugged this instant is not back yet."""
        if self.due_ns is None:
            self.due_ns = now_ns + self.delay_ns
            return False
        if now_ns < self.due_ns:
            return False
        self.delay_ns = min(self.delay_ns * 2, BACKOFF_MAX_NS)
        self.due_ns = now_ns + self.delay_ns
        return True

    def reset(self) -> None:
        self.delay_ns, self.due_ns = BACKOFF_MIN_NS, None


def stalled(now_ns: int, opened_ns: int, last_frame_ns: int, fps: float) -> bool:
    """True when an open camera has not delivered for 5 periods (167 ms at 30 fps).

    last_frame_ns: arrival of the newest frame, 0 before the first; opened_ns: when streaming began.
    """
    if last_frame_ns <= opened_ns:
        return now_ns - opened_ns > FIRST_FRAME_NS
    return now_ns - last_frame_ns > int(STALL_PERIODS * 1e9 / fps)


def open_camera(entry: CameraEntry, clock: Callable[[], int] | None = None) -> Camera:
    """The camera of a configuration entry, not yet started.

    clock: returns CLOCK_MONOTONIC ns; time.monotonic_ns by default.
    Raises DeviceError when the source is of no known kind.
    """
    import time

    clock = clock or time.monotonic_ns
    if entry.fps <= 0 or entry.width <= 0 or entry.height <= 0:
        raise DeviceError(
            f"camera {entry.name}: {entry.width}x{entry.height} at {entry.fps} fps is no format;"
            " give positive width, height and fps"
        )
    if entry.source.startswith(SHM_PREFIX):
        from vlad.shm_camera import ShmCamera

        return ShmCamera(entry, clock)
    if entry.source.startswith("/dev/"):
        from vlad.v4l2_camera import V4l2Camera

        return V4l2Camera(entry, clock)
    raise DeviceError(
        f"camera {entry.name}: source {entry.source!r} is neither shm:NAME nor /dev/...;"
        " `vlad cameras` lists what is there"
    )
