"""A V4L2 camera: a native capture thread that keeps the newest frame, and frames lent in place."""

from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

STATES: tuple[str, ...]
COUNTERS: tuple[str, ...]

class V4l2Capture:
    """Streams from one node, single- or multi-planar. Start, stop and properties: one thread;
    `newest` and giving back: any thread.

    path: the node. fourcc: MJPG, YUYV, NV12 or NM12. fps: 0 leaves the device's own.
    n_buffers: 5..16 driver buffers; n_buffers - 4 frames may be out at a time.
    cpu: core of the thread, -1 any. priority: SCHED_FIFO 1..99, 0 not real-time.
    Raises ValueError for a fourcc that is not 4 characters and fps outside 0..1000.
    """

    def __init__(
        self,
        path: str,
        width: int,
        height: int,
        fourcc: str,
        fps: float,
        n_buffers: int = 6,
        cpu: int = -1,
        priority: int = 0,
    ) -> None: ...
    def start(self) -> None:
        """Open and stream. Raises OSError whose errno is the driver's or one of EINVAL (another
        size or format), ERANGE (another rate), ENOTSUP (no capture node), ENOBUFS, EMSGSIZE;
        `failed_in` names the step and `offered` what there was. ValueError when started."""

    def stop(self) -> None:
        """End the thread (within 60 ms) and close; where a frame is out, close with its return."""

    def newest(self, after_seq: int = 0) -> CapturedFrame | None:
        """Borrow the newest good frame with seq > after_seq. None: no such frame, too many
        out already (counted as `refused`), or not streaming."""

    @property
    def state(self) -> str:
        """One of STATES."""

    @property
    def lost(self) -> tuple[int, str] | None:
        """errno and call that ended the stream."""

    @property
    def failed_in(self) -> str: ...
    @property
    def last_frame_ns(self) -> int:
        """CLOCK_MONOTONIC arrival of the newest good frame, 0 before the first."""

    @property
    def beats(self) -> int:
        """Rounds of the capture thread: at least 20 a second while it lives."""

    @property
    def offered(self) -> tuple[int, int, str, float]:
        """Width, height, fourcc and fps that the driver agreed to; fps 0: it does not say."""

    @property
    def identity(self) -> tuple[str, str]:
        """Card and bus: tells one camera from another that took its number."""

    def counters(self) -> dict[str, int]:
        """By the names in COUNTERS, since `start`."""

class CapturedFrame:
    """A frame in the driver's own memory, read-only through the buffer protocol (plane 0).
    To be given back soon, at best by `with`; raises BufferError while a memoryview is in use."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def give_back(self) -> None: ...
    @property
    def seq(self) -> int: ...
    @property
    def t_capture_ns(self) -> int: ...
    @property
    def bytesused(self) -> int: ...
    @property
    def fourcc(self) -> str: ...
    def rgb(self) -> npt.NDArray[np.uint8]:
        """A new uint8 [height, width, 3]. Raises ValueError for MJPG."""
