"""Judges a real-time soak from what bystanders recorded: wire, events, memory. Nothing is asked here."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.soak.health import MIB, Slope, Vital, binned, theil_sen, usual
from tools.soak.outcome import Outcome
from tools.soak.scenarios import SCENARIOS, STALL
from tools.soak.wire_motion import Motion
from vlad.faults import BY_NAME, Reaction

SLOPE_MIB_H = 1.0
TICK_STALL_NS = 500_000_000
TICK_STALL_MAX_NS = 2_000_000_000
BIN_S = 30.0
# What may follow from an arm that was moved, or a bus that was away, some time before.
CONSEQUENCES = frozenset({"calibration_changed", "unexpected_initial_pose", "operator_stop",
                          "thermal_throttling", "memory_pressure"})
STOPS = ("hold", "stop", "limp", "park")


def stopping(fault: Mapping[str, Any]) -> bool:
    """Whether this event of a fault stops the arm: a row may be raised with less than its worst."""
    raised = fault.get("reaction", BY_NAME[fault["name"]].reaction.name.lower())
    return bool(fault["latched"] or Reaction[raised.upper()] >= Reaction.HOLD)


def gaps_without_cause(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """A gap is explained by what its cause says: a chunk that was rejected so, a request under way, a
    cold start, a stage that failed. The events of chunks are the producer's, those of gaps the loop's."""
    chunks = [e for e in events if e["event"] == "chunk"]
    failures = [e["t_ns"] for e in events if e["event"] in ("fault", "loaded", "task", "stage_died")
                or e.get("why_not")]
    arrivals = [e["t_ns"] for e in chunks]
    bad = []
    for gap in (e for e in events if e["event"] == "gap"):
        end, start = gap["t_ns"], gap["t_ns"] - int(gap["duration_ms"] * 1e6)
        near = chunks[max(0, bisect_left(arrivals, start - 5_000_000_000)):
                      bisect_left(arrivals, end + 2_000_000_000)]
        cause = gap["cause"]
        reasons = {"late": ("late",), "stale": ("stale", "frame_age"),
                   "gate": ("shape", "future", "moved", "not_finite", "position", "step", "jump")}
        if cause in reasons:
            explained = any(c["verdict"] == "rejected" and c["reason"] in reasons[cause] for c in near)
        elif cause == "inference":
            explained = any(c["t_request_ns"] <= end and c["t_ns"] >= start for c in near)
        elif cause == "cold":
            explained = any(c["cold"] for c in near)
        elif cause == "stage":
            explained = any(start - 10_000_000_000 <= t <= end for t in failures)
        else:  # refused, sync: the scheduler's own, and a cold start follows
            explained = any(c["cold"] for c in near)
        if not explained:
            bad.append(f"gap of {gap['duration_ms']:.0f} ms ending at {end}: cause {cause!r}, and no event "
                       "that shows it")
    return bad


def stops_without_cause(events: Sequence[Mapping[str, Any]],
                        requests: Sequence[tuple[int, str]]) -> tuple[list[str], Counter[str]]:
    """Each time the arm left `engaged`: by which fault or request. (unexplained, how often by what)"""
    why: Counter[str] = Counter()
    bad = []
    faults = [e for e in events if e["event"] == "fault" and (e["active"] or e["latched"]) and stopping(e)]
    stood = [e["t_ns"] for e in events if e["event"] == "fault" and e["name"] == "servo_deadline_missed"
             and e["active"] and e.get("reaction") == "hold"]
    operator = [(e["t_ns"], e["verb"]) for e in events if e["event"] == "operator" and e["verb"] in STOPS]
    for left in (e for e in events if e["event"] == "mode" and e["from"] == "engaged"):
        t = left["t_ns"]
        # A fault of the same tick has its time; of a dead bus the mode changes just before.
        by = [f["name"] for f in faults if -300_000_000 <= t - f["t_ns"] <= 100_000_000]
        # A change of mode has the time at which its tick began, and the request came in the midst of it:
        # 50 ms after that at most, unless the next tick says that this one stood still for longer.
        over = max((s for s in stood if 0 < s - t <= TICK_STALL_MAX_NS), default=t + 50_000_000)
        asked = [verb for at, verb in operator if t - 2_000_000_000 <= at <= over]
        asked += [verb for at, verb in requests if 0 <= t - at <= 20_000_000_000 and verb not in
                  ("engage", "resume", "clear", "load", "task")] if not asked and not by else []
        refused = [e for e in events if e["event"] == "wire" and 0 <= t - e["t_ns"] <= 50_000_000]
        if by or asked or refused:
            why[(by or asked or ["wire"])[0]] += 1
        else:
            bad.append(f"the arm left engaged at {t} ns for no recorded reason")
    return bad, why


def motion_unasked(events: Sequence[Mapping[str, Any]],
                   requests: Sequence[tuple[int, str]]) -> list[str]:
    """Engaged only by engage or resume; after a latched fault only by clear and then engage."""
    bad = []
    asked = sorted((t, v) for t, v in requests if v in ("engage", "resume", "clear"))
    asked += [(e["t_ns"], e["verb"]) for e in events
              if e["event"] == "operator" and e["verb"] in ("engage", "resume", "clear") and e["outcome"] == "ok"]
    asked.sort()
    latched_ns = left_ns = 0
    for event in events:
        t = event["t_ns"]
        if event["event"] == "fault" and event["latched"] and event["active"]:
            latched_ns = t  # while inactive it says again that it is latched, maybe in the tick of a clear
        elif event["event"] == "mode" and event["from"] == "engaged":
            left_ns = t
        elif event["event"] == "mode" and event["to"] == "engaged":
            since = [v for at, v in asked if left_ns <= at <= t + 1_000_000_000]
            if not {"engage", "resume"} & set(since):
                bad.append(f"engaged at {t} ns, and nobody asked for it")
            if latched_ns > left_ns - 500_000_000 and latched_ns:
                after = [v for at, v in asked if latched_ns <= at <= t + 1_000_000_000]
                if "clear" not in after or "engage" not in after:
                    bad.append(f"engaged at {t} ns after a latched fault without clear and engage")
            latched_ns = 0
    return bad


def rests(outcomes: Sequence[Outcome], motion: Motion) -> None:
    """When the goals on the wire stood still after each stop, and that nothing moved them until
    somebody asked; written into the outcomes."""
    for o in outcomes:
        if o.stop_ns is None or not o.recover_ns or o.rest_bound_ms is None:
            continue
        last = motion.last_change_ns(o.t_ns, o.recover_ns)
        o.rest_ms = (last - o.t_ns) / 1e6 if last else 0.0
        if o.rest_ms > o.rest_bound_ms:
            o.problems.append(f"goals moved until {o.rest_ms:.0f} ms after it, bound {o.rest_bound_ms:.0f} ms")


def bounds(outcomes: Sequence[Outcome], events: Sequence[Mapping[str, Any]]) -> None:
    """Raised and stopped in time. One that found the arm held already is disturbed."""
    modes = [e for e in events if e["event"] == "mode"]
    times = [e["t_ns"] for e in modes]
    for o in outcomes:
        at = bisect_left(times, o.t_ns)
        if at and modes[at - 1]["to"] != "engaged" and o.rest_bound_ms is not None and o.stop_ns is None:
            o.disturbed.append(f"the arm was {modes[at - 1]['to']} already")
            continue
        if o.bound_ms is not None and o.detect_ms is not None and o.detect_ms > o.bound_ms:
            o.problems.append(f"raised {o.detect_ms:.0f} ms after it, bound {o.bound_ms:.0f} ms")
        if o.bound_ms is not None and o.rest_bound_ms is not None and o.detected and o.stop_ns is None:
            o.problems.append("raised, and the arm did not leave engaged")


def uninvited(events: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome],
              late: Sequence[tuple[int, float]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Faults that nobody injected: (all of them, those that a slow machine does not explain)."""
    along = {s.name: s.along | set(s.rows) for s in SCENARIOS}
    rows, bad = [], []
    lost_goals = [e["t_ns"] for e in events if e["event"] == "fault" and e["name"] == "short_write" and e["active"]]
    for e in (e for e in events if e["event"] == "fault" and e["active"]):
        t = e["t_ns"]
        # The event has the time at which its tick began; the machine may have stalled within it.
        during = [o for o in outcomes if o.t_ns - TICK_STALL_NS <= t <= (o.recover_ns or t) + 1_500_000_000]
        if any(e["name"] in along.get(o.scenario, ()) for o in during):
            continue
        stall = max((ms for at, ms in late if abs(at - t) < 3_000_000_000), default=0.0)
        rows.append({"t_ns": t, "name": e["name"], "during": [o.scenario for o in during],
                     "machine_late_ms": round(stall, 1)})
        # Goals that did not arrive: the simulated arm stood still, and then caught up at once.
        stood = any(0 <= t - at <= 1_000_000_000 for at in lost_goals)
        if stood and e["name"] in ("servo_encoder", "following_error"):
            continue
        if e["name"] not in STALL | CONSEQUENCES and (stopping(e) or e["name"] == "action_not_finite"):
            bad.append(f"{e['name']} at {t} ns, which nobody injected (during "
                       f"{[o.scenario for o in during] or 'none'})")
    return rows, bad


