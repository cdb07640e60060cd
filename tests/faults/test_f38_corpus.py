"""Row 38: a corpus of bad bundles, each by name, at the daemon's door. Every one is refused with a reason
that names file or field, and the policy that runs goes on running."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import stat
import time
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


def graph(name: str, change: Callable[[Any], object]) -> Damage:
    """change: of an onnx.GraphProto, or of its ModelProto where it is a function named `model_...`."""

    def damage(path: Path) -> None:
        import onnx

        file = path / name
        model = onnx.load(file)
        change(model if getattr(change, "__name__", "").startswith("model_") else model.graph)
        file.write_bytes(model.SerializeToString())
        rehash(path, name)

    return damage


def nan_weights(graph: Any) -> None:
    from onnx import numpy_helper

    for weights in graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.ndim == 2:
            weights.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), weights.name))
            break


def transposed_weights(graph: Any) -> None:
    for weights in graph.initializer:
        if len(weights.dims) == 2 and weights.dims[0] != weights.dims[1]:
            weights.dims[:] = weights.dims[::-1]
            break


def kept_in(location: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        weights = max(graph.initializer, key=lambda w: len(w.raw_data))
        weights.ClearField("raw_data")
        weights.data_location = 1
        weights.external_data.add(key="location", value=location)

    return change


def four_terabytes(graph: Any) -> None:
    """A constant of a trillion values, which a session may want to compute before the first run."""
    from onnx import helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "huge"))
    graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["ones"]))
    graph.node.insert(1, helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0))
    last = graph.node[-1]
    output = last.output[0]
    last.output[0] = "before"
    graph.node.append(helper.make_node("Add", ["before", "sum"], [output]))


def loop_of_nodes(graph: Any) -> None:
    graph.node[0].input[0] = graph.node[0].output[0]


def model_of_the_future(model: Any) -> None:
    model.opset_import[0].version = 999


def model_of_another_ir(model: Any) -> None:
    model.ir_version = 99


def dimension(where: str, index: int, axis: int, value: int | str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        dim = getattr(graph, where)[index].type.tensor_type.shape.dim[axis]
        dim.Clear()
        setattr(dim, "dim_value" if isinstance(value, int) else "dim_param", value)

    return change


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: endless
    except PermissionError:
        pytest.skip("only root makes device files")


def linked_directory(path: Path) -> None:
    (path / "blocks").rename(path.parent / "elsewhere")
    (path / "blocks").symlink_to(path.parent / "elsewhere")


def sparse(path: Path) -> None:
    """Half a gigabyte that is stated and there, though it takes no room on the disk."""
    os.truncate(path / "blocks/prefill.onnx", 1 << 29)
    block("prefill", lambda b: b["file"].update(bytes=1 << 29))(path)


def tokens_at(path: str) -> Damage:
    return manifest(lambda m: m["token_table"]["file"].update(path=path))


def block(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    return manifest(lambda m: change(next(b for b in m["blocks"] if b["name"] == name)))


def replaced_by(make: Callable[[Path], object], name: str) -> Damage:
    def damage(path: Path) -> None:
        (path / name).unlink()
        make(path / name)

    return damage


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


CPU_S, GROWTH_KIB = 10, 200 << 10  # of a refusal, generously
SAID: dict[str, str] = {}  # message -> bundle: no two say the same

# name -> (damage, what the refusal must say)
CORPUS: dict[str, tuple[Damage, str]] = {
    # the manifest as a file
    "no manifest": (lambda p: (p / "manifest.json").unlink(), r"manifest\.json: No such file"),
    "empty manifest": (lambda p: (p / "manifest.json").write_text(""), r"manifest\.json: empty"),
    "manifest cut": (edited("manifest.json", lambda d: d[: len(d) // 2], honest=False), r"manifest\.json: .*truncated"),
    "manifest with a tail": (edited("manifest.json", lambda d: d + b"{}", honest=False), "trailing characters"),
    "manifest of 16 GiB": (lambda p: os.truncate(p / "manifest.json", 1 << 34), "larger than 4194304 bytes"),
    "manifest is a pipe": (replaced_by(os.mkfifo, "manifest.json"), r"manifest\.json: not a regular file"),
    "manifest is a link": (replaced_by(lambda p: p.symlink_to("/etc/passwd"), "manifest.json"),
                           r"manifest\.json: symbolic links"),
    "manifest not in UTF-8": (edited("manifest.json", lambda d: d.replace(b'"wave', b'"wav\xff'), honest=False),
                              r"manifest\.json: .*utf-8"),
    "manifest with half a surrogate": (text('"wave', r'"\ud800wave'), "hex escape"),
    # the manifest as JSON
    "200000 arrays deep": (lambda p: (p / "manifest.json").write_text("[" * 200_000), "Expected `object`, got `arr"),
    "200000 objects deep": (text("{", '{"x": ' + '{"x": ' * 200_000), "recursion"),
    "a megabyte of name": (block("vision", lambda b: b.update(name="x" * (1 << 20))), r"length <= 128.*\.name"),
    "a megabyte of path": (block("vision", lambda b: b["file"].update(path="x" * (1 << 20))), "length <= 255"),
    "a million arrays": (manifest(lambda m: m.update(joints=[[]] * 1_000_000)), r"got `array` - at `\$\.joints\[0\]"),
    "a field twice": (text('"rate_hz":', '"rate_hz": 31.0, "rate_hz":'), "'rate_hz' is there twice"),
    "format of the future": (manifest(lambda m: m.update(format_version=2)), "format version 2"),
    "format in words": (manifest(lambda m: m.update(format_version="1")), r"got `str` - at `\$\.format_version"),
    "no format": (manifest(lambda m: m.pop("format_version")), "missing required field `format_version`"),
    "unknown field": (manifest(lambda m: m.update(pickle="x")), "unknown field `pickle`"),
    "unknown field inside": (manifest(lambda m: m["flow"].update(order=2)), "unknown field `order`"),
    "other policy": (manifest(lambda m: m.update(policy_type="pi0")), "policy_type"),
    # hashes and sizes
    "bad hash": (edited("blocks/expert.onnx", flip, honest=False), r"expert\.onnx: sha256 differs"),
    "hash is no hash": (block("vision", lambda b: b["file"].update(sha256="zz")), "sha256"),
    "block cut": (edited("blocks/vision.onnx", lambda d: d[:-7], honest=False), r"vision\.onnx: \d+ bytes, the man"),
    "block grown": (edited("blocks/prefill.onnx", lambda d: d + d, honest=False), r"prefill\.onnx: \d+ bytes, the m"),
    "block of no bytes": (edited("blocks/vision.onnx", lambda d: b""), r"vision\.onnx: .*not an ONNX graph: empty"),
    "less than it is": (manifest(lambda m: m["token_table"]["file"].update(bytes=7)), r"tokens\.npy: \d+ bytes, .* 7$"),
    "a terabyte": (block("vision", lambda b: b["file"].update(bytes=1 << 40)), r"<= 4294967296.*bytes"),
    "negative size": (block("vision", lambda b: b["file"].update(bytes=-1)), r">= 0.*bytes"),
    "half a sparse gigabyte": (sparse, r"prefill\.onnx: sha256 differs"),
    # paths
    "block missing": (lambda p: (p / "blocks/prefill.onnx").unlink(), r"prefill\.onnx: No such file.*incomplete"),
    "block is a directory": (replaced_by(lambda p: p.mkdir(), "blocks/vision.onnx"), r"vision\.onnx: not a regular"),
    "block is a pipe": (replaced_by(os.mkfifo, "blocks/prefill.onnx"), r"prefill\.onnx: not a regular file"),
    "block is a device": (replaced_by(device, "blocks/context.onnx"), r"context\.onnx: not a regular file"),
    "block is a socket": (replaced_by(lambda p: os.mknod(p, stat.S_IFSOCK | 0o600), "blocks/expert.onnx"),
                          r"expert\.onnx: not a regular file"),
    "block is a link": (replaced_by(lambda p: p.symlink_to("vision.onnx"), "blocks/prefill.onnx"),
                        r"prefill\.onnx: symbolic links"),
    "blocks are a link": (linked_directory, r"blocks: symbolic links"),
    "path leads out": (tokens_at("../../tokens.npy"), r"'\.\./\.\./tokens\.npy' leads out"),
    "path leads out and in": (tokens_at("blocks/../tokens.npy"), "'blocks/../tokens.npy' leads out"),
    "absolute path": (tokens_at("/etc/passwd"), "'/etc/passwd' leads out"),
    "path of another system": (tokens_at("..\\tokens.npy"), r"'\.\.\\\\tokens\.npy' leads out"),
    "path with a zero": (tokens_at("tokens.npy\0"), r"npy\\x00' leads out"),
    "path in other letters": (tokens_at("./tokens.npy"), r"'\./tokens\.npy' leads out"),
    "path through a file": (tokens_at("manifest.json/tokens.npy"), "Not a directory"),
    "one file for two": (manifest(lambda m: m["blocks"][0].update(file=m["blocks"][1]["file"])), "same file"),
    # blocks
    "blocks not listed": (manifest(lambda m: m["blocks"].pop()), r"blocks \[.{30,40}\], expected one each"),
    "a block twice": (manifest(lambda m: m["blocks"].append(m["blocks"][0])), r"blocks \[.{45,}\], expected one each"),
    "other backend": (block("vision", lambda b: b.update(backend="torch")), "backend"),
    "no ONNX": (edited("blocks/context.onnx", lambda d: b"\x08\x08" * 99), r"context\.onnx: ONNX Runtime cannot load"),
    "block cut, hash made good": (edited("blocks/vision.onnx", lambda d: d[: len(d) // 2]), "ends within a field"),
    "unknown operator": (graph("blocks/expert.onnx", lambda g: setattr(g.node[0], "op_type", "Backdoor")), "Backdoor"),
    "operator of a stranger": (graph("blocks/expert.onnx", lambda g: setattr(g.node[0], "domain", "evil")), "evil"),
    "operators of the future": (graph("blocks/expert.onnx", model_of_the_future), "999"),
    "format of a graph of the future": (graph("blocks/expert.onnx", model_of_another_ir), "IR version"),
    "nodes in a circle": (graph("blocks/context.onnx", loop_of_nodes), r"context\.onnx: ONNX Runtime cannot load"),
    "tensor outside": (graph("blocks/vision.onnx", kept_in("../../../etc/passwd")), r"vision\.onnx: keeps a tensor in"),
    "tensor in another file": (graph("blocks/prefill.onnx", kept_in("vision.onnx")), r"prefill\.onnx: keeps a tensor"),
    "weights transposed": (graph("blocks/vision.onnx", transposed_weights), r"vision\.onnx: ONNX Runtime cannot load"),
    "a constant of 4 TB": (graph("blocks/expert.onnx", four_terabytes), "block expert: failed: .*allocate"),
    "NaN weights": (graph("blocks/expert.onnx", nan_weights), "golden output chunk is not finite here"),
    "other weights": (array("golden/output_chunk.npy", lambda a: a + np.float32(0.05)), "golden output chunk differs"),
    # shapes
    "wrong shape": (block("vision", lambda b: b["inputs"][0].update(shape=[1, 3, 8, 8])), "vision: inputs of the g"),
    "wrong dtype": (block("vision", lambda b: b["inputs"][0].update(dtype="int64")), "dtype"),
    "a dimension of 2**62": (block("expert", lambda b: b["inputs"][0].update(shape=[1 << 62, 1 << 62])),
                             "expert: inputs of the graph.*4611686018427387904"),
    "a dimension of nothing": (block("context", lambda b: b["inputs"][0].update(shape=[0])), r">= 1.*shape"),
    "a dimension less": (block("context", lambda b: b["outputs"][0]["shape"].pop()), "context: outputs of the graph"),
    "nine dimensions": (block("context", lambda b: b["inputs"][0].update(shape=[1] * 9)), r"length <= 8.*shape"),
    "an unknown dimension of a fixed one": (block("vision", lambda b: b["inputs"][0]["shape"].__setitem__(0, "n")),
                                            r"vision: inputs of the graph.*\[None"),
    "a fixed dimension of an unknown one": (graph("blocks/prefill.onnx", dimension("output", 0, 0, 7)),
                                            r"prefill.*7"),
    "a dimension with a long name": (block("expert", lambda b: b["inputs"][0]["shape"].__setitem__(0, "n" * 9999)),
                                     r"length <= 64.*shape"),
    "other inputs": (graph("blocks/context.onnx", lambda g: g.input.pop()), "context"),
    "another output": (block("prefill", lambda b: b["outputs"][0].update(name="keys")), "prefill: outputs of the"),
    # robot and statistics
    "five joints": (manifest(lambda m: m["joints"].pop()), "state statistics are not for 5 joints"),
    "no joints": (manifest(lambda m: m.update(joints=[])), r">= 1.*joints"),
    "a joint twice": (manifest(lambda m: m["joints"][0].update(name="gripper")), "joints repeat a name"),
    "a camera twice": (manifest(lambda m: m["cameras"][0].update(m["cameras"][1])), "cameras repeat a name"),
    "joints in another order": (manifest(lambda m: m["joints"].insert(0, m["joints"].pop(1))), "joints are"),
    "a joint of another name": (manifest(lambda m: m["joints"][0].update(name="waist")), "joints are .*'waist'"),
    "a gripper that is none": (manifest(lambda m: m["joints"][5].update(gripper=False)), "gripper on one side only"),
    "nine joints": (manifest(lambda m: m["joints"].extend(
        {"name": f"j{i}", "gripper": False} for i in range(3))), r"length <= 8.*joints"),
    "units of a stranger": (manifest(lambda m: m.update(units="radians")), "units"),
    "no statistics": (manifest(lambda m: m.pop("state")), "missing required field `state`"),
    "no deviation": (manifest(lambda m: m["state"].pop("std")), r"missing required field `std` - at `\$\.state"),
    "statistics for 5": (manifest(lambda m: m["action"]["mean"].pop()), "action statistics are not for 6"),
    "a deviation of 0": (manifest(lambda m: m["state"]["std"].__setitem__(2, 0.0)), "state statistics.*deviation of 0"),
    "a negative deviation": (manifest(lambda m: m["action"]["std"].__setitem__(0, -1.0)), "negative deviation"),
    "statistics that overflow": (text('"mean": [', '"mean": [1e999, '), "out of range"),
    "statistics that are no number": (text('"mean": [', '"mean": [NaN, '), "invalid character"),
    "rate of 0": (manifest(lambda m: m.update(rate_hz=0)), "rate_hz"),
    "rate above the loop's": (manifest(lambda m: m.update(rate_hz=900.0)), "rate of 900 Hz"),
    "cameras that are not there": (manifest(lambda m: m["cameras"][0].update(name="sky")), "sky"),
    # sizes that the manifest only states
    "chunk of 4000 actions": (manifest(lambda m: m.update(chunk_size=4000)), "4000"),
    "a picture of 4096 pixels": (manifest(lambda m: m.update(image_side=4096)), "vision takes .*4096"),
    "a million layers": (manifest(lambda m: m["prefix"].update(layers=1_000_000)), "1000000"),
    "a million of hidden size": (manifest(lambda m: m["prefix"].update(hidden=1_000_000)), "token table is"),
    "a million tokens of a camera": (manifest(lambda m: m["prefix"].update(image_tokens=10**6)), "exceeds prefix.max"),
    "an embedding of 65536": (manifest(lambda m: m["flow"].update(embedding=65536)), "65536"),
    "a billion steps": (manifest(lambda m: m["flow"].update(steps=10**9)), r"<= 1000.*steps"),
    # tasks and tokens
    "no tasks": (manifest(lambda m: m.update(tasks=[])), r">= 1.*tasks"),
    "task with foreign tokens": (manifest(lambda m: m["tasks"][0].update(token_ids=[400])), "tokens that token_table"),
    "task of 50 tokens": (manifest(lambda m: m["tasks"][0].update(token_ids=[5] * 50)), "more than 48 tokens"),
    "token table a row short": (array("tokens.npy", lambda a: a[:-1]), r"token table is uint16 \[19, 24\]"),
    "token table of doubles": (array("tokens.npy", lambda a: a.astype(np.float64)), "token table is float64"),
    "token table with another count": (manifest(lambda m: m["token_table"].update(rows=3)), "3 rows"),
    "token table that is not finite": (array("tokens.npy", lambda a: np.full_like(a, 0x7FC0)), "table is not finite"),
    "huge header of an array": (edited("tokens.npy", lambda d: d[:8] + b"\xff\xff" + d[10:]), r"tokens\.npy: not a nu"),
    "array of a trillion": (edited("tokens.npy", lambda d: d.replace(b"'shape': (", b"'shape': (999999999999,", 1)),
                            r"tokens\.npy: not a numeric"),
    "pickled array": (edited("tokens.npy", lambda d: d.replace(b"'<u2'", b"'|O' ")), r"Object arrays cannot be loaded"),
    # golden values
    "no golden": (manifest(lambda m: m.update(golden=None)), "has no golden inputs and outputs"),
    "golden file missing": (lambda p: (p / "golden/input_state.npy").unlink(), r"input_state\.npy: No such file"),
    "golden without a camera": (manifest(lambda m: m["golden"]["inputs"].pop("image1")), "golden arrays are not those"),
    "golden for no task": (manifest(lambda m: m["golden"].update(task=9)), "golden.task names none"),
    "golden that allows all": (manifest(lambda m: m["golden"].update(tolerance=9.0)), r"<= 1\.0.*tolerance"),
    "golden of another shape": (array("golden/output_chunk.npy", lambda a: a[:, :-1]), "golden output chunk is"),
    "golden of another dtype": (array("golden/input_state.npy", lambda a: a.astype(np.float64)), "golden input state"),
    "golden picture without colours": (array("golden/input_image0.npy", lambda a: a[..., 0]),
                                       r"do not run: camera frame is uint8 \[96, 128\]"),
    "golden that is not finite": (array("golden/output_chunk.npy", lambda a: a * np.float32(np.nan)),
                                  "golden output chunk is not finite in the bundle"),
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


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", CORPUS)
def test_f38_refused_by_name_and_the_policy_that_runs_stays(
    daemon: Daemon, bundle: Path, tmp_path: Path, name: str, survival: Survival
) -> None:
    damage, words = CORPUS[name]
    bad = Path(shutil.copytree(bundle, tmp_path / "bad.vlad"))
    damage(bad)
    runs = daemon.inference.loaded
    peak_kib, began_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((BundleError, Refused), match=words) as refusal:
        daemon.load(str(bad))
    assert time.process_time() - began_s < CPU_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < GROWTH_KIB
    assert daemon.inference.loaded is runs
    message = str(refusal.value).replace(str(bad), "")
    assert len(message) < 2000
    assert SAID.setdefault(message, name) == name
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
