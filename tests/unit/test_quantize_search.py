"""The search on tables of errors that are made up, so that what it should find is known."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlad.manifest import Errors, Flow
from vlad.quantize.flow import FlowError, FlowTable, candidates, choose_flow
from vlad.quantize.judge import Gate
from vlad.quantize.search import Choice, Option, choice, longest_that_holds, walk

NAMES = ("float16", "static8", "weights4")
options = st.lists(
    st.builds(
        Option, st.sampled_from(["vision", "prefill"]), st.sampled_from([f"layer{i}/mlp" for i in range(6)]),
        st.sampled_from(NAMES), st.floats(0, 0.01), st.floats(-0.05, 0.2),
    ),
    unique_by=lambda o: (o.block, o.group, o.scheme), max_size=30,
)  # fmt: skip


@given(options, st.floats(1e-5, 0.02), st.integers())
def test_a_walk_stays_in_the_budget_saves_at_every_move_and_does_not_depend_on_order(
    table: list[Option], budget: float, seed: int
) -> None:
    moves = walk(table, budget)
    shuffled = list(table)
    random.Random(seed).shuffle(shuffled)
    assert walk(shuffled, budget) == moves
    taken = {(m.option.block, m.option.group): m.option for m in moves}
    assert sum(o.error**2 for o in taken.values()) <= budget**2 * (1 + 1e-9) + 1e-18
    saved = [0.0, *(m.saved for m in moves)]
    assert all(b > a for a, b in itertools.pairwise(saved))
    if moves:
        assert moves[-1].saved == pytest.approx(sum(o.saved for o in taken.values()))
    # Nothing that would still fit and save is left.
    square = sum(o.error**2 for o in taken.values())
    for option in table:
        before = taken.get((option.block, option.group))
        gain = option.saved - (before.saved if before else 0)
        added = option.error**2 - (before.error**2 if before else 0)
        assert gain <= 1e-12 or square + added > budget**2 * (1 - 1e-9)


def test_the_best_bargain_comes_first_and_a_bad_group_stays() -> None:
    table = [
        Option("vision", "good", "static8", 0.0001, 0.10),
        Option("vision", "fair", "static8", 0.0010, 0.10),
        Option("vision", "bad", "static8", 0.0500, 0.90),
        Option("vision", "bad", "float16", 0.00001, 0.001),
    ]
    moves = walk(table, 0.002)
    assert choice(moves) == {("vision", "good"): "static8", ("vision", "fair"): "static8",
                             ("vision", "bad"): "float16"}  # fmt: skip
    assert [m.option.group for m in moves].index("good") < [m.option.group for m in moves].index("fair")


@given(options, st.floats(1e-4, 0.02), st.floats(0, 1))
def test_what_is_kept_was_seen_to_hold_and_one_move_more_was_seen_not_to(
    table: list[Option], budget: float, bearable: float
) -> None:
    moves = walk(table, budget)
    seen: dict[int, bool] = {}

    def holds(tried: Choice) -> bool:
        at = next(i for i in range(len(moves), -1, -1) if choice(moves[:i]) == dict(tried))
        seen[at] = at <= bearable * len(moves)
        return seen[at]

    kept = longest_that_holds(moves, holds)
    assert kept == 0 or seen[kept]
    assert kept == len(moves) or seen[kept + 1] is False
    assert len(seen) <= 7


def test_a_gate_needs_both() -> None:
    gate = Gate(0.999, 0.002)
    assert gate.passes(Errors(chunk_mae=0.002, chunk_max=0.5, cosine=0.9991))
    assert not gate.passes(Errors(chunk_mae=0.0021, chunk_max=0.0, cosine=1.0))
    assert not gate.passes(Errors(chunk_mae=0.0, chunk_max=0.0, cosine=0.999))


FLOW = Flow(steps=10, min_period=4e-3, max_period=4.0, embedding=12)


def table(fine_mae: float = 0.0) -> FlowTable:
    def row(solver: str, steps: int, evaluations: int, fine: float, own: float) -> FlowError:
        return FlowError(solver, steps, evaluations, fine, fine, own)  # type: ignore[arg-type]

    return FlowTable("", fine_mae, [
        row("euler", 10, 10, 0.004, 0.0), row("euler", 5, 5, 0.008, 0.0018), row("euler", 4, 4, 0.01, 0.003),
        row("ab2", 4, 4, 0.0019, 0.004), row("heun", 1, 2, 0.0025, 0.005), row("heun", 2, 4, 0.001, 0.004),
    ])  # fmt: skip


def test_auto_takes_the_fewest_evaluations_within_the_gate() -> None:
    found = choose_flow(FLOW, table(), 0.002, "auto", None)
    assert (found.solver, found.steps) == ("ab2", 4)  # as near to its own flow as heun 2, and named before it
    found = choose_flow(FLOW, table(), 0.002, "auto", "euler")
    assert (found.solver, found.steps) == ("euler", 5)


def test_without_a_solution_only_the_policys_own_flow_counts() -> None:
    found = choose_flow(FLOW, table(fine_mae=0.1), 0.002, "auto", None)
    assert (found.solver, found.steps) == ("euler", 5)
    assert choose_flow(FLOW, table(fine_mae=0.1), 0.0001, "auto", None) == FLOW


def test_candidates_begin_with_the_policys_own_and_never_cost_more() -> None:
    found = candidates(FLOW)
    assert found[0] == FLOW
    assert len(found) == len(set((f.solver, f.steps) for f in found)) == 10 + 10 + 5 + 5
