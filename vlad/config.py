"""The configuration of the daemon: one TOML file, read strictly, checked as a whole.

`load(path)` returns a `Config` or raises ConfigError, whose message names the file, the key
(dotted, with the index where it is in an array) and what to do. Every key is listed, with its type,
bounds, default and meaning, in vlad/config_keys.py and, made from it, in docs/configuration.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vlad.arm import Joint
from vlad.config_keys import (
    ArmKeys,
    BlocksKeys,
    BoardKeys,
    CameraKeys,
    ControlKeys,
    FileKeys,
    FlightKeys,
    LogKeys,
    PolicyKeys,
    ServoKeys,
    StagesKeys,
)
from vlad.errors import ConfigError

EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h
MAX_FILE_BYTES = 1 << 20
MAX_INTEGER = 2**53
UNITS = frozenset(("rad", "deg", "degrees", "range", "s", "s2", "s3", "ms", "us", "ns", "hz"))


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that holds together. Paths are absolute.

    joints: in the order of the file, with limits in units (rad, or 0..1 for the gripper), all
    defaults filled in. cameras: `cpu` filled in from `stage.capture`. Else as the keys say.
    """

    path: Path
    arm: ArmKeys
    joints: tuple[Joint, ...]
    servo: ServoKeys
    policy: PolicyKeys
    cameras: tuple[CameraKeys, ...]
    stage: StagesKeys
    block: BlocksKeys
    control: ControlKeys
    flight: FlightKeys
    log: LogKeys
    board: BoardKeys

    @property
    def period_ns(self) -> int:
        """Of the servo loop."""
        return 1_000_000_000 // self.servo.rate_hz

    @property
    def rest_pose(self) -> tuple[float, ...] | None:
        """`arm.rest_pose` in joint order, units; None when there is none."""
        pose = self.arm.rest_pose
        return None if pose is None else tuple(pose[joint.name] for joint in self.joints)


def load(path: str | Path, *, machine: bool = True) -> Config:
    """Read, resolve and check a configuration file.

    machine: also check what must exist on this machine: port, cameras, bundle, cores, groups, the
    directory of the socket. The calibration file is always read.
    Raises ConfigError.
    """
    path = Path(path).absolute()
    return from_tree(read_toml(path), path, machine=machine)


def with_workers(config: Config) -> Config:
    """The same with every block in a worker."""
    blocks = config.block
    for name in blocks.__struct_fields__:
        worker = msgspec.structs.replace(getattr(blocks, name), worker=True)
        blocks = msgspec.structs.replace(blocks, **{name: worker})
    return dataclasses.replace(config, block=blocks)


