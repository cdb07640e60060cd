"""The flight record's records as dictionaries of their fields, and back.

The fields are those of csrc/flight_fields.h. Whatever is read back is checked: names, types, lengths
and ranges, so that nothing in a file can bring the core out of its bounds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad._native.flight import CHUNK, FIELDS, SIZES, STATE, TICK, TIMING
from vlad._native.servo import AGGREGATES, MAX_ACTIONS, MAX_JOINTS
from vlad.errors import VladError

HEADER = struct.Struct("=IIq")  # struct vlad_flight_head
MAX_NU = 10**12
NAMES = {TICK: "tick", STATE: "state", CHUNK: "chunk", TIMING: "timing"}


class FlightError(VladError):
    """A flight record that cannot be read: what and where."""


@dataclass(frozen=True, slots=True)
class Record:
    """kind: of vlad._native.flight. t_ns: CLOCK_MONOTONIC. body: as the core wrote it."""

    kind: int
    t_ns: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record; decided: a replay must come to the same."""

    name: str
    type: str
    count: int
    least: Any
    greatest: Any
    none: int | None
    decided: bool


FIELD: dict[int, dict[str, Field]] = {
    kind: {f[0]: Field(f[0], f[1], *f[3:]) for f in fields} for kind, fields in FIELDS.items()
}
_DTYPE = {
    kind: np.dtype({
        "names": [f[0] for f in fields],
        "formats": [f"={f[1].replace('B', 'u1')}" if f[3] == 1 else (f"={f[1].replace('B', 'u1')}", (f[3],))
                    for f in fields],
        "offsets": [f[2] for f in fields], "itemsize": SIZES[kind],
    })
    for kind, fields in FIELDS.items()
}  # fmt: skip


