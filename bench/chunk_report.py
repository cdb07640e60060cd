"""One page: a full-size SmolVLA chunk in every way this project can compare.

    make bench-report        (or: python -m bench.chunk_report [--threads 2] [--rounds 3] [--json FILE])

450 M parameters, random weights, 3 cameras of 640x480, 10 flow steps. Every way runs in a process of its
own; they take turns, so that other work on the machine burdens all; each figure is the least of its
rounds. The floor is the chunk's operations at the rate of one large product, measured in the same run.
Needs LeRobot (`make reference`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests import tiny_smolvla
from tests.reference.test_smolvla_chunks import LEROBOT_PYTHON, checkpoint
from vlad import bundle as bundles

ROOT = Path(__file__).parents[1]
CASE = 2  # of the reference: three cameras
BUDGETS = tomllib.loads((ROOT / "bench/budgets.toml").read_text())


class Way:
    """One way to compute a chunk, as a process that answers lines."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.command = " ".join(Path(word).name if "/" in word else word for word in command)
        self.answers: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def least(self, key: str, part: str | None = None) -> float:
        return float(min((a if part is None else a[part])[key] for a in self.answers))

    def error(self, expected: np.ndarray) -> float:
        """Mean absolute difference from LeRobot's float32 chunk, of its range."""
        found = np.array(self.answers[-1]["chunk"])
        return float(np.abs(found - expected).mean() / (expected.max() - expected.min()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def bundle(kind: str, data: Path) -> Path:
    """A bundle of the full-size checkpoint, built when it is not there yet."""
    path = ROOT / f"build/bench/full-3-{kind}.vlad"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny_smolvla.build(path, *(["--bfloat16"] if kind == "bfloat16" else []), data=data)
    return path


def chunk_flops(path: Path) -> int:
    """Operations of a whole chunk with the longest prefix."""
    manifest = bundles.load(path, verify=False).manifest
    times = {"vision": len(manifest.cameras), "expert": manifest.flow.steps}
    return sum(block.flops * times.get(block.name, 1) for block in manifest.blocks)


def judged(key: str, value: float) -> str:
    """A figure beside its goal in budgets.toml."""
    budget = BUDGETS[key]
    met = value <= budget["goal"] if budget["at"] == "most" else value >= budget["goal"]
    sign = "<=" if budget["at"] == "most" else ">="
    return f"{key:<34}{value:>8.2f} {budget['unit']:<4} goal {sign} {budget['goal']:g}: {'met' if met else 'MISSED'}"


def main() -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", action="append", default=[], metavar="WAY", help="leave one out, by its name")
    parser.add_argument("--json", type=Path, help="all answers, to a file")
    args = parser.parse_args()
    data, threads = checkpoint("full"), str(args.threads)
    float32, bfloat16 = bundle("float32", data), bundle("bfloat16", data)
    lerobot = [str(LEROBOT_PYTHON), "bench/lerobot_chunks.py", str(data), threads]
    ours = [sys.executable, "-m", "bench.bundle_chunks", str(data)]
    commands = {
        "LeRobot float32": [*lerobot, "float32"],
        "LeRobot mixed": [*lerobot, "mixed"],
        "LeRobot bfloat16": [*lerobot, "bfloat16"],
        "plain ONNX Runtime float32": [*ours, str(float32), threads, "plain"],
        "vlad float32": [*ours, str(float32), threads, "vlad"],
        "vlad bfloat16": [*ours, str(bfloat16), threads, "vlad"],
    }
    ways: dict[str, Way] = {}
    try:
        for name, command in commands.items():
            if name not in args.skip:
                ways[name] = Way(name, command)
                ways[name].ask(str(CASE))  # warm-up, before the next one starts: how soon it is ready counts
        peaks: dict[str, float] = {}
        for _ in range(args.rounds):
            for way in ways.values():
                way.answers.append(way.ask(str(CASE)))
            for name, way in ways.items():
                peaks[name] = max(peaks.get(name, 0.0), way.ask("peak")["flop_per_cpu_s"])
    finally:
        for way in ways.values():
            way.close()
    if args.json:
        args.json.write_text(json.dumps({name: way.answers for name, way in ways.items()} | {"peaks": peaks}))
    show(ways, peaks, chunk_flops(float32), args.threads, tiny_smolvla.reference(data))
    return 0


def show(ways: dict[str, Way], peaks: dict[str, float], flops: int, threads: int, made: dict[str, Any]) -> None:
    expected = made[f"normalised_chunk_{CASE}"]
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"SmolVLA 450 M, 3 cameras, 10 flow steps, {flops / 1e9:.0f} GFLOP per chunk; {threads} threads")
    rounds = len(next(iter(ways.values())).answers)
    print(f"{platform.machine()}, {os.cpu_count()} cpus, load {load}; least of {rounds} rounds\n")
    print(f"{'':<28}{'wall s':>8}{'cpu s':>8}{'peak GiB':>10}{'ready s':>9}{'error':>10}")
    for name, way in ways.items():
        print(
            f"{name:<28}{way.least('wall_s'):>8.2f}{way.least('cpu_s'):>8.2f}{way.least('peak_gib'):>10.2f}"
            f"{way.least('ready_s'):>9.1f}{way.error(expected):>10.1e}"
        )
    print(f"\n{'CPU ms':<28}{'vision x3':>11}{'prefill':>9}{'10 steps':>10}{'new state':>11}")
    for name, way in ways.items():
        if "vision" in way.answers[0]:
            parts = [way.least("cpu_s", part) * 1e3 for part in ("vision", "prefill", "steps", "refresh")]
            print(f"{name:<28}{parts[0]:>11.0f}{parts[1]:>9.0f}{parts[2]:>10.0f}{parts[3]:>11.0f}")
    print("\nFLOP per CPU second of one large product as each way computes it, and the floor of a chunk")
    for name, peak in peaks.items():
        print(f"{name:<28}{peak / 1e12:>8.2f} T{flops / peak:>10.2f} s of CPU")
    print()
    fast = ways["vlad bfloat16"]
    fresh = fast.least("cpu_s", "refresh") + fast.least("cpu_s", "steps")
    figures = {
        "chunk_vs_floor": fast.least("cpu_s") * max(peaks.values()) / flops,
        "chunk_error": fast.error(expected),
        "refresh_vs_steps": fresh / fast.least("cpu_s", "steps"),
        "chunk_peak_memory": fast.least("peak_gib"),
        "chunk_ready": fast.least("ready_s"),
    }
    if (plain := ways.get("plain ONNX Runtime float32")) is not None:
        figures["chunk_vs_plain_float32"] = plain.least("cpu_s") / fast.least("cpu_s")
        figures["refresh_vs_plain_chunk"] = fresh / plain.least("cpu_s")
    lerobots = {name.removeprefix("LeRobot "): way for name, way in ways.items() if name.startswith("LeRobot ")}
    if (whole := lerobots.pop("float32", None)) is not None:
        figures["chunk_vs_lerobot_float32"] = whole.least("wall_s") / fast.least("wall_s")
    if lerobots:
        figures["chunk_vs_lerobot_bfloat16"] = min(w.least("wall_s") for w in lerobots.values()) / fast.least("wall_s")
    for key, value in figures.items():
        print(judged(key, value))
    print("\nCommands (each answers `2` on its standard input):")
    for name, way in ways.items():
        print(f"  {name:<28}{way.command}")


if __name__ == "__main__":
    raise SystemExit(main())
