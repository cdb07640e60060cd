"""`vlad build`: what it writes, and every thing missing or in disagreement that it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny_smolvla import DATA, JOINTS, arguments, build, copy_of_data
from vlad import bundle as bundles
from vlad.build.command import main
from vlad.build.graph import rope_tables
from vlad.build.safetensors import SafeTensors
from vlad.build.vision import position_ids
from vlad.errors import BundleError
from vlad.policy import Policy

Change = Callable[[Path], Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return copy_of_data(tmp_path / "data")


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def tensors(file: Path) -> dict[str, np.ndarray]:
    stored = SafeTensors(file)
    return {name: stored.read(name) for name in stored.names() if stored.dtype(name) != "I64"}


def write_tensors(file: Path, values: dict[str, np.ndarray]) -> None:
    header: dict[str, Any] = {}
    body = b""
    for name, value in values.items():
        raw = np.ascontiguousarray(value, np.float32).tobytes()
        entry = {"dtype": "F32", "shape": list(value.shape)}
        header[name] = entry | {"data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)


def edit_tensors(file: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    values = tensors(file)
    change(values)
    write_tensors(file, values)


def refusal(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert main(argv) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vlad build: ")
    return captured.err


def test_summary_states_bytes_and_operations_per_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "tiny.vlad"
    assert main(arguments(target, "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert set(summary["blocks"]) == {"vision", "prefill", "context", "expert"}
    for name, block in summary["blocks"].items():
        assert block["bytes"] == (target / f"blocks/{name}.onnx").stat().st_size
        assert block["parameters"] > 0
        assert block["flop"] > 0
    assert summary["chunk_s"] == pytest.approx(8 / 30)
    assert summary["tasks"][1] == {"text": "put the tea bag in the mug, slowly", "tokens": 35}
    assert summary["joints"] == list(JOINTS)


def test_text_summary_and_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "tiny.vlad")) == 0
    assert "GFLOP per chunk" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert main(["x"]) == 2
    assert main(arguments(tmp_path / "other.vlad", units="radians")) == 2


def test_same_input_gives_the_same_blocks(tmp_path: Path) -> None:
    one, two = (bundles.load(build(tmp_path / n)).manifest for n in ("a.vlad", "b.vlad"))
    assert [b.file.sha256 for b in one.blocks] == [b.file.sha256 for b in two.blocks]


def test_an_existing_bundle_is_replaced_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = build(tmp_path / "tiny.vlad")
    capsys.readouterr()
    (target / "mine").write_text("kept")
    assert "--force" in refusal(capsys, arguments(target))
    assert (target / "mine").exists()
    assert main(arguments(target, "--force")) == 0
    assert not (target / "mine").exists()
    assert os.listdir(tmp_path) == ["tiny.vlad"]


def test_a_refused_build_leaves_nothing_behind(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data / "checkpoint/model.safetensors"
    edit_tensors(file, lambda t: t["model.action_out_proj.weight"].fill(np.nan))
    assert "not finite" in refusal(capsys, arguments(tmp_path / "out/t.vlad", data=data))
    assert os.listdir(tmp_path / "out") == []


def test_facts_can_be_given_without_a_dataset(tmp_path: Path) -> None:
    target = tmp_path / "t.vlad"
    argv = [str(DATA / "checkpoint"), "--vlm", str(DATA / "vlm"), "--units", "degrees"]
    argv += ["-o", str(target), "--rate", "30", "--joints", ",".join(JOINTS), "--task", "wave"]
    assert main(argv) == 0
    assert [t.text for t in bundles.load(target).manifest.tasks] == ["wave"]


def test_m100_bundle_needs_the_arms_calibration_only_to_run(data: Path, tmp_path: Path) -> None:
    argv = arguments(tmp_path / "t.vlad", data=data, units="m100")
    assert main(argv) == 0
    assert bundles.load(tmp_path / "t.vlad").manifest.units == "m100"


def test_skipped_camera_is_dropped(tmp_path: Path) -> None:
    bundle = bundles.load(build(tmp_path / "t.vlad", "--skip-camera", "camera1"))
    assert [c.name for c in bundle.manifest.cameras] == ["camera2"]
    policy = Policy(bundle)
    tokens = [policy.encode_image(0, np.zeros((8, 8, 3), np.uint8))]
    assert policy.sample(policy.prefill(tokens, 0, np.zeros(6))).shape == (8, 6)


def test_renamed_camera_keeps_the_datasets_key(data: Path, tmp_path: Path) -> None:
    names = {"observation.images.top": "observation.images.camera1"}
    edit(
        data / "checkpoint/policy_preprocessor.json",
        lambda c: c["steps"][0]["config"].update(rename_map=names),
    )
    edit(
        data / "dataset/meta/info.json",
        lambda c: c["features"].update({"observation.images.top": c["features"].pop("observation.images.camera1")}),
    )
    manifest = bundles.load(build(tmp_path / "t.vlad", data=data)).manifest
    assert manifest.cameras[0].source == "observation.images.top"
    assert manifest.cameras[0].name == "camera1"


def config(**values: Any) -> Change:
    return lambda data: edit(data / "checkpoint/config.json", lambda c: c.update(values))


def info(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda data: edit(data / "dataset/meta/info.json", change)


def names(feature: str, value: Any) -> Change:
    return info(lambda c: c["features"][feature].update(names=value))


def statistics(change: Callable[[dict[str, np.ndarray]], Any]) -> Change:
    """Change the checkpoint's statistics, and drop the dataset's, which would disagree."""

    def both(data: Path) -> None:
        (data / "dataset/meta/stats.json").unlink()
        for file in (data / "checkpoint").glob("policy_*normalizer*.safetensors"):
            edit_tensors(file, change)

    return both


def without(name: str) -> Change:
    return lambda data: (data / name).unlink()


def weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Change:
    return lambda data: edit_tensors(data / "checkpoint/model.safetensors", change)


def processor(change: Callable[[list[dict[str, Any]]], Any]) -> Change:
    return lambda data: edit(data / "checkpoint/policy_preprocessor.json", lambda c: change(c["steps"]))


def tasks(texts: list[Any]) -> Change:
    table = {"task_index": list(range(len(texts))), "task": texts}
    return lambda data: pq.write_table(pa.table(table), data / "dataset/meta/tasks.parquet")


REVERSED = [f"{j}.pos" for j in reversed(JOINTS)]
STATISTICS = "policy_preprocessor_step_5_normalizer_processor.safetensors"
REFUSALS: dict[str, tuple[Change, str]] = {
    "another policy": (config(type="pi0"), "'pi0' is not supported; smolvla and act are"),
    "aloha": (config(adapt_to_pi_aloha=True), "adapt_to_pi_aloha = True is not supported"),
    "aloha's deltas": (config(use_delta_joint_actions_aloha=True), "LeRobot refuses it too"),
    "adapters": (config(use_peft=True), "merge them"),
    "no cache": (config(use_cache=False), "use_cache = False is not supported: LeRobot's own inference fails"),
    "a setting of the future": (config(use_wings=True), "settings ['use_wings'] are not known"),
    "no cameras": (
        config(input_features={"observation.state": {"type": "STATE", "shape": [6]}}),
        "0 cameras (1 to 4 are)",
    ),
    "another input": (
        lambda data: edit(
            data / "checkpoint/config.json",
            lambda c: c["input_features"].update({"observation.environment_state": {"type": "ENV", "shape": [3]}}),
        ),
        "input features ['observation.environment_state'] is not supported",
    ),
    "not square": (config(resize_imgs_with_padding=[32, 16]), "[32, 16] (a square is"),
    "no resize": (config(resize_imgs_with_padding=None), "None (a square is"),
    "odd patches": (config(resize_imgs_with_padding=[40, 40]), "not a multiple of"),
    "an image size on the edge": (config(resize_imgs_with_padding=[1968, 1968]), "position table of 4"),
    "another number of layers": (config(num_vlm_layers=2), "num_vlm_layers = 2, and the weights have 3"),
    "experts that do not divide": (config(num_expert_layers=2), "the weights have 3 expert layers"),
    "a foreign tokenizer's marks": (
        lambda data: [
            config(add_image_special_tokens=True)(data),
            edit(
                data / "vlm/tokenizer.json",
                lambda c: c.update(added_tokens=[t for t in c["added_tokens"] if t["content"] != "<global-img>"]),
            ),
        ],
        "has no token '<global-img>'",
    ),
    "no tokenizer for the marks": (
        lambda data: [config(add_image_special_tokens=True)(data), without("vlm/tokenizer.json")(data)],
        "add_image_special_tokens: the tokenizer says which",
    ),
    "no steps": (config(num_steps=0), "num_steps = 0"),
    "a list of models": (config(vlm_model_name=[1]), "vlm_model_name = [1] is not supported: Expected `str`"),
    "steps without end": (config(num_steps=10**9), "config.json: num_steps = 1000000000 is not supported"),
    "state too wide": (config(max_state_dim=4), "max_state_dim"),
    "no config": (without("checkpoint/config.json"), "config.json: missing"),
    "no weights": (without("checkpoint/model.safetensors"), "model.safetensors: missing"),
    "no pre-processor": (without("checkpoint/policy_preprocessor.json"), "hold no statistics either"),
    "no state file": (without(f"checkpoint/{STATISTICS}"), "missing"),
    "statistics by robot": (
        statistics(lambda t: t.update({"so100.action.mean": t.pop("action.mean")})),
        "fine-tune first",
    ),
    "statistics too short": (
        statistics(lambda t: t.update({"observation.state.mean": np.zeros(5)})),
        "expected [6]",
    ),
    "infinite statistics": (
        statistics(lambda t: t.update({"action.std": np.full(6, np.inf)})),
        "not finite",
    ),
    "another normalisation": (
        processor(lambda s: s[5]["config"]["norm_map"].update(VISUAL="MEAN_STD")),
        "VISUAL IDENTITY",
    ),
    "a normalisation of no feature": (
        processor(lambda s: s[5]["config"]["norm_map"].update(BANANA="MEAN_STD")),
        "normalizer_processor: norm_map: BANANA is no type of feature; ACTION, ENV, LANGUAGE, REWARD, STATE,",
    ),
    "no normalisation at all": (
        processor(lambda s: s[5]["config"]["norm_map"].update(ENV="FOO")),
        "normalizer_processor: norm_map: ENV FOO is no normalisation; MEAN_STD, MIN_MAX,",
    ),
    "some features normalised": (
        processor(lambda s: s[5]["config"].update(normalize_observation_keys=["observation.images.camera1"])),
        "normalize_observation_keys is not supported",
    ),
    "a normaliser without the state": (
        processor(lambda s: s[5]["config"]["features"].pop("observation.state")),
        "normalizer_processor: its features have no observation.state of type STATE",
    ),
    "a normaliser of another type": (
        processor(lambda s: s[5]["config"]["features"]["observation.state"].update(type="ENV")),
        "normalizer_processor: its features have no observation.state of type STATE",
    ),
    "half precision": (
        processor(lambda s: s[4]["config"].update(float_dtype="float16")),
        "Invalid enum value 'float16' - at `$[4].config.float_dtype`",
    ),
    "two limits of a task": (
        processor(lambda s: s[3]["config"].update(max_length=40)),
        "tokenizer_max_length is 48, and the pre-processor cuts tasks off at 40",
    ),
    "an unknown step": (processor(lambda s: s[0].update(registry_name="crop")), "['crop']"),
    "two normalisers": (
        processor(lambda s: s.append(s[5] | {"config": s[5]["config"] | {"norm_map": {"STATE": "IDENTITY"}}})),
        "policy_preprocessor.json: normalizer_processor comes twice: LeRobot applies both",
    ),
    "two renamings": (processor(lambda s: s.insert(0, s[0])), "rename_observations_processor comes twice"),
    "a normaliser's setting of the future": (
        processor(lambda s: s[5]["config"].update(clip=[0, 1], flip=True)),
        "normalizer_processor: settings ['clip', 'flip'] are not known",
    ),
    "a step's key of the future": (processor(lambda s: s[5].update(when="training")), "unknown field `when`"),
    "a state file outside": (processor(lambda s: s[5].update(state_file="../x")), "not inside"),
    "joint order": (names("action", REVERSED), "differ"),
    "joint names": (names("action", None), "no joint names"),
    "joint twice": (names("observation.state", ["a.pos"] * 6), "repeats joint names"),
    "joint count": (
        lambda data: [
            change(data)
            for change in (
                names("action", REVERSED[:5]),
                names("observation.state", REVERSED[:5]),
                without("dataset/meta/stats.json"),
            )
        ],
        "has 6 dimensions",
    ),
    "no rate": (info(lambda c: c.pop("fps")), "fps = None"),
    "zero rate": (info(lambda c: c.update(fps=0)), "fps = 0"),
    "old dataset": (info(lambda c: c.update(codebase_version="v2.1")), "v2.1 is not supported"),
    "camera not recorded": (
        info(lambda c: c["features"].pop("observation.images.camera2")),
        "--skip-camera camera2",
    ),
    "no task file": (without("dataset/meta/tasks.parquet"), "tasks are unknown"),
    "no tasks": (tasks([]), "no tasks"),
    "a task cut off": (tasks(["x" * 48]), "49 tokens and the policy takes 48"),
    "no tokenizer": (without("vlm/tokenizer.json"), "--tokenizer"),
    "a foreign tokenizer": (
        weights(
            lambda t: t.update(
                {k: v[:100] for k, v in t.items() if k.endswith(("embed_tokens.weight", "lm_head.weight"))}
            )
        ),
        "vocabulary of 100",
    ),
    "not degrees": (statistics(lambda t: t["action.max"].__setitem__(0, 300)), "cannot be degrees"),
    "clamped, so m100": (
        statistics(lambda t: t["action.max"].__setitem__(2, 100)),
        "build with --units m100",
    ),
    "radians": (
        statistics(lambda t: [t[k].fill(1) for k in list(t) if k.endswith((".min", ".max"))]),
        "looks like radians",
    ),
    "gripper in degrees": (
        statistics(lambda t: t["observation.state.min"].__setitem__(5, -30)),
        "gripper is recorded as 0..100",
    ),
    "another dataset": (
        lambda data: edit(
            data / "dataset/meta/stats.json",
            lambda c: c["action"].update(mean=[0.0] * 6),
        ),
        "--other-dataset",
    ),
    "weights of another shape": (
        weights(lambda t: t.update({"model.state_proj.bias": np.zeros(7)})),
        "expected [24]",
    ),
    "a weight missing": (weights(lambda t: t.pop("model.state_proj.bias")), "is missing"),
    "a weight too many": (
        weights(lambda t: t.update({"model.adapter": np.zeros(2)})),
        "that a SmolVLA does not have: ['model.adapter']",
    ),
    "an expert layer missing": (
        weights(lambda t: [t.pop(k) for k in list(t) if "lm_expert.layers.2" in k]),
        "the weights have 2 expert layers",
    ),
    "weights cut off": (
        lambda data: os.truncate(data / "checkpoint/model.safetensors", 100_000),
        "truncated download",
    ),
    "no safetensors": (
        lambda data: (data / "checkpoint/model.safetensors").write_bytes(b"\xff" * 100),
        "not a safetensors file",
    ),
    "no JSON": (
        lambda data: (data / "checkpoint/config.json").write_text("[" * 100_000),
        "not readable as JSON",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refused_with_the_reason(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    change, message = REFUSALS[what]
    change(data)
    assert message in refusal(capsys, arguments(tmp_path / "t.vlad", data=data))
    assert not (tmp_path / "t.vlad").exists()


def test_m100_beyond_its_range_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statistics(lambda t: t["action.max"].__setitem__(0, 110))(data)
    argv = arguments(tmp_path / "t.vlad", data=data, units="m100")
    assert "build with --units degrees" in refusal(capsys, argv)


def test_flags_that_disagree_with_the_dataset_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "t.vlad"
    assert "dataset's 30 Hz" in refusal(capsys, arguments(target, "--rate", "60"))
    assert "disagree with the dataset's" in refusal(capsys, arguments(target, "--joints", "a,b"))
    assert "the policy has" in refusal(capsys, arguments(target, "--skip-camera", "side"))
    argv = [str(DATA / "checkpoint"), "--vlm", str(DATA / "vlm"), "--units", "degrees"]
    assert "give --dataset" in refusal(capsys, [*argv, "-o", str(target)])


def test_another_vision_language_model_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config(vlm_model_name="someone/else")(data)
    argv = [str(data / "checkpoint"), "--dataset", str(data / "dataset"), "--units", "degrees"]
    message = refusal(capsys, [*argv, "-o", str(tmp_path / "t.vlad")])
    assert "give its directory" in message
    edit(data / "vlm/config.json", lambda c: c["text_config"].update(head_dim=7))
    assert "right directory" in refusal(capsys, arguments(tmp_path / "t.vlad", data=data))


def test_position_ids() -> None:
    assert position_ids(32, 32, "ordered").tolist() == list(range(1024))
    assert position_ids(2, 4, "ordered").tolist() == [0, 2, 8, 10]
    # the values that lerobot.md's authors and the transformers issue report for float32
    defect = position_ids(32, 32, "transformers-4.57-float32")
    assert len(set(defect.tolist())) == 961
    assert defect[:5].tolist() == [0, 0, 1, 2, 3]
    assert defect.max() == 990
    assert position_ids(6, 4, "ordered")[:6].tolist() == [0, 0, 1, 2, 2, 3]
    assert position_ids(24, 32, "ordered")[:8].tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    for patches, side in ((18, 27), (123, 32), (31, 32)):
        with pytest.raises(BundleError, match="not supported"):
            position_ids(patches, side, "ordered")


def test_rope_tables_have_base_10000() -> None:
    cos, sin = rope_tables(64, 200)
    angle = 199 / 10_000 ** (np.arange(32) / 32)
    assert np.abs(cos[199] - np.cos(angle)).max() < 2e-5
    assert np.abs(sin[199] - np.sin(angle)).max() < 2e-5
    assert (cos[0] == 1).all()


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1.5", "true", '"8"', "null", "[]"])
def test_a_tensor_entry_of_no_integers_is_refused(tmp_path: Path, number: str) -> None:
    header = f'{{"w": {{"dtype": "F32", "shape": [{number}], "data_offsets": [0, 4]}}}}'.encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(BundleError, match="bad entry"):
        SafeTensors(path)
