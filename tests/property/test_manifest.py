"""Any bytes as manifest, safetensors or array: an error of the tree, or a usable value."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import tiny_act
from tests.tiny_smolvla import DATA, build
from vlad import bundle as bundles
from vlad.build.safetensors import SafeTensors, read_json
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.manifest import File, files, parse_manifest

quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@pytest.fixture(scope="module", params=[build, tiny_act.build], ids=["smolvla", "act"])
def built(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Bundle:
    return bundles.load(request.param(tmp_path_factory.mktemp("bundle") / "tiny.vlad"))


@quick
@given(st.binary(max_size=400))
@example(b"[" * 100_000)
@example(b'{"format_version":' + b"9" * 5000 + b"}")
@example(b"\xff\xfe{}")
def test_any_bytes(text: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(text)


def _slots(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _slots(inner, (*here, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:2]):
            found += _slots(inner, (*here, index))
    return found


@quick
@given(data=st.data(), replacement=anything)
def test_one_field_replaced(built: Bundle, data: st.DataObject, replacement: Any) -> None:
    """Either refused, or every file still lies inside the bundle and every size is bounded."""
    manifest = json.loads((built.path / "manifest.json").read_bytes())
    *path, last = data.draw(st.sampled_from(_slots(manifest)))
    inner = manifest
    for key in path:
        inner = inner[key]
    inner[last] = replacement
    try:
        parsed = parse_manifest(json.dumps(manifest).encode())
    except BundleError:
        return
    assert 0 < parsed.rate_hz <= 1000
    assert len(parsed.joints) == len(parsed.state.mean) == len(parsed.action.std) <= 8
    bundle = Bundle(built.path, parsed)
    for file in files(parsed):
        try:
            found = bundle.file(file)
        except BundleError:
            continue
        assert found.resolve().is_relative_to(built.path.resolve())


@quick
@given(st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "a", "", "blocks"])).map("/".join))
@example("blocks/../../x")
@example("/dev/zero")
@example("blocks")
@example("x" * 255)
def test_any_path_stays_inside(built: Bundle, path: str) -> None:
    try:
        found = built.file(File(path=path, bytes=0, sha256="0" * 64))
    except BundleError:
        return
    assert found.resolve().is_relative_to(built.path.resolve())


@quick
@given(st.binary(max_size=300))
@example(b"\x93NUMPY\x01\x00\x10\x00{'descr':'|O'}  ")
@example(b"\x93NUMPY\x01\x00\x40\x00{'descr':'<f4','fortran_order':False,'shape':(999999999999,)}")
def test_any_bytes_as_array(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    bundle = Bundle(tmp_path, None)  # type: ignore[arg-type]  # the manifest is not used
    file = File(path="a.npy", bytes=len(content), sha256="0" * 64)
    try:
        values = bundle.array(file)
    except BundleError:
        return
    assert values.nbytes <= len(content)


def test_a_whole_array_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    size = (tmp_path / "a.npy").stat().st_size
    bundle = Bundle(tmp_path, None)  # type: ignore[arg-type]  # the manifest is not used
    values = bundle.array(File(path="a.npy", bytes=size, sha256="0" * 64))
    assert values.tolist() == [[0, 1, 2], [3, 4, 5]]


header = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]),
    anything
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "F16", "I64", "BOOL"]),
            "shape": st.lists(st.integers(-1, 1 << 40), max_size=3),
            "data_offsets": st.lists(st.integers(-8, 1 << 40), min_size=2, max_size=2),
        }
    ),
    max_size=3,
)


@quick
@given(header, st.binary(max_size=64), st.integers(-9, 9))
@example({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8, 0)
def test_any_safetensors(tmp_path: Path, entries: dict[str, Any], body: bytes, off: int) -> None:
    text = json.dumps(entries).encode()
    length = max(0, len(text) + off)
    (tmp_path / "t").write_bytes(length.to_bytes(8, "little") + text + body)
    with contextlib.suppress(BundleError):
        tensors = SafeTensors(tmp_path / "t")
        for name in tensors.names():
            assert np.isfinite(tensors.read(name)).all()


@quick
@given(st.binary(max_size=200))
def test_any_bytes_as_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with contextlib.suppress(BundleError):
        assert isinstance(read_json(tmp_path / "c.json"), dict)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 200, 5000, 100_000])
def test_a_checkpoint_cut_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    whole = (DATA / "checkpoint/model.safetensors").read_bytes()
    (tmp_path / "t").write_bytes(whole[:cut])
    with pytest.raises(BundleError):
        SafeTensors(tmp_path / "t")
