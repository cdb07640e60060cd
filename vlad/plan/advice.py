"""What to change so that a policy fits, cheapest first, each change with the figure after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from vlad.ladder import parse_rung
from vlad.plan.prediction import LEAST_HZ, Outcome, Setup, evaluate, predict
from vlad.plan.work import PolicyWork
from vlad.servo import MAX_ACTIONS

FEW_STEPS = 4  # published tasks were held at 3 to 4 of 10 Euler steps
FEWEST_STEPS = 2  # one alone is not safe without distillation
TOGETHER = "together"
WORTH = 0.03  # of T_inference: less is no advice


@dataclass(frozen=True, slots=True)
class Advice:
    """One change, what it takes, and what comes of it. fits: with this change alone; None: it does not
    count at load."""

    change: str
    how: str
    t_inference_ns: int
    idle: float
    fits: bool | None


@dataclass(frozen=True, slots=True)
class _Change:
    what: str
    how: str
    apply: Callable[[Setup], Setup]
    joins: bool = True  # may be one of several


def advise(outcome: Outcome) -> list[Advice]:
    """Cheapest first: what the configuration says, the rate, other weights, another unit, then what needs
    training, then giving async up. Last, the first few together that come to fit, where none does alone."""
    advice, fitting, joining = [], False, []
    for change in _changes(outcome):
        if isinstance(change, Advice):
            advice.append(change)
            continue
        after = evaluate(change.apply(outcome.setup))
        advice.append(Advice(change.what, change.how, after.t_inference_ns, after.idle, after.fits))
        if change.joins:
            joining.append(change)
            fitting = fitting or after.fits
    return advice if fitting else [*advice, *_together(outcome, joining)]


def _changes(outcome: Outcome) -> Iterator[_Change | Advice]:
    setup = outcome.setup
    waits = setup.mode == "sync"
    if not waits and not isinstance(setup.threshold, str):
        yield _Change("threshold auto", 'policy.threshold = "auto"', lambda s: replace(s, threshold="auto"))
    if setup.policy is not None and setup.policy.steps > FEWEST_STEPS:
        yield _steps(outcome)
    if not waits:
        yield from _rungs(outcome)
        yield from _rate(outcome)
    yield from _weights(outcome)
    if not waits:
        yield from _chunk(outcome)
    if setup.policy is not None and setup.policy.cameras > 1:
        fewer = setup.policy.cameras - 1
        yield _Change(f"{fewer} camera{'s' if fewer > 1 else ''}", "train without the one that matters least",
                      lambda s: _with(s, lambda p: p.with_cameras(fewer)), joins=False)  # fmt: skip
    if not waits:
        yield _Change("sync", 'policy.mode = "sync": the arm rests for every inference',
                      lambda s: replace(s, mode="sync"), joins=False)  # fmt: skip


def _with(setup: Setup, change: Callable[[PolicyWork], PolicyWork]) -> Setup:
    return setup if setup.policy is None else setup.with_policy(change(setup.policy))


def _steps(outcome: Outcome) -> _Change:
    """As many flow steps as fit, else FEW_STEPS."""
    setup = outcome.setup
    assert setup.policy is not None
    has = setup.policy.steps
    fitting = (n for n in range(has - 1, FEWEST_STEPS - 1, -1) if evaluate(_fewer_steps(setup, n)).fits)
    steps = next(fitting, min(FEW_STEPS, max(FEWEST_STEPS, has // 2)))
    how = f"instead of {has}; first measure what it does to the chunks (docs/ladder.md)"
    return _Change(f"{steps} flow steps", how, lambda s: _fewer_steps(s, steps))


def _fewer_steps(setup: Setup, steps: int) -> Setup:
    return _with(setup, lambda p: p.with_steps(steps))


def _rate(outcome: Outcome) -> Iterator[_Change]:
    """The greatest that fits, where one does."""
    setup, rate = outcome.setup, math.floor(outcome.check.rate_hz_that_fits * 10) / 10
    if LEAST_HZ <= rate < setup.rate_hz and evaluate(replace(setup, rate_hz=rate)).fits:
        how = f"build the bundle with --rate {rate:g}: the arm moves {setup.rate_hz / rate:.1f} times slower"
        yield _Change(f"{rate:g} Hz", how, lambda s: replace(s, rate_hz=rate), joins=False)


def _weights(outcome: Outcome) -> Iterator[_Change]:
    """Int8, and the units that take it, for blocks that matter; the expert last, for its errors add up."""
    setup = outcome.setup
    if setup.policy is None or setup.board is None:
        return
    times = {b.work.block: b for b in outcome.full.blocks if b.total_ns >= WORTH * outcome.t_inference_ns}
    home = setup.board.unit[0]
    for name in sorted(times, key=lambda n: (n == "expert", -times[n].total_ns)):
        block = times[name]
        quantised = block.work.dtype in ("int8", "int4")
        if not quantised and home.computes_in("int8") and _saves(outcome, partial(_in_int8, block=name)):
            how = "vlad quantize" + (": look at its errors, they add up from step to step" if name == "expert" else "")
            yield _Change(f"{name} in int8", how, partial(_in_int8, block=name))
        if name == "expert":
            continue
        for unit in setup.board.unit:
            move = partial(_moved, block=name, unit=unit.name, quantised=quantised)
            if unit.name != block.unit and unit.computes_in(block.work.dtype if quantised else "int8"):
                what = f"{name} on {unit.name}" if quantised else f"{name} in int8 on {unit.name}"
                if _saves(outcome, move):
                    first = "" if quantised else "vlad quantize, then "
                    yield _Change(what, f"{first}[block.{name}] provider = that of the {unit.name}", move)


def _saves(outcome: Outcome, change: Callable[[Setup], Setup]) -> bool:
    return evaluate(change(outcome.setup)).t_inference_ns < (1 - WORTH) * outcome.t_inference_ns


def _in_int8(setup: Setup, block: str) -> Setup:
    return _with(setup, lambda p: p.with_dtype(block, "int8"))


def _moved(setup: Setup, block: str, unit: str, quantised: bool) -> Setup:
    return replace(setup if quantised else _in_int8(setup, block), on={**setup.on, block: unit})


def _chunk(outcome: Outcome) -> Iterator[_Change]:
    """The shortest chunk that fits, as its own inference grows with it."""
    setup, size = outcome.setup, outcome.check.chunk_size_that_fits
    for _ in range(16):
        if not setup.chunk_size < size <= MAX_ACTIONS:
            return
        after = evaluate(_longer(setup, size))
        if after.fits:
            how = f"instead of {setup.chunk_size}; train with chunk_size = {size}"
            yield _Change(f"chunks of {size}", how, partial(_longer, size=size), joins=False)
            return
        size = after.check.chunk_size_that_fits


def _longer(setup: Setup, size: int) -> Setup:
    if setup.policy is not None:
        return _with(setup, lambda p: p.with_chunk(size))
    return replace(setup, chunk_size=size)


def _rungs(outcome: Outcome) -> Iterator[Advice]:
    """Cheaper requests in between: they keep a policy that fits in motion when it grows slow, and are not
    judged at load."""
    setup, policy = outcome.setup, outcome.setup.policy
    if policy is None or setup.board is None:
        return
    for name in ("reuse", "state_only"):
        cost = predict(policy, setup.board, setup.on, parse_rung(name)).total_ns
        yield Advice(f"rung {name}", f'policy.ladder = ["{name}"], for late requests: full passes are judged', cost,
                     max(0.0, 1 - setup.horizon_ns / cost), None)  # fmt: skip


def _together(outcome: Outcome, changes: list[_Change]) -> Iterator[Advice]:
    """One after the other, as far as each helps, until it fits; then the rate that does, if none of it did."""
    setup, used, last = outcome.setup, list[str](), outcome
    for change in changes:
        after = evaluate(change.apply(setup))
        if after.check.rate_hz_that_fits <= last.check.rate_hz_that_fits:  # no nearer to it
            continue
        setup, last = after.setup, after
        used = [*(what for what in used if not change.what.startswith(what)), change.what]
        if after.fits:
            break
    if not last.fits and setup.mode == "async":
        for change in _rate(last):
            setup = change.apply(setup)
            last = evaluate(setup)
            used.append(change.what)
    if len(used) > 1:
        yield Advice(" + ".join(used), TOGETHER, last.t_inference_ns, last.idle, last.fits)
