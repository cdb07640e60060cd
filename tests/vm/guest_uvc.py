"""In the guest: V4l2Camera against the kernel's uvcvideo and a USB camera emulated over USB/IP."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg

sys.path.insert(0, str(Path(__file__).parent))
import usb_camera
from guest_camera import say, wait
from usb_camera import FPS, HEIGHT, WIDTH, YUY2, UsbCamera

from vlad import cameras_command
from vlad._native.capture import V4l2Capture
from vlad.camera import CameraState
from vlad.v4l2_camera import V4l2Camera

SHADES = tuple(range(16, 236, 20))


@dataclass(frozen=True)
class Entry:
    name: str = "top"
    source: str = "/dev/video0"
    width: int = WIDTH
    height: int = HEIGHT
    fps: float = FPS
    format: str = "MJPG"
    controls: dict[str, int] = field(default_factory=dict)
    cpu: int = -1


def shade_of(number: int) -> int:
    """Of frame `number`: says which frame a picture is, and survives JPEG."""
    return SHADES[number % len(SHADES)]


JPEGS = {
    shade: bytes(simplejpeg.encode_jpeg(np.full((HEIGHT, WIDTH, 3), shade, np.uint8), 90, "RGB")) for shade in SHADES
}


def picture(number: int, format_index: int) -> bytes:
    shade = shade_of(number)
    if format_index == YUY2:
        return bytes([shade, 128]) * (WIDTH * HEIGHT)
    return JPEGS[shade]


def state(camera: V4l2Camera) -> CameraState:
    return camera.state(time.monotonic_ns())


def formats(device: UsbCamera) -> None:
    for fourcc in ("MJPG", "YUYV"):
        camera = V4l2Camera(Entry(format=fourcc), time.monotonic_ns)
        camera.start()
        wait("first frame", camera.newest)
        bad_before = camera.counters()["bad"]  # a stream may be joined within a picture
        ages, seen, last = [], set(), 0
        while len(ages) < 30:
            frame = camera.newest()
            assert frame is not None
            if frame.seq == last:
                time.sleep(0.002)
                continue
            last = frame.seq
            ages.append((time.monotonic_ns() - frame.t_capture_ns) / 1e6)
            grey = int(frame.image.mean())
            luma = grey if fourcc == "MJPG" else round(grey * 219 / 255 + 16)
            assert min(abs(luma - shade) for shade in SHADES) <= 2, grey
            assert frame.image.std() < 2
            seen.add(grey)
        counters = camera.counters()
        assert len(seen) >= len(SHADES) - 1, "the pictures do not change"
        assert counters["negative_age"] == counters["stamped_here"] == 0
        assert counters["bad"] == bad_before, counters
        assert counters["errors"] == 0, counters
        say(f"{fourcc}: age {min(ages):.1f}..{max(ages):.1f} ms, {counters}")
        camera.close()
    assert device.sent > 60


def bad_frames(device: UsbCamera) -> None:
    camera = V4l2Camera(Entry(), time.monotonic_ns)
    camera.start()
    wait("first frame", camera.newest)
    device.spoil = True
    wait("corrupt frames", lambda: camera.counters()["corrupt"] >= 3)
    device.spoil, device.cut = False, True
    wait("cut JPEGs", lambda: camera.newest() and camera.counters()["undecodable"] >= 2)
    device.cut = False
    frames = camera.counters()["frames"]
    wait("frames after", lambda: camera.counters()["frames"] > frames + 5)
    say(f"MJPG: {camera.counters()}")
    camera.close()
    camera = V4l2Camera(Entry(format="YUYV"), time.monotonic_ns)
    camera.start()
    wait("first frame", camera.newest)
    device.cut = True
    wait("cut YUYV", lambda: camera.counters()["bad"] >= 3)
    device.cut = False
    say(f"YUYV: {camera.counters()}")
    camera.close()


def stall_and_replug(device: UsbCamera) -> None:
    camera = V4l2Camera(Entry(), time.monotonic_ns)
    camera.start()
    wait("first frame", camera.newest)
    device.hold = True
    took = wait("stall", lambda: state(camera) is CameraState.STALLED)
    say(f"stalled after {took * 1e3:.0f} ms")
    device.hold = False
    wait("recovery", lambda: camera.newest() and state(camera) is CameraState.OK)
    before = camera.newest()
    assert before is not None

    device.unplug()
    took = wait("lost", lambda: state(camera) is CameraState.LOST)
    say(f"unplugged: {camera.why_lost} after {took * 1e3:.0f} ms")
    until = time.monotonic() + 1.6
    while time.monotonic() < until:
        assert not camera.reopen(time.monotonic_ns())
        time.sleep(0.01)
    say(f"while gone: {camera.why_lost}")
    device.plug()
    wait("reopen", lambda: camera.reopen(time.monotonic_ns()))
    wait("a frame", camera.newest)
    after = camera.newest()
    assert after is not None
    assert after.seq > before.seq
    assert abs(after.image.mean() - round(after.image.mean())) < 1
    say("back after the replug, by itself")
    camera.close()


def second_node() -> None:
    """A USB camera's metadata node is listed by no one and refused with the way out."""
    found = [camera.node for camera in cameras_command.find_nodes()]
    assert found == ["/dev/video0"], found
    try:
        V4l2Capture("/dev/video1", WIDTH, HEIGHT, "MJPG", FPS).start()
    except OSError as error:
        say(str(error))
    else:
        raise AssertionError("streams from the metadata node")


def main() -> int:
    subprocess.run(["modprobe", "vhci-hcd"], check=True)
    # nodrop: frames with errors are delivered with V4L2_BUF_FLAG_ERROR instead of withheld.
    subprocess.run(["modprobe", "uvcvideo", "nodrop=1"], check=True)
    device = UsbCamera(picture)
    assert usb_camera.VHCI.exists()
    device.plug()
    wait("enumeration", Path("/dev/video1").exists)
    try:
        second_node()
        for step in (formats, bad_frames, stall_and_replug):
            print(step.__name__, flush=True)
            step(device)
    finally:
        device.unplug()  # or the kernel waits for it at power-off
    return 0


if __name__ == "__main__":
    sys.exit(main())
