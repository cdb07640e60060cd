"""The bundle of a small ACT computes what LeRobot computed from it (no LeRobot needed here), and what it
refuses.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.inliner import inline_local_functions

from tests import tiny_act
from tests.tiny_act import DATA, arguments, build, chunk, compare_ensemble
from tests.unit.test_bundle_build import edit, edit_tensors, refusal
from vlad import bundle as bundles
from vlad.act import ActPolicy
from vlad.build.act_policy import image_position_table
from vlad.build.command import main
from vlad.errors import BundleError, DeviceError, Refused
from vlad.golden import check_golden, open_for_check
from vlad.manifest import ActManifest
from vlad.observation import NativePixels
from vlad.policy import Policy, policy_class

MADE = tiny_act.made()
CASES = (0, 1)
CAMERAS = ("top", "gripper", "left")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ActPolicy:
    return ActPolicy(bundles.load(build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    shutil.copytree(DATA, tmp_path / "data")
    return tmp_path / "data"


# --- exactness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_chunk_equals_lerobot(policy: ActPolicy, case: int) -> None:
    normalised, degrees = chunk(policy, MADE, case)
    expected = MADE[f"normalised_chunk_{case}"]
    assert np.abs(normalised - expected).max() <= 1e-5
    assert np.abs(degrees - MADE[f"chunk_{case}"]).max() <= 1e-3
    assert np.abs(np.diff(expected, axis=0)).max() > 0.05, "too alike to prove anything"
    assert np.abs(MADE["normalised_chunk_0"] - MADE["normalised_chunk_1"]).max() > 0.1


def test_pixels_equal_lerobots_bit_by_bit(policy: ActPolicy) -> None:
    manifest = policy.bundle.manifest
    assert isinstance(manifest, ActManifest)
    for case in CASES:
        pixels = NativePixels(manifest.cameras[0])(MADE[f"image0_{case}"].astype(np.uint8))
        assert np.array_equal(pixels[0], MADE[f"pixels_{case}"])


def test_the_cameras_are_told_apart(policy: ActPolicy) -> None:
    saved = dict(MADE)
    saved["image0_0"], saved["image1_0"] = saved["image1_0"], saved["image0_0"]
    assert np.abs(chunk(policy, saved, 0)[0] - MADE["normalised_chunk_0"]).max() > 0.01


def test_a_fresh_state_on_known_images_is_the_whole_pass(policy: ActPolicy) -> None:
    tokens = [policy.encode_image(i, MADE[f"image{i}_0"]) for i in range(3)]
    states = [np.full(6, value) for value in (0.0, 0.3)]
    first, second = (policy.prefill(tokens, 0, state) for state in states)
    refreshed = policy.refresh_state(first, states[1])
    assert np.array_equal(policy.sample(refreshed), policy.sample(second))
    assert np.abs(policy.sample(first) - policy.sample(second)).max() > 1e-3


def test_fewer_actions_are_the_first_of_the_chunk(policy: ActPolicy, tmp_path: Path) -> None:
    shorter = ActPolicy(bundles.load(build(tmp_path / "s.vlad", "--actions", "3")))
    assert np.abs(chunk(shorter, MADE, 0)[0] - chunk(policy, MADE, 0)[0][:3]).max() < 1e-6
    assert shorter.bundle.manifest.chunk_size == 3
    assert shorter.bundle.manifest.notes == ["of a chunk's 8 actions the bundle keeps 3: as --actions says"]
    assert policy.bundle.manifest.notes == []


def test_n_action_steps_says_how_many_are_kept_and_an_ensemble_keeps_all(data: Path, tmp_path: Path) -> None:
    config(n_action_steps=5)(data)
    manifest = bundles.load(build(tmp_path / "p.vlad", data=data)).manifest
    assert (manifest.chunk_size, "n_action_steps" in manifest.notes[0]) == (5, True)
    config(n_action_steps=1, temporal_ensemble_coeff=0.01)(data)
    manifest = bundles.load(build(tmp_path / "e.vlad", data=data)).manifest
    assert isinstance(manifest, ActManifest)
    assert (manifest.chunk_size, manifest.temporal_ensemble_coeff, manifest.notes) == (8, 0.01, [])


def test_positions_are_lerobots() -> None:
    """Checked against its formula, written out: angle (i + 1) / n * 2 pi / 10000^(2 (k // 2) / (dim / 2))."""
    rows, columns, dim = 3, 5, 16
    table = image_position_table(rows, columns, dim)
    for y in range(rows):
        for x in range(columns):
            for k in range(dim):
                place = (y + 1) / rows if k < dim // 2 else (x + 1) / columns
                angle = place * 2 * np.pi / 10_000 ** (2 * (k % (dim // 2) // 2) / (dim // 2))
                expected = np.sin(angle) if k % 2 == 0 else np.cos(angle)
                assert abs(table[y * columns + x, k] - expected) < 1e-5


def test_golden_outputs_are_reproduced(policy: ActPolicy) -> None:
    assert policy_class(policy.bundle) is ActPolicy
    with open_for_check(policy.bundle) as opened:
        found = check_golden(opened)
    assert set(found.differences) == {"tokens", "chunk"}
    assert max(found.differences.values()) < 1e-5


def test_min_max_is_lerobots_formula(data: Path, tmp_path: Path) -> None:
    for name in ("pre", "post"):
        edit(
            data / f"checkpoint/policy_{name}processor.json",
            lambda c: [
                s["config"]["norm_map"].update(STATE="MIN_MAX", ACTION="MIN_MAX")
                for s in c["steps"]
                if "norm_map" in s["config"]
            ],
        )
    manifest = bundles.load(build(tmp_path / "p.vlad", data=data)).manifest
    stats = json.loads((data / "dataset/meta/stats.json").read_text())["action"]
    low, high, x = np.array(stats["min"]), np.array(stats["max"]), np.linspace(-30, 30, 6)
    ours = (x - np.array(manifest.action.mean)) / np.array(manifest.action.std)
    assert np.allclose(ours, 2 * (x - low) / (high - low) - 1, atol=1e-6)
    assert manifest.action.eps == 0


@pytest.mark.parametrize("coefficient", [0.01, 0.0, -0.2, 0.7])
def test_the_ensemble_is_lerobots(coefficient: float) -> None:
    """Its ACTTemporalEnsembler, asked at every step, against the queue."""
    compare_ensemble(MADE, coefficient)


# --- what is written -----------------------------------------------------------------------------


def test_summary_states_bytes_and_operations_per_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "tiny.vlad"
    assert main(arguments(target, "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["policy"] == "act"
    assert set(summary["blocks"]) == {"vision", "policy"}
    for name, block in summary["blocks"].items():
        assert block["bytes"] == (target / f"blocks/{name}.onnx").stat().st_size
    each = {name: block["flop"] for name, block in summary["blocks"].items()}
    assert summary["flop_per_chunk"] == 3 * each["vision"] + each["policy"]
    assert summary["tasks"][0] == {"text": "wave"}
    assert summary["temporal_ensemble_coeff"] is None


@pytest.mark.parametrize("block", ["vision", "policy"])
def test_the_operations_stated_are_those_of_the_graph(policy: ActPolicy, block: str) -> None:
    """Counted a second time: by the shapes of every Conv and MatMul of the graph."""
    found = next(b for b in policy.bundle.manifest.blocks if b.name == block)
    model = inline_local_functions(onnx.load(policy.bundle.file(found.file)))
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in [*inferred.value_info, *inferred.output, *inferred.input]:
        shapes[value.name] = [d.dim_value for d in value.type.tensor_type.shape.dim]
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += 2 * int(np.prod(shapes[node.output[0]])) * int(np.prod(shapes[node.input[1]][1:]))
        elif node.op_type == "MatMul":
            total += 2 * int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1]
    assert total == found.flops


def test_the_vae_is_left_out_and_nothing_else(policy: ActPolicy) -> None:
    for block in policy.bundle.manifest.blocks:
        model = onnx.load(policy.bundle.file(block.file))
        assert not [t.name for t in model.graph.initializer if "vae" in t.name]


def test_the_manifest_says_what_the_cameras_deliver(policy: ActPolicy) -> None:
    manifest = policy.bundle.manifest
    assert isinstance(manifest, ActManifest)
    assert [(c.name, c.height, c.width, c.tokens) for c in manifest.cameras] == [(n, 96, 96, 9) for n in CAMERAS]
    assert manifest.longest == 96
    assert manifest.task_texts == ("wave", "put the tea bag in the mug, slowly")


def test_cameras_of_unlike_sizes_share_the_vision_block(policy: ActPolicy, data: Path, tmp_path: Path) -> None:
    """Its dimensions are dynamic then; what a camera of the size as before gives is what it gave."""
    features(lambda f: f["observation.images.left"].update(shape=[3, 64, 81]))(data)
    other = ActPolicy(bundles.load(build(tmp_path / "o.vlad", data=data)))
    manifest = other.bundle.manifest
    assert isinstance(manifest, ActManifest)
    assert [c.tokens for c in manifest.cameras] == [9, 9, 6]
    assert manifest.blocks[0].inputs[0].shape == [1, 3, "height", "width"]
    frame = MADE["image0_0"].astype(np.uint8)
    assert np.abs(other.encode_image(0, frame) - policy.encode_image(0, frame)).max() < 1e-5
    left = np.zeros((64, 81, 3), np.uint8)
    tokens = [other.encode_image(0, frame), other.encode_image(1, frame), other.encode_image(2, left)]
    assert np.isfinite(other.sample(other.prefill(tokens, 0, np.zeros(6)))).all()
    with pytest.raises(BundleError, match="image tokens"):
        other.prefill(tokens[::-1], 0, np.zeros(6))
    with pytest.raises(DeviceError, match="trained on 81x64"):
        other.encode_image(2, frame)


# --- what is refused -----------------------------------------------------------------------------

Change = Callable[[Path], Any]


def config(**values: Any) -> Change:
    return lambda data: edit(data / "checkpoint/config.json", lambda c: c.update(values))


def features(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda data: edit(data / "checkpoint/config.json", lambda c: change(c["input_features"]))


def modes(**values: str) -> Change:
    return lambda data: edit(
        data / "checkpoint/policy_preprocessor.json", lambda c: c["steps"][3]["config"]["norm_map"].update(values)
    )


def weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Change:
    return lambda data: edit_tensors(data / "checkpoint/model.safetensors", change)


def statistics(change: Callable[[dict[str, np.ndarray]], Any]) -> Change:
    file = "checkpoint/policy_preprocessor_step_3_normalizer_processor.safetensors"
    return lambda data: edit_tensors(data / file, change)


def _many(inputs: dict[str, Any]) -> None:
    for i in range(3):
        inputs[f"observation.images.more{i}"] = inputs["observation.images.top"]


ENVIRONMENT = {"observation.environment_state": {"type": "ENV", "shape": [4]}}
TOP_STD = "observation.images.top.std"
REFUSALS: dict[str, tuple[Change, str]] = {
    "history": (config(n_obs_steps=2), "n_obs_steps = 2 is not supported"),
    "a setting of another LeRobot": (config(attend_backwards=True), "settings ['attend_backwards'] are not known"),
    "a bottleneck backbone": (config(vision_backbone="resnet50"), "'resnet50' is not supported (accepted: ['"),
    "more layers than weights": (config(vision_backbone="resnet34"), "layer1.2.bn1.weight' is missing"),
    "dilation": (config(replace_final_stride_with_dilation=True), "replace_final_stride_with_dilation"),
    "glu": (config(feedforward_activation="glu"), "feedforward_activation = 'glu'"),
    "environment state": (features(lambda f: f.update(ENVIRONMENT)), "['observation.environment_state']"),
    "no state": (features(lambda f: f.pop("observation.state")), "input_features has no observation.state"),
    "a state of two dimensions": (
        features(lambda f: f["observation.state"].update(shape=[6, 2])),
        "observation.state of type STATE and shape [6, 2]",
    ),
    "half an action": (config(chunk_size=8.9), "config.json: chunk_size = 8.9 is not supported: Expected `int`"),
    "a chunk in words": (config(chunk_size="8"), "chunk_size = '8' is not supported: Expected `int`, got `str`"),
    "a chunk without end": (config(chunk_size=10**12), "chunk_size = 1000000000000 is not supported"),
    "no actions": (config(n_action_steps=0), "n_action_steps = 0 is not supported: Expected `int` >= 1"),
    "a mark in words": (config(use_vae="false"), "use_vae = 'false' is not supported: Expected `bool`, got `str`"),
    "a width without end": (config(dim_model=10**9), "dim_model = 1000000000 is not supported: Expected `int` <="),
    "no heads": (config(n_heads=0), "n_heads = 0 is not supported: Expected `int` >= 1"),
    "no pixels": (features(lambda f: f["observation.images.top"].update(shape=[3, 0, 96])), "Expected `int` >= 1"),
    "too many pixels": (
        features(lambda f: f["observation.images.top"].update(shape=[3, 8193, 96])),
        "of shape [3, 8193, 96]",
    ),
    "a coefficient that is no number": (config(temporal_ensemble_coeff=float("nan")), "temporal_ensemble_coeff = nan"),
    "a latent that is missing": (
        lambda data: edit(data / "checkpoint/config.json", lambda c: c.pop("latent_dim")),
        "config.json: latent_dim is missing",
    ),
    "no camera": (
        features(lambda f: [f.pop(k) for k in list(f) if "images" in k]),
        "0 cameras; 1 to 4 are supported",
    ),
    "six cameras": (features(_many), "6 cameras"),
    "grey images": (
        features(lambda f: f["observation.images.top"].update(shape=[1, 96, 96])),
        "of shape [1, 96, 96]",
    ),
    "heads": (config(n_heads=5), "n_heads = 5"),
    "no encoder": (config(n_encoder_layers=0), "n_encoder_layers = 0"),
    "more actions than a chunk": (config(n_action_steps=9), "n_action_steps = 9"),
    "a coefficient of no use": (config(temporal_ensemble_coeff=11.0), "temporal_ensemble_coeff = 11.0"),
    "fewer layers than weights": (config(n_encoder_layers=1), "that an ACT does not have: ['model.encoder.layers.1"),
    "a vae that training did not use": (config(use_vae=False), "does not have: ['model.vae_encoder"),
    "a weight too many": (weights(lambda t: t.update({"model.vae_more": np.zeros(2)})), "['model.vae_more']"),
    "a weight missing": (weights(lambda t: t.pop("model.action_head.bias")), "'model.action_head.bias' is missing"),
    "weights of another shape": (config(chunk_size=9), "has shape [8, 32], expected [9, 32]"),
    "no statistics of a camera": (statistics(lambda t: t.pop(TOP_STD)), "observation.images.top.mean and"),
    "a camera of one colour": (statistics(lambda t: t[TOP_STD].fill(0)), "top.std is 0 for channel 0"),
    "a joint that never moved": (statistics(lambda t: t["observation.state.std"].fill(0)), "never moved"),
    "normalised images": (modes(VISUAL="MIN_MAX"), "VISUAL MEAN_STD or IDENTITY"),
    "quantiles": (modes(STATE="QUANTILES"), "STATE MEAN_STD or MIN_MAX"),
    "a text processor": (
        lambda data: edit(
            data / "checkpoint/policy_preprocessor.json",
            lambda c: c["steps"][0].update(registry_name="tokenizer_processor"),
        ),
        "['tokenizer_processor']",
    ),
    "infinite weights": (weights(lambda t: t["model.action_head.bias"].fill(np.inf)), "not finite"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refused_with_the_reason(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    change, message = REFUSALS[what]
    change(data)
    assert message in refusal(capsys, arguments(tmp_path / "t.vlad", data=data))
    assert not (tmp_path / "t.vlad").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--skip-camera", "top"), "attends to all its cameras"),
        (("--free-text",), "no language model"),
        (("--vlm", str(DATA)), "no language model"),
        (("--actions", "9"), "chunk has 8"),
        (("--actions", "0"), "chunk has 8"),
    ],
)
def test_flags_that_mean_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert message in refusal(capsys, arguments(tmp_path / "t.vlad", *flags))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a field of SmolVLA": (lambda m: m.update(image_side=96), "image_side"),
    "a field missing": (lambda m: m.pop("token_width"), "token_width"),
    "blocks of another policy": (lambda m: m["blocks"][1].update(name="expert"), "expected one each of .*policy"),
    "pixels": (lambda m: m["cameras"][0].update(std=[1, 1, 0], eps=0), "cannot be divided by"),
    "two numbers of three": (lambda m: m["cameras"][0].update(mean=[1, 1]), "mean"),
    "tokens": (lambda m: m["cameras"][0].update(tokens=9999), "9999 tokens"),
    "coefficient": (lambda m: m.update(temporal_ensemble_coeff=99), "temporal_ensemble_coeff"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_manifests_that_disagree_are_refused(tmp_path: Path, change: str) -> None:
    path = build(tmp_path / "t.vlad")
    how, message = CHANGES[change]
    edit(path / "manifest.json", how)
    with pytest.raises(BundleError, match=message):
        bundles.load(path, verify=False)


def test_wrong_input_is_refused(policy: ActPolicy) -> None:
    with pytest.raises(DeviceError, match="frame of 128x96; the policy was trained on 96x96"):
        policy.encode_image(0, np.zeros((96, 128, 3), np.uint8))
    with pytest.raises(DeviceError, match="float32"):
        policy.encode_image(0, np.zeros((96, 96, 3), np.float32))
    with pytest.raises(BundleError, match="the policy has 3"):
        policy.encode_image(3, np.zeros((96, 96, 3), np.uint8))
    tokens = [policy.encode_image(i, np.zeros((96, 96, 3), np.uint8)) for i in range(3)]
    with pytest.raises(BundleError, match="image tokens"):
        policy.prefill(tokens[:2], 0, np.zeros(6))
    for task in (-1, 2):
        with pytest.raises(Refused, match=r"tasks 0\.\.1"):
            policy.prefill(tokens, task, np.zeros(6))
    with pytest.raises(Refused, match="reads no text"):
        policy.token_ids("dance")
    seen = policy.prefill(tokens, 1, np.zeros(6))
    for wrong in ({"steps": 4}, {"guidance": lambda *_: None}):
        with pytest.raises(Refused, match="no flow steps"):
            policy.sample(seen, **wrong)


def test_a_policy_of_another_type_is_refused(policy: ActPolicy) -> None:
    with pytest.raises(BundleError, match="type act, not a SmolVLA"):
        Policy(policy.bundle)
