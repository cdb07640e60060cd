"""Writes the quantised bundle, and refuses to when a file is not what it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlad import bundle as bundles
from vlad.backend import Session, Threads, load_block
from vlad.build.bundle_directory import copy_files, file_entry, replacing, write_manifest
from vlad.build.writer import GOLDEN_TOLERANCE, golden, tools
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.golden import golden_inputs, open_for_check, run_golden
from vlad.manifest import Quantisation, files
from vlad.quantize.block_graph import BlockGraph, operators
from vlad.quantize.evaluation import GraphSession
from vlad.quantize.schemes import SCHEMES, stored_as
from vlad.quantize.study import Quantiser, Settings

_MARGIN = 4  # on how far another way of computing the same graphs was seen to lie


def write_bundle(
    source: Bundle, quantiser: Quantiser, settings: Settings, dataset: Path, target: Path,
    *, report: Callable[[str], None],
) -> Bundle:  # fmt: skip
    """`target` as `quantiser` chose, in place of what was there. Raises BundleError, and then it is as before."""
    study = quantiser.study
    manifest = source.manifest
    with replacing(target) as partial:
        copy_files(source, files(msgspec.structs.replace(manifest, golden=None)), partial)
        groups: dict[str, dict[str, str]] = {}
        for (block, group), scheme in sorted(study.choice.items()):
            groups.setdefault(block, {})[group] = scheme
        blocks = []
        for before in manifest.blocks:
            entry = before
            if chosen := groups.get(entry.name):
                report(f"writing {entry.name}")
                path = partial / entry.file.path
                quantiser.graphs[entry.name].write(path, chosen, quantiser.ranges[entry.name])
                check_written(quantiser.graphs[entry.name], path, chosen)
                schemes = set(chosen.values())
                if set(quantiser.graphs[entry.name].groups) - set(chosen):
                    schemes.add("float32")
                entry = msgspec.structs.replace(
                    entry, file=file_entry(partial, entry.file.path), dtype=stored_as(schemes)
                )
            blocks.append(entry)
        quantisation = None
        if groups:
            assert study.errors is not None
            quantisation = msgspec.convert({
                "source": source.path.name, "dataset": dataset.name, "groups": groups, "errors": study.errors,
                "manifest_sha256": source.manifest_sha256,
                "budget": settings.budget, "observations": quantiser.verifying,
            }, Quantisation, from_attributes=True)  # fmt: skip
        changes: dict[str, Any] = {"blocks": blocks, "golden": None, "quantisation": quantisation, "tools": tools()}
        if study.flow is not None:
            changes["flow"] = study.flow
        made = msgspec.structs.replace(manifest, **changes)
        write_manifest(partial, made)
        report("golden inputs and outputs")
        written = bundles.load(partial, verify=False)
        proof = msgspec.structs.replace(golden(written), tolerances=golden_tolerances(written))
        made = msgspec.structs.replace(made, golden=proof)
        write_manifest(partial, made)
        report("writing to disk")
    return bundles.load(target, verify=False)


def check_written(graph: BlockGraph, path: Path, chosen: dict[str, str]) -> None:
    """Refuse a file that is no smaller than before, or that does not compute integers where it should: neither as
    written nor after the runtime's own rewriting. Raises BundleError.
    """
    size = path.stat().st_size
    if size >= graph.bytes:
        raise BundleError(f"block {graph.name}: {size} bytes after quantisation, {graph.bytes} before: its weights are "
                          "too small to gain anything; leave the block out with --blocks")  # fmt: skip
    # Where there is no kernel for bfloat16, the runtime puts the functions in place of its operators.
    wanted = [SCHEMES[chosen[linear.group]] for linear in graph.linears if linear.group in chosen]
    optimised = path.with_suffix(".optimised")
    try:
        GraphSession(path, Threads(), optimised).close()
        for what, file, proved in (
            ("written", path, [s for s in wanted if s.operators]),
            ("optimised by the runtime", optimised, [s for s in wanted if s.integer]),
        ):
            kinds = {kind for scheme in proved for kind in scheme.operators}
            found = sum(n for kind, n in operators(file).items() if kind in kinds)
            if found < len(proved):
                names = ", ".join(sorted({scheme.name for scheme in proved}))
                raise BundleError(f"block {graph.name} as {what}: {found} operators of {names} for {len(proved)} "
                                  "layers")  # fmt: skip
    finally:
        optimised.unlink(missing_ok=True)


def golden_tolerances(bundle: Bundle) -> dict[str, float]:
    """How far each golden output may lie off on a machine of the same kind.

    Quantisation makes steps of differences in the last digit, so an honest runtime that adds in another
    order may be off by more than float32 rounding. How much is measured: the same graphs without any of
    the runtime's own rewriting, times 4. Raises BundleError where that is more than half an output's deviation.
    """
    inputs = golden_inputs(bundle.manifest)
    outputs = []
    for load in (load_block, _unoptimised):
        with open_for_check(bundle, load) as policy:
            outputs.append(run_golden(policy, 0, inputs))
    tolerances = {}
    for name, value in outputs[0].items():
        seen, deviation = float(np.abs(value - outputs[1][name]).max()), float(value.std())
        tolerances[name] = max(GOLDEN_TOLERANCE, _MARGIN * seen)
        if not tolerances[name] <= max(GOLDEN_TOLERANCE, deviation / 2):
            raise BundleError(f"golden output {name} changes by {seen:.3g} with the order of additions, and its "
                              f"deviation is {deviation:.3g}: this choice of schemes cannot be checked")  # fmt: skip
    return tolerances


def _unoptimised(bundle: Bundle, name: str, threads: Threads) -> Session:
    return GraphSession(bundle.file(bundle.block(name).file), threads, rewriting=False)
