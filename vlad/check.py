"""`vlad check BUNDLE`: is this bundle what it was when it was built, and does it compute the same here?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from vlad import bundle as bundles
from vlad.errors import BundleError
from vlad.golden import check_golden, open_for_check


def main(argv: Sequence[str]) -> int:
    """0 when the bundle is good, 1 when it is not."""
    parser = argparse.ArgumentParser(
        prog="vlad check",
        description="Verify a bundle: manifest, hashes, shapes, golden inputs and outputs.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        bundle = bundles.load(options.bundle)
        with open_for_check(bundle) as policy:
            golden = check_golden(policy)
    except BundleError as error:
        if options.json:
            print(json.dumps({"ok": False, "error": str(error)}))
            return 1
        raise
    manifest = bundle.manifest
    tasks = list(manifest.task_texts)
    result = {
        "ok": True,
        "policy": manifest.policy_type,
        "cameras": [c.name for c in manifest.cameras],
        "joints": [j.name for j in manifest.joints],
        "rate_hz": manifest.rate_hz,
        "chunk_size": manifest.chunk_size,
        "tasks": tasks,
        "blocks": {b.name: {"backend": b.backend, "dtype": b.dtype, "bytes": b.file.bytes}
                   for b in manifest.blocks},
        "golden": {"differences": golden.differences, "tolerance": golden.tolerance},
    }
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{options.bundle}: good")
    print(f"  {manifest.policy_type}, {manifest.chunk_size} actions at {manifest.rate_hz:g} Hz")
    print(f"  cameras {', '.join(c.name for c in manifest.cameras)}")
    for text in tasks:
        print(f"  task    {text}")
    for block in manifest.blocks:
        print(f"  block   {block.name:8} {block.backend} {block.dtype} {block.file.bytes / 1e6:.1f} MB")
    for name, difference in golden.differences.items():
        print(f"  golden  {name:8} max |difference| {difference:.3g} (allowed {golden.tolerance:g})")
    return 0
