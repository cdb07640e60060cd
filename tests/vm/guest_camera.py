"""In the guest: V4l2Capture and V4l2Camera against the kernel's vivid, single- and multi-planar.

vivid draws colour bars, stamps frames ahead of now, and can be told to fail; its nodes are real.
"""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from linuxpy.video.device import Device

from vlad import cameras_command
from vlad._native.capture import V4l2Capture
from vlad.camera import CameraState
from vlad.errors import DeviceError
from vlad.v4l2_camera import V4l2Camera

WIDTH, HEIGHT, FPS = 640, 360, 30.0
SINGLE, MULTI = "/dev/video0", "/dev/video1"
# vivid's default pattern: eight bars at 75 %, left to right.
BARS = [(191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0)]
BARS += [(191, 0, 191), (191, 0, 0), (0, 0, 191), (0, 0, 0)]


@dataclass(frozen=True)
class Entry:
    name: str = "top"
    source: str = SINGLE
    width: int = WIDTH
    height: int = HEIGHT
    fps: float = FPS
    format: str = "YUYV"
    controls: dict[str, int] = field(default_factory=dict)
    cpu: int = -1


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def wait(what: str, done: Callable[[], object], seconds: float = 20.0) -> float:
    """Seconds until `done`; an emulated machine on a busy host is slow, so the limit is wide."""
    start = time.monotonic()
    while not done():
        assert time.monotonic() - start < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.002)
    return time.monotonic() - start


def press(node: str, control: str, value: int | None = None) -> None:
    """A control of vivid; None presses a button."""
    with Device(node) as device:
        known = {c.config_name: c for c in device.controls.values()}
        if value is None:
            known[control].push()
        else:
            known[control].value = value


def started(node: str, fourcc: str, n_buffers: int = 6) -> V4l2Capture:
    capture = V4l2Capture(node, WIDTH, HEIGHT, fourcc, FPS, n_buffers)
    capture.start()
    wait("first frame", lambda: capture.counters()["frames"] > 0)
    return capture


