"""Blocks in LiteRT: as the manifest says, on the delegate or refused, and what a delegate may do to them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests import tiny_act, tiny_litert
from tests.daemons import config_without_devices, wait_for
from vlad import bundle as bundles
from vlad import litert
from vlad.backend import Placed, Target, Threads, load_block
from vlad.block_process import Setting
from vlad.block_workers import BlockWorker, WorkerChange
from vlad.build.bundle_directory import file_entry
from vlad.bundle import Bundle
from vlad.check import main as check
from vlad.errors import BlockFailed, BundleError, ConfigError
from vlad.litert import BORDER, ON_CPU, LiteRtSession
from vlad.manifest import Value, parse_manifest

MS = 1_000_000


@pytest.fixture(scope="module")
def library() -> str:
    return str(tiny_litert.delegate())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A SmolVLA whose vision is a `.tflite`."""
    return tiny_litert.tiny8(tmp_path_factory.mktemp("litert"))


def image() -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(1).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)}


def by_provider(placement: tuple[Placed, ...]) -> dict[str, Placed]:
    return {p.provider: p for p in placement}


# --- the file ---------------------------------------------------------------------------------


def test_outputs_are_the_callers_and_read_only(bundle: Bundle) -> None:
    session = load_block(bundle, "vision", Threads())
    first = session.run(image())["tokens"]
    kept = first.copy()
    session.run({"image": np.zeros((1, 3, 32, 32), np.float32)})
    np.testing.assert_array_equal(first, kept)
    assert not first.flags.writeable
    assert session.placement == (Placed(provider=ON_CPU, operators={"*": 1}, partitions=1),)
    session.close()


@pytest.mark.parametrize(("change", "text"), [
    ({"inputs": [Value(name="picture", shape=[1, 3, 32, 32])]}, r"inputs of the file are {'image'.*'picture'"),
    ({"inputs": [Value(name="image", shape=[1, 3, 32, 31])]}, "inputs of the file"),
    ({"outputs": [Value(name="tokens", shape=[5, 24])]}, "outputs of the file"),
])  # fmt: skip
def test_a_file_with_other_inputs_or_outputs_is_refused(bundle: Bundle, change: dict, text: str) -> None:
    block = msgspec.structs.replace(bundle.block("vision"), **change)
    with pytest.raises(BundleError, match=text):
        LiteRtSession(bundle, block, Threads())


@pytest.mark.parametrize(("content", "text"), [
    (b"", "not a LiteRT model"), (b"TFL3" * 8, "not a LiteRT model"), (b"\xff\xff\xff\xffTFL3", "not a LiteRT model"),
    (b"\x08\0\0\0TFL3" + b"\xff" * 64, "keeps tensors in another file"),
    (b"\x08\0\0\0TFL3\0\0\0\0" + b"\xff" * 60, "LiteRT cannot load it"),
])  # fmt: skip
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    root, block, _ = tiny_litert.products(tmp_path)
    (tmp_path / "vision.tflite").write_bytes(content)
    block = msgspec.structs.replace(block, file=file_entry(tmp_path, "vision.tflite"))
    with pytest.raises(BundleError, match=text):
        LiteRtSession(root, block, Threads())


