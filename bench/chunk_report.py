"""One page for each policy: a full-size chunk in every way this project can compare.

    make bench-report        (or: python -m bench.chunk_report [--policy smolvla|act] [--threads 2] [--rounds 3])

SmolVLA: 450 M parameters, 3 cameras of 640x480, 10 flow steps. ACT: 33 M (its VAE encoder is for training alone),
3 cameras of 640x480, 100 actions. Random weights. `vlad mixed` is the bundle that `vlad quantize` makes with the
words that the page ends with.
Every way runs in a process of its own; they take turns, so that other work on the machine burdens all; each
figure is the least of its rounds. The floor is the chunk's operations at the rate of one large product, measured
in the same run. Needs LeRobot (`make reference`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests import small_dataset, tiny_act, tiny_smolvla
from tests.reference.test_act_chunks import checkpoint as act_checkpoint
from tests.reference.test_smolvla_chunks import LEROBOT_PYTHON, checkpoint
from vlad import bundle as bundles
from vlad.manifest import SmolvlaManifest
from vlad.quantize.command import main as quantize

ROOT = Path(__file__).parents[1]
QUANTIZE = (
    *("--observations", "1", "--groups", "8", "--evaluations", "40"),
    *("--schemes", "float16,bfloat16,static8,token8", "--threads", "2"),
)
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


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """One policy. case: of its reference. name: of its bundles. parts: of a chunk, as bundle_chunks.py answers them,
    with what they are called.
    """

    title: str
    case: int
    name: str
    parts: dict[str, str]
    checkpoint: Callable[[], Path]
    build: Callable[..., Path]
    lerobot: tuple[str, ...]
    kinds: tuple[str, ...]


POLICIES = {
    "smolvla": Compared(
        "SmolVLA 450 M, 3 cameras, 10 flow steps", 2, "full-3",
        {"vision": "vision x3", "prefill": "prefill", "steps": "10 steps", "refresh": "new state"},
        lambda: checkpoint("full"), tiny_smolvla.build, ("float32", "mixed", "bfloat16"),
        ("float32", "bfloat16", "mixed"),
    ),
    "act": Compared(
        "ACT 33 M, 3 cameras, 100 actions", 0, "act-full", {"vision": "vision x3", "policy": "policy"},
        lambda: act_checkpoint("act-full"), tiny_act.build, ("float32", "bfloat16"), ("float32", "mixed"),
    ),
}  # fmt: skip


def bundle(policy: Compared, kind: str, data: Path) -> Path:
    """A bundle of the full-size checkpoint, made when it is not there yet."""
    path = ROOT / f"build/bench/{policy.name}-{kind}.vlad"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind != "mixed":
        return policy.build(path, *(["--bfloat16"] if kind == "bfloat16" else []), data=data)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        dataset = small_dataset.write_dataset(data / "dataset", Path(scratch, "dataset"), size=(640, 480))
        if quantize([str(bundle(policy, "float32", data)), "--calibrate", str(dataset), "-o", str(path), *QUANTIZE]):
            raise SystemExit("vlad quantize refused")
    return path


def chunk_flops(path: Path) -> int:
    """Operations of a whole chunk with the longest prefix."""
    manifest = bundles.load(path, verify=False).manifest
    times = {"vision": len(manifest.cameras)}
    if isinstance(manifest, SmolvlaManifest):
        times["expert"] = manifest.flow.steps
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
    parser.add_argument("--policy", choices=POLICIES, default="smolvla")
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", action="append", default=[], metavar="WAY", help="leave one out, by its name")
    parser.add_argument("--json", type=Path, help="all answers, to a file")
    args = parser.parse_args()
    policy = POLICIES[args.policy]
    data, threads = policy.checkpoint(), str(args.threads)
    made = {kind: str(bundle(policy, kind, data)) for kind in policy.kinds}
    lerobot = [str(LEROBOT_PYTHON), "bench/lerobot_chunks.py", str(data), threads]
    ours = [sys.executable, "-m", "bench.bundle_chunks", str(data)]
    commands = {f"LeRobot {kind}": [*lerobot, kind] for kind in policy.lerobot}
    commands["plain ONNX Runtime float32"] = [*ours, made["float32"], threads, "plain"]
    commands |= {f"vlad {kind}": [*ours, path, threads, "vlad"] for kind, path in made.items()}
    ways: dict[str, Way] = {}
    try:
        for name, command in commands.items():
            if name not in args.skip:
                ways[name] = Way(name, command)
                ways[name].ask(str(policy.case))  # warm-up, before the next one starts: how soon it is ready counts
        peaks: dict[str, float] = {}
        for _ in range(args.rounds):
            for way in ways.values():
                way.answers.append(way.ask(str(policy.case)))
            for name, way in ways.items():
                peaks[name] = max(peaks.get(name, 0.0), way.ask("peak")["flop_per_cpu_s"])
    finally:
        for way in ways.values():
            way.close()
    if args.json:
        args.json.write_text(json.dumps({name: way.answers for name, way in ways.items()} | {"peaks": peaks}))
    flops = chunk_flops(Path(made["float32"]))
    expected = tiny_smolvla.reference(data)[f"normalised_chunk_{policy.case}"]
    show(policy, ways, peaks, flops, expected)
    if args.policy == "smolvla":
        figures(ways, peaks, flops, expected)
    print(f"\nCommands, {threads} threads each (they answer `{policy.case}` on their standard input):")
    for name, way in ways.items():
        print(f"  {name:<28}{way.command}")
    print(f"  {'the bundle of vlad mixed':<28}vlad quantize {policy.name}-float32.vlad --calibrate DATASET "
          f"-o {policy.name}-mixed.vlad {' '.join(QUANTIZE)}")  # fmt: skip
    quantisation = bundles.load(Path(made["mixed"]), verify=False).manifest.quantisation
    for block, groups in {} if quantisation is None else quantisation.groups.items():
        counts = Counter(groups.values())
        print(f"    {block:<10}{', '.join(f'{count} {scheme}' for scheme, count in sorted(counts.items()))}")
    return 0


def show(policy: Compared, ways: dict[str, Way], peaks: dict[str, float], flops: int, expected: np.ndarray) -> None:
    """The tables."""
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{policy.title}, {flops / 1e9:.0f} GFLOP per chunk")
    rounds = len(next(iter(ways.values())).answers)
    print(f"{platform.machine()}, {os.cpu_count()} cpus, load {load}; least of {rounds} rounds\n")
    print(f"{'':<28}{'wall s':>8}{'cpu s':>8}{'peak GiB':>10}{'ready s':>9}{'error':>10}")
    for name, way in ways.items():
        print(
            f"{name:<28}{way.least('wall_s'):>8.2f}{way.least('cpu_s'):>8.2f}{way.least('peak_gib'):>10.2f}"
            f"{way.least('ready_s'):>9.1f}{way.error(expected):>10.1e}"
        )
    print(f"\n{'CPU ms':<28}" + "".join(f"{title:>11}" for title in policy.parts.values()))
    for name, way in ways.items():
        if "vision" in way.answers[0]:
            print(f"{name:<28}" + "".join(f"{way.least('cpu_s', part) * 1e3:>11.0f}" for part in policy.parts))
    print("\nFLOP per CPU second of one large product as each way computes it, and the floor of a chunk")
    for name, peak in peaks.items():
        print(f"{name:<28}{peak / 1e12:>8.2f} T{flops / peak:>10.2f} s of CPU")


def figures(ways: dict[str, Way], peaks: dict[str, float], flops: int, expected: np.ndarray) -> None:
    """Those with a goal in budgets.toml."""
    print()
    fast = ways["vlad bfloat16"]
    fresh = fast.least("cpu_s", "refresh") + fast.least("cpu_s", "steps")
    found = {
        "chunk_vs_floor": fast.least("cpu_s") * max(peaks.values()) / flops,
        "chunk_error": fast.error(expected),
        "refresh_vs_steps": fresh / fast.least("cpu_s", "steps"),
        "chunk_peak_memory": fast.least("peak_gib"),
        "chunk_ready": fast.least("ready_s"),
    }
    if (plain := ways.get("plain ONNX Runtime float32")) is not None:
        found["chunk_vs_plain_float32"] = plain.least("cpu_s") / fast.least("cpu_s")
        found["refresh_vs_plain_chunk"] = fresh / plain.least("cpu_s")
    lerobots = {name.removeprefix("LeRobot "): way for name, way in ways.items() if name.startswith("LeRobot ")}
    if (whole := lerobots.pop("float32", None)) is not None:
        found["chunk_vs_lerobot_float32"] = whole.least("wall_s") / fast.least("wall_s")
    if lerobots:
        found["chunk_vs_lerobot_bfloat16"] = min(w.least("wall_s") for w in lerobots.values()) / fast.least("wall_s")
    for key, value in found.items():
        print(judged(key, value))


if __name__ == "__main__":
    raise SystemExit(main())
