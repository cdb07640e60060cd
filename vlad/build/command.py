"""`vlad build CHECKPOINT --dataset PATH --units degrees|m100 -o NAME.vlad`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vlad.build.checkpoint import read_checkpoint
from vlad.build.checks import AnyCheckpoint, Facts
from vlad.build.dataset import Dataset, read_dataset
from vlad.build.progress import Progress
from vlad.build.writer import build_bundle
from vlad.bundle import Bundle
from vlad.errors import BundleError, VladError
from vlad.manifest import ActManifest, Manifest, files

_STEPS = 7


def parser() -> argparse.ArgumentParser:
    """The argument parser of `vlad build`."""
    p = argparse.ArgumentParser(
        prog="vlad build",
        description="Write a policy bundle from a LeRobot SmolVLA or ACT checkpoint, from its weights.",
        epilog="exit status: 0 written, 1 refused (the reason is on standard error), 2 usage",
    )
    p.add_argument("checkpoint", type=Path, help="pretrained_model directory that LeRobot wrote")
    p.add_argument("-o", "--output", type=Path, required=True, help="bundle directory to write, NAME.vlad")
    p.add_argument(
        "--units",
        choices=("degrees", "m100"),
        required=True,
        help="units of the recorded body joints",
    )
    p.add_argument(
        "--dataset",
        type=Path,
        help="LeRobot dataset v3.0 directory: rate, joint names, tasks, cameras",
    )
    p.add_argument(
        "--tokenizer",
        type=Path,
        help="tokenizer.json of the vision-language model, or its directory",
    )
    p.add_argument("--vlm", type=Path, help="directory with the vision-language model's config.json")
    p.add_argument("--task", action="append", default=[], metavar="TEXT", help="a task besides the dataset's")
    p.add_argument("--rate", type=float, metavar="HZ", help="action rate, where no dataset says it")
    p.add_argument(
        "--joints",
        metavar="A,B,...",
        help="joint names in policy order, where no dataset says them",
    )
    p.add_argument(
        "--skip-camera",
        action="append",
        default=[],
        metavar="NAME",
        help="a camera that training lacked",
    )
    p.add_argument(
        "--position-ids",
        choices=("ordered", "transformers-4.57-float32"),
        default="ordered",
        help="vision position ids; the second repeats a defect, for a policy trained with it",
    )
    p.add_argument(
        "--free-text",
        action="store_true",
        help="ship the tokenizer and all embeddings: any task text",
    )
    p.add_argument(
        "--actions",
        type=int,
        metavar="N",
        help="of an ACT's chunk, how many actions to keep (default: its n_action_steps)",
    )
    p.add_argument(
        "--bfloat16",
        action="store_true",
        help="weights and attention in bfloat16, as LeRobot runs them: half the size; fast where the processor has AMX",
    )
    p.add_argument("--other-dataset", action="store_true", help="accept a dataset with other statistics")
    p.add_argument("--force", action="store_true", help="replace an existing bundle")
    p.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run `vlad build`. Returns the exit status: 0 written, 1 refused, 2 usage."""
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        checkpoint = read_checkpoint(args.checkpoint, vlm=args.vlm, tokenizer=args.tokenizer)
        dataset = None if args.dataset is None else read_dataset(args.dataset)
        facts = _facts(args, dataset)
        with Progress("building", _STEPS, quiet=args.json) as progress:
            built = build_bundle(checkpoint, facts, dataset, args.output, progress.advance, force=args.force)
    except (VladError, OSError) as error:
        print(f"vlad build: {error}", file=sys.stderr)
        return 1
    summary = summarise(built, checkpoint)
    print(json.dumps(summary, indent=1) if args.json else _text(summary))
    return 0


