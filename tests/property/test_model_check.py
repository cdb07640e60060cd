"""The concurrent parts in every execution (docs/model-check.md), and the checker put to the proof: a
copy of one C file with a bug in it must be found out.

Small here; `make model-check` runs the models in full and all seeded bugs (VLAD_MODEL=full).
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
BUILD = CSRC.parent / "build"
MODELS = sorted(path.stem for path in CSRC.glob("tests/model_*.c"))
FULL = os.environ.get("VLAD_MODEL") == "full"


@dataclass(frozen=True, slots=True)
class Seed:
    """A bug: `old` occurs once in csrc/`file` and becomes `new`; `model` must fail for `because`."""

    name: str
    file: str
    old: str
    new: str
    model: str
    because: str
    quick: bool = False


RACE = r"race: "
TORN = r"record\[w\] == record\[0\]"
FLIGHT = r"head\.size|size >= 0|number"
QUEUE = "action_queue.c"
PUBLISH = "queue->back | FRESH,\n                                                   memory_order_"
TAKE = "queue->front,\n                                                        memory_order_"

SEEDS = [
    Seed("publish-not-released", QUEUE, PUBLISH + "acq_rel", PUBLISH + "acquire", "model_queue", RACE, True),
    Seed("publish-not-acquired", QUEUE, PUBLISH + "acq_rel", PUBLISH + "release", "model_queue", RACE),
    Seed("take-not-acquired", QUEUE, TAKE + "acq_rel", TAKE + "release", "model_queue", RACE),
    Seed("take-not-released", QUEUE, TAKE + "acq_rel", TAKE + "acquire", "model_queue", RACE),
    Seed("published-as-old", QUEUE, "queue->back | FRESH", "queue->back", "model_queue", "published"),
    Seed("taken-without-exchange", QUEUE,
         "queue->front = INDEX & atomic_exchange_explicit(&queue->shared, queue->front,\n"
         "                                                        memory_order_acq_rel);",
         "{ uint32_t was = atomic_load_explicit(&queue->shared, memory_order_acquire);\n"
         "    atomic_store_explicit(&queue->shared, queue->front, memory_order_release);\n"
         "    queue->front = INDEX & was; }", "model_queue", "race: |published", True),
    Seed("seqlock-no-release-fence", "seqlock.h", "    atomic_thread_fence(memory_order_release);\n", "",
         "model_seqlock", TORN, True),
    Seed("seqlock-no-acquire-fence", "seqlock.h", "        atomic_thread_fence(memory_order_acquire);\n", "",
         "model_seqlock", TORN),
    Seed("seqlock-end-relaxed", "seqlock.h", "seq + 2, memory_order_release", "seq + 2, memory_order_relaxed",
         "model_seqlock", TORN),
    Seed("seqlock-begin-relaxed", "seqlock.h", "&lock->seq, memory_order_acquire",
         "&lock->seq, memory_order_relaxed", "model_seqlock", TORN),
    Seed("seqlock-never-odd", "seqlock.h", "seq + 1,", "seq,", "model_seqlock", TORN),
    Seed("seqlock-odd-accepted", "seqlock.h", "!(before & 1) && ", "", "model_seqlock", TORN),
    Seed("record-not-released", "record_ring.c", "&ring->pushed, at, memory_order_release",
         "&ring->pushed, at, memory_order_relaxed", "model_rings", RACE, True),
    Seed("record-not-acquired", "record_ring.c", "&ring->pushed, memory_order_acquire",
         "&ring->pushed, memory_order_relaxed", "model_rings", RACE),
    Seed("room-not-released", "record_ring.c", "&ring->popped, at, memory_order_release",
         "&ring->popped, at, memory_order_relaxed", "model_rings", RACE),
    Seed("room-not-acquired", "record_ring.c", "&ring->popped, memory_order_acquire",
         "&ring->popped, memory_order_relaxed", "model_rings", RACE),
    Seed("event-not-released", "servo_loop.c", "head + 1, memory_order_release", "head + 1, memory_order_relaxed",
         "model_rings", RACE),
    Seed("event-not-acquired", "servo_loop.c", "&servo->event_head, memory_order_acquire",
         "&servo->event_head, memory_order_relaxed", "model_rings", RACE),
    Seed("event-room-not-released", "servo_loop.c", "tail + 1, memory_order_release",
         "tail + 1, memory_order_relaxed", "model_rings", RACE),
    Seed("event-room-not-acquired", "servo_loop.c", "&servo->event_tail, memory_order_acquire",
         "&servo->event_tail, memory_order_relaxed", "model_rings", RACE),
    Seed("event-loss-not-counted", "servo_loop.c", "servo->now.counters.events_dropped++;", "", "model_rings",
         "events_dropped", True),
    Seed("flight-no-release-fence", "flight_ring.c",
         "    atomic_thread_fence(memory_order_release); /* given up before it is overwritten */\n", "",
         "model_flight", FLIGHT, True),
    Seed("flight-no-acquire-fence", "flight_ring.c", "    atomic_thread_fence(memory_order_acquire);\n", "",
         "model_flight", FLIGHT),
    Seed("flight-not-released", "flight_ring.c", "&ring->head, at, memory_order_release",
         "&ring->head, at, memory_order_relaxed", "model_flight", FLIGHT),
    Seed("flight-not-acquired", "flight_ring.c", "&ring->head, memory_order_acquire",
         "&ring->head, memory_order_relaxed", "model_flight", FLIGHT),
    Seed("flight-tail-read-once", "flight_ring.c",
         "whole = atomic_load_explicit(&ring->tail, memory_order_relaxed);", "whole = first;", "model_flight",
         FLIGHT),
    Seed("requests-without-exchange", "servo_loop.c",
         "atomic_exchange_explicit(&servo->requests, 0, memory_order_acquire);",
         "atomic_load_explicit(&servo->requests, memory_order_acquire);\n"
         "    atomic_store_explicit(&servo->requests, 0, memory_order_relaxed);",
         "model_servo", r"all_taken\(\)", True),
    Seed("request-stored-not-added", "servo_loop.c", "atomic_fetch_or_explicit(&servo->requests",
         "atomic_store_explicit(&servo->requests", "model_servo", r"all_taken\(\)"),
    Seed("adoption-not-released", "servo_loop.c", "&servo->adoption_ready, 1, memory_order_release",
         "&servo->adoption_ready, 1, memory_order_relaxed", "model_servo", RACE),
    Seed("adoption-not-acquired", "servo_sense.c", "&servo->adoption_ready, memory_order_acquire",
         "&servo->adoption_ready, memory_order_relaxed", "model_servo", RACE, True),
    Seed("adoption-room-not-released", "servo_sense.c", "&servo->adoption_ready, 0, memory_order_release",
         "&servo->adoption_ready, 0, memory_order_relaxed", "model_servo", RACE),
    Seed("adoption-room-not-acquired", "servo_loop.c", "&servo->adoption_ready, memory_order_acquire",
         "&servo->adoption_ready, memory_order_relaxed", "model_servo", RACE),
    Seed("pulse-without-exchange", "watchdog.c",
         "atomic_exchange_explicit(&watchdog->pulsed, 0, memory_order_acquire);",
         "atomic_load_explicit(&watchdog->pulsed, memory_order_acquire);\n"
         "    atomic_store_explicit(&watchdog->pulsed, 0, memory_order_relaxed);",
         "model_servo", r"count == 1"),
    Seed("bound-not-released", "watchdog.c", "bound_ns, memory_order_release", "bound_ns, memory_order_relaxed",
         "model_servo", r"watchdog\.active|count == 0"),
    Seed("bound-not-acquired", "watchdog.c", "bound_ns[stage], memory_order_acquire",
         "bound_ns[stage], memory_order_relaxed", "model_servo", r"watchdog\.active|count == 0"),
    Seed("hold-overruled-by-engage", "servo_mode.c", "return requests & (VLAD_REQ_PARK | drive);",
         "return 0;", "model_servo", "VLAD_STOPPING|parking", True),
    Seed("engaged-while-latched", "servo_mode.c",
         "    if (servo->watchdog.latched)\n        why |= VLAD_WHY_LATCHED;\n    else if (reaction >= VLAD_HOLD)",
         "    if (reaction > VLAD_LIMP)", "model_servo", "latched|mode", True),
    Seed("any-engagement", "servo_wire.c", " || timeline->epoch != servo->now.epoch", "", "model_servo",
         "queue_depth|velocity", True),
]


def make(*arguments: str) -> str:
    """Output of make -C csrc, which must succeed. One make at a time: they share objects."""
    BUILD.mkdir(exist_ok=True)
    result = subprocess.run(
        ["flock", "../build/csrc.lock", "make", "--no-print-directory", *arguments],
        cwd=CSRC, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]
    return result.stdout


@pytest.mark.parametrize("model", MODELS)
def test_every_execution(model: str) -> None:
    out = make(f"run/model/{model}", *(["ARGS=full"] if FULL else []))
    found = re.findall(r"^(\S.+?) +(\d+) executions +(\d+) states", out, re.M)
    assert found and all(int(executions) > 1 for _, executions, _ in found), out
    print(out)


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed.quick or FULL], ids=lambda seed: seed.name)
def test_a_seeded_bug_is_found(seed: Seed) -> None:
    source = (CSRC / seed.file).read_text()
    assert source.count(seed.old) == 1, f"{seed.file} has changed: seed the bug where its line is now"
    folder = BUILD / "seeded" / seed.name
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.iterdir():
        left_over.unlink()
    (folder / seed.file).write_text(source.replace(seed.old, seed.new))
    make("seeded", f"SEEDED={folder}", f"MODEL={seed.model}")
    result = subprocess.run([folder / seed.model], capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 1, f"not found:\n{result.stdout}"
    assert re.search(rf"FAILED in thread -?\d: .*({seed.because})", result.stdout), result.stdout[-3000:]


def test_each_seed_has_its_own_name() -> None:
    assert len({seed.name for seed in SEEDS}) == len(SEEDS)
