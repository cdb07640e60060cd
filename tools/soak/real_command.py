"""`python -m tools.soak real`: runs it, judges it, writes the report."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.soak import report as reports
from tools.soak import verdict
from tools.soak.outcome import tally
from tools.soak.real import RealSoak
from tools.soak.scenarios import SCENARIOS
from tools.soak.wire_motion import Motion
from vlad.wire_witness import Verdict, judge


def wire_record(wire: Verdict) -> dict[str, Any]:
    return {
        "goals": wire.goals, "moved_ticks": wire.moved_ticks, "violations": list(wire.violations),
        "worst_step_ticks": {k: list(v) for k, v in wire.worst_step.items()},
        "worst_share": max((a / b for a, b in wire.worst_step.values()), default=0.0),
    }


def conclude(soak: RealSoak, command: str, warm_up_s: float) -> dict[str, Any]:
    """Every witness's verdict in one dictionary; `ok` when none has a problem."""
    events, requests = soak.watcher.events, soak.requests
    wire = judge(soak.robot.recording, soak.robot.config.joints, soak.robot.config.period_ns / 1e9)
    verdict.rests(soak.outcomes, Motion(soak.robot.recording))
    verdict.bounds(soak.outcomes, events)
    gaps = verdict.gaps_without_cause(events)
    stops, by = verdict.stops_without_cause(events, requests)
    came, strange = verdict.uninvited(events, soak.outcomes, soak.watcher.late_ms)
    vitals = [v for v in soak.watcher.vitals if v.t_ns <= soak.ended_ns]
    memory = verdict.memory(vitals, warm_up_s)
    problems = [
        *soak.problems, *dict.fromkeys(soak.watcher.problems), *wire.violations, *gaps, *stops, *strange,
        *verdict.motion_unasked(events, requests), *memory["problems"],
        *verdict.recorded_all(soak.robot.recording, soak.out / "sim.log"),
        *(f"injection {o.number} ({o.scenario}): {p}" for o in soak.outcomes for p in o.problems),
    ]
    if wire.moved_ticks < 100:
        problems.append(f"the arm hardly moved: {wire.moved_ticks} ticks")
    if soak.watcher.lost:
        problems.append(f"{soak.watcher.lost} events were overwritten before they were read")
    engaged_s = sum((b["t_ns"] - a["t_ns"]) / 1e9 for a, b in
                    zip(soak.watcher.samples, soak.watcher.samples[1:], strict=False) if a["mode"] == "engaged")
    return {
        "ok": not problems, "problems": problems, "command": command, "seed": soak.seed,
        "minutes": (soak.ended_ns - soak.began_ns) / 60e9, "engaged_s": engaged_s,
        "injections": len(soak.outcomes), "slack_ms": soak.slack_ms, "wire": wire_record(wire),
        "gaps": {"seen": sum(e["event"] == "gap" for e in events), "unexplained": gaps},
        "stops": {"seen": sum(by.values()) + len(stops), "by": dict(by.most_common()), "unexplained": stops},
        "unasked_restarts": soak.unasked_restarts, "daemon_starts": soak.robot.starts,
        "memory": memory, "table": tally(soak.outcomes), "uninvited": came,
        "machine_late_ms": {"over_20": len(soak.watcher.late_ms),
                            "max": max((ms for _, ms in soak.watcher.late_ms), default=0.0)},
        "outcomes": [asdict(o) for o in soak.outcomes],
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.soak real", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    parser.add_argument("--slack-ms", type=float, default=1500.0, help="added to each bound: the machine's")
    parser.add_argument("--camera", default="160x120", help="size of the simulated pictures")
    parser.add_argument("--warm-up", type=float, default=None, help="seconds before memory is judged (600)")
    parser.add_argument("--only", nargs="+", default=[], choices=[s.name for s in SCENARIOS], metavar="SCENARIO")
    parser.add_argument("--json", action="store_true", help="the report on stdout")
    o = parser.parse_args(argv)
    width, _, height = o.camera.partition("x")
    command = shlex.join(["python", "-m", "tools.soak", "real", *argv])
    if not o.json:
        print(f"seed {o.seed}: {command}")
    soak = RealSoak(o.out.resolve() / "real", seed=o.seed, minutes=o.minutes, slack_ms=o.slack_ms,
                    camera=(int(width), int(height)), only=tuple(o.only), quiet=o.json)
    soak.run()
    report = conclude(soak, command, 600.0 if o.warm_up is None else o.warm_up)
    (soak.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    if soak.watcher.samples:
        reports.picture(soak.out / "soak.png", soak.watcher.vitals, soak.watcher.samples, report["outcomes"],
                        f"{report['minutes']:.0f} minutes, {report['injections']} injections, seed {o.seed}")
    target = reports.write(o.out)
    if o.json:
        print(json.dumps(report))
    else:
        print("\n" + reports.real_markdown(report) + f"\n{target}\n{soak.out}/soak.png")
    if report["ok"]:
        return 0
    print(f"NOT OK: {len(report['problems'])} problems, the first: {report['problems'][0]}\n"
          f"  kept in {soak.out}: daemon.log, sim.log, events.jsonl, bus.jsonl, injection-*.json\n"
          f"  again: {command}", file=sys.stderr)
    return 1
