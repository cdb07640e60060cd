"""Checkpoints of before LeRobot 0.4: statistics inside the weights, no processor files, a compiled model's names.

tests/data/smolvla_old was made by `python tests/reference/make_old_checkpoint.py tests/data/smolvla_old --min-max
--compiled` with lerobot 0.3.3: the weights of tests/data/smolvla_tiny, and its observations.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_smolvla
from tests.unit.test_bundle_build import edit, edit_tensors, refusal
from vlad import bundle as bundles
from vlad.build.checkpoint import read_checkpoint
from vlad.build.command import main
from vlad.build.safetensors import SafeTensors
from vlad.policy import Policy

OLD = Path(__file__).parents[1] / "data" / "smolvla_old"
Change = Callable[[Path], None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The old checkpoint with the dataset and the language model that it shares with the new one."""
    made = tiny_smolvla.copy_of_data(tmp_path / "data")
    shutil.rmtree(made / "checkpoint")
    shutil.copytree(OLD / "checkpoint", made / "checkpoint")
    return made


def test_it_is_what_it_says() -> None:
    names = SafeTensors(OLD / "checkpoint/model.safetensors").names()
    header = (OLD / "checkpoint/model.safetensors").read_bytes()[:100_000]
    assert {p.name for p in (OLD / "checkpoint").iterdir()} == {"config.json", "model.safetensors"}
    assert b"model._orig_mod.state_proj.weight" in header
    assert {n for n in names if "buffer" in n} == {
        f"{module}.buffer_{feature}.{end}"
        for module, feature in (
            ("normalize_inputs", "observation_state"),
            ("normalize_targets", "action"),
            ("unnormalize_outputs", "action"),
        )
        for end in ("min", "max")
    }


def test_chunk_equals_that_of_the_lerobot_of_its_time(data: Path, tmp_path: Path) -> None:
    """It summed the flow's time in float32; the embedding of time has periods of 0.004, so that this shows."""
    policy = Policy(bundles.load(tiny_smolvla.build(tmp_path / "old.vlad", data=data)))
    observed, expected = tiny_smolvla.reference(), tiny_smolvla.reference(OLD)
    spread = max(policy.bundle.manifest.action.std)
    step = np.float32(-0.1)
    for case in (0, 1):
        prefix = tiny_smolvla.prefix(policy, observed, case)
        x, time = observed[f"noise_{case}"].astype(np.float32), np.float32(1)
        for _ in range(policy.bundle.manifest.flow.steps):
            x = x + step * policy.expert.velocity(prefix, x, float(time))
            time += step
        degrees = tiny_smolvla.DEGREES.from_core(policy.joint_space.actions(x))
        assert np.abs(degrees - expected[f"chunk_{case}"]).max() <= 1e-5 * spread
        assert np.abs(degrees - observed[f"chunk_{case}"]).max() > 1, "MIN_MAX is another policy than MEAN_STD"
        _, degrees = tiny_smolvla.chunk(policy, observed, case)
        assert np.abs(degrees - expected[f"chunk_{case}"]).max() <= 5e-4 * spread


def as_old(data: Path) -> None:
    """Turn the newer checkpoint, of mean and deviation, into what LeRobot 0.3 made of the same policy."""
    checkpoint = data / "checkpoint"
    file = next(checkpoint.glob("policy_preprocessor*.safetensors"))
    statistics = SafeTensors(file)

    def add(tensors: dict[str, np.ndarray]) -> None:
        for module, feature in (
            ("normalize_inputs", "observation.state"),
            ("normalize_targets", "action"),
            ("unnormalize_outputs", "action"),
        ):
            for name in ("mean", "std"):
                key = f"{module}.buffer_{feature.replace('.', '_')}.{name}"
                tensors[key] = statistics.read(f"{feature}.{name}")

    edit_tensors(checkpoint / "model.safetensors", add)
    for name in checkpoint.glob("policy_*"):
        name.unlink()


def test_mean_and_deviation_in_the_weights_read_like_processor_files(tmp_path: Path) -> None:
    data = tiny_smolvla.copy_of_data(tmp_path / "data")
    newer = read_checkpoint(data / "checkpoint", vlm=data / "vlm")
    as_old(data)
    older = read_checkpoint(data / "checkpoint", vlm=data / "vlm")
    for one, two in ((newer.state, older.state), (newer.action, older.action)):
        assert np.array_equal(one.mean, two.mean)
        assert np.array_equal(one.std, two.std)
        assert one.eps == two.eps == 1e-8
    tiny_smolvla.build(tmp_path / "t.vlad", data=data)