def memory(vitals: Sequence[Vital], warm_up_s: float) -> dict[str, Any]:
    """Slopes after the warm-up; `flat` is None where the run was too short to say."""
    steady = [v for v in vitals if v.t_ns - vitals[0].t_ns > warm_up_s * 1e9] if vitals else []
    result: dict[str, Any] = {"samples": len(steady), "warm_up_s": warm_up_s, "bin_s": BIN_S}
    if len(steady) < 20:
        return result | {"flat": None, "problems": []}
    slopes: dict[str, Slope | None] = {}
    for name, scale in (("rss_bytes", MIB), ("anon_bytes", MIB), ("descriptors", 1), ("threads", 1)):
        hours, values = binned(steady, name, BIN_S)
        slopes[name] = theil_sen(hours, [v / scale for v in values])
        result[name] = {"first": values[0] / scale, "last": values[-1] / scale, "min": min(values) / scale,
                        "max": max(values) / scale,
                        "slope_per_hour": None if (s := slopes[name]) is None else
                        {"value": s.per_hour, "low": s.low, "high": s.high, "points": s.points}}
    problems = []
    long_enough = steady[-1].t_ns - steady[0].t_ns > 20 * 60e9
    slope = slopes["rss_bytes"]
    if long_enough and slope is not None and slope.per_hour >= SLOPE_MIB_H:
        problems.append(f"memory grows by {slope.per_hour:.2f} MiB/h ({slope.low:.2f} to {slope.high:.2f})")
    half = len(steady) // 2
    for name in ("descriptors", "threads"):
        early, late = usual(steady[:half], name), usual(steady[half:], name)
        result[name]["usual"] = [early, late]
        if late > early:
            problems.append(f"{name}: usually {late:g} in the second half, {early:g} in the first")
    return result | {"flat": (not problems) if long_enough else None, "problems": problems}


def recorded_all(recording: Path, sim_log: Path) -> list[str]:
    """The simulator says at its end how many lines of the recording it lost."""
    text = sim_log.read_text(errors="replace") if sim_log.exists() else ""
    if '"lost_lines": 0' in text:
        return []
    return [f"{sim_log.name} does not say that the recording {recording.name} is complete"]
