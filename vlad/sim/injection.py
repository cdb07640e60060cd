"""The commands of the simulator's port: what goes wrong on the line, in a servo, at a camera; where things lie.

Commands are JSON objects {"cmd": NAME, ...}; apply() checks every field and names what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from vlad.errors import ConfigError
from vlad.sim.line_faults import LineFaults, Rule
from vlad.sim.servo import TICKS_PER_TURN
from vlad.sim.start import CLUSTERS, draw_start
from vlad.sim.task import TASKS
from vlad.sim.world import CAMERAS, JOINTS, World

CAMERA_LIVE, CAMERA_STALLED, CAMERA_FROZEN, CAMERA_DARK = range(4)
_CAMERA_MODES = {
    "camera_resume": CAMERA_LIVE,
    "camera_stall": CAMERA_STALLED,
    "camera_freeze": CAMERA_FROZEN,
    "camera_dark": CAMERA_DARK,
}
_T = TypeVar("_T")
_MAX_GARBAGE = 4096
_MAX_DELAY_MS = 10_000


class Injection:
    """Executes fault commands against the parts of a running simulator.

    Args:
        world: servos and physics.
        line: the bus's faults.
        plug: called with False to unplug the port and True to plug it in.
        camera_mode: called with (camera index, CAMERA_*).
        power_cut: called after the supply has gone.
        status: more fields for the `status` reply.
    """

    def __init__(
        self,
        world: World,
        line: LineFaults,
        *,
        plug: Callable[[bool], None],
        camera_mode: Callable[[int, int], None],
        power_cut: Callable[[], None],
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._world = world
        self._line = line
        self._plug = plug
        self._camera_mode = camera_mode
        self._power_cut = power_cut
        self._status = status

    def apply(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Execute one command.

        Returns:
            Fields of the reply beside "ok"; empty but for `status` and `world`.

        Raises:
            ConfigError: for an unknown command, a missing, unknown or unusable field.
        """
        fields = _Fields(command)
        name = fields.text("cmd")
        if name in _CAMERA_MODES:
            self._camera(fields, _CAMERA_MODES[name])
            return {}
        handler = _COMMANDS.get(name)
        if handler is None:
            known = ", ".join(sorted([*_COMMANDS, *_CAMERA_MODES]))
            raise ConfigError(f"cmd {name!r} is unknown; there are {known}")
        return handler(self, fields) or {}

    def _servo_id(self, fields: _Fields) -> int:
        ids = [servo.id for servo in self._world.servos]
        servo_id = fields.integer("id", 0, 253)
        if servo_id not in ids:
            raise ConfigError(f"id {servo_id}: there is no such servo; there are {ids}")
        return servo_id

    def _optional_id(self, fields: _Fields) -> int | None:
        return self._servo_id(fields) if fields.has("id") else None

    def _rule(self, fields: _Fields) -> Rule:
        servo_id = self._optional_id(fields)
        given = [name for name in ("count", "rate", "forever") if fields.has(name)]
        if len(given) > 1:
            raise ConfigError(f"give one of count, rate, forever; not {' and '.join(given)}")
        if fields.has("rate"):
            return fields.done(Rule(servo_id, None, fields.number("rate", 0.0, 1.0)))
        if fields.has("forever"):
            if not fields.flag("forever"):
                raise ConfigError("forever: only true makes sense; to end it, restore")
            return fields.done(Rule(servo_id, None, 1.0))
        count = fields.integer("count", 1, 1_000_000) if fields.has("count") else 1
        return fields.done(Rule(servo_id, count, 1.0))

    def _drop(self, fields: _Fields) -> None:
        self._line.drop(self._rule(fields))

    def _corrupt(self, fields: _Fields) -> None:
        self._line.corrupt(self._rule(fields))

    def _delay(self, fields: _Fields) -> None:
        self._line.delay_ns = int(fields.done(fields.number("ms", 0.0, _MAX_DELAY_MS)) * 1e6)

    def _silence(self, fields: _Fields) -> None:
        self._line.silence(fields.done(self._servo_id(fields)))

    def _restore(self, fields: _Fields) -> None:
        servo_id = fields.done(self._optional_id(fields))
        self._line.restore(servo_id)
        for servo in self._world.servos:
            if servo_id in (None, servo.id):
                servo.clear_faults()

    def _unplug(self, fields: _Fields) -> None:
        fields.done(None)
        self._plug(False)

    def _replug(self, fields: _Fields) -> None:
        fields.done(None)
        self._plug(True)

    def _garbage(self, fields: _Fields) -> None:
        self._line.garbage(fields.done(fields.integer("bytes", 1, _MAX_GARBAGE)))

    def _heat(self, fields: _Fields) -> None:
        servo = self._world.servo(self._servo_id(fields))
        servo.forced_celsius = fields.done(fields.number("celsius", 0.0, 255.0))

    def _voltage(self, fields: _Fields) -> None:
        servo_id = self._optional_id(fields)
        volts = fields.done(fields.number("volts", 0.0, 25.5))
        for servo in self._world.servos:
            if servo_id in (None, servo.id):
                servo.forced_volts = volts

    def _overload(self, fields: _Fields) -> None:
        self._world.servo(fields.done(self._servo_id(fields))).forced_overload = True

    def _cut_supply(self, fields: _Fields) -> None:
        fields.done(None)
        self._world.set_power(False)
        self._power_cut()

    def _restore_supply(self, fields: _Fields) -> None:
        fields.done(None)
        if not self._world.powered:
            self._world.set_power(True)

    def _obstacle(self, fields: _Fields) -> None:
        servo = self._world.servo(self._servo_id(fields))
        ticks = fields.done(fields.integer("ticks", 0, TICKS_PER_TURN - 1))
        self._world.set_obstacle(self._world.servos.index(servo), ticks)

    def _hand(self, fields: _Fields) -> None:
        self._world.take_by_hand(fields.done(fields.numbers("pose", len(JOINTS), -7.0, 7.0)))

    def _let_go(self, fields: _Fields) -> None:
        fields.done(None)
        self._world.take_by_hand(None)

    def _encoder_jump(self, fields: _Fields) -> None:
        servo = self._world.servo(self._servo_id(fields))
        limit = TICKS_PER_TURN - 1
        servo.encoder_jump_ticks += fields.done(fields.integer("ticks", -limit, limit))

    def _recalibrate(self, fields: _Fields) -> None:
        servo = self._world.servo(self._servo_id(fields))
        offset = fields.integer("homing_offset", -2047, 2047)
        limit = TICKS_PER_TURN - 1
        low, high = (fields.integer(name, 0, limit) for name in ("range_min", "range_max"))
        fields.done(None)
        servo.recalibrate(offset, low, high)

    def _clear_all(self, fields: _Fields) -> None:
        fields.done(None)
        self._line.restore(None)
        self._line.delay_ns = 0
        self._world.clear_obstacles()
        self._world.take_by_hand(None)
        for servo in self._world.servos:
            servo.clear_faults()
        for camera in range(len(CAMERAS)):
            self._camera_mode(camera, CAMERA_LIVE)
        if not self._world.powered:
            self._world.set_power(True)
        self._plug(True)

    def _camera(self, fields: _Fields, mode: int) -> None:
        camera = fields.done(fields.text("camera"))
        if camera not in CAMERAS:
            raise ConfigError(f"camera {camera!r} is unknown; there are {', '.join(CAMERAS)}")
        self._camera_mode(CAMERAS.index(camera), mode)

    def _reset(self, fields: _Fields) -> None:
        """Objects anew; the arm stays where it is, for only its servos may move it."""
        seed = fields.integer("seed", 0, 2**63 - 1)
        cluster = fields.integer("cluster", 1, len(CLUSTERS)) if fields.has("cluster") else None
        fields.done(None)
        self._world.put_objects(draw_start(np.random.default_rng(seed), cluster))

    def _whereabouts(self, fields: _Fields) -> dict[str, Any]:
        fields.done(None)
        data = self._world.data
        return {
            "cluster": self._world.start.cluster,
            "objects": {name: data.body(name).xpos.tolist() for name in ("tea_bag", *(t.target for t in TASKS))},
            "done": {task.target: task.done(self._world) for task in TASKS},
            "qpos": self._world.qpos().tolist(),
        }

    def _report(self, fields: _Fields) -> dict[str, Any]:
        fields.done(None)
        servos = self._world.servos
        return {
            "ticks": {str(servo.id): servo.present_ticks for servo in servos},
            "goals": {str(servo.id): servo.goal_ticks for servo in servos},
            "torque": {str(servo.id): servo.torque_enabled for servo in servos},
            "servo_status": {str(servo.id): servo.status for servo in servos},
            "powered": self._world.powered,
            **self._status(),
        }


