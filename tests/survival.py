"""The evidence of the fault matrix: which test held which row, and what it measured.

The hooks and the fixture are those of tests/conftest.py. A test belongs to a row by `@pytest.mark.fault(n)` or
by its name, `test_fNN_...`; every outcome of such a test, with what it gave to the fixture
`survival`, becomes one JSON line under build/survival/. tools/survival_page.py makes the page of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from vlad.faults import BY_ID
from vlad.simulation import Simulation

ROOT = Path(__file__).resolve().parents[1]
RECORDS = Path(os.environ.get("VLAD_SURVIVAL", ROOT / "build/survival"))
NAMED = re.compile(r"test_f(\d\d)_")
PRINTED = re.compile(r"^survived: row (\d+) react_ns (-?\d+) rest_ns (-?\d+)$", re.M)
# Beyond a bound a shared machine may be late by so much, and the figure says so on the page. Only a
# figure that no pause of the machine explains fails the test.
MACHINE_SLACK_MS = 2_000.0

Clock = Literal["simulated", "machine"]
MEASURED = pytest.StashKey[list[dict[str, Any]]]()


def rows_of(item: pytest.Item) -> list[int]:
    """The rows that a test proves, by its marks and its name."""
    rows = {int(row) for mark in item.iter_markers("fault") for row in mark.args}
    if found := NAMED.match(item.name):
        rows.add(int(found[1]))
    return sorted(rows)


class Survival:
    """What a fault test calls with its measurements; several times where it has several."""

    def __init__(self, item: pytest.Item) -> None:
        self._rows = rows_of(item)
        self._kept = item.stash.setdefault(MEASURED, [])

    def __call__(
        self,
        row: int,
        *,
        react_ms: float | None = None,
        rest_ms: float | None = None,
        clock: Clock = "simulated",
        note: str = "",
    ) -> None:
        """One measurement of `row`.

        react_ms: from the injected fault to the first goal (or refusal) that differs; rest_ms:
        until the goals stand still. clock: "simulated" where the time was set by the test, and the
        bound of the row then holds exactly; "machine" where it is this machine's. note: what was
        observed, in a few words: for rows without a time, that is the measurement.
        """
        assert row in self._rows, f"the test does not belong to row {row}: mark it fault({row})"
        assert note or react_ms is not None or rest_ms is not None, "nothing was measured"
        fault = BY_ID[row]
        slack = 0.0 if clock == "simulated" else MACHINE_SLACK_MS
        over = [
            f"{name} {value:g} ms, bound {bound} ms"
            for name, value, bound in (
                ("reaction", react_ms, fault.react_ms),
                ("at rest", rest_ms, fault.rest_ms),
            )
            if value is not None and bound is not None and value > bound + slack
        ]
        self._kept.append({"row": row, "react_ms": react_ms, "rest_ms": rest_ms, "clock": clock,
                           "note": note})
        assert not over, f"row {row} ({fault.name}): {'; '.join(over)}"

    def printed(self, output: str) -> None:
        """What a C test said with SURVIVED() of csrc/tests/check.h, in simulated time."""
        for row, react_ns, rest_ns in PRINTED.findall(output):
            self(int(row), **{name: int(ns) / 1e6 for name, ns in
                              (("react_ms", react_ns), ("rest_ms", rest_ns)) if int(ns) >= 0})


@pytest.fixture
def survival(request: pytest.FixtureRequest) -> Survival:
    return Survival(request.node)


def stop_times(sim: Simulation, injected_ns: int, limit_ms: int = 12_000) -> tuple[float, float]:
    """Ticks on until the engaged arm of `sim` reacts and stands still: (react_ms, rest_ms) since
    `injected_ns`. From the reaction on no joint may speed up (invariant I2)."""
    tick_ns = sim.config.period_ns
    before = np.array(sim.arm.judge()["goal_nu"])
    faster: np.ndarray | None = None
    react_ns: int | None = None
    still = 0
    while sim.now_ns - injected_ns <= limit_ms * 1_000_000:
        sim.run(sim.now_ns + tick_ns)
        goal = np.array(sim.arm.judge()["goal_nu"])
        speed = np.abs(goal - before)
        before = goal
        if react_ns is None and sim.servo.queue_view()[1] != "engaged":
            react_ns = sim.now_ns - injected_ns
        if react_ns is None:
            continue
        assert faster is None or (speed <= faster).all(), "a joint sped up while stopping"
        faster = speed
        still = 0 if speed.any() else still + 1
        if still == 3:
            return react_ns / 1e6, (sim.now_ns - still * tick_ns - injected_ns) / 1e6
    raise AssertionError(f"no rest within {limit_ms} ms, reaction after {react_ns} ns")


# --- the plugin ---------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m fault` selects a test of a row by its name too."""
    for item in items:
        if not any(item.iter_markers("fault")) and (rows := rows_of(item)):
            item.add_marker(pytest.mark.fault(*rows))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    report = yield
    rows = rows_of(item)
    said = report.when == "call" or report.outcome != "passed"  # a failed or skipped set-up too
    if rows and said:
        line = {"test": item.nodeid, "rows": rows, "outcome": report.outcome,
                "measured": item.stash.get(MEASURED, [])}
        RECORDS.mkdir(parents=True, exist_ok=True)
        with (RECORDS / "tests.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return report
