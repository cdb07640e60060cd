"""What came of one injection, and of all of them by scenario."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """One injection. Times in ms after its command went out; None = did not happen or is not bounded."""

    scenario: str
    number: int
    t_ns: int
    wanted: tuple[str, ...]
    detected: str | None = None
    detect_ms: float | None = None
    stop_ns: int | None = None
    stop_ms: float | None = None
    rest_ms: float | None = None
    bound_ms: float | None = None
    rest_bound_ms: float | None = None
    recover_ns: int = 0
    recovered_s: float | None = None
    disturbed: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def tally(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Per scenario: injected, detected, the largest times, problems."""
    table: dict[str, dict[str, Any]] = {}
    for o in outcomes:
        row = table.setdefault(o.scenario, {
            "rows": list(o.wanted), "injected": 0, "detected": 0, "by": Counter(),
            "max_detect_ms": None, "max_stop_ms": None, "max_rest_ms": None, "bound_ms": None,
            "rest_bound_ms": None, "max_recovery_s": None, "problems": 0, "disturbed": 0})
        row["injected"] += 1
        row["detected"] += o.detected is not None
        row["by"][o.detected or "goes on"] += 1
        row["problems"] += len(o.problems)
        row["disturbed"] += bool(o.disturbed)
        for name, value in (("max_detect_ms", o.detect_ms), ("max_stop_ms", o.stop_ms),
                            ("max_rest_ms", o.rest_ms), ("bound_ms", o.bound_ms),
                            ("rest_bound_ms", o.rest_bound_ms), ("max_recovery_s", o.recovered_s)):
            if value is not None:
                row[name] = max(value, row[name] if row[name] is not None else value)
    return dict(sorted(table.items()))
