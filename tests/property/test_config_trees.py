"""No tree and no text, however odd, gets anything but a Config or a ConfigError."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlad import config_document
from vlad.config import Config, from_tree, load
from vlad.errors import ConfigError

NAMES = ["shoulder_pan", "gripper"]
DIRECTORY = Path(tempfile.mkdtemp(prefix="vlad-config-"))
(DIRECTORY / "calibration.json").write_text(
    json.dumps(
        {
            name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": 9, "range_max": 3000}
            for i, name in enumerate(NAMES, start=1)
        }
    )
)
GOOD: dict[str, Any] = {
    "arm": {
        "port": "bus",
        "calibration": "calibration.json",
        "joints": [
            {"name": "shoulder_pan", "id": 1},
            {"name": "gripper", "id": 2, "kind": "gripper"},
        ],
        "rest_pose": {"shoulder_pan": 0.5, "gripper": 0.0},
    },
    "servo": {"rate_hz": 100, "affinity": [1]},
    "policy": {"threshold": "auto"},
    "camera": [{"name": "top", "source": "shm:top", "controls": {"gain": 3}}],
    "stage": {"expert": {"affinity": [0]}},
}
KEYS = sorted({name for table in config_document.TABLES for name in table.__struct_fields__})

values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=True, allow_infinity=True),
        st.text(max_size=20),
        st.dates(),
        st.sampled_from(["auto", "gripper", "fifo", "shm:x", "/dev/x", "\0", "calibration.json"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), inner, max_size=4),
    ),
    max_leaves=12,
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a tree."""
    if isinstance(tree, dict):
        return [at, *(p for key, item in tree.items() for p in places(item, (*at, key)))]
    if isinstance(tree, list):
        return [at, *(p for i, item in enumerate(tree) for p in places(item, (*at, i)))]
    return [at]


def check(config: Config) -> None:
    """What every Config promises, whatever it came from."""
    assert config.joints
    for joint in config.joints:
        assert math.isfinite(joint.min) and joint.min < joint.max
        assert joint.v_max > 0 and joint.a_max > 0 and joint.j_max > 0
        c = joint.calibration
        assert c.range_min <= joint.to_ticks(joint.min) <= joint.to_ticks(joint.max) <= c.range_max
    assert 20 <= config.servo.rate_hz <= 1000
    assert Path(config.arm.port).is_absolute()
    if config.rest_pose is not None:
        assert all(
            joint.min <= position <= joint.max
            for joint, position in zip(config.joints, config.rest_pose, strict=True)
        )


def judge(tree: dict[str, Any]) -> None:
    path = DIRECTORY / "arm.toml"
    try:
        check(from_tree(tree, path))
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ")


def test_the_unchanged_tree_is_good() -> None:
    check(from_tree(GOOD, DIRECTORY / "arm.toml"))


@pytest.mark.fault(40)
@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.one_of(st.sampled_from(sorted(GOOD)), st.text()), values, max_size=5))
def test_f40_any_tree(tree: dict[str, Any]) -> None:
    judge(tree)


@pytest.mark.fault(40)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_f40_a_good_tree_with_one_part_replaced(data: st.DataObject) -> None:
    tree = copy.deepcopy(GOOD)
    place = data.draw(st.sampled_from([p for p in places(tree) if p]))
    parent = tree
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = data.draw(values)
    judge(tree)


@pytest.mark.fault(40)
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_f40_a_good_tree_with_a_key_added(data: st.DataObject) -> None:
    tree = copy.deepcopy(GOOD)
    tables = [("arm",), ("arm", "joints", 0), ("servo",), ("policy",), ("camera", 0)]
    at = data.draw(st.sampled_from(tables))
    _at(tree, at)[data.draw(st.sampled_from(KEYS))] = data.draw(
        st.one_of(st.floats(0.1, 100), st.integers(-5, 200), values)
    )
    judge(tree)


def _at(tree: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        tree = tree[step]
    return tree


@pytest.mark.fault(40)
@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_f40_any_bytes(content: bytes) -> None:
    path = DIRECTORY / "bytes.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bytes\.toml: "):
        load(path, machine=False)