def test_both_are_read_where_they_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_smolvla.copy_of_data(tmp_path / "data")
    kept = {file.name: file.read_bytes() for file in (data / "checkpoint").glob("policy_*")}
    as_old(data)
    for name, content in kept.items():
        (data / "checkpoint" / name).write_bytes(content)
    tiny_smolvla.build(tmp_path / "t.vlad", data=data)
    capsys.readouterr()
    weights(lambda t: t["normalize_inputs.buffer_observation_state.mean"].__iadd__(1))(data)
    assert "two statistics of observation.state that differ" in refused(capsys, data, tmp_path)
    (data / "checkpoint/policy_postprocessor.json").unlink()
    assert "policy_postprocessor.json: missing" in refused(capsys, data, tmp_path)


def weights(change: Callable[[dict[str, np.ndarray]], object]) -> Change:
    return lambda data: edit_tensors(data / "checkpoint/model.safetensors", change)


def without_mapping(data: Path) -> None:
    edit(data / "checkpoint/config.json", lambda c: c.pop("normalization_mapping"))


def with_mode(**modes: object) -> Change:
    return lambda data: edit(data / "checkpoint/config.json", lambda c: c["normalization_mapping"].update(modes))


def refused(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> str:
    return refusal(capsys, tiny_smolvla.arguments(tmp_path / "r.vlad", data=data))


MINIMUM = "normalize_inputs.buffer_observation_state.min"
REFUSALS: dict[str, tuple[Change, str]] = {
    "never given statistics": (weights(lambda t: t[MINIMUM].fill(np.inf)), "not finite"),
    "one buffer missing": (weights(lambda t: t.pop(MINIMUM)), "observation.state.min and observation.state.max are"),
    "of the pre-training mixture": (
        weights(lambda t: t.update({MINIMUM.replace("buffer", "so100_buffer"): t.pop(MINIMUM)})),
        "fine-tune first",
    ),
    "of another width": (weights(lambda t: t.update({MINIMUM: np.zeros(5)})), "expected [6]"),
    "targets and outputs differ": (
        weights(lambda t: t["normalize_targets.buffer_action.min"].__isub__(5)),
        "two statistics of action that differ",
    ),
    "a range of none": (
        weights(lambda t: t["normalize_inputs.buffer_observation_state.max"].__isub__(1000)),
        "negative values",
    ),
    "statistics of a feature that is not normalised": (
        weights(lambda t: t.update({"normalize_inputs.buffer_observation_images_camera1.mean": np.zeros((3, 1, 1))})),
        "that a SmolVLA does not have: ['normalize_inputs.buffer_observation_images_camera1.mean']",
    ),
    "no mapping": (without_mapping, "no normalization_mapping"),
    "another mode than the buffers": (with_mode(STATE="MEAN_STD"), "observation.state.mean and observation.state.std"),
    "a mode that is none": (with_mode(STATE="TANH"), "normalization_mapping: STATE TANH is no normalisation"),
    "a mode of no feature": (with_mode(BANANA="MEAN_STD"), "normalization_mapping: BANANA is no type of feature"),
    "a mapping of numbers": (with_mode(STATE=1), "normalization_mapping: STATE 1 is no normalisation"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refused_with_the_reason(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    change, message = REFUSALS[what]
    (data / "dataset/meta/stats.json").unlink()
    change(data)
    assert message in refused(capsys, data, tmp_path)


def test_a_tensor_that_is_there_twice_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data / "checkpoint/model.safetensors"
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    long, short = b'"model._orig_mod.state_proj.bias"', b'"model.state_proj.weight"         '
    assert long in raw[:size]
    file.write_bytes(raw[:8] + raw[8:].replace(long, short[: len(long)], 1))
    assert "'model.state_proj.weight' is there twice" in refused(capsys, data, tmp_path)


def test_an_act_of_its_time_is_read_too(tmp_path: Path) -> None:
    from tests import tiny_act

    data = tmp_path / "data"
    shutil.copytree(tiny_act.DATA, data)
    checkpoint = data / "checkpoint"
    newer = read_checkpoint(checkpoint)
    modes = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    statistics = SafeTensors(next(checkpoint.glob("policy_preprocessor*.safetensors")))

    def add(tensors: dict[str, np.ndarray]) -> None:
        for feature in ("observation.state", *newer.architecture.cameras, "action"):
            module = "unnormalize_outputs" if feature == "action" else "normalize_inputs"
            for name in ("mean", "std"):
                key = f"{module}.buffer_{feature.replace('.', '_')}.{name}"
                tensors[key] = statistics.read(f"{feature}.{name}")

    edit_tensors(checkpoint / "model.safetensors", add)
    edit(checkpoint / "config.json", lambda c: c.update(normalization_mapping=modes))
    for name in checkpoint.glob("policy_*"):
        name.unlink()
    older = read_checkpoint(checkpoint)
    for one, two in zip(
        (newer.state, newer.action, *newer.images), (older.state, older.action, *older.images), strict=True
    ):
        assert np.array_equal(one.mean, two.mean)
        assert np.array_equal(one.std, two.std)
    assert main([*tiny_act.arguments(tmp_path / "t.vlad", data=data)]) == 0
