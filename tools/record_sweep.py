"""Record what the simulated arm sees and measures along the scripted sweep.

Run it where vlad[sim] is installed, from the project's root:

    python tools/record_sweep.py build/sweep

Each moment holds a goal of the motion law and what the arm makes of it: the servos' settled
positions, which sag below the goal under the arm's weight, and a picture of each camera. One short
episode of each task is recorded in motion too, for the data set that ships with the checkpoint.
Writes moments.npz, images.npy and episodes.npz; about 3 minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sweep_motion import CAMERAS, FPS, JOINTS, MIDDLE, TASKS, Array, random_goals

from vlad.sim.world import World

SEED = 7
SETTLE_S = 0.4
MOMENTS_PER_TABLE = 25
EPISODE_S = 5
CONTROL_HZ = 90


class Recorder:
    """A simulated table in LeRobot's units."""

    def __init__(self) -> None:
        self.world = World(0)
        ranges = [self.world.calibration[name] for name in JOINTS]
        self._low = np.array([motor.range_min for motor in ranges])
        self._high = np.array([motor.range_max for motor in ranges])
        self._ids = [motor.id for motor in ranges]

    def state(self) -> Array:
        """Measured positions (6,) in degrees, the gripper in 0..100: the conversion of
        lerobot/motors.
        """
        present = self.world.joint_ticks()
        ticks = np.array([present[i] for i in self._ids])
        state = (ticks - (self._low + self._high) / 2) * 360 / 4095
        state[5] = (ticks[5] - self._low[5]) / (self._high[5] - self._low[5]) * 100
        return np.asarray(state, dtype=np.float64)

    def send(self, goal: Array) -> None:
        """Write goals (6,) to the servos."""
        ticks = goal * 4095 / 360 + (self._low + self._high) / 2
        ticks[5] = self._low[5] + goal[5] / 100 * (self._high[5] - self._low[5])
        self.world.set_goal_ticks(dict(zip(self._ids, np.rint(ticks).astype(int).tolist(), strict=True)))

    def settle(self, goal: Array) -> None:
        """Put the arm at `goal` and let it sag."""
        angles = np.radians(goal)
        low, high = self.world.model.joint("gripper").range
        angles[5] = low + goal[5] / 100 * (high - low)
        self.world.place(angles)
        self.world.set_torque(True)
        self.send(goal)
        self.world.step(SETTLE_S)

    def pictures(self) -> np.ndarray:
        """One picture of each camera (cameras, 240, 320, 3), uint8."""
        return np.stack([self.world.render(camera) for camera in CAMERAS])


def record_moments(recorder: Recorder, count: int, out: Path) -> None:
    rng = np.random.default_rng(SEED)
    tasks = rng.integers(len(TASKS), size=count)
    drawn = np.stack([random_goals(task, count, rng) for task in TASKS])
    goals = drawn[tasks, np.arange(count)]
    images = np.lib.format.open_memmap(
        out / "images.npy", mode="w+", dtype=np.uint8, shape=(count, len(CAMERAS), 240, 320, 3)
    )
    states = np.empty_like(goals)
    started = time.monotonic()
    for i, goal in enumerate(goals):
        if i % MOMENTS_PER_TABLE == 0:
            recorder.world.reset(i)
        recorder.settle(goal)
        states[i] = recorder.state()
        images[i] = recorder.pictures()
        if (i + 1) % 250 == 0:
            print(f"moment {i + 1}/{count}  {time.monotonic() - started:.0f} s", flush=True)
    images.flush()
    np.savez(out / "moments.npz", goals=goals, states=states, tasks=tasks)


def record_episodes(recorder: Recorder, out: Path) -> None:
    """One episode of each task from the middle pose: arrays (tasks, frames, ...)."""
    states, actions, images = [], [], []
    for k, task in enumerate(TASKS):
        recorder.world.reset(k)
        recorder.settle(MIDDLE)
        goals = task.follow(MIDDLE, np.arange(EPISODE_S * CONTROL_HZ) / CONTROL_HZ)
        each = CONTROL_HZ // FPS
        for i, goal in enumerate(goals):
            if i % each == 0:
                states.append(recorder.state())
                actions.append(goal)
                images.append(recorder.pictures())
            recorder.send(goal)
            recorder.world.step(1 / CONTROL_HZ)
        print(f"episode {k + 1}/{len(TASKS)}: {task.instruction}", flush=True)
    shape = (len(TASKS), EPISODE_S * FPS)
    np.savez_compressed(
        out / "episodes.npz",
        states=np.reshape(states, (*shape, 6)),
        actions=np.reshape(actions, (*shape, 6)),
        images=np.reshape(images, (*shape, len(CAMERAS), 240, 320, 3)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory to write, for instance build/sweep")
    parser.add_argument("--moments", type=int, default=3000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    recorder = Recorder()
    record_episodes(recorder, args.out)
    record_moments(recorder, args.moments, args.out)
    recorder.world.close()


if __name__ == "__main__":
    main()
