"""A real daemon in this process, over a running `vlad sim`, with a policy that is scripted.

Only the network is replaced: bus, cameras, stages, scheduler, gate, queue and servo loop are those
of `vlad run`.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.simulator import Simulator
from vlad import config as configuration
from vlad.config import Config
from vlad.daemon import Daemon
from vlad.errors import Refused
from vlad.inference import STAGE_BOUND_MIN_NS, Loaded
from vlad.ladder import parse_rung
from vlad.load_check import check_load
from vlad.scheduler import SchedulerConfig
from vlad.servo import MS, now_ns

CONFIG = Path(__file__).resolve().parent.parent / "configs/so101-sim.toml"
PERIOD_NS = 33_333_333
CHUNK = 50


class ScriptedPolicy:
    """Slow waves of two joints, inwards from the pose it first saw: a function of absolute time.

    delay_s, vision_s: how long `sample` and `encode_image` take. spoil: applied to each chunk before it is returned.
    """

    def __init__(self) -> None:
        self.delay_s = 0.05
        self.vision_s = 0.0
        self.spoil: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda chunk: chunk
        self.fail: Exception | None = None
        self.calls = 0
        self._start: NDArray[np.float64] | None = None
        self._t0 = 0

    def warm_up(self) -> None: ...

    def encode_image(self, camera_index: int, image: NDArray[np.uint8]) -> float:
        assert image.ndim == 3 and image.dtype == np.uint8
        time.sleep(self.vision_s)
        return float(image.mean())

    def prefill(self, tokens_by_camera: Any, task: Any, state: NDArray[np.float64]) -> Any:
        if self._start is None:
            self._start, self._t0 = np.array(state), now_ns()
        return now_ns()

    def refresh_state(self, prefix: int, state: NDArray[np.float64]) -> Any:
        return now_ns()

    def sample(self, prefix: int, *, generator: np.random.Generator, steps: int | None = None,
               guidance: Any = None) -> NDArray[np.float64]:
        self.calls += 1
        time.sleep(self.delay_s)
        if self.fail is not None:
            raise self.fail
        assert self._start is not None
        t = (prefix - self._t0) / 1e9 + np.arange(CHUNK) * PERIOD_NS / 1e9
        chunk = np.tile(self._start, (CHUNK, 1))
        inwards = -np.sign(self._start)  # the arm may lie at a limit
        chunk[:, 0] += inwards[0] * 0.5 * (1 - np.cos(2 * math.pi * t / 5)) / 2
        chunk[:, 3] += inwards[3] * 0.3 * (1 - np.cos(2 * math.pi * t / 4)) / 2
        return self.spoil(chunk)

    def close(self) -> None: ...


def loaded(policy: ScriptedPolicy, daemon: Daemon, mode: str = "async",
           measured_ms: int = 60, rungs_ms: Mapping[str, int] | None = None) -> Loaded:
    """rungs_ms: a ladder, with what each rung is said to have cost at load."""
    ladder = {parse_rung(name): (ms * MS,) * 8 for name, ms in (rungs_ms or {}).items()}
    timing = SchedulerConfig(PERIOD_NS, CHUNK, mode=mode, lookahead_ns=daemon.servo.lookahead_ns,
                             ladder=tuple(ladder), cameras=len(daemon.config.cameras))
    measured = (measured_ms * MS,) * 8
    return Loaded(
        policy, "scripted", "scripted", tuple(c.name for c in daemon.config.cameras), ("sweep",),
        timing, check_load(timing, measured), measured, STAGE_BOUND_MIN_NS,
        500 * MS,  # this machine renders three cameras in software beside everything else
        max_change=2.0, rungs_ns=ladder,
    )


def config_without_devices(directory: Path, cameras: Iterable[str],
                           edit: Callable[[str], str] = lambda text: text) -> Config:
    """configs/so101-sim.toml with these cameras, none of which is there, and its paths in `directory`."""
    head, _, tail = CONFIG.read_text().partition("[[camera]]")
    blocks = "".join(
        f'[[camera]]\nname = "{name}"\nsource = "shm:none-{name}"\nwidth = 96\nheight = 96\n\n' for name in cameras
    )
    text = head.replace('"../vlad', f'"{CONFIG.parent.parent}/vlad') + blocks + tail[tail.index("[control]"):]
    path = directory / "vlad.toml"
    path.write_text(edit(text.replace("/tmp/vlad-sim", str(directory))))
    return configuration.load(path, machine=False)


def config_for(simulator: Simulator, directory: Path, *, cameras: bool = True,
               extra: str = "", edit: Callable[[str], str] = lambda text: text) -> Config:
    """configs/so101-sim.toml with this simulator's bus, its cameras at 96x96, an own socket."""
    text = CONFIG.read_text()
    text = text.replace("/tmp/vlad-sim/bus", simulator.bus)
    text = text.replace("/tmp/vlad-sim/vlad.sock", str(directory / "vlad.sock"))
    text = text.replace("/tmp/vlad-sim/flight", str(directory / "flight"))
    text = text.replace('"../vlad', f'"{CONFIG.parent.parent}/vlad')
    text = text.replace("shm:vlad-sim-", f"shm:{simulator.camera_prefix}-")
    text = text.replace("width = 320\nheight = 240", "width = 96\nheight = 96")
    text = text.replace("overrun_hold_ms = 250", "overrun_hold_ms = 1000")
    if not cameras:
        head, _, tail = text.partition("[[camera]]")
        text = head + tail[tail.index("[control]"):]
    path = directory / "vlad.toml"
    path.write_text(edit(text) + extra)
    return configuration.load(path)


@contextlib.contextmanager
def running(config: Config, policy: ScriptedPolicy | None = None,
            mode: str = "async",
            log_counters: Callable[[], Mapping[str, int]] = dict) -> Iterator[Daemon]:
    """A started daemon with a scripted policy, whose supervisor runs in a thread; shut down at the end."""
    daemon = Daemon(config, log_counters=log_counters)
    with supervised(daemon, lambda: daemon.install(loaded(policy or ScriptedPolicy(), daemon, mode))):
        yield daemon


@contextlib.contextmanager
def supervised(daemon: Daemon, prepare: Callable[[], object] = lambda: None) -> Iterator[Daemon]:
    """Starts a daemon and runs its supervisor in a thread; shuts it down at the end."""
    ran: list[int] = []
    try:
        daemon.start()
        prepare()
        thread = threading.Thread(target=lambda: ran.append(daemon.run()), daemon=True)
        thread.start()
    except BaseException:
        daemon.shut_down()
        raise
    try:
        yield daemon
    finally:
        daemon.stop()
        thread.join(20)
        assert ran, "the daemon did not shut down within 20 s"


def wait_for(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Polls; fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s: {what or condition}")


def engage(daemon: Daemon, moving: bool = True) -> None:
    """Waits until engaging is allowed, engages, and waits for motion."""
    def granted() -> bool:
        try:  # a camera of a busy machine may miss its turn between status and request
            return not daemon.status()["why_not_engageable"] and bool(daemon.engage())
        except Refused:
            return False

    wait_for(granted, 20, str(daemon.status()["why_not_engageable"]))
    if not moving:
        return
    try:
        wait_for(lambda: daemon.status()["chunks"]["accepted"] >= 2
                 and not daemon.status()["arm"]["at_rest"], 15)
    except AssertionError:
        raise AssertionError(f"no motion: {daemon.events.since(0)[-8:]}") from None
