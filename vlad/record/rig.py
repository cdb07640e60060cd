"""The two seams of `vlad record`: what is recorded (a rig), and who says where the arm goes (a teleoperator).

A recording is one loop (vlad/record/session.py), the same for both kinds of rig:

    rig.start(); teleoperator.start()
    for each episode:  rig.begin(n)
        for each frame:  moment = rig.observe(); goal = teleoperator.goals_rad(moment.t_ns)
                         action = rig.act(goal);  the data set gets moment.state, action, moment.pictures
        until rig.outcome() says how it ended, or the operator does, or the time is over

A **live** rig is an arm on a bus, in real time (vlad/record/bus_rig.py): `observe` waits for the next frame's time,
`act` goes through vlad's servo loop, the loop above also runs between episodes, so that the arm can be led back, and
the operator says whether an episode was a success. An **environment** is a simulation that steps as fast as it can:
`begin` resets it, `observe` returns what it shows now, `act` steps it by 1/fps, `outcome` judges. Its times are
simulated nanoseconds; no operator, no waiting, nothing happens between episodes.

Positions are core units: rad about the middle of the calibrated range, 0..1 for a gripper (vlad/units.py converts to
LeRobot's when the frame is written).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlad.arm import Joint

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moment:
    """What there is to see at one time. state: `[joints]`. pictures: uint8 RGB `[height, width, 3]` of every camera,
    never written again. capture_ns: of the state and of each picture, in the order of Rig.cameras.
    """

    t_ns: int
    state: Floats
    pictures: Mapping[str, NDArray[np.uint8]]
    capture_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode ended. recovery: it shows how to come out of an error. cluster: of the start positions. extra:
    more columns of meta/episodes."""

    success: bool
    recovery: bool = False
    cluster: int | None = None
    extra: Mapping[str, bool | int | float | str] = field(default_factory=dict)


class Rig(Protocol):
    """What is recorded. Everything may raise DeviceError: the arm has stopped, and the episode under way is dropped."""

    @property
    def robot_type(self) -> str:
        """For meta/info.json."""

    @property
    def live(self) -> bool: ...

    @property
    def fps(self) -> int: ...

    @property
    def joints(self) -> Sequence[Joint]: ...

    @property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """Height and width by name: those that the policy will see, and no others."""

    def start(self) -> None: ...

    def begin(self, episode: int) -> None:
        """Before the first frame of an episode. episode: its index in the data set, which seeds an environment."""

    def observe(self) -> Moment: ...

    def act(self, goal: Floats | None) -> Floats:
        """Makes for `goal`, within the limits of the arm; None: nobody says where to, and the arm stays where the
        last one was. Returns the action in force, which is what is recorded."""

    @property
    def pose(self) -> Floats:
        """The action in force; of an environment that has just begun, where its arm is."""

    @property
    def ready(self) -> bool:
        """Whether the arm is where the teleoperator is: an episode may begin."""

    def outcome(self) -> Outcome | None:
        """Of an environment: not None once the episode is over. Of a live rig: None."""

    def hold(self) -> None:
        """The arm stops where it is, and nothing moves it until `resume`."""

    def resume(self) -> None:
        """Of a live rig: the operator has seen why it stopped, and goes on. Raises DeviceError when it cannot."""

    def report(self) -> Mapping[str, object]:
        """Counters, for the summary."""

    def close(self) -> None: ...


class Teleoperator(Protocol):
    """Says where the arm is to go."""

    @property
    def name(self) -> str: ...

    def start(self) -> None: ...

    def begin(self, pose: Floats) -> None:
        """The arm is at `pose` and about to follow."""

    def goals_rad(self, now_ns: int) -> Floats | None:
        """Where the arm is to be now, `[joints]`; None when that is not known: the operator's device is silent."""

    @property
    def problem(self) -> str:
        """Why it is silent, in words; "" while it is not."""

    def close(self) -> None: ...
