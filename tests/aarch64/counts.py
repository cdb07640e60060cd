"""Instructions of what runs often on the board, counted in the emulator: exact, and the same on every machine.

    python -m tests.aarch64.counts             counted, beside what is recorded
    python -m tests.aarch64.counts --record    record it: with the change that moved it, which says why

They are those of an A55 without its caches: what takes more instructions is slower, what takes fewer may be.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

from tests.aarch64.emulator import A55, EMULATOR, MADE, ROOT, make

RECORDED = ROOT / "tests/aarch64/counts.toml"
PROGRAM = ROOT / "build/csrc/aarch64/tests/counts"
TOLERANCE = 0.02


class NoPluginsError(Exception):
    """This QEMU was built without plugins."""


def compiler() -> str:
    """What made the program."""
    words = ["aarch64-linux-gnu-gcc", "-dumpfullversion"]
    return "gcc " + subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def measure() -> dict[str, int]:
    """Instructions of one call, by what is called, rounded up. Raises NoPluginsError."""
    version = re.search(r"version (\d+)", subprocess.run([EMULATOR, "--version"], capture_output=True, text=True,
                                                         check=True).stdout)  # fmt: skip
    assert version
    plugin = MADE / "count_plugin.so"
    interface = 1 if int(version[1]) < 9 else 2
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", f"-DVERSION={interface}",
         str(ROOT / "tests/aarch64/count_plugin.c"), "-o", str(plugin)], check=True,
    )  # fmt: skip
    make(f"../{PROGRAM.relative_to(ROOT)}")
    done = subprocess.run(
        [EMULATOR, "-cpu", A55, "-plugin", str(plugin), str(PROGRAM)], capture_output=True, text=True, check=False
    )
    if "plugin" in done.stderr and done.returncode:
        raise NoPluginsError(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    called = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    counted = re.findall(r"^counted (\d+)$", done.stderr, re.M)
    assert len(called) == len(counted) > 0, done.stdout + done.stderr
    return {name: -(-int(count) // int(times)) for (name, times), count in zip(called, counted, strict=True)}


def recorded() -> tuple[str, dict[str, int]]:
    """The compiler that they were recorded with, and the counts."""
    read = tomllib.loads(RECORDED.read_text())
    return read["compiler"], read["instructions"]


def write(found: dict[str, int]) -> None:
    """Record."""
    lines = ["# Written by: python -m tests.aarch64.counts --record", f'compiler = "{compiler()}"']
    lines += ["", "[instructions]", *(f'"{name}" = {count}' for name, count in found.items())]
    RECORDED.write_text("\n".join([*lines, ""]))


def main() -> int:
    """See the module."""
    found = measure()
    before = recorded()[1] if RECORDED.exists() else {}
    for name, count in found.items():
        was = f"{count / before[name] - 1:+.1%}" if name in before else "new"
        print(f"{count:>12,}  {was:>7}  {name}")
    if "--record" in sys.argv[1:]:
        write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
