"""Every row of the fault table has its test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vlad.faults import BY_ID

ROOT = Path(__file__).resolve().parents[2]


def _tested_rows() -> set[int]:
    found: set[int] = set()
    for path in ROOT.glob("tests/**/test_*.py"):
        text = path.read_text(encoding="utf-8")
        for group in re.findall(r"mark\.fault\(([\d, ]+)\)", text):
            found.update(int(number) for number in re.findall(r"\d+", group))
        found.update(int(number) for number in re.findall(r"def test_f(\d\d)_", text))
    return found


def test_markers_name_rows_of_the_table() -> None:
    assert _tested_rows() <= set(BY_ID)


@pytest.mark.parametrize("row", sorted(BY_ID))
def test_every_row_has_a_test(row: int) -> None:
    assert row in _tested_rows(), f"no test is marked fault({row}): {BY_ID[row].title}"
