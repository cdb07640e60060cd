"""The figures of a run: what `vlad report --json` prints and the page begins with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlad.faults import BY_ID
from vlad.report_run import Array, Run
from vlad.servo import MODES, REACTIONS, STARVES


@dataclass(frozen=True, slots=True)
class Episode:
    """A fault from its activation to its end, in ns. reaction: the most severe, "" where no event tells it;
    latched: it was, at some time."""

    fault: int
    start_ns: int
    end_ns: int
    latched: bool
    reaction: str = ""


def figures(run: Run) -> dict[str, Any]:
    """Of one run, for JSON: numbers, lists and dictionaries; what is not known is absent."""
    seconds = (run.end_ns - run.start_ns) / 1e9
    found: dict[str, Any] = {"name": run.name, "kind": run.kind, **run.facts, "duration_s": round(seconds, 3)}
    if "mode" in run.columns:
        found["modes"] = shares(run, "mode", MODES)
    if "reaction" in run.columns:
        found["reactions"] = shares(run, "reaction", REACTIONS)
    if run.chunks:
        found["chunks"] = _chunks(run)
        found["t_inference_ms"] = spread([c.t_inference_ms for c in run.chunks])
        if warm := [c for c in run.chunks if not c.cold]:
            found["t_execution_ms"] = {
                "p50": quantile([c.t_execution_ms for c in warm], 0.5), "min": min(c.t_execution_ms for c in warm),
                "least_margin": min(c.t_execution_ms - c.t_inference_ms for c in warm),
            }  # fmt: skip
    found["gaps"] = {"count": len(run.gaps), "by_cause": dict(Counter(g.cause for g in run.gaps)),
                     "longest_ms": max((g.duration_ms for g in run.gaps), default=0.0)}  # fmt: skip
    found |= _execution(run)
    found |= _joints(run)
    if "late_us" in run.columns:
        found["servo_late_us"] = spread(run.columns["late_us"].tolist())
    found["faults"] = [
        {"id": e.fault, "name": BY_ID[e.fault].name, "from_s": round((e.start_ns - run.start_ns) / 1e9, 3),
         "seconds": round((e.end_ns - e.start_ns) / 1e9, 3), "reaction": e.reaction, "latched": e.latched}
        for e in episodes(run)
    ]  # fmt: skip
    found["missing"] = run.missing
    return found


def quantile(values: Sequence[float], q: float) -> float:
    """By the nearest rank; values must not be empty."""
    return float(np.quantile(values, q, method="inverted_cdf"))


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and max; of nothing, nothing."""
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": max(values)} if values else {}


def shares(run: Run, column: str, names: Sequence[str]) -> dict[str, float]:
    """Share of the time that each name was in force, from each sample to the next."""
    seconds = np.diff(run.t_ns) / 1e9
    values = run.columns[column][:-1]
    if not seconds.sum():
        return {}
    return {n: round(float(seconds[values == i].sum() / seconds.sum()), 5)
            for i, n in enumerate(names) if np.any(values == i)}  # fmt: skip


def _chunks(run: Run) -> dict[str, Any]:
    rungs: dict[str, Counter[str]] = {}
    for chunk in run.chunks:
        rungs.setdefault(chunk.rung, Counter())[chunk.verdict] += 1
    return {
        "by_verdict": dict(Counter(c.verdict for c in run.chunks)),
        "rejected_by_reason": dict(Counter(c.reason or "unknown" for c in run.chunks if c.verdict == "rejected")),
        "by_rung": {rung: dict(counts) for rung, counts in rungs.items()},
        "cold_starts": sum(c.cold for c in run.chunks),
    }


