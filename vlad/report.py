"""`vlad report`: one HTML page, without a network, with the plots of a run.

FILE is a flight record (docs/flight-record.md). DIR holds what `vlad demo --out DIR` or `make soak` leaves:
report.json, samples.jsonl, events.jsonl, flight records; also those in its directories `flight` and `real`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from vlad.flight_fields import FlightError
from vlad.report_figures import figures
from vlad.report_run import ReportError, Run, from_directory, from_flight

MAX_RECORDS = 4


def main(argv: Sequence[str]) -> int:
    """Exit status 0, or 1 with a message."""
    parser = argparse.ArgumentParser(prog="vlad report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("source", metavar="DIR|FILE", type=Path)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("report.html"),
                        help="report.html")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures, and write no page")
    options = parser.parse_args(argv)
    runs, notes = gather(options.source)
    if options.json:
        print(json.dumps({"runs": [figures(run) for run in runs], "notes": notes}))
        return 0
    size = write(options.output, f"vlad: {options.source.resolve().name}", runs, notes)
    print(f"{options.output}: {len(runs)} {'part' if len(runs) == 1 else 'parts'}, {size / 1e6:.1f} MB")
    return 0


def write(output: Path, title: str, runs: Sequence[Run], notes: Sequence[str]) -> int:
    """Writes the page; its size in bytes. ReportError."""
    from vlad.report_page import page

    data = page(title, runs, notes).encode()
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ReportError(f"{output}: {error.strerror}") from error
    return len(data)


def gather(source: Path) -> tuple[list[Run], list[str]]:
    """What there is, the whole run first, then the newest flight records; and what was left out.

    FlightError or ReportError where the source itself is not what it must be, or there is nothing.
    """
    if not source.is_dir():
        if not source.exists():
            raise ReportError(f"{source}: there is no such file or directory")
        return [from_flight(source)], []
    places = [source, *(source / name for name in ("real", "flight", "real/flight"))]
    runs = [run for place in places if (run := from_directory(place)) is not None]
    records = sorted({r for place in places for r in place.glob("*.mcap")}, key=lambda r: r.stat().st_mtime)
    notes = []
    if len(records) > MAX_RECORDS:
        notes.append(f"{len(records)} flight records, of which the newest {MAX_RECORDS} are shown: "
                     "`vlad report FILE` shows any other.")  # fmt: skip
    for record in records[-MAX_RECORDS:]:
        try:
            runs.append(from_flight(record))
        except FlightError as error:
            notes.append(f"Not shown: {error}")
    if not runs:
        raise ReportError(f"{source}: neither a flight record nor samples.jsonl or events.jsonl is in it"
                          + "".join(f"; {note}" for note in notes))  # fmt: skip
    return runs, notes
