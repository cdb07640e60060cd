"""The directory of a bundle while it is written: what is copied into it, and how it takes its place at once."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from vlad import manifest as manifests
from vlad.build.safetensors import sha256
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.manifest import File, Manifest
from vlad.whole_file import sync_directory


def file_entry(root: Path, path: str) -> File:
    """The manifest's entry of a file that is there."""
    return File(path=path, bytes=(root / path).stat().st_size, sha256=sha256(root / path))


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Into the bundle under construction at `root`. Raises BundleError for one that could not be read back."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    manifests.parse_manifest(text)
    (root / manifests.MANIFEST).write_bytes(text)


def copy_files(source: Bundle, named: Iterable[File], root: Path) -> None:
    """Files of `source` into the bundle under construction at `root`, under the same names."""
    for file in named:
        (root / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.file(file), root / file.path)


@contextlib.contextmanager
def replacing(target: Path, rooms: Iterable[str] = ("blocks", "golden")) -> Iterator[Path]:
    """A directory beside `target` with these directories in it. It takes the place of `target` when it is
    left, flushed to disk; when anything fails there is no such directory any more, and `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        for name in rooms:
            (partial / name).mkdir()
        yield partial
        _sync(partial)
        _put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync(root: Path) -> None:
    """Flush every file and directory: after a power cut a bundle is either whole or absent."""
    for directory, _, names in os.walk(root, topdown=False):
        for path in [*(Path(directory) / name for name in names), Path(directory)]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raises BundleError where there is something that may not be replaced: with `force`, what is no bundle."""
    if not target.exists():
        return
    if not force:
        raise BundleError(f"{target}: exists already; give another -o, or --force to replace it")
    if not (target / manifests.MANIFEST).is_file():
        raise BundleError(f"{target}: is no bundle, so --force does not replace it; give another -o")


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Makes the directory that `target` is to be in. Raises BundleError for what the file system refuses inside."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise BundleError(f"{target}: not written: {error}") from error


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`; what was there is gone afterwards, or untouched when this fails."""
    aside = target.parent / f".{target.name}.replaced-{os.getpid()}"
    if target.exists():
        os.rename(target, aside)
    try:
        os.rename(partial, target)
    except OSError:
        if aside.exists():
            os.rename(aside, target)
        raise
    sync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)
