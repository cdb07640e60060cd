"""Clocks: where time comes from, and how late a sleep of this process ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from vlad.doctor.finding import Finding, unknown
from vlad.doctor.root import Root
from vlad.servo import now_ns
from vlad.small_file import Unreadable

AREA = "clocks"
SLOW_SOURCES = {"acpi_pm", "hpet", "jiffies", "refined-jiffies"}
SLEEPS = 100
SLEEP_S = 0.002


def lateness_us() -> list[float]:
    """Of short sleeps of an ordinary thread, sorted."""
    late = []
    for _ in range(SLEEPS):
        due = now_ns() + int(SLEEP_S * 1e9)
        time.sleep(SLEEP_S)
        late.append((now_ns() - due) / 1e3)
    return sorted(late)


def examine(root: Root, measure: Callable[[], list[float]] = lateness_us) -> Iterator[Finding]:
    directory = "/sys/devices/system/clocksource/clocksource0"
    try:
        source = root.text(f"{directory}/current_clocksource")
        if source in SLOW_SOURCES:
            yield Finding(AREA, "source", "warn", f"{source}: every reading of the time is a slow access to a device",
                          f"{directory}/available_clocksource has others; the kernel's log says why it left them")
        else:
            yield Finding(AREA, "source", "ok", source)
    except Unreadable as error:
        yield unknown(AREA, "source", error)
    resolution_ns = time.clock_getres(time.CLOCK_MONOTONIC) * 1e9
    yield Finding(AREA, "resolution", "ok" if resolution_ns <= 1000 else "fail", f"{resolution_ns:.0f} ns",
                  "" if resolution_ns <= 1000 else "a kernel with CONFIG_HIGH_RES_TIMERS=y")
    late = measure()
    yield Finding(AREA, "sleep", "note", f"an ordinary thread wakes {late[len(late) // 2]:.0f} us late in the middle, "
                  f"{late[-1]:.0f} us at worst of {len(late)}; of the servo loop see `vladctl status`")
