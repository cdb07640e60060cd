"""What `vlad report` draws, from a flight record or from a directory that a run has left behind.

Nothing in a file is believed: what is not of its form is an error that names it, or counted.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad._native.flight import CHUNK, TICK
from vlad.errors import VladError
from vlad.flight_fields import FlightError
from vlad.flight_file import Flight, read
from vlad.flight_schemas import CAMERA
from vlad.servo import MODES, REACTIONS

MAX_FILE_BYTES = 256 << 20
MAX_PICTURE_BYTES = 64 << 10
MAX_EVENTS = 200_000
JPEG = b"\xff\xd8"
SCHEDULER, EVENT = "/vlad/scheduler", "/vlad/event"

Array = NDArray[np.float64]


class ReportError(VladError):
    """There is nothing to report of, or it is not what it says: what and where."""


class ChunkEvent(msgspec.Struct, frozen=True):
    """An event `chunk`; the rest of it is not used."""

    t_ns: int
    verdict: str
    cold: bool
    t_request_ns: int
    t_inference_ms: float
    t_execution_ms: float
    rung: str = "full"
    reason: str = ""
    event: str = "chunk"


class GapEvent(msgspec.Struct, frozen=True):
    t_ns: int
    cause: str
    duration_ms: float
    event: str = "gap"


@dataclass(slots=True)
class Run:
    """A stretch of time and what is known of it.

    t_ns [n]: of the samples, which are ticks of a flight record or looks at the status. columns [n]:
    mode, reaction (indexes), queue_depth, t_execution_ms, late_us, age_ms, starved (index; engaged and no
    action); [n, joints]: goal, present, temperature_c, voltage_v, load; NaN is unknown. limits: min, max
    and v_max of each joint, in units. pictures: time, camera, JPEG. missing: what there is none of, and why.
    """

    name: str
    kind: str
    joints: tuple[str, ...] = ()
    limits: tuple[tuple[float, float, float], ...] = ()
    period_ns: int = 0
    t_ns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    columns: dict[str, Array] = field(default_factory=dict)
    masks: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None  # active, latched faults
    events: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[ChunkEvent] = field(default_factory=list)
    gaps: list[GapEvent] = field(default_factory=list)
    chunk_size: int = 0
    threshold_actions: float = 0
    pictures: list[tuple[int, str, bytes]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    missing: list[str] = field(default_factory=list)

    @property
    def start_ns(self) -> int:
        return min((int(t) for t in (*self.t_ns[:1], *(e["t_ns"] for e in self.events))), default=0)

    @property
    def end_ns(self) -> int:
        return max((int(t) for t in (*self.t_ns[-1:], *(e["t_ns"] for e in self.events))), default=0)


# --- a flight record ------------------------------------------------------------------------------


def _wanted(topic: str) -> bool:
    return topic in ("/vlad/tick", "/vlad/chunk", SCHEDULER, EVENT) or topic.startswith(CAMERA)


def from_flight(path: Path) -> Run:
    """FlightError when it is none, or a field is not what it must be."""
    flight = read(path, only=_wanted)
    try:
        return _from_flight(path.name, flight)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise FlightError(f"{path}: a message is not of its form ({type(error).__name__}: {error})") from error


def _from_flight(name: str, flight: Flight) -> Run:
    about, ticks = flight.about, flight.rows[TICK]
    servo = about.servo_config()
    run = Run(name, "flight record", about.joints, tuple((j.min, j.max, j.v_max) for j in servo.joints),
              servo.period_ns, chunk_size=servo.chunk_size, config=about.config)  # fmt: skip
    if len(run.joints) != len(run.limits):
        raise ValueError(f"{len(run.joints)} names for {len(run.limits)} joints")
    run.facts = {"cause": about.reason, "vlad": about.version, "board": about.board}
    _take_events(run, [{**message, "t_ns": t_ns} for t_ns, message in flight.notes.get(EVENT, ())])
    for t_ns, message in flight.notes.get(SCHEDULER, ()):
        if isinstance(threshold := message.get("threshold_ms"), (int, float)):
            run.threshold_actions = float(threshold) * 1e6 / servo.action_period_ns
        if isinstance(task := message.get("task"), str):
            run.facts["task"] = task
        del t_ns
    _take_pictures(run, flight)
    if ticks:
        _take_ticks(run, ticks, flight.rows[CHUNK])
    else:
        run.missing.append("no ticks of the servo loop")
    return run


def _take_ticks(run: Run, ticks: Sequence[Mapping[str, Any]], chunks: Sequence[Mapping[str, Any]]) -> None:
    def column(key: str, scale: float = 1.0) -> Array:
        return np.array([t[key] for t in ticks], np.float64).reshape(len(ticks)) * scale

    def joints(key: str, scale: float) -> Array:
        return np.array([t[key] for t in ticks], np.float64).reshape(len(ticks), len(run.joints)) * scale

    run.t_ns = np.array([t["now_ns"] for t in ticks], np.int64)
    bits = np.array([t["answered"] for t in ticks], np.int64)[:, None] >> np.arange(len(run.joints)) & 1
    known = np.logical_or.accumulate(bits > 0, axis=0) & (column("bus_up") > 0)[:, None]
    run.columns = {
        "mode": _indexes(column("mode"), MODES), "reaction": _indexes(column("reaction"), REACTIONS),
        "queue_depth": column("queue_depth"), "t_execution_ms": column("t_execution_ns", 1e-6),
        "late_us": column("late_ns", 1e-3),
    }
    for name, key, scale in (
        ("goal", "written_nu", 1e-9), ("present", "position_nu", 1e-9), ("temperature_c", "temperature_c", 1.0),
        ("voltage_v", "voltage_mv", 1e-3), ("load", "load_permille", 1e-3),
    ):  # fmt: skip
        if all(key in t for t in ticks):
            run.columns[name] = np.where(known, joints(key, scale), np.nan)
        else:
            run.missing.append(f"{name}: the record has none")
    engaged = run.columns["mode"] == MODES.index("engaged")
    run.columns["starved"] = np.where(engaged & (run.columns["queue_depth"] == 0), column("starved_cause"), np.nan)
    run.columns["wrote"] = column("wrote")
    run.columns["age_ms"] = np.where(engaged, _ages_ms(ticks, chunks), np.nan)
    active, latched = (np.array([t[k] for t in ticks], np.int64) for k in ("active", "latched"))
    run.masks = (active, latched)


def _ages_ms(ticks: Sequence[Mapping[str, Any]], chunks: Sequence[Mapping[str, Any]]) -> Array:
    """Age of the observation behind the action of each tick, as csrc/servo_wire.c counts it; NaN without."""
    timelines = {int(c["timeline"]): c for c in chunks if c.get("timeline_t_obs_ns")}
    ages = np.full(len(ticks), np.nan)
    for i, tick in enumerate(ticks):
        timeline = timelines.get(tick["timeline"])
        if timeline is None or tick["queue_depth"] <= 0:
            continue
        t_obs = timeline["timeline_t_obs_ns"]
        k = (tick["now_ns"] - timeline["t0_ns"]) // max(1, timeline["period_ns"])
        ages[i] = (tick["now_ns"] - t_obs[min(max(k, 0), len(t_obs) - 1)]) / 1e6
    return ages


def _take_pictures(run: Run, flight: Flight) -> None:
    refused = 0
    for topic in flight.notes:
        if not topic.startswith(CAMERA):
            continue
        for t_ns, message in flight.notes[topic]:
            try:
                data = base64.b64decode(message["data"], validate=True)
            except (KeyError, TypeError, ValueError, binascii.Error):
                data = b""
            if data.startswith(JPEG) and len(data) <= MAX_PICTURE_BYTES:
                run.pictures.append((t_ns, topic.removeprefix(CAMERA), data))
            else:
                refused += 1
    if refused:
        run.missing.append(f"{refused} pictures are no JPEG, or over {MAX_PICTURE_BYTES >> 10} KiB")
    if not run.pictures:
        run.missing.append("no pictures in the record (`flight.thumbnail_hz` 0, or no camera)")


# --- a directory ----------------------------------------------------------------------------------


def from_directory(directory: Path) -> Run | None:
    """What `vlad demo` or a soak saw from outside: samples.jsonl, events.jsonl, report.json. None
    where there is neither of the first two. ReportError."""
    samples, events = (directory / name for name in ("samples.jsonl", "events.jsonl"))
    if not samples.exists() and not events.exists():
        return None
    run = Run(directory.name or str(directory), "run")
    if (path := directory / "report.json").exists():
        try:
            loaded = json.loads(_text(path))
        except ValueError as error:
            raise ReportError(f"{path}: {error}") from error
        run.report = loaded if isinstance(loaded, dict) else {}
    else:
        run.missing.append("no report.json")
    _take_events(run, _lines(events) if events.exists() else ())
    if samples.exists():
        try:
            _take_samples(run, list(_lines(samples)))
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            raise ReportError(f"{samples}: {type(error).__name__}: {error}") from error
    else:
        run.missing.append("no samples.jsonl: nothing of the queue and the joints")
        _modes_of_events(run)
    policy = run.report.get("policy")
    if isinstance(policy, dict) and isinstance(policy.get("chunk_size"), int):
        run.chunk_size = policy["chunk_size"]
        threshold, rate = policy.get("threshold_ms"), policy.get("rate_hz")
        if isinstance(threshold, (int, float)) and isinstance(rate, (int, float)):
            run.threshold_actions = threshold / 1e3 * rate
    run.missing.append("no lateness of single ticks, no age of single actions: those are in flight records")
    return run


def _take_samples(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        run.missing.append("samples.jsonl is empty")
        return
    run.joints = _joint_names(run.report)
    run.limits = _limits(run.report, run.joints)
    run.t_ns = np.array([r["t_ns"] for r in rows], np.int64)
    run.columns = {
        "mode": np.array([MODES.index(r["mode"]) for r in rows], np.float64),
        "queue_depth": np.array([r["queue_depth"] for r in rows], np.float64),
    }
    if all("reaction" in r for r in rows):
        run.columns["reaction"] = np.array([REACTIONS.index(r["reaction"]) for r in rows], np.float64)
    if all("t_execution_ms" in r for r in rows):
        run.columns["t_execution_ms"] = np.array([r["t_execution_ms"] for r in rows], np.float64)
    for key in ("goal", "present", "temperature_c", "voltage_v", "load"):
        if run.joints and all(key in r for r in rows):
            run.columns[key] = np.array([r[key] for r in rows], np.float64).reshape(len(rows), len(run.joints))
        else:
            run.missing.append(f"{key}: not in samples.jsonl")


def _joint_names(report: Mapping[str, Any]) -> tuple[str, ...]:
    joints = (report.get("arm") or {}).get("joints")
    return tuple(joints) if isinstance(joints, dict) else ()


def _limits(report: Mapping[str, Any], joints: Sequence[str]) -> tuple[tuple[float, float, float], ...]:
    known = (report.get("arm") or {}).get("joints") or {}
    try:
        return tuple((float(known[j]["min"]), float(known[j]["max"]), np.nan) for j in joints)
    except (KeyError, TypeError, ValueError):
        return ()


def _modes_of_events(run: Run) -> None:
    """From the changes of mode, where nothing else tells it."""
    found = [e for e in run.events if e["event"] == "mode" and e.get("to") in MODES]
    if not found:
        return
    first = MODES.index(found[0]["from"]) if found[0].get("from") in MODES else 0
    times = [run.start_ns, *(e["t_ns"] for e in found), run.end_ns]
    modes = [first, *(MODES.index(e["to"]) for e in found)]
    run.t_ns = np.array(times, np.int64)
    run.columns["mode"] = np.array([*modes, modes[-1]], np.float64)


# --- both -----------------------------------------------------------------------------------------


def _indexes(values: Array, names: Sequence[str]) -> Array:
    if np.any((values < 0) | (values >= len(names))):
        raise ValueError(f"an index is none of {len(names)}")
    return values


def _take_events(run: Run, events: Iterable[Mapping[str, Any]]) -> None:
    strange = left_out = 0
    for event in events:
        t_ns = event.get("t_ns")
        if not isinstance(t_ns, int) or isinstance(t_ns, bool) or not 0 <= t_ns < 2**62 or not isinstance(
            event.get("event"), str
        ):
            strange += 1
            continue
        if len(run.events) >= MAX_EVENTS:
            left_out += 1
            continue
        run.events.append(dict(event))
        try:
            if event["event"] == "chunk":
                run.chunks.append(msgspec.convert(event, ChunkEvent, strict=False))
            elif event["event"] == "gap":
                run.gaps.append(msgspec.convert(event, GapEvent, strict=False))
        except msgspec.ValidationError:
            strange += 1
    run.events.sort(key=lambda e: e["t_ns"])
    if strange:
        run.missing.append(f"{strange} events are not of their form, and not drawn")
    if left_out:
        run.missing.append(f"{left_out} events more than {MAX_EVENTS} are left out")
    if not run.events:
        run.missing.append("no events")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ReportError(f"{path}: over {MAX_FILE_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: not text: {error}") from error


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    """Every line as an object; a last one that was cut short is left out."""
    for number, line in enumerate(_text(path).splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            return
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ReportError(f"{path}:{number}: {error}") from error
        if not isinstance(row, dict):
            raise ReportError(f"{path}:{number}: no object")
        yield row
