"""Calibrates, translates and judges blocks, and writes the bundle that has them as `.tflite`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from vlad import bundle as bundles
from vlad.backend import PlacedSession, Session, Threads, load_block
from vlad.build.bundle_directory import copy_files, file_entry, replacing, write_manifest
from vlad.build.writer import GOLDEN_TOLERANCE, golden, tools
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.fixed_prefill import FixedPrefill, rows_of
from vlad.golden import golden_inputs, open_for_check, run_golden
from vlad.litert import LiteRtSession, version
from vlad.manifest import ActManifest, Block, Errors, Manifest, SmolvlaManifest, Tflite, Value, files
from vlad.neutron import left_on_cpu
from vlad.quantize.evaluation import Array, CapturingSession, Floats, GraphSession, TimedSession, evaluation_of
from vlad.quantize.judge import Gate, Judge, chunk_scale
from vlad.quantize.observations import Moments
from vlad.sessions import Load
from vlad.tflite import prefill, ranges, translate
from vlad.tflite.model import Model

Report = Callable[[str], None]
_APART = 0.15  # of an output's deviation: the greatest rms that two sets of kernels may lie apart by rounding
_MARGIN = 8  # on how far LiteRT's two sets of kernels were seen to lie apart


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """One block. cosine, error: of its own outputs, the least and the relative root mean square. latency: CPU time
    of a run over that of the ONNX block.
    """

    name: str
    bytes_before: int
    bytes_after: int
    operators: dict[str, int]
    cpu_operators: dict[str, int]
    cosine: float
    error: float
    latency: float


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured: each block alone in the policy, and all of them."""

    blocks: list[Written]
    errors: Errors
    observations: int


def write_bundle(
    source: Bundle, moments: Moments, names: Sequence[str], target: Path, *, dataset: Path, gate: Gate,
    report: Report,
) -> tuple[Bundle, Outcome]:  # fmt: skip
    """`target`, in place of what was there, with these blocks of `source` in int8.

    gate: what they may do to the policy together. Raises BundleError, and then `target` is as before.
    """
    with replacing(target) as partial:
        blocks = {block.name: block for block in source.manifest.blocks}
        models = _translated(source, moments, names, partial, report)
        for name, (model, graph) in models.items():
            path = f"blocks/{name}.tflite"
            (partial / path).write_bytes(model.bytes())
            kinds = dict(sorted(Counter(kind for kind, _ in model.operators).items()))
            blocks[name] = msgspec.structs.replace(
                blocks[name], backend="litert", dtype="int8", file=file_entry(partial, path),
                inputs=_values(graph.input), outputs=_values(graph.output),
                tflite=Tflite(
                    source=source.path.name, manifest_sha256=source.manifest_sha256, dataset=dataset.name,
                    errors=Errors(chunk_mae=0, chunk_max=0, cosine=1), observations=len(moments.verify),
                    operators=kinds, cpu_operators=left_on_cpu(model.operators),
                ),
            )  # fmt: skip
        written_anew = {source.block(name).file.path for name in names}
        rest = files(msgspec.structs.replace(source.manifest, golden=None))
        copy_files(source, [file for file in rest if file.path not in written_anew], partial)
        outcome = _judged(source, moments, partial, [blocks[name] for name in names], report)
        if not gate.passes(outcome.errors):
            raise BundleError(
                f"{target}: not written: with {', '.join(names)} in int8 a chunk is off by "
                f"{outcome.errors.chunk_mae:.5f} of the joints' range on average, {gate.chunk_mae:g} is allowed "
                f"(--budget), and the least cosine is {outcome.errors.cosine:.5f}, more than {gate.cosine:g} is needed "
                "(--cosine); alone: " + ", ".join(f"{b.name} {b.error:.4f} of its outputs" for b in outcome.blocks)
            )
        for name in names:
            record = blocks[name].tflite
            assert record is not None
            blocks[name] = msgspec.structs.replace(
                blocks[name], tflite=msgspec.structs.replace(record, errors=outcome.errors)
            )
        made = msgspec.structs.replace(
            source.manifest, blocks=list(blocks.values()), golden=None, tools=tools() | {"litert": version()}
        )
        write_manifest(partial, made)
        report("golden inputs and outputs")
        written = bundles.load(partial, verify=False)
        tolerances = golden_tolerances(source, written)
        proof = msgspec.structs.replace(golden(written), tolerances=tolerances)
        write_manifest(partial, msgspec.structs.replace(made, golden=proof))
        report("writing to disk")
    return bundles.load(target, verify=False), outcome


def pixel_range(manifest: Manifest) -> tuple[float, float]:
    """Of a normalised image, whatever it shows: in 8 bits nothing of a pixel's 8 is lost then."""
    if not isinstance(manifest, ActManifest):
        return -1.0, 1.0
    ends = [(value - mean) / (std + camera.eps) for camera in manifest.cameras
            for mean, std in zip(camera.mean, camera.std, strict=True) for value in (0, 1)]  # fmt: skip
    return min(ends), max(ends)


