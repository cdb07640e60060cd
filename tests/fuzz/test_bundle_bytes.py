"""A short fuzz run on what a bundle and a checkpoint consist of: real files, mutated at random.

VLAD_FUZZ_SECONDS sets the length of each run (2 s by default), VLAD_FUZZ_SEED repeats one.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from tests.tiny_smolvla import DATA, build
from vlad import bundle as bundles
from vlad.build.checkpoint import read_checkpoint
from vlad.build.dataset import read_dataset
from vlad.errors import BundleError, VladError
from vlad.onnx_parts import refuse_external_data
from vlad.policy import Policy

SECONDS = float(os.environ.get("VLAD_FUZZ_SECONDS", "2"))
SEED = int(os.environ.get("VLAD_FUZZ_SEED", "0"))


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A few of: flipped bits, other digits, cut, doubled, moved, overlong numbers."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((1, 2, 4, 16, 200))
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = data[at : at + size]
        elif kind == 3:
            data[at:at] = bytes(chance.choice(b'0123456789-.e"{}[],:\\/ntu') for _ in range(size))
        elif kind == 4:
            data[at : at + size] = bytes(chance.randrange(256) for _ in range(size))
        else:
            data[at:at] = chance.choice((b"9" * 400, b"[" * 3000, b"../", b"null", b"1e999", b"\0"))
    return bytes(data)


def run(file: Path, use: Callable[[], object]) -> int:
    """Mutate `file` and `use` it until the time is up. Any error outside the tree fails the test."""
    whole, chance, rounds = file.read_bytes(), random.Random(SEED), 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        file.write_bytes(mutated(whole, chance))
        try:
            use()
        except VladError:
            pass
        except Exception as error:
            kept = Path("build/fuzz") / file.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, kept)
            raise AssertionError(f"round {rounds}, input kept in {kept}: {error!r}") from error
        rounds += 1
    file.write_bytes(whole)
    return rounds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return build(tmp_path / "tiny.vlad")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA, tmp_path / "data"))


def test_manifest(path: Path) -> None:
    assert run(path / "manifest.json", lambda: bundles.load(path)) > 10


def test_token_table(path: Path) -> None:
    """A changed size is refused by the manifest; the rest reaches numpy."""

    def load() -> None:
        Policy(bundles.load(path, verify=False)).close()

    assert run(path / "tokens.npy", load) > 10


def test_graph(tmp_path: Path) -> None:
    """What vlad lets through, protocol buffers find no tensor of another file in."""
    file = tmp_path / "a.onnx"
    weights = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="/etc/passwd")
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=onnx.helper.make_graph([], "t", [], [], [weights]))
    graph = onnx.helper.make_graph([node], "g", [], [])
    file.write_bytes(onnx.ModelProto(ir_version=8, graph=graph).SerializeToString())
    understood = 0

    def walk() -> None:
        nonlocal understood
        refuse_external_data(file, "here")
        try:
            seen = onnx.load_model_from_string(file.read_bytes())
        except DecodeError:
            return
        understood += 1
        assert not any(map(uses_external_data, tensors(seen.graph)))

    with pytest.raises(BundleError):
        walk()
    assert run(file, walk) > 10
    assert understood


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors(inner)


@pytest.mark.parametrize("name", ["config.json", "policy_preprocessor.json", "model.safetensors"])
def test_checkpoint(data: Path, name: str) -> None:
    assert run(data / "checkpoint" / name, lambda: read_checkpoint(data / "checkpoint")) > 10


@pytest.mark.parametrize("name", ["info.json", "stats.json", "tasks.parquet"])
def test_dataset(data: Path, name: str) -> None:
    assert run(data / "dataset/meta" / name, lambda: read_dataset(data / "dataset")) > 10


def test_vision_language_model(data: Path) -> None:
    def read() -> None:
        read_checkpoint(data / "checkpoint", vlm=data / "vlm")

    assert run(data / "vlm/config.json", read) > 10
