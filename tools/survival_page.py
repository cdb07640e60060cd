"""docs/survival.md and build/survival.json from the records of a run of the fault matrix.

    python tools/survival_page.py [--records build/survival] [--page docs/survival.md]

`make survival` runs the tests and then this. Exit status 1 when a row has no test that passed, or a
test of one failed, or a bound was exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vlad
from vlad.failsafe import clear_text, latch_text
from vlad.faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[1]


@dataclass(slots=True)
class Evidence:
    """What the tests of one row left: outcomes per test function, and its measurements."""

    fault: Fault
    outcomes: Counter[str] = field(default_factory=Counter)
    tests: dict[str, Counter[str]] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        function = record["test"].split("[")[0]
        self.outcomes[record["outcome"]] += 1
        if record["repeated"]:
            self.repeated.append(record["test"])
        self.tests.setdefault(function, Counter())[record["outcome"]] += 1
        self.measured += [m for m in record["measured"] if m["row"] == self.fault.id]

    def worst(self, name: str, clock: str) -> float | None:
        values = [m[name] for m in self.measured if m["clock"] == clock and m[name] is not None]
        return max(values, default=None)

    def notes(self) -> list[str]:
        return list(dict.fromkeys(m["note"] for m in self.measured if m["note"]))

    def over(self, clock: str) -> bool:
        """A measurement on this clock lies above a bound of the row."""
        bounds = {"react_ms": self.fault.react_ms, "rest_ms": self.fault.rest_ms}
        return any(
            bound is not None and (worst := self.worst(name, clock)) is not None and worst > bound
            for name, bound in bounds.items()
        )

    @property
    def verdict(self) -> str:
        if self.outcomes["failed"] or self.over("simulated"):
            return "FAILED"
        return "held" if self.outcomes["passed"] else "NO TEST RAN"


def read(directory: Path) -> dict[int, Evidence]:
    """The records under `directory`, by row; every row is there. Of a test that was repeated the last
    outcome counts, and that it was repeated is shown."""
    rows = {fault.id: Evidence(fault) for fault in FAULTS}
    last: dict[str, dict[str, Any]] = {}
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            before = last.get(record["test"], {})
            record["repeated"] = before.get("outcome") == "failed"
            last[record["test"]] = record
    for record in last.values():
        for row in record["rows"]:
            rows[row].add(record)
    return rows


def summary(rows: dict[int, Evidence]) -> str:
    verdicts = Counter(e.verdict for e in rows.values())
    tests = {test: outcomes for e in rows.values() for test, outcomes in e.tests.items()}
    cases = sum((outcomes for outcomes in tests.values()), Counter())
    failed = [e.fault.test_id for e in rows.values() if e.over("simulated")]
    exact = sum(e.worst("react_ms", "simulated") is not None
                or e.worst("rest_ms", "simulated") is not None for e in rows.values())
    late = [e.fault.test_id for e in rows.values() if e.over("machine")]
    text = (
        f"{len(rows)} rows: {verdicts['held']} held, {verdicts['FAILED']} failed, "
        f"{verdicts['NO TEST RAN']} without a test; {len(tests)} tests, {sum(cases.values())} cases, "
        f"{cases['skipped']} skipped; {exact} rows with times on a simulated clock, "
        + (f"over bound: {', '.join(failed)}" if failed else "all within bound")
    )
    if repeated := {test for e in rows.values() for test in e.repeated}:
        text += f"; {len(repeated)} failed at first and were repeated"
    if bare := [e.fault.test_id for e in rows.values() if not e.measured]:
        text += f"; tested without a figure or a note: {', '.join(bare)}"
    return text + (f"; over the bound on this machine's clock: {', '.join(late)}" if late else "")


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 10 else f"{value:.0f}"


def _bound(fault: Fault) -> str:
    times = f"{_ms(fault.react_ms)} / {_ms(fault.rest_ms)}"
    return fault.bound if fault.react_ms is None else f"{times}; {fault.bound}".rstrip("; ")


def _times(evidence: Evidence, clock: str) -> str:
    worst = (evidence.worst("react_ms", clock), evidence.worst("rest_ms", clock))
    return "" if worst == (None, None) else f"{_ms(worst[0])} / {_ms(worst[1])}"


def machine() -> str:
    """The computer in a line: nothing that names it."""
    return f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release().split('-')[0]}"


def revision() -> str:
    said = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


def page(rows: dict[int, Evidence]) -> str:
    lines = [f"""\
