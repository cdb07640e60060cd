"""The flight record's rings and the replay: csrc/flight_ring.h, flight.h, flight_replay.h."""

from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad._native.servo import Servo

Buffer = bytes | bytearray | memoryview | mmap

TICK: int
STATE: int
CHUNK: int
TIMING: int
NOTE: int
PICTURE: int
SIZES: dict[int, int]
RING_HEADER: int
FIELDS: dict[int, list[tuple[str, str, int, int, Any, Any, int | None, bool]]]
"""Kind -> (name, type of Python's struct module, offset, count, least, greatest, a value besides
them or None, whether it is a decision)."""

class Ring:
    """A ring in a writable buffer aligned to 8 bytes, emptied. One thread adds. ValueError when the
    buffer is too small."""

    def __init__(self, memory: Buffer) -> None: ...
    def add(self, kind: int, t_ns: int, body: Buffer) -> bool:
        """False: larger than the ring, and counted."""

    def snapshot(self) -> bytes:
        """The whole records, oldest first: size uint32, kind uint32, t_ns int64, then `size` bytes."""

    @property
    def counters(self) -> dict[str, int]: ...

def snapshot(memory: Buffer) -> bytes:
    """Ring.snapshot() of any memory, believed nothing of. ValueError where it is no ring."""

class Recorder:
    """Records every tick and push of a loop. OSError(EBUSY) once the loop has run.

    locked: what the loop writes to was locked in memory, so that it never waits for a page."""

    locked: bool
    def __init__(self, servo: Servo, loop: Ring, producer: Ring, state_every_ns: int) -> None: ...

class Replay:
    """A fresh `servo` put into a recorded state. Records are the structs as bytes, values within
    their ranges. ValueError: shapes, sizes, or windows other than the configuration's."""

    def __init__(self, servo: Servo, spare: Ring, state: Buffer, ring1: NDArray[np.int64],
                 ring2: NDArray[np.int64]) -> None: ...
    def timeline(self, *, number: int, seq: int, epoch: int, t0_ns: int, period_ns: int,
                 overdue_ns: int, actions_nu: NDArray[np.int64], t_obs_ns: NDArray[np.int64],
                 opinions: NDArray[np.int64]) -> None:
        """The timeline in front; actions_nu [n, 8], t_obs_ns and opinions [n]."""

    def tick(self, record: Buffer) -> bytes:
        """Runs one tick; the record of what was decided."""

    def push(self, record: Buffer, actions: NDArray[np.float64]) -> tuple[bytes, NDArray[np.int64]]:
        """The same of one chunk; actions [n, joints]. With the timeline that it was merged into,
        [n, 8] nano-units; n = 0 when it was rejected."""

    def timing(self, record: Buffer) -> None: ...
