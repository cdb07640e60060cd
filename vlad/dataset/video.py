"""Pictures into MP4 files that LeRobot decodes: H.264, every second frame a key frame, frame i at exactly i/fps."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vlad.dataset import stats
from vlad.errors import DatasetError

Picture = NDArray[np.uint8]  # RGB, [height, width, 3]

# LeRobot's g: training reads frames one by one, from anywhere. No B-frames, so that joining files is copying packets.
OPTIONS = {"preset": "ultrafast", "crf": "20", "g": "2", "bf": "0", "threads": "1"}
WAITING = 64  # pictures that an encoder may be behind
SAMPLE_EVERY = 5  # pictures, for the statistics ..
SAMPLE_SIDE = 120  # .. and of each about so many rows


class VideoWriter:
    """One camera's pictures of one episode, encoded on a thread of its own.

    `add` waits while the encoder is WAITING pictures behind: nothing is dropped. Whatever goes wrong on the thread
    (a full disk) is raised by the next `add` or by `finish`: OSError or DatasetError.
    """

    def __init__(
        self, path: Path, fps: int, height: int, width: int, options: Mapping[str, str] = OPTIONS
    ) -> None:
        self._path = path
        self._shape = (height, width, 3)
        self._fps = fps
        self._options = dict(options)
        self._queue: queue.Queue[Picture | None] = queue.Queue(WAITING)
        self._error: Exception | None = None
        self._abandoned = False
        self._histogram = np.zeros((3, 256), np.int64)
        self._encoded = 0
        self._sampled = 0
        self.pictures = 0
        self._thread = threading.Thread(target=self._run, name=f"vlad-video-{path.stem}", daemon=True)
        self._thread.start()

    def add(self, picture: Picture) -> None:
        """The picture must not change afterwards."""
        if picture.dtype != np.uint8 or picture.shape != self._shape:
            raise ValueError(f"{self._path.stem}: a picture is {picture.dtype}{list(picture.shape)}, "
                             f"not uint8{list(self._shape)}")  # fmt: skip
        self._check()
        self._queue.put(picture)
        self.pictures += 1

    @property
    def behind(self) -> int:
        """Pictures that wait for the encoder."""
        return self._queue.qsize()

    def finish(self) -> stats.Stats:
        """Completes the file; the statistics of its pictures."""
        self._queue.put(None)
        self._thread.join()
        self._check()
        return stats.of_histogram(self._histogram, self._sampled)

    def abandon(self) -> None:
        """Ends the thread; what the file holds is of no use."""
        self._abandoned = True
        self._queue.put(None)
        self._thread.join()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with av.open(str(self._path), "w", format="mp4") as container:
                stream: Any = container.add_stream("libx264", rate=Fraction(self._fps), options=self._options)
                stream.height, stream.width = self._shape[:2]
                stream.pix_fmt = "yuv420p"
                while (picture := self._queue.get()) is not None:
                    if not self._abandoned:
                        self._encode(container, stream, picture)
                if not self._abandoned:
                    container.mux(stream.encode())
        except (OSError, av.FFmpegError, ValueError) as error:
            known = isinstance(error, OSError)
            self._error = error if known else DatasetError(f"{self._path}: cannot be encoded: {error}")
            while self._queue.get() is not None:  # so that nobody waits
                pass

    def _encode(self, container: Any, stream: Any, picture: Picture) -> None:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        container.mux(stream.encode(frame))
        if self._encoded % SAMPLE_EVERY == 0:
            step = max(1, self._shape[0] // SAMPLE_SIDE)
            for channel in range(3):
                levels = picture[::step, ::step, channel].reshape(-1)
                self._histogram[channel] += np.bincount(levels, minlength=256)
            self._sampled += 1
        self._encoded += 1


def header(path: Path) -> bytes:
    """How a file was encoded: the same of files that can be joined. Raises DatasetError."""
    try:
        with av.open(str(path)) as source:
            return bytes(source.streams.video[0].codec_context.extradata or b"")
    except (av.FFmpegError, IndexError) as error:
        raise DatasetError(f"{path}: not a video: {error}") from None


def join(parts: Sequence[Path], joined: Path, fps: int) -> list[int]:
    """Copies the pictures of several files, which have the same header, into one, in order; nothing is encoded anew.

    Returns the number of pictures of each part. Raises DatasetError.
    """
    counts = []
    try:
        with av.open(str(joined), "w", format="mp4") as to:
            stream: Any = None
            before = 0
            for part in parts:
                with av.open(str(part)) as source:
                    video = source.streams.video[0]
                    if stream is None:
                        stream = to.add_stream_from_template(video)
                    assert video.time_base is not None
                    offset = Fraction(before, fps) / video.time_base
                    assert offset.denominator == 1
                    count = 0
                    for packet in source.demux(video):
                        if packet.dts is None or packet.pts is None:
                            continue  # the end
                        packet.pts += int(offset)
                        packet.dts += int(offset)
                        packet.stream = stream
                        to.mux(packet)
                        count += 1
                counts.append(count)
                before += count
    except av.FFmpegError as error:
        raise DatasetError(f"{joined}: cannot be written: {error}") from None
    return counts
