"""The running simulator: one thread for physics, servos, bus and faults; a process for pictures.

Everything that answers the host is in one loop that never waits for more than one physics step, so
a reply is at most a few steps of physics (some 50 us each) late, whatever the renderer does.
"""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from vlad.arm import read_calibration
from vlad.errors import DeviceError
from vlad.sim import software_gl
from vlad.sim.bus import Bus
from vlad.sim.control_port import ControlPort
from vlad.sim.feetech_slave import FeetechSlave
from vlad.sim.frame_ring import SHM_DIRECTORY, StatePage, remove_ring
from vlad.sim.injection import Injection
from vlad.sim.line_faults import LineFaults
from vlad.sim.pty_port import Link, PtyPort, claim_name
from vlad.sim.recording import Recording
from vlad.sim.settings import Settings
from vlad.sim.world import CAMERAS, World

# Hardware answers while the host's cores are busy; so does the simulator where it may.
BUS_PRIORITY = 10
MAX_CATCH_UP_NS = 100_000_000
STEPS_PER_TURN = 4
# select() wakes some 60 us late; below this a reply is waited for by looking at the clock.
_SPIN_NS = 60_000
_READY_TIMEOUT_NS = 60_000_000_000


class Robot:
    """A simulated robot from READY to close(). Not thread-safe.

    Raises:
        ConfigError: when the bus path, a camera name, the recording or the fault address is taken
            or cannot be made.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        calibration = read_calibration(Path(settings.calibration)) if settings.calibration else None
        self.world = World(settings.seed, calibration=calibration, supply_v=settings.supply_v)
        self._step_ns = round(self.world.timestep_s * 1e9)
        self._page = StatePage()
        self._line = LineFaults(settings.seed)
        self._slave = FeetechSlave(self.world.servos)
        self._closing: list[Any] = []
        self._renderer: subprocess.Popen[bytes] | None = None
        self._control: ControlPort | None = None
        self._recording: Recording | None = None
        self._owns_rings = False
        self._skipped_ns = 0
        self._steps = 0
        self._origin_ns = 0
        self._scheduling = "other"
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        settings = self._settings
        if settings.cameras:
            self._closing.append(claim_name(os.path.join(SHM_DIRECTORY, settings.camera_prefix)))
            self._owns_rings = True
        if settings.record is not None:
            self._recording = Recording(settings.record)
            self._closing.append(self._recording)
        self._port = PtyPort(settings.bus)
        self._closing.append(self._port)
        self._bus = Bus(self._port, self._slave, self._line, self._recording, time.monotonic_ns)
        injection = Injection(
            self.world,
            self._line,
            plug=self._plug,
            camera_mode=self._page.set_camera_mode,
            power_cut=self._slave.forget_pending,
            status=self.report,
        )
        if settings.faults is not None:
            self._control = ControlPort(settings.faults, injection.apply)
            self._closing.append(self._control)
        if settings.cameras:
            self._start_renderer()

    def _plug(self, on: bool) -> None:
        if on:
            self._port.replug()
        else:
            self._port.unplug()

    def _start_renderer(self) -> None:
        software_gl.require()
        settings = self._settings
        arguments = ["--state", str(self._page.descriptor), "--prefix", settings.camera_prefix]
        arguments += ["--width", str(settings.width), "--height", str(settings.height)]
        arguments += ["--fps", str(settings.fps)]
        self._renderer = subprocess.Popen(
            [sys.executable, "-m", "vlad.sim.cameras", *arguments],
            pass_fds=(self._page.descriptor,),
        )

    def start_clock(self) -> None:
        """Let simulated time begin now; then call turn() again and again.

        The calling thread becomes SCHED_FIFO where that is allowed (see report()["scheduling"]).
        """
        self._scheduling = _raise_priority()
        self._origin_ns = time.monotonic_ns()
        self._steps = 0
        gc.collect()
        gc.freeze()

    def ready(self) -> bool:
        """True when every camera has shown a picture.

        Raises:
            DeviceError: when that takes longer than a minute.
        """
        if self._renderer is None or self._page.render_report()["pictures"] >= len(CAMERAS):
            return True
        if time.monotonic_ns() - self._origin_ns > _READY_TIMEOUT_NS:
            raise DeviceError("the renderer showed nothing within a minute")
        return False

    def turn(self) -> None:
        """One turn of the loop: physics that is due, replies that are due, then wait.

        Raises:
            DeviceError: when the renderer has ended.
        """
        next_step_ns = self._step_physics()
        self._bus.send_due()
        if self._recording is not None:
            self._recording.flush()
        due_ns = self._bus.due_ns()
        self._wait(next_step_ns if due_ns is None else min(due_ns - _SPIN_NS, next_step_ns))

    def _step_physics(self) -> int:
        """Catch up with the clock, a few steps per turn; returns when the next step is due."""
        now_ns = time.monotonic_ns()
        behind_ns = now_ns - self._origin_ns - self._steps * self._step_ns
        if behind_ns > MAX_CATCH_UP_NS:
            lost_ns = behind_ns - MAX_CATCH_UP_NS
            self._skipped_ns += lost_ns
            self._origin_ns += lost_ns
            behind_ns = MAX_CATCH_UP_NS
        steps = min(behind_ns // self._step_ns, STEPS_PER_TURN)
        for _ in range(steps):
            self.world.step_once()
        if steps > 0:
            self._steps += steps
            t_ns = self._origin_ns + self._steps * self._step_ns
            self._page.put(t_ns, np.asarray(self.world.data.qpos))
            if self._steps % 64 < steps:
                self._check_renderer()
        return self._origin_ns + (self._steps + 1) * self._step_ns

    def _check_renderer(self) -> None:
        if self._renderer is not None and self._renderer.poll() is not None:
            code = self._renderer.returncode
            self._renderer = None
            raise DeviceError(f"the renderer ended with status {code}; its message is above")

    def _wait(self, until_ns: int) -> None:
        left_ns = until_ns - time.monotonic_ns()
        sources: list[Any] = [] if self._control is None else list(self._control.sockets())
        # A closed pty is always readable; it is looked at once per physics step instead.
        if self._port.link is Link.OPEN:
            sources.append(self._port)
        elif self._port.link is Link.CLOSED:
            self._bus.receive()
        readable = select.select(sources, [], [], max(left_ns, 0) / 1e9)[0]
        for source in readable:
            if source is self._port:
                self._bus.receive()
            elif self._control is not None:
                self._control.serve(source)

    def report(self) -> dict[str, Any]:
        """Counters of all parts, for the fault port and the closing line."""
        return {
            "bus": self._bus.report(),
            "cameras": self._page.render_report(),
            "physics": {"steps": self._steps, "skipped_ms": round(self._skipped_ns / 1e6, 3)},
            "link": self._port.link.value,
            "scheduling": self._scheduling,
        }

    def close(self) -> None:
        """Stop the renderer, remove every name; safe after a failed start."""
        if self._renderer is not None:
            self._renderer.terminate()
            try:
                self._renderer.wait(5.0)
            except subprocess.TimeoutExpired:
                self._renderer.kill()
                self._renderer.wait()
            self._renderer = None
        if self._owns_rings:
            for camera in CAMERAS:  # A renderer that was killed has left them.
                remove_ring(f"{self._settings.camera_prefix}-{camera}")
        while self._closing:
            self._closing.pop().close()


def _raise_priority() -> str:
    """SCHED_FIFO for this thread and not for its children; "fifo" or "other"."""
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(BUS_PRIORITY))
    except OSError:
        return "other"
    return "fifo"
