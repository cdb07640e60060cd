"""Measures the profile of this machine: short graphs of vlad's own blocks, as they run in control.

A rate is that of a few layers of a block at its real width, so that it contains softmax, norms and copies
as a policy has them; weights are random. Every figure is a median.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Threads, session_options
from vlad.build.architecture import Architecture
from vlad.build.expert import build_expert, expert_flops
from vlad.build.graph import Graph
from vlad.build.prefill import build_prefill, prefill_flops
from vlad.build.vision import build_vision, vision_flops
from vlad.observation import ImagePreprocessor
from vlad.plan.board import Bandwidth, Board, Call, Frame, Memory, Rate, Unit
from vlad.servo import now_ns

DTYPES = ("float32", "int8")
WHILE_NS, MOST_RUNS = 50_000_000, 20  # of a probe in a round
LEAST_ROUNDS, MOST_ROUNDS, ENOUGH_NS = 3, 15, 15_000_000_000
TOKENS = 177  # a prefix of two cameras
STREAMED = (2048, 16384)  # a product of one row: 128 MiB of weights, more than any cache of a board
OFF_BY = 1.15
WEIGHT_SCALE = 0.02

# SmolVLA's published widths, with fewer layers.
WIDE = Architecture(
    image_side=512, position_side=32, patch=16, pixel_shuffle=4, vision_hidden=768, vision_layers=2, vision_heads=12,
    vision_mlp=3072, vision_eps=1e-6, vision_in_bfloat16=False, hidden=960, layers=6, heads=15, kv_heads=5, head_dim=64,
    mlp=2560, rms_eps=1e-5, expert_hidden=720, expert_mlp=2048, expert_at=tuple(range(6)), cross_layers=(1, 3, 5),
    chunk_size=50, flow_steps=10, min_period=4e-3, max_period=4.0, max_state_dim=32, max_action_dim=32, state_dim=6,
    action_dim=6, cameras=("a", "b"), pictures=2, empty_cameras=0, image_marks=None, max_task_tokens=48,
)  # fmt: skip
# All its layers, and next to no width: what is left is the cost of a call.
THIN = dataclasses.replace(
    WIDE, layers=16, hidden=32, heads=2, kv_heads=1, head_dim=8, mlp=32, expert_hidden=32, expert_mlp=32,
    expert_at=tuple(range(16)), cross_layers=tuple(range(1, 16, 2)), chunk_size=4,
)  # fmt: skip

Feed = dict[str, NDArray[Any]]


class RandomWeights:
    """Weights of any name and shape, for graphs that only have to take their time."""

    path = Path("random weights")

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.float32]:
        """Normal, small. The three that builders read without a shape have theirs here."""
        if shape is None:
            shape = next(found for end, found in self._unnamed().items() if name.endswith(end))
        return (self._generator.standard_normal(shape, dtype=np.float32) * np.float32(WEIGHT_SCALE)).astype(np.float32)

    def ignore(self, *names: str) -> None:
        """There is nothing to be left over."""

    def names(self) -> list[str]:
        """Nor known beforehand."""
        return []

    @staticmethod
    def _unnamed() -> dict[str, tuple[int, ...]]:
        a = WIDE
        return {
            "patch_embedding.weight": (a.vision_hidden, 3, a.patch, a.patch),
            "position_embedding.weight": (a.position_side**2, a.vision_hidden),
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """A graph to time. flops 0: a call that hardly computes."""

    name: str
    graph: Graph
    flops: int
    feed: Feed

    @property
    def reuse(self) -> float:
        """As Work.reuse."""
        return self.flops / (2 * self.graph.parameters)


def probes() -> list[Probe]:
    """One for each way in which SmolVLA's blocks meet their weights."""
    weights: Any = RandomWeights()
    a = WIDE
    vision, prefill, row = build_vision(a, weights, "ordered"), build_prefill(a, weights), _row(weights)
    expert, thin = build_expert(a, weights), build_expert(THIN, weights)
    return [
        Probe("vision", vision, vision_flops(a), _feed(vision)),
        Probe("prefill", prefill, prefill_flops(a, TOKENS), _feed(prefill, n=TOKENS - 1, past=0)),
        Probe("expert", expert, expert_flops(a, TOKENS), _feed(expert, s=TOKENS)),
        Probe("call", thin, 0, _feed(thin, s=4)),
        Probe("row", row, 2 * STREAMED[0] * STREAMED[1], _feed(row)),
    ]


