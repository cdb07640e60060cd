"""Cameras: the shared-memory source against a writer of its own, and what `open_camera` refuses."""

from __future__ import annotations

import os
import struct
import sys
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vlad.camera import BACKOFF_MAX_NS, Backoff, Camera, CameraState, open_camera
from vlad.errors import DeviceError
from vlad.shm_camera import HEADER_BYTES, SHM_DIRECTORY, SLOT_HEADER_BYTES, slot_stride

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, HEIGHT, SLOTS = 32, 24, 4
MS = 1_000_000


@dataclass
class Entry:
    name: str = "top"
    source: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    fps: float = 30.0
    format: str = "MJPG"
    controls: dict[str, int] = field(default_factory=dict)
    cpu: int = -1


class Writer:
    """Publishes frames as contract 2 says; picture n is filled with n & 255."""

    def __init__(self, path: str) -> None:
        self.stride = slot_stride(WIDTH, HEIGHT)
        self.data = np.memmap(path, np.uint8, "w+", shape=(HEADER_BYTES + SLOTS * self.stride,))
        self.data[:32] = np.frombuffer(
            struct.pack("<8s4IQ", b"VLADFRM1", WIDTH, HEIGHT, 3, SLOTS, 0), np.uint8
        )
        self.path = path
        self.number = 0

    def word(self, offset: int, value: int) -> None:
        self.data[offset : offset + 8].view("<u8")[0] = value

    def publish(self, t_capture_ns: int, fill: int | None = None) -> None:
        self.number += 1
        offset = HEADER_BYTES + (self.number - 1) % SLOTS * self.stride
        self.word(offset, 2 * self.number - 1)
        self.word(offset + 8, t_capture_ns)
        self.word(offset + 16, self.number)
        pixels = offset + SLOT_HEADER_BYTES
        self.data[pixels : pixels + WIDTH * HEIGHT * 3] = (
            self.number & 255 if fill is None else fill
        )
        self.word(offset, 2 * self.number)
        self.word(24, self.number)


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def path() -> Iterator[str]:
    path = f"{SHM_DIRECTORY}/vlad-test-{os.getpid()}-{threading.get_native_id()}"
    yield path
    if os.path.exists(path):
        os.unlink(path)


def shm_camera(path: str, clock: Clock, **changes: object) -> Camera:
    entry = Entry(source="shm:" + os.path.basename(path))
    return open_camera(replace(entry, **changes), clock)  # type: ignore[arg-type]


def test_newest_frame_wins_and_is_the_callers_own(path: str) -> None:
    writer, clock = Writer(path), Clock()
    camera = shm_camera(path, clock)
    camera.start()
    assert camera.newest() is None
    for i in range(3):
        writer.publish(clock.now_ns - i)
    first = camera.newest()
    assert first is not None
    assert (first.seq, first.t_capture_ns) == (3, clock.now_ns - 2)
    assert first.image.shape == (HEIGHT, WIDTH, 3)
    assert (first.image == 3).all()
    assert camera.newest() is first
    for _ in range(2 * SLOTS):
        writer.publish(clock.now_ns)
    second = camera.newest()
    assert second is not None
    assert second.seq == 3 + 2 * SLOTS
    assert (first.image == 3).all()
    with pytest.raises(ValueError, match="read-only"):
        first.image[0, 0, 0] = 1
    counters = camera.counters()
    assert counters["frames"] == 2
    assert counters["superseded"] == 2 * SLOTS - 1


def test_a_slot_under_the_writers_hand_is_not_read(path: str) -> None:
    writer, clock = Writer(path), Clock()
    camera = shm_camera(path, clock)
    camera.start()
    writer.publish(clock.now_ns)
    frame = camera.newest()
    writer.publish(clock.now_ns)
    writer.word(HEADER_BYTES + writer.stride, 5)  # odd: as if lapped
    assert camera.newest() is frame
    assert camera.counters()["bad"] == 1
    assert camera.counters()["torn"] == 3


def test_no_picture_is_ever_mixed(path: str) -> None:
    """A writer as fast as it can go; every picture that comes back is of one colour."""
    writer, clock = Writer(path), Clock()
    camera = shm_camera(path, clock)
    camera.start()
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            writer.publish(clock.now_ns)

    thread = threading.Thread(target=write)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that they meet within a frame
    thread.start()
    try:
        seen = 0
        last_seq = 0
        while seen < 300:
            frame = camera.newest()
            if frame is None or frame.seq == last_seq:
                continue
            assert (frame.image == frame.seq & 255).all()
            assert frame.seq > last_seq
            last_seq = frame.seq
            seen += 1
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(interval_s)


def test_stall_and_recovery(path: str) -> None:
    writer, clock = Writer(path), Clock()
    camera = shm_camera(path, clock)
    assert camera.state(clock.now_ns) is CameraState.LOST
    camera.start()
    clock.now_ns += 2_900 * MS  # a camera may take so long to its first frame
    assert camera.state(clock.now_ns) is CameraState.OK
    writer.publish(clock.now_ns)
    camera.newest()
    clock.now_ns += 166 * MS
    assert camera.state(clock.now_ns) is CameraState.OK
    clock.now_ns += 1 * MS
    assert camera.state(clock.now_ns) is CameraState.STALLED
    writer.publish(clock.now_ns)
    camera.newest()
    assert camera.state(clock.now_ns) is CameraState.OK


