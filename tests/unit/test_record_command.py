"""`vlad record` on the command line: what is refused before anything moves, and the seam for environments."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from tests.daemons import config_without_devices
from tests.unit.test_record_session import MadeUp, Somebody
from vlad.config import EXIT_CONFIG
from vlad.errors import DatasetError
from vlad.record import command

BASE = ["--single-task", "wave", "--min-free-mib", "0", "--num-episodes", "2"]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """A made-up environment in place of the simulated task; what it was opened with."""
    opened: list[argparse.Namespace] = []

    def open_environment(arguments: argparse.Namespace) -> tuple[MadeUp, Somebody]:
        opened.append(arguments)
        return MadeUp(live=False), Somebody()

    monkeypatch.setattr("vlad.sim.environment_rig.open_environment", open_environment)
    return opened


def test_an_environment_needs_no_arm_and_no_operator(
    tmp_path: Path, environment: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    options = [*BASE, "--teleop", "expert", "--root", str(root), "--seed", "5", "--json"]
    assert command.main(options) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["success"], said["failure"], said["total_episodes"], said["problem"]) == (1, 1, 2, "")
    assert environment[0].seed == 5
    assert json.loads((root / "meta/vlad.json").read_text())["teleop"] == "expert"
    with pytest.raises(DatasetError, match="resume it"):
        command.main(options)
    assert command.main([*options, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["total_episodes"] == 4


@pytest.mark.parametrize(("options", "said"), [
    (["--teleop", "keyboard"], "--config: which arm"),
    (["--teleop", "leader:/dev/x"], "--config: which arm"),
])  # fmt: skip
def test_what_lacks_is_named(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*BASE, "--root", str(tmp_path / "set"), *options]) == EXIT_CONFIG
    assert said in capsys.readouterr().err and not (tmp_path / "set").exists()


@pytest.mark.parametrize(("options", "said"), [
    (["--teleop", "keyboard"], "give --label"),
    (["--teleop", "keyboard", "--label", "success"], "needs a terminal"),
    (["--teleop", "leader"], "leader:PORT, keyboard or expert"),
    (["--teleop", "joystick"], "leader:PORT, keyboard or expert"),
    (["--teleop", "leader:/dev/x"], "--leader-calibration"),
    (["--teleop", "leader:/dev/x", "--cameras", "top,wrist"], "no camera wrist"),
    (["--teleop", "leader:/dev/x", "--fps", "60"], "gives 30 pictures a second"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_before_anything_is_opened(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config_without_devices(tmp_path, ["top", "left"])
    monkeypatch.setattr(command.config, "load", lambda path: settings)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    root = tmp_path / "set"
    assert command.main([*BASE, "--root", str(root), "--config", str(settings.path), *options]) == EXIT_CONFIG
    assert said in capsys.readouterr().err and not root.exists()


@pytest.mark.parametrize("options", [
    ["--single-task", " "], ["--reset-time-s", "-1"], ["--preview", "8088"], ["--num-episodes", "0"], ["--fps", "x"],
    ["--label", "good"],
])  # fmt: skip
def test_wrong_usage(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([*BASE, "--teleop", "expert", "--root", str(tmp_path / "set"), *options])
    assert ended.value.code == 2
