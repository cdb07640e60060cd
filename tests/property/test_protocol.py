"""The line scanner against Python's json, and that nothing but a whole, well-formed stop stops.

The scanner is stricter than Python where RFC 8259 is: NaN and Infinity, and bytes that are not
UTF-8, are refused; and it refuses what a request may not have (depth, members, duplicates).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.control_peer import HOLD, Peer, Served, serving
from vlad._native.control import scan_line

MAX_DEPTH, MAX_MEMBERS, MAX_ID = 16, 16, 64
STOPS = {"hold": "hold", "stop": "hold", "limp": "limp"}


class Unacceptable(ValueError):
    pass


def _no_constant(name: str) -> object:
    raise Unacceptable(name)


def expected(line: bytes) -> str | None:
    """What the scanner must say of a line, from Python's json: hold, limp, other or None."""
    top: list[list[tuple[str, Any]]] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        top.append(items)  # the last one is the outermost
        return dict(items)

    try:
        text = line.decode("utf-8")
        if text.startswith("\ufeff"):
            return None
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=_no_constant, parse_int=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or _depth(value) > MAX_DEPTH:
        return None
    names = [name for name, _ in top[-1]]
    if len(names) > MAX_MEMBERS or len(names) != len(set(names)):
        return None
    # With parse_int=str an integer and a string look alike: tell them apart from the raw values.
    raw = json.loads(text)
    id_, version, verb = raw.get("id"), raw.get("v"), raw.get("verb")
    if type(id_) not in (int, str) or type(version) is not int or value["v"] != "1":
        return None
    if type(verb) is not str:
        return None
    return STOPS.get(verb, "other")


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(v) for v in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(v) for v in value), default=0)
    return 0


def check(line: bytes) -> None:
    verb, id_or_why, _ = scan_line(line)
    if verb is not None:
        assert isinstance(id_or_why, bytes) and len(id_or_why) <= MAX_ID
        assert json.loads(id_or_why) == json.loads(line.decode())["id"]
    wanted = expected(line)
    if wanted is not None and verb is None:
        # The one thing that the model does not see: how the id was written.
        assert "member id" in str(id_or_why)
        assert len(json.dumps(json.loads(line.decode())["id"])) > MAX_ID / 6
    else:
        assert verb == wanted, line


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
verbs = st.sampled_from(["hold", "stop", "limp", "status", "engage", "Hold", "hold ", ""]) | values
requests = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | values,
        "id": st.integers() | st.text(max_size=20) | values,
        "verb": verbs,
        "args": values,
        "other": values,
    },
)
well_formed = st.fixed_dictionaries(
    {"v": st.just(1), "id": st.integers() | st.text(max_size=8), "verb": verbs, "args": values}
)


@st.composite
def spelled(draw: st.DrawFn, objects: st.SearchStrategy[Any]) -> bytes:
    """One of the many ways to write a JSON value."""
    value = draw(objects)
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : \r")]))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators)
    return draw(st.sampled_from([b"", b" ", b"\t"])) + text.encode("utf-8", "surrogatepass")


@settings(max_examples=600, deadline=None)
@given(spelled(requests | well_formed | values))
@example(b'{"v":1,"id":1,"verb":"\\u0068old"}')
@example(b'{"v":1,"id":1,"verb":"hold","\\u0076erb":"hold"}')
@example(b'{"v":1,"id":1,"verb":"hold","args":NaN}')
@example(b'\xef\xbb\xbf{"v":1,"id":1,"verb":"hold"}')
@example(b'{"v":1.0,"id":1,"verb":"hold"}')
@example(b'{"v":true,"id":1,"verb":"hold"}')
def test_it_takes_what_json_takes(line: bytes) -> None:
    check(line)


@settings(max_examples=600, deadline=None)
@given(spelled(well_formed), st.data())
def test_damage_is_judged_as_json_judges_it(line: bytes, data: st.DataObject) -> None:
    damaged = bytearray(line)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        kind = data.draw(st.sampled_from(["cut", "drop", "insert", "set"]))
        byte = data.draw(st.integers(0, 255) | st.sampled_from(list(b'{}[]",:\\ \n0-.eE')))
        if kind == "cut":
            del damaged[at:]
        elif kind == "drop":
            del damaged[at : at + 1]
        elif kind == "insert":
            damaged.insert(at, byte)
        elif at < len(damaged):
            damaged[at] = byte
    check(bytes(damaged))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_judged_as_json_judges_them(line: bytes) -> None:
    check(line)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20), st.booleans())
def test_depth_is_bounded(depth: int, objects: bool) -> None:
    inner = b'{"a":' * depth + b"0" + b"}" * depth if objects else b"[" * depth + b"]" * depth
    check(b'{"v":1,"id":1,"verb":"x","args":' + inner + b"}")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as control:
        yield control


lines = st.one_of(
    spelled(requests | well_formed), st.binary(max_size=60),
    st.just(b'{"v":1,"id":1,"verb":"hold"}'), st.just(b'{"v":1,"id":1,"verb":"hold"'),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=12), st.lists(st.integers(1, 400), max_size=6))
def test_only_well_formed_stops_lower(
    served: Served, written: list[bytes], pieces: list[int]
) -> None:
    """Any lines in any pieces over a real socket: exactly the stops in them reach the callback."""
    stream = b"".join(line + b"\n" for line in written)
    judged = [scan_line(line)[0] for line in stream.split(b"\n")[:-1]]
    wanted = [verb for verb in judged if verb in ("hold", "limp")]
    malformed = judged.count(None)
    before = len(served.sink.calls)
    with Peer(served.path) as peer:
        try:
            for size in [*pieces, len(stream)]:
                peer.send(stream[:size])
                stream = stream[size:]
            peer.socket.shutdown(1)
            while peer.line() is not None:
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass  # dropped for its garbage
    seen = ["hold" if what == HOLD else "limp" for _, what in served.sink.calls[before:]]
    if malformed < 16:
        assert seen == wanted
    else:  # it may have been dropped for that: what was behind need not count
        assert seen == wanted[: len(seen)]
    assert len(served.sink.calls) == sum(served.control.counters()[k] for k in ("holds", "limps"))
