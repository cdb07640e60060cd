"""Flow steps and solver as part of the trade: what fewer evaluations of the expert do to a chunk.

The measure is a fine solution of the same flow, where there is one: a policy that was trained at a few flow times
only has a velocity between them that means nothing, and a finer solution is then no better. Whether twice as fine
a solution still changes the chunk tells the two apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.expert import EVALUATIONS
from vlad.manifest import SOLVERS, Flow, SmolvlaManifest, Solver
from vlad.quantize.evaluation import Floats, Trace, evaluation_of
from vlad.quantize.judge import compare
from vlad.quantize.observations import Observation

FINE: tuple[Solver, int] = ("heun", 40)
COARSER = 20  # steps of the same solver that have to agree with it


@dataclasses.dataclass(frozen=True, slots=True)
class FlowError:
    """One solver with so many steps, its evaluations of the expert, and its chunk's error: against the fine
    solution, and against the policy's own flow (`own_mae`).
    """

    solver: Solver
    steps: int
    evaluations: int
    chunk_mae: float
    chunk_max: float
    own_mae: float


def candidates(flow: Flow) -> list[Flow]:
    """The policy's own flow first, then every solver with at most as many evaluations."""
    most = flow.steps * EVALUATIONS[flow.solver]
    others = [msgspec.structs.replace(flow, solver=solver, steps=steps)
              for solver in SOLVERS for steps in range(1, most // EVALUATIONS[solver] + 1)]  # fmt: skip
    return [flow, *(f for f in others if f != flow)]


@dataclasses.dataclass(frozen=True, slots=True)
class FlowTable:
    """Every candidate, the policy's own first. fine_mae: how much the fine solution changed when it was made so
    fine; more than the gate means that there is none to measure against.
    """

    fine: str
    fine_mae: float
    rows: list[FlowError]


def flow_table(
    bundle: Bundle, floats: Floats, observations: Sequence[Observation],
    scale: NDArray[np.float64], report: Callable[[str], None],
) -> FlowTable:  # fmt: skip
    """Of a policy in float32."""
    assert isinstance(bundle.manifest, SmolvlaManifest)
    flow = bundle.manifest.flow
    kept: list[Trace] | None = None

    def solve(tried: Flow) -> list[Trace]:
        report(f"{tried.steps} steps of {tried.solver}")
        evaluation = evaluation_of(bundle, tried)
        before: Sequence[Trace | None] = kept or [None] * len(observations)
        changed = None if kept is None else evaluation.blocks[-1]
        sessions = floats.onwards(changed)
        traces = [evaluation.trace(sessions, o, changed=changed, reference=r)
                  for o, r in zip(observations, before, strict=True)]  # fmt: skip
        return [dataclasses.replace(t, velocities=[], states=[]) for t in traces]  # of other times: not comparable

    solver, steps = FINE
    fine = kept = solve(msgspec.structs.replace(flow, solver=solver, steps=steps))
    coarser = solve(msgspec.structs.replace(flow, solver=solver, steps=COARSER))
    rows: list[FlowError] = []
    own: list[Trace] = []
    for tried in candidates(flow):
        traces = solve(tried)
        own = own or traces
        off = compare(fine, traces, scale)
        rows.append(FlowError(tried.solver, tried.steps, tried.steps * EVALUATIONS[tried.solver],
                              off.chunk_mae, off.chunk_max, compare(own, traces, scale).chunk_mae))  # fmt: skip
    return FlowTable(f"{steps} steps of {solver}", compare(fine, coarser, scale).chunk_mae, rows)


def choose_flow(flow: Flow, table: FlowTable | None, gate: float, wanted: str, solver: str | None) -> Flow:
    """wanted: "keep", "auto", which needs the table, or a number of steps. solver: None for the policy's own, with
    "auto" for any.

    "auto" takes the fewest evaluations whose chunk is within `gate` of the policy's own, or of the fine solution
    where there is one; among those, the nearest to its own. Raises BundleError where none is.
    """
    if wanted == "keep":
        if solver is not None and solver != flow.solver:
            raise BundleError(f"--solver {solver} needs --steps: the policy's own are {flow.steps} of {flow.solver}")
        return flow
    if wanted != "auto" or table is None:
        return msgspec.structs.replace(flow, solver=solver or flow.solver, steps=int(wanted))
    able = [f for f in table.rows if solver in (None, f.solver)
            and min(f.own_mae, f.chunk_mae if table.fine_mae <= gate else f.own_mae) <= gate]  # fmt: skip
    if not able:
        raise BundleError(f"--steps auto: no number of {solver} steps is within {gate:g} of the policy's own flow")
    best = min(able, key=lambda f: (f.evaluations, f.own_mae, SOLVERS.index(f.solver), f.steps))
    return msgspec.structs.replace(flow, solver=best.solver, steps=best.steps)
