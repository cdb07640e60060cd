"""Files of the kernel below a root directory: `/`, or one that a test has filled."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vlad.small_file import Unreadable, read_small

CONFIG_BYTES = 4 << 20


class Root:
    def __init__(self, path: Path = Path("/")) -> None:
        self.path = path.resolve()

    def at(self, name: str) -> Path:
        """Where the file `name`, an absolute path, lies."""
        return self.path / name.lstrip("/")

    def text(self, name: str) -> str:
        """Its text, without the newline at the end. Raises Unreadable."""
        return read_small(self.at(name))

    def number(self, name: str) -> int:
        """Raises Unreadable, also where it is no number."""
        try:
            return int(self.text(name))
        except ValueError as error:
            raise Unreadable(f"{name}: {error}") from error

    def glob(self, pattern: str) -> list[Path]:
        return sorted(self.path.glob(pattern.lstrip("/")))

    def target(self, path: Path) -> str:
        """Where a link leads, as a path below the root. "" where it leads nowhere."""
        with suppress(OSError):
            found = path.resolve(strict=True)
            if found.is_relative_to(self.path):
                return "/" + str(found.relative_to(self.path))
        return ""

    def kernel_options(self) -> dict[str, str]:
        """Of /proc/config.gz or /boot/config-RELEASE; CONFIG_ is left out. Raises Unreadable."""
        release = self.text("/proc/sys/kernel/osrelease")
        try:
            try:
                with gzip.open(self.at("/proc/config.gz")) as file:
                    data = file.read(CONFIG_BYTES)
            except (OSError, EOFError, zlib.error):
                with self.at(f"/boot/config-{release}").open("rb") as file:
                    data = file.read(CONFIG_BYTES)
        except OSError as error:
            raise Unreadable(f"neither /proc/config.gz nor /boot/config-{release} can be read") from error
        return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", data.decode("utf-8", "replace"), re.MULTILINE))


def cpus(text: str) -> set[int]:
    """Of a list such as `0-3,5`. Raises Unreadable."""
    found: set[int] = set()
    try:
        for part in filter(None, text.replace("\n", ",").split(",")):
            first, dash, last = part.partition("-")
            found |= set(range(int(first), int(last if dash else first) + 1))
    except ValueError as error:
        raise Unreadable(f"{text!r} is no list of cores") from error
    return found


def mask(text: str) -> set[int]:
    """Of a mask such as `ff` or `1,00000001`. Raises Unreadable."""
    try:
        bits = int(text.replace(",", ""), 16)
    except ValueError as error:
        raise Unreadable(f"{text!r} is no mask of cores") from error
    return {core for core in range(bits.bit_length()) if bits >> core & 1}


def as_list(cores: Iterable[int]) -> str:
    return ",".join(map(str, sorted(cores)))
