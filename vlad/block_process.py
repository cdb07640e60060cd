"""One child process that runs one block, from its parent's side: start, call, kill.

What the child says is checked before it is used: magic, sequence number, status, length and dimensions
of the message, and every value of the copy that is taken. Anything else is garbage, and its process is
not asked again.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad import block_slots
from vlad.backend import CPU, Arrays, Target, Threads
from vlad.block_slots import Slots
from vlad.block_worker import ANSWER_WORDS, ERROR, LOADED, MAGIC, MAX_MESSAGE, OK, Start, WorkerSpec, packet, words
from vlad.errors import BlockFailed, BundleError
from vlad.manifest import Block
from vlad.servo import MS, now_ns

COMMAND = (sys.executable, "-P", "-m", "vlad.block_worker")
REAP_S, REAP_KILLED_S = 0.5, 2.0
OF_SYSTEMD = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})


@dataclass(frozen=True, slots=True)
class Setting:
    """How the block runs: as vlad.config_keys.StageKeys and BlockKeys have it."""

    threads: Threads
    target: Target = CPU
    affinity: tuple[int, ...] = ()
    policy: str = "other"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs by name (read-only copies) and the ns that the child says it computed."""

    outputs: dict[str, NDArray[np.float32]]
    compute_ns: int


class BlockProcess:
    """One child. One caller at a time; `kill` may be called by any thread.

    Start it on a thread that outlives it: the kernel kills it when that thread ends.
    Raises OSError when it cannot be started, BundleError when its memory would be too large.
    """

    def __init__(
        self, bundle: Path, block: Block, longest: int, setting: Setting, command: Sequence[str] = COMMAND
    ) -> None:
        self._name = block.name
        self._inputs = Slots(block.name, "inputs", block.inputs, longest)
        self._outputs = Slots(block.name, "outputs", block.outputs, longest)
        self._sequence = LOADED
        self._written: dict[str, NDArray[np.float32]] = {}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptors = [theirs.detach()]
        try:
            fd, self._request = block_slots.create(self._inputs, read_only=True)
            descriptors.append(fd)
            fd, self._result = block_slots.create(self._outputs, read_only=False)
            descriptors.append(fd)
            spec = WorkerSpec(
                bundle=str(bundle.absolute()), block=block, longest=longest, threads=setting.threads,
                target=setting.target, affinity=setting.affinity, policy=setting.policy, priority=setting.priority,
                parent=os.getpid(), socket=descriptors[0], inputs=descriptors[1], outputs=descriptors[2],
            )  # fmt: skip
            self._child = subprocess.Popen(
                [*command, msgspec.json.encode(spec).decode()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=descriptors,
                env=_environment(), cwd="/", process_group=0,
            )  # fmt: skip
        except BaseException:
            self._socket.close()
            raise
        finally:
            for fd in descriptors:
                os.close(fd)
        self.pid = self._child.pid
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def fileno(self) -> int:
        """Hangs up when the child has gone."""
        return self._socket.fileno()

    def wait_loaded(self, timeout_ns: int) -> Start:
        """Waits for the block to be loaded. Raises BlockFailed."""
        answer = self._receive(now_ns() + timeout_ns)
        self._check(answer, LOADED)
        try:
            return msgspec.json.decode(answer[ANSWER_WORDS * 8 :], type=Start)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._garbage(f"something else than where it landed: {error}") from error

    def call(self, inputs: Arrays, timeout_ns: int) -> Answer:
        """One computation. An input that is read-only and the same object as in the last call is not copied.

        Raises BundleError for inputs that the block does not take, BlockFailed when no good answer came.
        """
        deadline_ns = now_ns() + timeout_ns
        try:
            known = self._write(inputs)
            self._sequence += 1
            message = packet(self._sequence, *(d for name in self._inputs.names for d in inputs[name].shape))
        except (ValueError, TypeError, KeyError) as error:
            raise BundleError(f"block {self._name}: does not take these inputs: {error}") from error
        try:
            self._socket.send(message)
        except OSError as error:
            raise self.ended() from error
        answer = self._receive(deadline_ns)
        compute_ns = self._check(answer, self._sequence)
        try:
            shapes = self._outputs.shapes(words(answer)[ANSWER_WORDS:], known)
        except (ValueError, struct.error) as error:
            raise self._garbage(str(error)) from error
        outputs = {name: view.copy() for name, view in self._outputs.views(self._result, shapes).items()}
        for name, value in outputs.items():
            if not _finite(value):
                raise self._garbage(f"{name} is not finite")
            value.flags.writeable = False
        return Answer(outputs, compute_ns)

    def _write(self, inputs: Arrays) -> dict[str, int]:
        if set(inputs) != set(self._inputs.names):
            raise ValueError(f"they are {sorted(inputs)}, the block's are {sorted(self._inputs.names)}")
        shapes = self._inputs.shapes([d for name in self._inputs.names for d in inputs[name].shape])
        for name, slot in self._inputs.views(self._request, shapes).items():
            value = inputs[name]
            if self._written.get(name) is value:
                continue
            np.copyto(slot, value, casting="no")
            if value.flags.writeable:
                self._written.pop(name, None)
            else:
                self._written[name] = value
        return self._inputs.dimensions(shapes)

    def _receive(self, deadline_ns: int) -> bytes:
        """The next packet. A child that answered while this thread had no processor is in time."""
        while True:
            try:
                if message := self._socket.recv(MAX_MESSAGE):
                    return message
                raise self.ended()
            except BlockingIOError:
                left_ns = deadline_ns - now_ns()
            except OSError as error:
                raise self.ended() from error
            if left_ns <= 0:
                raise BlockFailed(self._name, "hang", "its worker did not answer in time")
            self._poll.poll(math.ceil(left_ns / MS))

    def _check(self, answer: bytes, sequence: int) -> int:
        """The ns of computation of a good answer to request `sequence`. Raises BlockFailed otherwise."""
        try:
            magic, found, status, compute_ns = words(answer, ANSWER_WORDS)
        except struct.error:
            raise self._garbage(f"an answer of {len(answer)} bytes") from None
        if magic != MAGIC:
            raise self._garbage(f"an answer that begins with {magic:#x}")
        if found != sequence:
            raise self._garbage(f"the answer to request {found} instead of {sequence}")
        if status == ERROR:
            text = answer[ANSWER_WORDS * 8 :].decode(errors="replace")
            raise BlockFailed(self._name, "error", text)
        if status != OK:
            raise self._garbage(f"an answer of status {status}")
        return compute_ns

    def _garbage(self, what: str) -> BlockFailed:
        return BlockFailed(self._name, "garbage", f"its worker sent {what}")

    def ended(self) -> BlockFailed:
        """How the child ended, once its end of the socket is closed."""
        try:
            status = self._child.wait(REAP_S)
        except subprocess.TimeoutExpired:
            return BlockFailed(self._name, "crash", "its worker has closed the connection")
        if status < 0:
            return BlockFailed(self._name, "crash", f"its worker was ended by {signal.Signals(-status).name}")
        return BlockFailed(self._name, "crash", f"its worker ended with status {status}")

    def hang_up(self) -> None:
        """Ends every wait on the socket, on both sides: a child that is not computing then ends by itself."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """Hangs up, and SIGKILL to the child and whatever it has started; does not wait."""
        self.hang_up()
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> bool:
        """Ends the child if it has not ended; False when it is still there, as one stuck in a driver may be."""
        self.hang_up()
        for grace_s in (REAP_S, REAP_KILLED_S):
            try:
                self._child.wait(grace_s)
                break
            except subprocess.TimeoutExpired:
                self.kill()
        self._socket.close()
        return self._child.returncode is not None


def _finite(value: NDArray[np.float32]) -> bool:
    """A sum is four times as fast as looking at every value, and finite only where they all are."""
    with np.errstate(all="ignore"):
        return math.isfinite(value.sum()) or bool(np.isfinite(value).all())


def _environment() -> dict[str, str]:
    """The parent's, without what systemd gave to the daemon alone; this very package is found first."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_SYSTEMD}
    ours = str(Path(__file__).resolve().parents[1])
    kept["OPENBLAS_NUM_THREADS"] = "1"  # a worker multiplies nothing in NumPy; its pool would start before it is pinned
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))}
