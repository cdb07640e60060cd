"""How the arm fares when inference is slow: each way of asking for chunks on each latency trace.

    python -m bench.latency_comparison [--json] [--full-ms 550] [--trace NAME] [--seed 1]

Scheduler, gate, queue, trajectory and servo loop are those of the daemon, in simulated time; a trace
(bench/latency_traces.py) says how long a pass takes, the rungs of the ladder by the share of a full
pass that they cost in the full-size policy (docs/ladder.md).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from bench.latency_traces import CHUNK, FULL_MS, HORIZON_NS, PERIOD_NS, RADIUS, S, Trace, circle, traces
from vlad.ladder import FULL, Rung, Vision, parse_ladder
from vlad.load_check import check_load
from vlad.scheduler import Request, SchedulerConfig
from vlad.servo import CLEAR, MS, JointLimits, ServoConfig
from vlad.simulation import Arrival, Simulation

CAMERAS = 2
LOOKAHEAD_NS = 85_000_000

# Shares of a full pass of the full-size policy with two cameras and 10 flow steps.
VISION, PREFILL, STATE, STEP = 0.72, 0.05, 0.01, 0.023

LADDER = ("reuse", "state_only", "steps:4", "state_only+steps:4")
WAYS: dict[str, dict[str, object]] = {
    "auto": {},
    "0.7": {"threshold": 0.7},
    "0.5": {"threshold": 0.5},
    "auto, ladder": {"ladder": parse_ladder(LADDER)},
    "0.7, ladder": {"threshold": 0.7, "ladder": parse_ladder(LADDER)},
    "0.5, ladder": {"threshold": 0.5, "ladder": parse_ladder(LADDER)},
    "sync": {"mode": "sync"},
}


def cost_ns(full_ns: int, rung: Rung, encoded: int, vision: float = VISION) -> int:
    """What a pass costs at nominal speed."""
    prefix = STATE if rung.vision is Vision.NONE else PREFILL
    return round(full_ns * (vision * encoded / CAMERAS + prefix + STEP * (rung.steps or 10)))


@dataclass(slots=True)
class Outcome:
    """What became of a run. Times in s; ages of the observation behind each action when executed."""

    trace: str
    way: str
    idle: float = 0.0  # share of the time in which no action moved the arm
    gaps: int = 0
    longest_gap_s: float = 0.0
    age_p50_s: float = 0.0
    age_p99_s: float = 0.0
    age_max_s: float = 0.0
    image_age_max_s: float = 0.0  # of reused tokens, when their request was made
    cold_starts: int = 0
    refused: int = 0
    holds: int = 0  # an operator had to resume
    verdicts: dict[str, int] = field(default_factory=dict)
    rungs: dict[str, int] = field(default_factory=dict)
    illegal: list[str] = field(default_factory=list)  # goals or chunks that had to be refused


class _Witness:
    """Judges accepted chunks by their own times, whatever the gate said of them."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._last_due_ns = 0

    def __call__(self, arrival: Arrival) -> None:
        verdict = arrival.reason if arrival.verdict == "rejected" else arrival.verdict
        self.outcome.verdicts[verdict] = self.outcome.verdicts.get(verdict, 0) + 1
        if arrival.verdict == "rejected":
            return
        age_ns = arrival.t_arrival_ns - arrival.t_obs_ns
        if age_ns > (10 * S if arrival.request.cold else HORIZON_NS):
            self.outcome.illegal.append(f"stale chunk {arrival.request.seq}: {age_ns / S:.2f} s")
        if not arrival.request.cold and arrival.t_arrival_ns > self._last_due_ns:
            self.outcome.illegal.append(f"late chunk {arrival.request.seq}")
        if arrival.reuse_age_ns > HORIZON_NS:
            self.outcome.illegal.append(f"old images in chunk {arrival.request.seq}")
        self.outcome.image_age_max_s = max(self.outcome.image_age_max_s, arrival.reuse_age_ns / S)
        begins_ns = arrival.t_arrival_ns + PERIOD_NS if arrival.request.cold else arrival.t_obs_ns
        self._last_due_ns = max(self._last_due_ns, begins_ns + (CHUNK - 1) * PERIOD_NS)


