"""Rows 36 (socket flood, no descriptors), 37 (abuse of the control socket), 48 (operator's stop).

Latencies run from the operator's send() in another process to the native lower callback, both on
CLOCK_MONOTONIC. The bound of the rows is 20 ms; on a shared machine the median is held to it and
the worst to a bound that only a wait for Python could break.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import sweep, sweep_policy
from tests.control_peer import (
    HOLD,
    LIMP,
    FakeOperations,
    Peer,
    Served,
    SocketConfig,
    as_user,
    serving,
    until,
)
from tests.survival import Survival, rows_of
from vlad.control import Control
from vlad.scheduler import SchedulerConfig
from vlad.servo import MS, ServoConfig
from vlad.simulation import Simulation

BOUND_MS = 20
WORST_MS = 400

# Says hold `count` times, on one connection or on a new one each, and prints when.
OPERATOR = """
import json, socket, sys, time
path, count, fresh, verb = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "fresh", sys.argv[4]
request = json.dumps({"v": 1, "id": 1, "verb": verb}).encode() + b"\\n"
def dial():
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    return connection
connection = None if fresh else dial()
print("ready", flush=True)
sys.stdin.readline()
said = []
for _ in range(count):
    while True:
        try:
            peer = dial() if fresh else connection
            t_ns = time.monotonic_ns()
            peer.sendall(request)
            reply = peer.recv(4096)
            if b'"ok":true' in reply:
                break
            assert fresh and (not reply or b"unavailable" in reply), reply
        except (ConnectionError, BlockingIOError):
            if not fresh:
                raise
    said.append(t_ns)
    if fresh:
        peer.close()
    time.sleep(0.01)