class _Fields:
    """The fields of a command; done() refuses those that nobody asked for."""

    def __init__(self, command: Mapping[str, Any]) -> None:
        self._values = dict(command)
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self._values

    def _get(self, name: str) -> Any:
        self._asked.add(name)
        if name not in self._values:
            raise ConfigError(f"{name}: missing")
        return self._values[name]

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise ConfigError(f"{name}: must be a string, is {value!r}")
        return value

    def flag(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise ConfigError(f"{name}: must be true or false, is {value!r}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"{name}: must be an integer from {low} to {high}, is {value!r}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        value = self._get(name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise ConfigError(f"{name}: must be a number from {low} to {high}, is {value!r}")
        return float(value)

    def numbers(self, name: str, count: int, low: float, high: float) -> list[float]:
        values = self._get(name)
        if not isinstance(values, list) or len(values) != count:
            raise ConfigError(f"{name}: must be an array of {count} numbers, is {values!r}")
        return [_Fields({name: value}).number(name, low, high) for value in values]

    def done(self, value: _T) -> _T:
        unknown = sorted(set(self._values) - self._asked)
        if unknown:
            raise ConfigError(f"unknown field {', '.join(unknown)}")
        return value


_COMMANDS: dict[str, Callable[[Injection, _Fields], dict[str, Any] | None]] = {
    "drop": Injection._drop,
    "corrupt": Injection._corrupt,
    "delay": Injection._delay,
    "silence": Injection._silence,
    "restore": Injection._restore,
    "unplug": Injection._unplug,
    "replug": Injection._replug,
    "garbage": Injection._garbage,
    "heat": Injection._heat,
    "voltage": Injection._voltage,
    "overload": Injection._overload,
    "cut_supply": Injection._cut_supply,
    "restore_supply": Injection._restore_supply,
    "obstacle": Injection._obstacle,
    "hand": Injection._hand,
    "let_go": Injection._let_go,
    "encoder_jump": Injection._encoder_jump,
    "recalibrate": Injection._recalibrate,
    "clear_all": Injection._clear_all,
    "reset": Injection._reset,
    "world": Injection._whereabouts,
    "status": Injection._report,
}
