"""The policy bundle: a directory `NAME.vlad/` with `manifest.json`, ONNX blocks and plain arrays.

Everything that is read is bounded first and belongs to the directory: no pickle, no links, no path
that leads out. A bundle that fails any check raises BundleError and nothing of it is used.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.errors import BundleError
from vlad.manifest import MANIFEST, Block, File, Manifest, files, parse_manifest

__all__ = ["Bundle", "Manifest", "load"]

MANIFEST_LIMIT = 4 << 20


class Bundle:
    """A bundle that passed its checks. Paths are resolved through it alone."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def block(self, name: str) -> Block:
        """The block called `name`. Raises BundleError when there is none."""
        for block in self.manifest.blocks:
            if block.name == name:
                return block
        raise BundleError(f"{self.path}: no block {name!r} (it has {[b.name for b in self.manifest.blocks]})")

    def file(self, file: File) -> Path:
        """Path of a file of the bundle. Raises BundleError unless it is a regular file inside, of
        the stated size.
        """
        return _inside(self.path, file)

    def array(self, file: File, *, mapped: bool = False) -> NDArray[Any]:
        """A numeric `.npy` array of the bundle, read or memory mapped. Raises BundleError."""
        path = self.file(file)
        try:
            values = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except Exception as error:  # numpy parses the header as Python source, with all its errors
            raise BundleError(f"{path}: not a numeric .npy array: {error}") from None
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.nbytes > file.bytes:
            raise BundleError(f"{path}: not a numeric .npy array")
        return values


def load(path: Path, *, verify: bool = True, progress: Callable[[int], None] | None = None) -> Bundle:
    """Read the manifest of the bundle directory `path` and check it, with `verify` the sha256 of
    every file too.

    Raises BundleError saying what is wrong; no graph is loaded yet. `progress` is called with bytes
    hashed.
    """
    if not path.is_dir():
        why = "not a directory" if path.exists() else "no such directory"
        raise BundleError(f"{path}: not a bundle directory ({why})")
    manifest = parse_manifest(_read_bounded(path / MANIFEST, MANIFEST_LIMIT), str(path / MANIFEST))
    bundle = Bundle(path, manifest)
    for file in files(manifest):
        target = bundle.file(file)
        if verify and _sha256(target, progress) != file.sha256:
            raise BundleError(f"{target}: sha256 differs from the manifest: the file is damaged or was replaced")
    return bundle


def _inside(root: Path, file: File) -> Path:
    """Refuse absolute paths, `..`, links and what is not a regular file of the stated size."""
    parts = PurePosixPath(file.path).parts
    if not parts or file.path.startswith("/") or "\\" in file.path or "\0" in file.path or ".." in parts:
        raise BundleError(f"{root / MANIFEST}: path {file.path!r} leads out of the bundle")
    target = root
    try:
        for part in parts:
            target = target / part
            if target.is_symlink():
                raise BundleError(f"{target}: symbolic links are not allowed in a bundle")
        status = target.lstat()
    except OSError as error:
        raise BundleError(f"{target}: {error.strerror}: the bundle is incomplete") from None
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{target}: not a regular file")
    if status.st_size != file.bytes:
        raise BundleError(f"{target}: {status.st_size} bytes, the manifest says {file.bytes}")
    return target


def _read_bounded(path: Path, limit: int) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}: not a bundle, or an incomplete one") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{path}: not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(text) > limit:
        raise BundleError(f"{path}: larger than {limit} bytes")
    return text


def _sha256(path: Path, progress: Callable[[int], None] | None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()
