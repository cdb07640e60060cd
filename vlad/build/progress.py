"""A progress bar on standard error while a terminal watches; silent otherwise."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """`with Progress("label", total) as progress: progress.advance("what", n)`. total: None where it is not known."""

    def __init__(self, label: str, total: int | None, *, quiet: bool = False) -> None:
        self._label = label
        self._total = total
        self._bar: Any = None
        self._task: Any = None
        self._visible = not quiet and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        if self._visible:
            try:
                from rich.console import Console
                from rich.progress import Progress as Bar
            except ImportError:
                return self
            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._total)
        return self

    def expect(self, total: int) -> None:
        """What `total` is, once it is known: the bar then has a share and an estimate of the time left."""
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def advance(self, what: str, amount: int = 1) -> None:
        """Count `amount` more of the total and name what is being worked on."""
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, description=f"{self._label}: {what}")
        elif self._visible:
            print(f"{self._label}: {what}", file=sys.stderr)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
