"""A tick is a function of what the flight record holds: nothing below it reads a word of another
thread or a clock by itself, where a replay could not give it what was read."""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# Read once a tick and recorded, or handed over whole: the bus, seen as `adopted`.
ALLOWED = {"servo_loop.c": {"requests", "refusals", "starve_cause", "realtime", "event_head", "event_tail",
                            "adoption_ready", "p_chunks", "p_accepted", "p_clamped", "p_clamped_elements",
                            "p_tails", "p_negative", "producer", "slept_ns"},
           "servo_sense.c": {"adoption_ready"}}  # fmt: skip


def test_only_the_tick_itself_reads_what_other_threads_write() -> None:
    files = sorted(CSRC.glob("servo_*.c"))
    assert {"servo_loop.c", "servo_mode.c", "servo_sense.c", "servo_wire.c"} <= {f.name for f in files}
    for file in files:
        if file.name in ("servo_push.c", "servo_thread.c"):  # other threads
            continue
        text = file.read_text()
        reads = re.findall(r"atomic_(?:load|exchange)\w*\(\s*&servo->(\w+)", text)
        assert set(reads) <= ALLOWED.get(file.name, set()), file.name
        assert len(reads) == len(re.findall(r"atomic_(?:load|exchange)", text)), f"{file.name}: another atomic"
        assert "clock.h" not in text and "clock_gettime" not in text
