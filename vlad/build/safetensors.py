"""Bounded reading of what a checkpoint consists of: JSON files and safetensors, without torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.errors import BundleError

Array = NDArray[np.float32]

_JSON_LIMIT = 16 << 20
_HEADER_LIMIT = 100_000_000


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`, at most 16 MiB. Raises BundleError naming the file."""
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise BundleError(f"{path}: larger than {_JSON_LIMIT} bytes")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{path}: missing; is {path.parent} what LeRobot's save_pretrained wrote?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise BundleError(f"{path}: expected a JSON object, found {type(document).__name__}")
    return document


def is_file(path: Path) -> bool:
    """Whether there is a file, also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


class SafeTensors:
    """Tensors of one safetensors file, converted to float32 as they are asked for.

    `unread()` names the tensors that nobody asked for, so that nothing of a checkpoint is dropped
    unseen.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                    raise BundleError(f"{path}: not a safetensors file (header of {length} bytes)")
                header = json.loads(file.read(length))
        except FileNotFoundError:
            raise BundleError(f"{path}: missing") from None
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path}: not a safetensors file: {error}") from None
        metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(metadata, dict):
            raise BundleError(f"{path}: not a safetensors file (header is not as specified)")
        # A tensor that shares its memory with another is stored once; metadata has the other name.
        self._shared = {_plain(str(k)): _plain(str(v)) for k, v in metadata.items()}
        self._entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        self._asked: set[str] = set()
        for stored, entry in header.items():
            name = _plain(stored)
            if name in self._entries:
                raise BundleError(f"{path}: tensor {name!r} is there twice, also of a compiled model ({stored!r})")
            self._entries[name] = self._entry(stored, entry, 8 + length, size)
        self._data = np.memmap(path, dtype=np.uint8, mode="r")

    def _entry(self, name: str, entry: Any, base: int, size: int) -> tuple[str, tuple[int, ...], int, int]:
        try:
            kind, shape = str(entry["dtype"]), tuple(entry["shape"])
            start, end = entry["data_offsets"]
            if not all(type(n) is int for n in (*shape, start, end)):
                raise ValueError("shape and data_offsets are integers")
            start, end = base + start, base + end
        except (TypeError, KeyError, ValueError) as error:
            raise BundleError(f"{self.path}: bad entry for tensor {name!r}: {error!r}") from None
        width = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "F64": 8}.get(kind)
        if width is None:
            raise BundleError(f"{self.path}: tensor {name!r} has dtype {kind}, which is not supported")
        if min(shape, default=0) < 0 or not base <= start <= end <= size or end - start != width * math.prod(shape):
            raise BundleError(f"{self.path}: tensor {name!r} does not fit the file (truncated download?)")
        return kind, shape, start, end

    def __contains__(self, name: str) -> bool:
        return self._kept(name) in self._entries

    def names(self) -> list[str]:
        """All tensor names, `torch.compile` prefixes removed; of tensors that are one, each."""
        return [*self._entries, *(name for name, kept in self._shared.items() if kept in self._entries)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises BundleError when it is missing."""
        return self._find(name)[1]

    def dtype(self, name: str) -> str:
        """Stored dtype (F32, BF16, F16) of one tensor."""
        return self._find(name)[0]

    def _find(self, name: str) -> tuple[str, tuple[int, ...], int, int]:
        if name not in self:
            raise BundleError(
                f"{self.path}: tensor {name!r} is missing: is this of the policy type that config.json says?"
            )
        return self._entries[self._kept(name)]

    def _kept(self, name: str) -> str:
        """The name under which a tensor is stored."""
        return name if name in self._entries else self._shared.get(name, name)

    def stored(self, name: str) -> NDArray[Any]:
        """One tensor as stored; bfloat16 as its uint16 bits."""
        kind, shape, start, end = self._find(name)
        self._asked.add(self._kept(name))
        dtype = {"F32": "<f4", "BF16": "<u2", "F16": "<f2", "I64": "<i8", "F64": "<f8"}[kind]
        return np.frombuffer(self._data[start:end], dtype=dtype).reshape(shape)

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """One tensor as float32, checked to be finite and of `shape`. Raises BundleError."""
        found = self.shape(name)
        if shape is not None and found != shape:
            raise BundleError(f"{self.path}: tensor {name!r} has shape {list(found)}, expected {list(shape)}")
        return self._converted(name, self.stored(name))

    def rows(self, name: str, indices: Sequence[int]) -> Array:
        """Rows of a table as float32. Raises BundleError for one that it does not have."""
        stored = self.stored(name)
        if stored.ndim != 2 or max(indices) >= len(stored):
            raise BundleError(f"{self.path}: tensor {name!r} has shape {list(stored.shape)}, no row {max(indices)}")
        return self._converted(name, stored[list(indices)])

    def _converted(self, name: str, raw: NDArray[Any]) -> Array:
        values = widen(raw) if raw.dtype == np.uint16 else raw.astype(np.float32)
        if not np.isfinite(values).all():
            raise BundleError(f"{self.path}: tensor {name!r} holds values that are not finite")
        return values

    def ignore(self, *names: str) -> None:
        """Mark tensors that inference does not use."""
        self._asked.update(map(self._kept, names))

    def unread(self) -> list[str]:
        """Names that were neither read nor ignored."""
        return sorted(set(self._entries) - self._asked)


def _plain(name: str) -> str:
    """Without what `torch.compile` adds."""
    return name.replace("model._orig_mod.", "model.")


def widen(bits: NDArray[np.uint16]) -> Array:
    """bfloat16 bits to the float32 of the same value (exact)."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()