print(json.dumps(said))
"""


MEASURING: list[tuple[Survival, int]] = []  # what judge() reports to


@pytest.fixture(autouse=True)
def measuring(request: pytest.FixtureRequest, survival: Survival) -> Iterator[None]:
    MEASURING.append((survival, rows_of(request.node)[0]))
    yield
    MEASURING.pop()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as control:
        yield control


@contextlib.contextmanager
def operator(
    served: Served, count: int, *, fresh: bool = False, verb: str = "hold"
) -> Iterator[Callable[[], list[float]]]:
    """Another process that says `verb`; the value starts it, waits and returns latencies in ms."""
    arguments = [str(served.path), str(count), "fresh" if fresh else "one", verb]
    process = subprocess.Popen(
        [sys.executable, "-c", OPERATOR, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    def latencies() -> list[float]:
        assert process.stdin is not None
        before = len(served.sink.calls)
        out, _ = process.communicate("\n", timeout=60)
        said = json.loads(out)
        done = [t_ns for t_ns, _ in served.sink.calls[before:]]
        assert len(said) == count and len(done) >= count
        # A stop that was cut off before its answer is said again: match each to the next call.
        return [(min(t for t in done if t >= s) - s) / 1e6 for s in said]

    try:
        yield latencies
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def judge(name: str, latencies_ms: list[float]) -> None:
    p50, worst = statistics.median(latencies_ms), max(latencies_ms)
    said = f"{name}: {len(latencies_ms)} stops, p50 {p50:.3f} ms, worst {worst:.3f} ms"
    survival, row = MEASURING[-1]
    survival(row, react_ms=None if row == 36 else worst, clock="machine", note=said)
    assert p50 < BOUND_MS and worst < WORST_MS


@contextlib.contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


@pytest.mark.fault(48)
@pytest.mark.parametrize("verb", ["hold", "stop", "limp"])
def test_f48_stop(served: Served, verb: str) -> None:
    with operator(served, 20, verb=verb) as say:
        judge(f"idle, {verb}", say())
    assert {what for _, what in served.sink.calls} == {LIMP if verb == "limp" else HOLD}


@pytest.mark.fault(48)
@pytest.mark.parametrize(("verb", "mode"), [("hold", "stopping"), ("stop", "stopping"), ("limp", "ready")])
def test_f48_from_the_socket_to_the_arm(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig, tmp_path: Path, verb: str, mode: str
) -> None:
    """The servo loop itself as the sink: the next tick obeys, and the arm is at rest in 350 ms."""
    sim = Simulation(servo_config, scheduler_config, sweep_policy, lambda _: 100 * MS,
                     start_ns=1_000_000 * MS, pose=tuple(sweep(1_000_000 * MS)[0]))  # fmt: skip
    assert sim.engage() == "engaged"
    sim.run(sim.now_ns + 3_000 * MS)
    assert not sim.servo.report()["at_rest"]
    control = Control(SocketConfig(tmp_path / "s"), FakeOperations(), sim.servo)
    control.start()
    try:
        with Peer(tmp_path / "s") as peer:
            assert peer.ask(verb)["ok"]
        assert sim.servo.report()["mode"] == "engaged"
        sim.run(sim.now_ns + 10 * MS)
        assert sim.servo.report()["mode"] == mode
        sim.run(sim.now_ns + 340 * MS)
        report = sim.servo.report()
        assert report["at_rest"] and report["torque_on"] == (verb != "limp")
        assert report["mode"] == ("ready" if verb == "limp" else "holding")
    finally:
        control.stop()


@pytest.mark.fault(48)
def test_f48_stop_while_the_gil_is_held(served: Served) -> None:
    """A C call that keeps the GIL for 0.9 s: no Python thread of the daemon runs."""
    ran_at_ns = []

    def tick(stop: threading.Event) -> None:
        while not stop.is_set():
            ran_at_ns.append(time.monotonic_ns())
            time.sleep(0.001)

    with operator(served, 60) as say, in_background(tick):
        result: list[float] = []
        waiting = threading.Thread(target=lambda: result.extend(say()))
        waiting.start()
        until(lambda: served.sink.calls)
        began = time.monotonic_ns()
        ctypes.PyDLL(None).usleep(900_000)
        ended = time.monotonic_ns()
        waiting.join(60)
    gap = max(b - a for a, b in itertools.pairwise(ran_at_ns))
    assert gap > 0.8 * (ended - began), "the GIL was not held"
    inside = [t for t, _ in served.sink.calls if began < t < ended]
    assert len(inside) >= 10
    judge("GIL held for 0.9 s", result)


@pytest.mark.fault(48)
def test_f48_stop_while_every_verb_hangs(served: Served) -> None:
    never = threading.Event()
    served.operations.block = {"status": never, "load": never}
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(served.path)) for _ in range(8)]
        for peer in peers:
            peer.send(b'{"v":1,"id":1,"verb":"load","args":{"path":"/x"}}\n' * 2)
            peer.send(b'{"v":1,"id":1,"verb":"status"}\n' * 2)
        until(lambda: served.control.counters()["forwarded"] == 32)
        with operator(served, 20) as say:
            judge("every verb hangs", say())
        never.set()


@pytest.mark.fault(48)
def test_f48_stop_under_cpu_load(served: Served) -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    hogs = [subprocess.Popen(spin) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        with operator(served, 30) as say:
            judge(f"{len(hogs)} busy processes", say())
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.fault(36)
def test_f36_ten_thousand_connects(served: Served) -> None:
    made = 0

    def flood(stop: threading.Event) -> None:
        nonlocal made
        kept: list[socket.socket] = []
        while made < 10_000:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            peer.settimeout(1)
            with contextlib.suppress(OSError):
                peer.connect(str(served.path))
                made += 1
            kept.append(peer)
            if len(kept) > 200:
                kept.pop(0).close()
        for peer in kept:
            peer.close()

    with (
        operator(served, 50) as say,
        operator(served, 50, fresh=True) as say_fresh,
        in_background(flood),
    ):
        judge("10 000 connects, open connection", say())
        judge("10 000 connects, new connections", say_fresh())
        until(lambda: made >= 10_000, 60)
    counters = served.control.counters()
    assert counters["connections"] >= 10_000
    assert counters["evicted"] + counters["refused_clients"] > 5_000
    until(lambda: served.control.counters()["clients"] == 0)
    with Peer(served.path) as peer:
        assert peer.ask("status")["ok"]
    assert served.operations.calls == [("status",)]


@pytest.mark.fault(36)
def test_f36_no_descriptor_left(served: Served) -> None:
    with (
        Peer(served.path) as peer,
        operator(served, 10) as say,
        operator(served, 10, fresh=True) as again,
    ):
        assert peer.ask("status")["ok"]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        refused = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(os.dup(0) + 1, 64), hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            refused.connect(str(served.path))
            refused.sendall(b'{"v":1,"id":1,"verb":"engage"}\n')
            assert b'"code":"unavailable"' in refused.recv(4096)
            assert peer.ask("status")["ok"]
            # communicate() itself needs descriptors on some Pythons: two go back to it.
            for _ in range(2):
                os.close(taken.pop())
            judge("no descriptor, open connection", say())
            judge("no descriptor, new connections", again())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)
            refused.close()
    assert served.control.counters()["fd_exhausted"] >= 1
    assert ("engage",) not in served.operations.calls


def abuse(path: Path, what: bytes, *, read: bool = True) -> bytes:
    """Sends until the daemon closes; what it said meanwhile."""
    said = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        with contextlib.suppress(OSError):
            peer.sendall(what)
        with contextlib.suppress(OSError):
            while read and (part := peer.recv(65536)):
                said += part
    return said


@pytest.mark.fault(37)
def test_f37_garbage_and_endless_lines(served: Served) -> None:
    def keep_on(stop: threading.Event) -> None:
        while not stop.is_set():
            abuse(served.path, os.urandom(4096) + b"\n" * 20)
            abuse(served.path, b"\n" * 5000)
            abuse(served.path, b'{"v":1,"id":1,"verb":"hold"' * 3000)
            abuse(served.path, b"[" * 100_000)

    with in_background(keep_on), operator(served, 50) as say:
        judge("garbage", say())
    assert b"65536 bytes" in abuse(served.path, b"x" * 10_000_000)
    counters = served.control.counters()
    assert counters["malformed"] > 100 and counters["oversize"] > 0
    assert counters["limps"] == 0 and counters["holds"] == len(served.sink.calls) == 50
    assert served.operations.calls == []


@pytest.mark.fault(37)
def test_f37_a_gibibyte_line_costs_64_kib(served: Served) -> None:
    block, sent = b"x" * (1 << 20), 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(served.path))
        with contextlib.suppress(OSError):
            while sent < 1 << 30:
                sent += peer.send(block)
    assert sent < 8 << 20
    until(lambda: served.control.counters()["oversize"] == 1)


@pytest.mark.fault(37)
def test_f37_half_open_and_slow_readers_are_dropped(served: Served) -> None:
    served.operations.state["much"] = "x" * 200_000
    with Peer(served.path) as mute, Peer(served.path) as half, Peer(served.path) as slow:
        half.send(b'{"v":1,')
        slow.send(b'{"v":1,"id":1,"verb":"status"}\n' * 4)
        with operator(served, 50) as say:
            judge("slow reader", say())
        until(lambda: served.control.counters()["slow_readers"] == 1)
        for peer in (mute, half):
            reply = peer.line()
            assert reply is not None and "in time" in reply["error"]["message"]
            assert peer.line() is None
    assert served.control.counters()["half_open"] == 2


@pytest.mark.fault(37)
def test_f37_replayed_and_cut_requests_change_nothing(served: Served) -> None:
    whole = b'{"v":1,"id":1,"verb":"hold","args":{}}'
    for size in range(len(whole)):
        said = abuse(served.path, whole[:size] + b"\n" * 17)
        assert b'"ok":true' not in said
        abuse(served.path, whole[:size], read=False)
    assert served.sink.calls == []
    with Peer(served.path) as peer:  # a recorded hold is a hold: it only ever lowers
        peer.send((whole + b"\n") * 3)
        assert all((peer.line() or {})["ok"] for _ in range(3))
    assert len(served.sink.calls) == 3 and served.operations.calls == []


@pytest.mark.fault(37)
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_f37_wrong_user(served: Served) -> None:
    verbs = [b'{"v":1,"id":1,"verb":"%s"}\n' % v for v in (b"hold", b"limp", b"engage", b"clear")]
    replies = as_user(served.path, 54321, 54321, [], verbs)
    assert [r["error"]["code"] for r in replies] == ["permission"] * 4
    assert served.sink.calls == [] and served.operations.calls == []
    assert served.control.counters()["not_permitted"] == 2