def check_bars(image: np.ndarray) -> None:
    row = image[HEIGHT - 20 : HEIGHT - 10].astype(float).mean(axis=0)
    for i, want in enumerate(BARS):
        got = row[(2 * i + 1) * WIDTH // 16]
        assert np.abs(got - want).max() <= 6, f"bar {i}: {got}, drawn as {want}"


def capture_formats() -> None:
    for node, fourcc in (
        (SINGLE, "YUYV"),
        (SINGLE, "NV12"),
        (MULTI, "YUYV"),
        (MULTI, "NV12"),
        (MULTI, "NM12"),
    ):
        capture = started(node, fourcc)
        stamps: list[tuple[int, int]] = []
        while len(stamps) < 30:
            lent = capture.newest(stamps[-1][0] if stamps else 0)
            if lent is None:
                time.sleep(0.002)
                continue
            with lent:
                stamps.append((lent.seq, lent.t_capture_ns))
                if len(stamps) == 30:
                    check_bars(lent.rgb())
                    with memoryview(lent) as view:
                        assert view.readonly
                        assert len(view) == lent.bytesused
        counters = capture.counters()
        period = (stamps[-1][1] - stamps[0][1]) / (stamps[-1][0] - stamps[0][0])
        lost = counters["sequence_gaps"]
        say(f"{node} {fourcc}: period {period / 1e6:.2f} ms, gaps {lost}, {counters}")
        frames = stamps[-1][0] - stamps[0][0]
        # Frames that vivid skipped on a busy host lengthen the period by just that many.
        nominal = 1e9 / FPS * (frames + lost) / frames
        assert abs(period - nominal) / nominal < 0.1
        assert counters["stamped_here"] == 0
        assert counters["corrupt"] == counters["short"] == counters["errors"] == 0
        capture.stop()
        assert capture.state == "closed"


def borrow_rules() -> None:
    capture = started(SINGLE, "YUYV", n_buffers=5)
    lent = capture.newest()
    assert lent is not None
    view = memoryview(lent)
    before = bytes(view)
    frames = capture.counters()["frames"]
    wait("20 more frames", lambda: capture.counters()["frames"] >= frames + 20)
    assert bytes(view) == before, "a borrowed frame was written over"
    assert capture.newest() is None
    assert capture.counters()["refused"] == 1
    try:
        lent.give_back()
    except BufferError:
        pass
    else:
        raise AssertionError("gave back a frame that was in use")
    capture.stop()
    assert capture.state == "stopped"
    assert bytes(view) == before, "unmapped under a borrower"
    view.release()
    lent.give_back()
    assert capture.state == "closed"
    capture.start()
    capture.stop()
    say("borrowed frames stay, also over stop; the last one back closes the device")


def refusals() -> None:
    for arguments, code in (
        ((SINGLE, 641, 360, "YUYV", FPS), errno.EINVAL),
        ((SINGLE, 642, 360, "YUYV", FPS), errno.EINVAL),
        ((SINGLE, WIDTH, HEIGHT, "MJPG", FPS), errno.EINVAL),
        ((SINGLE, WIDTH, HEIGHT, "YUYV", 90.0), errno.ERANGE),
    ):
        capture = V4l2Capture(*arguments)
        try:
            capture.start()
        except OSError as error:
            assert error.errno == code, error
        else:
            raise AssertionError(f"{arguments} was accepted: {capture.offered}")
    first = started(SINGLE, "YUYV")
    second = V4l2Camera(Entry(), time.monotonic_ns)
    try:
        second.start()
    except DeviceError as error:
        assert "another program streams from it" in str(error)
        say(str(error))
    else:
        raise AssertionError("two programs stream from one node")
    first.stop()


def injected_errors() -> None:
    capture = started(SINGLE, "YUYV")
    press(SINGLE, "inject_v4l2_buf_flag_error")
    wait("a corrupt frame", lambda: capture.counters()["corrupt"] == 1)
    # Lets the next QBUF fail in the driver, which hands the buffer back with an error.
    press(SINGLE, "inject_vidioc_qbuf_error")
    press(SINGLE, "percentage_of_dropped_buffers", 50)
    wait("gaps", lambda: capture.counters()["sequence_gaps"] >= 5)
    press(SINGLE, "percentage_of_dropped_buffers", 0)
    frames = capture.counters()["frames"]
    wait("frames after errors", lambda: capture.counters()["frames"] > frames + 10)
    say(f"lived through corrupt frames, drops and a failed QBUF: {capture.counters()}")
    press(SINGLE, "inject_fatal_streaming_error")
    took = wait("lost", lambda: capture.state == "lost")
    say(f"fatal streaming error: {capture.lost} after {took * 1e3:.0f} ms")
    capture.stop()


def lose(camera: V4l2Camera, cause: Callable[[], object]) -> int:
    """Until the camera is lost; seq of the last frame before."""
    before = camera.newest()
    assert before is not None
    cause()
    took = wait("lost", lambda: camera.state(time.monotonic_ns()) is CameraState.LOST)
    assert camera.newest() is None
    say(f"{camera.why_lost}: {took * 1e3:.0f} ms after the command")
    assert "No such device" in camera.why_lost
    return before.seq


def back(camera: V4l2Camera, before_seq: int) -> None:
    took = wait("reopen", lambda: camera.reopen(time.monotonic_ns()))
    wait("a frame", camera.newest)
    frame = camera.newest()
    assert frame is not None
    assert frame.seq > before_seq
    check_bars(frame.image)
    say(f"back {took * 1e3:.0f} ms later")


def node_of(name: str) -> str:
    """The node of that name now: it is renumbered at each bind."""
    names = {p.parent.name: p.read_text() for p in Path("/sys/class/video4linux").glob("*/name")}
    (node,) = (node for node, has in names.items() if has.strip() == name)
    return f"/dev/{node}"


def stall_and_loss() -> None:
    link = Path("/dev/v4l/by-path/platform-vivid.0-multi")  # udev would make it
    link.parent.mkdir(parents=True)
    link.symlink_to(node_of("vivid-001-vid-cap"))
    camera = V4l2Camera(Entry(source=str(link), format="NM12"), time.monotonic_ns)
    camera.start()
    wait("first frame", camera.newest)
    press(MULTI, "percentage_of_dropped_buffers", 100)
    took = wait("stall", lambda: camera.state(time.monotonic_ns()) is CameraState.STALLED)
    say(f"stalled {took * 1e3:.0f} ms after the last control")
    beats = camera.counters()["beats"]
    wait("beats", lambda: camera.counters()["beats"] > beats + 3)
    press(MULTI, "percentage_of_dropped_buffers", 0)
    wait("recovery", lambda: camera.state(time.monotonic_ns()) is CameraState.OK)

    # vivid registers the node again when its last user has closed it.
    back(camera, lose(camera, lambda: press(MULTI, "disconnect")))

    driver = Path("/sys/bus/platform/drivers/vivid")
    before_seq = lose(camera, lambda: (driver / "unbind").write_text("vivid.0"))
    link.unlink()
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        assert not camera.reopen(time.monotonic_ns())
        time.sleep(0.01)
    assert camera.counters()["reopen_failed"] >= 1
    say(f"while gone: {camera.why_lost}")
    (driver / "bind").write_text("vivid.0")
    link.symlink_to(node_of("vivid-001-vid-cap"))
    back(camera, before_seq)
    assert camera.counters()["reopened"] == 2
    assert camera.counters()["lost"] == 2
    camera.close()


def discovery() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        assert cameras_command.main(["--json"]) == 0
    found = {camera["source"]: camera for camera in json.loads(out.getvalue())}
    for node, planes in ((SINGLE, {"YUYV", "NV12"}), (MULTI, {"YUYV", "NV12", "NM12"})):
        formats = {mode["format"] for mode in found[node]["modes"]}
        assert planes <= formats, formats
        assert any(
            (m["width"], m["height"]) == (WIDTH, HEIGHT) and FPS in m["fps"]
            for m in found[node]["modes"]
        )
    preview = Path("/tmp/preview.jpg")
    arguments = ["--source", SINGLE, "--preview", str(preview), "--width", "640", "--height", "360"]
    assert cameras_command.main(arguments) == 0
    assert preview.read_bytes()[:2] == b"\xff\xd8"
    camera = V4l2Camera(Entry(controls={"brightness": 100, "nonsense": 1}), time.monotonic_ns)
    try:
        camera.start()
    except DeviceError as error:
        assert "no control 'nonsense'; it has " in str(error)
    else:
        raise AssertionError("set a control that does not exist")
    camera = V4l2Camera(Entry(controls={"brightness": 100}), time.monotonic_ns)
    camera.start()
    camera.close()
    say(f"found {', '.join(found)}; preview of {preview.stat().st_size} bytes; controls set")


def main() -> int:
    subprocess.run(
        ["modprobe", "vivid", "n_devs=2", "node_types=0x1,0x1", "multiplanar=1,2"], check=True
    )
    for step in (
        capture_formats,
        borrow_rules,
        refusals,
        injected_errors,
        discovery,
        stall_and_loss,
    ):
        print(step.__name__, flush=True)
        step()
    return 0


if __name__ == "__main__":
    sys.exit(main())
