"""What is measured before a choice is made, and the choice: flow, calibration, groups, whole blocks, search."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Threads
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.manifest import Errors, Flow, Manifest, SmolvlaManifest
from vlad.quantize.block_graph import BlockGraph
from vlad.quantize.calibration import ChosenRange, Sample, choose_range
from vlad.quantize.evaluation import CapturingSession, Evaluation, Floats, GraphSession, Trace, evaluation_of
from vlad.quantize.flow import FlowTable, choose_flow, flow_table
from vlad.quantize.judge import Gate, Judge, Judgement, chunk_scale, compare
from vlad.quantize.kernels import bfloat16_kernels
from vlad.quantize.observations import Moments
from vlad.quantize.schemes import FLOAT32, SCHEMES, Array, Range, Scheme
from vlad.quantize.search import Choice, Move, Option, choice, longest_that_holds, walk

MINUTE_NS = 60_000_000_000
Report = Callable[[str, int], None]  # what is being done, and how many MFLOP were done since it was called last
_TRACED = 4  # observations that the flow table is made of
_JUDGING = 0.6  # of --minutes; the rest verifies and writes
_LOADING = 0.3  # GFLOP that take as long as loading a MB of a block
_VERIFYING = 4  # parts of the path that are measured, as a guess for the progress bar
_WORTH = 2.0  # times the gate that a chunk error has to be likely to be, before it is not measured
_LESSER = 0.05  # share of what is not preferred (time or bytes) in the saving that is compared


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for. budget: chunk MAE of the whole choice. blocks: those that may be changed.
    integer_expert: blocks that stay floating point by default may take integer schemes too. evaluations: groups
    in a scheme that are judged, at most; minutes: for all of it. groups: of a block, at most.
    """

    schemes: tuple[str, ...]
    gate: Gate
    budget: float
    blocks: tuple[str, ...]
    integer_expert: bool = False
    prefer: str = "latency"
    steps: str = "keep"
    solver: str | None = None
    threads: int = 1
    seed: int = 0
    evaluations: int = 96
    minutes: float | None = None
    groups: int = 12


@dataclasses.dataclass(frozen=True, slots=True)
class Outliers:
    """The most extreme input of a group's layers: greatest magnitude over the 99.9th percentile."""

    group: str
    ratio: float
    clipped: str


@dataclasses.dataclass(frozen=True, slots=True)
class Whole:
    """A whole block in one scheme. steps: mean error after each flow step."""

    block: str
    scheme: str
    output_cosine: float
    output_error: float
    errors: Errors
    latency: float
    steps: list[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """A part of the path, measured on the whole policy with the held-out observations."""

    moves: int
    saved: float
    errors: Errors
    holds: bool


@dataclasses.dataclass(slots=True)
class Study:
    """The results, in the order in which they are made."""

    flow: Flow | None = None
    flow_table: FlowTable | None = None
    groups: list[Judgement] = dataclasses.field(default_factory=list)
    untried: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)  # block, group, scheme
    wholes: list[Whole] = dataclasses.field(default_factory=list)
    outliers: dict[str, list[Outliers]] = dataclasses.field(default_factory=dict)
    untrained: bool = False
    moves: list[Move] = dataclasses.field(default_factory=list)
    verified: list[Verified] = dataclasses.field(default_factory=list)
    kept: int = 0
    errors: Errors | None = None
    # Of each block the CPU seconds for one chunk, flow steps included: as chosen and as it was.
    latency: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    flow_error: float | None = None  # chunk MAE of choice and flow together, where the flow is another

    @property
    def choice(self) -> dict[tuple[str, str], str]:
        """(block, group) -> scheme of all that is not float32."""
        return choice(self.moves[: self.kept])


