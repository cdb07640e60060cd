"""What `vlad plan` says: the verdict first, then where the time goes, then what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from vlad.plan.advice import TOGETHER, Advice
from vlad.plan.prediction import Outcome, evaluate
from vlad.plan.timeline import Timeline

Rows = Sequence[Sequence[str]]

BLOCK_HEADS = ("block", "on", "weights", "calls", "GFLOP", "MB", "each", "in all", "share", "mostly")
ADVICE_HEADS = ("change", "T_inference", "fits", "idle", "how")
LEAST_IDLE = 0.005
COUNTED = {True: "yes", False: "no", None: "-"}


def duration(ns: float) -> str:
    """In s, or ms below one."""
    return f"{ns / 1e9:.2f} s" if ns >= 1e9 else f"{ns / 1e6:.3g} ms"


def verdict(outcome: Outcome) -> str:
    """In one line: whether the daemon would engage, and why."""
    setup, t = outcome.setup, duration(outcome.t_inference_ns)
    word = "fits" if outcome.fits else "does not fit"
    chunk = f"a chunk of {setup.chunk_size} at {setup.rate_hz:g} Hz lasts {duration(setup.horizon_ns)}"
    if not outcome.held_in_memory and setup.board is not None:
        return (f"{word}: about {outcome.resident_bytes / 1e9:.1f} GB are needed, and the board has "
                f"{setup.board.memory.gb:.3g} GB (T_inference {t}, {chunk})")  # fmt: skip
    if not outcome.moves:
        return (f"{word}: T_inference {t}, and a chunk older than {duration(setup.servo.max_cold_age_ns)} is rejected: "
                "the arm would not move")  # fmt: skip
    if setup.mode == "sync":
        return f"{word}: T_inference {t}, and {chunk}: in sync the arm rests {outcome.idle:.0%} of the time"
    text = f"{word}: T_inference {t}, {chunk}, and async needs {duration(needed_ns(outcome))} of actions"
    return text if outcome.fits or outcome.idle < LEAST_IDLE else f"{text}; idle {outcome.idle:.0%} or more"


def needed_ns(outcome: Outcome) -> float:
    """What the load check asks a chunk to last: safety factor and braking distance included."""
    return outcome.setup.chunk_size * 1e9 / outcome.check.rate_hz_that_fits


def estimate(outcome: Outcome) -> str:
    """How far the prediction may be off, and whether that decides; empty for a T_inference that was given."""
    board = outcome.setup.board
    if outcome.setup.latency_ns is not None or board is None:
        return ""
    low, high = outcome.t_inference_ns / board.off_by, outcome.t_inference_ns * board.off_by
    best = evaluate_given(outcome, low).fits
    worst = evaluate_given(outcome, high).fits
    decides = {(True, True): "it fits either way", (False, False): "it does not fit either way"}.get(
        (best, worst), "and that decides it: measure on the board")  # fmt: skip
    what = (f"Prediction from what was measured with {board.name}" if board.measured else
            f"ESTIMATE: figures of {board.name} are published or derived, not measured on it")  # fmt: skip
    return (f"{what}; off by up to {board.off_by:g} x either way: {duration(low)} to {duration(high)}, {decides}.")


def evaluate_given(outcome: Outcome, t_ns: float) -> Outcome:
    """The same setup with a T_inference instead of a prediction."""
    return evaluate(replace(outcome.setup, latency_ns=max(1, round(t_ns))))


def block_rows(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    """Under BLOCK_HEADS; nothing for a T_inference that was given."""
    total = outcome.t_inference_ns
    for block in outcome.full.blocks:
        work = block.work
        size = str(work.calls), f"{work.flops / 1e9:.3g}", f"{work.bytes / 1e6:.3g}"
        took = duration(block.each_ns), duration(block.total_ns), f"{block.total_ns / total:.0%}"
        yield (work.block, block.unit, work.dtype, *size, *took, block.bound)
    if outcome.full.frames_ns and outcome.setup.policy is not None:
        cameras, frames = outcome.setup.policy.cameras, outcome.full.frames_ns
        yield ("picture", "", "", str(cameras), "", "", duration(frames / cameras), duration(frames),
               f"{frames / total:.0%}", "")  # fmt: skip


def facts(outcome: Outcome, timeline: Timeline) -> Iterator[tuple[str, str]]:
    """Name and text of all that is no table."""
    setup = outcome.setup
    yield "T_inference", f"{duration(outcome.t_inference_ns)}" + (" (given)" if setup.latency_ns is not None else "")
    if setup.mode == "async":
        threshold = setup.threshold if isinstance(setup.threshold, str) else f"{setup.threshold:g} of a chunk"
        slack = outcome.slack_ns
        spare = f"{duration(slack)} of slack" if slack >= 0 else f"{duration(-slack)} too little"
        asks = f"{duration(outcome.threshold_ns)} when the next chunk is asked for (threshold {threshold})"
        yield "T_execution", f"{asks}: {spare}"
        yield ("load check", f"{duration(outcome.check.t_inference_ns)} with the safety factor; needs "
               f"{duration(needed_ns(outcome))} of actions, has {duration(setup.horizon_ns)}")  # fmt: skip
        yield "idle", f"{outcome.idle:.0%} at least, with requests back to back; simulated {_simulated(timeline)}"
    else:
        yield "idle", f"{outcome.idle:.0%}, T_inference / (T_inference + N/f); simulated {_simulated(timeline)}"
    for rung in outcome.rungs:
        yield f"rung {rung.rung.name}", f"{duration(rung.total_ns)}, no camera encoded"
    if setup.board is not None and (threads := setup.board.unit[0].threads) > 1:
        yield "threads", f"{threads}: give stage.vision and stage.expert so many cores each (affinity; unset: one)"
    if setup.policy is not None and outcome.weights_bytes:
        text = f"{outcome.weights_bytes / 1e6:.0f} MB of weights, about {outcome.resident_bytes / 1e9:.1f} GB in all"
        if setup.board is not None:
            text += f" of the board's {setup.board.memory.gb:.3g} GB"
        yield "memory", text


def _simulated(timeline: Timeline) -> str:
    chunks = ", ".join(f"{count} {verdict}" for verdict, count in timeline.verdicts.items())
    return f"{timeline.idle_share:.0%} ({chunks}{'; then the daemon holds the arm' if timeline.held else ''})"


def advice_rows(advice: Sequence[Advice]) -> Iterator[tuple[str, ...]]:
    """Under ADVICE_HEADS: what one change does."""
    for a in (a for a in advice if a.how != TOGETHER):
        yield a.change, duration(a.t_inference_ns), COUNTED[a.fits], "-" if a.fits is None else f"{a.idle:.0%}", a.how


def together(advice: Sequence[Advice]) -> str:
    """What several changes do; empty where there is no need."""
    for a in (a for a in advice if a.how == TOGETHER):
        fits = "it fits" if a.fits else "even that does not fit"
        return f"Together, {a.change}: T_inference {duration(a.t_inference_ns)}, idle {a.idle:.0%}: {fits}"
    return ""


def text(outcome: Outcome, advice: Sequence[Advice], timeline: Timeline) -> str:
    """The whole for a terminal."""
    lines = [verdict(outcome)]
    if said := estimate(outcome):
        lines.append(said)
    lines += ["", *(f"{name:<15} {value}" for name, value in facts(outcome, timeline))]
    if rows := list(block_rows(outcome)):
        lines += ["", *_columns(BLOCK_HEADS, rows, right=range(3, 9))]
    if advice:
        lines += ["", "What to change, cheapest first; each alone, on the setup above:"]
        lines += _columns(ADVICE_HEADS, list(advice_rows(advice)), right=(1, 3))
    if said := together(advice):
        lines += ["", said]
    return "\n".join(lines)


def _columns(heads: Sequence[str], rows: Rows, right: Sequence[int]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        cells = (f"{c:>{w}}" if i in right else f"{c:<{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        yield ("  " + "  ".join(cells)).rstrip()


def as_json(outcome: Outcome, advice: Sequence[Advice], timeline: Timeline) -> dict[str, Any]:
    """The same as one object. Times in s."""
    setup, board = outcome.setup, outcome.setup.board
    given = setup.latency_ns is not None
    return {
        "fits": outcome.fits,
        "verdict": verdict(outcome),
        "policy": setup.policy.name if setup.policy is not None else None,
        "board": None if given or board is None else board.name,
        "estimate": None if given or board is None else {"measured": board.measured, "off_by": board.off_by},
        "rate_hz": setup.rate_hz,
        "chunk_size": setup.chunk_size,
        "mode": setup.mode,
        "threshold": setup.threshold,
        "t_inference_s": outcome.t_inference_ns / 1e9,
        "t_execution_s": outcome.threshold_ns / 1e9,
        "slack_s": outcome.slack_ns / 1e9 if setup.mode == "async" else None,
        "horizon_s": setup.horizon_ns / 1e9,
        "needed_s": needed_ns(outcome) / 1e9,
        "idle": outcome.idle,
        "simulated": {"idle": timeline.idle_share, "seconds": timeline.seconds, "chunks": timeline.verdicts,
                      "held": timeline.held},
        "memory": {"weights_bytes": round(outcome.weights_bytes), "resident_bytes": round(outcome.resident_bytes)},
        "blocks": [
            {"block": b.work.block, "unit": b.unit, "dtype": b.work.dtype, "calls": b.work.calls,
             "flops": round(b.work.flops), "bytes": round(b.work.bytes), "each_s": b.each_ns / 1e9,
             "total_s": b.total_ns / 1e9, "bound": b.bound}
            for b in outcome.full.blocks
        ],
        "rungs": {p.rung.name: p.total_ns / 1e9 for p in outcome.rungs},
        "advice": [
            {"change": a.change, "how": a.how, "t_inference_s": a.t_inference_ns / 1e9, "idle": a.idle, "fits": a.fits}
            for a in advice
        ],
    }  # fmt: skip