def _feed(graph: Graph, **sizes: int) -> Feed:
    """Random inputs of the graph's shapes; sizes: of its dynamic dimensions."""
    random = np.random.default_rng(1).standard_normal
    return {
        value.name: random([d if isinstance(d, int) else sizes[d] for d in value.shape], np.float32)
        for value in graph.inputs()
    }


def _row(weights: Any) -> Graph:
    graph = Graph("row")
    x = graph.input("x", [1, STREAMED[0]])
    graph.output(graph.linear(x, "weights", weights.read("weights", STREAMED[::-1])), "y", [1, STREAMED[1]])
    return graph


class Meter:
    """The probes loaded, to run in turns. clock: what times are read from, in ns."""

    def __init__(self, threads: int, report: Callable[[str], None] = lambda text: None,
                 clock: Callable[[], int] = now_ns) -> None:  # fmt: skip
        self._threads, self._clock = threads, clock
        self._runs: dict[tuple[str, str], Callable[[], object]] = {}
        self._times: dict[tuple[str, str], list[float]] = {}
        self._probes = {probe.name: probe for probe in probes()}
        with tempfile.TemporaryDirectory() as directory:
            for probe in self._probes.values():
                for dtype in DTYPES if probe.flops else DTYPES[:1]:
                    report(f"building {probe.name}, {dtype}")
                    loaded = _session(probe.graph, Path(directory), dtype, threads)
                    self._runs[probe.name, dtype] = partial(loaded.run, None, probe.feed)
        picture = np.random.default_rng(3).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        self._runs["frame", ""] = partial(ImagePreprocessor(WIDE.image_side), picture)
        for run in self._runs.values():
            run()  # allocates and packs

    def round(self) -> None:
        """Every probe once, a short one for a while: what interrupts a long block now and then, doubles one of
        its runs, so that their mean counts."""
        for key, run in self._runs.items():
            took: list[int] = []
            while not took or (sum(took) < WHILE_NS and len(took) < MOST_RUNS):
                begin = self._clock()
                run()
                took.append(self._clock() - begin)
            self._times.setdefault(key, []).append(statistics.fmean(took))

    def board(self, name: str) -> Board:
        """The profile: the median of all rounds so far."""
        rounds = len(self._times["frame", ""])
        threads = f"{self._threads} thread{'s' if self._threads > 1 else ''}"
        source = f"measured: median of {rounds}, {threads}, ONNX Runtime {_version()}"
        ns = {key: statistics.median(times) for key, times in self._times.items()}
        rates = [
            Rate(dtype=dtype, reuse=probe.reuse, gflop_s=probe.flops / ns[name, dtype], source=source)  # type: ignore[arg-type]
            for (name, dtype) in self._runs
            if (probe := self._probes.get(name)) is not None and probe.flops
        ]
        weights = STREAMED[0] * STREAMED[1]
        streamed = max(4 * weights / ns["row", "float32"], weights / ns["row", "int8"])
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        return Board(
            format_version=1, name=name, off_by=OFF_BY,
            about=f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
            memory=Memory(gb=memory, source="measured: what the kernel has"),
            frame=Frame(ms=ns["frame", ""] / 1e6, source=f"measured: median of {rounds}"),
            unit=(Unit(name="cpu", threads=self._threads, bandwidth=Bandwidth(gb_s=streamed, source=source),
                       call=Call(us=ns["call", "float32"] / 1e3, source=source), rate=tuple(rates)),),
        )  # fmt: skip


def measure(name: str, threads: int, report: Callable[[str], None] = lambda text: None) -> Board:
    """The profile of this machine with so many threads; report is told what goes on."""
    meter = Meter(threads, report)
    begin = now_ns()
    for count in range(1, MOST_ROUNDS + 1):
        report(f"round {count}")
        meter.round()
        if count >= LEAST_ROUNDS and now_ns() - begin > ENOUGH_NS:
            break
    return meter.board(name)


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _session(graph: Graph, directory: Path, dtype: str, threads: int) -> Any:
    path = directory / f"{graph.name}-{dtype}.onnx"
    if dtype == "int8":
        quantise(directory / f"{graph.name}-float32.onnx", path)
    else:
        path.write_bytes(graph.model().SerializeToString())
    return session(path, threads)


def session(path: Path, threads: int) -> Any:
    """As vlad.backend makes it."""
    import onnxruntime as ort

    options = session_options(path.stem, Threads(count=threads))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantise(source: Path, target: Path) -> None:
    """Its products with weights in int8, with scales of the inputs found as it runs."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it advises preprocessing, which changes nothing here
    try:
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul"], per_channel=True,
                         weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": True})  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