def test_tensors_in_another_file_are_refused(tmp_path: Path) -> None:
    """A LiteRT model may keep them elsewhere, under any path."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    root, block, _ = tiny_litert.products(tmp_path)
    path = tmp_path / "vision.tflite"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    group = schema.ExternalBufferGroupT()
    group.name = "/etc/passwd"
    model.externalBufferGroups = [group]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    block = msgspec.structs.replace(block, file=file_entry(tmp_path, "vision.tflite"))
    with pytest.raises(BundleError, match="keeps tensors in another file"):
        LiteRtSession(root, block, Threads())


def test_without_litert_the_error_says_what_to_install(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "PACKAGES", ("no_such_litert", "nor_this_one"))
    with pytest.raises(ConfigError, match=r"block vision: .*pip install 'vlad\[litert\]'"):
        load_block(bundle, "vision", Threads())


def test_inputs_that_do_not_fit_are_an_error_of_the_block(bundle: Bundle) -> None:
    session = load_block(bundle, "vision", Threads())
    for given in ({"image": np.zeros((1, 3, 31, 32), np.float32)}, {}, {"image": np.zeros((1, 3, 32, 32), np.int8)}):
        with pytest.raises(BlockFailed, match="block vision: failed") as caught:
            session.run(given)
        assert caught.value.kind == "error"


def test_each_backend_has_its_own_way_to_an_accelerator(bundle: Bundle, library: str) -> None:
    with pytest.raises(ConfigError, match=r"NeutronExecutionProvider is ONNX Runtime's.*block\.vision\.delegate"):
        load_block(bundle, "vision", Threads(), Target(provider="NeutronExecutionProvider"))
    with pytest.raises(ConfigError, match="expert: is an ONNX graph, and a delegate is for LiteRT"):
        load_block(bundle, "expert", Threads(), Target(delegate=library))


def test_pool_threads_are_pinned_and_end_with_the_session(bundle: Bundle) -> None:
    core = max(os.sched_getaffinity(0))
    before, ours = set(os.listdir("/proc/self/task")), os.sched_getaffinity(0)
    session = load_block(bundle, "vision", Threads(count=2, affinity=(core,)))
    session.run(image())
    added = [os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task") if t not in before]
    assert added == [{core}]
    assert os.sched_getaffinity(0) == ours, "the caller is where it was"
    session.close()
    assert set(os.listdir("/proc/self/task")) == before
    session = load_block(bundle, "vision", Threads(count=1))
    session.run(image())
    assert set(os.listdir("/proc/self/task")) == before, "one thread means no pool"


# --- the delegate -----------------------------------------------------------------------------


def test_a_block_that_is_wholly_on_the_delegate_is_good(tmp_path: Path, library: str) -> None:
    root, block, given = tiny_litert.products(tmp_path)
    expected = LiteRtSession(root, block, Threads()).run(given)["tokens"]
    session = LiteRtSession(root, block, Threads(), Target(delegate=library))
    found = by_provider(session.placement)
    assert found[library] == Placed(provider=library, operators={"FULLY_CONNECTED": 3}, partitions=1)
    assert found[BORDER].operators == {"QUANTIZE": 1, "DEQUANTIZE": 1}
    assert set(found) == {library, BORDER}
    step = 8 / 255  # of the result; a delegate rounds once, where the CPU's kernels round twice
    np.testing.assert_allclose(session.run(given)["tokens"], expected, atol=1.01 * step)


def test_a_part_on_the_cpu_is_an_error_that_names_it_unless_it_is_allowed(tmp_path: Path, library: str) -> None:
    root, block, given = tiny_litert.products(tmp_path, softmax=True)
    with pytest.raises(BundleError, match=r"CPU: 3 nodes in 1 partitions.*SOFTMAX.*allow_cpu_fallback = true"):
        LiteRtSession(root, block, Threads(), Target(delegate=library))
    session = LiteRtSession(root, block, Threads(), Target(delegate=library, allow_cpu_fallback=True))
    found = by_provider(session.placement)
    assert found[library] == Placed(provider=library, operators={"FULLY_CONNECTED": 3}, partitions=2)
    assert found[ON_CPU].operators == {"DEQUANTIZE": 1, "SOFTMAX": 1, "QUANTIZE": 1}
    assert np.isfinite(session.run(given)["tokens"]).all()


@pytest.mark.fault(38)
def test_a_bundle_cannot_excuse_itself_from_its_accelerator(bundle: Bundle, library: str) -> None:
    """What may stay on the CPU without `allow_cpu_fallback` is read off the file; the manifest only narrows it."""
    block = bundle.block("vision")
    assert block.tflite is not None
    record = msgspec.structs.replace(block.tflite, cpu_operators=dict.fromkeys(block.tflite.operators, 99))
    block = msgspec.structs.replace(block, tflite=record)
    with pytest.raises(BundleError, match=r"CPU: \d+ nodes .*12 FULLY_CONNECTED"):
        LiteRtSession(bundle, block, Threads(), Target(delegate=library, delegate_options={"nodes": "1"}))
    blocks = [block if b.name == "vision" else b for b in bundle.manifest.blocks]
    manifest = msgspec.structs.replace(bundle.manifest, blocks=blocks)
    with pytest.raises(BundleError, match=r"block vision: cpu_operators has .*'FULLY_CONNECTED': 86.* operators has"):
        parse_manifest(msgspec.json.encode(manifest))


@pytest.mark.parametrize(("nodes", "left"), [("0", 3), ("1", 2), ("2", 1)])
def test_what_the_delegate_leaves_is_on_the_cpu(tmp_path: Path, library: str, nodes: str, left: int) -> None:
    root, block, _ = tiny_litert.products(tmp_path)
    target = Target(delegate=library, delegate_options={"nodes": nodes})
    with pytest.raises(BundleError, match=rf"was to run on {library}: CPU: {left} nodes .*{left} FULLY_CONNECTED"):
        LiteRtSession(root, block, Threads(), target)
    session = LiteRtSession(root, block, Threads(), msgspec.structs.replace(target, allow_cpu_fallback=True))
    found = by_provider(session.placement)
    assert found[ON_CPU].operators == {"FULLY_CONNECTED": left}
    assert (library in found) == (nodes != "0")


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"fault": "create"}, ConfigError, "does not start with options.*no accelerator was found"),
    ({"speed": "7"}, ConfigError, "unknown option"),
    ({"fault": "prepare"}, BundleError, "firmware does not answer"),
])  # fmt: skip
def test_a_delegate_that_does_not_start_says_why(
    tmp_path: Path, library: str, options: dict[str, str], error: type[Exception], text: str
) -> None:
    root, block, _ = tiny_litert.products(tmp_path)
    with pytest.raises(error, match=text):
        LiteRtSession(root, block, Threads(), Target(delegate=library, delegate_options=options))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # LiteRT's own __del__
@pytest.mark.parametrize(("path", "text"), [
    ("/nowhere/libneutron_delegate.so", "does not exist"), ("/usr/lib", "/usr/lib is no file"),
    (__file__, "does not start"),
])  # fmt: skip
def test_a_delegate_that_is_none_is_an_error(tmp_path: Path, path: str, text: str) -> None:
    root, block, _ = tiny_litert.products(tmp_path)
    with pytest.raises(ConfigError, match=f"block vision: delegate .*{text}"):
        LiteRtSession(root, block, Threads(), Target(delegate=path))


# --- in a worker, while the delegate misbehaves -----------------------------------------------


@dataclasses.dataclass
class Rig:
    worker: BlockWorker
    orders: Path
    changes: list[WorkerChange]


@pytest.fixture
def rig(bundle: Bundle, library: str, tmp_path: Path) -> Iterator[Rig]:
    orders, changes = tmp_path / "orders", []
    target = Target(delegate=library, delegate_options={"orders": str(orders)}, allow_cpu_fallback=True)
    worker = BlockWorker(bundle, "vision", Setting(Threads(), target), timeout_ns=1500 * MS,
                         start_timeout_ns=60_000 * MS, on_change=changes.append)  # fmt: skip
    worker.wait_up()
    yield Rig(worker, orders, changes)
    worker.close()


def test_a_worker_reports_where_its_block_landed(bundle: Bundle, rig: Rig, library: str) -> None:
    found = by_provider(rig.worker.placement)
    assert set(found) == {library, BORDER, ON_CPU}
    assert found[library].operators == {"FULLY_CONNECTED": 13}
    here = load_block(bundle, "vision", Threads()).run(image())["tokens"]
    there = rig.worker.run(image())["tokens"]
    assert np.sqrt(np.mean(np.square(here - there))) < 0.1 * here.std()


@pytest.mark.fault(8)
def test_an_error_of_the_delegate_is_told_and_loses_nothing(rig: Rig) -> None:
    expected = rig.worker.run(image())["tokens"]
    tiny_litert.order(rig.orders, "error")
    with pytest.raises(BlockFailed, match="the accelerator returned status 7") as caught:
        rig.worker.run(image())
    assert caught.value.kind == "error"
    np.testing.assert_array_equal(rig.worker.run(image())["tokens"], expected)
    assert rig.changes == []


@pytest.mark.fault(8)
def test_a_crash_in_the_delegate_ends_its_worker_alone(rig: Rig) -> None:
    expected = rig.worker.run(image())["tokens"]
    tiny_litert.order(rig.orders, "crash")
    with pytest.raises(BlockFailed, match="SIGSEGV") as caught:
        rig.worker.run(image())
    assert caught.value.kind == "crash"
    wait_for(lambda: rig.worker.status()["up"], 60, "the worker is replaced")
    np.testing.assert_array_equal(rig.worker.run(image())["tokens"], expected)
    assert [(c.change, c.kind) for c in rig.changes] == [("lost", "crash"), ("up", "crash")]


@pytest.mark.fault(7)
def test_a_hang_in_the_delegate_ends_at_the_time_limit(rig: Rig) -> None:
    for _ in range(3):
        rig.worker.run(image())
    tiny_litert.order(rig.orders, "hang")
    before = time.monotonic()
    with pytest.raises(BlockFailed, match="in time") as caught:
        rig.worker.run(image())
    assert 1.4 <= time.monotonic() - before < 20
    assert caught.value.kind == "hang"
    wait_for(lambda: rig.worker.status()["up"], 60, "the worker is replaced")
    assert [(c.change, c.kind) for c in rig.changes] == [("lost", "hang"), ("up", "hang")]


@pytest.mark.fault(8)
def test_a_restarted_accelerator_that_computes_garbage_is_not_used(rig: Rig) -> None:
    expected = rig.worker.run(image())["tokens"]
    tiny_litert.order(rig.orders, "crash")
    with pytest.raises(BlockFailed):
        rig.worker.run(image())
    tiny_litert.order(rig.orders, "garbage")  # what the replacement does first: its proof
    wait_for(lambda: rig.worker.status()["up"], 60, "the worker is replaced")
    assert [c.change for c in rig.changes] == ["lost", "restart_failed", "up"]
    assert "computes another tokens" in rig.changes[1].why
    np.testing.assert_array_equal(rig.worker.run(image())["tokens"], expected)


# --- vlad check -------------------------------------------------------------------------------


def configured(bundle: Bundle, tmp_path: Path, library: str, more: str) -> str:
    extra = f'\n[block.vision]\ndelegate = "{library}"\n{more}\n'
    cameras = [camera.name for camera in bundle.manifest.cameras]
    config = config_without_devices(tmp_path, cameras, lambda text: text + extra)
    return str(config.path)


@pytest.mark.fault(38)
def test_garbage_from_the_start_is_caught_by_the_golden_check(
    bundle: Bundle, library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = "allow_cpu_fallback = true\n"
    good = configured(bundle, tmp_path, library, allowed)
    assert check([str(bundle.path), "--config", good, "--json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out)["blocks"]["vision"]
    assert {p["provider"] for p in found["placement"]} == {library, BORDER, ON_CPU}
    bad = configured(bundle, tmp_path, library, allowed + '[block.vision.delegate_options]\nfault = "garbage"\n')
    with pytest.raises(BundleError, match="golden output tokens differs by"):
        check([str(bundle.path), "--config", bad])


@pytest.mark.fault(38)
@pytest.mark.parametrize(("tolerances", "text"), [
    ({"tokens": 1e6, "chunk": 1e6}, r"golden\.tolerances allows (tokens|chunk) to differ by 1e\+06, and it varies by"),
    ({"tokens": 0.1, "token": 0.1}, r"golden\.tolerances names what is no golden output"),
])  # fmt: skip
def test_a_bundle_cannot_switch_its_proof_off(
    bundle: Bundle, tmp_path: Path, tolerances: dict[str, float], text: str
) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy.vlad"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["golden"]["tolerances"] = tolerances
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=text):
        check([str(copy)])


def test_check_shows_nodes_and_partitions(
    bundle: Bundle, library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(bundle, tmp_path, library, "allow_cpu_fallback = true\n")
    assert check([str(bundle.path), "--config", config]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "block      vision" in line)
    assert f"{BORDER}: " in line
    assert f"{library}: 13 nodes in 9 partitions (13 FULLY_CONNECTED)" in line


@pytest.mark.fault(38)
def test_check_refuses_a_block_that_is_not_on_its_accelerator(bundle: Bundle, library: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"block vision was to run on .*libtest_delegate.so: CPU: \d+ nodes"):
        check([str(bundle.path), "--config", configured(bundle, tmp_path, library, "")])


@pytest.mark.fault(38)
@pytest.mark.parametrize(("fault", "text"), [
    ("crash", r"golden inputs do not run: block vision: its worker was ended by SIG"),
    ("hang", r"block vision: its worker did not answer in time"),
])  # fmt: skip
def test_check_outlives_a_driver_that_does_not(
    bundle: Bundle, library: str, tmp_path: Path, fault: str, text: str
) -> None:
    more = f'allow_cpu_fallback = true\nstart_timeout_s = 4\n[block.vision.delegate_options]\nfault = "{fault}"\n'
    with pytest.raises(BundleError, match=text):
        check([str(bundle.path), "--config", configured(bundle, tmp_path, library, more)])


def test_a_copy_of_the_library_is_not_needed_twice(tmp_path: Path, library: str) -> None:
    """Two blocks on one delegate: each has its own instance with its own options."""
    root, block, given = tiny_litert.products(tmp_path / "bundle")
    copy = shutil.copy(library, tmp_path / "copy.so")
    one = LiteRtSession(root, block, Threads(), Target(delegate=library, delegate_options={"fault": "error"}))
    two = LiteRtSession(root, block, Threads(), Target(delegate=library))
    three = LiteRtSession(root, block, Threads(), Target(delegate=str(copy)))
    with pytest.raises(BlockFailed, match="status 7"):
        one.run(given)
    np.testing.assert_array_equal(two.run(given)["tokens"], three.run(given)["tokens"])


@pytest.mark.fault(38)
def test_what_litert_computes_wrongly_behind_a_delegate_is_caught(library: str, tmp_path: Path) -> None:
    """Without XNNPACK, as with any delegate, LiteRT 2.3 overwrites a tensor that is still to be read."""
    path = tiny_litert.aliased(tiny_act.build(tmp_path / "act.vlad"), tmp_path / "wrong.vlad")
    assert check([str(path)]) == 0
    options = 'allow_cpu_fallback = true\n[block.vision.delegate_options]\nnodes = "0"\n'
    with pytest.raises(BundleError, match="golden output tokens differs by"):
        check([str(path), "--config", configured(bundles.load(path), tmp_path, library, options)])
