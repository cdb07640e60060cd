"""What the joints say about an episode: where it began, where the object was grasped, how often the gripper closed."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from vlad.dataset.reader import Recording

Array = NDArray[np.float64]

SWING = 0.2  # of the gripper's range: less is no opening or closing
ELSEWHERE = 15.0  # units of the recording: further from where most episodes begin


@dataclasses.dataclass(frozen=True, slots=True)
class Motion:
    """Of one episode, in the units of the recording. start: joints in the first frame. closings: how often the gripper
    closed on the way. grasp: joints when it closed on what it then carried; None where it never closed.
    """

    episode: int
    start: Array
    closings: int
    grasp: Array | None


def motions(recording: Recording) -> list[Motion]:
    """Of each episode."""
    gripper = gripper_joint(recording)
    states = recording.columns["observation.state"]
    swing = 0.0 if gripper is None else SWING * float(np.ptp(np.percentile(states[:, gripper], (1, 99))))
    found = []
    for episode in recording.episodes:
        state = recording.of("observation.state", episode).astype(np.float64)
        legs = [] if gripper is None or swing <= 0 else closings(state[:, gripper], swing)
        at = _carrying(state, legs, gripper)
        found.append(Motion(episode.index, state[0], len(legs), None if at is None else state[at]))
    return found


def gripper_joint(recording: Recording) -> int | None:
    """Index of the joint called gripper."""
    for index, name in enumerate(recording.dataset.joints):
        if "gripper" in name or "jaw" in name:
            return index
    return None


def placing_joints(recording: Recording) -> list[int]:
    """Those that say where the hand is: neither the gripper nor a roll."""
    gripper = gripper_joint(recording)
    return [i for i, name in enumerate(recording.dataset.joints) if i != gripper and "roll" not in name]


def closings(gripper: Array, swing: float) -> list[tuple[int, int | None]]:
    """(frame at which it was closed, frame at which it began to open again) of each fall by `swing` at least.

    Extremes that are less than `swing` apart do not count, so an object of any width is held, and noise is not.
    """
    turns: list[int] = []  # alternately highest and lowest
    rising: bool | None = None
    low = high = 0
    for i, value in enumerate(gripper):
        if value > gripper[high]:
            high = i
        if value < gripper[low]:
            low = i
        if rising is not False and gripper[high] - value >= swing:
            turns.append(high)
            rising, low = False, i
        elif rising is not True and value - gripper[low] >= swing:
            turns.append(low)
            rising, high = True, i
    turns.append(low if rising is False else high)
    found: list[tuple[int, int | None]] = []
    for n in range(len(turns) - 1):
        top, bottom = turns[n], turns[n + 1]
        if gripper[bottom] >= gripper[top]:
            continue
        shut = gripper[top] - 0.9 * (gripper[top] - gripper[bottom])
        closed = top + int(np.argmax(gripper[top : bottom + 1] <= shut))
        rest = gripper[bottom : turns[n + 2]] if n + 2 < len(turns) else None
        found.append((closed, None if rest is None else bottom + int(np.flatnonzero(rest <= shut)[-1])))
    return found


def _carrying(state: Array, legs: list[tuple[int, int | None]], gripper: int | None) -> int | None:
    """The closing after which most joint motion came before the gripper opened again; else the last one."""
    held = [(a, b) for a, b in legs if b is not None]
    if not held:
        return legs[-1][0] if legs else None
    body = np.delete(state, [] if gripper is None else [gripper], axis=1)
    path = [float(np.abs(np.diff(body[a : b + 1], axis=0)).sum()) for a, b in held]
    return held[int(np.argmax(path))][0]


def elsewhere(found: list[Motion]) -> list[bool]:
    """Which episodes begin away from where most begin; the gripper counts as a joint."""
    starts = np.stack([m.start for m in found])
    return [bool(far) for far in np.abs(starts - np.median(starts, axis=0)).max(axis=1) > ELSEWHERE]
