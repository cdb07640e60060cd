"""The watchdog of csrc/watchdog.c, documented in vlad/_native/watchdog.pyi."""

from __future__ import annotations

from vlad._native.watchdog import REACTIONS, STAGES, Watchdog

__all__ = ["REACTIONS", "STAGES", "Watchdog"]
