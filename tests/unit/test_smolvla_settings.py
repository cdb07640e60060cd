"""The settings of a SmolVLA: docs/smolvla.md, the builder's list and what building does say the same."""

from __future__ import annotations

import json
import re
import reprlib
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_smolvla
from tests.unit.test_bundle_build import edit
from vlad import bundle as bundles
from vlad.build.settings import READ, REFUSED, WITHOUT_EFFECT, read_settings
from vlad.errors import BundleError

DOCUMENT = Path(__file__).parents[2] / "docs/smolvla.md"
CONFIG = json.loads((tiny_smolvla.DATA / "checkpoint/config.json").read_text())


def documented() -> dict[str, str]:
    """What becomes of each setting, by the table of the document."""
    section = DOCUMENT.read_text().split("## Every setting")[1].split("\n## ")[0]
    found: dict[str, str] = {}
    for row in re.findall(r"^\| (`.*?) \| (built|refused|no effect) \|", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row[0]):
            assert name not in found, f"{name} is there twice"
            found[name] = row[1]
    return found


def test_document_and_builder_name_the_same_settings() -> None:
    lists = {"built": READ, "refused": set(REFUSED), "no effect": WITHOUT_EFFECT}
    assert documented() == {name: what for what, names in lists.items() for name in names}
    assert not (READ & WITHOUT_EFFECT or READ & REFUSED.keys() or WITHOUT_EFFECT & REFUSED.keys())


def test_what_lerobot_wrote_is_known() -> None:
    data = tiny_smolvla.DATA.parent
    for directory in ("smolvla_tiny", "smolvla_old", "newest/smolvla"):
        config = json.loads((data / directory / "checkpoint/config.json").read_text())
        assert len(config) > 40
        assert config.keys() <= READ | REFUSED.keys() | WITHOUT_EFFECT


