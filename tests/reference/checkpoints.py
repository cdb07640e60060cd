"""Checkpoints that a LeRobot writes for the tests against it, made once and kept.

LeRobot 0.4.4 lives in build/reference/venv (`make reference`), the newest in build/reference-newest/venv
(`make reference-newest`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEROBOT = ROOT / "build/reference"
NEWEST = ROOT / "build/reference-newest"


def python(where: Path) -> Path:
    """The interpreter that has a LeRobot; skips the test where there is none."""
    found = where / "venv/bin/python"
    if not found.exists():
        pytest.skip(f"no LeRobot in {found.parents[1]}: run `make {where.name}`")
    return found


def run(where: Path, script: str, *arguments: str | Path) -> None:
    """Run a script of this directory where LeRobot is."""
    subprocess.run(
        [python(where), Path(__file__).with_name(script), *arguments],
        check=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    )


def made(where: Path, name: str, script: str, recipe: tuple[str, ...]) -> Path:
    """The directory of a checkpoint, which `script` makes with the arguments of `recipe` when it is not there yet."""
    directory = where / "checkpoints" / name
    if not directory.exists():
        partial = directory.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        run(where, script, partial, *recipe)
        partial.rename(directory)
    return directory
