"""What happened, in order: the servo loop's events, chunks and the supervisor's own, in one ring."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from vlad.faults import BY_ID
from vlad.inference import ChunkRecord
from vlad.scheduler import Refusal
from vlad.servo import (
    CLEAR,
    ENGAGE,
    HOLD,
    LIMP,
    MODES,
    MS,
    PARK,
    REACTIONS,
    RESUME,
    STARVES,
    WHY_NOT,
)

KEPT = 4096
REQUESTS = {LIMP: "limp", HOLD: "hold", PARK: "park", CLEAR: "clear", RESUME: "resume",
            ENGAGE: "engage"}
QUIET = frozenset({"chunk"})


def describe(event: tuple[int, str, int, int, int], joints: tuple[str, ...]) -> dict[str, Any]:
    """A servo loop event (enum vlad_event_kind) in words."""
    t_ns, kind, a, b, value = event
    if kind == "mode":
        body: dict[str, Any] = {"from": MODES[a], "to": MODES[b]}
    elif kind == "fault":
        row = BY_ID[a]
        body = {"id": a, "name": row.name, "reaction": REACTIONS[value],
                "active": bool(b & 1), "latched": bool(b & 2), "text": row.title}
    elif kind == "refused":
        body = {"request": "+".join(n for bit, n in REQUESTS.items() if a & bit),
                "why_not": [n for bit, n in WHY_NOT.items() if b & bit]}
    elif kind == "gap":
        body = {"cause": STARVES[a], "duration_ms": value / MS}
    elif kind == "wire":
        body = {"joint": joints[a], "check": "limit" if b == 1 else "step", "goal": value / 1e9}
    elif kind == "torque":
        body = {"on": bool(b), "joints": [n for j, n in enumerate(joints) if a >> j & 1]}
    else:
        body = {}
    return {"t_ns": t_ns, "event": kind, **body}


def chunk_event(record: ChunkRecord, joints: tuple[str, ...]) -> dict[str, Any]:
    """A completed request: when it was made, when it arrived, what the gate said."""
    body: dict[str, Any] = {
        "t_ns": record.t_arrival_ns, "event": "chunk", "chunk": record.seq, "rung": record.rung,
        "cold": record.cold,
        "verdict": record.verdict, "t_request_ns": record.t_request_ns,
        "t_obs_ns": record.t_obs_ns,
        "t_inference_ms": (record.t_arrival_ns - record.t_request_ns) / MS,
        "predicted_ms": record.predicted_ns / MS, "t_execution_ms": record.t_execution_ns / MS,
        "encoded": record.encoded,
    }
    if record.reuse_age_ns:
        body["reuse_age_ms"] = record.reuse_age_ns / MS
    if record.verdict == "rejected":
        body["reason"] = record.reason
        if record.joint >= 0:
            body |= {"joint": joints[record.joint], "action": record.action,
                     "value": record.value, "bound": record.bound}
    return body


def refusal_event(t_ns: int, refusal: Refusal) -> dict[str, Any]:
    """A request that was due and not made: what is left to execute, and why no rung would do."""
    return {
        "t_ns": t_ns, "event": "refused_admission", "t_execution_ms": refusal.t_execution_ns / MS,
        "predicted_ms": {name: round(ns / MS, 1) for name, ns in refusal.predicted_ns.items()},
        "lacking": dict(refusal.lacking),
    }


class Events:
    """The newest 4096 events, numbered from 1; every one goes to `sink` and is logged as it is added.
    Any thread."""

    def __init__(self, sink: Callable[[Mapping[str, Any]], None] = lambda event: None) -> None:
        self._sink = sink
        self._ring: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._seq = 0
        self._log = structlog.get_logger("vlad.event")

    def add(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._seq += 1
            self._ring.append({"seq": self._seq, **event})
        self._sink(event)
        name = str(event["event"])
        fields = {k: v for k, v in event.items() if k != "event"}
        serious = name in ("wire", "fault") or event.get("verdict") == "rejected" or (
            event.get("change") in ("lost", "restart_failed"))
        level = "warning" if serious else "debug" if name in QUIET else "info"
        getattr(self._log, level)(name, **fields)

    def since(self, seq: int, limit: int = 500) -> list[dict[str, Any]]:
        """Events with a number above `seq`, oldest first, at most `limit`."""
        with self._lock:
            return [e for e in self._ring if e["seq"] > seq][:limit]
