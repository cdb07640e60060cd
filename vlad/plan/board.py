"""The profile of a board: what its units compute and how fast weights reach them, each figure with its
source. A TOML file, read strictly; docs/plan.md says what each key means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from vlad.config import read_toml
from vlad.errors import ConfigError

BUILT_IN = Path(__file__).resolve().parent.parent / "boards"
DTYPES = ("float32", "float16", "bfloat16", "int8", "int4")
IN_FLOAT32 = ("float16", "bfloat16", "int4")  # computed in float32 where a unit has no rate of their own

Dtype = Literal["float32", "float16", "bfloat16", "int8", "int4"]
NAME = "[A-Za-z0-9_.-]{1,64}"
Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME}$")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Source = Annotated[str, msgspec.Meta(pattern=r"^(measured|published|derived): \S", max_length=1000)]
Amount = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of a profile: immutable, and an unknown key is an error."""


class Rate(_Table, frozen=True, kw_only=True):
    """What a unit achieves with weights of a type, softmax, norms and copies included. reuse: how many
    rows of input meet each weight (operations / 2 / parameters)."""

    dtype: Dtype
    reuse: Amount
    gflop_s: Amount
    source: Source


class Bandwidth(_Table, frozen=True, kw_only=True):
    """How fast weights stream through a product of one row."""

    gb_s: Amount
    source: Source


class Call(_Table, frozen=True, kw_only=True):
    """What a call of a block costs besides its work."""

    us: Amount
    source: Source


class Frame(_Table, frozen=True, kw_only=True):
    """From a camera's 640 x 480 picture to the 512 x 512 input of the vision block."""

    ms: Amount
    source: Source


class Memory(_Table, frozen=True, kw_only=True):
    """Of the whole board."""

    gb: Amount
    source: Source


class Unit(_Table, frozen=True, kw_only=True):
    """Something that computes blocks. threads: of the CPU, that all its figures are for."""

    name: Name
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    bandwidth: Bandwidth
    call: Call
    rate: Annotated[tuple[Rate, ...], msgspec.Meta(min_length=1, max_length=64)]

    def computes_in(self, dtype: str) -> str:
        """The type whose rate holds for weights of a type; "" where the unit cannot take them."""
        have = {rate.dtype for rate in self.rate}
        if dtype in have:
            return dtype
        return "float32" if dtype in IN_FLOAT32 and "float32" in have else ""

    def gflop_s(self, dtype: str, reuse: float) -> float:
        """The rate between the two nearest measured reuses, on logarithmic scales; beyond them, the
        outermost. ConfigError for weights that the unit cannot take."""
        kind = self.computes_in(dtype)
        points = sorted((rate.reuse, rate.gflop_s) for rate in self.rate if rate.dtype == kind)
        if not points:
            have = sorted({rate.dtype for rate in self.rate})
            raise ConfigError(f"unit {self.name} has no rate for {dtype} weights (it has {', '.join(have)}): "
                              "place the block on another unit, or quantise it")  # fmt: skip
        low = max((p for p in points if p[0] <= reuse), default=points[0])
        high = min((p for p in points if p[0] >= reuse), default=points[-1])
        if low[0] == high[0]:
            return low[1]
        at = math.log(reuse / low[0]) / math.log(high[0] / low[0])
        return math.exp((1 - at) * math.log(low[1]) + at * math.log(high[1]))