# Survival report

<!-- Generated by `make survival`. -->

vlad {vlad.__version__}, commit {revision()}, on {machine()}.

**{summary(rows)}.**

Each row of [the fault table](../FAILSAFE.md) was provoked and the reaction measured. Times are the
largest that any test saw, in ms: *reaction* from the fault to the first goal, or refusal, that
differs / *at rest* until the goals stand still. On the **simulated clock** the C core and the
scheduler of the daemon run as they are, on a clock that the test sets: those figures are exact, a
whole number of servo periods, and one above its bound fails the run. On **this machine's clock** the
whole daemon ran beside other work: such a figure shows what a user would see, and proves no bound.

| # | Fault | Reaction | Latch | Clears | Bound | Simulated clock | This machine | Cases | Verdict |
|---|---|---|---|---|---|---|---|---|---|
"""]
    for e in rows.values():
        f = e.fault
        cells = [f.test_id, f.title, f.reaction.name, latch_text(f), clear_text(f), _bound(f),
                 _times(e, "simulated"), _times(e, "machine"),
                 str(e.outcomes["passed"]) + (f" ({e.outcomes['skipped']} skipped)"
                                              if e.outcomes["skipped"] else ""), e.verdict]
        lines.append("| " + " | ".join(cells) + " |\n")
    lines.append("\n## Evidence\n\nWhat was injected, what was seen, and the tests that say so.\n")
    for e in rows.values():
        lines.append(f"\n**{e.fault.test_id} {e.fault.title}.** Injected: {e.fault.inject}.\n")
        lines += [f"- {note}\n" for note in e.notes()]
        for test, outcomes in e.tests.items():
            said = ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items()))
            lines.append(f"- `{test}` ({said})\n")
        lines += [f"- failed at first, repeated: `{test}`\n" for test in dict.fromkeys(e.repeated)]
    return "".join(lines)


def machine_readable(rows: dict[int, Evidence]) -> dict[str, Any]:
    return {
        "version": vlad.__version__, "commit": revision(), "machine": machine(),
        "summary": summary(rows),
        "rows": [
            {
                "id": e.fault.id, "name": e.fault.name, "verdict": e.verdict,
                "reaction": e.fault.reaction.name.lower(), "latch": latch_text(e.fault),
                "bound": {"react_ms": e.fault.react_ms, "rest_ms": e.fault.rest_ms,
                          "text": e.fault.bound},
                "measured": {
                    clock: {name: e.worst(name, clock) for name in ("react_ms", "rest_ms")}
                    for clock in ("simulated", "machine")
                },
                "notes": e.notes(), "outcomes": dict(e.outcomes),
                "tests": {test: dict(outcomes) for test, outcomes in e.tests.items()},
            }
            for e in rows.values()
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, default=ROOT / "build/survival")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/survival.md")
    parser.add_argument("--json", type=Path, default=ROOT / "build/survival.json")
    options = parser.parse_args()
    rows = read(options.records)
    options.json.write_text(json.dumps(machine_readable(rows), indent=1) + "\n", encoding="utf-8")
    options.page.write_text(page(rows), encoding="utf-8")
    print(f"survival: {summary(rows)}")
    for e in rows.values():
        if e.verdict != "held":
            print(f"survival: {e.fault.test_id} {e.fault.title}: {e.verdict}", file=sys.stderr)
    return int(any(e.verdict != "held" for e in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
