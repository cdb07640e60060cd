"""A block in a child process: same values, no trust, and gone when it should be."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import faulty_worker
from tests.daemons import wait_for
from tests.tiny_smolvla import build
from vlad import bundle as bundles
from vlad.backend import Threads, load_block
from vlad.block_process import BlockProcess, Setting
from vlad.block_slots import Slots, attach, create
from vlad.block_workers import BlockWorker, WorkerChange
from vlad.bundle import Bundle
from vlad.errors import BlockFailed, BundleError
from vlad.manifest import Value

SETTING = Setting(Threads())
BLOCKS = ("vision", "prefill", "context", "expert")
GARBAGE = ("magic", "stale", "status", "short", "odd", "shape", "huge", "dimensions", "noise", "long",
           "ok_without_shape", "nan")  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.load(build(tmp_path_factory.mktemp("bundle") / "tiny.vlad"))


class Started:
    """Workers with their orders and what they reported; all closed at the end."""

    def __init__(self, bundle: Bundle, orders: Path) -> None:
        self.bundle, self.orders = bundle, orders
        self.workers: list[BlockWorker] = []
        self.changes: list[WorkerChange] = []

    def worker(self, name: str = "expert", timeout_ms: int | None = 20_000, up: bool = True) -> BlockWorker:
        worker = BlockWorker(
            self.bundle, name, SETTING, timeout_ns=timeout_ms and timeout_ms * 1_000_000,
            start_timeout_ns=60_000_000_000, on_change=self.changes.append,
            command=faulty_worker.command(self.orders),
        )  # fmt: skip
        self.workers.append(worker)
        if up:
            worker.wait_up()
        return worker

    def order(self, fault: str, block: str = "expert", times: int = 1) -> None:
        faulty_worker.order(self.orders, block, fault, times)

    def seen(self) -> list[tuple[str, str]]:
        return [(c.change, c.kind) for c in self.changes]


@pytest.fixture
def started(bundle: Bundle, tmp_path: Path) -> Iterator[Started]:
    all_of_them = Started(bundle, tmp_path / "orders")
    yield all_of_them
    for worker in all_of_them.workers:
        worker.close()


def inputs(bundle: Bundle, name: str, seed: int = 0, **lengths: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    dims = {"n": 20, "past": 0, "s": 21} | lengths
    return {
        v.name: generator.standard_normal([d if isinstance(d, int) else dims[d] for d in v.shape], dtype=np.float32)
        for v in bundle.block(name).inputs
    }


def pid_of(worker: BlockWorker) -> int:
    return int(worker.status()["pid"])


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("name", BLOCKS)
def test_it_computes_what_the_same_block_computes_here(bundle: Bundle, started: Started, name: str) -> None:
    worker, here = started.worker(name), load_block(bundle, name, Threads())
    for seed, lengths in enumerate(({}, {"n": 1, "s": 2}, {"n": 0, "past": 20, "s": 3}, {})):
        given = inputs(bundle, name, seed, **lengths)
        found, expected = worker.run(given), here.run(given)
        assert list(found) == list(expected)
        for value in expected:
            assert found[value].shape == expected[value].shape
            np.testing.assert_allclose(found[value], expected[value], atol=1e-5)
            assert not found[value].flags.writeable
    assert worker.status()["calls"] == 4


def test_outputs_outlive_the_next_call(bundle: Bundle, started: Started) -> None:
    worker = started.worker()
    first = worker.run(inputs(bundle, "expert", 1))["velocity"]
    kept = first.copy()
    worker.run(inputs(bundle, "expert", 2))
    np.testing.assert_array_equal(first, kept)


def test_an_input_that_changed_in_place_is_sent_again(bundle: Bundle, started: Started) -> None:
    worker, here = started.worker(), load_block(bundle, "expert", Threads())
    given = inputs(bundle, "expert")
    given["context_key1"].flags.writeable = given["context_value2"].flags.writeable = False
    for step in range(3):
        given["x"][:] = step
        np.testing.assert_allclose(worker.run(given)["velocity"], here.run(given)["velocity"], atol=1e-5)


@pytest.mark.parametrize(("spoil", "named"), [
    (lambda g: g.pop("x"), "the block's are"),
    (lambda g: g.update(more=g["x"]), "the block's are"),
    (lambda g: g.update(x=g["x"][:-1]), "x is"),
    (lambda g: g.update(x=g["x"].astype(np.float64)), "float64"),
    (lambda g: g.update(context_value1=g["context_value1"][:-1]), "context_value1 is"),
    (lambda g: g.update(context_key1=np.zeros((100_000, 1), np.float32)), "context_key1 is"),
])  # fmt: skip
def test_inputs_that_do_not_fit_are_refused_before_they_are_sent(
    bundle: Bundle, started: Started, spoil: Callable[[dict[str, Any]], Any], named: str
) -> None:
    worker = started.worker()
    pid = pid_of(worker)
    given = inputs(bundle, "expert")
    spoil(given)
    with pytest.raises(BundleError, match=f"block expert: does not take.*{named}"):
        worker.run(given)
    worker.run(inputs(bundle, "expert"))
    assert (pid_of(worker), started.changes) == (pid, [])


@pytest.mark.fault(8)
def test_an_error_of_the_block_has_its_text_and_costs_no_worker(bundle: Bundle, started: Started) -> None:
    worker = started.worker()
    pid, given = pid_of(worker), inputs(bundle, "expert")
    for fault, text in (("error", "delegate returned status 7"), ("binary_error", "bad")):
        started.order(fault)
        with pytest.raises(BlockFailed, match=text) as caught:
            worker.run(given)
        assert (caught.value.block, caught.value.kind) == ("expert", "error")
    worker.run(given)
    assert (pid_of(worker), started.changes) == (pid, [])
    assert worker.status()["failures"] == {"error": 2}


LOST = {
    "sigkill": ("crash", "SIGKILL"), "sigsegv": ("crash", "SIGSEGV"), "scribble": ("crash", "SIGSEGV"),
    "exit": ("crash", "status 3"), "close": ("crash", "closed the connection"),
    **dict.fromkeys(GARBAGE, ("garbage", "sent")), "error": ("error", "status 7"),
}  # fmt: skip


@pytest.mark.fault(8)
@pytest.mark.parametrize("fault", LOST)
def test_every_failure_is_told_from_an_answer(bundle: Bundle, tmp_path: Path, fault: str) -> None:
    (kind, text), orders = LOST[fault], tmp_path / "orders"
    command = faulty_worker.command(orders)
    process = BlockProcess(bundle.path, bundle.block("expert"), bundle.manifest.longest, SETTING, command)
    try:
        process.wait_loaded(60_000_000_000)
        process.call(inputs(bundle, "expert"), 20_000_000_000)
        faulty_worker.order(orders, "expert", fault)
        with pytest.raises(BlockFailed, match=text) as caught:
            process.call(inputs(bundle, "expert"), 20_000_000_000)
        assert (caught.value.block, caught.value.kind) == ("expert", kind)
    finally:
        process.kill()
        assert process.close()


@pytest.mark.fault(8)
@pytest.mark.parametrize("fault", ["sigsegv", "stale"])
def test_a_lost_worker_is_named_replaced_and_proved(bundle: Bundle, started: Started, fault: str) -> None:
    kind, text = LOST[fault]
    worker, given = started.worker(), inputs(bundle, "expert")
    expected = worker.run(given)["velocity"]
    pid = pid_of(worker)
    started.order(fault)
    with pytest.raises(BlockFailed, match=text) as caught:
        worker.run(inputs(bundle, "expert", 1))
    assert caught.value.kind == kind
    with pytest.raises(BlockFailed) as caught:
        worker.run(given)
    assert caught.value.kind == "absent"
    wait_for(lambda: worker.status()["up"], 60, "the worker is replaced")
    assert gone(pid)
    np.testing.assert_array_equal(worker.run(given)["velocity"], expected)
    assert started.seen() == [("lost", kind), ("up", kind)]
    status = worker.status()
    assert (status["restarts"], status["failures"]) == (1, {kind: 1})
    assert text in status["last_error"]


@pytest.mark.fault(7)
@pytest.mark.parametrize("fault", ["hang", "hang_in_c"])
def test_a_hung_worker_is_killed_at_its_time_limit(bundle: Bundle, started: Started, fault: str) -> None:
    worker, given = started.worker(timeout_ms=700), inputs(bundle, "expert")
    for _ in range(3):
        worker.run(given)
    pid = pid_of(worker)
    started.order(fault)
    before = time.monotonic()
    with pytest.raises(BlockFailed, match="in time") as caught:
        worker.run(given)
    assert 0.69 <= time.monotonic() - before < 10
    assert caught.value.kind == "hang"
    wait_for(lambda: worker.status()["up"], 60)
    assert gone(pid)
    assert started.seen() == [("lost", "hang"), ("up", "hang")]


@pytest.mark.fault(7)
def test_a_failure_keeps_nothing_of_the_call_that_saw_it(bundle: Bundle, started: Started) -> None:
    """An exception has its frames, and those the caller's policy: kept, it would outlive its unloading."""
    class Policy: ...

    def call() -> weakref.ref[Policy]:
        policy = Policy()
        try:
            worker.run(inputs(bundle, "expert"))
        except BlockFailed:
            return weakref.ref(policy)
        raise AssertionError("it did not fail")

    worker = started.worker(timeout_ms=700)
    for _ in range(3):
        worker.run(inputs(bundle, "expert"))
    started.order("hang")
    gc.collect()
    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()
    assert "in time" in worker.status()["last_error"]


