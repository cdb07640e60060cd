"""`vlad dataset`: what there is to do with a recorded dataset."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

# Verb -> module with main(argv) -> int, and what it is for.
VERBS = {"check": ("vlad.dataset.check_command", "the recording checklist, measured")}


def main(argv: Sequence[str]) -> int:
    """Dispatches. Exit status 2 for wrong usage."""
    words = "\n".join(f"  {name:9} {text}" for name, (_, text) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="vlad dataset",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Datasets of robot episodes: LeRobot v3.0 directories.",
        epilog=f"verbs:\n{words}\n\n`vlad dataset VERB --help` says more.",
    )
    parser.add_argument("verb", choices=list(VERBS), metavar="VERB")
    verb = parser.parse_args(list(argv[:1]) or ["--help"]).verb
    return int(importlib.import_module(VERBS[verb][0]).main(argv[1:]))