def records(snapshot: bytes) -> Iterator[Record]:
    """The records of a ring's snapshot, which is known to be well-formed."""
    at = 0
    while at < len(snapshot):
        size, kind, t_ns = HEADER.unpack_from(snapshot, at)
        at += HEADER.size
        yield Record(kind, t_ns, snapshot[at : at + size])
        at += -(-size // 8) * 8


# --- to dictionaries ------------------------------------------------------------------------------


def unpack(kind: int, bodies: Sequence[bytes], n_joints: int) -> list[dict[str, Any]]:
    """Bodies of one kind as dictionaries: integers, numbers, lists. Joints beyond n_joints are left
    out; numbers that are not finite become text, because JSON has none."""
    size = SIZES[kind]
    rows = np.frombuffer(b"".join(body[:size] for body in bodies), _DTYPE[kind])
    columns = []
    for field in FIELD[kind].values():
        column = rows[field.name]
        if field.count == MAX_JOINTS:
            column = column[:, :n_joints]
        columns.append(_finite(column.tolist()) if field.type == "d" else column.tolist())
    out = [dict(zip(FIELD[kind], values, strict=True)) for values in zip(*columns, strict=True)]
    for body, row in zip(bodies, out, strict=True):
        if kind == CHUNK:
            _unpack_chunk(body[-(-size // 8) * 8 :], row, n_joints)
        elif kind == STATE:
            rest = np.frombuffer(body[-(-size // 8) * 8 :], np.int64).reshape(-1, MAX_JOINTS)[:, :n_joints]
            row["ring1"] = rest[: row["n1"]].tolist()
            row["ring2"] = rest[row["n1"] : row["n1"] + row["n2"]].tolist()
    return out


def _unpack_chunk(rest: bytes, row: dict[str, Any], n_joints: int) -> None:
    n, joints, length = row["n_actions"], row["n_joints"], row["n_timeline"]
    whole = 0 < n <= MAX_ACTIONS and joints == n_joints
    actions = np.frombuffer(rest, np.float64, n * joints if whole else 0)
    row["actions"] = [_finite(r) for r in actions.reshape(-1, max(joints, 1)).tolist()] if whole else []
    is_ensemble = row["merge"] == 1 + AGGREGATES.index("temporal_ensemble")
    tail = np.frombuffer(rest, np.int64, length * (MAX_JOINTS + 1 + is_ensemble), actions.nbytes)
    row["timeline_nu"] = tail[: length * MAX_JOINTS].reshape(-1, MAX_JOINTS)[:, :n_joints].tolist()
    row["timeline_t_obs_ns"] = tail[length * MAX_JOINTS : length * (MAX_JOINTS + 1)].tolist()
    row["timeline_opinions"] = tail[length * (MAX_JOINTS + 1) :].tolist()


def _finite(values: list[float]) -> list[float | str]:
    return [v if math.isfinite(v) else str(v) for v in values]


def decisions(kind: int, body: bytes) -> dict[str, Any]:
    """What was decided, of one struct: integers, numbers (text where not finite), lists."""
    row = np.frombuffer(body, _DTYPE[kind])[0]
    out = {f.name: row[f.name].tolist() for f in FIELD[kind].values() if f.decided}
    return {n: _finite([v])[0] if isinstance(v, float) else v for n, v in out.items()}


# --- and back -------------------------------------------------------------------------------------


def pack(kind: int, row: Mapping[str, Any]) -> bytes:
    """The struct of one record. A field that is absent is 0; FlightError for anything impossible."""
    out = np.zeros(1, _DTYPE[kind])
    for name, value in row.items():
        field = FIELD[kind].get(name)
        if field is None:
            if name in _EXTRA[kind]:
                continue
            raise FlightError(f"{NAMES[kind]}.{name}: this version knows no such field")
        out[0][name] = _checked(kind, field, value)
    return out.tobytes()


_EXTRA = {TICK: (), TIMING: (), STATE: ("ring1", "ring2"),
          CHUNK: ("actions", "timeline_nu", "timeline_t_obs_ns", "timeline_opinions")}  # fmt: skip


def _checked(kind: int, field: Field, value: Any) -> Any:
    where = f"{NAMES[kind]}.{field.name}"
    if field.count == 1:
        return _one(where, field, value)
    if not isinstance(value, list) or len(value) > field.count:
        raise FlightError(f"{where}: a list of at most {field.count} numbers is wanted")
    return [*(_one(where, field, v) for v in value), *[0] * (field.count - len(value))]


def _one(where: str, field: Field, value: Any) -> Any:
    if field.type == "d":
        return number(where, value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FlightError(f"{where}: {value!r} is no integer")
    if not field.least <= value <= field.greatest and value != field.none:
        raise FlightError(f"{where}: {value} is not within {field.least} .. {field.greatest}")
    return value


def number(where: str, value: Any) -> float:
    """A double that may have been written as text. FlightError."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise FlightError(f"{where}: {str(value)[:40]!r} is no number")
    return float(value)


def actions(row: Mapping[str, Any]) -> NDArray[np.float64]:
    """[n, joints] of a chunk; any values. FlightError."""
    given = row.get("actions", [])
    if not isinstance(given, list) or len(given) > MAX_ACTIONS:
        raise FlightError(f"chunk.actions: a list of at most {MAX_ACTIONS} actions is wanted")
    width = row.get("n_joints", 0) if given else 0
    if any(not isinstance(a, list) or len(a) != width for a in given):
        raise FlightError("chunk.actions: not n_joints numbers each")
    return np.array([[number("chunk.actions", v) for v in a] for a in given], np.float64).reshape(
        len(given), width
    )


def rows_nu(where: str, given: Any, most: int, bound: int = MAX_NU) -> NDArray[np.int64]:
    """[n, 8] of nano-units, n <= most. FlightError."""
    if not isinstance(given, list) or len(given) > most:
        raise FlightError(f"{where}: a list of at most {most} rows is wanted")
    out = np.zeros((len(given), MAX_JOINTS), np.int64)
    for i, row in enumerate(given):
        if not isinstance(row, list) or len(row) > MAX_JOINTS:
            raise FlightError(f"{where}[{i}]: a list of at most {MAX_JOINTS} numbers is wanted")
        for j, value in enumerate(row):
            if not isinstance(value, int) or isinstance(value, bool) or abs(value) > bound:
                raise FlightError(f"{where}[{i}]: {str(value)[:40]} is out of bounds")
            out[i, j] = value
    return out


def times_ns(where: str, given: Any, n: int) -> NDArray[np.int64]:
    """[n] times. FlightError."""
    if not isinstance(given, list) or len(given) != n:
        raise FlightError(f"{where}: {n} times are wanted")
    if any(not isinstance(v, int) or isinstance(v, bool) or not 0 <= v <= 2**61 for v in given):
        raise FlightError(f"{where}: a time is out of bounds")
    return np.array(given, np.int64)


def opinions(given: Any, n: int) -> NDArray[np.int64]:
    """[n] numbers of chunks, 1 each where none is given: not an ensemble. FlightError."""
    if not given:
        return np.ones(n, np.int64)
    if not isinstance(given, list) or len(given) != n:
        raise FlightError(f"chunk.timeline_opinions: {n} numbers are wanted")
    if any(not isinstance(v, int) or isinstance(v, bool) or not 1 <= v < MAX_ACTIONS for v in given):
        raise FlightError("chunk.timeline_opinions: a number is out of bounds")
    return np.array(given, np.int64)
