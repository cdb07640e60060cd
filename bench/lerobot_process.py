"""LeRobot's policy in a process of its own, asked for one chunk at a time: see lerobot_chunks.py."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.reference.test_smolvla_chunks import LEROBOT_PYTHON

Answer = dict[str, Any]


@contextlib.contextmanager
def lerobot_chunks(data: Path, threads: int) -> Iterator[Callable[[int], Answer]]:
    """What answers a case of the reference under `data` with its chunk and cost; warmed up."""
    process = subprocess.Popen(
        [LEROBOT_PYTHON, Path(__file__).with_name("lerobot_chunks.py"), data, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def one_chunk(case: int) -> Answer:
        process.stdin.write(f"{case}\n")
        process.stdin.flush()
        answer: Answer = json.loads(process.stdout.readline())
        return answer

    one_chunk(0)
    yield one_chunk
    process.stdin.close()
    process.wait(timeout=60)


def compared(theirs: list[Answer], median_s: float, best_s: float, cpu_s: list[float]) -> dict[str, Any]:
    """Their times and ours beside each other, for extra_info: a ratio above 1 is how much faster ours is."""
    walls, cpus = [a["wall_s"] for a in theirs], [a["cpu_s"] for a in theirs]
    return {
        "lerobot_wall_s": [round(answer["wall_s"], 3) for answer in theirs],
        "lerobot_cpu_s": [round(answer["cpu_s"], 3) for answer in theirs],
        "cpu_s": [round(value, 3) for value in cpu_s],
        "times_faster_wall": round(statistics.median(walls) / median_s, 2),
        "times_faster_wall_best": round(min(walls) / best_s, 2),
        "times_less_cpu": round(statistics.median(cpus) / statistics.median(cpu_s), 2),
    }
