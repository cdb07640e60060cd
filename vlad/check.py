"""`vlad check BUNDLE`: is this bundle what it was when it was built, and does it compute the same here?"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlad import bundle as bundles
from vlad import config as configuration
from vlad.backend import Placed, Placement, Session, Threads
from vlad.block_workers import BlockWorkers
from vlad.bundle import Bundle
from vlad.config import Config
from vlad.config_keys import BlocksKeys, StagesKeys
from vlad.errors import BundleError, Refused, VladError
from vlad.golden import GoldenCheck, check_golden, open_for_check
from vlad.manifest import Manifest, files
from vlad.policy_loading import mismatches
from vlad.signature import SIGNATURE, Trust, read_public_key, require_cryptography


def main(argv: Sequence[str]) -> int:
    """0 when the bundle is good, 1 when it is not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="vlad check",
        description="Verify a bundle: signature, manifest, hashes, shapes, golden inputs and outputs.",
        epilog="exit status: 0 everything that was looked at is good, 1 something is not, 2 usage",
    )
    parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="directory NAME.vlad")
    parser.add_argument("--json", action="store_true", help="print the findings, or the error, as one JSON object")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a manifest, and no more")
    parser.add_argument("--require-signature", action="store_true", help="a bundle without a signature is not good")
    parser.add_argument("--trust", type=Path, action="append", default=[], metavar="PUB",
                        help="public key; one that is signed by none of them is not good")  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE",
                        help="of a daemon: its keys, its execution providers, and what fits its robot")  # fmt: skip
    options = parser.parse_args(argv)
    if options.schema:
        print(json.dumps(msgspec.json.schema(Manifest), indent=2))
        return 0
    if options.bundle is None:
        parser.error("give a BUNDLE, or --schema")
    try:
        config = None if options.config is None else configuration.load(options.config, machine=False)
        found = check(options.bundle, trust_of(options.trust, options.require_signature, config), config)
    except VladError as error:
        if options.json:
            print(json.dumps({"ok": False, "error": str(error)}))
            return 1
        raise
    print(json.dumps(found) if options.json else in_words(str(options.bundle), found))
    return 0


def trust_of(keys: Sequence[Path], required: bool, config: Config | None) -> Trust | None:
    """What the command line and the configuration ask for; None where neither asks and signatures cannot be
    verified here. Raises BundleError.
    """
    if config is not None:
        keys = [*keys, *map(Path, config.policy.trusted_keys)]
        required = required or config.policy.require_signature
    if not keys and not required:
        try:
            require_cryptography()
        except BundleError:
            return None
    return Trust(tuple(map(read_public_key, keys)), required)


def check(path: Path, trust: Trust | None, config: Config | None) -> dict[str, Any]:
    """What was verified, and how it came out. Raises VladError for the first thing that is not good.

    A block that the daemon has in a worker is in one here too: a driver that crashes or hangs ends that, not this.
    """
    bundle = bundles.load(path, trust=trust)
    manifest = bundle.manifest
    if config is not None and (wrong := mismatches(manifest, config)):
        raise Refused(f"{path} does not fit the robot of {config.path}: " + "; ".join(wrong))
    placements: dict[str, Placement] = {}
    workers = BlockWorkers(BlocksKeys() if config is None else config.block)

    def load(bundle: Bundle, name: str, threads: Threads) -> Session:
        session = workers.load(bundle, name, threads)
        placements[name] = session.placement
        return session

    try:
        workers.start(bundle, StagesKeys())  # on any core and with no priority: no arm waits for them
        with open_for_check(bundle, load) as policy:
            golden = check_golden(policy)
    finally:
        workers.close()
    return {
        "ok": True,
        "policy": manifest.policy_type,
        "cameras": [c.name for c in manifest.cameras],
        "joints": [j.name for j in manifest.joints],
        "rate_hz": manifest.rate_hz,
        "chunk_size": manifest.chunk_size,
        "tasks": list(manifest.task_texts),
        "blocks": {
            b.name: {"backend": b.backend, "placement": msgspec.to_builtins(placements[b.name]),
                     "provider": " and ".join(p.provider for p in placements[b.name]),
                     "dtype": b.dtype, "bytes": b.file.bytes}
            for b in manifest.blocks
        },
        "golden": {"differences": golden.differences, "tolerance": golden.tolerance,
                   "tolerances": golden.tolerances},
        "verified": _verified(bundle, trust, config, golden),
    }


def _verified(bundle: Bundle, trust: Trust | None, config: Config | None, golden: GoldenCheck) -> dict[str, str]:
    """By what was looked at: in words, what holds."""
    manifest = bundle.manifest
    named = files(manifest)
    megabytes = sum(file.bytes for file in named) / 1e6
    found = {
        "signature": _signature(bundle, trust),
        "schema": f"format version {manifest.format_version}, every field known and in bounds, sha256 of the manifest "
        f"{bundle.manifest_sha256}",
        "integrity": f"{len(named)} files, {megabytes:.1f} MB: sizes and sha256 are those of the manifest",
        "shapes": f"inputs and outputs of {len(manifest.blocks)} graphs are those of the manifest, and no graph "
        "refers to another file",
        "golden": "computed again here: max |difference| of " + "; of ".join(
            f"{name} {value:.3g}, allowed {golden.tolerances[name]:.3g}" for name, value in golden.differences.items()),
    }
    if config is not None:
        found["robot"] = f"joints, cameras, chunk and rate fit {config.path}"
    return found


def _signature(bundle: Bundle, trust: Trust | None) -> str:
    if bundle.signer is not None and trust is not None:
        return f"by {bundle.signer}, " + ("a trusted key" if trust.keys else "trusted or not: give --trust PUB")
    if os.path.lexists(bundle.path / SIGNATURE):
        return "NOT VERIFIED: pip install 'vlad[sign]'"
    return "none, and none was required"


def in_words(name: str, found: dict[str, Any]) -> str:
    """For a person."""
    rows = [
        ("policy", f"{found['policy']}, {found['chunk_size']} actions at {found['rate_hz']:g} Hz"),
        ("cameras", ", ".join(found["cameras"])),
        ("joints", ", ".join(found["joints"])),
        *(("task", text) for text in found["tasks"]),
        *(
            ("block", f"{name:8} {b['bytes'] / 1e6:9.1f} MB {b['dtype']}, {b['backend']} on " + "; ".join(
                msgspec.convert(p, Placed).words for p in b["placement"]))
            for name, b in found["blocks"].items()
        ),
        *((what, text) for what, text in found["verified"].items()),
    ]
    lines = [f"{name}: good", *(f"  {what:<10} {text}" for what, text in rows)]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)  # names may hold anything
