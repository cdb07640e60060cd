"""How long an inference takes in simulated time: measured here, given as a number, or read from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlad.errors import ConfigError
from vlad.servo import MS

MAX_FILE_BYTES = 16 << 20
MAX_S = 60.0
MEASURED = "measured"

# Of the machine over an episode: how much slower than at load a pass is that begins at t seconds, and what
# it stalls beside that, in s.
Machine = Callable[[float, np.random.Generator], tuple[float, float]]


def _steady(t_s: float, random: np.random.Generator) -> tuple[float, float]:
    return 1.0, 0.0


def _throttling(t_s: float, random: np.random.Generator) -> tuple[float, float]:
    """Nominal for 3 s, then within 6 s down to 40 % of the speed, and there it stays."""
    return 1 / (1 - 0.6 * min(1.0, max(0.0, (t_s - 3) / 6))), 0.0


def _spikes(t_s: float, random: np.random.Generator) -> tuple[float, float]:
    """Of ten passes one stalls for 0.3 to 1.2 s."""
    stalled, stall_s = random.random() < 0.1, random.uniform(0.3, 1.2)
    return 1.0, stall_s if stalled else 0.0


MACHINES: dict[str, Machine] = {"steady": _steady, "throttling": _throttling, "spikes": _spikes}


@dataclass(frozen=True, slots=True)
class Latency:
    """T_inference of full passes at nominal speed. spec: what was asked for. samples_ns: drawn from at
    random; at least one."""

    spec: str
    samples_ns: tuple[int, ...]

    def draw_ns(self, random: np.random.Generator) -> int:
        return self.samples_ns[int(random.integers(len(self.samples_ns)))]


def of_seconds(seconds: float) -> Latency:
    """Always the same. Raises ConfigError for none that can be simulated."""
    if not 0 < seconds <= MAX_S:
        raise ConfigError(f"--latency {seconds:g}: more than 0 and at most {MAX_S:g} s")
    return Latency(f"{seconds:g} s", (round(seconds * 1e9),))


def of_samples(spec: str, samples_ms: Sequence[float]) -> Latency:
    """Raises ConfigError for no samples, or one that can be no latency."""
    if not samples_ms:
        raise ConfigError(f"{spec}: no inference times")
    for value in samples_ms:
        if not (isinstance(value, int | float) and math.isfinite(value) and 0 < value <= MAX_S * 1e3):
            raise ConfigError(f"{spec}: {value!r}: an inference time is more than 0 and at most {MAX_S * 1e3:g} ms")
    return Latency(spec, tuple(round(value * MS) for value in samples_ms))


def read(path: Path) -> Latency:
    """Inference times in ms from a JSON file: a list of numbers, or what `vlad eval --json` writes, whose
    episodes have theirs. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--latency {path}: {error.strerror}: give seconds, `measured` or a file") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"--latency {path}: over {MAX_FILE_BYTES} bytes")
    try:
        tree: Any = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ConfigError(f"--latency {path}: no JSON: {error}") from error
    if isinstance(tree, dict):
        episodes = tree.get("episodes")
        if not isinstance(episodes, list) or not all(isinstance(e, dict) for e in episodes):
            raise ConfigError(f"--latency {path}: neither a list of ms nor a result of `vlad eval --json`")
        tree = [ms for episode in episodes for ms in episode.get("t_inference_ms", ())]
    if not isinstance(tree, list):
        raise ConfigError(f"--latency {path}: neither a list of ms nor a result of `vlad eval --json`")
    return of_samples(str(path), tree)


def parse(text: str) -> Latency | None:
    """None for `measured`. Raises ConfigError."""
    if text == MEASURED:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return read(Path(text))
    return of_seconds(seconds)