def test_never_a_first_frame_is_a_stall(path: str) -> None:
    _writer, clock = Writer(path), Clock()
    camera = shm_camera(path, clock)
    camera.start()
    clock.now_ns += 3_001 * MS
    assert camera.newest() is None
    assert camera.state(clock.now_ns) is CameraState.STALLED


def test_lost_when_removed_and_found_again(path: str) -> None:
    writer, clock = Writer(path), Clock()
    camera = shm_camera(path, clock)
    camera.start()
    for _ in range(7):
        writer.publish(clock.now_ns)
    before = camera.newest()
    assert before is not None
    os.unlink(path)
    assert camera.newest() is None
    assert camera.state(clock.now_ns) is CameraState.LOST
    assert "removed" in camera.why_lost

    tries = []
    for _ in range(300):  # 30 s in steps of 0.1 s
        clock.now_ns += 100 * MS
        failed = camera.counters()["reopen_failed"]
        assert not camera.reopen(clock.now_ns)
        if camera.counters()["reopen_failed"] > failed:
            tries.append((clock.now_ns - 1_000_000_000) // MS)
    assert tries == [600, 1600, 3600, 7600, 15600, 23600]

    again = Writer(path)
    again.publish(clock.now_ns)
    assert any(camera.reopen(clock.now_ns + i * 100 * MS) for i in range(81))
    after = camera.newest()
    assert after is not None
    assert after.seq > before.seq
    assert camera.state(clock.now_ns) is CameraState.OK
    assert camera.counters()["reopened"] == 1


def test_a_replaced_ring_is_a_lost_camera(path: str) -> None:
    """A simulator killed and started again leaves a new file under the old name."""
    writer, clock = Writer(path), Clock()
    camera = shm_camera(path, clock)
    camera.start()
    writer.publish(clock.now_ns)
    camera.newest()
    os.unlink(path)
    Writer(path)
    assert camera.state(clock.now_ns) is CameraState.LOST


def test_times_ahead_of_now_are_counted(path: str) -> None:
    writer, clock = Writer(path), Clock()
    camera = shm_camera(path, clock)
    camera.start()
    writer.publish(clock.now_ns + 50 * MS)
    frame = camera.newest()
    assert frame is not None
    assert frame.t_capture_ns == clock.now_ns + 50 * MS
    assert camera.counters()["negative_age"] == 1


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (struct.pack("<8s4IQ", b"VLADFRM2", WIDTH, HEIGHT, 3, 4, 0), "no frame ring"),
        (struct.pack("<8s4IQ", b"VLADFRM1", WIDTH, HEIGHT, 4, 4, 0), "out of bounds"),
        (struct.pack("<8s4IQ", b"VLADFRM1", WIDTH, HEIGHT, 3, 3, 0), "out of bounds"),
        (struct.pack("<8s4IQ", b"VLADFRM1", 0, HEIGHT, 3, 4, 0), "out of bounds"),
        (struct.pack("<8s4IQ", b"VLADFRM1", 2**31, 2**31, 3, 4, 0), "out of bounds"),
        (struct.pack("<8s4IQ", b"VLADFRM1", WIDTH, HEIGHT, 3, 64, 0), "its header needs"),
        (struct.pack("<8s4IQ", b"VLADFRM1", WIDTH // 2, HEIGHT, 3, 4, 0), "holds 16x24"),
        (b"", "0 bytes"),
    ],
)
def test_a_file_that_is_no_ring_is_refused(path: str, header: bytes, says: str) -> None:
    with open(path, "wb") as file:
        file.write(header)
        if header:
            file.write(bytes(HEADER_BYTES - 32 + 4 * slot_stride(WIDTH, HEIGHT)))
    camera = shm_camera(path, Clock())
    with pytest.raises(DeviceError, match=says) as caught:
        camera.start()
    assert path in str(caught.value)
    assert "camera top" in str(caught.value)


def test_an_absent_ring_says_what_to_do(path: str) -> None:
    with pytest.raises(DeviceError, match="is `vlad sim` running"):
        shm_camera(path, Clock()).start()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": "usb:1"}, "neither shm:NAME nor /dev/"),
        ({"source": "shm:"}, "must name a file"),
        ({"source": "shm:../etc/passwd"}, "must name a file"),
        ({"fps": 0.0}, "no format"),
        ({"width": -1}, "no format"),
    ],
)
def test_entries_that_are_no_camera(changes: dict[str, object], says: str) -> None:
    entry = replace(Entry(source="shm:x"), **changes)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=says) as caught:
        open_camera(entry)
    assert "camera top" in str(caught.value)


def test_backoff_doubles_to_eight_seconds() -> None:
    backoff = Backoff()
    now, tries = 0, []
    while len(tries) < 7:
        if backoff.due(now):
            tries.append(now)
        now += 10 * MS
    gaps = [b - a for a, b in zip([0, *tries], tries, strict=False)]
    assert [gap // MS for gap in gaps] == [500, 1000, 2000, 4000, 8000, 8000, 8000]
    assert gaps[-1] == BACKOFF_MAX_NS
    backoff.reset()
    assert not backoff.due(now)
    assert backoff.due(now + 500 * MS)
