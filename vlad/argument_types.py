"""What words on a command line may be: `type=` of argparse, which puts the name of the option before the error."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """1 to 4096."""
    value = int(text)
    if not 1 <= value <= 4096:
        raise argparse.ArgumentTypeError("1 to 4096")
    return value


def seconds(text: str) -> float:
    """A duration of a day at most."""
    return _above_0(text, 86400)


def minutes(text: str) -> float:
    """A duration of a week at most."""
    return _above_0(text, 10080)


def share(text: str) -> float:
    """More than 0, at most 1."""
    return _above_0(text, 1)


def cosine(text: str) -> float:
    """-1 to 1."""
    value = float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError("-1 to 1")
    return value


def names(text: str) -> tuple[str, ...]:
    """One or more, separated by commas."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return found


def numbers(text: str) -> tuple[int, ...]:
    """One or more whole numbers, separated by commas."""
    return tuple(int(name) for name in names(text))


def _above_0(text: str, most: int) -> float:
    value = float(text)
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"more than 0 and at most {most}")
    return value