def run(
    trace: Trace, way: str, full_ms: float = FULL_MS, vision_slowdown: Callable[[float], float] = lambda t_s: 1.0
) -> Outcome:
    """One way of asking on one trace, from engage to its end. vision_slowdown: of the block that
    encodes cameras alone, as when an accelerator throttles, by time."""
    joints = (*(JointLimits(-1.9, 1.9) for _ in range(5)), JointLimits(0.0, 1.0, 1.6, 26.0, 1000.0, 400_000))
    servo = ServoConfig(joints, PERIOD_NS, CHUNK, allow_non_realtime=True)
    config = SchedulerConfig(
        PERIOD_NS, CHUNK, lookahead_ns=LOOKAHEAD_NS, cameras=CAMERAS, **WAYS[way],  # type: ignore[arg-type]
    )
    full_ns, start_ns = round(full_ms * MS), 1_000_000 * MS
    outcome = Outcome(trace.name, way)

    def latency_ns(request: Request) -> int:
        t_ns = request.admitted_ns - start_ns
        vision = VISION * vision_slowdown(t_ns / S)
        return trace.latency_ns(t_ns, cost_ns(full_ns, request.rung, request.encode, vision))

    sim = Simulation(
        servo, config, circle, latency_ns,
        pose=(RADIUS, 0.0, 0.0, 0.0, 0.0, 0.5), start_ns=start_ns, on_arrival=_Witness(outcome),
        measured_ns={
            rung: [cost_ns(full_ns, rung, rung.least_encoded(CAMERAS))] * 8 for rung in (FULL, *config.ladder)
        },
        vision_ns=round(full_ns * VISION / CAMERAS),
    )
    sim.engage()
    ages_ns = []
    while sim.now_ns < start_ns + trace.seconds * S:
        sim.run(sim.now_ns + PERIOD_NS)
        report = sim.servo.report()
        if report["queue_depth"] and not report["at_rest"]:
            ages_ns.append(report["wire_age_ns"])
        while (event := sim.servo.next_event()) is not None:
            if event[1] == "gap":
                outcome.longest_gap_s = max(outcome.longest_gap_s, event[4] / S)
        if report["mode"] != "engaged":
            outcome.holds += 1
            sim.servo.request(CLEAR)
            sim.run(sim.now_ns + 500 * MS)
            sim.engage()
    _conclude(outcome, sim, ages_ns)
    return outcome


def _conclude(outcome: Outcome, sim: Simulation, ages_ns: Sequence[int]) -> None:
    report = sim.servo.report()
    counters, counts = report["counters"], sim.scheduler.counts
    judged = sim.arm.judge()
    outcome.idle = 1 - counters["covered_ticks"] / counters["engaged_ticks"]
    outcome.gaps = counters["gaps"]
    p50, p99 = np.quantile(ages_ns, [0.5, 0.99])
    outcome.age_p50_s, outcome.age_p99_s, outcome.age_max_s = p50 / S, p99 / S, max(ages_ns) / S
    outcome.cold_starts, outcome.refused = counts.cold_starts, counts.refused_admissions
    outcome.rungs = {name: c.requests for name, c in counts.rungs.items() if c.requests}
    if counters["overdue"]:  # arrived in time, but the loop saw it too late: not executed
        outcome.verdicts["overdue"] = counters["overdue"]
    for check in ("wire_limit", "wire_step"):
        if counters[check]:
            outcome.illegal.append(f"{check}: {counters[check]}")
    if any(a > b for a, b in zip(judged["step_max_nu"], sim.servo.step_limits(), strict=True)):
        outcome.illegal.append("a step on the wire beyond its bound")


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes, a block of lines per trace."""
    lines, last = [], ""
    for o in outcomes:
        if o.trace != last:
            lines += ["", f"{o.trace:14} {'idle':>6} {'gaps':>5} {'longest':>8}  {'age p50/p99/max':17} "
                          f"{'cold':>4} {'late':>4}  requests by rung"]  # fmt: skip
            last = o.trace
        ages = f"{o.age_p50_s:.2f} {o.age_p99_s:.2f} {o.age_max_s:.2f} s"
        rungs = ", ".join(f"{name} {count}" for name, count in o.rungs.items())
        lines.append(
            f"  {o.way:12} {o.idle:6.1%} {o.gaps:5} {o.longest_gap_s:6.2f} s  {ages:17} {o.cold_starts:4} "
            f"{o.verdicts.get('late', 0):4}  {rungs}" + (f"  ILLEGAL {o.illegal}" if o.illegal else "")
        )
    return "\n".join(lines[1:])


def main(argv: Sequence[str] | None = None) -> int:
    names = [trace.name for trace in traces()]
    parser = argparse.ArgumentParser(prog="python -m bench.latency_comparison", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON list instead of the table")
    parser.add_argument("--full-ms", type=float, default=FULL_MS, help=f"a full pass at load ({FULL_MS})")
    parser.add_argument("--trace", choices=names, action="append", help="only this one; may be repeated")
    parser.add_argument("--way", choices=WAYS, action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    outcomes = [
        run(trace, way, options.full_ms)
        for name in options.trace or names
        for way in options.way or WAYS
        for trace in traces(options.seed) if trace.name == name
    ]  # fmt: skip
    timing = SchedulerConfig(PERIOD_NS, CHUNK, lookahead_ns=LOOKAHEAD_NS)
    check = check_load(timing, [round(options.full_ms * MS)])
    if options.json:
        print(json.dumps([asdict(o) for o in outcomes], indent=1))
    else:
        print(f"a full pass: {options.full_ms:g} ms at load; {CHUNK} actions at 30 Hz last {HORIZON_NS / S:.2f} s; "
              f"async would {'be allowed' if check.fits else 'be refused at load'}\n")  # fmt: skip
        print(table(outcomes))
    return 1 if any(o.illegal for o in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
