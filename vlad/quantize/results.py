"""All that a run measured and chose, as plain data: what `--json` prints and the page is drawn from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

import vlad
from vlad.bundle import Bundle
from vlad.quantize.observations import Moments
from vlad.quantize.schemes import SCHEMES
from vlad.quantize.study import Quantiser, Settings

OUTLYING = 20.0  # greatest magnitude over the 99.9th percentile, from which an input is said to have outliers


def results(
    source: Bundle, quantiser: Quantiser, settings: Settings, moments: Moments, written: Bundle | None
) -> dict[str, Any]:
    """Times are CPU time as shares of float32's, errors shares of each joint's range."""
    study = quantiser.study
    latency = study.latency
    chosen = study.choice
    blocks = []
    for entry in source.manifest.blocks:
        now = entry if written is None else written.block(entry.name)
        schemes = {g: chosen.get((entry.name, g), "float32") for g in quantiser.graphs[entry.name].groups}
        count = Counter(schemes.values())
        blocks.append({
            "name": entry.name, "dtype": now.dtype, "bytes": now.file.bytes, "bytes_before": entry.file.bytes,
            "latency": latency[entry.name][0] / latency[entry.name][1], "groups": schemes,
            "groups_text": ", ".join(f"{n} {s}" for s, n in sorted(count.items(), key=lambda kv: (-kv[1], kv[0]))),
        })  # fmt: skip
    table = study.flow_table
    own = getattr(source.manifest, "flow", None)
    return {
        "vlad": vlad.__version__,
        "bundle": source.path.name,
        "dataset": moments.dataset.name,
        "written": None if written is None else written.path.name,
        "settings": {**msgspec.to_builtins(settings), "prices": {s: SCHEMES[s].mac for s in settings.schemes}},
        "observations": {"calibrate": _where(moments.calibrate), "judge": len(moments.judge),
                         "verify": len(moments.verify), "held_out": _where(moments.verify)},
        "joint_range": moments.joint_range.tolist(),
        "blocks": blocks,
        "total": {
            "bytes": sum(b["bytes"] for b in blocks), "bytes_before": sum(b["bytes_before"] for b in blocks),
            "latency": sum(a for a, _ in latency.values()) / sum(b for _, b in latency.values()),
        },
        "errors": None if study.errors is None else msgspec.to_builtins(study.errors),
        "groups": [
            {**msgspec.to_builtins(j), "chosen": chosen.get((j.block, j.group)) == j.scheme} for j in study.groups
        ],
        "untried": [{"block": b, "group": g, "scheme": s} for b, g, s in study.untried],
        "bfloat16_kernels": quantiser.kernels,
        "wholes": msgspec.to_builtins(study.wholes),
        "outliers": msgspec.to_builtins(study.outliers),
        "path": [{"block": m.option.block, "group": m.option.group, "scheme": m.option.scheme,
                  "predicted_error": m.error, "saved": m.saved, "kept": i < study.kept}
                 for i, m in enumerate(study.moves)],
        "verified": msgspec.to_builtins(study.verified),
        "flow": None if own is None or table is None or study.flow is None else {
            "own": f"{own.steps} steps of {own.solver}",
            "chosen": f"{study.flow.steps} steps of {study.flow.solver}",
            "error_with_choice": study.flow_error, "fine": table.fine, "fine_mae": table.fine_mae,
            "fine_is_solution": table.fine_mae <= settings.gate.chunk_mae, "table": msgspec.to_builtins(table.rows),
        },
        "notes": _notes(quantiser),
    }  # fmt: skip


def _where(observations: Any) -> dict[str, int]:
    """Observations by episode."""
    return {str(k): v for k, v in sorted(Counter(o.episode for o in observations).items())}


def _notes(quantiser: Quantiser) -> list[str]:
    study, notes = quantiser.study, []
    if study.untrained:
        notes.append("every norm's scale is 1 throughout, as initialised: these weights were not trained. Times and "
                     "bytes hold; errors say nothing about a trained policy, whose outliers random weights lack")
    outliers = [(o.ratio, block, o.group) for block, found in study.outliers.items() for o in found]
    if outliers and not study.untrained:
        ratio, block, group = max(outliers)
        notes.append(f"the most outlying input is that of {block} {group}: {ratio:.1f} times its 99.9th percentile"
                     + ("" if ratio < OUTLYING else "; per-token or floating schemes are for such inputs"))
    if "dynamic8" in study.choice.values():
        notes.append("dynamic8 quantises a whole call with one scale, so a prefix whose state alone is refreshed "
                     "differs a little from one that is computed anew; static8 and token8 do not")
    if study.untried:
        notes.append(f"{len(study.untried)} groups or whole blocks in a scheme were not tried, {len(study.groups)} "
                     "groups were, what promised most first: a greater --evaluations or --minutes tries more")
    if not quantiser.kernels and any(w.scheme == "bfloat16" for w in study.wholes):
        notes.append("this processor has none of vlad's kernels for bfloat16 (AMX): functions compute the same in its "
                     "place, slower than float32; that is the price that it was given here")
    return notes


