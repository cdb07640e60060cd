"""The child process that runs one block: `python -m vlad.block_worker SPEC`.

It maps the inputs of its parent read-only and the outputs writable, loads the block, and answers
requests one by one until its parent closes the socket or dies. Messages are packets of little-endian
64-bit words over a Unix socket, which costs a microsecond more than an eventfd and also says at once
when the other side has gone:

    request  sequence number, dimensions of all inputs
    answer   MAGIC, sequence number (0: loaded), status, ns of computation, then
             OK: dimensions of all outputs; ERROR: its text; loaded: a Start, as JSON

The parent believes none of it without a check (vlad/block_process.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad import block_slots
from vlad import bundle as bundles
from vlad.backend import CPU, PlacedSession, Placement, Target, Threads, load_block
from vlad.block_slots import Shapes, Slots
from vlad.errors import BundleError
from vlad.manifest import Block
from vlad.servo import now_ns

MAGIC = 0x314B4C42_44414C56  # "VLADBLK1"
OK, ERROR = 0, 1
WORD = 8
ANSWER_WORDS = 4
MAX_TEXT = 1000
MAX_MESSAGE = 16384  # no block has 128 values of 8 dimensions; a longer packet is cut by the kernel
LOADED = 0  # sequence number of the first answer
OOM_SCORE = "500"  # the kernel's first choice when memory is short: the arm is held, not lost
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 1, 15, 38  # linux/prctl.h


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is told, as JSON. The descriptors are those it has inherited."""

    bundle: str
    block: Block
    longest: int
    threads: Threads
    target: Target = CPU
    affinity: tuple[int, ...] = ()
    policy: str = "other"
    priority: int = 0
    parent: int
    socket: int
    inputs: int
    outputs: int


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker says when its block is loaded. remark: what the kernel did not grant, or ""."""

    remark: str
    placement: Placement


def words(message: bytes, count: int | None = None) -> tuple[int, ...]:
    """The words of a packet, or its first `count`. struct.error when it has not so many, or a part of one."""
    if count is None:
        return struct.unpack(f"<{len(message) // WORD}Q", message)
    return struct.unpack_from(f"<{count}Q", message)


def packet(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


class Worker:
    """The loop of the child. tests/faulty_worker.py overrides its methods to misbehave."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.socket = socket.socket(fileno=spec.socket)
        self._inputs = Slots(spec.block.name, "inputs", spec.block.inputs, spec.longest)
        self._outputs = Slots(spec.block.name, "outputs", spec.block.outputs, spec.longest)
        self._memory = block_slots.attach(spec.inputs, self._inputs, read_only=True)
        self._answer = block_slots.attach(spec.outputs, self._outputs, read_only=False)
        os.close(spec.inputs)
        os.close(spec.outputs)
        self._session: PlacedSession | None = None

    def load(self) -> PlacedSession:
        bundle = bundles.load(Path(self.spec.bundle), verify=False)
        if bundle.block(self.spec.block.name) != self.spec.block:
            raise BundleError(f"{bundle.path}: block {self.spec.block.name} is not the one that was loaded")
        bundle.verify(self.spec.block.file)  # by the hash that the parent trusts, of what is loaded here and now
        return load_block(bundle, self.spec.block.name, self.spec.threads, self.spec.target)

    def serve(self) -> None:
        """Returns when the parent has closed the socket, or when the block cannot be loaded."""
        try:
            self._session = self.load()
        except Exception as error:  # whatever it is, the parent is to say it
            self.refuse(LOADED, error)
            return
        start = Start(remark=place(self.spec), placement=self._session.placement)
        self.send(packet(MAGIC, LOADED, OK, 0) + msgspec.json.encode(start))
        while request := self.socket.recv(MAX_MESSAGE):
            sequence, *dims = words(request)
            try:
                shapes = self._inputs.shapes(dims)
                started = now_ns()
                values = self.run(self._inputs.views(self._memory, shapes))
                self.answer(sequence, now_ns() - started, values)
            except Exception as error:  # likewise
                self.refuse(sequence, error)

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Straight from the shared memory: ONNX Runtime takes aligned arrays as they lie. Binding its outputs
        there too was measured to save 10 to 20 us of 50 to 600, and needs their shapes beforehand."""
        assert self._session is not None
        return self._session.run(inputs)

    def answer(self, sequence: int, compute_ns: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        shapes: Shapes = self._outputs.shapes([d for name in self._outputs.names for d in values[name].shape])
        for name, slot in self._outputs.views(self._answer, shapes).items():
            np.copyto(slot, values[name], casting="no")
        self.send(packet(MAGIC, sequence, OK, compute_ns, *(d for shape in shapes for d in shape)))

    def refuse(self, sequence: int, error: Exception) -> None:
        text = str(error) or type(error).__name__
        self.send(packet(MAGIC, sequence, ERROR, 0) + text.encode()[:MAX_TEXT])

    def send(self, message: bytes) -> None:
        self.socket.send(message)


def confine(parent: int, name: str) -> None:
    """Dies with its parent, gains no rights, and is what the kernel kills first when memory is short.

    Raises OSError when the kernel refuses, SystemExit when the parent is gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_PDEATHSIG, int(signal.SIGKILL)), (PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl {option}")
    libc.prctl(PR_SET_NAME, ctypes.c_char_p(f"vlad-{name}".encode()[:15]), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)
    with contextlib.suppress(OSError):  # no /proc in some containers: only the order of killing is lost
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


def place(spec: WorkerSpec) -> str:
    """The scheduling of the stage that waits for this worker, where that is configured to have any; what the
    kernel said when it refused.
    """
    if spec.policy == "other":
        return ""
    policy = os.SCHED_FIFO if spec.policy == "fifo" else os.SCHED_RR
    try:
        os.sched_setscheduler(0, policy, os.sched_param(spec.priority))
    except OSError as error:
        return f"not scheduled as its stage: {error.strerror}"
    return ""


def main(argv: Sequence[str], worker: Callable[[WorkerSpec], Worker] = Worker) -> int:
    """Exit status 0 when the parent has closed the socket."""
    spec = msgspec.json.decode(argv[0], type=WorkerSpec)
    confine(spec.parent, spec.block.name)
    if spec.affinity:
        os.sched_setaffinity(0, spec.affinity)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent has gone
        worker(spec).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
