"""What of vlad train needs no LeRobot: the split, the order of batches, recipes, and how a checkpoint is chosen.

The rest is proved where LeRobot is: tests/reference/test_train.py.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests import expert_dataset
from vlad import main as program
from vlad.dataset.reader import Recording, read_recording
from vlad.errors import ConfigError
from vlad.train import command, recipe, selection
from vlad.train.recipe import POLICIES, Recipe, Settings
from vlad.train.selection import Attempt, Score, Setting
from vlad.train.split import Order, by_cluster, rows_of
from vlad.wilson import wilson

SETTING = Setting((120, 160), None, 0, "cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train") / "dataset"
    return expert_dataset.write(root, (2, 2, 6, 6, 9, 9), frames=12, size=(24, 32))


@pytest.fixture(scope="module")
def recording(dataset: Path) -> Recording:
    return read_recording(dataset)


def test_held_out_clusters_are_never_in_a_batch(recording: Recording) -> None:
    training, validation = by_cluster(recording, (6,))
    assert [e.cluster for e in training] == [2, 2, 9, 9]
    assert [e.cluster for e in validation] == [6, 6]
    held_out = set(rows_of(validation).tolist())
    order = Order(rows_of(training), 7, seed=3)
    drawn = np.concatenate([order.step(step) for step in range(60)])
    assert not held_out & set(drawn.tolist())
    assert held_out | set(drawn.tolist()) == set(range(recording.frames)), "rows that are in no batch"


def test_batches_depend_on_seed_and_step_alone(recording: Recording) -> None:
    rows = rows_of(by_cluster(recording, ())[0])
    order = Order(rows, 5, seed=1)
    in_turn = [order.step(step) for step in range(70)]
    assert np.array_equal(Order(rows, 5, seed=1).step(69), in_turn[69])
    assert np.array_equal(order.step(2), in_turn[2]), "going back an epoch gives other rows"
    assert not np.array_equal(Order(rows, 5, seed=2).step(0), in_turn[0])
    whole = np.sort(np.concatenate(in_turn)[: len(rows)])
    assert np.array_equal(whole, rows), "an epoch leaves rows out or repeats some"
    again = np.sort(np.concatenate(in_turn)[len(rows) : 2 * len(rows)])
    assert np.array_equal(again, rows)
    assert not np.array_equal(np.concatenate(in_turn)[: len(rows)], np.concatenate(in_turn)[len(rows) : 2 * len(rows)])


def test_what_cannot_be_split_is_refused(recording: Recording) -> None:
    with pytest.raises(ConfigError, match="has clusters"):
        by_cluster(recording, (7,))
    with pytest.raises(ConfigError, match="no episodes are left"):
        by_cluster(recording, (2, 6, 9))
    unknown = changed(recording, cluster=None)
    with pytest.raises(ConfigError, match="no cluster for episode 0"):
        by_cluster(unknown, (6,))
    assert by_cluster(unknown, ())[0] == unknown.episodes
    failed = changed(recording, success=False)
    with pytest.raises(ConfigError, match="has clusters"):
        by_cluster(failed, (6,))


def changed(recording: Recording, **change: object) -> Recording:
    """The same recording, all its episodes changed."""
    episodes = tuple(dataclasses.replace(e, **change) for e in recording.episodes)  # type: ignore[arg-type]
    return dataclasses.replace(recording, episodes=episodes)


# --- recipes ---------------------------------------------------------------------------------


def a_recipe(**settings: object) -> Recipe:
    values = {"dataset": "d", "policy": "act", "steps": 3, **settings}
    return Recipe(settings=Settings(**values), dataset_sha256="a", frames=5, train_episodes=(0, 1), val_episodes=(2,),  # type: ignore[arg-type]
                  sources={"policy": "b"}, versions={"torch": "2"}, device_name="cpu")  # fmt: skip


def test_a_recipe_comes_back_as_it_was(tmp_path: Path) -> None:
    made = a_recipe(image_size=(96, 128), overrides={"chunk_size": 50}, ema_decay=0.998, val_clusters=(6, 7))
    recipe.write(made, tmp_path / "recipe.json")
    assert recipe.read(tmp_path / "recipe.json") == made
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [(b'"steps": 3', b'"stepps": 3', "stepps"), (b'"format": 1', b'"format": 2', "format 2"), (b"{", b"", "not a rec")],
)
def test_a_damaged_recipe_is_refused(tmp_path: Path, old: bytes, new: bytes, match: str) -> None:
    file = tmp_path / "recipe.json"
    recipe.write(a_recipe(), file)
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(ConfigError, match=match):
        recipe.read(file)


def test_another_run_is_told_from_another_machine() -> None:
    wanted = a_recipe()
    assert recipe.differences(wanted, wanted) == ([], [])
    other = msgspec.structs.replace(wanted, dataset_sha256="x", sources={}, versions={"torch": "3"}, device_name="gpu")
    given, machine = recipe.differences(wanted, other)
    assert given == ["d: has other contents", "weights of policy: other ones"]
    assert machine == ["torch: 2 there, 3 here", "device: cpu there, gpu here"]


def test_the_hash_of_a_dataset_is_of_names_and_contents(tmp_path: Path) -> None:
    file = tmp_path / "meta/a/info.json"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    first = recipe.tree_sha256(tmp_path)
    (tmp_path / "meta/.partial").write_text("hidden")
    (tmp_path / "notes").write_text("not the dataset's")
    assert recipe.tree_sha256(tmp_path) == first
    file.write_text("2")
    second = recipe.tree_sha256(tmp_path)
    file.rename(file.with_name("other.json"))
    assert len({first, second, recipe.tree_sha256(tmp_path)}) == 3


# --- the command line ------------------------------------------------------------------------


def settings_of(*words: str) -> Settings:
    options, own, _ = command._parsed(command.parser(), ["--dataset", "/d", "--output-dir", "/o", *words])
    return command._settings(options, own, "cpu", 2)


def test_lerobots_ways_of_writing_are_understood() -> None:
    made = settings_of("--policy", "act", "--batch_size=4", "--policy.chunk_size=30", "--policy.use_vae=false",
                       "--policy.vision_backbone=resnet34", "--val_clusters", "6,3", "--save_freq=50")  # fmt: skip
    assert (made.batch_size, made.val_clusters, made.save_freq, made.val_freq) == (4, (3, 6), 50, 50)
    assert made.overrides == {"chunk_size": 30, "use_vae": False, "vision_backbone": "resnet34"}
    assert settings_of("--policy", "act", "--val-clusters", "none").val_clusters == ()


def test_small_policies_have_what_they_need_and_others_what_lerobot_does() -> None:
    own, small = settings_of("--policy", "smolvla"), settings_of("--policy", "smolvla-small")
    assert (own.draws, own.ema_decay, own.flow_times, own.difference_weight) == (1, 0.0, "lerobot", 0.0)
    assert (small.draws, small.flow_times) == (3, "sampler")
    assert small.ema_decay > 0.9
    assert settings_of("--policy", "smolvla-small", "--draws", "1", "--ema-decay", "0").ema_decay == 0
    assert settings_of("--policy", "act-small").image_size == (96, 128)
    assert settings_of("--policy", "smolvla-small", "--vlm", "/v").vision_cache
    assert set(POLICIES) == {"smolvla", "smolvla-small", "act", "act-small"}


@pytest.mark.parametrize(
    "words",
    [
        ["--policy", "act", "--dataset", "d"],
        ["--resume", "d", "--steps", "200000"],
        ["--resume", "d", "--policy.chunk_size=1"],
        ["--recipe", "f", "--output-dir", "o", "--seed=1"],
        ["--resume", "d", "--recipe", "f"],
        ["--dataset", "d", "--policy", "act", "--output-dir", "o", "--policy.chunk_size"],
        ["--dataset", "d", "--policy", "act", "--output-dir", "o", "--steps", "0"],
    ],
)
def test_what_makes_no_sense_is_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    assert stopped.value.code == 2


def test_without_lerobot_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "lerobot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoTorch(), *sys.meta_path])
    assert program.main(["train", "--dataset", "d", "--policy", "act", "--output-dir", "o"]) == 1
    assert "pip install 'vlad[train]'" in capsys.readouterr().err


class NoTorch:
    """An environment without torch."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# --- selection -------------------------------------------------------------------------------