def _facts(args: argparse.Namespace, dataset: Dataset | None) -> Facts:
    joints = None if args.joints is None else tuple(name.strip() for name in args.joints.split(","))
    if dataset is not None:
        if args.rate is not None and args.rate != dataset.rate_hz:
            raise BundleError(f"--rate {args.rate:g} disagrees with the dataset's {dataset.rate_hz:g} Hz")
        if joints is not None and joints != dataset.joints:
            raise BundleError(f"--joints {list(joints)} disagree with the dataset's {list(dataset.joints)}")
    rate = dataset.rate_hz if dataset is not None else args.rate
    joints = dataset.joints if dataset is not None else joints
    missing = [name for name, value in (("--rate", rate), ("--joints", joints)) if value is None]
    if rate is None or joints is None:
        raise BundleError(f"a checkpoint does not say its rate, joints and tasks: give --dataset, or {missing}")
    return Facts(
        rate_hz=rate,
        joints=joints,
        tasks=(*(dataset.tasks if dataset is not None else ()), *args.task),
        units=args.units,
        skip_cameras=tuple(args.skip_camera),
        position_ids=args.position_ids,
        free_text=args.free_text,
        other_dataset=args.other_dataset,
        actions=args.actions,
        bfloat16=args.bfloat16,
    )


def summarise(built: Bundle, checkpoint: AnyCheckpoint) -> dict[str, Any]:
    """What was written, JSON-able: operations (multiply-adds times two, longest prefix) and bytes
    per block.
    """
    m = built.manifest
    summary = {
        "bundle": str(built.path),
        "policy": m.policy_type,
        "checkpoint": str(checkpoint.path),
        "checkpoint_sha256": m.checkpoint.sha256,
        "blocks": {
            b.name: {
                "bytes": b.file.bytes,
                "parameters": b.parameters,
                "flop": b.flops,
            }
            for b in m.blocks
        },
        "flop_per_chunk": _chunk_flops(m),
        "bytes": sum(f.bytes for f in files(m)),
        "cameras": [c.name for c in m.cameras],
        "joints": [j.name for j in m.joints],
        "units": m.units,
        "rate_hz": m.rate_hz,
        "chunk_size": m.chunk_size,
        "chunk_s": m.chunk_size / m.rate_hz,
        "notes": m.notes,
    }
    if isinstance(m, ActManifest):
        return summary | {
            "tasks": [{"text": text} for text in m.tasks],
            "temporal_ensemble_coeff": m.temporal_ensemble_coeff,
        }
    return summary | {
        "flow_steps": m.flow.steps,
        "tasks": [{"text": t.text, "tokens": len(t.token_ids)} for t in m.tasks],
        "free_text": m.tokenizer is not None,
        "position_ids": m.checkpoint.position_ids,
    }


def _chunk_flops(m: Manifest) -> int:
    each = {b.name: b.flops for b in m.blocks}
    if isinstance(m, ActManifest):
        return each["vision"] * len(m.cameras) + each["policy"]
    return each["vision"] * len(m.cameras) + each["prefill"] + each["context"] + each["expert"] * m.flow.steps


def _text(s: dict[str, Any]) -> str:
    lines = [f"{s['bundle']}: {s['bytes'] / 1e6:.1f} MB, {s['flop_per_chunk'] / 1e9:.4g} GFLOP per chunk"]
    for name, b in s["blocks"].items():
        lines.append(
            f"  {name:8} {b['parameters'] / 1e6:8.2f} M parameters {b['bytes'] / 1e6:8.1f} MB "
            f"{b['flop'] / 1e9:9.4g} GFLOP"
        )
    lines.append(f"  cameras  {', '.join(s['cameras'])}")
    lines.append(f"  joints   {', '.join(s['joints'])} ({s['units']})")
    lines.append(f"  chunk    {s['chunk_size']} actions at {s['rate_hz']:g} Hz = {s['chunk_s']:.2f} s")
    for task in s["tasks"]:
        lines.append(f"  task     {task['text']!r}" + (f" ({task['tokens']} tokens)" if "tokens" in task else ""))
    lines += [f"  note     {note}" for note in s["notes"]]
    return "\n".join(lines)
