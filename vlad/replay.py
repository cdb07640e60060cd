"""`vlad replay FILE`: the gate, the queue, the watchdog and the servo loop on a flight record.

The code that drives the arm is given what it was given then, and must decide the same, tick by tick
and chunk by chunk. A replay begins with the first state of the loop in the record.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlad._native.flight import CHUNK, STATE, TICK, TIMING, Replay, Ring
from vlad._native.servo import MAX_JOINTS
from vlad.faults import BY_ID
from vlad.flight_fields import NAMES, FlightError, actions, decisions, opinions, pack, rows_nu, times_ns
from vlad.flight_file import Flight, fault_names, read
from vlad.servo import MODES, REACTIONS, REASONS, WHY_NOT, Servo

MAX_TIMELINE, MAX_WINDOW, MAX_SUM = 512, 304, 10**17
SPARE_BYTES = 1 << 17
AROUND = 3  # ticks of context before a difference
MASKS = frozenset(("active", "latched", "raised"))


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that was decided differently."""

    what: str  # "tick" or "chunk"
    number: int
    t_ns: int
    name: str  # of the field
    recorded: Any
    replayed: Any
    before: list[str] = field(default_factory=list)  # the ticks before it, in one line each


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was compared. skipped_ticks: before the state that the replay begins with."""

    ticks: int
    chunks: int
    skipped_ticks: int
    difference: Difference | None


def replay(flight: Flight) -> Outcome:
    """Runs a record. FlightError when it holds nothing that can be run."""
    return _Run(flight).run()


class _Run:
    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._config = flight.about.servo_config()
        self._n = len(self._config.joints)
        self._ticks = _sequence(flight.rows[TICK], "number")
        self._producer = sorted(
            [(CHUNK, row) for row in flight.rows[CHUNK]] + [(TIMING, row) for row in flight.rows[TIMING]],
            key=lambda item: (_integer(item[1], "timeline"), _integer(item[1], "number")),
        )
        self._chunks = 0

    def run(self) -> Outcome:
        state, timeline = self._begin()
        begin = _integer(state, "ticks")
        ticks = [t for t in self._ticks if _integer(t, "number") > begin]
        skipped = len(self._ticks) - len(ticks)
        if not ticks:
            raise FlightError("no tick follows the first state in it: nothing can be replayed")
        core = self._core(state, timeline)
        pending = self._pending(_integer(state, "timeline"))
        number = begin
        for at, tick in enumerate(ticks):
            while pending and _integer(pending[0][1], "timeline") <= _integer(tick, "timeline"):
                if difference := self._produce(core, *pending.pop(0)):
                    return self._outcome(at, skipped, difference)
            if _integer(tick, "number") != number + 1:
                raise FlightError(f"tick {number + 1} is missing: a replay cannot go on over a hole")
            number += 1
            decided = core.tick(pack(TICK, tick))
            if found := self._compare(TICK, tick, decided):
                lines = [_line(t) for t in ticks[max(at - AROUND, 0) : at + 1]]
                return self._outcome(at + 1, skipped, Difference(
                    "tick", number, _integer(tick, "now_ns"), *found, lines))  # fmt: skip
        for kind, row in pending:  # after the last tick
            if difference := self._produce(core, kind, row):
                return self._outcome(len(ticks), skipped, difference)
        return self._outcome(len(ticks), skipped, None)

    def _outcome(self, ticks: int, skipped: int, difference: Difference | None) -> Outcome:
        return Outcome(ticks, self._chunks, skipped, difference)

    def _pending(self, front: int) -> list[tuple[int, dict[str, Any]]]:
        """What the producer did after it had published the timeline numbered `front`."""
        return [(k, row) for k, row in self._producer
                if _integer(row, "before" if k == CHUNK else "timeline") >= front + (k == TIMING)]  # fmt: skip

    def _whole(self, front: int) -> bool:
        """Whether nothing that the next chunk is merged into is missing in the record."""
        pending = self._pending(front)
        if not pending or pending[0][0] == TIMING:
            return True
        return pending[0][1].get("before") == front or bool(pending[0][1].get("cold"))

    def _begin(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The first state whose timeline is known too: the chunk that made it, or None for empty."""
        made = {_integer(row, "timeline"): row for row in self._flight.rows[CHUNK]
                if row.get("n_timeline")}  # fmt: skip
        for state in _sequence(self._flight.rows[STATE], "ticks"):
            front = _integer(state, "timeline")
            known = front in made or state.get("mode") != MODES.index("engaged") or front == 0
            if known and self._whole(front):
                return state, made.get(front)
        raise FlightError("no state of the loop that a replay could begin with")

    def _core(self, state: dict[str, Any], chunk: dict[str, Any] | None) -> Replay:
        try:
            servo = Servo(self._config, 0)
        except (ValueError, OverflowError, TypeError, IndexError) as error:
            raise FlightError(f"the recorded configuration: {error}") from error
        try:
            core = Replay(
                servo, Ring(memoryview(bytearray(SPARE_BYTES))), pack(STATE, state),
                rows_nu("state.ring1", state.get("ring1"), MAX_WINDOW),
                rows_nu("state.ring2", state.get("ring2"), MAX_WINDOW, MAX_SUM),
            )  # fmt: skip
            self._front(core, state, chunk)
        except ValueError as error:
            raise FlightError(str(error)) from error
        return core

    def _front(self, core: Replay, state: dict[str, Any], chunk: dict[str, Any] | None) -> None:
        number = _integer(state, "timeline")
        if chunk is None:
            core.timeline(number=number, seq=0, epoch=0, t0_ns=0, period_ns=self._config.action_period_ns,
                          overdue_ns=0, actions_nu=np.zeros((0, MAX_JOINTS), np.int64),
                          t_obs_ns=np.zeros(0, np.int64), opinions=np.zeros(0, np.int64))  # fmt: skip
            return
        pack(CHUNK, chunk)  # its numbers are within their ranges
        rows = rows_nu("chunk.timeline_nu", chunk.get("timeline_nu"), MAX_TIMELINE)
        core.timeline(
            number=number, seq=_integer(chunk, "seq"), epoch=_integer(chunk, "chunk_epoch"),
            t0_ns=_integer(chunk, "t0_ns"), period_ns=_integer(chunk, "period_ns"),
            overdue_ns=_integer(chunk, "overdue_ns"), actions_nu=rows,
            t_obs_ns=times_ns("chunk.timeline_t_obs_ns", chunk.get("timeline_t_obs_ns"), len(rows)),
            opinions=opinions(chunk.get("timeline_opinions"), len(rows)),
        )  # fmt: skip

    def _produce(self, core: Replay, kind: int, row: dict[str, Any]) -> Difference | None:
        try:
            if kind == TIMING:
                core.timing(pack(TIMING, row))
                return None
            decided, merged = core.push(pack(CHUNK, row), actions(row))
        except ValueError as error:
            raise FlightError(f"{NAMES[kind]} {row.get('number', '')}: {error}") from error
        self._chunks += 1
        found = self._compare(CHUNK, row, decided)
        if found is None and (then := row.get("timeline_nu", [])) != (again := merged[:, : self._n].tolist()):
            k = next((k for k, pair in enumerate(zip(then, again, strict=False)) if pair[0] != pair[1]), -1)
            found = f"timeline_nu[{k}]", then[k : k + 1], again[k : k + 1]
        if found is None:
            return None
        return Difference("chunk", _integer(row, "number"), _integer(row, "now_ns"), *found)

    def _compare(self, kind: int, recorded: Mapping[str, Any], decided: bytes) -> tuple[str, Any, Any] | None:
        """(field, recorded, replayed) of the first decision that differs."""
        was, now = decisions(kind, pack(kind, recorded)), decisions(kind, decided)
        for name in was:
            if was[name] != now[name]:
                return name, meaning(name, was[name]), meaning(name, now[name])
        return None


