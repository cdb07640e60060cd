"""Row 38: a corpus of bad bundles, each by name, at the daemon's door. Every one is refused with a reason
that names file or field, and the policy that runs goes on running."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.daemons import config_without_devices
from tests.survival import Survival
from tests.tiny_smolvla import build
from vlad import bundle as bundles
from vlad import cli
from vlad.config import Config
from vlad.control import Control
from vlad.daemon import Daemon
from vlad.errors import BundleError, Refused

Manifest = dict[str, Any]
Damage = Callable[[Path], object]


def manifest(change: Callable[[Manifest], object]) -> Damage:
    def damage(path: Path) -> None:
        table = json.loads((path / "manifest.json").read_text())
        change(table)
        (path / "manifest.json").write_text(json.dumps(table))

    return damage


def text(old: str, new: str) -> Damage:
    def damage(path: Path) -> None:
        whole = (path / "manifest.json").read_text()
        assert old in whole
        (path / "manifest.json").write_text(whole.replace(old, new, 1))

    return damage


def rehash(path: Path, name: str) -> None:
    """Makes size and hash of the manifest agree with a file that was changed: damage from inside."""
    data = (path / name).read_bytes()

    def entries(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if node.get("path") == name:
                yield node
            for value in node.values():
                yield from entries(value)
        elif isinstance(node, list):
            for value in node:
                yield from entries(value)

    def change(table: Manifest) -> None:
        for entry in entries(table):
            entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    manifest(change)(path)


def edited(name: str, change: Callable[[bytes], bytes], *, honest: bool = True) -> Damage:
    def damage(path: Path) -> None:
        file = path / name
        file.write_bytes(change(file.read_bytes()))
        if honest:
            rehash(path, name)

    return damage


def array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(path: Path) -> None:
        values = change(np.load(path / name))
        np.save(path / name, values)
        rehash(path, name)

    return damage


def nan_weights(path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    file = path / "blocks/expert.onnx"
    graph = onnx.load(file)
    for weights in graph.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.ndim == 2:
            weights.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), weights.name))
            break
    onnx.save(graph, file)
    rehash(path, "blocks/expert.onnx")


def replaced_by(make: Callable[[Path], object], name: str) -> Damage:
    def damage(path: Path) -> None:
        (path / name).unlink()
        make(path / name)

    return damage


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# name -> (damage, what the refusal must say)
CORPUS: dict[str, tuple[Damage, str]] = {
    "no manifest": (lambda p: (p / "manifest.json").unlink(), r"manifest\.json"),
    "empty manifest": (lambda p: (p / "manifest.json").write_text(""), r"manifest\.json"),
    "manifest cut": (edited("manifest.json", lambda d: d[: len(d) // 2], honest=False), r"manifest\.json"),
    "manifest of 16 GiB": (lambda p: os.truncate(p / "manifest.json", 1 << 34), "larger than"),
    "manifest is a pipe": (replaced_by(os.mkfifo, "manifest.json"), r"manifest\.json"),
    "manifest is a link": (replaced_by(lambda p: p.symlink_to("/etc/passwd"), "manifest.json"), r"manifest\.json"),
    "manifest 200000 deep": (lambda p: (p / "manifest.json").write_text("[" * 200_000), r"manifest\.json"),
    "format of the future": (manifest(lambda m: m.update(format_version=2)), "format version 2"),
    "unknown field": (manifest(lambda m: m.update(pickle="x")), "pickle"),
    "other policy": (manifest(lambda m: m.update(policy_type="pi0")), "policy_type"),
    "bad hash": (edited("blocks/expert.onnx", flip, honest=False), r"expert\.onnx: sha256 differs"),
    "hash is no hash": (manifest(lambda m: m["blocks"][0]["file"].update(sha256="zz")), "sha256"),
    "block cut": (edited("blocks/vision.onnx", lambda d: d[:-7], honest=False), r"vision\.onnx.*the manifest says"),
    "block cut, hash made good": (edited("blocks/vision.onnx", lambda d: d[: len(d) // 2]), "vision"),
    "block missing": (lambda p: (p / "blocks/prefill.onnx").unlink(), "incomplete"),
    "block is a directory": (replaced_by(lambda p: p.mkdir(), "blocks/prefill.onnx"), "not a regular file"),
    "block is a pipe": (replaced_by(os.mkfifo, "blocks/prefill.onnx"), "not a regular file"),
    "block is a link": (replaced_by(lambda p: p.symlink_to("vision.onnx"), "blocks/prefill.onnx"), "symbolic links"),
    "blocks not listed": (manifest(lambda m: m["blocks"].pop()), "expected one each"),
    "no ONNX": (edited("blocks/context.onnx", lambda d: b"\x08" * len(d)), "ONNX Runtime cannot load it"),
    "huge header of an array": (edited("tokens.npy", lambda d: d[:8] + b"\xff\xff" + d[10:]), r"\.npy"),
    "pickled array": (edited("tokens.npy", lambda d: d.replace(b"'<f4'", b"'|O' ") if b"'<f4'" in d
                             else d.replace(b"'<u2'", b"'|O' ")), r"\.npy|token_table"),
    "path leads out": (text('"path": "tokens.npy"', '"path": "../../tokens.npy"'), "leads out"),
    "absolute path": (text('"path": "tokens.npy"', '"path": "/etc/passwd"'), "leads out"),
    "wrong shape": (manifest(lambda m: m["blocks"][0]["inputs"][0].update(shape=[1, 3, 8, 8])), "inputs of the graph"),
    "wrong dtype": (manifest(lambda m: m["blocks"][0]["inputs"][0].update(dtype="int64")), "inputs of the graph|dtype"),
    "five joints": (manifest(lambda m: m["joints"].pop()), "statistics are not for 5 joints"),
    "joints in another order": (manifest(lambda m: m["joints"].insert(0, m["joints"].pop(1))), "joints are"),
    "a joint of another name": (manifest(lambda m: m["joints"][0].update(name="waist")), "joints are"),
    "nine joints": (manifest(lambda m: m["joints"].extend(
        {"name": f"j{i}", "gripper": False} for i in range(3))), "joints"),
    "no statistics": (manifest(lambda m: m.pop("state")), "state"),
    "statistics for 5": (manifest(lambda m: m["action"]["mean"].pop()), "action statistics are not for"),
    "a deviation of 0": (manifest(lambda m: m["state"]["std"].__setitem__(2, 0.0)), "state statistics.*deviation of 0"),
    "a negative deviation": (manifest(lambda m: m["action"]["std"].__setitem__(0, -1.0)), "negative deviation"),
    "statistics that overflow": (text('"mean": [', '"mean": [1e999, '), r"manifest\.json"),
    "NaN weights": (nan_weights, "golden output"),
    "other weights": (array("golden/output_chunk.npy", lambda a: a + np.float32(0.05)), "golden output chunk differs"),
    "golden of another shape": (array("golden/output_chunk.npy", lambda a: a[:, :-1]), "golden"),
    "no golden": (manifest(lambda m: m.update(golden=None)), "golden"),
    "rate of 0": (manifest(lambda m: m.update(rate_hz=0)), "rate_hz"),
    "rate above the loop's": (manifest(lambda m: m.update(rate_hz=900.0)), "rate of 900 Hz"),
    "chunk of 4000 actions": (manifest(lambda m: m.update(chunk_size=4000)), "4000|golden|graph"),
    "task with foreign tokens": (manifest(lambda m: m["tasks"][0].update(token_ids=[400])), "token_table"),
    "no tasks": (manifest(lambda m: m.update(tasks=[])), "tasks"),
    "cameras that are not there": (manifest(lambda m: m["cameras"][0].update(name="sky")), "sky"),
    "a terabyte": (manifest(lambda m: m["blocks"][0]["file"].update(bytes=1 << 40)), "bytes"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")


@pytest.fixture(scope="module")
def config(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    cameras = [c.name for c in bundles.load(bundle).manifest.cameras]
    return config_without_devices(tmp_path_factory.mktemp("config"), cameras)


@pytest.fixture(scope="module")
def daemon(config: Config, bundle: Path) -> Iterator[Daemon]:
    """Its threads need not run: `load` is all that is asked of it."""
    daemon = Daemon(config)
    daemon.load(str(bundle))
    yield daemon
    assert daemon.inference.loaded is not None
    daemon.inference.loaded.policy.close()


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 30


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", CORPUS)
def test_f38_refused_by_name_and_the_policy_that_runs_stays(
    daemon: Daemon, bundle: Path, tmp_path: Path, name: str, survival: Survival
) -> None:
    damage, words = CORPUS[name]
    bad = Path(shutil.copytree(bundle, tmp_path / "bad.vlad"))
    damage(bad)
    runs = daemon.inference.loaded
    with pytest.raises((BundleError, Refused), match=words):
        daemon.load(str(bad))
    assert daemon.inference.loaded is runs
    survival(38, note=f"{len(CORPUS)} bad bundles, each refused by name; the policy that runs stays")


@pytest.mark.fault(38)
def test_f38_the_policy_that_runs_still_computes(daemon: Daemon) -> None:
    loaded = daemon.inference.loaded
    assert loaded is not None
    tokens = [loaded.policy.encode_image(i, np.zeros((96, 96, 3), np.uint8))
              for i in range(len(loaded.cameras))]
    chunk = loaded.policy.sample(loaded.policy.prefill(tokens, 0, np.zeros(6)),
                                 generator=np.random.default_rng(0))
    assert np.isfinite(chunk).all()


@pytest.mark.fault(38)
def test_f38_vladctl_says_so_with_1(
    daemon: Daemon, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Path(shutil.copytree(bundle, tmp_path / "bad.vlad"))
    CORPUS["bad hash"][0](bad)
    control = Control(daemon.config.control, daemon, daemon.servo, path=tmp_path / "socket")
    control.start()
    try:
        status = cli.main(["--socket", str(tmp_path / "socket"), "load", str(bad)])
    finally:
        control.stop()
    assert status == 1
    assert "sha256 differs" in capsys.readouterr().err
