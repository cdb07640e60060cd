"""`vlad dataset check PATH`: is this dataset fit to train on, and what to do where it is not?

Exit status: 0 nothing is bad, 1 something is, 2 it cannot be told (wrong usage, no dataset, a file that is damaged).
What each item measures, and why its threshold is what it is: docs/dataset-check.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vlad.argument_types import count
from vlad.build.progress import Progress
from vlad.errors import VladError
from vlad.whole_file import write_whole

BAD, UNKNOWN = 1, 2
PICTURES = 20


def main(argv: Sequence[str]) -> int:
    """See above."""
    options = _parser().parse_args(argv)
    try:
        return _check(options)
    except VladError as error:
        print(f"vlad dataset check: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vlad"):
            raise
        print(f"vlad dataset check: needs {error.name}: pip install 'vlad[dataset]'", file=sys.stderr)
    except OSError as error:
        print(f"vlad dataset check: {error.filename}: {error.strerror}", file=sys.stderr)
    return UNKNOWN


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="vlad dataset check", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("path", type=Path, metavar="PATH", help="directory of a LeRobot dataset v3.0")
    p.add_argument("--frames", type=_pictures, default=PICTURES, metavar="N",
                   help=f"pictures of each camera to look at in an episode, from 10 (default {PICTURES})")  # fmt: skip
    p.add_argument("--clusters", type=count, metavar="N", help="how many start positions there are, if not recorded")
    p.add_argument("--validation-clusters", type=_numbers, metavar="N,...",
                   help="recorded clusters that are held out (default: the splits in meta/info.json)")  # fmt: skip
    p.add_argument("--json", type=Path, metavar="FILE", help="write all figures; - for standard output")
    p.add_argument("--html", type=Path, metavar="FILE", help="write one page with plots and pictures")
    return p


def _pictures(text: str) -> int:
    if count(text) < 10:
        raise argparse.ArgumentTypeError("10 to 4096: with fewer the arm is not told from what stands still")
    return count(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _check(options: argparse.Namespace) -> int:
    if options.html is not None:
        importlib.import_module("matplotlib")  # missing, it is missed before the work and not after it
    from vlad.dataset.check import as_json, check, in_words
    from vlad.dataset.reader import read_recording

    with Progress("checking", None) as progress:
        recording = read_recording(options.path)
        progress.expect(len(recording.episodes) * len(recording.dataset.cameras))
        found = check(recording, options.frames, options.clusters, options.validation_clusters, progress.advance)
    document = json.dumps(as_json(found), indent=1, allow_nan=False)
    if options.html is not None:
        from vlad.dataset.page import page

        write_whole(options.html, page(found).encode())
    if options.json is not None and str(options.json) != "-":
        write_whole(options.json, document.encode() + b"\n")
    print(document if str(options.json) == "-" else in_words(found))
    return 0 if found.ok else BAD
