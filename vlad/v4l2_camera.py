"""A `Camera` over a V4L2 node: native capture (`vlad._native.capture`), decoding here.

MJPG is decoded by simplejpeg (libjpeg-turbo), YUYV and NV12 in C. linuxpy, GPL-3.0-or-later, is
imported only where a camera's controls are configured: shipping an image with it is your choice.
"""

from __future__ import annotations

import errno
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vlad.camera import Backoff, CameraState, Frame, stalled
from vlad.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from vlad._native.capture import CapturedFrame, V4l2Capture
    from vlad.camera import CameraEntry

FORMATS = ("MJPG", "YUYV", "NV12", "NM12")
N_BUFFERS = 6
BY_HAND = ("undecodable", "lost", "reopened", "reopen_failed")

WHAT_TO_DO = {
    errno.ENOENT: "no such node; is it plugged in? `vlad cameras` lists what is there",
    errno.ENODEV: "the device is gone; is it plugged in?",
    errno.EACCES: "no permission; add the user to the group `video`",
    errno.EBUSY: "another program streams from it; end that one",
    errno.ENOSPC: "not enough USB bandwidth; use MJPG or another USB controller",
    errno.ENOTSUP: "not a capture node; a USB camera has two nodes, take the other",
    errno.ENOTTY: "not a V4L2 node",
}


def open_capture(entry: CameraEntry) -> V4l2Capture:
    """The native capture of an entry, not yet started."""
    from vlad._native.capture import V4l2Capture

    return V4l2Capture(
        entry.source, entry.width, entry.height, entry.format, entry.fps, N_BUFFERS, entry.cpu
    )


def set_controls(path: str, controls: Mapping[str, int]) -> None:
    """Set V4L2 controls by linuxpy's names (`vlad cameras` lists them).

    Raises DeviceError naming the control and those that exist, or that linuxpy is missing.
    """
    try:
        from linuxpy.video.device import Device
    except ImportError as error:
        raise DeviceError(
            f"{path}: setting {', '.join(controls)} needs linuxpy: pip install 'vlad[v4l2]'"
        ) from error
    try:
        with Device(path) as device:
            known = {control.config_name: control for control in device.controls.values()}
            for name, value in controls.items():
                if name not in known:
                    raise DeviceError(
                        f"{path}: no control {name!r}; it has {', '.join(sorted(known))}"
                    )
                known[name].value = value
    except (OSError, AttributeError, ValueError) as error:
        raise DeviceError(f"{path}: controls {dict(controls)}: {error}") from error


