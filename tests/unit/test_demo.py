"""The demo's verdict: what must not pass for a run, whatever the daemon says of itself."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vlad import config as configuration
from vlad.demo import CONFIG, MAX_RESUMES, Attempt, Demo, main
from vlad.sim.session import alone, as_toml, private_config
from vlad.wire_witness import Verdict

SECONDS = 10.0


def demo(modes: list[str], tmp_path: Path, **final: Any) -> Demo:
    """A session of ten looks, one a second."""
    options = argparse.Namespace(config=CONFIG, seconds=SECONDS, mode="async", workers=False, seed=0, task=None)
    it = Demo(options, tmp_path, tmp_path / "x.vlad", tmp_path)
    it.samples = [{"t_ns": k * 1_000_000_000, "mode": mode, "queue_depth": 0}
                  for k, mode in enumerate([*modes, "holding"])]
    it.final = {
        "faults": [], "servo": {"wire_limit": 0, "wire_step": 0, "writes": 1000},
        "execution": {"action_age_max_ms": 500.0},
        "policy": {"chunk_size": 50, "rate_hz": 30.0, "rtc": {"guided": 9}},
    } | final
    return it


def wire(**other: Any) -> Verdict:
    fields: dict[str, Any] = {"goals": 1000, "moved_ticks": 500, "worst_step": {},
                              "violations": (), "first_ns": 0, "last_ns": 1, "last_change_ns": 1}
    return Verdict(**(fields | other))


def test_a_whole_run_is_fine(tmp_path: Path) -> None:
    it = demo(["engaged"] * 10, tmp_path)
    assert it.engaged_s == SECONDS
    assert it._problems(wire()) == []
    assert demo(["engaged"] * 8 + ["holding"] * 2, tmp_path)._problems(wire()) == []


@pytest.mark.parametrize("mode", ["holding", "ready", "offline", "stopping", "faulted"])
def test_time_that_was_not_engaged_does_not_count(tmp_path: Path, mode: str) -> None:
    problems = demo(["engaged"] * 7 + [mode] * 3, tmp_path)._problems(wire())
    assert problems == ["engaged for 7.0 of 10 s"]


@pytest.mark.parametrize(("seen", "said"), [
    ({"violations": ("a step",)}, "a step"),
    ({"moved_ticks": 99}, "did not move"),
    ({"goals": 980}, "980 goal frames"),
])
def test_what_the_wire_shows_counts(tmp_path: Path, seen: dict[str, Any], said: str) -> None:
    problems = demo(["engaged"] * 10, tmp_path)._problems(wire(**seen))
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize(("final", "said"), [
    ({"faults": [{"id": 15, "name": "serial_unplugged", "latched": True}]}, "serial_unplugged"),
    ({"servo": {"wire_limit": 0, "wire_step": 1, "writes": 1000}}, "refused at the wire"),
    ({"execution": {"action_age_max_ms": 3400.0}}, "after its observation"),
])
def test_what_the_daemon_admits_counts(tmp_path: Path, final: dict[str, Any], said: str) -> None:
    problems = demo(["engaged"] * 10, tmp_path, **final)._problems(wire())
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize("seconds", ["nan", "0", "-3", "inf", "soon"])
def test_a_demo_of_no_time_is_refused(seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--seconds", seconds, "--out", str(tmp_path / "out")])
    assert refused.value.code == 2 and "--seconds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_many_resumes_are_no_run(tmp_path: Path) -> None:
    it = demo(["engaged"] * 10, tmp_path)
    it.resumes = MAX_RESUMES + 1
    assert len(it._problems(wire())) == 1


def test_attempts_that_all_failed_are_a_problem(tmp_path: Path) -> None:
    it = demo(["engaged"] * 10, tmp_path)
    it.attempts = [Attempt(1), Attempt(2, "time limit", 15.0)]
    assert it._problems(wire()) == ["none of 2 attempts succeeded"]
    it.attempts.append(Attempt(3, "success", 5.0))
    assert it._problems(wire()) == []


def test_chunks_that_were_never_guided_are_a_problem(tmp_path: Path) -> None:
    it = demo(["engaged"] * 10, tmp_path)
    it.final["policy"]["rtc"] = {"guided": 0}
    assert ["guided" in problem for problem in it._problems(wire())] == [True]
    it.final["policy"]["rtc"] = None  # another aggregate
    assert it._problems(wire()) == []


def test_two_demos_have_nothing_in_common(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        config = configuration.load(private_config(CONFIG, tmp_path / name, name), machine=False)
        runs.append({config.arm.port, config.control.socket, str(config.flight.directory),
                     str(config.flight.memory), *(c.source for c in config.cameras)})
    assert len(runs[0]) == 7 and not runs[0] & runs[1]
    assert not any("vlad-sim" in path for run in runs for path in map(str, run))
    shipped = configuration.load(CONFIG, machine=False)
    assert shipped.joints == config.joints and shipped.servo == config.servo and shipped.board == config.board


def test_one_directory_takes_one_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(tmp_path):
        assert main(["--out", str(tmp_path), "--bundle", str(tmp_path), "--seconds", "1"]) == 1
    assert "another demo writes there: give this one another --out" in capsys.readouterr().err
    with alone(tmp_path):
        pass


def test_toml_round_trip() -> None:
    given = {"a": {"b": [1, 2.5, True, "q\"\\\n\u00e9"], "c d": {}}, "e": [{"x": -1}, {"y": [[]]}]}
    assert tomllib.loads("".join(f"{k} = {as_toml(v)}\n" for k, v in given.items())) == given
