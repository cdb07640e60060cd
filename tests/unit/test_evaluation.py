"""`vlad eval`: its figures against known ones, its episodes in simulated time, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from vlad.errors import ConfigError
from vlad.evaluation import latency
from vlad.evaluation.command import CONFIG, configured, main, result, text
from vlad.evaluation.results import HELD_OUT, TRAINING, Episode, Result, group, groups, rms_jerk

pytestmark = pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")

from vlad.evaluation.page import page  # noqa: E402
from vlad.evaluation.simulated_time import Attempt, SimulatedTime, cases, clusters_of, tasks_of  # noqa: E402
from vlad.evaluation.subject import ExpertPolicy, Subject, of_expert  # noqa: E402
from vlad.evaluation.table import Case  # noqa: E402
from vlad.sim.task import MUG, TASKS  # noqa: E402
from vlad.wilson import wilson  # noqa: E402

TEXTS = tuple(task.instruction for task in TASKS)
SLOW_ARM = CONFIG.parent / "so101-sim.toml"  # whose limits the expert was tried at
CONFIGURED = configured(SLOW_ARM, {})


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "trials", "low", "high"), [
    (0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (81, 263, 0.25529, 0.36621),
])  # the last: Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I
def test_wilsons_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=2e-5)


def test_an_interval_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_jerk_is_the_third_derivative() -> None:
    t = np.arange(100) * 0.01
    assert rms_jerk(np.stack([t**3, -2 * t**3], axis=1), 0.01) == pytest.approx(np.sqrt((36 + 144) / 2))
    assert rms_jerk(np.stack([t**2, t], axis=1), 0.01) == pytest.approx(0, abs=1e-6)
    assert rms_jerk(np.zeros((5, 2)), 0.01) is None


def episode(**other: Any) -> Episode:
    fields = {"task": "mug", "cluster": 1, "index": 0, "split": TRAINING, "success": True, "ended": "success",
              "duration_s": 5.0, "time_s": 5.0, "t_inference_ms": [100.0]}  # fmt: skip
    return Episode(**(fields | other))  # type: ignore[arg-type]


def test_groups_keep_tasks_and_splits_apart() -> None:
    lost = episode(success=False, ended="time limit", time_s=None, duration_s=15.0, idle=0.5, cold_starts=3,
                   rejected={"late": 2, "jump": 1}, rungs={"full": 4, "reuse": 2}, holds=1)  # fmt: skip
    found = groups([episode(), lost, episode(split=HELD_OUT, cluster=6), episode(task="plate")])
    assert [(g.task, g.split, g.successes, g.episodes) for g in found] == [
        ("mug", TRAINING, 1, 2), ("mug", HELD_OUT, 1, 1), ("plate", TRAINING, 1, 1)]  # fmt: skip
    first = found[0]
    assert first.idle == pytest.approx(7.5 / 20) and first.time_s == 5.0
    assert (first.late, first.rejected) == (2, 3)
    assert first.fallbacks == {"cold_starts": 2, "refused": 0, "lower_rungs": 2, "holds": 1}
    assert first.by_cluster == {1: [1, 2]}
    with pytest.raises(ValueError, match="no episodes"):
        group([])


# --- latency, starts, tasks ------------------------------------------------------------------------


def test_latency_is_seconds_or_a_file(tmp_path: Path) -> None:
    assert latency.parse("measured") is None
    fixed = latency.parse("6.15")
    assert fixed is not None and fixed.samples_ns == (6_150_000_000,)
    file = tmp_path / "ms.json"
    for content in ([10, 20.5], {"episodes": [{"t_inference_ms": [10]}, {"t_inference_ms": [20.5]}]}):
        file.write_text(json.dumps(content))
        read = latency.parse(str(file))
        assert read is not None and read.samples_ns == (10_000_000, 20_500_000)


@pytest.mark.parametrize(("content", "said"), [
    ("[", "no JSON"), ("{}", "neither"), ("[]", "no inference times"), ("[0]", "more than 0"), ('["x"]', "more than 0"),
    ("[1e9]", "at most"), ("3", "neither"),
])
def test_a_bad_latency_file_is_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "ms.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        latency.parse(str(file))


@pytest.mark.parametrize("word", ["0", "-1", "61", "nan", "inf", "nowhere.json"])
def test_a_latency_that_cannot_be_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="latency"):
        latency.parse(word)


def test_cases_are_balanced_and_paired() -> None:
    tasks = tasks_of("both", TEXTS)
    many = cases(tasks, clusters_of("all"), 20, 3)
    assert len(many) == 80
    assert sum(case.split == HELD_OUT for case in many) == 40
    assert {sum(case.cluster == c and case.task is MUG for case in many) for c in clusters_of("training")} == {2}
    mug, plate = ([case for case in many if case.task is task] for task in TASKS)
    assert [case.start() for case in mug] == [case.start() for case in plate]
    assert cases(tasks[:1], clusters_of("6"), 5, 3) == [case for case in mug if case.cluster == 6][:5]
    assert len({case.start().bag_m for case in mug}) == len(mug)
    assert Case(MUG, "", 6, 0, 1).start() != Case(MUG, "", 6, 0, 2).start()


@pytest.mark.parametrize("word", ["", "0", "12", "6,", "held_out", "6.0"])
def test_unknown_clusters_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="clusters"):
        clusters_of(word)


def test_a_policy_is_asked_what_it_knows() -> None:
    assert tasks_of("known", ["put the tea bag in the mug"]) == [(MUG, "put the tea bag in the mug")]
    assert tasks_of("mug", ["Wave."], "Wave") == [(MUG, "Wave.")]
    for name, instruction in (("known", None), ("plate", None), ("mug", "Jump"), ("both", "Wave")):
        with pytest.raises(ConfigError):
            tasks_of(name, ["Wave."], instruction)


# --- in simulated time -----------------------------------------------------------------------------


class Still(ExpertPolicy):
    """Holds the arm where it is."""

    def sample(self, prefix: Any, **how: Any) -> NDArray[np.float64]:
        return np.tile(np.asarray(self.goal), (50, 1))


def attempts(subject: Subject, wanted: list[Case], time_limit_s: float, films: int = 0) -> list[Attempt]:
    table = SimulatedTime(CONFIGURED, subject, time_limit_s=time_limit_s)
    try:
        return list(table.run(wanted, films))
    finally:
        table.close()
        subject.loaded.policy.close()


def expert(seconds: float, mode: str = "async") -> Subject:
    return of_expert(configured(SLOW_ARM, {"mode": mode}), latency.of_seconds(seconds))


@pytest.fixture(scope="module")
def quick() -> Iterator[list[Attempt]]:
    """The expert at 0.1 s: training clusters 2 and 7, and the held-out one."""
    yield attempts(expert(0.1), cases(tasks_of("mug", TEXTS), (2, 7, 6), 2, 0)[:3], 15.0)


def test_the_expert_succeeds_when_inference_is_fast(quick: list[Attempt]) -> None:
    for episode in (attempt.episode for attempt in quick):
        assert episode.success and episode.time_s is not None and episode.time_s < 12, episode
        assert episode.idle < 0.2
        assert set(episode.t_inference_ms) == {100.0}
        assert episode.jerk is not None and 1 < episode.jerk < 500


def test_slow_inference_shows_as_gaps_and_time(quick: list[Attempt]) -> None:
    case = cases(tasks_of("mug", TEXTS), (2,), 1, 0)
    slow = attempts(expert(6.0, "sync"), case, 60.0)[0].episode
    fast = quick[0].episode
    assert slow.success and slow.time_s is not None and fast.time_s is not None
    assert slow.time_s > 2 * fast.time_s and slow.gaps > fast.gaps and slow.idle > 0.5
    assert slow.longest_gap_s > 5 and slow.cold_starts > 1
    assert not expert(6.0).check.fits and expert(6.0, "sync").check.fits


def test_the_same_seed_gives_the_same_episode(quick: list[Attempt]) -> None:
    again = attempts(expert(0.1), cases(tasks_of("mug", TEXTS), (2,), 1, 0), 15.0)
    assert again[0].episode == quick[0].episode


def test_a_policy_that_does_nothing_does_not_succeed() -> None:
    subject = of_expert(CONFIGURED, latency.of_seconds(0.1), Still())
    found = attempts(subject, cases(tasks_of("mug", TEXTS), (6,), 1, 0), 2.0, films=1)[0]
    assert not found.episode.success and found.episode.ended == "time limit"
    assert found.episode.duration_s == pytest.approx(2.0, abs=0.02)
    assert len(found.film) == 10 and all(jpeg[:2] == b"\xff\xd8" for _, jpeg in found.film)
    shown = page(result([found], {"name": "still"}, {"time": "simulated", "latency": "0.1 s", "seed": 0}), [found])
    assert shown.count("data:image/jpeg") == 10 and "time limit after 2.0 s" in shown


def test_a_stage_that_hangs_is_the_watchdogs() -> None:
    subject = expert(0.1)
    hung = dataclasses.replace(subject, latency=latency.of_seconds(3.0))
    found = attempts(hung, cases(tasks_of("mug", TEXTS), (6,), 1, 0), 6.0)[0].episode
    assert found.watchdog >= 1 and found.holds >= 1


# --- the command -----------------------------------------------------------------------------------


def test_the_command_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to_json, to_html = tmp_path / "e.json", tmp_path / "e.html"
    words = ["expert", "--episodes", "1", "--clusters", "2", "--task", "mug", "--latency", "0.1", "--time-limit", "8"]
    assert main([*words, "--json", str(to_json), "--html", str(to_html), "--require", "1"]) == 0
    said = capsys.readouterr().out
    found = msgspec.json.decode(to_json.read_bytes(), type=Result)
    assert text(found) in said and "1/1 (100%)" in said
    assert "mug, training starts" in to_html.read_text()
    assert sorted(json.loads(to_json.read_bytes())) == [
        "conditions", "episodes", "format", "groups", "notes", "policy", "vlad"]  # fmt: skip
    read = latency.parse(str(to_json))
    assert read is not None and set(read.samples_ns) == {100_000_000}


def test_what_is_required_and_missed_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["expert", "--episodes", "1", "--clusters", "6", "--task", "mug", "--latency", "0.1"]
    assert main([*words, "--time-limit", "0.5", "--require", "0.5", "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["groups"][0]["successes"] == 0


@pytest.mark.parametrize(("words", "said"), [
    (["expert", "--steps", "3"], "no flow steps"),
    (["expert", "--aggregate", "sum"], "aggregate"),
    (["expert", "--ladder", "guess"], "ladder"),
    (["expert", "--clusters", "99"], "clusters"),
    (["nowhere.vlad"], "nowhere.vlad"),
    (["expert", "--real-time"], "simulated time"),
    (["experiment", "quantize", "expert"], "--calibrate"),
    (["experiment", "steps", "expert"], "no flow steps"),
    (["experiment", "policies", "expert"], "--against"),
])
def test_what_cannot_be_is_refused(words: list[str], said: str) -> None:
    from vlad.errors import VladError

    with pytest.raises(VladError, match=said):
        main(words)


def test_an_experiment_is_paired_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x"
    words = ["--episodes", "1", "--clusters", "2", "--task", "mug", "--time-limit", "7", "--config", str(SLOW_ARM)]
    written = ["--json", f"{out}.json", "--html", f"{out}.html"]
    assert main(["experiment", "policies", "expert", "--against", "expert", *words, *written]) == 0
    found = json.loads(Path(f"{out}.json").read_bytes())
    assert [p["whole"]["successes"] for p in found["points"]] == [1, 1] and found["paired"]["both"] == 1
    assert "<svg" in Path(f"{out}.html").read_text()
