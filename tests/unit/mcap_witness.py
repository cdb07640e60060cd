"""An MCAP reader that shares nothing with the library that wrote the file: magic, records, checksums.

Written from the format's specification (mcap.dev/spec). Only what a flight record uses.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import zstandard

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, ATTACHMENT, METADATA, DATA_END = 1, 2, 3, 4, 5, 6, 9, 12, 15


@dataclass
class Contents:
    schemas: dict[int, tuple[str, str, bytes]] = field(default_factory=dict)  # name, encoding, data
    channels: dict[int, tuple[str, str, int]] = field(default_factory=dict)  # topic, encoding, schema
    messages: list[tuple[str, int, int, bytes]] = field(default_factory=list)  # topic, number, time, data
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    attachments: dict[str, bytes] = field(default_factory=dict)


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        value = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value if len(value) > 1 else value[0]

    def blob(self, form: str = "I") -> bytes:
        size = self.take(form)
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self) -> str:
        return self.blob().decode()

    def map(self) -> dict[str, str]:
        inner, out = Bytes(self.blob()), {}
        while inner.at < len(inner.data):
            key = inner.text()
            out[key] = inner.text()
        return out


def look(data: bytes) -> Contents:
    """Everything before the summary section; AssertionError for anything that is not as specified."""
    assert data.startswith(MAGIC) and data.endswith(MAGIC)
    contents, outer, kinds = Contents(), Bytes(data), []
    outer.at = len(MAGIC)
    while not kinds or kinds[-1] != DATA_END:
        start = outer.at
        kind = outer.take("B")
        kinds.append(kind)
        body = Bytes(outer.blob("Q"))
        if kind == CHUNK:
            first, last, size, crc = body.take("QQQI")
            assert body.text() == "zstd"
            inside = zstandard.decompress(body.blob("Q"), size)
            assert len(inside) == size and zlib.crc32(inside) == crc
            inner, before = Bytes(inside), len(contents.messages)
            while inner.at < len(inside):
                record(contents, inner.take("B"), Bytes(inner.blob("Q")))
            times = [m[2] for m in contents.messages[before:]]
            assert (min(times), max(times)) == (first, last)
        elif kind == DATA_END:
            assert body.take("I") in (0, zlib.crc32(data[:start]))
        else:
            record(contents, kind, body)
    assert kinds[0] == HEADER
    return contents


def record(contents: Contents, kind: int, body: Bytes) -> None:
    if kind == SCHEMA:
        number = body.take("H")
        contents.schemas[number] = (body.text(), body.text(), body.blob())
    elif kind == CHANNEL:
        number, schema = body.take("HH")
        contents.channels[number] = (body.text(), body.text(), schema)
    elif kind == MESSAGE:
        channel, number, log_ns, _ = body.take("HIQQ")
        contents.messages.append((contents.channels[channel][0], number, log_ns, body.data[body.at :]))
    elif kind == ATTACHMENT:
        body.take("QQ")
        name, _ = body.text(), body.text()
        contents.attachments[name] = body.blob("Q")
        assert body.take("I") in (0, zlib.crc32(body.data[: -4]))
    elif kind == METADATA:
        name = body.text()
        contents.metadata[name] = body.map()


def conforms(value: Any, schema: dict[str, Any], where: str = "$") -> None:
    """The part of JSON Schema that our schemas use; AssertionError says where."""
    if "anyOf" in schema:
        assert any(_fits(value, s) for s in schema["anyOf"]), f"{where}: {value!r}"
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r}"
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    if "type" in schema:
        good = isinstance(value, types[schema["type"]]) and not isinstance(value, bool)
        assert good, f"{where}: {value!r} is no {schema['type']}"
    if "minimum" in schema:
        assert value >= schema["minimum"], where
    if "maximum" in schema:
        assert value <= schema["maximum"], where
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        assert set(schema.get("required", [])) <= set(value), f"{where}: {set(schema['required']) - set(value)}"
        assert rest is not False or set(value) <= set(known), f"{where}: {set(value) - set(known)}"
        for name, item in value.items():
            conforms(item, known.get(name, rest if isinstance(rest, dict) else {}), f"{where}.{name}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            conforms(item, schema.get("items", {}), f"{where}[{i}]")


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    try:
        conforms(value, schema)
    except AssertionError:
        return False
    return True
