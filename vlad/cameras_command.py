"""`vlad cameras`: what there is to see, what to write into the configuration, and one look.

Devices and formats are found by linuxpy (GPL-3.0-or-later, the extra `vlad[v4l2]`), imported here
and for controls only; without it nodes are listed by what sysfs says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vlad.camera import SHM_PREFIX, open_camera
from vlad.errors import DeviceError
from vlad.shm_camera import MAGIC, SHM_DIRECTORY, ShmRing
from vlad.v4l2_camera import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

PREVIEW_TIMEOUT_S = 10.0
SETTLE_FRAMES = 10  # exposure and white balance of a USB camera need a few


@dataclass(frozen=True, slots=True)
class Mode:
    """One picture format. fps: the rates on offer, highest first; empty where not told."""

    format: str
    width: int
    height: int
    fps: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """One source of frames; `source` is what the configuration wants. readable: vlad decodes at
    least one of the modes."""

    source: str
    card: str
    bus: str = ""
    node: str = ""
    modes: tuple[Mode, ...] = ()
    note: str = ""

    @property
    def readable(self) -> tuple[Mode, ...]:
        return tuple(m for m in self.modes if m.format in FORMATS or m.format == "RGB")


@dataclass(frozen=True, slots=True)
class Choice:
    """A `vlad.camera.CameraEntry` from the command line."""

    name: str
    source: str
    width: int
    height: int
    fps: float
    format: str
    controls: dict[str, int] = field(default_factory=dict)
    cpu: int = -1


def find_rings(directory: str = SHM_DIRECTORY) -> list[Found]:
    """The cameras of running simulators."""
    found = []
    for path in sorted(Path(directory).iterdir()):
        try:
            with path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    continue
            ring = ShmRing(str(path))
        except (OSError, DeviceError):
            continue  # not ours to judge: anything may lie in /dev/shm
        mode = Mode("RGB", ring.width, ring.height)
        found.append(Found(SHM_PREFIX + path.name, "simulated camera", modes=(mode,)))
    return found


def stable_name(node: str, links: str = "/dev/v4l/by-path") -> str:
    """The by-path link of a node, or the node where udev made none."""
    if os.path.isdir(links):
        for link in sorted(Path(links).iterdir()):
            if os.path.realpath(link) == node:
                return str(link)
    return node


def find_nodes() -> list[Found]:
    """Every V4L2 node that captures video; nodes that cannot be opened with the reason."""
    names = sorted(
        (f"/dev/{p.name}" for p in Path("/sys/class/video4linux").glob("video*")),
        key=lambda node: int(node.removeprefix("/dev/video")),
    )
    return [found for node in names if (found := look_into(node)) is not None]


def look_into(node: str) -> Found | None:
    """What a node offers; None for one that does not capture video (a metadata or output node)."""
    try:
        from linuxpy.video import device as v4l2
        from linuxpy.video import raw
    except ImportError:
        card = Path("/sys/class/video4linux", Path(node).name, "name").read_text().strip()
        note = "formats: pip install 'vlad[v4l2]'"
        return Found(stable_name(node), card, node=node, note=note)
    try:
        descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Found(stable_name(node), "?", node=node, note=error.strerror or str(error))
    try:
        caps = v4l2.read_capabilities(descriptor)
        able = v4l2.Capability(caps.device_caps)
        if v4l2.Capability.VIDEO_CAPTURE in able:
            kind = v4l2.BufferType.VIDEO_CAPTURE
        elif v4l2.Capability.VIDEO_CAPTURE_MPLANE in able:
            kind = v4l2.BufferType.VIDEO_CAPTURE_MPLANE
        else:
            return None
        modes: list[Mode] = []
        # Not linuxpy's own listing: it fails on multi-planar nodes and on formats it does not know.
        query = raw.v4l2_fmtdesc(type=kind)
        for description in v4l2.iter_read(descriptor, v4l2.IOC.ENUM_FMT, query):
            modes.extend(read_modes(descriptor, description.pixelformat))
        return Found(
            stable_name(node), caps.card.decode(), caps.bus_info.decode(), node, tuple(modes)
        )
    except OSError as error:
        return Found(stable_name(node), "?", node=node, note=error.strerror or str(error))
    finally:
        os.close(descriptor)


def read_modes(descriptor: int, pixel_format: int) -> list[Mode]:
    """Sizes and rates of one pixel format; a stepwise range becomes its largest size."""
    from linuxpy.video import device as v4l2
    from linuxpy.video import raw

    fourcc = v4l2.human_pixel_format(pixel_format)
    modes = []
    query = raw.v4l2_frmsizeenum(pixel_format=pixel_format)
    for size in v4l2.iter_read(descriptor, v4l2.IOC.ENUM_FRAMESIZES, query):
        discrete = size.type == v4l2.FrameSizeType.DISCRETE
        width = size.m1.discrete.width if discrete else size.m1.stepwise.max_width
        height = size.m1.discrete.height if discrete else size.m1.stepwise.max_height
        asked = raw.v4l2_frmivalenum(pixel_format=pixel_format, width=width, height=height)
        rates = set()
        for rate in v4l2.iter_read(descriptor, v4l2.IOC.ENUM_FRAMEINTERVALS, asked):
            # Of a range the shortest interval: the highest rate.
            single = rate.type == v4l2.FrameIntervalType.DISCRETE
            interval = rate.discrete if single else rate.stepwise.min
            if interval.numerator:
                rates.add(round(interval.denominator / interval.numerator, 2))
        modes.append(Mode(fourcc, width, height, tuple(sorted(rates, reverse=True))))
        if not discrete:
            break
    return modes


def print_found(found: Sequence[Found], out: TextIO) -> None:
    if not found:
        out.write("no cameras: plug one in, or start `vlad sim`\n")
    for camera in found:
        node = f"  ({camera.node})" if camera.node not in ("", camera.source) else ""
        out.write(f"{camera.source}{node}\n    {camera.card}  {camera.bus}\n".replace("  \n", "\n"))
        if camera.note:
            out.write(f"    {camera.note}\n")
        for mode in camera.readable:
            rates = ", ".join(f"{rate:g}" for rate in mode.fps)
            at = f" at {rates} fps" if rates else ""
            out.write(f"    {mode.format} {mode.width}x{mode.height}{at}\n")
        others = sorted({m.format for m in camera.modes} - {m.format for m in camera.readable})
        if others:
            out.write(f"    not read by vlad: {', '.join(others)}\n")


def print_entry(choice: Choice, out: TextIO) -> None:
    """The `[[camera]]` table of the configuration."""
    for_shm = choice.source.startswith(SHM_PREFIX)
    out.write(f"[[camera]]\nname = {json.dumps(choice.name)}\n")
    out.write(f"source = {json.dumps(choice.source)}\n")
    out.write(f"width = {choice.width}\nheight = {choice.height}\nfps = {choice.fps:g}\n")
    if not for_shm:
        out.write(f"format = {json.dumps(choice.format)}\n")


def save_preview(choice: Choice, file: Path) -> str:
    """Save one frame as JPEG, after a few for the exposure to settle. Returns a line about it.
    Raises DeviceError when the camera fails or no frame comes in 10 s."""
    import simplejpeg

    camera = open_camera(choice)
    camera.start()
    try:
        until = time.monotonic() + PREVIEW_TIMEOUT_S
        first_seq = None
        while time.monotonic() < until:
            frame = camera.newest()
            if frame is not None:
                first_seq = frame.seq if first_seq is None else first_seq
                if frame.seq >= first_seq + SETTLE_FRAMES:
                    break
            time.sleep(0.005)
        else:
            raise DeviceError(
                f"{choice.source}: no {SETTLE_FRAMES} frames in {PREVIEW_TIMEOUT_S:g} s:"
                f" {camera.why_lost} {dict(camera.counters())}"
            )
    finally:
        camera.close()
    file.write_bytes(simplejpeg.encode_jpeg(frame.image, 90, "RGB"))
    height, width, _ = frame.image.shape
    return f"{file}: {width}x{height}, mean {frame.image.mean():.0f} of 255"


def best_mode(found: Sequence[Found], source: str) -> Mode:
    """640x480, or the nearest to it, in the first of vlad's formats; of what the source offers."""
    for camera in found:
        if source in (camera.source, camera.node) and camera.readable:
            order = ("RGB", *FORMATS)
            return min(
                camera.readable,
                key=lambda m: (order.index(m.format), abs(m.width * m.height - 640 * 480)),
            )
    return Mode("MJPG", 640, 480)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="vlad cameras", description="Find, name and preview cameras; without options: list."
    )
    p.add_argument("--json", action="store_true", help="the list as JSON")
    p.add_argument("--source", help="the camera to name or preview: a node, or shm:NAME")
    p.add_argument("--name", help="print the configuration entry of --source under this name")
    p.add_argument("--preview", type=Path, metavar="FILE.jpg", help="save a frame of --source")
    p.add_argument("--format", choices=FORMATS)
    p.add_argument("--width", type=int)
    p.add_argument("--height", type=int)
    p.add_argument("--fps", type=float, default=30.0)
    return p


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0, 1 the camera failed (stderr says how), 2 usage."""
    usage = parser()
    arguments = usage.parse_args(argv)
    if (arguments.name or arguments.preview) and not arguments.source:
        usage.error("--name and --preview need --source; `vlad cameras` lists sources")
    if arguments.preview and arguments.preview.suffix not in (".jpg", ".jpeg"):
        usage.error(f"--preview {arguments.preview}: the file is a JPEG, call it .jpg")
    found = [*find_nodes(), *find_rings()]
    if not arguments.source:
        if arguments.json:
            json.dump([asdict(camera) for camera in found], sys.stdout, indent=2)
            sys.stdout.write("\n")
        else:
            print_found(found, sys.stdout)
        return 0
    mode = best_mode(found, arguments.source)
    choice = Choice(
        arguments.name or "camera",
        arguments.source,
        arguments.width or mode.width,
        arguments.height or mode.height,
        arguments.fps,
        arguments.format or (mode.format if mode.format in FORMATS else "MJPG"),
    )
    try:
        if arguments.preview:
            sys.stderr.write(save_preview(choice, arguments.preview) + "\n")
    except (DeviceError, OSError) as error:
        sys.stderr.write(f"vlad cameras: {error}\n")
        return 1
    if arguments.name or not arguments.preview:
        print_entry(choice, sys.stdout)
    return 0
