"""What is measured before a choice is made, and the choice: flow, calibration, groups, whole blocks, search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Session, Threads
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.manifest import Errors, Flow, Manifest, SmolvlaManifest
from vlad.quantize.block_graph import BlockGraph
from vlad.quantize.calibration import ChosenRange, Sample, choose_range
from vlad.quantize.evaluation import CapturingSession, Evaluation, GraphSession, evaluation_of, load_floats
from vlad.quantize.flow import FlowTable, choose_flow, flow_table
from vlad.quantize.judge import Gate, Judge, Judgement, chunk_scale, compare
from vlad.quantize.observations import Moments
from vlad.quantize.schemes import FLOAT32, SCHEMES, Array, Range, Scheme
from vlad.quantize.search import Choice, Move, Option, choice, longest_that_holds, walk

Report = Callable[[str], None]
_TRACED = 4  # observations that the flow table is made of
_LESSER = 0.05  # share of what is not preferred (time or bytes) in the saving that is compared


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for. budget: chunk MAE of the whole choice. blocks: those that may be changed.
    integer_expert: blocks that stay floating point by default may take integer schemes too.
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
    wholes: list[Whole] = dataclasses.field(default_factory=list)
    outliers: dict[str, list[Outliers]] = dataclasses.field(default_factory=dict)
    untrained: bool = False
    moves: list[Move] = dataclasses.field(default_factory=list)
    verified: list[Verified] = dataclasses.field(default_factory=list)
    kept: int = 0
    errors: Errors | None = None
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
        if unknown := set(settings.blocks) - set(self._evaluation.blocks):
            raise BundleError(f"no block {sorted(unknown)[0]!r}: the policy has {list(self._evaluation.blocks)}")
        self.graphs: dict[str, BlockGraph] = {}
        self.ranges: dict[str, dict[str, Range]] = {}
        self._samples: dict[str, dict[str, Sample]] = {}
        self.study = Study()

    def run(self) -> Study:
        """Measure, choose, verify."""
        settings, study = self._settings, self.study
        floats = load_floats(self._bundle, self._evaluation.blocks, self._threads)
        flow = _flow(self._bundle.manifest)
        if flow is None and (settings.steps != "keep" or settings.solver is not None):
            raise BundleError(f"{self._bundle.path}: has no flow, so --steps and --solver mean nothing")
        if flow is not None:
            some = self._moments.judge[:_TRACED]
            study.flow_table = flow_table(
                self._bundle, floats, some, self._scale, lambda what: self._report(f"flow {what}")
            )
            study.flow = choose_flow(flow, study.flow_table, settings.gate.chunk_mae, settings.steps, settings.solver)
            self._evaluation = evaluation_of(self._bundle, study.flow)
        self._report("float32 on the judging observations")
        judge = Judge(self._evaluation, floats, self._moments.judge, self._scale)
        for name in self._evaluation.blocks:
            self._open(name)
            self._calibrate(name, floats)
            self._judge_block(name, judge)
        if not any(graph.groups for graph in self.graphs.values()):
            raise BundleError(f"{self._bundle.path}: no block has a MatMul with a constant weight")
        study.untrained = _norms_are_one(list(self.graphs.values()))
        self._search(floats)
        return study

    @property
    def verifying(self) -> int:
        """Observations that the whole choice was measured on."""
        return len(self._moments.verify)

    def session(self, block: str, chosen: Mapping[str, str], name: str = "candidate.onnx") -> GraphSession:
        """A block with the schemes of some of its groups."""
        path = self.graphs[block].candidate(name, chosen, self.ranges[block])
        return GraphSession(path, self._threads)

    def _open(self, name: str) -> None:
        self._report(f"{name}: reading")
        directory = self._scratch / name
        directory.mkdir()
        self.graphs[name] = BlockGraph(name, self._bundle.file(self._bundle.block(name).file), directory)

    def _calibrate(self, name: str, floats: Mapping[str, GraphSession]) -> None:
        """What every linear layer of the block reads, on the calibrating observations, and its range."""
        graph = self.graphs[name]
        values = list(dict.fromkeys(linear.x for linear in graph.linears))
        samples = {value: Sample() for value in values}

        def take(value: str, tensor: Array) -> None:
            samples[value].add(tensor)

        self._samples[name], self.ranges[name], self.study.outliers[name] = samples, {}, []
        if not values:
            return
        capturing = CapturingSession(GraphSession(graph.capturing(values), self._threads), values, take)
        sessions: dict[str, Session] = {**floats, name: capturing}
        for i, observation in enumerate(self._moments.calibrate):
            self._report(f"{name}: calibrating {i + 1}/{len(self._moments.calibrate)}")
            self._evaluation.trace(sessions, observation)
        capturing.close()
        chosen: dict[str, ChosenRange] = {}
        if "static8" in self._settings.schemes:
            self._report(f"{name}: ranges")
            for value in values:
                readers = [(linear, graph.weight(linear)) for linear in graph.linears if linear.x == value]
                chosen[value] = choose_range(samples[value], readers)
            self.ranges[name] = {value: c.range for value, c in chosen.items()}
        for group in graph.groups:
            worst = max((linear.x for linear in graph.of_group(group)), key=lambda x: samples[x].outlier_ratio)
            how = chosen[worst].range.how if worst in chosen else ""
            self.study.outliers[name].append(Outliers(group, samples[worst].outlier_ratio, how))

    def _judge_block(self, name: str, judge: Judge) -> None:
        settings, graph = self._settings, self.graphs[name]
        for scheme in settings.schemes if graph.groups else ():
            self._report(f"{name}: all {scheme}")
            session = self.session(name, dict.fromkeys(graph.groups, scheme))
            traces = judge.traces({name: session})
            self.study.wholes.append(Whole(name, scheme, judge.block(name, traces)[0], judge.errors(traces),
                                           judge.latency(name, session), judge.steps(traces)))  # fmt: skip
            session.close()
        if name not in settings.blocks:
            return
        for group in graph.groups:
            for scheme in self._allowed(name):
                self._report(f"{name}: {group} {scheme}")
                session = self.session(name, {group: scheme})
                traces = judge.traces({name: session})
                errors = judge.errors(traces)
                cosine, error = judge.block(name, traces)
                saved_bytes = graph.bytes - graph.candidate_bytes
                saved = self._saved(name, group, SCHEMES[scheme], saved_bytes)
                self.study.groups.append(Judgement(
                    name, group, scheme, cosine, error, errors, settings.gate.passes(errors),
                    judge.latency(name, session), saved_bytes, saved))  # fmt: skip
                session.close()

    def _allowed(self, name: str) -> list[str]:
        floating = name in self._evaluation.floating and not self._settings.integer_expert
        return [s for s in self._settings.schemes if not (floating and SCHEMES[s].integer)]

    def _saved(self, block: str, group: str, scheme: Scheme, saved_bytes: int) -> float:
        """The share of the policy's cost that one group saves: time and bytes, weighed as preferred."""
        time = 0.0
        for linear in self.graphs[block].of_group(group):
            rows = self._samples[block][linear.x].rows_of_call
            time += self._evaluation.calls(block) * (FLOAT32.cost(linear, rows) - scheme.cost(linear, rows))
        blocks = self._bundle.manifest.blocks
        in_all = sum(b.flops / 2 * self._evaluation.calls(b.name) for b in blocks)
        time_share, size_share = time / in_all, saved_bytes / sum(b.file.bytes for b in blocks)
        of_size = 1 - _LESSER if self._settings.prefer == "size" else _LESSER
        return (1 - of_size) * time_share + of_size * size_share

    def _search(self, floats: Mapping[str, GraphSession]) -> None:
        settings, study = self._settings, self.study
        options = [Option(j.block, j.group, j.scheme, j.errors.chunk_mae, j.saved)
                   for j in study.groups if j.passes and j.saved_bytes > 0]  # fmt: skip
        study.moves = walk(options, settings.budget)
        self._report("float32 on all held-out observations")
        judge = Judge(self._evaluation, floats, self._moments.verify, self._scale)
        whole = Gate(settings.gate.cosine, settings.budget)

        def holds(tried: Choice) -> bool:
            self._report(f"verifying {len(tried)} groups together")
            errors = judge.errors(judge.traces(self.sessions(tried)))
            good = whole.passes(errors)
            moves = next(i for i in range(len(study.moves) + 1) if choice(study.moves[:i]) == dict(tried))
            study.verified.append(Verified(moves, study.moves[moves - 1].saved, errors, good))
            return good

        study.kept = longest_that_holds(study.moves, holds)
        study.errors = next((v.errors for v in study.verified if v.moves == study.kept), None)
        if study.flow != _flow(self._bundle.manifest):
            self._report("the flow as it was")
            before = Judge(evaluation_of(self._bundle), floats, self._moments.verify, self._scale).references
            after = judge.traces(self.sessions(study.choice))
            bare = [[dataclasses.replace(t, velocities=[]) for t in traces] for traces in (before, after)]
            study.flow_error = compare(bare[0], bare[1], self._scale).chunk_mae

    def latencies(self) -> dict[str, tuple[float, float]]:
        """CPU seconds that each block takes for one chunk, as chosen and as it was, flow steps included: measured
        in turn.
        """
        floats = load_floats(self._bundle, self._evaluation.blocks, self._threads)
        judge = Judge(self._evaluation, floats, self._moments.verify[:1], self._scale)
        before = {name: sum(floats[name].seconds) for name in self._evaluation.blocks}
        changed = self.sessions(self.study.choice)
        judge.traces(changed)
        shares = {name: judge.latency(name, session, 2.0) for name, session in changed.items()}
        source = evaluation_of(self._bundle)
        return {
            name: (seconds * shares.get(name, 1.0), seconds * source.calls(name) / self._evaluation.calls(name))
            for name, seconds in before.items()
        }

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