def _sequence(rows: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: _integer(row, by))


def _integer(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FlightError(f"{name}: {str(value)[:40]!r} is no integer")
    return value


def meaning(name: str, value: Any) -> Any:
    """A field in words, where its number is not one."""
    if name == "mode":
        return MODES[value]
    if name == "reaction":
        return REACTIONS[value] if value < len(REACTIONS) else value
    if name == "reason":
        return REASONS[value] if 0 <= value < len(REASONS) else value
    if name == "verdict":
        return dict(enumerate(("accepted", "clamped", "rejected"))).get(value, value)
    if name == "own":
        return {BY_ID[fault].name: REACTIONS[level] for fault, level in enumerate(value) if level}
    if name in MASKS:
        return fault_names(value)
    if name == "why_not":
        return [text for bit, text in WHY_NOT.items() if value & bit]
    return value


def _line(tick: Mapping[str, Any]) -> str:
    words = [f"tick {tick.get('number')}", MODES[_integer(tick, "mode")],
             REACTIONS[min(_integer(tick, "reaction"), len(REACTIONS) - 1)]]  # fmt: skip
    words += fault_names(_integer(tick, "active") | _integer(tick, "latched"))
    return " ".join(words)


def main(argv: Sequence[str]) -> int:
    """0: everything was decided the same; 1: not, or the record cannot be run."""
    parser = argparse.ArgumentParser(prog="vlad replay", description=__doc__.partition("\n")[0])
    parser.add_argument("file", metavar="FILE", type=Path, help="a flight record (MCAP)")
    parser.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    options = parser.parse_args(argv)
    flight = read(options.file)
    outcome = replay(flight)
    if options.json:
        print(json.dumps({"file": str(options.file), "version": flight.about.version, **asdict(outcome)}))
    else:
        print("\n".join(_report(flight, outcome)))
    return 1 if outcome.difference else 0


def _report(flight: Flight, outcome: Outcome) -> Iterator[str]:
    seconds = outcome.ticks * flight.about.servo_config().period_ns / 1e9
    yield (f"{outcome.ticks} ticks ({seconds:.1f} s) and {outcome.chunks} chunks replayed, recorded by vlad "
           f"{flight.about.version}; {outcome.skipped_ticks} ticks before the first state")  # fmt: skip
    if outcome.difference is None:
        yield "every decision is the same"
        return
    d = outcome.difference
    yield f"first difference: {d.what} {d.number} at {d.t_ns / 1e9:.3f} s, {d.name}"
    yield f"  recorded: {d.recorded}"
    yield f"  replayed: {d.replayed}"
    yield from (f"  {line}" for line in d.before)
