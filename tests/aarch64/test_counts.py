"""Instruction counts against the recorded ones: a hot function that grew shows without a board."""

from __future__ import annotations

import pytest

from tests.aarch64 import counts

HOW = "if that is meant: python -m tests.aarch64.counts --record, and say why in the commit"


@pytest.fixture(scope="module")
def found() -> dict[str, int]:
    try:
        return counts.measure()
    except counts.NoPluginsError as error:
        pytest.skip(f"instructions are not counted: this QEMU takes no plugins: {error}")


def test_nothing_takes_more_instructions_than_recorded(found: dict[str, int]) -> None:
    compiler, before = counts.recorded()
    assert list(found) == list(before), HOW
    grown = {name: f"{before[name]} -> {count}" for name, count in found.items()
             if count > before[name] * (1 + counts.TOLERANCE)}  # fmt: skip
    assert not grown, f"{grown}; recorded with {compiler}, this is {counts.compiler()}; {HOW}"
    for name, count in found.items():
        if count < before[name] * (1 - counts.TOLERANCE):
            print(f"{name}: {before[name]} -> {count}: record it, so that it stays")


def test_a_count_is_exact(found: dict[str, int]) -> None:
    assert counts.measure() == found
