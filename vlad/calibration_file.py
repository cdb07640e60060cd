"""Row 41: the calibration file while the daemon runs, against what it said at the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vlad.arm import Calibration, Joint, read_calibration
from vlad.errors import ConfigError
from vlad.faults import BY_NAME

WAY_OUT = "restore the file, or restart vlad to use it"


class CalibrationFile:
    """Polled from a thread that may wait for the disk. servos: how the servos differ from the
    calibration in use, "" when they do not; it warns of either.

    problem: how the file differs from the calibration in use, naming joint, key and both values, or
    why it cannot be read; "" while it says what it said. The arm moves on what was read at the
    start, so this refuses `engage` and does not stop an arm that is engaged.
    """

    fault = BY_NAME["calibration_changed"].id

    def __init__(
        self, path: str, joints: Sequence[Joint], servos: Callable[[], str] = str
    ) -> None:
        self._servos = servos
        self._path = Path(path)
        self._joints = tuple(joints)
        self.problem = ""

    def poll(self, now_ns: int) -> str:
        self._compare()
        return "warn" if self.problem or self._servos() else "none"

    def _compare(self) -> None:
        try:
            motors = read_calibration(self._path)
        except ConfigError as error:
            self.problem = f"the calibration file cannot be used any more: {error}; {WAY_OUT}"
            return
        differences = [
            difference
            for joint in self._joints
            for difference in _differences(joint, motors.pop(joint.name, None))
        ]
        differences += [f"{name} is new" for name in motors]
        self.problem = (
            f"{self._path} changed since vlad started: {'; '.join(differences)}; {WAY_OUT}"
            if differences else ""
        )


def _differences(joint: Joint, now: Calibration | None) -> list[str]:
    if now is None:
        return [f"{joint.name} is missing"]
    then = joint.calibration
    return [
        f"{joint.name}: {key} is {getattr(now, key)} in the file, {getattr(then, key)} in use"
        for key in Calibration.__struct_fields__
        if getattr(now, key) != getattr(then, key)
    ]
