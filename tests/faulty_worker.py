"""A block worker that misbehaves when it is told to: `-m tests.faulty_worker ORDERS SPEC`.

ORDERS is a file of lines `BLOCK FAULT`; the worker of that block takes the first line that is for it
before each request (or, for `at_start`, before it loads) and does as it says, once. Nothing in the
package knows this program: tests give it to onnx_policy as its command.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlad.backend import PlacedSession
from vlad.block_worker import ERROR, MAGIC, OK, Worker, WorkerSpec, main, packet

Values = Mapping[str, NDArray[np.float32]]


def order(path: Path, block: str, fault: str, times: int = 1) -> None:
    """Tells the worker of `block` to do `fault` at its next requests."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{block} {fault}\n" * times)


def command(orders: Path) -> tuple[str, ...]:
    orders.touch()
    return (sys.executable, "-P", "-m", "tests.faulty_worker", str(orders))


class FaultyWorker(Worker):
    def __init__(self, spec: WorkerSpec, orders: Path) -> None:
        super().__init__(spec)
        self._orders = orders
        self._fault = ""

    def _next(self, *, at_start: bool) -> str:
        with self._orders.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            lines = file.read().splitlines()
            for i, line in enumerate(lines):
                block, fault = line.split()
                if block == self.spec.block.name and fault.startswith("start_") == at_start:
                    del lines[i]
                    file.seek(0)
                    file.truncate()
                    file.write("".join(f"{rest}\n" for rest in lines))
                    return fault
        return ""

    def load(self) -> PlacedSession:
        fault = self._next(at_start=True)
        if fault == "start_error":
            raise RuntimeError("the driver was not there")
        if fault == "start_crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "start_hang":
            time.sleep(1000)
        return super().load()

    def run(self, inputs: Values) -> dict[str, NDArray[np.float32]]:
        self._fault = self._next(at_start=False)
        if self._fault == "hang":
            time.sleep(1000)
        if self._fault == "hang_in_c":  # holds the interpreter, and takes no signal but SIGKILL
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ctypes.PyDLL(None).sleep(1000)
        if self._fault == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "sigsegv":
            ctypes.string_at(0)
        if self._fault == "exit":
            os._exit(3)
        if self._fault == "close":
            self.socket.close()
            time.sleep(1000)
        if self._fault == "error":
            raise RuntimeError("delegate returned status 7")
        values = super().run(inputs)
        if self._fault == "slow":
            time.sleep(0.15)
        if self._fault == "scribble":
            ctypes.memset(next(iter(inputs.values())).ctypes.data, 0, 64)
        if self._fault == "nan":
            values = {name: value.copy() for name, value in values.items()}
            next(iter(values.values())).flat[-1] = np.nan
        if self._fault == "other_values":
            values = {name: value + np.float32(0.5) for name, value in values.items()}
        return values

    def send(self, message: bytes) -> None:
        fault, self._fault = self._fault, ""
        if not fault:
            return super().send(message)
        words = struct.unpack_from("<4Q", message)
        dims = message[32:]
        broken = {
            "magic": packet(MAGIC ^ 1, *words[1:]) + dims,
            "stale": packet(MAGIC, max(0, words[1] - 1), *words[2:]) + dims,
            "status": packet(MAGIC, words[1], 7, 0) + dims,
            "short": message[:20],
            "odd": message + b"x",
            "shape": message[:-8] + packet(struct.unpack("<Q", message[-8:])[0] + 1),
            "huge": message[:-8] + packet(1 << 63),
            "dimensions": message + packet(1),
            "noise": np.random.default_rng(0).bytes(200),
            "long": message + bytes(60_000),
            "binary_error": packet(MAGIC, words[1], ERROR, 0) + b"\xff\xfe\x00bad",
            "ok_without_shape": packet(MAGIC, words[1], OK, 0),
        }
        if fault == "twice":
            super().send(message)
        return super().send(broken.get(fault, message))


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], lambda spec: FaultyWorker(spec, Path(sys.argv[1]))))
