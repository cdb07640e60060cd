"""On the same latency trace vlad keeps the arm moving where LeRobot's own asynchronous queue stops it
or drives it on old observations. LeRobot's logic runs in LeRobot's own environment: `make reference`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.latency_comparison import Outcome, run
from bench.latency_traces import HORIZON_NS, S, traces

ROOT = Path(__file__).parents[2]
LEROBOT_PYTHON = ROOT / "build/reference/venv/bin/python"
pytestmark = pytest.mark.skipif(not LEROBOT_PYTHON.exists(), reason="LeRobot is not installed: `make reference`")


def lerobot(trace: str) -> dict[str, Any]:
    """Its default threshold of 0.5."""
    command = [LEROBOT_PYTHON, "-m", "bench.lerobot_queue", "--json", "--trace", trace, "--threshold", "0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=True)
    outcome: dict[str, Any] = json.loads(done.stdout)[0]
    return outcome


def vlad(trace: str) -> Outcome:
    return run(next(t for t in traces() if t.name == trace), "auto, ladder")


@pytest.mark.parametrize("trace", ["throttling", "doubling", "spikes"])
def test_younger_actions_and_less_idle_under_drift(trace: str) -> None:
    """Under random stalls LeRobot idles less, because it executes what comes too late: not asserted there."""
    theirs, ours = lerobot(trace), vlad(trace)
    assert theirs["chunks"] > 100, "their side did not run"
    assert ours.age_p99_s < theirs["age_p99_s"]
    assert not ours.illegal
    assert theirs["stale_actions"] > 0 and theirs["age_max_s"] > HORIZON_NS / S
    if trace != "spikes":
        assert ours.idle < theirs["idle"] / 5


def test_at_a_steady_latency_both_keep_moving() -> None:
    """The comparison is fair: where there is time enough, their side does not stop either."""
    theirs, ours = lerobot("steady"), vlad("steady")
    assert theirs["gaps"] == ours.gaps == 1  # before the first chunk
    assert theirs["idle"] < 0.005 and ours.idle < 0.005
