"""V4l2Camera over a made-up capture; the native one as far as it goes without a device."""

from __future__ import annotations

import errno
import itertools
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import simplejpeg

from vlad._native.capture import COUNTERS, V4l2Capture
from vlad.camera import CameraState, open_camera
from vlad.errors import DeviceError
from vlad.v4l2_camera import V4l2Camera

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000
WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Entry:
    name: str = "top"
    source: str = "/dev/video0"
    width: int = WIDTH
    height: int = HEIGHT
    fps: float = 30.0
    format: str = "MJPG"
    controls: dict[str, int] = field(default_factory=dict)
    cpu: int = -1


class LentFrame:
    def __init__(self, seq: int, data: bytes, owner: FakeCapture) -> None:
        self.seq = seq
        self.t_capture_ns = 1_000 * seq
        self.data = data
        self.owner = owner

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self.data)

    def __enter__(self) -> LentFrame:
        self.owner.out += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.owner.out -= 1

    def rgb(self) -> np.ndarray:
        return np.full((HEIGHT, WIDTH, 3), self.data[0], np.uint8)


class FakeCapture:
    def __init__(self) -> None:
        self.state = "closed"
        self.lost: tuple[int, str] | None = None
        self.last_frame_ns = 0
        self.beats = 0
        self.failed_in = ""
        self.offered = (WIDTH, HEIGHT, "MJPG", 30.0)
        self.identity = ("webcam", "usb-1")
        self.frames = 0
        self.data = b""
        self.fails: OSError | None = None
        self.out = 0

    def start(self) -> None:
        if self.fails is not None:
            raise self.fails
        self.state = "streaming"

    def stop(self) -> None:
        assert self.out == 0
        self.state = "closed"

    def newest(self, after_seq: int = 0) -> LentFrame | None:
        return LentFrame(self.frames, self.data, self) if self.frames > after_seq else None

    def counters(self) -> dict[str, int]:
        return {**dict.fromkeys(COUNTERS, 0), "frames": self.frames, "corrupt": 1, "short": 2}

    def deliver(self, data: bytes, now_ns: int) -> None:
        self.frames += 1
        self.data = data
        self.last_frame_ns = now_ns


class Bench:
    """A camera whose captures are in `made`, newest last, as `template` says."""

    def __init__(self, **changes: object) -> None:
        self.now_ns = 1_000_000_000
        self.made: list[FakeCapture] = []
        self.fails: OSError | None = None
        self.identity = ("webcam", "usb-1")
        self.offered = (WIDTH, HEIGHT, "MJPG", 30.0)
        self.failed_in = ""
        entry = replace(Entry(), **changes)  # type: ignore[arg-type]
        self.camera = V4l2Camera(entry, lambda: self.now_ns, self.make)  # type: ignore[arg-type]

    def make(self, _: object) -> FakeCapture:
        capture = FakeCapture()
        capture.fails, capture.identity = self.fails, self.identity
        capture.offered, capture.failed_in = self.offered, self.failed_in
        self.made.append(capture)
        return capture

    @property
    def capture(self) -> FakeCapture:
        return self.made[-1]

    def state(self) -> CameraState:
        return self.camera.state(self.now_ns)

    def reopen_within(self, seconds: float) -> bool:
        until = self.now_ns + int(seconds * 1e9)
        while self.now_ns < until:
            self.now_ns += 100 * MS
            if self.camera.reopen(self.now_ns):
                return True
        return False


def picture(value: int) -> bytes:
    image = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
    return bytes(simplejpeg.encode_jpeg(image, 90, "RGB"))


def mjpg_bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    if sys.version_info < (3, 12):
        monkeypatch.setattr(
            "vlad.v4l2_camera.memoryview", lambda lent: memoryview(lent.data), raising=False
        )
    bench = Bench()
    bench.camera.start()
    return bench


