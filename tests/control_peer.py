"""For tests of the control socket: a native lower callback that notes times, a daemon's verbs
without a daemon, and raw clients."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlad.control import Control

RECORDER = r"""
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
struct record { _Atomic uint64_t count; int64_t t_ns[65536]; uint32_t lower[65536]; };
void record_lower(void *context, uint32_t lower)
{
    struct record *record = context;
    struct timespec now;
    uint64_t i = atomic_load(&record->count);
    clock_gettime(CLOCK_MONOTONIC, &now);
    record->t_ns[i & 65535] = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    record->lower[i & 65535] = lower;
    atomic_store(&record->count, i + 1);
}
"""
LIMP, HOLD = 1, 2  # enum vlad_request


class _Record(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_uint64),
        ("t_ns", ctypes.c_int64 * 65536),
        ("lower", ctypes.c_uint32 * 65536),
    )


class LowerRecorder:
    """A lower sink in C: it needs no GIL, so its times are those of the control thread."""

    def __init__(self, directory: Path) -> None:
        source, library = directory / "recorder.c", directory / "recorder.so"
        source.write_text(RECORDER)
        compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
        self._library = ctypes.CDLL(str(library))
        self._record = _Record()

    def lower_callback_address(self) -> int:
        return ctypes.cast(self._library.record_lower, ctypes.c_void_p).value or 0

    def lower_context_address(self) -> int:
        return ctypes.addressof(self._record)

    @property
    def calls(self) -> list[tuple[int, int]]:
        """(t_ns, LIMP or HOLD) of each call."""
        return [(self._record.t_ns[i], self._record.lower[i]) for i in range(self._record.count)]


class FakeEvents:
    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def add(self, event: dict[str, Any]) -> None:
        self.kept.append({"seq": len(self.kept) + 1, **event})

    def since(self, seq: int, limit: int = 500) -> list[dict[str, Any]]:
        return [e for e in self.kept if e["seq"] > seq][:limit]


class FakeOperations:
    """Notes every call; `refuse` maps a verb to the reason, `block` to an event it waits for."""

    def __init__(self) -> None:
        self.events = FakeEvents()
        self.calls: list[tuple[str, ...]] = []
        self.refuse: dict[str, Exception] = {}
        self.block: dict[str, threading.Event] = {}
        self.entered = threading.Event()
        self.state: dict[str, Any] = {"mode": "holding", "why_not_engageable": [], "faults": []}

    def _do(self, verb: str, *args: str) -> dict[str, Any]:
        self.calls.append((verb, *args))
        if verb in self.block:
            self.entered.set()
            assert self.block[verb].wait(20)
        if verb in self.refuse:
            raise self.refuse[verb]
        return {"did": verb}

    def status(self) -> dict[str, Any]:
        self._do("status")
        return self.state

    def version(self) -> dict[str, Any]:
        return {"version": "9.9", "board": "test"}

    def load(self, path: str) -> dict[str, Any]:
        return self._do("load", path)

    def rollback(self) -> dict[str, Any]:
        return self._do("rollback")

    def task(self, text: str) -> dict[str, Any]:
        return self._do("task", text)

    def engage(self) -> dict[str, Any]:
        return self._do("engage")

    def resume(self) -> dict[str, Any]:
        return self._do("resume")

    def park(self) -> dict[str, Any]:
        return self._do("park")

    def clear(self) -> dict[str, Any]:
        return self._do("clear")

    def hold(self) -> dict[str, Any]:
        return self._do("hold")

    def limp(self) -> dict[str, Any]:
        return self._do("limp")


@dataclass(frozen=True, slots=True)
class SocketConfig:
    socket: Path
    mode: int = 0o666
    operator_groups: tuple[str, ...] = ()
    max_clients: int = 16


@dataclass(slots=True)
class Served:
    """A control socket that is being served."""

    path: Path
    operations: FakeOperations
    sink: LowerRecorder
    control: Control


@contextlib.contextmanager
def serving(**keys: Any) -> Iterator[Served]:
    """A Control over FakeOperations, in a directory that every user may pass."""
    directory = Path(tempfile.mkdtemp(prefix="vlad-", dir="/tmp"))
    directory.chmod(0o755)
    operations, sink = FakeOperations(), LowerRecorder(directory)
    control = Control(SocketConfig(directory / "control", **keys), operations, sink)
    control.start()
    try:
        yield Served(directory / "control", operations, sink, control)
    finally:
        for event in operations.block.values():
            event.set()
        control.stop()
        shutil.rmtree(directory)


class Peer:
    """A raw client."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> dict[str, Any] | None:
        """The next reply; None at the end of the connection."""
        try:
            text = self._file.readline()
        except ConnectionResetError:
            return None
        return json.loads(text) if text else None

    def ask(self, verb: str, args: Any = None, id_: int | str = 1) -> dict[str, Any]:
        request = {"v": 1, "id": id_, "verb": verb} | ({} if args is None else {"args": args})
        self.send(json.dumps(request).encode() + b"\n")
        reply = self.line()
        assert reply is not None and reply["v"] == 1 and reply["id"] == id_
        return reply


def as_user(path: Path, uid: int, gid: int, groups: list[int], lines: list[bytes]) -> list[Any]:
    """The replies that another user gets to `lines`. Needs root."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            with Peer(path) as peer:
                replies = []
                for line in lines:
                    peer.send(line)
                    replies.append(peer.line())
            os.write(writing, json.dumps(replies).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        return json.loads(pipe.read() or b"null")


def until(condition: Any, timeout_s: float = 10) -> None:
    """Waits for `condition()`; fails after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
