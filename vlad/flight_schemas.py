"""The channels of a flight record: topic, schema, and the JSON schemas themselves.

foxglove.* are the well-known schemas of Foxglove (docs.foxglove.dev/docs/sdk/schemas), so that its
Image, Log and Plot panels show them without any set-up; vlad.* are ours. Source of the names and
types of foxglove.*: github.com/foxglove/foxglove-sdk, schemas/jsonschema.
"""

from __future__ import annotations

from typing import Any

from vlad._native.flight import CHUNK, STATE, TICK, TIMING
from vlad.flight_fields import FIELD

Schema = dict[str, Any]

_TIME: Schema = {
    "type": "object", "title": "time",
    "properties": {"sec": {"type": "integer", "minimum": 0},
                   "nsec": {"type": "integer", "minimum": 0, "maximum": 999_999_999}},
    "required": ["sec", "nsec"],
}  # fmt: skip
_NUMBER: Schema = {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
_INTEGERS: Schema = {"type": "array", "items": {"type": "integer"}}
_ROWS: Schema = {"type": "array", "items": _INTEGERS}

TOPIC = {TICK: "/vlad/tick", STATE: "/vlad/state", CHUNK: "/vlad/chunk", TIMING: "/vlad/timing"}
KIND = {topic: kind for kind, topic in TOPIC.items()}


def _object(title: str, description: str, properties: Schema, *, closed: bool = True) -> Schema:
    out: Schema = {"title": title, "description": description, "type": "object",
                   "properties": properties, "required": list(properties)}  # fmt: skip
    return out | ({"additionalProperties": False} if closed else {})


def _core(kind: int, title: str, description: str, more: Schema | None = None) -> Schema:
    properties: Schema = {}
    for field in FIELD[kind].values():
        one = _NUMBER if field.type == "d" else {"type": "integer"}
        properties[field.name] = one if field.count == 1 else {"type": "array", "items": one}
    return _object(title, description, properties | (more or {}))


SCHEMAS: dict[str, Schema] = {
    "vlad.Tick": _core(TICK, "vlad.Tick", "One tick of the servo loop: what it took in, what it decided"),
    "vlad.State": _core(STATE, "vlad.State", "The servo loop's own memory, for a replay to begin with",
                        {"ring1": _ROWS, "ring2": _ROWS}),
    "vlad.Chunk": _core(CHUNK, "vlad.Chunk", "One action chunk at the gate, its verdict, and the queue after it", {
        "actions": {"type": "array", "items": {"type": "array", "items": _NUMBER}},
        "timeline_nu": _ROWS, "timeline_t_obs_ns": _INTEGERS, "timeline_opinions": _INTEGERS,
    }),
    "vlad.Timing": _core(TIMING, "vlad.Timing", "The timing of another policy; the queue was emptied"),
    "vlad.Mode": _object("vlad.Mode", "Mode, reaction and faults, whenever one changed", {
        "mode": {"type": "string"}, "reaction": {"type": "string"},
        "active": {"type": "array", "items": {"type": "string"}},
        "latched": {"type": "array", "items": {"type": "string"}},
    }),
    "vlad.Event": _object("vlad.Event", "An event as `vladctl events` has it", {
        "t_ns": {"type": "integer"}, "event": {"type": "string"},
    }, closed=False),
    "vlad.Observation": _object("vlad.Observation", "The newest frame of every camera", {
        "frames": {"type": "object", "additionalProperties": {
            "type": "object", "properties": {"seq": {"type": "integer"}, "t_capture_ns": {"type": "integer"}},
        }},
    }),
    "vlad.Scheduler": _object("vlad.Scheduler", "What the scheduler decides from, and what it decided", {
        "mode": {"type": "string"},
    }, closed=False),
    "foxglove.CompressedImage": _object("foxglove.CompressedImage", "A thumbnail of a camera's frame", {
        "timestamp": _TIME, "frame_id": {"type": "string"},
        "data": {"type": "string", "contentEncoding": "base64"}, "format": {"type": "string"},
    }),
    "foxglove.Log": _object("foxglove.Log", "An event in one line", {
        "timestamp": _TIME,
        "level": {"type": "integer", "description": "1 debug, 2 info, 3 warning, 4 error", "minimum": 0,
                  "maximum": 5},
        "message": {"type": "string"}, "name": {"type": "string"}, "file": {"type": "string"},
        "line": {"type": "integer", "minimum": 0},
    }),
    "foxglove.JointStates": _object("foxglove.JointStates", "Rad and rad/s; the gripper in its range, 0..1", {
        "timestamp": _TIME,
        "joints": {"type": "array", "items": {
            "type": "object", "title": "foxglove.JointState", "required": ["name"],
            "properties": {"name": {"type": "string"}, "position": {"type": "number"},
                           "velocity": {"type": "number"}, "effort": {"type": "number"}},
        }},
    }),
}  # fmt: skip

SCHEMA_OF = {
    "/vlad/tick": "vlad.Tick", "/vlad/state": "vlad.State", "/vlad/chunk": "vlad.Chunk",
    "/vlad/timing": "vlad.Timing", "/vlad/mode": "vlad.Mode", "/vlad/event": "vlad.Event",
    "/vlad/observation": "vlad.Observation", "/vlad/scheduler": "vlad.Scheduler", "/log": "foxglove.Log",
    "/joints/present": "foxglove.JointStates", "/joints/goal": "foxglove.JointStates",
}  # fmt: skip
CAMERA = "/camera/"  # + the camera's name: foxglove.CompressedImage


def stamp(t_ns: int) -> dict[str, int]:
    """Foxglove's time; here of CLOCK_MONOTONIC."""
    return {"sec": t_ns // 1_000_000_000, "nsec": t_ns % 1_000_000_000}
