"""The C unit tests, one test id per program and sanitizer; and their branch coverage."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.survival import Survival

CSRC = Path(__file__).resolve().parents[2] / "csrc"
PROGRAMS = sorted(path.stem for path in CSRC.glob("tests/test_*.c"))
THREADED = [name for name in PROGRAMS if "<pthread.h>" in (CSRC / f"tests/{name}.c").read_text()]
SURVIVED = re.compile(r"\bSURVIVED\((\d+)")
GCOVR = f"GCOVR={Path(sys.executable).parent / 'gcovr'}"
PURE = ("gate", "action_queue", "trajectory", "feetech", "watchdog")


def make(target: str) -> str:
    """Output of make -C csrc TARGET, which must succeed. One make at a time: they share objects."""
    (CSRC.parent / "build").mkdir(exist_ok=True)
    result = subprocess.run(
        ["flock", "../build/csrc.lock", "make", "--no-print-directory", target, GCOVR],
        cwd=CSRC, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return result.stdout


def rows(program: str) -> list[int]:
    """Rows of the fault table that a C test measures."""
    return [int(row) for row in SURVIVED.findall((CSRC / f"tests/{program}.c").read_text())]


@pytest.mark.parametrize(
    "program",
    [pytest.param(p, marks=[pytest.mark.fault(*rows(p))] if rows(p) else []) for p in PROGRAMS],
)
def test_under_asan_and_ubsan(program: str, survival: Survival) -> None:
    output = make(f"run/asan/{program}")
    assert not re.search(r"^skipped:", output, re.M), output
    assert re.search(r": [1-9]\d* checks$", output, re.M)
    survival.printed(output)


@pytest.mark.parametrize("program", THREADED)
def test_under_tsan(program: str) -> None:
    assert re.search(r": [1-9]\d* checks$", make(f"run/tsan/{program}"), re.M)


def test_branch_coverage_of_the_pure_parts_is_100() -> None:
    report = make("coverage")
    for part in PURE:
        assert re.search(rf"csrc/{part}\.c\s+(\d+)\s+\1\s+100%", report), report