def test_the_time_limit_follows_what_was_measured(bundle: Bundle, started: Started) -> None:
    worker, given = started.worker(timeout_ms=None), inputs(bundle, "expert")
    assert worker.timeout_ns() == 60_000_000_000, "the first calls may load a driver"
    for _ in range(4):
        worker.run(given)
    assert 500_000_000 <= worker.timeout_ns() < 60_000_000_000
    started.order("slow", times=6)
    for _ in range(6):
        worker.run(given)
    worker._took_ns.extend([400_000_000] * 10)
    for _ in range(16):
        worker.run(given)
    assert worker.timeout_ns() >= 1_200_000_000
    assert worker.status()["timeout_ms"] >= 1200


def test_a_slow_answer_is_an_answer(bundle: Bundle, started: Started) -> None:
    worker, given = started.worker(), inputs(bundle, "expert")
    started.order("slow")
    worker.run(given)
    assert started.changes == []


@pytest.mark.fault(8)
def test_a_worker_that_dies_while_nobody_asks_is_noticed_and_replaced(bundle: Bundle, started: Started) -> None:
    worker = started.worker()
    worker.run(inputs(bundle, "expert"))
    os.kill(pid_of(worker), signal.SIGKILL)
    wait_for(lambda: len(started.changes) == 2, 60)
    assert started.seen() == [("lost", "crash"), ("up", "crash")]