def _translated(
    source: Bundle, moments: Moments, names: Sequence[str], scratch: Path, report: Report
) -> dict[str, tuple[Model, onnx.GraphProto]]:
    """Each block as a model, its ranges from the calibrating observations."""
    evaluation = evaluation_of(source)
    floats = Floats(source, evaluation.blocks, Threads())
    models: dict[str, tuple[Model, onnx.GraphProto]] = {}
    for name in names:
        loaded = onnx.load(str(source.file(source.block(name).file)))
        if name == "prefill" and isinstance(source.manifest, SmolvlaManifest):
            loaded = prefill.fixed(loaded, rows_of(source.manifest))
        graph = translate.inlined(loaded)
        wanted = translate.integer_values(graph)
        path = scratch / f"{name}.capturing.onnx"
        ranges.capturing(graph, wanted, path)
        seen = {value: ranges.Seen() for value in wanted}

        def take(value: str, x: Array, seen: dict[str, ranges.Seen] = seen) -> None:
            seen[value].add(x)

        session = CapturingSession(GraphSession(path, Threads()), wanted, take)
        block = msgspec.structs.replace(
            source.block(name), inputs=_values(graph.graph.input), outputs=_values(graph.graph.output))  # fmt: skip
        sessions = floats.onwards(changed={name: _adapted(source.manifest, block, session)})
        for i, observation in enumerate(moments.calibrate):
            report(f"{name}: calibrating {i + 1}/{len(moments.calibrate)}")
            evaluation.trace(sessions, observation)
        session.close()
        path.unlink()
        report(f"{name}: translating")
        chosen = {value: each.range() for value, each in seen.items()}
        if "image" in chosen:
            chosen["image"] = pixel_range(source.manifest)
        models[name] = translate.translate(graph, chosen), graph.graph
    return models


def _adapted(manifest: Manifest, block: Block, session: Session) -> Session:
    """A session of the block in `.tflite`, with the signature of the ONNX block."""
    if block.name == "prefill" and isinstance(manifest, SmolvlaManifest):
        return FixedPrefill(block, session, manifest)
    return session


def _values(values: Iterable[onnx.ValueInfoProto]) -> list[Value]:
    return [Value(name=v.name, shape=[d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]


def _judged(source: Bundle, moments: Moments, root: Path, blocks: Sequence[Block], report: Report) -> Outcome:
    """Each block alone in the policy and all of them, on observations that calibrated nothing."""
    report("judging: the ONNX blocks")
    evaluation = evaluation_of(source)
    floats = Floats(source, evaluation.blocks, Threads())
    judge = Judge(evaluation, floats, moments.verify, chunk_scale(source.manifest, moments.joint_range))
    unsealed = Bundle(root, source.manifest)  # its manifest is written when this has been measured
    sessions: dict[str, TimedSession] = {}
    found = []
    for block in blocks:
        report(f"judging: {block.name}")
        assert block.tflite is not None
        loaded = LiteRtSession(unsealed, block, Threads())
        session = sessions[block.name] = TimedSession(_adapted(source.manifest, block, loaded))
        cosine, error = judge.block(block.name, judge.traces({block.name: session}))
        found.append(Written(
            block.name, source.block(block.name).file.bytes, block.file.bytes, block.tflite.operators,
            block.tflite.cpu_operators, cosine, error, judge.latency(block.name, session, 2.0),
        ))  # fmt: skip
    errors = judge.errors(judge.traces(sessions))
    return Outcome(found, errors, len(moments.verify))


def golden_tolerances(source: Bundle, bundle: Bundle) -> dict[str, float]:
    """How far each golden output may lie off in another runtime that computes the same.

    Integers make steps: honest kernels that round differently differ by some of them, and what they mean differs
    by output. So it is measured: 8 times what LiteRT's kernels with and without XNNPACK lie apart (tflite-runtime
    2.14 was seen at 6 times), or as far as the integers are from float32, but no more than a quarter of the output's
    deviation; and at least two steps of the output itself. Raises BundleError where LiteRT's own kernels are
    further apart than rounding.
    """
    inputs: Mapping[str, Any] = golden_inputs(bundle.manifest)

    def run(bundle: Bundle, load: Load) -> dict[str, Array]:
        with open_for_check(bundle, load) as policy:
            return run_golden(policy, 0, dict(inputs))

    exact, found, other = run(source, load_block), run(bundle, load_block), run(bundle, _plain_kernels)
    tolerances = {}
    for name, value in found.items():
        apart, deviation = np.abs(value - other[name]), float(value.std())
        if float(np.sqrt(np.mean(np.square(apart)))) > _APART * deviation:
            raise BundleError(f"golden output {name}: LiteRT computes something else without XNNPACK, which is how it "
                              "runs with a delegate: this block cannot be trusted to it")  # fmt: skip
        rounding = max(float(np.abs(value - exact[name]).max()), _MARGIN * float(apart.max()))
        step = float(np.diff(np.unique(value)).min(initial=np.inf))  # next to nothing where it is not of integers
        tolerances[name] = max(GOLDEN_TOLERANCE, min(rounding, deviation / 4), 2 * min(step, deviation))
    return tolerances


def _plain_kernels(bundle: Bundle, name: str, threads: Threads) -> PlacedSession:
    block = bundle.block(name)
    if block.backend == "litert":
        return LiteRtSession(bundle, block, threads, default_delegates=False)
    return load_block(bundle, name, threads)
