"""Composes a bundle from a checkpoint and what the user and the dataset add, and puts it in place
atomically.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import vlad
from vlad import bundle as bundles
from vlad import manifest as manifests
from vlad.build.act_architecture import ActArchitecture
from vlad.build.act_policy import act_policy_flops, build_act_policy
from vlad.build.act_vision import act_vision_flops, build_act_vision
from vlad.build.architecture import EMBEDDING, Architecture
from vlad.build.bfloat16 import to_bfloat16
from vlad.build.bundle_directory import file_entry, refuse_existing, replacing, write_manifest
from vlad.build.checkpoint import ActCheckpoint, SmolvlaCheckpoint
from vlad.build.checks import (
    AnyCheckpoint,
    Facts,
    check_act,
    check_joints,
    policy_cameras,
    tokenised_tasks,
)
from vlad.build.context import build_context, context_flops
from vlad.build.dataset import Dataset
from vlad.build.expert import build_expert, expert_flops
from vlad.build.graph import Graph
from vlad.build.normalisation import Normalisation
from vlad.build.prefill import build_prefill, prefill_flops
from vlad.build.safetensors import SafeTensors, sha256
from vlad.build.units import is_gripper
from vlad.build.vision import build_vision, vision_flops
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.golden import golden_inputs, open_for_check, run_golden
from vlad.manifest import (
    ActCamera,
    ActManifest,
    Block,
    Camera,
    File,
    Golden,
    Manifest,
    SmolvlaManifest,
    Statistics,
    Task,
    TokenTable,
)

GOLDEN_TOLERANCE = 1e-3
BFLOAT16_TOLERANCE = 0.1  # one value that is rounded the other way moves others
_UNUSED = (
    "model.vlm_with_expert.vlm.lm_head.weight",
    "model.vlm_with_expert.vlm.model.text_model.norm.weight",
)

Report = Callable[[str], None]
Part = tuple[str, Callable[[], Graph], int]  # name of a block, what makes it, its operations


def build_bundle(
    checkpoint: AnyCheckpoint,
    facts: Facts,
    dataset: Dataset | None,
    target: Path,
    report: Report,
    *,
    force: bool = False,
) -> Bundle:
    """Write `target` and return it loaded. `report` is called with what is being worked on.

    Raises BundleError for anything missing or in disagreement; then `target` is as it was before.
    """
    refuse_existing(target, force=force)
    cameras = policy_cameras(checkpoint, facts, dataset)
    check_joints(checkpoint, facts, dataset)
    write = (
        _prepare_act(checkpoint, facts, cameras)
        if isinstance(checkpoint, ActCheckpoint)
        else _prepare_smolvla(checkpoint, facts, cameras)
    )

    with replacing(target) as partial:
        common = {
            "format_version": manifests.FORMAT_VERSION,
            "tools": tools(),
            "joints": [manifests.Joint(name=name, gripper=is_gripper(name)) for name in facts.joints],
            "units": facts.units,
            "state": _manifest_statistics(checkpoint.state),
            "action": _manifest_statistics(checkpoint.action),
            "rate_hz": facts.rate_hz,
            "notes": list(checkpoint.notes),
        }
        manifest = write(partial, common, report)
        report("golden inputs and outputs")
        write_manifest(partial, manifest)
        tolerance = BFLOAT16_TOLERANCE if facts.bfloat16 else GOLDEN_TOLERANCE
        manifest = msgspec.structs.replace(manifest, golden=golden(bundles.load(partial, verify=False), tolerance))
        write_manifest(partial, manifest)
        report("writing to disk")
    return bundles.load(target, verify=False)


Prepared = Callable[[Path, dict[str, Any], Report], Manifest]
"""Writes the files of a bundle to a directory; the manifest has also the fields that it is given."""


def _prepare_smolvla(checkpoint: SmolvlaCheckpoint, facts: Facts, cameras: list[Camera]) -> Prepared:
    if facts.actions is not None:
        raise BundleError("--actions: a SmolVLA's chunk is kept whole")
    arch = dataclasses.replace(checkpoint.architecture, cameras=tuple(c.feature for c in cameras))
    weights, longest = checkpoint.weights, arch.max_prefix
    tasks, tokenizer = tokenised_tasks(checkpoint, facts)
    parts: list[Part] = [
        ("vision", lambda: build_vision(arch, weights, facts.position_ids), vision_flops(arch)),
        ("prefill", lambda: build_prefill(arch, weights), prefill_flops(arch, longest)),
        ("context", lambda: build_context(arch, weights), context_flops(arch, longest)),
        ("expert", lambda: build_expert(arch, weights), expert_flops(arch, longest)),
    ]

    def write(root: Path, common: dict[str, Any], report: Report) -> Manifest:
        blocks = _write_blocks(root, parts, report, bfloat16=facts.bfloat16)
        weights.ignore(*_UNUSED, EMBEDDING)
        _check_all_read(weights, "a SmolVLA")
        table = _token_table(root, weights, arch, tasks, whole=facts.free_text)
        shipped = _ship(root, tokenizer) if facts.free_text else None
        report("checksum of the weights")
        return SmolvlaManifest(
            **common,
            **_sizes(arch),
            checkpoint=manifests.SmolvlaCheckpoint(
                sha256=sha256(weights.path), vlm=checkpoint.vlm_name, position_ids=facts.position_ids
            ),
            blocks=blocks,
            cameras=cameras,
            tasks=tasks,
            token_table=table,
            tokenizer=shipped,
        )

    return write


def _prepare_act(checkpoint: ActCheckpoint, facts: Facts, cameras: list[Camera]) -> Prepared:
    check_act(checkpoint, facts)
    arch: ActArchitecture = dataclasses.replace(
        checkpoint.architecture, actions=facts.actions or checkpoint.architecture.actions
    )
    weights = checkpoint.weights
    parts: list[Part] = [
        ("vision", lambda: build_act_vision(arch, weights), act_vision_flops(arch)),
        ("policy", lambda: build_act_policy(arch, weights), act_policy_flops(arch)),
    ]
    seen = [
        ActCamera(
            **msgspec.structs.asdict(camera),
            **msgspec.structs.asdict(_manifest_statistics(pixels)),
            height=height,
            width=width,
            tokens=tokens,
        )
        for camera, pixels, (height, width), tokens in zip(
            cameras, checkpoint.images, arch.sizes, arch.tokens, strict=True
        )
    ]

    if arch.actions < arch.chunk_size:
        why = "its n_action_steps, as LeRobot executes them" if facts.actions is None else "as --actions says"
        note = [f"of a chunk's {arch.chunk_size} actions the bundle keeps {arch.actions}: {why}"]
    else:
        note = []

    def write(root: Path, common: dict[str, Any], report: Report) -> Manifest:
        blocks = _write_blocks(root, parts, report)
        _check_all_read(weights, "an ACT")
        report("checksum of the weights")
        return ActManifest(
            **common | {"notes": common["notes"] + note},
            checkpoint=manifests.Checkpoint(sha256=sha256(weights.path)),
            blocks=blocks,
            cameras=seen,
            chunk_size=arch.actions,
            token_width=arch.dim,
            tasks=list(dict.fromkeys(facts.tasks)),
            temporal_ensemble_coeff=arch.temporal_ensemble_coeff,
        )

    return write


def _write_blocks(root: Path, parts: list[Part], report: Report, *, bfloat16: bool = False) -> list[Block]:
    blocks = []
    for name, build, flops in parts:
        report(f"block {name}")
        blocks.append(_block(root, name, build(), flops, bfloat16=bfloat16))
    return blocks


def _check_all_read(weights: SafeTensors, policy: str) -> None:
    """Raises BundleError when a tensor is left that no block knows."""
    if left := weights.unread():
        raise BundleError(f"{weights.path}: tensors that {policy} does not have: {left[:5]} ({len(left)} in all)")


def _sizes(arch: Architecture) -> dict[str, Any]:
    """The manifest's fields that repeat the architecture."""
    return {
        "chunk_size": arch.chunk_size,
        "image_side": arch.image_side,
        "max_state_dim": arch.max_state_dim,
        "max_action_dim": arch.max_action_dim,
        "max_task_tokens": arch.max_task_tokens,
        "flow": manifests.Flow(
            steps=arch.flow_steps,
            min_period=arch.min_period,
            max_period=arch.max_period,
            embedding=arch.expert_hidden,
        ),
        "prefix": manifests.Prefix(
            layers=arch.layers,
            kv_heads=arch.kv_heads,
            head_dim=arch.head_dim,
            hidden=arch.hidden,
            image_tokens=arch.image_tokens,
            max_tokens=arch.max_prefix,
        ),
    }


