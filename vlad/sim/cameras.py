"""The renderer: a process of its own that draws the robot's state into the cameras' rings.

Started by vlad.sim.robot, so that drawing never delays a reply on the bus. It is nice to it (+5),
runs at the camera rate on an absolute schedule, skips whole periods when late and counts them. A
scene that has not moved is not drawn again: its last picture is published with the new time.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

import numpy as np

from vlad.errors import VladError
from vlad.sim.frame_ring import FrameRing, StatePage
from vlad.sim.injection import CAMERA_DARK, CAMERA_LIVE, CAMERA_STALLED
from vlad.sim.world import CAMERAS, World

NICE = 5
# A tenth of a pixel: 0.5 mrad or 0.5 mm. Servos and contacts of a resting scene tremble by less.
STILL = 5e-4
_DARK_LEVEL = 3


class Renderer:
    """All cameras of one simulated robot.

    Args:
        page: the robot's state.
        prefix: the ring of camera `top` is /dev/shm/<prefix>-top.
        width: of every picture, pixels.
        height: of every picture, pixels.
    """

    def __init__(self, page: StatePage, prefix: str, width: int, height: int) -> None:
        self._page = page
        self._world = World(0)
        self._size = (width, height)
        self._shown = np.full(self._world.qpos().size, np.inf)
        self._pictures = [np.zeros((height, width, 3), np.uint8) for _ in CAMERAS]
        # The state that each kept picture shows; compared by identity with _shown.
        self._of_state: list[object] = [None for _ in CAMERAS]
        self._rings: list[FrameRing] = []
        try:
            for camera in CAMERAS:
                self._rings.append(FrameRing(f"{prefix}-{camera}", width, height))
        except VladError:
            self.close()
            raise

    def draw(self) -> None:
        """One frame of each camera from the newest state."""
        state = self._page.get(self._shown.size)
        if state is None:
            return
        t_ns, qpos = state
        if float(np.max(np.abs(qpos - self._shown))) > STILL:
            self._world.show(qpos)
            self._shown = qpos
        for index, ring in enumerate(self._rings):
            mode = self._page.camera_mode(index)
            if mode == CAMERA_STALLED:
                continue
            if mode == CAMERA_DARK:
                self._pictures[index] = np.full_like(self._pictures[index], _DARK_LEVEL)
                self._of_state[index] = None
            elif mode == CAMERA_LIVE and self._of_state[index] is not self._shown:
                self._render(index)
            else:
                self._page.add("repeated", 1)
            ring.publish(self._pictures[index], t_ns)

    def _render(self, index: int) -> None:
        began_ns = time.monotonic_ns()
        self._pictures[index] = self._world.render(CAMERAS[index], *self._size)
        self._of_state[index] = self._shown
        self._page.note_render(time.monotonic_ns() - began_ns)

    def close(self) -> None:
        """Remove the rings."""
        for ring in self._rings:
            ring.close()
        self._world.close()


def main(argv: list[str] | None = None) -> int:
    """The renderer process; ends with SIGTERM or when its parent has gone."""
    parser = argparse.ArgumentParser(prog="python -m vlad.sim.cameras")
    parser.add_argument("--state", type=int, required=True, metavar="FD")
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--fps", type=float, required=True)
    args = parser.parse_args(argv)
    parent = os.getppid()
    os.nice(NICE)
    ending = False

    def end(_signal: int, _frame: object) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    page = StatePage(args.state)
    try:
        renderer = Renderer(page, args.prefix, args.width, args.height)
    except VladError as error:
        print(f"vlad sim: {error}", file=sys.stderr)
        return 1
    period_ns = round(1e9 / args.fps)
    due_ns = time.monotonic_ns()
    try:
        while not ending and os.getppid() == parent:
            renderer.draw()
            due_ns += period_ns
            behind_ns = time.monotonic_ns() - due_ns
            if behind_ns > 0:
                missed = behind_ns // period_ns + 1
                page.add("skipped_periods", missed)
                due_ns += missed * period_ns
            time.sleep(max(due_ns - time.monotonic_ns(), 0) / 1e9)
    finally:
        renderer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
