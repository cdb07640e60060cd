"""The policy that vlad ships: whole, small, of the table's own tasks; and it does them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from vlad import bundle as bundles
from vlad import config as configuration
from vlad.check import main as check
from vlad.demo import CONFIG, TEABAG
from vlad.evaluation.command import main as evaluate
from vlad.evaluation.results import Result
from vlad.sim.task import TASKS

MOST_BYTES = 12_000_000


def test_it_is_small_and_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = bundles.load(TEABAG).manifest
    assert sum(path.stat().st_size for path in TEABAG.rglob("*") if path.is_file()) <= MOST_BYTES
    assert set(shipped.task_texts) == {task.instruction for task in TASKS}
    config = configuration.load(CONFIG, machine=False)
    assert {camera.name for camera in shipped.cameras} <= {camera.name for camera in config.cameras}
    assert check([str(TEABAG), "--config", str(CONFIG)]) == 0, capsys.readouterr()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")
def test_it_does_the_task(tmp_path: Path) -> None:
    """Its rate is `vlad eval`'s to say; that it does not just wave is tested here. 8 starts, half of them must go."""
    found = tmp_path / "found.json"
    words = ["--task", "mug", "--clusters", "training", "--episodes", "8", "--latency", "0.1", "--json", str(found)]
    assert evaluate([str(TEABAG), *words, "--out", str(tmp_path / "out")]) == 0
    result = msgspec.json.decode(found.read_bytes(), type=Result)
    assert sum(episode.success for episode in result.episodes) >= 4