class Board(_Table, frozen=True, kw_only=True):
    """A profile. off_by: a prediction from it may be wrong by this factor, either way. The first unit is
    where blocks are placed unless told otherwise."""

    format_version: Literal[1]
    name: Name
    about: Text
    off_by: Annotated[float, msgspec.Meta(ge=1, le=100)]
    memory: Memory
    frame: Frame
    unit: Annotated[tuple[Unit, ...], msgspec.Meta(min_length=1, max_length=8)]

    @property
    def measured(self) -> bool:
        """Whether every figure was measured on the board itself."""
        return all(source.startswith("measured: ") for _, source in self.figures())

    def figures(self) -> Iterator[tuple[str, str]]:
        """Every figure in words, and where it comes from."""
        yield f"memory {self.memory.gb:g} GB", self.memory.source
        yield f"frame {self.frame.ms:g} ms", self.frame.source
        for unit in self.unit:
            yield f"{unit.name} bandwidth {unit.bandwidth.gb_s:g} GB/s", unit.bandwidth.source
            yield f"{unit.name} call {unit.call.us:g} us", unit.call.source
            for rate in unit.rate:
                yield (f"{unit.name} {rate.dtype}, reuse {rate.reuse:.4g}: {rate.gflop_s:.4g} GFLOP/s", rate.source)

    def with_threads(self, threads: int) -> Board:
        """The profile for another number of threads of its first unit, whose rates go with it. Raises
        ConfigError for a measured one: there it can be measured."""
        home = self.unit[0]
        if threads != home.threads and self.measured:
            raise ConfigError(f"board {self.name} was measured with {home.threads} threads: measure it with --threads "
                              f"{threads}")  # fmt: skip
        scale = threads / home.threads
        rates = tuple(msgspec.structs.replace(rate, gflop_s=rate.gflop_s * scale) for rate in home.rate)
        unit = msgspec.structs.replace(home, threads=threads, rate=rates)
        return msgspec.structs.replace(self, unit=(unit, *self.unit[1:]))

    def find(self, name: str) -> Unit:
        """The unit of a name. Raises ConfigError."""
        for unit in self.unit:
            if unit.name == name:
                return unit
        raise ConfigError(f"board {self.name} has no unit {name!r}: it has {', '.join(u.name for u in self.unit)}")


def built_in() -> dict[str, Path]:
    """The profiles that come with vlad, by name."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def load_board(name: str) -> Board:
    """A built-in profile by its name, else the file of that path. Raises ConfigError."""
    known = built_in()
    path = known.get(name, Path(name))
    if name not in known and not path.exists():
        raise ConfigError(f"{name}: no such file, and no built-in board (those are: {', '.join(known)}). "
                          "`vlad plan --measure FILE` writes the profile of the machine it runs on")  # fmt: skip
    return parse_board(read_toml(path), str(path))


def parse_board(tree: object, where: str) -> Board:
    """Raises ConfigError with the path of the offending key."""
    try:
        board = msgspec.convert(tree, Board)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error} (docs/plan.md lists the keys)") from None
    if repeated := _repeated([unit.name for unit in board.unit]):
        raise ConfigError(f"{where}: two units are called {repeated!r}")
    for unit in board.unit:
        if repeated := _repeated([f"{rate.dtype}, reuse {rate.reuse:g}" for rate in unit.rate]):
            raise ConfigError(f"{where}: unit {unit.name} has two rates for {repeated}")
    return board


def _repeated(names: list[str]) -> str:
    return next((name for i, name in enumerate(names) if name in names[:i]), "")


def to_toml(board: Board) -> str:
    """The file of a profile, which `parse_board` reads to the same."""
    lines = [f"{key} = {_value(getattr(board, key))}" for key in ("format_version", "name", "about", "off_by")]
    for key in ("memory", "frame"):
        lines += ["", f"[{key}]", *_keys(getattr(board, key))]
    for unit in board.unit:
        lines += ["", "[[unit]]", f"name = {_value(unit.name)}", f"threads = {unit.threads}"]
        for key in ("bandwidth", "call"):
            lines += ["", f"[unit.{key}]", *_keys(getattr(unit, key))]
        for rate in unit.rate:
            lines += ["", "[[unit.rate]]", *_keys(rate)]
    return "\n".join(lines) + "\n"


def _keys(table: _Table) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in msgspec.structs.asdict(table).items()]


def _value(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value)  # within what TOML takes as a basic string
    return f"{value:.4g}" if isinstance(value, float) else str(value)