class Quantiser:
    """One run over one bundle. `scratch` is an empty directory with room for the bundle's weights."""

    def __init__(self, bundle: Bundle, moments: Moments, settings: Settings, scratch: Path, report: Report) -> None:
        self._bundle, self._moments, self._settings = bundle, moments, settings
        self._scratch, self._report = scratch, report
        self._threads = Threads(count=settings.threads)
        self._scale: NDArray[np.float64] = chunk_scale(bundle.manifest, moments.joint_range)
        self._evaluation: Evaluation = evaluation_of(bundle)
        self.kernels = bfloat16_kernels()
        if unknown := set(settings.blocks) - set(self._evaluation.blocks):
            raise BundleError(f"no block {sorted(unknown)[0]!r}: the policy has {list(self._evaluation.blocks)}")
        self.graphs: dict[str, BlockGraph] = {}
        self.ranges: dict[str, dict[str, Range]] = {}
        self._samples: dict[str, dict[str, Sample]] = {}
        self._started_ns = time.monotonic_ns()
        self.study = Study()

    def open(self) -> None:
        """Read the blocks. Raises BundleError where there is nothing to quantise."""
        for name in self._evaluation.blocks:
            self._open(name)
        if not any(graph.groups for graph in self.graphs.values()):
            raise BundleError(f"{self._bundle.path}: no block has a MatMul with a constant weight")

    def run(self) -> Study:
        """Measure, choose, verify."""
        settings, study, blocks = self._settings, self.study, self._evaluation.blocks
        self._report("loading", 0)
        floats = Floats(self._bundle, blocks, self._threads)
        flow = _flow(self._bundle.manifest)
        if flow is None and (settings.steps != "keep" or settings.solver is not None):
            raise BundleError(f"{self._bundle.path}: has no flow, so --steps and --solver mean nothing")
        if flow is not None:
            if settings.steps != "keep":
                some = self._moments.judge[:_TRACED]
                study.flow_table = flow_table(
                    self._bundle, floats, some, self._scale, lambda what: self._report(f"flow {what}", 0)
                )
            study.flow = choose_flow(flow, study.flow_table, settings.gate.chunk_mae, settings.steps, settings.solver)
            self._evaluation = evaluation_of(self._bundle, study.flow)
        self._report("float32 on the judging observations", 0)
        judge = Judge(self._evaluation, floats, self._moments.judge, self._scale)
        self._report("float32 on the calibrating observations", self._work(blocks[0]) * len(self._moments.judge))
        references = [self._evaluation.trace(floats.onwards(), o) for o in self._moments.calibrate]
        self._report("", self._work(blocks[0]) * len(references))
        evaluations = settings.evaluations
        until_ns = self._started_ns + int(_JUDGING * settings.minutes * MINUTE_NS) if settings.minutes else None
        for at, name in enumerate(blocks):
            self._samples[name], self.ranges[name], self.study.outliers[name] = {}, {}, []
            if name in settings.blocks and self.graphs[name].groups:
                count = {b: len(self.graphs[b].groups) if b in settings.blocks else 0 for b in blocks[at:]}
                quota = math.ceil(evaluations * count[name] / max(1, sum(count.values())))
                now_ns, block_until_ns = time.monotonic_ns(), None
                if until_ns is not None:
                    cost = {b: n * self._work(b) for b, n in count.items()}
                    left = max(0, until_ns - now_ns)
                    block_until_ns = now_ns + left * cost[name] // max(1, sum(cost.values()))
                self._calibrate(name, floats, references)
                self._judge_whole(name, judge, None if block_until_ns is None else (now_ns + block_until_ns) // 2)
                evaluations -= self._judge_groups(name, judge, quota, block_until_ns)
            floats.drop(name)  # what comes after it goes on from its results
        study.untrained = _norms_are_one(list(self.graphs.values()))
        self._search(Floats(self._bundle, blocks, self._threads))
        return study

    def expected(self) -> int:
        """MFLOP that the whole run is about to take, once the blocks are open; loading a block counts as some."""
        observations, settings = self._moments, self._settings
        blocks = self._evaluation.blocks
        every = self._work(blocks[0])
        total = every * (len(observations.judge) + len(observations.calibrate))
        total += every * len(observations.verify) * (1 + _VERIFYING)
        pairs = {name: self._pairs(name) for name in blocks}
        share = min(1.0, settings.evaluations / max(1, sum(pairs.values())))
        for name in blocks:
            each = self._loading(name) + self._work(name) * len(observations.judge)
            if name in settings.blocks and self.graphs[name].groups:
                total += len(settings.schemes) * each + math.ceil(share * pairs[name]) * each
        return total

    def _work(self, first: str) -> int:
        """MFLOP of one chunk from a block on."""
        names = self._evaluation.blocks[self._evaluation.blocks.index(first) :]
        return int(sum(self._bundle.block(n).flops * self._evaluation.calls(n) for n in names) / 1e6)

    def _loading(self, name: str) -> int:
        return int(self.graphs[name].bytes / 1e6 * _LOADING * 1e3)

    def _pairs(self, name: str) -> int:
        """How many groups and schemes of a block there are to judge, at most."""
        return len(self.graphs[name].groups) * len(self._allowed(name)) if name in self._settings.blocks else 0

    @property
    def verifying(self) -> int:
        """Observations that the whole choice was measured on."""
        return len(self._moments.verify)

    def session(self, block: str, chosen: Mapping[str, str], name: str = "candidate.onnx") -> GraphSession:
        """A block with the schemes of some of its groups."""
        path = self.graphs[block].candidate(name, chosen, self.ranges[block])
        return GraphSession(path, self._threads)

    def _open(self, name: str) -> None:
        self._report(f"{name}: reading", 0)
        directory = self._scratch / name
        directory.mkdir()
        self.graphs[name] = BlockGraph(name, self._bundle.file(self._bundle.block(name).file), directory,
                                       self._settings.groups)  # fmt: skip

    def _calibrate(self, name: str, floats: Floats, references: Sequence[Trace]) -> None:
        """What every linear layer of the block reads, on the calibrating observations, and its range."""
        graph = self.graphs[name]
        values = list(dict.fromkeys(linear.x for linear in graph.linears))
        samples = self._samples[name] = {value: Sample() for value in values}

        def take(value: str, tensor: Array) -> None:
            samples[value].add(tensor)

        self._report(f"{name}: calibrating", 0)
        capturing = CapturingSession(GraphSession(graph.capturing(values), self._threads), values, take)
        sessions = floats.onwards(name, {name: capturing})
        for observation, reference in zip(self._moments.calibrate, references, strict=True):
            self._evaluation.tried(sessions, observation, name, reference, lambda _: False)
        capturing.close()
        chosen: dict[str, ChosenRange] = {}
        if "static8" in self._settings.schemes:
            self._report(f"{name}: ranges", 0)
            for value in values:
                readers = [(linear, graph.weight(linear)) for linear in graph.linears if linear.x == value]
                chosen[value] = choose_range(samples[value], readers)
            self.ranges[name] = {value: c.range for value, c in chosen.items()}
        for group in graph.groups:
            worst = max((linear.x for linear in graph.of_group(group)), key=lambda x: samples[x].outlier_ratio)
            how = chosen[worst].range.how if worst in chosen else ""
            self.study.outliers[name].append(Outliers(group, samples[worst].outlier_ratio, how))

    def _judge_whole(self, name: str, judge: Judge, until_ns: int | None) -> None:
        """Judges a block as a whole in each scheme, none after `until_ns`."""
        graph = self.graphs[name]
        each = self._loading(name) + self._work(name) * len(self._moments.judge)
        for scheme in self._settings.schemes:
            if until_ns is not None and time.monotonic_ns() >= until_ns:
                self.study.untried.append((name, "whole", scheme))
                continue
            self._report(f"{name}: all {scheme}", 0)
            session = self.session(name, dict.fromkeys(graph.groups, scheme))
            traces = judge.traces({name: session})
            self.study.wholes.append(Whole(name, scheme, *judge.block(name, traces), judge.errors(traces),
                                           judge.latency(name, session), judge.steps(traces)))  # fmt: skip
            session.close()
            self._report(f"{name}: all {scheme}", each)

    def _judge_groups(self, name: str, judge: Judge, quota: int, until_ns: int | None) -> int:
        """Judges groups of a block each alone, at most `quota` and none after `until_ns`; how many they were.

        Each group's schemes come in turn, the most promising first, and what cannot save anything not at all.
        A group that holds with its even share of the budget comes again when all others are done.
        """
        settings, study, graph = self._settings, self.study, self.graphs[name]
        worth = self._worth(name)
        each = self._loading(name) + self._work(name) * len(self._moments.judge)
        share = settings.budget / math.sqrt(max(1, sum(len(self.graphs[b].groups) for b in settings.blocks)))
        left = {group: self._promising(name, group) for group in graph.groups}
        settled: set[str] = set()
        count = 0
        while any(left.values()):
            waiting = [group for group in graph.groups if left[group]]
            for group in [g for g in waiting if g not in settled] or waiting:
                if count >= quota or (until_ns is not None and time.monotonic_ns() >= until_ns):
                    study.untried += [(name, g, s) for g, schemes in left.items() for s in schemes]
                    return count
                scheme = left[group].pop(0)
                self._report(f"{name}: {group} {scheme}", 0)
                found = self._judged(name, group, scheme, judge, worth)
                study.groups.append(found)
                if found.passes and found.errors is not None and found.errors.chunk_mae <= share:
                    settled.add(group)
                count += 1
                self._report(f"{name}: {group} {scheme}", each)
        return count

    def _judged(self, name: str, group: str, scheme: str, judge: Judge, worth: float) -> Judgement:
        session = self.session(name, {group: scheme})
        traces, cosine, error = judge.tried(name, session, worth)
        saved_bytes = self.graphs[name].bytes - self.graphs[name].candidate_bytes
        errors = None if traces is None else judge.errors(traces)
        made = Judgement(
            name, group, scheme, cosine, error, errors, errors is not None and self._settings.gate.passes(errors),
            judge.latency(name, session), saved_bytes, self._saved(name, group, SCHEMES[scheme], saved_bytes),
        )  # fmt: skip
        session.close()
        return made

    def _worth(self, name: str) -> float:
        """The error of a block's outputs from which a chunk's is not worth measuring: that which was seen to do least
        to a chunk, with the whole block in one scheme, would still take it well beyond the gate.
        """
        ratios = [w.errors.chunk_mae / w.output_error for w in self.study.wholes
                  if w.block == name and 0 < w.output_error < math.inf]  # fmt: skip
        least = min(ratios, default=0.0)
        return _WORTH * self._settings.gate.chunk_mae / least if least > 0 else math.inf

    def _promising(self, name: str, group: str) -> list[str]:
        """The allowed schemes that would save anything, with bytes as they will about be: what saves most first, but
        before all others those in which the whole block holds, since its parts will too.
        """
        holds = {w.scheme for w in self.study.wholes if w.block == name and self._settings.gate.passes(w.errors)}
        numbers = sum(linear.inputs * linear.outputs for linear in self.graphs[name].of_group(group))
        saved = {s: self._saved(name, group, SCHEMES[s], int(numbers * (4 - SCHEMES[s].bits / 8)))
                 for s in self._allowed(name)}  # fmt: skip
        return sorted((s for s in saved if saved[s] > 0), key=lambda s: (s not in holds, -saved[s]))

    def _allowed(self, name: str) -> list[str]:
        floating = name in self._evaluation.floating and not self._settings.integer_expert
        return [s for s in self._settings.schemes if not (floating and SCHEMES[s].integer)]

    def _saved(self, block: str, group: str, scheme: Scheme, saved_bytes: int) -> float:
        """The share of the policy's cost that one group saves: time and bytes, weighed as preferred."""
        saved = 0.0
        for linear in self.graphs[block].of_group(group):
            rows = self._samples[block][linear.x].rows_of_call
            cost = scheme.cost(linear, rows, kernels=self.kernels)
            saved += self._evaluation.calls(block) * (FLOAT32.cost(linear, rows) - cost)
        blocks = self._bundle.manifest.blocks
        in_all = sum(b.flops / 2 * self._evaluation.calls(b.name) for b in blocks)
        time_share, size_share = saved / in_all, saved_bytes / sum(b.file.bytes for b in blocks)
        of_size = 1 - _LESSER if self._settings.prefer == "size" else _LESSER
        return (1 - of_size) * time_share + of_size * size_share

    def _search(self, floats: Floats) -> None:
        settings, study = self._settings, self.study
        options = [Option(j.block, j.group, j.scheme, j.errors.chunk_mae, j.saved)
                   for j in study.groups if j.passes and j.errors is not None and j.saved_bytes > 0]  # fmt: skip
        study.moves = walk(options, settings.budget)
        self._report("float32 on all held-out observations", 0)
        judge = Judge(self._evaluation, floats, self._moments.verify, self._scale)
        chain = self._work(self._evaluation.blocks[0]) * len(self._moments.verify)
        self._report("float32 on all held-out observations", chain)
        whole = Gate(settings.gate.cosine, settings.budget)
        seconds = {name: min(floats[name].seconds) for name in self._evaluation.blocks}
        for name in seconds:
            floats.drop(name)

        def holds(tried: Choice) -> bool:
            self._report(f"verifying {len(tried)} groups together", 0)
            sessions = self.sessions(tried)
            errors = judge.errors(judge.traces(sessions))
            for session in sessions.values():
                session.close()
            for name in seconds:
                floats.drop(name)
            self._report(f"verifying {len(tried)} groups together", chain)
            good = whole.passes(errors)
            moves = next(i for i in range(len(study.moves) + 1) if choice(study.moves[:i]) == dict(tried))
            study.verified.append(Verified(moves, study.moves[moves - 1].saved, errors, good))
            return good

        study.kept = longest_that_holds(study.moves, holds)
        study.errors = next((v.errors for v in study.verified if v.moves == study.kept), None)
        self._measure(judge, floats, seconds)
        if study.flow != _flow(self._bundle.manifest):
            self._report("the flow as it was", 0)
            before = Judge(evaluation_of(self._bundle), floats, self._moments.verify, self._scale).references
            after = judge.traces(self.sessions(study.choice))
            bare = [[dataclasses.replace(t, velocities=[]) for t in traces] for traces in (before, after)]
            study.flow_error = compare(bare[0], bare[1], self._scale).chunk_mae

    def _measure(self, judge: Judge, floats: Floats, seconds: Mapping[str, float]) -> None:
        """The CPU time of each block, as chosen and as it was, measured in turn. seconds: of a call of each."""
        source = evaluation_of(self._bundle)
        for name in self._evaluation.blocks:
            share = 1.0
            if chosen := {g: s for (b, g), s in self.study.choice.items() if b == name}:
                self._report(f"{name}: latency", 0)
                session = self.session(name, chosen)
                judge.tried(name, session, -1.0)  # nothing is worth going on with
                share = judge.latency(name, session, 2.0)
                session.close()
                floats.drop(name)
            now = seconds[name] * self._evaluation.calls(name) * share
            self.study.latency[name] = now, seconds[name] * source.calls(name)

    def sessions(self, chosen: Choice) -> dict[str, GraphSession]:
        """The blocks that a choice changes."""
        return {
            block: self.session(block, {g: s for (b, g), s in chosen.items() if b == block}, "choice.onnx")
            for block in dict.fromkeys(b for b, _ in chosen)
        }


def _flow(manifest: Manifest) -> Flow | None:
    return manifest.flow if isinstance(manifest, SmolvlaManifest) else None


def _norms_are_one(graphs: Sequence[BlockGraph]) -> bool:
    """Whether every scale of a norm is 1 throughout, as initialised: nothing was trained."""
    scales = [graph.constant(n) for graph in graphs for n in graph.constants() if "norm" in n and n.endswith(".weight")]
    return bool(scales) and all(bool(np.all(np.asarray(scale) == 1)) for scale in scales)
