"""`vlad flight`: what is in a flight record, and what a crashed daemon left in memory."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vlad.flight_fields import FlightError
from vlad.flight_file import Flight, read, write
from vlad.flight_memory import recover
from vlad.servo import now_ns


def main(argv: Sequence[str]) -> int:
    """Exit status 0, or 1 with a message."""
    parser = argparse.ArgumentParser(prog="vlad flight", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="channels, length and cause of a record")
    show.add_argument("file", metavar="FILE", type=Path)
    show.add_argument("--json", action="store_true")
    left = verbs.add_parser("recover", help="make a record of what a killed daemon left in memory")
    left.add_argument("file", metavar="FILE", type=Path, help="`flight.memory`, or that with .crashed")
    left.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    options = parser.parse_args(argv)
    if options.verb == "recover":
        return _recover(options.file, options.output)
    flight = read(options.file, only=lambda topic: False)
    print(json.dumps(_facts(flight)) if options.json else _text(flight))
    return 0


def _recover(memory: Path, output: Path) -> int:
    found = recover(memory)
    if found is None:
        raise FlightError(f"{memory}: there is none, or its daemon still runs: `vladctl dump` asks it")
    about = msgspec.structs.replace(found[0], reason="crash", written_ns=now_ns())
    try:
        size = write(output, about, found[1])
    except OSError as error:
        raise FlightError(f"{output}: {error.strerror}") from error
    print(f"{output}: {size} bytes")
    return 0


def _facts(flight: Flight) -> dict[str, object]:
    about = flight.about
    return {
        "reason": about.reason, "version": about.version, "board": about.board, "joints": about.joints,
        "first_ns": flight.first_ns, "last_ns": flight.last_ns, "written_ns": about.written_ns,
        "messages": flight.counts,
    }  # fmt: skip


def _text(flight: Flight) -> str:
    about, seconds = flight.about, (flight.last_ns - flight.first_ns) / 1e9
    lines = [f"{about.reason}: {seconds:.1f} s of vlad {about.version} on {about.board}, to "
             f"{flight.last_ns / 1e9:.3f} s of its clock"]  # fmt: skip
    lines += [f"  {n:7}  {topic}" for topic, n in sorted(flight.counts.items())]
    return "\n".join(lines)
