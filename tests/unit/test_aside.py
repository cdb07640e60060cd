"""A long call aside: its end, its error, and being left behind."""

from __future__ import annotations

import threading

import pytest

from vlad.aside import left_behind, run_aside
from vlad.errors import BundleError


def test_it_ends_and_what_it_raises_is_raised() -> None:
    go_on, rounds = threading.Event(), []

    def pause() -> bool:
        rounds.append(1)
        go_on.set()
        return False

    assert run_aside(lambda: go_on.wait(30), pause) and rounds

    def bad() -> None:
        raise BundleError("no manifest")

    with pytest.raises(BundleError, match="no manifest"):
        run_aside(bad, lambda: False)
    assert not left_behind()


def test_it_is_left_behind() -> None:
    end = threading.Event()
    assert not run_aside(lambda: end.wait(30), lambda: True)
    assert left_behind()
    end.set()
