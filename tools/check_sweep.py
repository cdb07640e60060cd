"""Drive the trained sweep policy in a closed loop and say how the motion is.

Run it where lerobot is, after tools/train_sweep.py:

    python tools/check_sweep.py build/sweep

The loop is kinematic: the arm stands where the goal of LAG_S ago put it, less the sag of the
recorded moment nearest to that goal, and sees that moment's pictures. A chunk is asked for every 20
actions, arrives 6 actions later and replaces 70 % of what is left of the old one, as in
asynchronous control. Exit status 1 when the motion stalls, leaves its cycle, or asks a body joint
for more than 1.5 rad/s. Writes rollout.npz beside the recording.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from sweep_motion import CAMERAS, CHUNK, FOLDED, FPS, LAG_S, MIDDLE, TASKS, Array, Task
from train_sweep import ASSETS, ROOT, Moments, read_moments

from vlad.train.exact_positions import use_exact_positions

EVERY = 20
DELAY = 6
NEW_WEIGHT = 0.7
LIMIT_RAD_S = 1.5
OFF_CYCLE_DEG = 4.0


class Driver:
    """The policy and the recorded moments that stand in for an arm."""

    def __init__(self, moments: Moments) -> None:
        checkpoint = str(ASSETS / "checkpoint")
        self.policy = SmolVLAPolicy.from_pretrained(checkpoint).eval()
        self.pre, self.post = make_pre_post_processors(self.policy.config, pretrained_path=checkpoint)
        self.moments = moments

    def chunk(self, goal: Array, task: Task) -> Array:
        """Actions (CHUNK, 6) for an arm that stands where `goal` (6,) put it."""
        near = int(np.abs(self.moments.goals - goal).max(axis=1).argmin())
        state = goal - self.moments.goals[near] + self.moments.states[near]
        batch: dict[str, Any] = {
            "observation.state": torch.from_numpy(state).float(),
            "task": task.instruction,
        }
        for k, camera in enumerate(CAMERAS):
            batch[f"observation.images.{camera}"] = self.moments.images[near, k].float() / 255
        actions = self.post(self.policy.predict_action_chunk(self.pre(batch)))
        return np.asarray(actions[0], dtype=np.float64)

    def roll(self, task: Task, start: Array, seconds: float) -> Array:
        """Goals (seconds * FPS, 6) of the closed loop from an arm at rest at `start`."""
        torch.manual_seed(0)
        lag = round(LAG_S * FPS)
        path = [start] * lag
        queue = dict(enumerate(self.chunk(start, task)))
        for now in range(round(seconds * FPS)):
            if now % EVERY == DELAY and now > EVERY:
                asked = now - DELAY
                new = self.chunk(path[asked], task)
                for i in range(DELAY, CHUNK):
                    old = queue.get(asked + i, new[i])
                    queue[asked + i] = (1 - NEW_WEIGHT) * old + NEW_WEIGHT * new[i]
            path.append(queue[now])
        return np.stack(path[lag:])


def judge(name: str, task: Task, goals: Array) -> bool:
    """Print figures of one rollout; whether it cycles, keeps to its cycle and stays under the speed
    limit.
    """
    settled = goals[len(goals) // 4 :]
    turns = np.ptp(np.unwrap(task.phase(settled))) / 2 / np.pi
    wanted = len(settled) / FPS / task.period_s
    speed = np.radians(np.abs(np.diff(goals[:, :5], axis=0)).max() * FPS)
    off = np.sqrt(np.square(settled - task.cycle(task.phase(settled))).mean(axis=0)).max()
    rough = np.sqrt(np.square(np.diff(goals, n=2, axis=0)).mean())
    print(
        f"{name}: {turns:.2f} turns of {wanted:.2f}, off the cycle {off:.2f} deg rms at most, ",
        end="",
    )
    print(f"top speed {speed:.2f} rad/s, second difference {rough:.3f} deg rms", flush=True)
    return bool(0.8 < turns / wanted < 1.25 and off < OFF_CYCLE_DEG and speed < LIMIT_RAD_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="directory that tools/record_sweep.py wrote")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    recording = args.recording.resolve()
    os.chdir(ROOT)
    use_exact_positions()
    driver = Driver(read_moments(recording))
    rolls, good = {}, True
    for task in TASKS:
        for pose, start in (("middle", MIDDLE), ("folded", FOLDED)):
            name = f"{task.instruction} from {pose}"
            rolls[name] = driver.roll(task, start, args.seconds)
            good &= judge(name, task, rolls[name])
    np.savez(recording / "rollout.npz", **rolls)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