def test_attempts_are_spread_and_repeatable() -> None:
    made = selection.attempts(("mug", "plate"), (1, 2, 3), 12, seed=4)
    assert made == selection.attempts(("mug", "plate"), (1, 2, 3), 12, seed=4)
    assert len({a.seed for a in made}) == 12
    for task in ("mug", "plate"):
        assert sorted(a.cluster for a in made if a.task == task) == [1, 1, 2, 2, 3, 3]
    assert not {a.seed for a in made} & {a.seed for a in selection.attempts(("mug",), (1,), 12, seed=5)}
    assert selection.attempts(("mug",), (), 5, seed=1) == []


SUCCESSES = {"10": (20, 2), "20": (12, 11), "30": (12, 11), "40": (11, 20)}


def fake(checkpoint: Path, tries: Sequence[Attempt], setting: Setting) -> list[bool]:
    """Of 20 training attempts, then 20 held-out ones, the first so many succeed."""
    seen, unseen = SUCCESSES[checkpoint.name]
    return [i % 20 < (seen if i < 20 else unseen) for i in range(len(tries))]


def test_the_best_is_good_on_both_kinds_of_start() -> None:
    found = {int(name): Path(name) for name in SUCCESSES}
    tries = selection.attempts(("mug",), (1, 2), 20, 1), selection.attempts(("mug",), (6,), 20, 1)
    rows = selection.evaluated(found, selection.named(f"{__name__}:fake"), *tries, setting=SETTING)
    found_successes = [(r.training.successes, r.held_out.successes if r.held_out else -1) for r in rows]
    assert found_successes == list(SUCCESSES.values())
    # The highest mean is that of step 40, the best on training starts step 10; 30 is no better than 20.
    assert selection.best(rows).step == 20
    assert rows[1].worst == wilson(11, 20)[0]
    alone = selection.evaluated(found, fake, tries[0], [], setting=SETTING)
    assert alone[0].held_out is None
    assert selection.best(alone).step == 10


def test_an_evaluator_that_leaves_attempts_out_is_refused() -> None:
    tries = selection.attempts(("mug",), (1,), 20, 1)
    with pytest.raises(ConfigError, match="answered 3 of 20"):
        selection.evaluated({1: Path("10")}, lambda *_: [True] * 3, tries, [], setting=SETTING)


@pytest.mark.parametrize("name", ["nothing", "no.such.module:f", "vlad.train.recipe:nothing", "vlad.train.recipe:NAME"])
def test_a_name_that_is_no_evaluator_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="MODULE:FUNCTION"):
        selection.named(name)


def test_a_score_says_its_interval() -> None:
    assert selection.score([True, False, True, True]) == Score(4, 3, *wilson(3, 4))