def _ship(root: Path, tokenizer: Path) -> File:
    shutil.copyfile(tokenizer, root / "tokenizer.json")
    return file_entry(root, "tokenizer.json")


def _block(root: Path, name: str, graph: Graph, flops: int, *, bfloat16: bool) -> Block:
    path = f"blocks/{name}.onnx"
    model = graph.model()
    if bfloat16:
        to_bfloat16(model)
    (root / path).write_bytes(model.SerializeToString())
    return Block(
        name=name,
        file=file_entry(root, path),
        backend="onnxruntime",
        dtype="bfloat16" if bfloat16 else "float32",
        inputs=graph.inputs(),
        outputs=graph.outputs(),
        parameters=graph.parameters,
        flops=flops,
    )


def _token_table(root: Path, weights: SafeTensors, arch: Architecture, tasks: list[Task], *, whole: bool) -> TokenTable:
    stored = weights.stored(EMBEDDING)
    if stored.ndim != 2 or stored.shape[1] != arch.hidden:
        raise BundleError(f"{weights.path}: token embeddings are {list(stored.shape)}, expected width {arch.hidden}")
    kind = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(weights.dtype(EMBEDDING))
    if kind is None:
        raise BundleError(f"{weights.path}: token embeddings in {weights.dtype(EMBEDDING)} are not supported")
    before = list(arch.marks_of_absent)
    ids = None if whole else sorted({*before, *(token for task in tasks for token in task.token_ids)})
    rows = stored if ids is None else stored[ids]
    np.save(root / "tokens.npy", rows, allow_pickle=False)
    return TokenTable(
        file=file_entry(root, "tokens.npy"),
        dtype=kind,  # type: ignore[arg-type]  # one of the three literals, by the mapping above
        rows=len(rows),
        token_ids=ids,
        scale=math.sqrt(arch.hidden),
        before=before,
    )


