"""Loading a bundle: a good one loads, a damaged one is refused with a reason that says where."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.tiny_smolvla import arguments, build
from vlad import bundle as bundles
from vlad.build.command import main
from vlad.errors import BundleError, Refused
from vlad.golden import check_golden, open_for_check
from vlad.policy import Policy


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy.vlad"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_good_bundle_loads_and_reproduces_its_golden_outputs(path: Path) -> None:
    seen = []
    bundle = bundles.load(path, progress=seen.append)
    assert (
        sum(seen)
        == sum(f.stat().st_size for f in path.rglob("*.*") if f.is_file()) - (path / "manifest.json").stat().st_size
    )
    with open_for_check(bundle) as policy:
        check = check_golden(policy)
    assert set(check.differences) == {"tokens", "chunk"}
    assert max(check.differences.values()) <= check.tolerance
    m = bundle.manifest
    assert [c.name for c in m.cameras] == ["camera1", "camera2"]
    assert [j.name for j in m.joints][-1] == "gripper"
    assert [j.gripper for j in m.joints] == [False] * 5 + [True]
    assert (m.rate_hz, m.chunk_size, m.flow.steps, m.units) == (30.0, 8, 10, "degrees")
    assert m.tasks[0].text == "wave"


def test_no_pickle_is_in_a_bundle(path: Path) -> None:
    names = {f.suffix for f in path.rglob("*") if f.is_file()}
    assert names == {".json", ".onnx", ".npy"}


@pytest.mark.parametrize("name", ["blocks/expert.onnx", "tokens.npy", "golden/output_chunk.npy"])
def test_one_flipped_bit_is_found(path: Path, name: str) -> None:
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}: sha256 differs"):
        bundles.load(path)


def test_truncated_missing_and_foreign_files_are_refused(path: Path) -> None:
    file = path / "blocks/vision.onnx"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=rf"{len(whole) - 1} bytes, the manifest says"):
        bundles.load(path, verify=False)
    file.unlink()
    with pytest.raises(BundleError, match="the bundle is incomplete"):
        bundles.load(path)
    os.mkfifo(file)
    with pytest.raises(BundleError, match="not a regular file"):
        bundles.load(path)


def test_links_are_refused_even_to_the_right_bytes(path: Path, tmp_path: Path) -> None:
    shutil.move(path / "blocks", tmp_path / "elsewhere")
    (path / "blocks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="symbolic links are not allowed"):
        bundles.load(path)


@pytest.mark.parametrize("name", ["../copy.vlad/tokens.npy", "/etc/hostname", "a/../../x", "blocks\\x", ".", "a\0b"])
def test_paths_that_lead_out_are_refused(path: Path, name: str) -> None:
    edit(path, lambda m: m["token_table"]["file"].update(path=name))
    with pytest.raises(BundleError):
        bundles.load(path, verify=False)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), os.mkfifo])
def test_a_manifest_that_is_no_file_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "manifest.json")
    with pytest.raises(BundleError):
        bundles.load(tmp_path)


def test_a_linked_manifest_and_a_missing_directory_are_refused(built: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to(built / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundles.load(tmp_path)
    with pytest.raises(BundleError, match="no such directory"):
        bundles.load(tmp_path / "none.vlad")
    (tmp_path / "file.vlad").write_text("")
    with pytest.raises(BundleError, match="not a directory"):
        bundles.load(tmp_path / "file.vlad")


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(BundleError, match="larger than 4194304 bytes"):
        bundles.load(tmp_path)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer format": (lambda m: m.update(format_version=2), "format version 2"),
    "unknown field": (lambda m: m.update(extra=1), "extra"),
    "missing statistics": (lambda m: m.pop("action"), "action"),
    "wrong type": (lambda m: m.update(rate_hz="30"), r"rate_hz"),
    "zero rate": (lambda m: m.update(rate_hz=0), r"rate_hz"),
    "other policy": (lambda m: m.update(policy_type="pi0"), "policy_type"),
    "joint twice": (lambda m: m["joints"][0].update(name="gripper"), "joints repeat"),
    "joint missing": (lambda m: m["joints"].pop(), "statistics are not for 5 joints"),
    "camera twice": (lambda m: m["cameras"][0].update(name="camera2"), "cameras repeat"),
    "block missing": (lambda m: m["blocks"].pop(), "expected one each"),
    "block twice": (lambda m: m["blocks"].append(m["blocks"][0]), "expected one each"),
    "unknown backend": (lambda m: m["blocks"][0].update(backend="torch"), "backend"),
    "negative deviation": (lambda m: m["state"]["std"].__setitem__(0, -1), "negative deviation"),
    "bad hash": (lambda m: m["blocks"][0]["file"].update(sha256="x" * 64), "sha256"),
    "huge file": (lambda m: m["blocks"][0]["file"].update(bytes=1 << 40), "bytes"),
    "foreign token": (lambda m: m["tasks"][0].update(token_ids=[305]), "token_table"),
    "long task": (lambda m: m["tasks"][0].update(token_ids=[5] * 49), "more than 48 tokens"),
    "table rows": (lambda m: m["token_table"].update(rows=3), "3 rows"),
    "no tasks": (lambda m: m.update(tasks=[]), "tasks"),
    "golden task": (lambda m: m["golden"].update(task=9), "golden.task"),
    "prefix": (lambda m: m["prefix"].update(max_tokens=9), "exceeds prefix.max_tokens"),
    "one file twice": (
        lambda m: m["blocks"][0].update(file=m["blocks"][1]["file"]),
        "same file",
    ),
    "units": (lambda m: m.update(units="radians"), "units"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_disagreements_are_refused_by_name(path: Path, change: str) -> None:
    how, message = CHANGES[change]
    edit(path, how)
    with pytest.raises(BundleError, match=message):
        bundles.load(path, verify=False)


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(path: Path) -> None:
    edit(path, lambda m: m["blocks"][0]["inputs"][0].update(shape=[1, 3, 64, 64]))
    with pytest.raises(BundleError, match="inputs of the graph are"):
        Policy(bundles.load(path))


def test_bytes_that_are_no_graph_are_refused(path: Path) -> None:
    file = path / "blocks/context.onnx"
    for content in (b"\x08\x08", b"\x08" * 3):
        file.write_bytes(content)
        edit(path, lambda m: next(b for b in m["blocks"] if b["name"] == "context")["file"].update(
            bytes=file.stat().st_size))
        why = "not an ONNX graph: it ends within a number" if len(content) % 2 else "ONNX Runtime cannot load it"
        with pytest.raises(BundleError, match=rf"context\.onnx: {why}"):
            Policy(bundles.load(path, verify=False))


def test_a_pickled_array_is_never_loaded(path: Path) -> None:
    file = path / "tokens.npy"
    size = file.stat().st_size
    with file.open("wb") as handle:
        np.save(handle, np.array([{}], dtype=object), allow_pickle=True)
    edit(path, lambda m: m["token_table"]["file"].update(bytes=file.stat().st_size))
    assert size != file.stat().st_size
    with pytest.raises(BundleError, match=r"not a numeric \.npy array"):
        Policy(bundles.load(path, verify=False))


def test_another_result_than_golden_is_refused(path: Path) -> None:
    file = path / "golden/output_chunk.npy"
    values = np.load(file)
    np.save(file, values + np.float32(0.01))
    with (
        open_for_check(bundles.load(path, verify=False)) as policy,
        pytest.raises(BundleError, match=r"golden output chunk differs by 0\.01"),
    ):
        check_golden(policy)


def test_unknown_tasks_and_tokens_are_refused(path: Path) -> None:
    policy = Policy(bundles.load(path))
    assert policy.token_ids("wave") == policy.token_ids("wave\n")
    with pytest.raises(Refused, match="--free-text"):
        policy.token_ids("dance")
    tokens = [policy.encode_image(0, np.zeros((8, 8, 3), np.uint8))] * 2
    for task in (2, -1, [], [305], [5] * 49):
        with pytest.raises(Refused):
            policy.prefill(tokens, task, np.zeros(6))
    with pytest.raises(BundleError, match="image tokens"):
        policy.prefill(tokens[:1], 0, np.zeros(6))
    with pytest.raises(BundleError, match="the policy has 2"):
        policy.encode_image(2, np.zeros((8, 8, 3), np.uint8))
    prefix = policy.prefill(tokens, 0, np.zeros(6))
    with pytest.raises(Refused, match="at least one"):
        policy.sample(prefix, steps=0)
    with pytest.raises(BundleError, match="noise is"):
        policy.sample(prefix, np.zeros((1, 2), np.float32))


def test_free_text_ships_the_tokenizer_and_all_tokens(path: Path, tmp_path: Path) -> None:
    free = Policy(bundles.load(build(tmp_path / "free.vlad", "--free-text")))
    known = Policy(bundles.load(path))
    ids = free.token_ids("dance\n")
    assert len(ids) == 6
    embedded = free.language.embeddings.embed(free.token_ids("wave"))
    assert np.array_equal(embedded, known.language.embeddings.embed(0))
    assert free.bundle.manifest.token_table.rows > known.bundle.manifest.token_table.rows
    with pytest.raises(Refused, match="50 tokens and the policy takes 48"):
        free.token_ids("x" * 49)


def test_free_text_without_the_package_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = Policy(bundles.load(build(tmp_path / "free.vlad", "--free-text")))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert len(free.token_ids("wave")) == 5, "the tasks of the bundle need no tokenizer"
    with pytest.raises(BundleError, match="`tokenizers` is needed to tokenise a text: pip install"):
        free.token_ids("dance")
    assert "tokenizers" in free.bundle.manifest.tools
    assert main(arguments(tmp_path / "t.vlad")) == 1, "a build needs it"


def test_blocks_of_an_earlier_version_are_named_as_such(path: Path) -> None:
    built = bundles.load(path)
    value = built.manifest.blocks[0].inputs[0]
    past = [msgspec.structs.replace(value, name=name) for name in ("past_key", "past_value")]
    blocks = [msgspec.structs.replace(b, inputs=past) if b.name == "prefill" else b for b in built.manifest.blocks]
    old = bundles.Bundle(built.path, msgspec.structs.replace(built.manifest, blocks=blocks))
    with pytest.raises(BundleError, match="earlier version: build it again"):
        Policy(old, load=lambda *_: NoSession())


def test_an_expert_that_wants_what_prefill_does_not_make_is_refused(path: Path) -> None:
    built = bundles.load(path)
    expert = built.block("expert")
    inputs = [msgspec.structs.replace(v, name=v.name.replace("key2", "key7")) for v in expert.inputs]
    blocks = [msgspec.structs.replace(b, inputs=inputs) if b.name == "expert" else b for b in built.manifest.blocks]
    wrong = bundles.Bundle(built.path, msgspec.structs.replace(built.manifest, blocks=blocks))
    with pytest.raises(BundleError, match=r"expert takes .*context_key7.*, block prefill makes"):
        Policy(wrong, load=lambda *_: NoSession())


class NoSession:
    """A block that is never run."""

    def close(self) -> None:
        pass


# --- what is hashed is what is loaded -------------------------------------------------------------


def replace_by_rename(file: Path) -> None:
    """As an attacker or an upgrade does: another file of the same size takes the name."""
    other = file.with_name("other")
    other.write_bytes(bytes(file.stat().st_size))
    os.replace(other, file)


def write_in_place(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.write(b"\0")


@pytest.mark.parametrize("swap", [replace_by_rename, write_in_place])
@pytest.mark.parametrize("name", ["blocks/vision.onnx", "tokens.npy"])
def test_a_file_that_is_swapped_after_it_was_hashed_is_not_used(
    path: Path, name: str, swap: Callable[[Path], None]
) -> None:
    bundle = bundles.load(path)
    swap(path / name)
    with pytest.raises(BundleError, match=rf"{name}: replaced or written to since it was verified"):
        Policy(bundle)


def test_a_directory_that_is_swapped_and_swapped_back_changes_nothing(path: Path) -> None:
    """The name leads elsewhere while the file is loaded; the descriptor does not."""
    bundle = bundles.load(path)
    file = bundle.block("vision").file
    wanted = (path / file.path).read_bytes()
    (path / "evil").mkdir()
    (path / "evil/vision.onnx").write_bytes(bytes(len(wanted)))
    with bundle.opened(file) as opened:
        (path / "blocks").rename(path / "good")
        (path / "evil").rename(path / "blocks")
        read = opened.read_bytes()
        (path / "blocks").rename(path / "evil")
        (path / "good").rename(path / "blocks")
    assert read == wanted


def test_a_file_that_is_written_to_while_it_is_loaded_is_refused(path: Path) -> None:
    bundle = bundles.load(path)
    file = bundle.block("vision").file
    with pytest.raises(BundleError, match="written to while it was read"), bundle.opened(file):
        write_in_place(path / file.path)


def test_a_file_that_changes_while_it_is_hashed_is_refused(path: Path) -> None:
    target = path / "blocks/vision.onnx"
    with pytest.raises(BundleError, match="written to while it was read"):
        bundles.load(path, progress=lambda _: write_in_place(target))


def test_no_descriptor_is_left_open(path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    bundles.load(path)
    before = count()
    for _ in range(3):
        bundles.load(path)
    (path / "tokens.npy").unlink()
    for _ in range(3):
        with pytest.raises(BundleError):
            bundles.load(path)
    assert count() == before


def test_another_manifest_than_the_one_asked_for_is_refused(path: Path) -> None:
    asked = bundles.load(path).manifest_sha256
    assert bundles.load(path, manifest_sha256=asked).manifest_sha256 == asked
    edit(path, lambda m: m.update(rate_hz=29.0))
    with pytest.raises(BundleError, match="it was replaced"):
        bundles.load(path, manifest_sha256=asked)