def test_mjpg_is_decoded_and_a_broken_picture_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = mjpg_bench(monkeypatch)
    assert bench.camera.newest() is None
    bench.capture.deliver(picture(200), bench.now_ns)
    good = bench.camera.newest()
    assert good is not None
    assert (good.seq, good.t_capture_ns) == (1, 1_000)
    assert abs(int(good.image[5, 5, 1]) - 200) <= 2
    with pytest.raises(ValueError, match="read-only"):
        good.image[0, 0, 0] = 0
    whole = picture(90)
    for broken in (whole[: len(whole) // 2], b"\xff\xd8" + bytes(100), picture(1)[:2]):
        bench.capture.deliver(broken, bench.now_ns)
        assert bench.camera.newest() is good
    assert bench.camera.counters()["undecodable"] == 3
    assert bench.camera.counters()["bad"] == 6
    bench.capture.deliver(picture(10), bench.now_ns)
    after = bench.camera.newest()
    assert after is not None
    assert after.seq == 5
    assert bench.capture.out == 0


def test_a_picture_of_another_size_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = mjpg_bench(monkeypatch)
    other = np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8)
    bench.capture.deliver(bytes(simplejpeg.encode_jpeg(other)), bench.now_ns)
    assert bench.camera.newest() is None
    assert bench.camera.counters()["undecodable"] == 1


def test_stall_closes_and_opens_anew() -> None:
    bench = Bench(format="YUYV")
    bench.camera.start()
    bench.capture.deliver(b"\x07", bench.now_ns + 1)
    first = bench.camera.newest()
    assert first is not None
    assert (first.image == 7).all()
    bench.now_ns += 160 * MS
    assert bench.state() is CameraState.OK
    bench.now_ns += 10 * MS
    assert bench.state() is CameraState.STALLED
    assert bench.reopen_within(0.7)
    assert bench.made[0].state == "closed"
    assert bench.state() is CameraState.OK
    assert bench.camera.newest() is None, "the old picture is not offered as new"
    bench.capture.deliver(b"\x08", bench.now_ns + 1)
    second = bench.camera.newest()
    assert second is not None
    assert second.seq > first.seq
    assert bench.camera.counters()["frames"] == 2
    assert bench.camera.counters()["reopened"] == 1


def test_a_camera_that_opens_but_never_delivers_is_tried_ever_more_rarely() -> None:
    bench = Bench(format="YUYV")
    bench.camera.start()
    tries = []
    for _ in range(600):
        bench.now_ns += 100 * MS
        if bench.state() is not CameraState.OK and bench.camera.reopen(bench.now_ns):
            tries.append(bench.now_ns)
    gaps = [(b - a) // MS for a, b in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 8_000


def test_lost_names_the_call_and_comes_back() -> None:
    bench = Bench(format="YUYV")
    bench.camera.start()
    bench.capture.deliver(b"\x07", bench.now_ns + 1)
    assert bench.camera.newest() is not None
    bench.capture.state, bench.capture.lost = "lost", (errno.ENODEV, "VIDIOC_DQBUF")
    assert bench.camera.newest() is None
    assert bench.state() is CameraState.LOST
    assert "VIDIOC_DQBUF: No such device" in bench.camera.why_lost
    bench.fails = OSError(errno.ENOENT, "open: No such file or directory")
    assert not bench.reopen_within(10)
    assert bench.camera.counters()["reopen_failed"] == 4
    assert "is it plugged in?" in bench.camera.why_lost
    bench.fails = None
    assert bench.reopen_within(9)
    assert bench.state() is CameraState.OK
    assert bench.camera.counters()["lost"] == 1


def test_another_camera_under_the_old_number_is_refused() -> None:
    bench = Bench(format="YUYV")
    bench.camera.start()
    bench.capture.state, bench.capture.lost = "lost", (errno.ENODEV, "poll")
    assert bench.state() is CameraState.LOST
    bench.identity = ("webcam", "usb-2")
    assert not bench.reopen_within(5)
    assert "usb-2" in bench.camera.why_lost
    assert "by-path" in bench.camera.why_lost
    assert bench.capture.state == "closed"


@pytest.mark.parametrize(
    ("code", "step", "says"),
    [
        (errno.EINVAL, "format", "it offers 320x240 YUYV, configured is 64x48 MJPG"),
        (errno.ERANGE, "frame rate", "it offers 15 fps, configured is 30"),
        (errno.EBUSY, "VIDIOC_S_FMT", "another program"),
        (errno.ENOSPC, "VIDIOC_STREAMON", "USB bandwidth"),
        (errno.ENOTSUP, "capabilities", "take the other"),
        (errno.EACCES, "open", "group `video`"),
        (errno.EINVAL, "capture thread", "core -1 is not there"),
        (errno.EIO, "VIDIOC_QBUF", "vlad cameras"),
    ],
)
def test_start_says_what_where_and_what_to_do(code: int, step: str, says: str) -> None:
    bench = Bench()
    bench.fails = OSError(code, f"{step}: broken")
    bench.failed_in, bench.offered = step, (320, 240, "YUYV", 15.0)
    with pytest.raises(DeviceError) as caught:
        bench.camera.start()
    assert says in str(caught.value)
    assert "camera top: /dev/video0" in str(caught.value)
    assert bench.state() is CameraState.LOST


def test_mjpg_without_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlad.v4l2_camera.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="pip install simplejpeg"):
        Bench().camera.start()
    Bench(format="YUYV").camera.start()


def test_formats_that_are_not_read() -> None:
    with pytest.raises(DeviceError, match="'H264' is none of MJPG, YUYV, NV12, NM12"):
        open_camera(Entry(format="H264"))


def test_controls_of_no_device() -> None:
    camera = open_camera(Entry(source="/dev/vlad-none", controls={"gain": 1}))
    with pytest.raises(DeviceError, match="controls"):
        camera.start()


# ---- the native capture ----


def test_native_open_names_node_and_step(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    for path, code, step in (
        ("/dev/vlad-none", errno.ENOENT, "open"),
        (str(plain), errno.ENOTTY, "VIDIOC_QUERYCAP"),
        ("/dev/null", errno.ENOTTY, "VIDIOC_QUERYCAP"),
    ):
        capture = V4l2Capture(path, 640, 480, "MJPG", 30.0)
        for _ in range(2):
            with pytest.raises(OSError, match=step) as caught:
                capture.start()
            assert (caught.value.errno, caught.value.filename) == (code, path)
        assert capture.state == "closed"
        assert capture.newest() is None
        assert capture.lost is None
        capture.stop()


@pytest.mark.parametrize(
    ("width", "height", "fourcc", "n_buffers"),
    [(0, 480, "MJPG", 6), (641, 480, "YUYV", 6), (640, 480, "H264", 6), (640, 480, "MJPG", 4)],
)
def test_native_refuses_the_request(width: int, height: int, fourcc: str, n_buffers: int) -> None:
    capture = V4l2Capture("/dev/null", width, height, fourcc, 30.0, n_buffers)
    with pytest.raises(OSError, match="request") as caught:
        capture.start()
    assert caught.value.errno == errno.EINVAL


def test_native_arguments() -> None:
    for fourcc, fps in (("MJP", 30.0), ("MJPGX", 30.0), ("MJPG", -1.0), ("MJPG", float("nan"))):
        with pytest.raises(ValueError, match="must be"):
            V4l2Capture("/dev/null", 640, 480, fourcc, fps)
    with pytest.raises(OverflowError):
        V4l2Capture("/dev/null", -1, 480, "MJPG", 30.0)
    capture = V4l2Capture("/dev/null", 640, 480, "MJPG", 30.0)
    assert set(capture.counters()) == set(COUNTERS)
    assert capture.beats == 0