def golden(bundle: Bundle, tolerance: float = GOLDEN_TOLERANCE) -> Golden:
    """Run the bundle on the golden inputs and write inputs and outputs into it. Raises BundleError for a policy
    that computes what is not finite.
    """
    root, manifest = bundle.path, bundle.manifest
    inputs = golden_inputs(manifest)
    with open_for_check(bundle) as policy:
        outputs = run_golden(policy, 0, inputs)
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise BundleError(f"golden output {name} is not finite: the checkpoint cannot be used")

    def save(kind: str, arrays: dict[str, Any]) -> dict[str, File]:
        for name, values in arrays.items():
            np.save(root / "golden" / f"{kind}_{name}.npy", values, allow_pickle=False)
        return {name: file_entry(root, f"golden/{kind}_{name}.npy") for name in arrays}

    return Golden(task=0, inputs=save("input", inputs), outputs=save("output", outputs), tolerance=tolerance)


def _manifest_statistics(normalisation: Normalisation) -> Statistics:
    return Statistics(
        mean=[float(v) for v in normalisation.mean],
        std=[float(v) for v in normalisation.std],
        eps=normalisation.eps,
    )


def tools() -> dict[str, str]:
    """Versions of what computes and writes, as far as it is installed."""
    found = {"vlad": vlad.__version__, "python": platform.python_version()}
    for package in ("numpy", "onnx", "onnxruntime", "tokenizers"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
