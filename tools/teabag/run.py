"""The directory of one run: who holds it, what it is to become, and what of it is there (recipe.json)."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tools.teabag.settings import Settings
from vlad.build.safetensors import sha256
from vlad.errors import ConfigError
from vlad.whole_file import write_whole

RECIPE = "recipe.json"
FORMAT = 1
_MAX_BYTES = 1 << 20
_VERSIONS = ("lerobot", "torch", "transformers", "tokenizers", "numpy", "mujoco")


class Recipe(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """made: of each stage that is finished, the SHA-256 of its file, or how much of what there is."""

    format: int = FORMAT
    settings: Settings
    versions: dict[str, str]
    made: dict[str, str]


class Run:
    """`out` for this process alone until it ends; a new directory, or one that was begun with the same settings.

    Raises ConfigError where it was begun with others, by other versions, or by a process that still runs.
    """

    def __init__(self, out: Path, settings: Settings) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.settings = out, settings
        self._lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{out}: another run is at work there") from None
        for left in (*out.glob(".*.partial-*"), *out.glob("*/.*.partial-*")):
            shutil.rmtree(left)  # of a process that was killed: the lock says that it is gone
        versions = {"python": platform.python_version()}
        versions |= {name: importlib.metadata.version(name) for name in _VERSIONS}
        wanted = Recipe(settings=settings, versions=versions, made={})
        self._recipe = _read(out / RECIPE) or wanted
        for what in ("format", "settings", "versions"):
            there, here = getattr(self._recipe, what), getattr(wanted, what)
            if there != here:
                raise ConfigError(f"{out / RECIPE}: begun with {what} {there}; now {here}: give a new directory")
        self._write()

    def stage(self, name: str, file: Path, make: Callable[[], None]) -> None:
        """Make `file` (under `out`), unless it is there. Raises ConfigError where it is not what was once made."""
        print(f"{name}: {'is there' if file.exists() else 'begins'}", flush=True)
        if not file.exists():
            make()
        self.note(name, sha256(file))

    def note(self, name: str, what: str) -> None:
        """Put into recipe.json what a stage has made. Raises ConfigError where it once made something else."""
        if self._recipe.made.get(name, what) != what:
            raise ConfigError(f"{self.out}: {name} is not what {RECIPE} says was made, and what came after it was made "
                              "of that: begin in a new directory")  # fmt: skip
        self._recipe.made[name] = what
        self._write()

    def _write(self) -> None:
        write_whole(self.out / RECIPE, msgspec.json.format(msgspec.json.encode(self._recipe), indent=1) + b"\n")


def _read(file: Path) -> Recipe | None:
    if not file.exists():
        return None
    if file.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{file}: over {_MAX_BYTES} bytes")
    try:
        return msgspec.json.decode(file.read_bytes(), type=Recipe)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: not a recipe of tools.teabag: {error}") from None


def report(out: Path, stage: str, step: int, **figures: Any) -> None:
    """Say how far a stage is, and append it to figures.jsonl."""
    rounded = {k: [round(float(x), 4) for x in v] if hasattr(v, "__len__") else round(float(v), 4)
               for k, v in figures.items()}  # fmt: skip
    line = json.dumps({"stage": stage, "step": step, **rounded})
    print(line, flush=True)
    with (out / "figures.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
