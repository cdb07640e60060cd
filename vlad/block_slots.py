"""Where the inputs and the outputs of a block lie in memory that it shares with its worker.

Each side is one memfd with a slot for every value, sized for the longest that its manifest allows, aligned
to 64 bytes. Neither can shrink (a shorter file would kill whoever reads beyond its end), and the inputs
can be written through the mapping of their maker only. Shapes travel in messages, never in the memory.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vlad.errors import BundleError
from vlad.manifest import Value

ALIGNMENT = 64
SIDE_LIMIT = 1 << 30
SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h, since 5.1; not yet a name in fcntl
SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

Array = NDArray[np.float32]
Shapes = tuple[tuple[int, ...], ...]


class Slots:
    """The slots of one side of a block, in the order of the manifest.

    Raises BundleError when they would need more than 1 GiB.
    """

    def __init__(self, block: str, side: str, values: Sequence[Value], longest: int) -> None:
        self.names = tuple(value.name for value in values)
        self.rank = sum(len(value.shape) for value in values)
        self._where = f"block {block}: {side}"
        self._declared = tuple(tuple(value.shape) for value in values)
        self._longest = longest
        self._offsets = []
        self.nbytes = 0
        for shape in self._declared:
            self._offsets.append(self.nbytes)
            size = 4 * math.prod(longest if isinstance(d, str) else d for d in shape)
            self.nbytes += max(1, -(-size // ALIGNMENT)) * ALIGNMENT
        if self.nbytes > SIDE_LIMIT:
            raise BundleError(f"{self._where} need {self.nbytes} bytes, more than {SIDE_LIMIT}")

    def shapes(self, words: Sequence[int], known: Mapping[str, int] | None = None) -> Shapes:
        """The words of a message as shapes, each within its slot.

        known: dimensions by name that the other side has fixed. Raises ValueError saying what is wrong.
        """
        if len(words) != self.rank:
            raise ValueError(f"{self._where}: {len(words)} dimensions, not {self.rank}")
        dims, found, taken = dict(known or {}), [], 0
        for name, declared in zip(self.names, self._declared, strict=True):
            shape = tuple(words[taken : taken + len(declared)])
            taken += len(declared)
            for got, wanted in zip(shape, declared, strict=True):
                if isinstance(wanted, int):
                    good = got == wanted
                else:
                    good = 0 <= got <= self._longest and got == dims.setdefault(wanted, got)
                if not good:
                    raise ValueError(
                        f"{self._where}: {name} is {list(shape)}, declared {list(declared)} with at most "
                        f"{self._longest} tokens"
                    )
            found.append(shape)
        return tuple(found)

    def dimensions(self, shapes: Shapes) -> dict[str, int]:
        """The dynamic dimensions by name."""
        return {
            d: got
            for declared, shape in zip(self._declared, shapes, strict=True)
            for d, got in zip(declared, shape, strict=True)
            if isinstance(d, str)
        }

    def views(self, memory: mmap.mmap, shapes: Shapes) -> dict[str, Array]:
        """Arrays over the slots; they copy nothing, and are read-only where the mapping is."""
        return {
            name: np.frombuffer(memory, np.float32, math.prod(shape), offset).reshape(shape)
            for name, offset, shape in zip(self.names, self._offsets, shapes, strict=True)
        }


def create(slots: Slots, *, read_only: bool) -> tuple[int, mmap.mmap]:
    """A sealed memfd and the maker's writable mapping of it. read_only: nobody else can write to it."""
    descriptor = os.memfd_create("vlad-block", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, slots.nbytes)
        memory = mmap.mmap(descriptor, slots.nbytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SIZE | (SEAL_FUTURE_WRITE if read_only else 0))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, memory


def attach(descriptor: int, slots: Slots, *, read_only: bool) -> mmap.mmap:
    """The other side's mapping."""
    access = mmap.PROT_READ if read_only else mmap.PROT_READ | mmap.PROT_WRITE
    return mmap.mmap(descriptor, slots.nbytes, mmap.MAP_SHARED, access)
