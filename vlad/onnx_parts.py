"""What an ONNX file refers to outside itself, found without loading it.

A tensor may keep its values in another file, under any path, which nobody has hashed. ONNX Runtime
would follow it (how far, differs between its versions), so the structure is walked before, in the wire
format of protocol buffers: field numbers are those of onnx/onnx.proto, weights are stepped over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vlad.errors import BundleError

MAX_FIELDS = 500_000  # of a whole file, about a second; the demo's blocks have 2000
MAX_DEPTH = 100  # as protocol buffers themselves
LENGTH_DELIMITED = 2
FIXED = {1: 8, 5: 4}

# Message -> field -> message: every way from a model to a tensor.
MODEL, GRAPH, NODE, ATTRIBUTE, FUNCTION, SPARSE, TENSOR, TRAINING = range(8)
WAYS = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    TRAINING: {1: GRAPH, 2: GRAPH},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of a tensor


def refuse_external_data(path: Path, where: str) -> None:
    """Raises BundleError when a tensor of the ONNX file `path` (named `where`) is kept in another file, or
    when the file is no protocol buffer.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:  # as a protocol buffer, a model without anything
            raise BundleError(f"{where}: not an ONNX graph: empty")
        _Walk(file, where).message(MODEL, size, 0)


class _Walk:
    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file = file
        self._where = where
        self._fields = 0

    def message(self, kind: int, end: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise BundleError(f"{self._where}: not an ONNX graph: nested over {MAX_DEPTH} deep")
        for field, wire, value in self._read_fields(end):
            if kind == TENSOR and (field == EXTERNAL_DATA or (field == DATA_LOCATION and value)):
                raise BundleError(f"{self._where}: keeps a tensor in another file, which the manifest does not hash")
            inner = WAYS[kind].get(field)
            if wire == LENGTH_DELIMITED:
                stop = self._file.tell() + value
                if inner is not None:
                    self.message(inner, stop, depth + 1)
                self._file.seek(stop)

    def _read_fields(self, end: int) -> Iterator[tuple[int, int, int]]:
        """(field, wire type, value or length); the caller leaves the file behind the field."""
        while self._file.tell() < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise BundleError(f"{self._where}: not an ONNX graph: over {MAX_FIELDS} parts")
            key = self._varint()
            if key >> 32:  # protocol buffers would drop the upper bits, and read another field
                raise BundleError(f"{self._where}: not an ONNX graph: a field's number is out of bounds")
            field, wire = key >> 3, key & 7
            value = 0
            if wire == 0:
                value = self._varint()
            elif wire in FIXED:
                self._file.seek(FIXED[wire], os.SEEK_CUR)
            elif wire == LENGTH_DELIMITED:
                value = self._varint()
            else:
                raise BundleError(f"{self._where}: not an ONNX graph: wire type {wire}")
            if self._file.tell() + (value if wire == LENGTH_DELIMITED else 0) > end:
                raise BundleError(f"{self._where}: not an ONNX graph: it ends within a field")
            yield field, wire, value

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._file.read(1)
            if not byte:
                raise BundleError(f"{self._where}: not an ONNX graph: it ends within a number")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise BundleError(f"{self._where}: not an ONNX graph: a number of over 10 bytes")
