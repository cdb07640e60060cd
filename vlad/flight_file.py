"""A flight record as an MCAP file: written for Foxglove and any other reader, read back for replay.

Every message is JSON; log_time and publish_time are CLOCK_MONOTONIC ns of the machine that wrote it.
Source of the format: mcap.dev/spec; written and read with the `mcap` package.
"""

from __future__ import annotations

import base64
import os
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import vlad
from vlad._native.flight import CHUNK, NOTE, PICTURE, STATE, TICK, TIMING
from vlad.faults import BY_ID
from vlad.flight_fields import FlightError, Record, unpack
from vlad.flight_schemas import CAMERA, KIND, SCHEMA_OF, SCHEMAS, TOPIC, stamp
from vlad.servo import MODES, REACTIONS, JointLimits, ServoConfig

MAX_FILE_BYTES = 512 << 20
MAX_CHUNK_BYTES = 64 << 20  # of an MCAP chunk, decompressed; ours are 1 MiB
CLOCK = "CLOCK_MONOTONIC of the machine that wrote this, in ns; no wall clock"
BATCH = 64
LENGTH = struct.Struct("=I")

Message = tuple[str, int, dict[str, Any]]


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a record says of itself. servo: the fields of vlad.servo.ServoConfig."""

    version: str
    board: str
    joints: tuple[str, ...]
    servo: dict[str, Any]
    config: str = ""  # text of the configuration file
    state_every_ns: int = 0
    reason: str = ""
    written_ns: int = 0

    def servo_config(self) -> ServoConfig:
        """FlightError when it is none, or has keys that this version does not know."""
        known = set(ServoConfig.__dataclass_fields__)
        joint = set(JointLimits.__dataclass_fields__)
        limits = self.servo.get("joints")
        more = set(self.servo) - known
        for item in limits if isinstance(limits, list) else []:
            more |= set(item) - joint if isinstance(item, dict) else set()
        if more:
            raise FlightError(f"the recorded configuration has {sorted(more)}, which this version does not know")
        try:
            return msgspec.convert(self.servo, ServoConfig)
        except msgspec.ValidationError as error:
            raise FlightError(f"the recorded configuration: {error}") from error


def about_servo(config: ServoConfig) -> dict[str, Any]:
    """A configuration as About keeps it."""
    built = msgspec.to_builtins(config)
    assert isinstance(built, dict)
    return built


@dataclass(slots=True)
class Flight:
    """What was wanted of a file. Rows as vlad.flight_fields.unpack() makes them, in file order; notes:
    messages of the other topics that were asked for, with their times."""

    about: About
    rows: dict[int, list[dict[str, Any]]] = field(
        default_factory=lambda: {TICK: [], STATE: [], CHUNK: [], TIMING: []}
    )
    notes: dict[str, list[tuple[int, dict[str, Any]]]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # messages by topic
    first_ns: int = 0
    last_ns: int = 0


# --- writing --------------------------------------------------------------------------------------


def write(path: Path, about: About, records: Iterable[Record]) -> int:
    """Writes a whole file or none; its size. OSError; MemoryError never comes from a full disk."""
    from mcap.writer import CompressionType, Writer

    part = path.with_name(f"{path.name}.part")  # what FlightDirectory clears away after a crash
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as out:
            writer = Writer(out, compression=CompressionType.ZSTD, enable_data_crcs=True)
            writer.start(profile="", library=f"vlad {vlad.__version__}")
            writer.add_metadata("vlad", {
                "format": "1", "clock": CLOCK, "reason": about.reason, "version": about.version,
                "board": about.board, "written_ns": str(about.written_ns),
                "about": msgspec.json.encode(about).decode(),
            })  # fmt: skip
            if about.config:
                writer.add_attachment(0, about.written_ns, "config.toml", "application/toml",
                                      about.config.encode())  # fmt: skip
            _write_messages(writer, sorted(messages(records, about.joints), key=lambda m: m[1]))
            writer.finish()  # type: ignore[no-untyped-call]
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        os.rename(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
    return size


def _write_messages(writer: Any, every: Sequence[Message]) -> None:
    schemas: dict[str, int] = {}
    channels: dict[str, int] = {}
    sequence: dict[str, int] = {}
    for i, (topic, t_ns, message) in enumerate(every):
        if topic not in channels:
            name = SCHEMA_OF.get(topic, "foxglove.CompressedImage")
            if name not in schemas:
                schemas[name] = writer.register_schema(name, "jsonschema", msgspec.json.encode(SCHEMAS[name]))
            channels[topic] = writer.register_channel(topic, "json", schemas[name])
        sequence[topic] = sequence.get(topic, 0) + 1
        writer.add_message(channels[topic], t_ns, msgspec.json.encode(message), t_ns, sequence[topic])
        if i % BATCH == 0:
            time.sleep(0)  # the interpreter is needed elsewhere


def messages(records: Iterable[Record], joints: Sequence[str]) -> Iterator[Message]:
    """Every record as messages of its channels."""
    by_kind: dict[int, list[Record]] = {}
    for record in records:
        by_kind.setdefault(record.kind, []).append(record)
    for kind, topic in TOPIC.items():
        found = by_kind.get(kind, [])
        for i in range(0, len(found), BATCH):
            part = found[i : i + BATCH]
            rows = unpack(kind, [r.body for r in part], len(joints))
            for record, row in zip(part, rows, strict=True):
                yield topic, record.t_ns, row
                if kind == TICK and joints:
                    yield from _joints(record.t_ns, row, joints)
    yield from _modes(by_kind.get(TICK, []), len(joints))
    for record in by_kind.get(NOTE, []):
        note = msgspec.json.decode(record.body.rstrip(b"\0"))
        yield note["topic"], record.t_ns, note["message"]
    for record in by_kind.get(PICTURE, []):
        yield _picture(record)


def _joints(t_ns: int, row: dict[str, Any], joints: Sequence[str]) -> Iterator[Message]:
    if not row["bus_up"]:
        return
    velocity = row["velocity_nu_s"]
    yield "/joints/present", t_ns, {"timestamp": stamp(t_ns), "joints": [
        {"name": n, "position": p / 1e9, "velocity": v / 1e9}
        for n, p, v in zip(joints, row["position_nu"], velocity, strict=True)]}  # fmt: skip
    yield "/joints/goal", t_ns, {"timestamp": stamp(t_ns), "joints": [
        {"name": n, "position": p / 1e9} for n, p in zip(joints, row["written_nu"], strict=True)]}  # fmt: skip


def _modes(ticks: Sequence[Record], n_joints: int) -> Iterator[Message]:
    before = None
    for i in range(0, len(ticks), BATCH):
        part = ticks[i : i + BATCH]
        for record, row in zip(part, unpack(TICK, [r.body for r in part], n_joints), strict=True):
            now = (row["mode"], row["reaction"], row["active"], row["latched"])
            if now != before:
                yield "/vlad/mode", record.t_ns, {
                    "mode": MODES[now[0]], "reaction": REACTIONS[now[1]],
                    "active": fault_names(now[2]), "latched": fault_names(now[3]),
                }  # fmt: skip
            before = now


def fault_names(mask: int) -> list[str]:
    """Of a mask of faults."""
    return [row.name for fault, row in BY_ID.items() if mask >> fault & 1]


def picture(camera: str, seq: int, jpeg: bytes) -> bytes:
    """The body of a PICTURE record."""
    packed = msgspec.msgpack.encode((camera, seq, jpeg))
    return LENGTH.pack(len(packed)) + packed


def _picture(record: Record) -> Message:
    decoder: msgspec.msgpack.Decoder[tuple[str, int, bytes]] = msgspec.msgpack.Decoder(tuple[str, int, bytes])
    camera, _, jpeg = decoder.decode(record.body[LENGTH.size :][: LENGTH.unpack_from(record.body)[0]])
    return f"{CAMERA}{camera}", record.t_ns, {
        "timestamp": stamp(record.t_ns), "frame_id": camera,
        "data": base64.b64encode(jpeg).decode(), "format": "jpeg",
    }  # fmt: skip


# --- reading --------------------------------------------------------------------------------------


def read(path: Path, *, only: Callable[[str], bool] = KIND.__contains__) -> Flight:
    """The topics of a record that `only` wants; nothing in the file is believed. FlightError."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise FlightError("no regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise FlightError(f"over {MAX_FILE_BYTES >> 20} MiB is no flight record")
        with path.open("rb") as file:
            return _read(file, only)
    except OSError as error:
        raise FlightError(f"{path}: {error.strerror}") from error
    except FlightError as error:
        raise FlightError(f"{path}: {error}") from error
    except Exception as error:  # the reader of a format raises what it likes on bytes that are not it
        raise FlightError(
            f"{path}: not a whole MCAP file ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _read(file: Any, only: Callable[[str], bool]) -> Flight:
    from mcap import records

    flight: Flight | None = None
    topics: dict[int, str] = {}
    found: list[tuple[int, dict[str, Any]]] = []
    notes: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    counts: dict[str, int] = {}
    first = last = None
    for record in _records(file):
        if isinstance(record, records.Metadata) and record.name == "vlad":
            if record.metadata.get("format") != "1":
                raise FlightError(f"format {record.metadata.get('format')!r}: this version reads 1")
            flight = Flight(msgspec.json.decode(record.metadata["about"], type=About))
        elif isinstance(record, records.Channel):
            topics[record.id] = record.topic
        elif isinstance(record, records.Message):
            topic = topics[record.channel_id]
            counts[topic] = counts.get(topic, 0) + 1
            first = min(first, record.log_time) if first is not None else record.log_time
            last = max(last, record.log_time) if last is not None else record.log_time
            if only(topic) and topic in KIND:
                found.append((KIND[topic], _row(topic, record.data)))
            elif only(topic):
                notes.setdefault(topic, []).append((record.log_time, _row(topic, record.data)))
    if flight is None:
        raise FlightError("no metadata `vlad`: not a flight record")
    for kind, row in found:
        flight.rows[kind].append(row)
    flight.notes, flight.counts, flight.first_ns, flight.last_ns = notes, counts, first or 0, last or 0
    return flight


def _row(topic: str, data: bytes) -> dict[str, Any]:
    row = msgspec.json.decode(data)
    if not isinstance(row, dict):
        raise FlightError(f"{topic}: a message is no object")
    return row


def _records(file: Any) -> Iterator[Any]:
    """All records, those of chunks too, with every checksum verified and every size bounded."""
    import zstandard
    from mcap.records import Chunk
    from mcap.stream_reader import StreamReader, breakup_chunk

    for record in StreamReader(file, emit_chunks=True, validate_crcs=True,
                               record_size_limit=MAX_CHUNK_BYTES).records:  # fmt: skip
        if not isinstance(record, Chunk):
            yield record
            continue
        if record.compression == "zstd":
            size = zstandard.frame_content_size(record.data)
        elif record.compression == "":
            size = len(record.data)
        else:
            raise FlightError(f"compression {record.compression[:20]!r}: a flight record has zstd")
        if not 0 <= size == record.uncompressed_size <= MAX_CHUNK_BYTES:
            raise FlightError(f"a chunk of {record.uncompressed_size} bytes says {size}")
        yield from breakup_chunk(record, validate_crc=True)