@pytest.mark.fault(8)
def test_a_second_answer_is_garbage_for_the_next_request(bundle: Bundle, started: Started) -> None:
    worker, given = started.worker(), inputs(bundle, "expert")
    started.order("twice")
    worker.run(given)
    with pytest.raises(BlockFailed, match="the answer to request 1 instead of 2"):
        worker.run(given)


@pytest.mark.fault(8)
def test_restarts_that_fail_are_reported_and_come_ever_more_slowly(bundle: Bundle, started: Started) -> None:
    worker, given = started.worker(), inputs(bundle, "expert")
    worker.run(given)
    started.order("start_error")
    started.order("start_crash")
    started.order("exit")
    with pytest.raises(BlockFailed):
        worker.run(given)
    wait_for(lambda: worker.status()["up"], 60)
    assert started.seen() == [("lost", "crash"), *[("restart_failed", "crash")] * 2, ("up", "crash")]
    assert [c.why.split(": ")[-1] for c in started.changes[1:3]] == [
        "the driver was not there", "its worker was ended by SIGKILL"]  # fmt: skip
    at = [c.t_ns for c in started.changes]
    assert at[1] - at[0] >= 250e6
    assert at[2] - at[1] >= 500e6
    assert at[3] - at[2] >= 1000e6
    assert worker.status()["failures"] == {"crash": 1, "start": 2}


