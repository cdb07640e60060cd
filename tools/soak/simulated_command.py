"""`python -m tools.soak simulated`: as many simulated hours as asked for, one seed each."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tools.soak import report as reports
from tools.soak.injections import INJECTIONS
from tools.soak.simulated import Hour, SoakFailure
from tools.soak.witness import ROOT, build

ENOUGH = 100


def one_seed(given: tuple[int, float, str]) -> dict[str, Any]:
    """A seed's result, or its failure with the last events. In a process of its own."""
    seed, hours, library = given
    began = time.monotonic()
    hour = Hour(seed, Path(library))
    try:
        result: dict[str, Any] = {"ok": True, **hour.run(hours)}
    except (SoakFailure, OSError, ValueError, AssertionError) as error:
        result = {"ok": False, "failure": f"{type(error).__name__}: {error}", "t_ns": hour.sim.now_ns,
                  "report": hour.sim.servo.report(), "events": list(hour.events)[-60:],
                  "injections": hour.table}
    return {"seed": seed, "seconds": round(time.monotonic() - began, 1), **result}


def _tree() -> str:
    """Which source ran: results of another one do not count."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT,
                           capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def summed(results: list[dict[str, Any]], command: str) -> dict[str, Any]:
    good = [r for r in results if r["ok"]]
    table: dict[str, dict[str, Any]] = {}
    for result in good:
        for name, row in result["table"].items():
            total = table.setdefault(name, {"injected": 0, "raised": Counter(), "max_detect_ms": None,
                                            "max_stop_ms": None, "max_rest_ms": None})
            total["injected"] += row["injected"]
            total["raised"].update(row["raised"])
            for key in ("max_detect_ms", "max_stop_ms", "max_rest_ms"):
                if row[key] is not None:
                    total[key] = max(row[key], total[key] or 0.0)
    failures = [f"seed {r['seed']}: {r['failure']}" for r in results if not r["ok"]]
    # One that never raises anything is not injected any more, whatever else has changed.
    failures += [f"{i.name}: injected {table[i.name]['injected']} times, and none of {i.rows} was ever raised"
                 for i in INJECTIONS if i.rows and i.name in table and not table[i.name]["raised"]
                 and table[i.name]["injected"] >= ENOUGH]
    seeds = sorted(r["seed"] for r in results) or [0]
    starved: Counter[str] = Counter()
    for result in good:
        starved.update(result["starved_by"])
    return {
        "ok": not failures and bool(good), "command": command, "failures": failures,
        "seeds": [seeds[0], seeds[-1]], "hours": round(sum(r["hours"] for r in good), 3),
        "ticks": sum(r["ticks"] for r in good), "writes": sum(r["goals"] for r in good),
        "moved": sum(r["moved"] for r in good), "illegal": 0 if not failures else None,
        "engaged_ticks": sum(r["engaged"] for r in good), "covered_ticks": sum(r["covered"] for r in good),
        "starved_ticks": sum(r["starved"] for r in good), "starved_by": dict(starved),
        "gaps": sum(r["gaps"] for r in good), "stops": sum(r["stops"] for r in good),
        "engagements": sum(r["engagements"] for r in good),
        "recoveries": sum(r["recoveries"] for r in good),
        "max_recovery_s": max((r["max_recovery_s"] for r in good), default=0.0),
        "chunks": sum(sum(r["chunks"].values()) for r in good),
        "injections": sum(row["injected"] for row in table.values()), "table": table,
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.soak simulated", description=__doc__)
    parser.add_argument("--hours", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=1, help="the first; each simulated hour has its own")
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", action="store_true", help="keep the seeds that this very source passed")
    parser.add_argument("--json", action="store_true", help="the report on stdout")
    o = parser.parse_args(argv)
    out = o.out.resolve() / "simulated"
    out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "tools.soak", "simulated", *argv])
    library, tree, log = build(out), _tree(), out / "seeds.jsonl"
    results: list[dict[str, Any]] = []
    hours = [min(1.0, o.hours - k) for k in range(-int(-o.hours // 1))]
    if o.resume and log.exists():
        kept = [json.loads(line) for line in log.read_text().splitlines()]
        results = [r for r in kept if r["ok"] and r["tree"] == tree
                   and 0 <= r["seed"] - o.seed < len(hours) and r["asked"] == hours[r["seed"] - o.seed]]
    passed = {r["seed"] for r in results}
    todo = [(o.seed + k, h, str(library)) for k, h in enumerate(hours) if o.seed + k not in passed]
    if not o.json:
        print(f"seeds {o.seed} to {o.seed + len(hours) - 1}, {len(todo)} to do: {command}")
    log.write_text("".join(json.dumps(r) + "\n" for r in results))
    with multiprocessing.get_context("spawn").Pool(min(o.processes, len(todo)) or 1) as pool:
        for done in pool.imap_unordered(one_seed, todo):
            asked = hours[done["seed"] - o.seed]
            result = {**done, "tree": tree, "asked": asked}
            results.append(result)
            with log.open("a") as file:
                file.write(json.dumps(result) + "\n")
            if not result["ok"]:
                _explain(result, asked, out)
            elif not o.json:
                print(f"\r{len(results)}/{len(hours)} hours, {sum(not r['ok'] for r in results)} failures, seed "
                      f"{result['seed']} took {result['seconds']:.0f} s".ljust(80),
                      end="" if sys.stdout.isatty() else "\n", flush=True)
    report = summed(results, command)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    target = reports.write(o.out)
    print(json.dumps(report) if o.json else f"\n{reports.simulated_markdown(report)}\n{target}")
    return 0 if report["ok"] else 1


def _explain(result: dict[str, Any], hours: float, out: Path) -> None:
    kept = out / f"seed-{result['seed']}.json"
    kept.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nFAILED seed {result['seed']} at {result['t_ns']} ns: {result['failure']}\n"
          f"  again: python -m tools.soak simulated --hours {hours:g} --seed {result['seed']}\n"
          f"  everything: {kept}; the last events:", file=sys.stderr)
    for event in result["events"][-12:]:
        print(f"    {json.dumps(event)}", file=sys.stderr)