def _execution(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    execution = run.report.get("execution")
    if isinstance(execution, dict) and isinstance(execution.get("starved_ticks"), dict):
        engaged = execution.get("engaged_ticks") or 0
        starved = {k: v for k, v in execution["starved_ticks"].items() if isinstance(v, int) and v}
        if engaged:
            found["idle_share"] = sum(starved.values()) / engaged
            found["starved_ticks"] = starved
        found["action_age_ms"] = {"max": execution.get("action_age_max_ms")}
    elif "starved" in run.columns:
        engaged = int(np.sum(run.columns["mode"] == MODES.index("engaged")))
        causes = run.columns["starved"][~np.isnan(run.columns["starved"])].astype(int)
        if engaged:
            found["idle_share"] = len(causes) / engaged
            found["starved_ticks"] = {STARVES[i]: n for i, n in sorted(Counter(causes.tolist()).items())
                                      if 0 <= i < len(STARVES)}  # fmt: skip
    if "age_ms" in run.columns:
        known = run.columns["age_ms"][~np.isnan(run.columns["age_ms"])]
        found["action_age_ms"] = spread(known.tolist())
    return found


def steps(run: Run) -> Array | None:
    """[n - 1, joints] change of the goal from tick to tick, over one step (v_max times the period): what
    the wire lets through is at most 1. None where ticks are not known."""
    if "wrote" not in run.columns or "goal" not in run.columns or not run.period_ns:
        return None
    bound = np.array([v_max for _, _, v_max in run.limits]) * run.period_ns / 1e9
    consecutive = (run.columns["wrote"][1:] > 0)[:, None]
    return np.where(consecutive, np.abs(np.diff(run.columns["goal"], axis=0)) / bound, np.nan)


def _joints(run: Run) -> dict[str, Any]:
    wire = run.report.get("wire")
    out: dict[str, Any] = {}
    share = steps(run)
    if share is not None and share.size:
        out["wire"] = {"goals": int(run.columns["wrote"].sum()),
                       "worst_step_share": {j: v for j, v in zip(run.joints, _worst(share), strict=True)}}
    elif isinstance(wire, dict) and isinstance(wire.get("worst_step_ticks"), dict):
        out["wire"] = {
            "goals": wire.get("goals"), "violations": len(wire.get("violations") or ()),
            "worst_step_share": {
                str(joint): step["seen"] / step["bound"] for joint, step in wire["worst_step_ticks"].items()
                if isinstance(step, dict) and step.get("bound") and isinstance(step.get("seen"), (int, float))
            },
        }  # fmt: skip
    of: dict[str, tuple[str, Any]] = {
        "following_error_max": ("", None), "temperature_max_c": ("temperature_c", np.nanmax),
        "voltage_min_v": ("voltage_v", np.nanmin), "load_max": ("load", lambda v: np.nanmax(np.abs(v))),
    }  # fmt: skip
    for name, (column, worst) in of.items():
        values = following_error(run) if worst is None else run.columns.get(column)
        if values is not None and not np.all(np.isnan(values)):
            out[name] = {j: round(float((worst or np.nanmax)(values[:, i])), 4) for i, j in enumerate(run.joints)
                         if not np.all(np.isnan(values[:, i]))}  # fmt: skip
    return out


def _worst(values: Array) -> Iterator[float | None]:
    for column in values.T:
        yield None if np.all(np.isnan(column)) else round(float(np.nanmax(column)), 4)


def following_error(run: Run) -> Array | None:
    """[n, joints] |goal - present| in units."""
    if "goal" not in run.columns or "present" not in run.columns:
        return None
    return np.asarray(np.abs(run.columns["goal"] - run.columns["present"]))


def episodes(run: Run) -> list[Episode]:
    """When each fault was active or latched, in order of its beginning."""
    found = _of_masks(run) if run.masks is not None else _of_events(run)
    said: dict[int, list[tuple[int, str]]] = {}
    for event in run.events:
        if event["event"] == "fault" and isinstance(event.get("id"), int) and event.get("reaction") in REACTIONS:
            said.setdefault(event["id"], []).append((event["t_ns"], event["reaction"]))
    return sorted((_with_reaction(e, said.get(e.fault, ())) for e in found), key=lambda e: (e.start_ns, e.fault))


def _with_reaction(e: Episode, said: Sequence[tuple[int, str]]) -> Episode:
    slack_ns = 20_000_000  # an event carries the time of its tick, or of the one before
    worst: int = max((REACTIONS.index(r) for t, r in said if e.start_ns - slack_ns <= t <= e.end_ns), default=0)
    return replace(e, reaction=REACTIONS[worst] if worst else "")


def _of_masks(run: Run) -> Iterator[Episode]:
    assert run.masks is not None
    active, latched = run.masks
    for fault in BY_ID:
        on = ((active | latched) >> fault & 1).astype(np.int8)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], on, [0]))))
        for first, after in zip(edges[::2], edges[1::2], strict=True):
            yield Episode(fault, int(run.t_ns[first]), int(run.t_ns[min(after, len(run.t_ns) - 1)]),
                          bool(np.any(latched[first:after] >> fault & 1)))  # fmt: skip


def _of_events(run: Run) -> Iterator[Episode]:
    """A latched fault whose condition is gone ends with the operator's `clear`, which has no event `fault`."""
    open_: dict[int, tuple[int, bool, bool]] = {}  # since, active, was latched
    for event in run.events:
        if event["event"] == "operator" and event.get("verb") == "clear" and event.get("outcome") == "ok":
            for over in [f for f, (_, active, _) in open_.items() if not active]:
                start_ns, _, before = open_.pop(over)
                yield Episode(over, start_ns, event["t_ns"], before)
        fault = event.get("id")
        if event["event"] != "fault" or not isinstance(fault, int) or fault not in BY_ID:
            continue
        active, latched = bool(event.get("active")), bool(event.get("latched"))
        start_ns, _, before = open_.get(fault, (event["t_ns"], False, False))
        if active or latched:
            open_[fault] = (start_ns, active, before or latched)
        elif fault in open_:
            del open_[fault]
            yield Episode(fault, start_ns, event["t_ns"], before)
    for fault, (start_ns, _, before) in open_.items():
        yield Episode(fault, start_ns, run.end_ns, before)