@pytest.mark.fault(8)
def test_a_replacement_that_computes_something_else_is_not_used(bundle: Bundle, started: Started) -> None:
    worker, given = started.worker(), inputs(bundle, "expert")
    expected = worker.run(given)["velocity"]
    started.order("exit")
    started.order("other_values")  # what the replacement does first: its proof
    with pytest.raises(BlockFailed):
        worker.run(given)
    wait_for(lambda: worker.status()["up"], 60)
    assert started.seen()[1] == ("restart_failed", "crash")
    assert "computes another velocity" in started.changes[1].why
    np.testing.assert_array_equal(worker.run(given)["velocity"], expected)


@pytest.mark.parametrize(("fault", "text"), [
    ("start_error", "the driver was not there"), ("start_crash", "SIGKILL")])  # fmt: skip
def test_a_worker_that_does_not_start_refuses_the_bundle(started: Started, fault: str, text: str) -> None:
    started.order(fault)
    worker = started.worker(up=False)
    with pytest.raises(BundleError, match=f"did not start.*{text}"):
        worker.wait_up()
    assert not worker._keeper.is_alive()
    assert started.changes == []


def test_closing_ends_a_worker_that_is_idle_starting_or_hung(started: Started, bundle: Bundle) -> None:
    started.order("start_hang", "vision")
    started.order("hang", "expert")
    idle, starting, hung = started.worker("context"), started.worker("vision", up=False), started.worker("expert")
    wait_for(lambda: starting._child is not None, 20)
    assert starting._child is not None
    pids = [pid_of(idle), starting._child.pid, pid_of(hung)]
    failed: list[str] = []

    def ask() -> None:
        try:
            hung.run(inputs(bundle, "expert"))
        except BlockFailed as error:
            failed.append(error.kind)

    caller = threading.Thread(target=ask)
    caller.start()
    wait_for(lambda: not started.orders.read_text().strip(), 20, "the orders are taken")
    for worker in started.workers:
        worker.close()
        worker.close()
    wait_for(lambda: all(map(gone, pids)), 10)
    caller.join(10)
    assert failed == ["crash"]
    assert started.changes == []


PARENT = """
import sys, time
from pathlib import Path
from tests import faulty_worker
from tests.unit.test_block_worker import SETTING, inputs
from vlad import bundle as bundles
from vlad.block_workers import BlockWorker
bundle, orders = bundles.load(Path(sys.argv[1])), Path(sys.argv[2])
worker = BlockWorker(bundle, "expert", SETTING, timeout_ns=None, start_timeout_ns=10**12,
                     on_change=print, command=faulty_worker.command(orders))
worker.wait_up()
print(worker.status()["pid"], flush=True)
worker.run(inputs(bundle, "expert"))
time.sleep(1000)
"""


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "hung in C"])
def test_a_worker_does_not_outlive_its_parent(bundle: Bundle, tmp_path: Path, busy: bool) -> None:
    orders = tmp_path / "orders"
    orders.touch()
    if busy:
        faulty_worker.order(orders, "expert", "hang_in_c")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, bundle.path, orders], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if busy:
        wait_for(lambda: not orders.read_text().strip(), 20)
    assert not gone(pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: gone(pid) or "Z (zombie)" in Path(f"/proc/{pid}/status").read_text(), 10, "the worker's end")


def test_a_worker_has_its_own_group_no_descriptors_no_rights_and_goes_first(started: Started) -> None:
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        pid = pid_of(started.worker())
    finally:
        os.close(held)
    assert os.getpgid(pid) == pid
    links = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert links.pop(0) == links.pop(1) == "/dev/null"
    del links[2]
    assert len([link for link in links.values() if link.startswith("socket:")]) == 1
    assert [link for link in links.values() if not link.startswith(("socket:", "/memfd:", "anon_inode:"))] == []
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 500
    assert os.sched_getscheduler(pid) == os.SCHED_OTHER
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environment