class V4l2Camera:
    """See `vlad.camera.Camera`. A stalled camera is also closed and opened anew by `reopen`."""

    __slots__ = (
        "_backoff",
        "_by_hand",
        "_capture",
        "_clock",
        "_entry",
        "_frame",
        "_identity",
        "_last_seq",
        "_open_capture",
        "_opened_ns",
        "_seq_base",
        "_totals",
        "_why_lost",
    )

    def __init__(
        self,
        entry: CameraEntry,
        clock: Callable[[], int],
        open_capture: Callable[[CameraEntry], V4l2Capture] = open_capture,
    ) -> None:
        if entry.format not in FORMATS:
            raise DeviceError(
                f"camera {entry.name}: format {entry.format!r} is none of {', '.join(FORMATS)}"
            )
        self._entry = entry
        self._clock = clock
        self._open_capture = open_capture
        self._backoff = Backoff()
        self._capture: V4l2Capture | None = None
        self._identity: tuple[str, str] | None = None
        self._frame: Frame | None = None
        self._last_seq = 0  # of the capture that is open now
        self._seq_base = 0  # keeps seq growing over a reopen
        self._opened_ns = 0
        self._totals: dict[str, int] = {}  # of captures closed
        self._by_hand = dict.fromkeys(BY_HAND, 0)
        self._why_lost = "not started"

    @property
    def name(self) -> str:
        return self._entry.name

    @property
    def fps(self) -> float:
        return self._entry.fps

    @property
    def why_lost(self) -> str:
        return self._why_lost

    def start(self) -> None:
        entry = self._entry
        if self._capture is not None:
            raise DeviceError(f"camera {entry.name}: started twice")
        if entry.format == "MJPG" and find_spec("simplejpeg") is None:
            raise DeviceError(f"camera {entry.name}: MJPG needs simplejpeg: pip install simplejpeg")
        capture = self._open_capture(entry)
        try:
            if entry.controls:
                set_controls(entry.source, entry.controls)
            capture.start()
        except OSError as error:
            raise DeviceError(self._explain(error, capture)) from error
        if self._identity is None:
            self._identity = capture.identity
        elif self._identity != capture.identity:
            other = capture.identity
            capture.stop()
            raise DeviceError(
                f"camera {entry.name}: {entry.source} is now {other}, not {self._identity};"
                " name it by /dev/v4l/by-path, or plug it back where it was"
            )
        self._capture = capture
        self._opened_ns = self._clock()

    def _explain(self, error: OSError, capture: V4l2Capture) -> str:
        entry = self._entry
        width, height, fourcc, fps = capture.offered
        step = capture.failed_in
        if step == "format":
            advice = f"it offers {width}x{height} {fourcc}, configured is"
            advice += f" {entry.width}x{entry.height} {entry.format}; `vlad cameras` lists formats"
        elif step == "frame rate":
            advice = f"it offers {fps:g} fps, configured is {entry.fps:g}"
        elif step == "capture thread":
            advice = f"core {entry.cpu} is not there for it; set the camera's cpu"
        else:
            advice = WHAT_TO_DO.get(error.errno or 0, "`vlad cameras` lists what is there")
        return f"camera {entry.name}: {entry.source}: {error.strerror}: {advice}"

    def newest(self) -> Frame | None:
        capture = self._capture
        if capture is None or self._is_lost(capture):
            return None
        lent = capture.newest(self._last_seq)
        if lent is not None:
            with lent:
                self._last_seq = lent.seq
                image = self._decode(lent)
            if image is not None:
                image.flags.writeable = False
                self._frame = Frame(self._seq_base + lent.seq, lent.t_capture_ns, image)
        return self._frame

    def _decode(self, lent: CapturedFrame) -> npt.NDArray[np.uint8] | None:
        if self._entry.format != "MJPG":
            return lent.rgb()
        import simplejpeg

        # Strict: a picture that ends early would otherwise come back half grey, as if good.
        try:
            image: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(memoryview(lent), "RGB")
        except ValueError:
            self._by_hand["undecodable"] += 1
            return None
        if image.shape != (self._entry.height, self._entry.width, 3):
            self._by_hand["undecodable"] += 1
            return None
        return image

    def _is_lost(self, capture: V4l2Capture) -> bool:
        if capture.state == "streaming":
            return False
        code, where = capture.lost or (0, "stop")
        self._why_lost = f"camera {self.name}: {self._entry.source}: {where}: {os.strerror(code)}"
        self._by_hand["lost"] += 1
        self._drop(capture)
        return True

    def _drop(self, capture: V4l2Capture) -> None:
        capture.stop()
        for counter, value in capture.counters().items():
            self._totals[counter] = self._totals.get(counter, 0) + value
        self._seq_base += self._last_seq
        self._last_seq = 0
        self._frame = None
        self._capture = None

    def state(self, now_ns: int) -> CameraState:
        capture = self._capture
        if capture is None or self._is_lost(capture):
            return CameraState.LOST
        if stalled(now_ns, self._opened_ns, capture.last_frame_ns, self._entry.fps):
            return CameraState.STALLED
        if capture.last_frame_ns > self._opened_ns:  # open alone is no recovery
            self._backoff.reset()
        return CameraState.OK

    def reopen(self, now_ns: int) -> bool:
        if not self._backoff.due(now_ns):
            return False
        if self._capture is not None:
            self._drop(self._capture)
        try:
            self.start()
        except DeviceError as error:
            self._why_lost = str(error)
            self._by_hand["reopen_failed"] += 1
            return False
        self._by_hand["reopened"] += 1
        return True

    def counters(self) -> dict[str, int]:
        from vlad._native.capture import COUNTERS

        now = self._capture.counters() if self._capture is not None else {}
        total = {name: self._totals.get(name, 0) + now.get(name, 0) for name in COUNTERS}
        total |= self._by_hand
        total["bad"] = total["corrupt"] + total["short"] + total["undecodable"]
        total["beats"] = self._capture.beats if self._capture is not None else 0
        return total

    def close(self) -> None:
        if self._capture is not None:
            self._drop(self._capture)
