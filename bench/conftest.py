"""Judges figures by bench/budgets.toml and prints them all at the end."""

from __future__ import annotations

import operator
import os
import platform
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))  # record_sweep, sweep_motion

BUDGETS = tomllib.loads(Path(__file__).with_name("budgets.toml").read_text())
ROWS = pytest.StashKey[list[tuple[str, str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-goals", action="store_true", help="the goals of budgets.toml are bounds")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def figure(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., None]:
    """figure(what, value, unit): into benchmark.extra_info and the table at the end."""

    def add(what: str, value: float | str, unit: str = "", remark: str = "") -> None:
        benchmark.extra_info[what] = value
        shown = value if isinstance(value, str) else f"{value:.4g} {unit}"
        request.config.stash[ROWS].append((f"{request.node.name}: {what}", shown, remark))

    return add


@pytest.fixture
def judge(request: pytest.FixtureRequest, figure: Callable[..., None]) -> Callable[..., None]:
    """judge(key, value): a figure beside its goal; fails beyond the bound of budgets.toml[key]."""

    def check(key: str, value: float, of_us: float | None = None) -> None:
        budget = BUDGETS[key]
        within = operator.le if budget["at"] == "most" else operator.ge
        sign = "<=" if budget["at"] == "most" else ">="
        met = "met" if within(value, budget["goal"]) else "MISSED"
        figure(key, value, budget["unit"], f"goal {sign} {budget['goal']:g}: {met}")
        bound = budget["goal" if request.config.getoption("--strict-goals") else "fail"]
        if of_us is not None and of_us < budget.get("noise_us", 0.0):
            return
        assert within(value, bound), f"{key}: {value:.4g}, must be {sign} {bound:g}"

    return check


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    load = "/".join(f"{x:.1f}" for x in os.getloadavg())
    terminalreporter.section("figures")
    terminalreporter.line(
        f"{platform.machine()}, {os.cpu_count()} cpus, Linux {platform.release()}, load {load}"
    )
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for what, value, remark in rows:
        terminalreporter.line(f"{what:<{widths[0]}}  {value:>{widths[1]}}  {remark}".rstrip())
