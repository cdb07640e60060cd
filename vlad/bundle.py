"""The policy bundle: a directory `NAME.vlad/` with `manifest.json`, ONNX blocks and plain arrays.

Everything that is read is bounded first and belongs to the directory: no pickle, no links, no path
that leads out. A bundle that fails any check raises BundleError and nothing of it is used.

What is hashed is what is loaded: a file is used through the descriptor that found it, and only while
it carries the stamp that it had when it was hashed. docs/bundle.md says what that holds against.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.errors import BundleError
from vlad.manifest import MANIFEST, Block, File, Manifest, files, parse_manifest
from vlad.signature import SIGNATURE, SIGNATURE_BYTES, Trust, check_signature

__all__ = ["Bundle", "Manifest", "load"]

MANIFEST_LIMIT = 4 << 20

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime (ns): one of them changes when a file is replaced or written to."""


class Bundle:
    """A bundle that passed its checks. Its files are reached through it alone.

    text: the bytes of manifest.json that `manifest` was read from. signer: the public key, in hex,
    whose signature of them was verified; None where none was looked for or there is none.
    """

    def __init__(self, path: Path, manifest: Manifest, text: bytes = b"", signer: str | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.text = text
        self.signer = signer
        self._stamps: dict[str, Stamp] = {}

    @property
    def manifest_sha256(self) -> str:
        """In hex: it stands for the whole bundle, because the manifest holds the hash of every file."""
        return hashlib.sha256(self.text).hexdigest()

    def block(self, name: str) -> Block:
        """The block called `name`. Raises BundleError when there is none."""
        for block in self.manifest.blocks:
            if block.name == name:
                return block
        raise BundleError(f"{self.path}: no block {name!r} (it has {[b.name for b in self.manifest.blocks]})")

    def verify(self, file: File, progress: Callable[[int], None] | None = None) -> None:
        """Hash a file; from then on it is used only while it is the same. Raises BundleError."""
        with self._opened(file) as (path, stamp):
            if _sha256(path, file.bytes, progress) != file.sha256:
                raise BundleError(
                    f"{self.path / file.path}: sha256 differs from the manifest: the file is damaged or was replaced"
                )
        self._stamps[file.path] = stamp

    @contextlib.contextmanager
    def opened(self, file: File) -> Iterator[Path]:
        """A file of the bundle under /proc/self/fd: the one that was hashed, whatever its name is now.

        Raises BundleError unless it is a regular file inside, of the stated size; likewise when it was
        changed since it was hashed, or is being changed, also at the end of the context: what was
        loaded meanwhile must not be used then.
        """
        with self._opened(file) as (path, _):
            yield path

    @contextlib.contextmanager
    def _opened(self, file: File) -> Iterator[tuple[Path, Stamp]]:
        where = self.path / file.path
        with _regular(self.path, file.path) as descriptor:
            stamp = _stamp(descriptor)
            if stamp[2] != file.bytes:
                raise BundleError(f"{where}: {stamp[2]} bytes, the manifest says {file.bytes}")
            if self._stamps.get(file.path, stamp) != stamp:
                raise BundleError(f"{where}: replaced or written to since it was verified: load the bundle again")
            yield Path(f"/proc/self/fd/{descriptor}"), stamp
            if _stamp(descriptor) != stamp:
                raise BundleError(f"{where}: written to while it was read: load the bundle again")

    def file(self, file: File) -> Path:
        """Path of a file of the bundle, checked as `opened` does, for what reads it later by name and
        proves what it read in another way.
        """
        with self._opened(file):
            return self.path / file.path

    def array(self, file: File) -> NDArray[Any]:
        """A numeric `.npy` array of the bundle, read whole: what is written to its file later does not
        reach a policy that runs. Raises BundleError.
        """
        where = self.path / file.path
        with self.opened(file) as path:
            try:
                values = np.load(path, allow_pickle=False)
            except Exception as error:  # numpy parses the header as Python source, with all its errors
                raise BundleError(f"{where}: not a numeric .npy array: {error}") from None
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.nbytes > file.bytes:
            raise BundleError(f"{where}: not a numeric .npy array")
        return values


def load(
    path: Path,
    *,
    verify: bool = True,
    trust: Trust | None = None,
    manifest_sha256: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Bundle:
    """Read the manifest of the bundle directory `path` and check it, with `verify` the sha256 of
    every file too.

    trust: whose signature it may or must carry; it is verified before the manifest is parsed, over
    the same bytes. manifest_sha256: no other bundle than this one. progress: called with bytes
    hashed. Raises BundleError saying what is wrong; no graph is loaded yet.
    """
    if not path.is_dir():
        why = "not a directory" if path.exists() else "no such directory"
        raise BundleError(f"{path}: not a bundle directory ({why})")
    text = _read_bounded(path, MANIFEST, MANIFEST_LIMIT)
    if not text:
        raise BundleError(f"{path / MANIFEST}: empty")
    if manifest_sha256 is not None and hashlib.sha256(text).hexdigest() != manifest_sha256:
        raise BundleError(f"{path / MANIFEST}: another one than that with sha256 {manifest_sha256}: it was replaced")
    signer = None if trust is None else check_signature(text, _signature(path), trust, path / SIGNATURE)
    bundle = Bundle(path, parse_manifest(text, str(path / MANIFEST)), text, signer)
    for file in files(bundle.manifest):
        if verify:
            bundle.verify(file, progress)
        else:
            bundle.file(file)
    return bundle


@contextlib.contextmanager
def _regular(root: Path, name: str) -> Iterator[int]:
    """A regular file below `root`, open for reading. Raises BundleError for absolute paths, `..`, links,
    devices, pipes and sockets; none of these is opened, because that alone can have an effect.
    """
    plain = PurePosixPath(name)
    if not plain.parts or str(plain) != name or plain.is_absolute() or ".." in plain.parts or set(name) & {"\\", "\0"}:
        raise BundleError(f"{root / MANIFEST}: path {name!r} leads out of the bundle, or is not written plainly")
    at = root
    with contextlib.ExitStack() as stack:
        try:
            found = _closed_by(stack, os.open(root, os.O_PATH | os.O_CLOEXEC))
            for part in plain.parts:
                at = at / part
                found = _closed_by(stack, os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found))
                mode = os.fstat(found).st_mode
                if stat.S_ISLNK(mode):
                    raise BundleError(f"{at}: symbolic links are not allowed in a bundle")
            if not stat.S_ISREG(mode):
                raise BundleError(f"{at}: not a regular file")
            descriptor = _closed_by(stack, os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise BundleError(f"{at}: {error.strerror}: the bundle is incomplete") from None
        yield descriptor


def _closed_by(stack: contextlib.ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _stamp(descriptor: int) -> Stamp:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_bounded(root: Path, name: str, limit: int) -> bytes:
    with _regular(root, name) as descriptor, open(descriptor, "rb", closefd=False) as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise BundleError(f"{root / name}: larger than {limit} bytes")
    return text


def _signature(root: Path) -> bytes | None:
    """What manifest.sig holds, or one byte more than it may; None where there is none."""
    if not os.path.lexists(root / SIGNATURE):
        return None
    with _regular(root, SIGNATURE) as descriptor:
        return os.read(descriptor, SIGNATURE_BYTES + 1)


def _sha256(path: Path, size: int, progress: Callable[[int], None] | None) -> str:
    """Of the first `size` bytes: a file that grows meanwhile does not keep this busy for ever."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()