def read_toml(path: Path) -> dict[str, object]:
    """The tree of a TOML file. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: over {MAX_FILE_BYTES} bytes is no configuration")
    try:
        return tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def from_tree(tree: dict[str, object], path: Path, *, machine: bool = False) -> Config:
    """Check a parsed file; `path` is named in errors and is what relative paths refer to.

    Raises ConfigError.
    """
    from vlad import config_checks

    config = config_checks.resolve(read_keys(tree, path), path)
    if machine:
        config_checks.check_machine(config)
    return config


def read_keys(tree: dict[str, object], path: Path) -> FileKeys:
    """The keys alone, each good by itself; for what must work before the rest is there. Raises ConfigError."""
    return typing.cast(FileKeys, _read(tree, FileKeys, "", path))


def fail(path: Path, key: str, problem: str) -> typing.NoReturn:
    """Raises the ConfigError of a key."""
    raise ConfigError(f"{path}: {key}: {problem}")


def _read(value: object, annotation: object, key: str, path: Path) -> object:
    """`value` as `annotation`, descending into tables so that an error has its full key."""
    bare, notes = _bare(annotation)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return _read_table(value, bare, key, path)
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if origin is tuple and isinstance(value, list):
        for note in notes:
            low, high = note.min_length or 0, note.max_length or math.inf
            if not low <= len(value) <= high:
                fail(path, key, f"has {len(value)} entries; {low} to {high} are possible")
        return tuple(_read(item, arguments[0], f"{key}[{i}]", path) for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {k: _read(item, arguments[1], f"{key}.{k}", path) for k, item in value.items()}
    return _read_value(value, annotation, key, path)


def _bare(annotation: object) -> tuple[typing.Any, list[msgspec.Meta]]:
    """A type without its notes and without `| None`, which TOML cannot say; and the notes."""
    notes: list[msgspec.Meta] = []
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation, *more = typing.get_args(annotation)
            notes += [note for note in more if isinstance(note, msgspec.Meta)]
            continue
        if typing.get_origin(annotation) in (types.UnionType, typing.Union):
            rest = [t for t in typing.get_args(annotation) if t is not types.NoneType]
            if len(rest) == 1:
                annotation = rest[0]
                continue
        return annotation, notes


@functools.cache
def _fields(table: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(table)}


def _read_table(value: object, table: type[msgspec.Struct], key: str, path: Path) -> object:
    where = f"{key}." if key else ""
    if not isinstance(value, dict):
        fail(path, key, f"is a table, not {_shown(value)}")
    fields = _fields(table)
    for name in value:
        if name not in fields:
            fail(path, f"{where}{name}", f"unknown key{hint(name, list(fields))}")
    for name, field in fields.items():
        if field.required and name not in value:
            fail(path, f"{where}{name}", ": ".join(filter(None, ("is missing", description(field.type)))))
    read = {n: _read(item, fields[n].type, f"{where}{n}", path) for n, item in value.items()}
    return table(**read)


def _read_value(value: object, annotation: object, key: str, path: Path) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        fail(path, key, f"{value} is not a finite number")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        fail(path, key, "the number is out of all bounds")
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        meaning = description(annotation)
        fail(
            path,
            key,
            f"{_shown(value)} is not possible: needs {accepted(annotation)}"
            + (f" ({meaning})" if meaning else ""),
        )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"{value!r}" if isinstance(value, (str, int, float)) else f"{value}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def description(annotation: object) -> str:
    """The meaning of a key, "" where it has none of its own."""
    _, notes = _bare(annotation)
    return next((note.description for note in notes if note.description), "")


def accepted(annotation: object) -> str:
    """In words, the values that a key takes."""
    bare, notes = _bare(annotation)
    if typing.get_origin(bare) in (types.UnionType, typing.Union):
        return " or ".join(accepted(part) for part in typing.get_args(bare))
    if typing.get_origin(bare) is typing.Literal:
        return " | ".join(
            f'"{value}"' if isinstance(value, str) else str(value)
            for value in typing.get_args(bare)
        )
    if typing.get_origin(bare) is tuple:
        return f"array of {accepted(typing.get_args(bare)[0])}"
    if typing.get_origin(bare) is dict:
        return f"table of {accepted(typing.get_args(bare)[1])}"
    words = {bool: "true | false", int: "integer", float: "number", str: "text"}
    bounds = "".join(_bounds(note) for note in notes)
    return words.get(bare, "table") + bounds


def _bounds(note: msgspec.Meta) -> str:
    if note.pattern:
        return " (a name: letters, digits, `_`, `.`, `-`)"
    if note.ge is not None and note.le is not None:
        return f" {note.ge:.12g} to {note.le:.12g}"
    signs = ((">=", note.ge), (">", note.gt), ("<=", note.le), ("<", note.lt))
    return " and".join(f" {sign} {bound:.12g}" for sign, bound in signs if bound is not None)


def hint(name: str, known: list[str]) -> str:
    """For an unknown key: the one that was meant, where it can be told."""
    stem = _stem(name)
    near = [other for other in known if _stem(other) == stem]
    if near:
        return f"; did you mean {' or '.join(near)}? Units are part of the key"
    near = difflib.get_close_matches(name, known, n=2)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known here: {', '.join(sorted(known))}"


def _stem(name: str) -> str:
    parts = name.split("_")
    while len(parts) > 1 and parts[-1] in UNITS:
        parts.pop()
    return "_".join(parts)


def main(argv: list[str] | None = None) -> int:
    from vlad import config_document

    return config_document.main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
