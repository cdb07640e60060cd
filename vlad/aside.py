"""A long call on a thread of its own, while the caller's goes on: Python delivers signals only between two
steps of the main thread, and a call of a native library is one step."""

from __future__ import annotations

import threading
from collections.abc import Callable

NAME = "vlad-aside"


def run_aside(work: Callable[[], object], pause: Callable[[], bool]) -> bool:
    """Runs `work`, and `pause` again and again meanwhile, until it says that nobody waits any more.

    True when the work is done; False when it was left behind. Raises what `work` raised.
    """
    raised: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=body, name=NAME, daemon=True)
    thread.start()
    while thread.is_alive():
        if pause():
            return False
    if raised:
        raise raised[0]
    return True


def left_behind() -> bool:
    """Whether some work still runs. Then the process must end without the interpreter's and the libraries'
    clean-up, which would take away under it what it uses."""
    return any(thread.name == NAME for thread in threading.enumerate())
