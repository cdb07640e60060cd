"""Row 50: the compiled modules and this Python belong to one build, or nothing starts."""

from __future__ import annotations

import importlib
import pkgutil

from vlad import _native
from vlad.errors import AbiMismatch

ABI = 1  # VLAD_ABI of csrc/vlad.h


def check() -> None:
    """Raises AbiMismatch, naming every compiled module of another number, and what to do."""
    found = {}
    for module in pkgutil.iter_modules(_native.__path__):
        if not module.name.isidentifier():
            continue  # vlad-fused.so is ONNX Runtime's to load, and has a version of its own
        try:
            found[module.name] = getattr(importlib.import_module(f"vlad._native.{module.name}"), "ABI", "none")
        except ImportError as error:
            found[module.name] = f"none ({error})"
    if wrong := {name: number for name, number in found.items() if number != ABI}:
        said = ", ".join(f"{name} has {number}" for name, number in sorted(wrong.items()))
        raise AbiMismatch(
            f"the compiled modules are not those of this vlad (ABI {ABI}): {said}; "
            "install vlad anew, or run `make build` in a checkout"
        )
