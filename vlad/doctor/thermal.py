"""Thermal zones: how hot it is, and whether the daemon watches the right one."""

from __future__ import annotations

from collections.abc import Iterator

from vlad.config_keys import BoardKeys
from vlad.doctor.finding import Finding, unknown
from vlad.doctor.root import Root
from vlad.small_file import Unreadable

AREA = "thermal"
NEAR_C = 10.0
CPU_TYPES = ("a55", "cpu", "x86_pkg_temp", "soc")


def examine(root: Root, board: BoardKeys | None) -> Iterator[Finding]:
    zones = root.glob("/sys/class/thermal/thermal_zone*")
    for zone in zones:
        name = f"/{zone.relative_to(root.path)}"
        try:
            kind, celsius = root.text(f"{name}/type"), root.number(f"{name}/temp") / 1000
        except Unreadable as error:
            yield unknown(AREA, zone.name, error)
            continue
        limit_c = _passive_c(root, name) or (board.throttle_c if board else 85.0)
        hot = celsius >= limit_c - NEAR_C
        yield Finding(AREA, zone.name, "warn" if hot else "ok", f"{kind}: {celsius:.1f} C, throttles at {limit_c:g} C",
                      "more cooling: a processor that throttles in motion holds the arm (fault 42)" if hot else "")
    yield from _watched(root, board, [f"/{z.relative_to(root.path)}" for z in zones])


def _passive_c(root: Root, zone: str) -> float | None:
    """The lowest passive trip point."""
    found = []
    for path in root.glob(f"{zone}/trip_point_*_type"):
        name = f"/{path.relative_to(root.path)}"
        try:
            if root.text(name) == "passive":
                found.append(root.number(name.removesuffix("type") + "temp") / 1000)
        except Unreadable:
            continue
    return min(found, default=None)


def _watched(root: Root, board: BoardKeys | None, zones: list[str]) -> Iterator[Finding]:
    if board is None:
        return
    if board.thermal_zone is not None:
        try:
            root.number(board.thermal_zone)
        except Unreadable as error:
            yield Finding(AREA, "watched", "fail", f"board.thermal_zone: {error}", "one of " + ", ".join(zones))
            return
        yield Finding(AREA, "watched", "ok", board.thermal_zone)
        return
    if not zones:
        yield Finding(AREA, "watched", "note", "no thermal zone on this machine")
        return
    best = next((z for z in zones if any(t in root.text(f"{z}/type").lower() for t in CPU_TYPES)), zones[0])
    yield Finding(AREA, "watched", "warn", "board.thermal_zone is not set: heat is noticed only when inference is slow",
                  f'thermal_zone = "{best}/temp"')
