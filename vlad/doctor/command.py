"""`vlad doctor`: looks at everything that an arm depends on and says what to do. Changes nothing."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from vlad import config as configuration
from vlad.backend import NEUTRON_DRIVER, NEUTRON_FIRMWARE
from vlad.config import Config
from vlad.config_keys import ServoKeys
from vlad.doctor import bus, cameras, clocks, kernel, limits, memory, npu, thermal
from vlad.doctor.finding import Finding
from vlad.doctor.root import Root
from vlad.errors import ConfigError

DEFAULT = Path("/etc/vlad/vlad.toml")
NEUTRON_PROVIDER = "NeutronExecutionProvider"
MARKS = {"ok": "ok     ", "note": "note   ", "warn": "WARN   ", "fail": "FAIL   ", "unknown": "unknown"}


def examine(root: Root, config: Config | None) -> Iterator[Finding]:
    """Everything; without a configuration what needs none."""
    servo = config.servo if config else ServoKeys()
    blocks = [getattr(config.block, name) for name in config.block.__struct_fields__] if config else []
    accelerated = [block for block in blocks if block.target.accelerated]
    yield from kernel.examine(root, frozenset(servo.affinity))
    # Without them the daemon does not engage, unless it is told to.
    yield from limits.examine(root, servo.priority,
                              "warn" if config is None else "note" if servo.allow_non_realtime else "fail")
    yield from memory.examine(root, npu=npu.present(root),
                              neutron_provider=any(b.provider == NEUTRON_PROVIDER for b in accelerated))
    files = next(((b.driver, b.firmware) for b in accelerated), (NEUTRON_DRIVER, NEUTRON_FIRMWARE))
    yield from npu.examine(root, *files, wanted=bool(accelerated))
    yield from cameras.examine(root, config.cameras if config else ())
    yield from bus.boards(root)
    if config is not None:
        yield from bus.examine(root, config)
    yield from clocks.examine(root)
    yield from thermal.examine(root, config.board if config else None)


def read_config(path: Path | None) -> tuple[Config | None, Finding]:
    """The configuration, or None, and what is to be said of it. path: None for the default, if it is there."""
    area, name = "configuration", str(path or DEFAULT)
    if path is None and not DEFAULT.exists():
        return None, Finding(area, name, "note", "not there: cameras and servos are not looked at",
                             "vlad doctor --config FILE; examples are in configs/")
    try:
        found = configuration.load(path or DEFAULT, machine=False)
    except ConfigError as error:
        return None, Finding(area, name, "fail", str(error), "correct it; docs/configuration.md has every key")
    try:
        configuration.load(path or DEFAULT)
    except ConfigError as error:
        return found, Finding(area, name, "fail", str(error), "the daemon does not start like this")
    return found, Finding(area, name, "ok", f"{len(found.joints)} joints, {len(found.cameras)} cameras")


def printed(findings: Sequence[Finding], columns: int) -> str:
    lines = []
    for area, group in groupby(findings, key=lambda finding: finding.area):
        lines.append(area)
        for finding in group:
            text = f"{finding.name}: {finding.found}"
            lines += textwrap.wrap(text, columns, initial_indent=f"  {MARKS[finding.verdict]} ",
                                   subsequent_indent=" " * 12, break_long_words=False, break_on_hyphens=False)
            if finding.remedy:
                lines += textwrap.wrap(f"-> {finding.remedy}", columns, initial_indent=" " * 10,
                                       subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False)
    counts = {v: sum(f.verdict == v for f in findings) for v in MARKS}
    lines.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """0, or 1 where something failed."""
    parser = argparse.ArgumentParser(prog="vlad doctor", description=__doc__, epilog="Exit status 1: something FAILs.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the daemon's configuration ({DEFAULT}, if there)")
    parser.add_argument("--json", action="store_true", help="one object per finding, as a JSON array")
    options = parser.parse_args(argv)
    config, said = read_config(options.config)
    findings = [said, *examine(Root(), config)]
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(findings)).decode())
    else:
        columns = os.get_terminal_size().columns if os.isatty(1) else 120
        print(printed(findings, max(60, columns)))
    return 1 if any(finding.verdict == "fail" for finding in findings) else 0