def test_a_worker_runs_on_the_cores_of_its_stage(bundle: Bundle) -> None:
    core = min(os.sched_getaffinity(0))
    process = BlockProcess(
        bundle.path, bundle.block("context"), bundle.manifest.longest,
        Setting(Threads.on((core,)), affinity=(core,)),
    )  # fmt: skip
    process.wait_loaded(60_000_000_000)
    assert {tuple(os.sched_getaffinity(int(t))) for t in os.listdir(f"/proc/{process.pid}/task")} == {(core,)}
    assert process.close()


def test_a_bundle_that_was_replaced_is_not_loaded_again(bundle: Bundle, started: Started, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.vlad"
    shutil.copytree(bundle.path, copy)
    started.bundle = bundles.load(copy)
    worker = started.worker("context")
    worker.run(inputs(bundle, "context"))
    manifest = copy / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"flops"', b'"flops" ').replace(b'"flops" :', b'"flops" :1', 1))
    os.kill(pid_of(worker), signal.SIGKILL)
    wait_for(lambda: len(started.changes) >= 2, 60)
    assert started.seen()[1] == ("restart_failed", "crash")
    assert "manifest.json" in started.changes[1].why or "is not the one" in started.changes[1].why


def test_a_block_that_was_replaced_is_not_loaded_again(bundle: Bundle, started: Started, tmp_path: Path) -> None:
    """Hours after the daemon hashed it; the manifest is still the same."""
    import shutil

    copy = tmp_path / "copy.vlad"
    shutil.copytree(bundle.path, copy)
    started.bundle = bundles.load(copy)
    worker = started.worker("context")
    worker.run(inputs(bundle, "context"))
    file = copy / bundle.block("context").file.path
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    os.kill(pid_of(worker), signal.SIGKILL)
    wait_for(lambda: len(started.changes) >= 2, 60)
    assert started.seen()[1] == ("restart_failed", "crash")
    assert "context.onnx: sha256 differs" in started.changes[1].why


# --- the shared memory ------------------------------------------------------------------------


def test_slots_are_bounded_aligned_and_apart() -> None:
    values = [Value(name="a", shape=[3, "n"]), Value(name="b", shape=["n", 5]), Value(name="c", shape=[1])]
    slots = Slots("block", "inputs", values, longest=7)
    assert slots.nbytes % 64 == 0
    _, memory = create(slots, read_only=False)
    views = slots.views(memory, slots.shapes([3, 7, 7, 5, 1]))
    for i, view in enumerate(views.values()):
        assert view.ctypes.data % 64 == 0
        view[:] = i
    assert [set(view.flat) for view in views.values()] == [{0.0}, {1.0}, {2.0}]


@pytest.mark.parametrize("words", [
    [3, 7, 7, 5], [3, 7, 7, 5, 1, 1], [3, 8, 8, 5, 1], [3, 7, 6, 5, 1], [2, 7, 7, 5, 1], [3, 1 << 63, 1 << 63, 5, 1],
])  # fmt: skip
def test_shapes_beyond_their_slots_are_refused(words: list[int]) -> None:
    values = [Value(name="a", shape=[3, "n"]), Value(name="b", shape=["n", 5]), Value(name="c", shape=[1])]
    with pytest.raises(ValueError, match="block block: inputs"):
        Slots("block", "inputs", values, longest=7).shapes(words)


def test_an_absurd_block_is_refused_before_memory_is_asked_for() -> None:
    with pytest.raises(BundleError, match="more than"):
        Slots("block", "outputs", [Value(name="a", shape=["n", "n", 1000])], longest=1000)


def test_the_other_side_can_neither_write_inputs_nor_shrink_anything() -> None:
    slots = Slots("block", "inputs", [Value(name="a", shape=[16])], longest=1)
    descriptor, memory = create(slots, read_only=True)
    slots.views(memory, ((16,),))["a"][:] = 1
    view = slots.views(attach(descriptor, slots, read_only=True), ((16,),))["a"]
    assert view.sum() == 16
    assert not view.flags.writeable
    with pytest.raises(PermissionError):
        attach(descriptor, slots, read_only=False)
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    os.close(descriptor)
