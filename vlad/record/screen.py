"""What a recording shows at the operator's terminal: where it is, how it goes, which keys there are."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

from vlad.dataset import files
from vlad.record.session import Session

EVERY_S = 0.2

WORDS = {
    "starting": "starting", "approach": "the arm comes to where you are", "record": "recording",
    "label": "how was it?", "saving": "saving", "reset": "put things back", "held": "the arm holds", "done": "done",
}  # fmt: skip
KEYS = {
    "record": "Enter success   Backspace failure   → end   ← record again   Esc stop",
    "label": "Enter success   Backspace failure   ← record again   Esc stop",
    "reset": "→ next episode   Esc stop",
    "held": "→ go on   Esc stop",
}


class Screen:
    """Live lines on a terminal; elsewhere a line a phase. On stderr: stdout is for results."""

    def __init__(self, help_line: str = "") -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._console = console
        self._help = help_line
        self._drawn_s = 0.0
        self._said = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, session: Session) -> None:
        """After each frame; draws five times a second."""
        if self._live is None:
            said = f"episode {session.writer.episodes}: {WORDS[session.phase]}"
            if said != self._said:
                sys.stderr.write(f"{said}\n")
            self._said = said
        elif time.monotonic() - self._drawn_s >= EVERY_S:
            self._drawn_s = time.monotonic()
            self._live.update(self._text(session), refresh=True)

    def _text(self, session: Session) -> Any:
        from rich.text import Text

        plan, saved = session.plan, session.saved
        limit = {"record": plan.episode_time_s, "reset": plan.reset_time_s}.get(session.phase)
        clock = f"{session.seconds:5.1f} s" + (f" of {limit:g} s" if limit else "")
        free = files.free_bytes(session.writer.root) / 2**30
        red = session.phase == "record"
        lines = Text()
        lines.append(f"{'●' if red else '○'} {WORDS[session.phase]}", "bold red" if red else "bold")
        lines.append(f"   episode {min(session.done + 1, plan.num_episodes)} of {plan.num_episodes}   {clock}\n")
        lines.append(f"  {plan.single_task}\n", "italic")
        lines.append(f"  saved {saved['success']} successes, {saved['failure']} failures   dropped {session.dropped}   "
                     f"frames {session.writer.frames_under_way}   encoder behind {session.writer.behind}   "
                     f"disk {free:.1f} GiB\n", "dim")  # fmt: skip
        report = {k: v for k, v in session.rig.report().items() if v}
        if report:
            lines.append("  " + "   ".join(f"{k} {v}" for k, v in report.items()) + "\n", "yellow")
        if session.problem:
            lines.append(f"  {session.problem}\n", "red")
        if keys := KEYS.get(session.phase):
            lines.append(f"  {keys}\n", "cyan")
        if self._help:
            lines.append(f"  {self._help}\n", "cyan")
        return lines
