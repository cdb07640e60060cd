"""The recording itself: episodes one after another, from a rig and a teleoperator into a data set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vlad.dataset.writer import DatasetWriter
from vlad.errors import DeviceError
from vlad.record.rig import Outcome, Rig, Teleoperator
from vlad.servo import MS
from vlad.units import JointRange, JointUnits

SILENT_NS = 250 * MS  # a teleoperator that says nothing for so long has gone: the arm holds
HELD_S = 0.03  # between two looks at the keys, while the arm holds

Label = Literal["success", "failure"]
Phase = Literal["starting", "approach", "record", "label", "saving", "reset", "held", "done"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be recorded, in LeRobot's words. label: of an episode that ends by itself or with the right arrow;
    None: the operator is asked."""

    single_task: str
    num_episodes: int
    episode_time_s: float
    reset_time_s: float
    label: Label | None = None


class Operator(Protocol):
    """Whoever is at the keys."""

    def poll(self) -> list[str]:
        """Which of right, left, esc, enter and backspace were pressed since the last call."""


class Nobody:
    """No keys: an environment, or a recording that runs by its flags alone."""

    def poll(self) -> list[str]:
        return []


class Session:
    """One recording. The attributes say how it goes; `watch` is called after each frame, with its pictures.

    When the arm stops or the teleoperator falls silent, the arm holds, and the episode under way is dropped, not saved
    under some label. Where there is an operator, he may go on with the right arrow; else that is the end.
    """

    def __init__(
        self,
        rig: Rig,
        teleoperator: Teleoperator,
        writer: DatasetWriter,
        plan: Plan,
        *,
        operator: Operator | None = None,
        watch: Callable[[Mapping[str, NDArray[np.uint8]]], None] = lambda pictures: None,
    ) -> None:
        self.rig, self.teleoperator, self.writer, self.plan = rig, teleoperator, writer, plan
        self.phase: Phase = "starting"
        self.since_ns = 0  # of the phase, on the clock of the rig's moments
        self.now_ns = 0
        self.saved = {"success": 0, "failure": 0}
        self.problem = ""  # why the arm holds
        self.dropped = 0  # episodes: recorded again, stopped, or ended by a fault
        self._operator = operator or Nobody()
        self._watch = watch
        self._silent_since_ns: int | None = None
        self._pictures: Mapping[str, NDArray[np.uint8]] = {}
        self._stop = False  # Esc, while an episode was being saved
        ranges = {j.name: JointRange(j.range_min, j.range_max, j.calibration.drive_mode) for j in rig.joints}
        self._units = JointUnits("degrees", list(ranges), [j.gripper for j in rig.joints], ranges)

    @property
    def done(self) -> int:
        """Episodes of this recording."""
        return sum(self.saved.values())

    @property
    def seconds(self) -> float:
        """Since the phase began."""
        return (self.now_ns - self.since_ns) / 1e9

    def run(self) -> None:
        """Until the plan is fulfilled or the operator says Esc. The arm is left holding. Raises VladError."""
        try:
            self.rig.start()
            self.teleoperator.start()
            if self.rig.live:
                self.teleoperator.begin(self.rig.pose)
            going = True
            while going and self.done < self.plan.num_episodes:
                try:
                    going = self._episode()
                except DeviceError as error:
                    self._held(error)
        finally:
            if self.writer.frames_under_way:
                self._drop()
            self.phase = "done"
            self.rig.hold()

    def _episode(self) -> bool:
        """One episode, saved or not; False to stop."""
        self.rig.begin(self.writer.episodes)
        if not self.rig.live:
            self.teleoperator.begin(self.rig.pose)
        self._enter("approach")
        while not self.rig.ready:
            if "esc" in self._tick():
                return False
        self._enter("record")
        outcome, end = self._record()
        if end == "esc":
            return False
        if end == "left":
            self._drop()
            return self._reset()
        if outcome is None:
            self._enter("label")
            while outcome is None:
                keys = self._tick()
                if "esc" in keys:
                    return False
                if "left" in keys:
                    self._drop()
                    return self._reset()
                outcome = _labelled(keys)
        self._save(outcome)
        return not self._stop and (self.done >= self.plan.num_episodes or self._reset())

    def _record(self) -> tuple[Outcome | None, str]:
        """Frames until the episode ends. Its outcome, None when only the operator knows it; the key that ended it."""
        default = None if self.plan.label is None else Outcome(self.plan.label == "success")
        while True:
            keys = self._tick(record=True)
            if (outcome := self.rig.outcome() or _labelled(keys)) is not None:
                return outcome, ""
            for key in ("esc", "left", "right"):
                if key in keys:
                    return default, key
            if self.seconds >= self.plan.episode_time_s:
                return default if self.rig.live else Outcome(False), ""

    def _tick(self, record: bool = False) -> list[str]:
        """One frame's time; the keys that were pressed."""
        moment = self.rig.observe()
        if self.now_ns == 0 or moment.t_ns < self.now_ns:
            self.since_ns = moment.t_ns  # the first one, or an environment that was reset
        self.now_ns = moment.t_ns
        keys = self._operator.poll()
        goal = self.teleoperator.goals_rad(moment.t_ns)
        self._judge_silence(goal is None)
        action = self.rig.act(goal)
        if record:
            state = self._units.from_core(moment.state)
            self.writer.add_frame(state, self._units.from_core(action), moment.pictures, moment.capture_ns)
        self._pictures = moment.pictures
        self._watch(moment.pictures)
        return keys

    def _judge_silence(self, silent: bool) -> None:
        if not silent:
            self._silent_since_ns = None
            return
        since_ns = self._silent_since_ns = self.now_ns if self._silent_since_ns is None else self._silent_since_ns
        if self.now_ns - since_ns >= SILENT_NS:
            raise DeviceError(self.teleoperator.problem or f"{self.teleoperator.name} says nothing any more")

    def _save(self, outcome: Outcome) -> None:
        self._enter("saving")
        saving = _Saving(lambda: self.writer.save_episode(
            self.plan.single_task, success=outcome.success, recovery=outcome.recovery, cluster=outcome.cluster,
            extra=outcome.extra,
        ))  # fmt: skip
        try:
            while self.rig.live and saving.is_alive():
                self._stop |= "esc" in self._tick()
        finally:  # whatever stopped the arm, or the operator, meanwhile
            saving.finish()
            self.saved["success" if outcome.success else "failure"] += 1

    def _reset(self) -> bool:
        """Time to put things back, with the arm if need be, up to the right arrow; False to stop."""
        if not self.rig.live:
            return True
        self._enter("reset")
        while self.seconds < self.plan.reset_time_s:
            keys = self._tick()
            if "esc" in keys:
                return False
            if "right" in keys:
                break
        return True

    def _held(self, error: DeviceError) -> None:
        """Until the operator says that the arm may follow again; raises the error where he does not."""
        if self.writer.frames_under_way:
            self._drop()
        self.rig.hold()
        if not self.rig.live or isinstance(self._operator, Nobody):
            raise error
        self._enter("held")
        self.problem = str(error)
        while self.problem:
            keys = self._operator.poll()
            self._watch(self._pictures)
            if "esc" in keys:
                raise error
            if "right" in keys:
                try:
                    self.rig.resume()
                    self.problem = ""
                except DeviceError as again:
                    self.problem = str(again)
            time.sleep(HELD_S)
        self._silent_since_ns = None
        self.teleoperator.begin(self.rig.pose)

    def _drop(self) -> None:
        self.writer.discard_episode()
        self.dropped += 1

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.since_ns = self.now_ns


class _Saving(threading.Thread):
    """An episode on its way to the disk, which takes longer than a frame."""

    def __init__(self, save: Callable[[], object]) -> None:
        super().__init__(name="vlad-saving", daemon=True)
        self._save = save
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._save()
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Waits for it. Raises what saving raised."""
        self.join()
        if self._error is not None:
            raise self._error


def _labelled(keys: list[str]) -> Outcome | None:
    """What the operator said of the episode: Enter or Backspace, the last one counts."""
    said = [key for key in keys if key in ("enter", "backspace")]
    return Outcome(said[-1] == "enter") if said else None
