"""The Neutron NPU: its node, and whether driver and firmware are of one release."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vlad.doctor.finding import Finding
from vlad.doctor.root import Root
from vlad.neutron import MAX_BYTES, versions_in

AREA = "npu"
NODE = "/dev/neutron0"


def present(root: Root) -> bool:
    return root.at(NODE).exists() or root.at("/sys/class/neutron").exists()


def examine(root: Root, driver: str, firmware: str, *, wanted: bool) -> Iterator[Finding]:
    """driver, firmware: the files that hold their versions. wanted: a block of the configuration runs on it."""
    if not present(root):
        if wanted:
            yield Finding(AREA, "node", "fail", f"a block is to run on an NPU and there is no {NODE}",
                          "the BSP's kernel with CONFIG_NEUTRON, and its firmware; dmesg | grep -i neutron")
        else:
            yield Finding(AREA, "node", "note", "no Neutron NPU on this machine")
        return
    node = root.at(NODE)
    if not node.exists():
        yield Finding(AREA, "node", "fail", f"the kernel knows an NPU, but no {NODE}: its firmware did not start",
                      "dmesg | grep -iE 'neutron|remoteproc'")
    elif not os.access(node, os.R_OK | os.W_OK):
        yield Finding(AREA, "node", "warn", f"{NODE} may not be opened by this user",
                      "group video, which systemd/70-vlad.rules gives it")
    else:
        yield Finding(AREA, "node", "ok", NODE)
    yield _versions(root, driver, firmware)


def _versions(root: Root, driver: str, firmware: str) -> Finding:
    found: dict[str, set[str]] = {}
    for what, path in (("driver", driver), ("firmware", firmware)):
        try:
            with root.at(path).open("rb") as file:
                found[what] = versions_in(file.read(MAX_BYTES))
        except OSError as error:
            return Finding(AREA, "versions", "fail", f"{what} {path}: {error.strerror}",
                           "install the BSP's packages neutron and neutron-firmware")
        if not found[what]:
            return Finding(AREA, "versions", "unknown", f"{what} {path} holds no version that could be read")
    shared = found["driver"] & found["firmware"]
    shown = "; ".join(f"{what} {', '.join(sorted(versions))}" for what, versions in found.items())
    if not shared:
        return Finding(AREA, "versions", "fail", f"they differ: {shown}",
                       "driver, firmware and the converter of the bundle must be of one release of the BSP")
    return Finding(AREA, "versions", "ok", f"{', '.join(sorted(shared))} in driver and firmware; the converter's, too?")