class Watched(dict[str, Any]):
    """A dictionary that notes what is asked of it."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def test_what_is_read_is_read_and_nothing_else() -> None:
    config = Watched(CONFIG)
    read_settings(Path("config.json"), config)
    elsewhere = {"type", "vlm_model_name", "normalization_mapping"}  # by read_checkpoint and processors
    assert config.asked - REFUSED.keys() == READ - elsewhere


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_by_name(name: str) -> None:
    accepted = REFUSED[name][0]
    for value in accepted:
        read_settings(Path("config.json"), CONFIG | {name: value})
    with pytest.raises(BundleError, match=rf"config.json: {name} = .* is not supported: \w"):
        read_settings(Path("config.json"), CONFIG | {name: not accepted[0]})


@pytest.mark.parametrize("name", sorted(READ))
def test_a_missing_one_is_told(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vlad.build.command import main

    data = tiny_smolvla.copy_of_data(tmp_path / "data")
    edit(data / "checkpoint/config.json", lambda c: c.pop(name))
    status = main(tiny_smolvla.arguments(tmp_path / "t.vlad", data=data))
    # The directory of the language model stands for its name, and the processor files say how they normalise.
    assert status == (0 if name in {"vlm_model_name", "normalization_mapping"} else 1)
    assert status == 0 or name in capsys.readouterr().err or name == "type"


WRONG: list[tuple[str, Any, str]] = [
    ("chunk_size", 8.9, "Expected `int`, got `float`"),
    ("chunk_size", "8", "Expected `int`, got `str`"),
    ("chunk_size", True, "Expected `int`, got `bool`"),
    ("chunk_size", 10**12, "Expected `int` <= 4096"),
    ("chunk_size", 0, "Expected `int` >= 1"),
    ("num_steps", 10**9, "Expected `int` <= 1000"),
    ("max_state_dim", 10**9, "Expected `int` <= 1024"),
    ("max_action_dim", None, "Expected `int`, got `null`"),
    ("tokenizer_max_length", 10**9, "Expected `int` <= 4096"),
    ("tokenizer_max_length", 0, "Expected `int` >= 1"),
    ("empty_cameras", -1, "Expected `int` >= 0"),
    ("empty_cameras", 10**6, "Expected `int` <= 16"),
    ("num_vlm_layers", 3.0, "Expected `int`, got `float`"),
    ("num_expert_layers", float("inf"), "Expected `int`, got `float`"),
    ("self_attn_every_n_layers", "2", "Expected `int`, got `str`"),
    ("add_image_special_tokens", "false", "Expected `bool`, got `str`"),
    ("load_vlm_weights", 1, "Expected `bool`, got `int`"),
    ("attention_mode", ["cross_attn"], "Expected `str`, got `array`"),
    ("min_period", float("nan"), "Expected `float` >= 1e-06"),
    ("min_period", 0, "Expected `float` >= 1e-06"),
    ("max_period", float("inf"), "Expected `float` <= 1000000.0"),
    ("max_period", "4", "Expected `float`, got `str`"),
    ("resize_imgs_with_padding", "66", "Expected `array | null`, got `str`"),
    ("resize_imgs_with_padding", [-32, -32], "Expected `int` >= 1 - at `$[0]`"),
    ("resize_imgs_with_padding", [1 << 20, 1 << 20], "Expected `int` <= 4096"),
    ("resize_imgs_with_padding", [32], "Expected `array` of length >= 2"),
    ("input_features", [], "Expected `object`, got `array`"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG, ids=[f"{w[0]}-{w[1]}" for w in WRONG])
def test_another_type_or_size_is_told_with_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(BundleError) as told:
        read_settings(Path("config.json"), CONFIG | {name: value})
    assert str(told.value).startswith(f"config.json: {name} = {reprlib.repr(value)} is not supported: ")
    assert allowed in str(told.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_features": {"x": None}}, "input_features: x = None is not supported: Expected `object`"),
        ({"input_features": {"x": {"type": "BANANA", "shape": [6]}}}, "Invalid enum value 'BANANA'"),
        ({"input_features": {"x": {"type": "STATE", "shape": [6], "unit": 1}}}, "unknown field `unit`"),
        ({"output_features": {"action": {"type": "ACTION", "shape": []}}}, "Expected `array` of length >= 1"),
        ({"output_features": {"action": {"type": "ACTION", "shape": [6.5]}}}, "Expected `int`, got `float`"),
        ({"output_features": {}}, "output_features has no action"),
        ({"output_features": {"action": {"type": "ACTION", "shape": [6, 2]}}}, "type ACTION and shape [6, 2]"),
        ({"output_features": {"action": {"type": "STATE", "shape": [6]}}}, "type ACTION and shape [N] are supported"),
        ({"min_period": 5}, "min_period = 5.0, max_period = 4.0"),
        ({"max_action_dim": 4}, "an action of 6 numbers with max_state_dim = 32 and max_action_dim = 4"),
    ],
)
def test_features_and_settings_that_disagree(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(message)):
        read_settings(Path("config.json"), CONFIG | change)


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_those_without_effect_have_none(name: str, tmp_path: Path) -> None:
    """The settings that are built are the same; that LeRobot computes the same is a test of the reference."""
    other = {"n_obs_steps": 4, "prefix_length": 99, "pad_language_to": "longest"}.get(name, 1)
    assert read_settings(Path("c"), CONFIG | {name: other}) == read_settings(Path("c"), CONFIG)


def test_marks_are_constants_of_vision(tmp_path: Path) -> None:
    data = tiny_smolvla.copy_of_data(tmp_path / "data")
    plain = bundles.load(tiny_smolvla.build(tmp_path / "plain.vlad", data=data)).manifest
    edit(data / "checkpoint/config.json", lambda c: c.update(add_image_special_tokens=True))
    marked = bundles.load(tiny_smolvla.build(tmp_path / "marked.vlad", data=data)).manifest
    assert marked.prefix.image_tokens == plain.prefix.image_tokens + 3
    assert marked.token_table.before == []
    edit(data / "checkpoint/config.json", lambda c: c.update(empty_cameras=1))
    skipped = bundles.load(tiny_smolvla.build(tmp_path / "s.vlad", "--skip-camera", "camera2", data=data)).manifest
    around, whole = skipped.token_table.before[:2]
    assert skipped.token_table.before == [around, whole, around]
    assert skipped.prefix.max_tokens == marked.prefix.max_tokens - plain.prefix.image_tokens
