"""Who is busy when, over a few chunks: the scheduler, gate, queue and servo loop of the daemon in simulated
time, every pass taking what was predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlad.plan.prediction import BlockTime, Outcome, Pass, S, timing
from vlad.scheduler import Request
from vlad.servo import MS, Servo
from vlad.simulation import Arrival, Policy, Simulation

PASSES = 6  # that are followed, the first from rest
MOST_S = 600  # simulated
RADIUS, TURN_S = 0.5, 8.0
ARM, VISION, EXPERT, ONE = "arm", "vision thread", "expert thread", "inference"
THREADS = {"vision": VISION, "prefill": VISION, "context": VISION, "expert": EXPERT, "policy": EXPERT}


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that took from start_s to end_s, on a row."""

    row: str
    what: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds from engage on. idle: spans between bars of a row; of the arm, no action to execute. idle_share:
    of the time from the first motion on. verdicts: of the chunks, by the gate's word. held: the daemon gave up
    before the last one, because chunk after chunk was rejected."""

    rows: tuple[str, ...]
    bars: tuple[Bar, ...]
    idle: tuple[Bar, ...]
    seconds: float
    idle_share: float
    verdicts: dict[str, int]
    held: bool


def simulate(outcome: Outcome) -> Timeline:
    """PASSES requests, as asked, whether the daemon would engage or not."""
    setup = outcome.setup
    servo = setup.servo
    config = timing(setup, Servo(servo, S).lookahead_ns)
    passes = {p.rung: p for p in (outcome.full, *outcome.rungs)}
    vision_ns = _picture_s(outcome) * S + sum(b.each_ns for b in outcome.full.blocks if b.work.block == "vision")
    arrivals: list[Arrival] = []
    start_ns = 1_000_000 * MS

    def latency_ns(request: Request) -> int:
        rung = passes[request.rung]
        extra = request.encode - request.rung.least_encoded(config.cameras)
        return round(rung.total_ns + extra * vision_ns)

    sim = Simulation(
        servo, config, _circle(setup.chunk_size, setup.period_ns), latency_ns, pose=(RADIUS, 0, 0, 0, 0, 0.5),
        start_ns=start_ns, on_arrival=arrivals.append, vision_ns=round(vision_ns),
        measured_ns={p.rung: [p.total_ns] * 8 for p in passes.values()},
    )  # fmt: skip
    sim.engage()
    begun_ns = sim.now_ns
    moving, covered, mode = [], 0, "engaged"
    while len(arrivals) < PASSES and sim.now_ns < begun_ns + MOST_S * S and mode == "engaged":
        before_ns = sim.now_ns
        sim.run(before_ns + servo.period_ns)
        report = sim.servo.report()
        counted, mode = report["counters"]["covered_ticks"], report["mode"]
        moving.append((before_ns, sim.now_ns, counted > covered))
        covered = counted
    end_ns = sim.now_ns
    motion = [((a - begun_ns) / S, (b - begun_ns) / S) for a, b in _joined(moving)]
    bars = [Bar(ARM, "motion", a, b) for a, b in motion]
    for arrival in arrivals:
        bars += _parts(outcome, passes[arrival.request.rung], arrival, begun_ns)
    seconds = (end_ns - begun_ns) / S
    busy_rows = {bar.row for bar in bars} - {ARM}
    rows = (*sorted(busy_rows, key=lambda row: (row in THREADS.values(), row == EXPERT, row)), ARM)
    began = motion[0][0] if motion else 0.0
    idle = [Bar(ARM, "no action", a, b) for a, b in _between(motion, 0.0, seconds)]
    for row in rows[:-1]:
        busy = sorted((b.start_s, b.end_s) for b in bars if b.row == row)
        idle += [Bar(row, "idle", a, b) for a, b in _between(busy, 0.0, seconds)]
    still = sum(b - a for a, b in _between(motion, began, seconds))
    share = still / (seconds - began) if motion else 1.0
    verdicts: dict[str, int] = {}
    for arrival in arrivals:
        word = arrival.reason if arrival.verdict == "rejected" else arrival.verdict
        verdicts[word] = verdicts.get(word, 0) + 1
    return Timeline(rows, tuple(bars), tuple(idle), seconds, share, verdicts, mode != "engaged")


def _picture_s(outcome: Outcome) -> float:
    cameras = outcome.setup.policy.cameras if outcome.setup.policy is not None else 1
    return outcome.full.frames_ns / cameras / S


def _circle(chunk_size: int, period_ns: int) -> Policy:
    """A policy that sees where the arm is: on along a circle of the first two joints."""

    def chunk(t_obs_ns: int, state: NDArray[np.float64]) -> NDArray[np.float64]:
        phase = math.atan2(state[1], state[0]) + 2 * math.pi / TURN_S * np.arange(chunk_size) * period_ns / S
        actions = np.zeros((chunk_size, 6))
        actions[:, 0], actions[:, 1], actions[:, 5] = RADIUS * np.cos(phase), RADIUS * np.sin(phase), 0.5
        return actions

    return chunk


def _joined(samples: Sequence[tuple[int, int, bool]]) -> Iterator[tuple[int, int]]:
    """The spans of consecutive samples that are true."""
    begin = None
    for a, _, true in samples:
        if true and begin is None:
            begin = a
        elif not true and begin is not None:
            yield begin, a
            begin = None
    if begin is not None:
        yield begin, samples[-1][1]


def _between(spans: Sequence[tuple[float, float]], start: float, end: float) -> Iterator[tuple[float, float]]:
    """What the sorted spans leave of start to end."""
    at = start
    for a, b in spans:
        if a > at + 1e-6:
            yield at, a
        at = max(at, b)
    if end > at + 1e-6:
        yield at, end


def _parts(outcome: Outcome, made: Pass, arrival: Arrival, begun_ns: int) -> Iterator[Bar]:
    """The bars of one request. A block that is not on the board's first unit has that unit as a row, and its
    thread waits meanwhile."""
    at, frame_s, board = (arrival.request.admitted_ns - begun_ns) / S, _picture_s(outcome), outcome.setup.board
    home = "" if board is None else board.unit[0].name
    if not made.blocks:
        yield Bar(ONE, "inference", at, (arrival.t_arrival_ns - begun_ns) / S)
        return
    work: list[tuple[BlockTime, str]] = []
    for block in outcome.full.blocks:
        if block.work.block == "vision":
            work += [(block, f"camera {i + 1}") for i in range(arrival.request.encode)]
    work += [(b, b.work.block) for b in made.blocks if b.work.block != "vision" for _ in range(b.work.calls)]
    for block, what in work:
        thread = THREADS[block.work.block]
        if block.work.block == "vision":
            yield Bar(thread, "picture", at, at + frame_s)
            at += frame_s
        until = at + block.each_ns / S
        if block.unit == home:
            yield Bar(thread, what, at, until)
        else:
            yield Bar(thread, "waits", at, until)
            yield Bar(block.unit, what, at, until)
        at = until
