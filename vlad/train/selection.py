"""Which checkpoint is the best: by success on the task, not by loss.

A loss says how near actions are to recorded ones on recorded pictures; a policy that is 10 mm off at the grasp has
nearly the loss of one that is not. No torch is imported here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vlad.errors import ConfigError
from vlad.wilson import wilson

ROLLOUT = "vlad.train.rollout:evaluate"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One episode to try. task: of vlad.sim.task, by its target. seed: of the start in the cluster and of the noise."""

    task: str
    cluster: int
    seed: int


@dataclass(frozen=True, slots=True)
class Setting:
    """camera: (height, width) of the dataset's pictures. exact: to which they are scaled for an ACT, None: not at all.
    actions: of a chunk that are carried out before the next one, 0: the policy's own n_action_steps."""

    camera: tuple[int, int]
    exact: tuple[int, int] | None
    actions: int
    device: str


Evaluate = Callable[[Path, Sequence[Attempt], Setting], Sequence[bool]]


class Score(msgspec.Struct, frozen=True):
    """low, high: the 95 % interval of the rate (Wilson)."""

    episodes: int
    successes: int
    low: float
    high: float


class Row(msgspec.Struct, frozen=True):
    """One checkpoint. worst: the lower of the two lower bounds, by which it is chosen. None: no such starts."""

    step: int
    training: Score
    held_out: Score | None
    worst: float


def attempts(tasks: Sequence[str], clusters: Sequence[int], count: int, seed: int) -> list[Attempt]:
    """`count` of them, as many of each cluster and task as can be."""
    pairs = [(task, cluster) for cluster in clusters for task in tasks]
    return [Attempt(*pairs[i % len(pairs)], seed=seed * 100_000 + i) for i in range(count if pairs else 0)]


def score(found: Sequence[bool]) -> Score:
    low, high = wilson(sum(found), len(found))
    return Score(len(found), sum(found), low, high)


def evaluated(
    checkpoints: Mapping[int, Path], evaluate: Evaluate, training: Sequence[Attempt], held_out: Sequence[Attempt],
    *, setting: Setting, tell: Callable[[Row], None] = lambda row: None,
) -> list[Row]:  # fmt: skip
    """A row for each checkpoint, all by the same attempts."""
    rows = []
    for step, path in checkpoints.items():
        found = list(evaluate(path, [*training, *held_out], setting))
        if len(found) != len(training) + len(held_out):
            raise ConfigError(f"the evaluator answered {len(found)} of {len(training) + len(held_out)} attempts")
        seen = score(found[: len(training)])
        unseen = score(found[len(training) :]) if held_out else None
        rows.append(Row(step, seen, unseen, min(seen.low, unseen.low if unseen else 1.0)))
        tell(rows[-1])
    return rows


def best(rows: Sequence[Row]) -> Row:
    """The highest lower bound; of equal ones the earliest, which had the least time to learn the starts by heart."""
    return max(rows, key=lambda row: (row.worst, -row.step))


def named(name: str) -> Evaluate:
    """module:function. Raises ConfigError."""
    module, mark, function = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise  # what the evaluator itself needs is not installed
        raise ConfigError(f"--evaluate {name}: {error}; MODULE:FUNCTION is expected") from None
    if not mark or not callable(found):
        raise ConfigError(f"--evaluate {name}: MODULE:FUNCTION is expected")
    evaluate: Evaluate = found
    return evaluate
