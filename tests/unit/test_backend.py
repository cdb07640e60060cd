"""The ONNX Runtime backend: thread pools, pinning and placement are as asked, or an error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import onnxruntime
import pytest

from tests.tiny_smolvla import build
from vlad import bundle as bundles
from vlad.backend import OnnxRuntimeSession, Placed, Target, Threads, load_block, placed, refuse_cpu
from vlad.bundle import Bundle
from vlad.errors import BlockFailed, BundleError, ConfigError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.load(build(tmp_path_factory.mktemp("bundle") / "tiny.vlad"))


def threads_of_this_process() -> dict[int, set[int]]:
    return {int(t): os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")}


def test_one_thread_means_no_pool(bundle: Bundle) -> None:
    before = set(threads_of_this_process())
    session = load_block(bundle, "expert", Threads(count=1))
    assert set(threads_of_this_process()) == before
    session.close()


def test_pool_threads_are_pinned_and_end_with_the_session(bundle: Bundle) -> None:
    core = max(os.sched_getaffinity(0))
    before = set(threads_of_this_process())
    session = load_block(bundle, "vision", Threads(count=2, affinity=(core,)))
    image = np.zeros((1, 3, 32, 32), np.float32)
    assert np.isfinite(session.run({"image": image})["tokens"]).all()
    end = time.monotonic() + 5  # a pool thread pins itself, some time after the session is there
    while (added := [on for t, on in threads_of_this_process().items() if t not in before]) != [{core}]:
        assert time.monotonic() < end, added
        time.sleep(0.01)
    assert os.sched_getaffinity(0) != {core} or os.cpu_count() == 1, "the caller is not pinned"
    session.close()
    assert set(threads_of_this_process()) == before


def test_an_idle_pool_does_not_spin(bundle: Bundle) -> None:
    session = load_block(bundle, "vision", Threads(count=2))
    session.run({"image": np.zeros((1, 3, 32, 32), np.float32)})
    before = os.times()
    threading.Event().wait(0.3)
    after = os.times()
    used = after.user + after.system - before.user - before.system
    assert used < 0.15, "a spinning pool burns a core for as long as it waits"
    session.close()


@pytest.mark.parametrize("affinity", [(), (0,), (0, 1, 2)])
def test_affinity_must_name_every_pool_thread(bundle: Bundle, affinity: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="3 threads need the cores of 2"):
        load_block(bundle, "context", Threads(count=3, affinity=affinity))


def test_no_threads_is_not_all_cores(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        load_block(bundle, "context", Threads(count=0))


def test_a_provider_that_is_not_there_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="NeutronExecutionProvider is not in this ONNX Runtime"):
        OnnxRuntimeSession(bundle, bundle.block("vision"), Threads(), Target(provider="NeutronExecutionProvider"))


def test_a_block_that_lands_on_the_cpu_is_an_error_unless_allowed(bundle: Bundle) -> None:
    """The Azure provider of the desktop wheels takes no operator: all would run on the CPU."""
    other = "AzureExecutionProvider"
    if other not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no second provider")
    block, threads = bundle.block("vision"), Threads()
    with pytest.raises(BundleError, match=f"cannot load it on {other}"):
        OnnxRuntimeSession(bundle, block, threads, Target(provider=other))
    target = Target(provider=other, provider_options={"some": "word"}, allow_cpu_fallback=True)
    session = OnnxRuntimeSession(bundle, block, threads, target)
    found, = session.placement
    assert (found.provider, found.partitions) == ("CPUExecutionProvider", 1)
    assert found.operators["Conv"] == 1 and "LayerNormalization" in found.operators, "nodes are read back by kind"
    session.close()


def test_partitions_are_runs_of_nodes_on_one_provider() -> None:
    found = placed([("npu", "MatMul"), ("npu", "MatMul"), ("cpu", "Softmax"), ("npu", "MatMul")])
    assert found == (Placed(provider="npu", operators={"MatMul": 3}, partitions=2),
                     Placed(provider="cpu", operators={"Softmax": 1}, partitions=1))  # fmt: skip
    target = Target(provider="npu")
    with pytest.raises(BundleError, match=r"was to run on npu: cpu: 1 nodes in 1 partitions \(1 Softmax\)"):
        refuse_cpu("vision", found, "npu", target)
    with pytest.raises(BundleError, match=r"\(of which {'MatMul': 9} were to stay there\)"):
        refuse_cpu("vision", found, "npu", target, expected={"MatMul": 9})
    with pytest.raises(BundleError, match="cpu: 1 nodes"):
        refuse_cpu("vision", found[1:], "npu", target, expected={"Softmax": 1})
    refuse_cpu("vision", found, "npu", target, expected={"Softmax": 1})
    refuse_cpu("vision", found[:1], "npu", target)
    refuse_cpu("vision", found[1:], "npu", Target(provider="npu", allow_cpu_fallback=True))


def test_an_unknown_block_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no block 'policy'"):
        bundle.block("policy")


def test_inputs_of_a_wrong_shape_are_an_error(bundle: Bundle) -> None:
    session = load_block(bundle, "vision", Threads())
    with pytest.raises(BlockFailed, match="block vision: failed"):
        session.run({"image": np.zeros((1, 3, 31, 32), np.float32)})


def test_the_runtime_sends_nothing_to_its_vendor() -> None:
    """Since 1.29 the official wheels do, unless they are told before their first import."""
    code = (
        "import os, vlad.backend, onnxruntime\n"
        "print([os.readlink(f'/proc/self/fd/{f}') for f in os.listdir('/proc/self/fd')\n"
        "       if os.path.exists(f'/proc/self/fd/{f}')])"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI")}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "onnxruntime.db" not in found.stdout
