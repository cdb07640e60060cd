"""Cameras: the nodes of the configuration, and whether their pictures fit through the USB that they share."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from vlad.camera import SHM_PREFIX
from vlad.cameras_command import Found, look_into
from vlad.config_keys import CameraKeys
from vlad.doctor.finding import Finding
from vlad.doctor.root import Root
from vlad.small_file import Unreadable

AREA = "cameras"
BITS_PER_PIXEL = {"MJPG": 1.0, "YUYV": 16.0, "NV12": 12.0, "NM12": 12.0}  # MJPG: 9 Mbit/s at 640x480, 30 fps
ISOCHRONOUS_SHARE = 0.8  # of a USB bus; the rest is for control and bulk


def examine(root: Root, cameras: Sequence[CameraKeys],
            look: Callable[[str], Found | None] = look_into) -> Iterator[Finding]:
    """look: what a node offers."""
    if not cameras:
        yield Finding(AREA, "configured", "note", "none")
        return
    load: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for camera in cameras:
        if camera.source.startswith(SHM_PREFIX):
            ring = f"/dev/shm/{camera.source.removeprefix(SHM_PREFIX)}"
            there = root.at(ring).exists()
            yield Finding(AREA, camera.name, "ok" if there else "fail",
                          "simulated" if there else f"no {ring}", "" if there else "start `vlad sim`")
            continue
        node = root.target(root.at(camera.source))
        if not node:
            yield Finding(AREA, camera.name, "fail", f"{camera.source} is not there",
                          "plug it in; `vlad cameras` lists what there is")
            continue
        yield _format(camera, look(node))
        if bus := _usb_bus(root, node):
            bits = camera.width * camera.height * camera.fps * BITS_PER_PIXEL[camera.format]
            load[bus].append((camera.name, bits / 1e6))
    for bus, shares in sorted(load.items()):
        yield _bandwidth(root, bus, shares)


def _format(camera: CameraKeys, found: Found | None) -> Finding:
    wanted = f"{camera.format} {camera.width}x{camera.height} at {camera.fps:g} fps"
    if found is None:
        return Finding(AREA, camera.name, "fail", f"{camera.source} captures no video",
                       "the other node of that camera: `vlad cameras`")
    if not found.modes:
        return Finding(AREA, camera.name, "unknown", f"{found.card}: {found.note or 'offers no mode'}")
    sizes = [m for m in found.modes if (m.format, m.width, m.height) == (camera.format, camera.width, camera.height)]
    if not sizes:
        others = sorted({f"{m.format} {m.width}x{m.height}" for m in found.readable})
        return Finding(AREA, camera.name, "fail", f"{found.card} offers no {wanted}", "one of " + ", ".join(others[:8]))
    rates = {rate for mode in sizes for rate in mode.fps}
    if rates and not any(abs(rate - camera.fps) < 0.5 for rate in rates):
        return Finding(AREA, camera.name, "fail", f"{found.card} offers no {wanted}",
                       f"fps = {' or '.join(f'{r:g}' for r in sorted(rates))}")
    return Finding(AREA, camera.name, "ok", f"{found.card}: {wanted}")


def _usb_bus(root: Root, node: str) -> str:
    """The sysfs directory of the root hub that a node hangs on; "" for one that is no USB device."""
    device = root.target(root.at(f"/sys/class/video4linux/{node.rpartition('/')[2]}/device"))
    found = re.match(r"(.*/usb\d+)/", device + "/")
    return found[1] if found else ""


def _bandwidth(root: Root, bus: str, shares: list[tuple[str, float]]) -> Finding:
    name = f"bandwidth {bus.rpartition('/')[2]}"
    needed = sum(mbit for _, mbit in shares)
    said = f"{' + '.join(f'{camera} {mbit:.0f}' for camera, mbit in shares)} = {needed:.0f} Mbit/s"
    try:
        limit = root.number(f"{bus}/speed") * ISOCHRONOUS_SHARE
    except Unreadable as error:
        return Finding(AREA, name, "unknown", f"{said}; {error}")
    if needed > limit:
        return Finding(AREA, name, "fail", f"{said}, of {limit:.0f} that the bus has for pictures: the last camera to "
                       "open finds no room", 'format = "MJPG", fewer fps, or another USB port')
    return Finding(AREA, name, "ok", f"{said}, of {limit:.0f}")
