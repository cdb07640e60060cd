"""`vladctl top`: the live view in a terminal. curses sends only what changed, so it is usable over a
slow line.
"""

from __future__ import annotations

import curses
import locale
import os
import time
from collections.abc import Callable
from typing import Any

from vlad.top_screen import ASCII, UNICODE, Glyphs, History, Line, screen

Ask = Callable[[str], dict[str, Any]]
"""A verb of the control socket to its result. Raises what vlad.cli.ask raises."""

COLOURS = {"good": curses.COLOR_GREEN, "warn": curses.COLOR_YELLOW, "bad": curses.COLOR_RED, "goal": curses.COLOR_CYAN}


def run(ask: Ask, interval_s: float, lost: tuple[type[Exception], ...], *, ascii_only: bool = False) -> int:
    """Until q or Ctrl-C. `lost`: exceptions of `ask` that mean that no daemon answers now."""
    locale.setlocale(locale.LC_ALL, "")
    os.environ.setdefault("ESCDELAY", "25")
    first = ask("status")  # an error is told as usual, before the terminal is taken
    glyphs = ASCII if ascii_only or "utf" not in locale.nl_langinfo(locale.CODESET).lower() else UNICODE
    return curses.wrapper(lambda window: _loop(window, ask, interval_s, lost, status=first, glyphs=glyphs))


def _loop(window: Any, ask: Ask, interval_s: float, lost: tuple[type[Exception], ...], *, status: dict[str, Any],
          glyphs: Glyphs) -> int:
    styles = _styles()
    curses.curs_set(0)
    history, paused, message, alarm = History(), False, "", ""
    while True:
        if not paused:
            try:
                status, message = ask("status"), ""
                history.add(status)
            except lost as error:
                message = f"no answer: {error}"
        height, width = window.getmaxyx()
        _draw(window, screen(status, history, now_ns=time.monotonic_ns(), width=width, height=height, glyphs=glyphs,
                             paused=paused, message=alarm or message), styles)
        window.timeout(round(interval_s * 1000))
        key = window.getch()
        if key == ord("q"):
            return 0
        if key == ord("p"):
            paused = not paused
        elif key == ord(" "):
            alarm = ""
            try:
                ask("hold")
            except Exception as error:  # whatever the reason, the operator must see that it did not hold
                alarm = f"HOLD FAILED: {error}"


def _styles() -> dict[str, int]:
    styles = {"": 0, "dim": curses.A_DIM, "bold": curses.A_BOLD}
    coloured = curses.has_colors() and "NO_COLOR" not in os.environ
    if coloured:
        curses.use_default_colors()
    for number, (name, colour) in enumerate(COLOURS.items(), start=1):
        if coloured:
            curses.init_pair(number, colour, -1)
        styles[name] = (curses.color_pair(number) if coloured else 0) | (curses.A_BOLD if name == "bad" else 0)
    return styles


def _draw(window: Any, lines: list[Line], styles: dict[str, int]) -> None:
    window.erase()
    for row, line in enumerate(lines):
        column = 0
        for text, style in line:
            try:
                window.addstr(row, column, text, styles[style])
            except curses.error:  # the last cell of the last line cannot be left behind
                break
            column += len(text)
    window.refresh()
